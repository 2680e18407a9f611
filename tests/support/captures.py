"""Captures of known geometry for tests of converters. Letters: v views, n points, h w pixels.

Lenses are implemented here from their formulas and share no code with what they test.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.scenes import look_at

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def perspective(x: np.ndarray, y: np.ndarray, k: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return x/z, y/z distorted by Brown's model with rational terms."""
    k = {key: k.get(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")}
    r2 = x * x + y * y
    radial = (1 + k["k1"] * r2 + k["k2"] * r2**2 + k["k3"] * r2**3) / (1 + k["k4"] * r2 + k["k5"] * r2**2 + k["k6"] * r2**3)
    moved_x = x * radial + 2 * k["p1"] * x * y + k["p2"] * (r2 + 2 * x * x)
    moved_y = y * radial + k["p1"] * (r2 + 2 * y * y) + 2 * k["p2"] * x * y
    return moved_x, moved_y


def equidistant(x: np.ndarray, y: np.ndarray, k: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return x/z, y/z distorted by an equidistant fisheye."""
    r = np.maximum(np.hypot(x, y), 1e-12)
    angle = np.arctan(r)
    bent = angle * (1 + sum(k.get(f"k{i}", 0.0) * angle ** (2 * i) for i in range(1, 5)))
    return x * bent / r, y * bent / r


def project(points: np.ndarray, w2c: np.ndarray, camera: tuple, model=perspective, terms: dict | None = None) -> np.ndarray:
    """Return pixels (n, 2) of world points (n, 3); the centre of the first pixel is at (0.5, 0.5)."""
    x, y, z = w2c[:3, :3] @ points.T + w2c[:3, 3:]
    assert (z > 0).all()
    x, y = model(x / z, y / z, terms or {})
    fx, fy, cx, cy = camera
    return np.stack([fx * x + cx, fy * y + cy], axis=1)


def paint(pixels: np.ndarray, size: tuple[int, int], width: float = 1.6) -> np.ndarray:
    """Return an image (h, w, 3) uint8 of dark soft dots at pixels (n, 2) on white; those outside are invisible."""
    h, w = size
    y, x = np.mgrid[:h, :w] + 0.5
    dark = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * width**2)) for px, py in pixels)
    return np.repeat(np.rint(255 * (1 - dark.clip(0, 1)))[..., None], 3, axis=2).astype(np.uint8)


def found_dots(image: np.ndarray, expected: np.ndarray, reach: int = 5) -> np.ndarray:
    """Return the centres (n, 2) of the dots near expected pixels (n, 2), NaN for those too near the border."""
    centres = np.full(expected.shape, np.nan)
    h, w = image.shape[:2]
    for i, (x, y) in enumerate(expected):
        column, row = int(x), int(y)
        if reach <= column < w - reach and reach <= row < h - reach:
            part = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
            dark = 255.0 - image[part].mean(-1)
            if dark.sum() > 0:
                rows, columns = np.mgrid[part] + 0.5
                centres[i] = (columns * dark).sum() / dark.sum(), (rows * dark).sum() / dark.sum()
    return centres


def breaking_down(write: Callable[..., None], after: int) -> Callable[..., None]:
    """Return a function that writes as `write` does for some calls, of any threads, and then finds the disk full."""
    calls = itertools.count()

    def breaks_down(*arguments) -> None:
        if next(calls) >= after:
            raise OSError("disk full")
        write(*arguments)

    return breaks_down


def dots() -> np.ndarray:
    """Return points (8, 3) near the corners of a cube of half-side 1 around the origin."""
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return signs * np.random.default_rng(3).uniform(0.7, 1.1, (8, 3))


def orbit(v: int, radius: float = 4.0, up=(0.0, 0.0, 1.0), centre=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return c2w (v, 4, 4), OpenCV axes, of unrolled cameras on a half circle that look at `centre` slightly from above."""
    poses = []
    for i in range(v):
        azimuth, height = 0.4 + np.pi * i / v, 0.3 + 0.2 * (i % 3)
        poses.append(look_at(radius * np.array([np.cos(azimuth), np.sin(azimuth), height])))
    z = np.asarray(up) / np.linalg.norm(up)
    x = np.cross((0.3, 1.0, 0.2), z)
    x /= np.linalg.norm(x)
    world = np.eye(4)
    world[:3] = np.stack([x, np.cross(z, x), z, np.asarray(centre)], axis=1)
    return world @ np.stack(poses)


def write_transforms(
    folder: Path,
    images: list[np.ndarray],
    c2w: np.ndarray,
    top: dict,
    each: list[dict] | None = None,
    name: str = "images/{:05d}.png",
) -> Path:
    """Write a capture with a transforms.json (OpenGL axes) of c2w (v, 4, 4) with OpenCV axes; return the file."""
    frames = []
    for i, (image, pose) in enumerate(zip(images, c2w, strict=True)):
        file_path = name.format(i)
        (folder / file_path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / file_path)
        frames.append({"file_path": file_path, "transform_matrix": (pose @ OPENGL).tolist(), **(each[i] if each else {})})
    json_path = folder / "transforms.json"
    json_path.write_text(json.dumps({**top, "frames": frames}))
    return json_path
