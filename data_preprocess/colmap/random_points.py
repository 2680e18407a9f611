"""Random points where the cameras of a scene look, from which Gaussian splatting starts where there is no reconstruction.

Letters: v views, n points.
"""

import numpy as np

from data.camera_geometry import point_of_view
from data.problems.scene import kind_of, poses_of
from data.scene_format import Scene

# A cube around an object ends this far before the cameras, as a share of their distance.
_NEAREST_SHARE = 0.8
# Depths that are filled in a scene: from the first share of the last one up to this many times the cameras' extent, or the second
# many times the distance to what they look at.
_FIRST_SHARE, _OF_EXTENT, _OF_DISTANCE = 0.02, 3.0, 2.0


def random_points(scene: Scene, n: int, kind: str = "auto", seed: int = 0) -> np.ndarray:
    """Return points (n, 3) spread evenly through the volume that the cameras see.

    For an object, that is the cube around what the cameras look at, as large as their pictures show there. For a scene, each point
    is at a random place of a random picture, at a random depth of up to 3 times the extent of the cameras, or twice the distance
    to the point that they look at.

    Args:
        scene: with its v views.
        n: how many.
        kind: of the scene: one of `KINDS`.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    if kind_of(scene, kind) == "object":
        centre, half = object_cube(scene)
        return centre + rng.uniform(-half, half, (n, 3))
    c2w, far = poses_of(scene), farthest(scene)
    chosen = rng.integers(len(c2w), size=n)
    w, h, fx, fy, cx, cy = np.array([(view.w, view.h, view.fx, view.fy, view.cx, view.cy) for view in scene.views]).T[:, chosen]
    across, down, depth = rng.uniform(size=(3, n))
    depth = far * (_FIRST_SHARE + (1 - _FIRST_SHARE) * depth)
    local = np.stack([(across * w - cx) / fx, (down * h - cy) / fy, np.ones(n)], axis=1) * depth[:, None]
    return np.einsum("nij,nj->ni", c2w[chosen, :3, :3], local) + c2w[chosen, :3, 3]


def object_cube(scene: Scene) -> tuple[np.ndarray, float]:
    """Return the centre (3) and the half-side of the cube that the pictures of an object show, in the median."""
    c2w = poses_of(scene)
    point = point_of_view(c2w)
    centre = np.zeros(3) if point is None else point
    distance = np.linalg.norm(c2w[:, :3, 3] - centre, axis=1)
    shown = [min(view.w / view.fx, view.h / view.fy) / 2 for view in scene.views]
    half = min(np.median(distance * shown), _NEAREST_SHARE * np.median(distance))
    return centre, float(half) if half > 0 else 1.0


def farthest(scene: Scene) -> float:
    """Return the depth up to which a scene is filled, in its units; 1 for a single camera, whose scale is unknown."""
    c2w = poses_of(scene)
    position = c2w[:, :3, 3]
    depth = _OF_EXTENT * np.linalg.norm(position - position.mean(0), axis=1).max()
    point = point_of_view(c2w)
    if point is not None:
        depth = max(depth, _OF_DISTANCE * np.median(np.linalg.norm(position - point, axis=1)))
    return float(depth) if depth > 0 else 1.0
