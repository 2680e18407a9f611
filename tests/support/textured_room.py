"""Photos of a room with noise on its walls, by intersecting rays with them: matches exist, and cameras are exact.

Letters: n views, h w pixels.
"""

import functools
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.scene_format import CAMERAS, View, write_scene
from tests.support.scenes import look_at

LOW, HIGH = np.array([-2.0, -2.5, 0.0]), np.array([2.5, 2.0, 2.4])
_TEXELS, _OVERSAMPLING = 160, 2


def walk(n: int = 14) -> np.ndarray:
    """Return c2w (n, 4, 4) of a walk through the room, in uneven steps, that turns, rises and looks down by turns."""
    share = np.linspace(0, 1, n) ** 1.3
    place = np.stack([-1.2 + 1.9 * share, -1.5 + 0.7 * np.sin(2.4 * share), 1.0 + 0.5 * np.sin(4 * share)], axis=1)
    target = np.stack([0.2 + 0.5 * np.cos(5 * share), 1.4 + 0 * share, 1.1 + 0.4 * np.cos(7 * share)], axis=1)
    return np.stack([look_at(p, t) for p, t in zip(place, target, strict=True)])


def render(c2w: np.ndarray, camera: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Return a photo (h, w, 3) uint8 from a camera (4, 4) in the room with fx, fy, cx, cy in pixels."""
    h, w = size
    fx, fy, cx, cy = camera
    steps = (np.arange(w * _OVERSAMPLING) + 0.5) / _OVERSAMPLING, (np.arange(h * _OVERSAMPLING) + 0.5) / _OVERSAMPLING
    x, y = np.meshgrid(*steps)
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=-1) @ c2w[:3, :3].T
    with np.errstate(divide="ignore"):
        distance = np.where(rays > 0, HIGH - c2w[:3, 3], LOW - c2w[:3, 3]) / rays
    axis = distance.argmin(-1)
    point = c2w[:3, 3] + rays * distance.min(-1)[..., None]
    pixels = np.zeros((*x.shape, 3), np.float32)
    for face in range(6):
        normal, side = divmod(face, 2)
        seen = (axis == normal) & ((np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0) == side)
        across, along = [other for other in range(3) if other != normal]
        u, v = ((point[..., other] - LOW[other]) * _TEXELS for other in (across, along))
        colours = cv2.remap(_texture(face), u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
        pixels[seen] = colours[seen]
    return cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA).round().astype(np.uint8)


def write_room(folder: Path, c2w: np.ndarray | None = None, size: tuple[int, int] = (168, 224), focal: float = 190.0) -> Path:
    """Write a scene of photos of the room; return its JSON."""
    c2w = walk() if c2w is None else c2w
    (folder / "images").mkdir(parents=True)
    camera = (focal, focal * 1.01, size[1] / 2 + 1.5, size[0] / 2 - 2.5)
    views = []
    for i, pose in enumerate(c2w):
        file_path = folder / "images" / f"{i:05d}.png"
        Image.fromarray(render(pose, camera, size)).save(file_path)
        views.append(View(file_path, size[1], size[0], *camera, np.linalg.inv(pose)))
    write_scene(folder / CAMERAS, views)
    return folder / CAMERAS


@functools.cache
def _texture(face: int) -> np.ndarray:
    """Return noise of all sizes in a tone of its own, (texels, texels, 3) float32 in 30..225."""
    rng = np.random.default_rng(face)
    side = round(_TEXELS * float((HIGH - LOW).max())) + 1
    noise = np.zeros((side, side, 3), np.float32)
    for cells, strength in ((4, 1.2), (12, 0.7), (40, 0.5), (100, 0.4)):
        # Mostly grey, as photos are.
        coarse = (rng.normal(size=(cells, cells, 1)) + 0.3 * rng.normal(size=(cells, cells, 3))).astype(np.float32)
        noise += strength * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return (128 + 40 * noise + rng.uniform(-25, 25, 3).astype(np.float32)).clip(30, 225)
