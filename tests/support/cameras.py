"""Scenes of given cameras that are never on disk, and captures of all kinds. Letters: v views."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.scene_format import Scene, View
from tests.support.scenes import look_at, random_c2w, ring_c2w

Vector = Sequence[float] | np.ndarray


def scene_of(c2w: np.ndarray, name: str = "s", **changes: float) -> Scene:
    """Return a scene of 64×48 (w×h) with a field of view of 56 degrees."""
    camera = {"w": 64, "h": 48, "fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0, **changes}
    views = [View(Path(f"/{name}/{i}.png"), **camera, w2c=np.linalg.inv(pose)) for i, pose in enumerate(c2w)]
    return Scene(name, Path(f"/{name}/opencv_cameras.json"), tuple(views))


def walk(position: Callable[[float], Vector], forward: Callable[[float], Vector], v: int = 24) -> np.ndarray:
    """Return c2w (v, 4, 4) along functions of an angle in 0 to 2π."""
    angles = np.arange(v) * 2 * np.pi / v
    return np.stack([look_at(position(t), np.add(position(t), forward(t))) for t in angles])


def circle(t: float, radius: float = 1.0, height: float = 1.6) -> tuple[float, float, float]:
    return radius * np.cos(t), radius * np.sin(t), height


def turn(axis: str, degrees: float) -> np.ndarray:
    """Return a rotation around an axis (4, 4)."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    a, matrix = np.radians(degrees), np.eye(4)
    matrix[[i, i, j, j], [i, j, i, j]] = np.cos(a), -np.sin(a), np.sin(a), np.cos(a)
    return matrix


CAPTURES = {
    "object": ring_c2w(),
    "object at random": random_c2w(40),
    "one view": random_c2w(1),
    "walk": walk(lambda t: (t, 0, 1.6), lambda t: (1, 0.3 * np.sin(3 * t), 0)),
    "walk looking around": walk(lambda t: (t, 0, 1.6), lambda t: circle(t, height=-0.1)),
    "round tour": walk(circle, lambda t: (-np.sin(t), np.cos(t), 0)),
    "outwards": walk(circle, lambda t: circle(t, height=0.1)),
    "outwards and down": walk(circle, lambda t: circle(t, height=-0.4)),
    "panorama": walk(lambda t: circle(t, 0.2), lambda t: circle(t, height=0)),
    "panorama, up and down": walk(
        lambda t: circle(t, 0.3 * np.cos(np.sin(3 * t)), 1.6 + 0.3 * np.sin(np.sin(3 * t))),
        lambda t: circle(t, np.cos(np.sin(3 * t)), np.sin(np.sin(3 * t))),
    ),
    "faces of panoramas": np.stack(
        [
            look_at((0.1 * np.cos(i), 0.1 * np.sin(i), 1.6), np.add((0.1 * np.cos(i), 0.1 * np.sin(i), 1.6), face))
            for i in range(5)
            for face in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (1e-3, 0, 1), (1e-3, 0, -1))
        ]
    ),
    "forward-facing": walk(lambda t: (np.cos(t), 0, np.sin(t)), lambda t: (-0.1 * np.cos(t), 1, 0)),
    "forward-facing, diverging": walk(lambda t: (np.cos(t), 0, np.sin(t)), lambda t: (0.3 * np.cos(t), 1, 0)),
    "far after a detail": walk(lambda t: (np.exp(t), 0, 1.6), lambda t: (1, 0.3 * np.sin(3 * t), 0)),
}
