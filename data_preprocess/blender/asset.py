"""Objects to render: their cameras, their files, which of them exist, and whether those are intact.

Letters: v views, h w pixels.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import InputError
from data.images import open_image
from data.synthetic.cameras import REFERENCE_HALF_FOV, RING_ELEVATIONS_DEG, intrinsics, look_at
from data_preprocess.blender.pool import BlenderPool
from data_preprocess.scene_folder import SceneFolder, rendered_views

RADIUS = (1.7, 3.0)
RING_VIEWS, RING_RADIUS = 16, 2.7


@dataclass(frozen=True)
class Render:
    """How to render objects."""

    num_views: int
    rings: bool
    image_size: tuple[int, int]
    seed: int
    samples: int
    denoise: bool
    output: Path


def cameras(render: Render, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose the cameras of an object, as a function of the seed and its name alone.

    Returns:
        c2w (v, 4, 4), OpenCV axes, and fxfycxcy (v, 4), float64: random views, then rings from the lowest up. All look at the
        origin; the field of view is 50 degrees along the image's shorter side.
    """
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng([render.seed, int.from_bytes(digest[:8], "little")])
    direction = rng.normal(size=(render.num_views, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    position = direction * rng.uniform(*RADIUS, size=(render.num_views, 1))
    if render.rings:
        elevation = np.repeat(np.radians(RING_ELEVATIONS_DEG), RING_VIEWS)
        azimuth = np.tile(np.arange(RING_VIEWS) * (2 * math.pi / RING_VIEWS), len(RING_ELEVATIONS_DEG))
        level = np.cos(elevation)
        ring = RING_RADIUS * np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=1)
        position = np.concatenate([position, ring])
    c2w = look_at(position, np.zeros_like(position))
    return c2w, intrinsics(REFERENCE_HALF_FOV, len(position), render.image_size)


class Asset:
    """An object to render: its cameras, its files, and which of them exist."""

    def __init__(self, render: Render, name: str) -> None:
        self.render, self.name = render, name
        folder = render.output / name
        self.c2w, self.fxfycxcy = cameras(render, name)
        self.scene = SceneFolder(folder, rendered_views(folder, self.c2w, self.fxfycxcy, render.image_size))
        self.files = [view.file_path for view in self.scene.views]

    def make(self, glb: Path, pool: BlenderPool, on_view: Callable[[int], None]) -> None:
        """Render missing views, check all views, and write the JSON.

        Args:
            glb: the object's file.
            pool: renders them.
            on_view: called with the number of views that exist, then with each number of new ones.

        Raises:
            OSError, InputError: it cannot be rendered; the message names the file.
        """
        left = self.scene.begin(self._made_from(glb))
        on_view(len(self.files) - len(left))
        views = [
            {"png": str(self.files[i].absolute()), "fxfycxcy": self.fxfycxcy[i].tolist(), "c2w": self.c2w[i].tolist(), "seed": i}
            for i in left
        ]
        options = {"samples": self.render.samples, "denoise": self.render.denoise}
        if views:
            pool.render(glb, {"size": self.render.image_size, "views": views, **options}, on_view)
        if not self._check():
            raise InputError(glb, "shows nothing in any view", "an object that is not transparent")
        self.scene.finish()

    def _check(self) -> bool:
        """Return whether any view shows anything; unusable pictures are deleted, so that the next run renders them again."""
        seen, problems = False, []
        for file in self.files:
            try:
                seen |= check_image(file, self.render.image_size)
            except InputError as error:
                file.unlink(missing_ok=True)
                problems.append(error)
        if problems:
            raise problems[0]
        return seen

    def _made_from(self, glb: Path) -> str:
        state = glb.stat()
        return repr((str(glb.absolute()), state.st_size, state.st_mtime_ns, self.render.samples, self.render.denoise,
                     hashlib.sha256(self.c2w.tobytes() + self.fxfycxcy.tobytes()).hexdigest()))  # fmt: skip


def check_image(file: Path, image_size: tuple[int, int]) -> bool:
    """Return whether a rendered picture shows anything.

    Raises:
        InputError: it is damaged, or not RGBA of this size (h, w).
    """
    h, w = image_size
    with open_image(file) as image:
        found = image.format, image.mode, *image.size
        alpha = image.getchannel("A").getextrema() if image.mode == "RGBA" else (0, 0)
    if found != ("PNG", "RGBA", w, h):
        raise InputError(file, "is {} {} of {}×{} (w×h)".format(*found), f"PNG RGBA of {w}×{h}")
    return alpha[1] > 0
