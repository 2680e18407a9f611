"""Small scenes on disk for tests. Letters: n views, h w pixels."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.scene_format import CAMERAS, View, write_scene
from data.scene_list import write_data_path


def look_at(position: np.ndarray, target: np.ndarray = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Return c2w (4, 4) of an OpenCV camera at `position` that looks at `target`, with world z up."""
    position = np.asarray(position, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return c2w


def ring_c2w(elevations_deg=(0, 20, 40, 60), per_ring: int = 16, radius: float = 2.7) -> np.ndarray:
    """Return c2w (n, 4, 4) of object renders: ring after ring, each from azimuth 0 in equal steps."""
    poses = []
    for elevation in np.radians(elevations_deg):
        for azimuth in np.arange(per_ring) * 2 * np.pi / per_ring:
            level = np.cos(elevation)
            direction = (level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation))
            poses.append(look_at(radius * np.array(direction)))
    return np.stack(poses)


def random_c2w(n: int, seed: int = 0) -> np.ndarray:
    """Return c2w (n, 4, 4) of cameras at random positions around the origin that look near it."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, 3)) + (0, 0, 0.3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = rng.uniform(2.0, 3.5, size=n)
    return np.stack([look_at(d * r, rng.normal(size=3) * 0.2) for d, r in zip(directions, radii, strict=True)])


def write_random_scene(
    folder: Path,
    n: int = 5,
    size: tuple[int, int] = (20, 28),
    seed: int = 0,
    c2w: np.ndarray | None = None,
    name: str | None = None,
    long_lrm: bool = False,
) -> Path:
    """Write a scene of n PNGs with smooth random colours; return its JSON.

    Args:
        folder: the scene's folder; its name is the scene's.
        size: (h, w) of the images.
        c2w: (n, 4, 4); random around the origin by default.
        long_lrm: as in `write_scene`.
        name: a name in that spelling that differs from the folder's.
    """
    rng = np.random.default_rng(seed)
    h, w = size
    c2w = random_c2w(n, seed) if c2w is None else c2w
    (folder / "images").mkdir(parents=True)
    views = []
    for i in range(n):
        file_path = folder / "images" / f"{i:05d}.png"
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((w, h), Image.Resampling.BICUBIC).save(file_path)
        focal = w * rng.uniform(0.9, 1.2)
        fx, fy, cx, cy = focal, focal * 1.03, w / 2 + rng.uniform(-1, 1), h / 2 + rng.uniform(-1, 1)
        views.append(View(file_path, w, h, fx, fy, cx, cy, np.linalg.inv(c2w[i])))
    json_path = folder / CAMERAS
    write_scene(json_path, views, long_lrm)
    if name is not None:
        json_path.write_text(json.dumps({**json.loads(json_path.read_text()), "scene_name": name}))
    return json_path


def write_random_data_path(folder: Path, scenes: int = 2, n: int = 5, size: tuple[int, int] = (20, 28)) -> Path:
    """Write scenes `scene_0`, `scene_1`, … and the `test_data_path.json` that lists them; return the latter."""
    paths = [write_random_scene(folder / f"scene_{i}", n, size, seed=i) for i in range(scenes)]
    write_data_path(folder / "test_data_path.json", paths)
    return folder / "test_data_path.json"


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what a folder holds, byte for byte, by the paths in it."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
