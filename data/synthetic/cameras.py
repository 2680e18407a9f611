"""Cameras of procedural scenes: around objects, as in training and test renders, and smooth curves for walks.

Letters: v views, h w pixels. OpenCV axes (x right, y down, z forward), the world's z is up.
"""

import math
from collections.abc import Sequence

import numpy as np

REFERENCE_HALF_FOV = math.tan(math.radians(25))
LAYOUTS = ("sphere", "rings", "orbit")
RING_ELEVATIONS_DEG = (0, 20, 40, 60)


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return poses (v, 4, 4), world from camera, of upright cameras.

    Args:
        position, target: (v, 3); the view must not be straight up or down.
    """
    forward = target - position
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    c2w = np.zeros((len(position), 4, 4))
    c2w[:, :3] = np.stack([right, np.cross(forward, right), forward, position], axis=2)
    c2w[:, 3, 3] = 1
    return c2w


def intrinsics(half_fov: np.ndarray | float, num_views: int, image_size: tuple[int, int]) -> np.ndarray:
    """Return fx, fy, cx, cy (v, 4): square pixels, centred; `half_fov` is the tangent of half the angle across the shorter side."""
    h, w = image_size
    focal = np.broadcast_to(min(h, w) / 2 / np.asarray(half_fov, dtype=np.float64), (num_views,))
    centre = np.broadcast_to((w / 2, h / 2), (num_views, 2))
    return np.concatenate([np.stack([focal, focal], axis=1), centre], axis=1)


def object_cameras(
    rng: np.random.Generator, num_views: int, image_size: tuple[int, int], layout: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw cameras around an object of half-extent 1 or less at the origin.

    Args:
        rng: the only source of randomness.
        num_views: v.
        image_size: (h, w).
        layout: `sphere` (random directions, as in renders of Objaverse), `rings` (even steps on rings at elevations of 0, 20,
            40 and 60 degrees, as in renders of GSO), `orbit` (a smooth path whose height and radius swing) or None for any.

    Returns:
        c2w (v, 4, 4) and fxfycxcy (v, 4), float64. The field of view is 35 to 60 degrees; the radius is 1.7 to 3 at 50 degrees
        and grows for narrow views, so that the object fills about as much of the image.

    Raises:
        ValueError: an unknown layout.
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"object_cameras: layout is {layout!r}; wanted one of {', '.join(LAYOUTS)}")
    layout = layout or ("sphere", "sphere", "rings", "orbit")[rng.integers(4)]
    half_fov = np.tan(np.radians(rng.uniform(35, 60) if rng.random() < 0.5 else 50) / 2)
    # Scaled without limit, the radius of a wide view would put the camera inside the object.
    zoom = max(REFERENCE_HALF_FOV / half_fov, 0.9)
    start = rng.uniform(0, 2 * math.pi)
    steps = np.arange(num_views)
    if layout == "sphere":
        azimuth = start + 2 * math.pi * rng.permutation(steps + rng.random(num_views)) / num_views
        elevation = np.arcsin(rng.uniform(-0.6, 0.97, num_views))
        radius = rng.uniform(2.0, 3.0, num_views) if rng.random() < 0.6 else np.full(num_views, rng.uniform(2.1, 2.9))
    elif layout == "rings":
        per_ring = -(-num_views // 4)
        ring = steps // per_ring
        azimuth = start + 2 * math.pi * (steps - ring * per_ring) / per_ring
        elevation = np.radians(np.array(RING_ELEVATIONS_DEG)[ring])
        radius = np.full(num_views, rng.uniform(2.3, 2.9))
    else:
        phase = 2 * math.pi * steps / num_views
        azimuth = start + phase
        elevation = np.radians(rng.uniform(10, 35) + rng.uniform(5, 30) * np.sin(phase * rng.integers(1, 3) + start))
        radius = rng.uniform(2.1, 2.6) + rng.uniform(0, 0.4) * np.sin(phase)
    level = np.cos(elevation)
    direction = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=1)
    position = np.maximum(zoom * radius, 1.7)[:, None] * direction
    jitter = 0.08 if layout == "sphere" else 0.0
    target = jitter * rng.standard_normal((num_views, 3)).clip(-2, 2)
    return look_at(position, target), intrinsics(half_fov, num_views, image_size)


def smooth_curve(rng: np.random.Generator, num_views: int, scale: Sequence[float]) -> np.ndarray:
    """Draw a smooth random curve (v, c), c numbers of the given scales: a sum of slow waves."""
    waves = 3
    t = np.linspace(0, 1, num_views)[:, None, None]
    frequency = rng.uniform(0.2, 1.2, (1, waves, len(scale)))
    phase = rng.uniform(0, 2 * math.pi, (1, waves, len(scale)))
    weight = rng.dirichlet(np.ones(waves), len(scale)).T[None]
    return (np.sin(2 * math.pi * frequency * t + phase) * weight).sum(1) * np.asarray(scale)
