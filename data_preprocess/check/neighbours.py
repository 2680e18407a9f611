"""Views that are near each other by their cameras. Letters: v views, k neighbours."""

from collections.abc import Sequence

import numpy as np

from data.scene_format import View

# Cameras are at one place if they are no further apart than this share of their extent and turned by no more than 3°.
_ONE_PLACE, _ONE_DIRECTION_RAD = 0.03, 0.052
# Three quarters of a radian count as much as a quarter of the cameras' extent.
_ANGLE_PER_EXTENT = 3.0
_BLOCK = 128


def nearest_views(views: Sequence[View], count: int) -> np.ndarray:
    """Return the nearest other views of each view, by position and direction of the cameras.

    Returns:
        (v, k) numbers, nearest first; k is `count`, or fewer if there are not so many others.
    """
    c2w = np.stack([view.c2w for view in views])
    distances, count = pose_distances(c2w), min(count, len(views) - 1)
    nearest = []
    for start in range(0, len(views), _BLOCK):
        block = distances(np.arange(start, min(start + _BLOCK, len(views))))
        nearest.append(np.argsort(block, axis=1, kind="stable")[:, :count])
    return np.concatenate(nearest)


def at_one_place(views: Sequence[View], first: int, second: int) -> bool:
    """Return whether two cameras are, compared with the extent of all of them, at one place with one direction."""
    position = np.stack([view.c2w[:3, 3] for view in views])
    a, b = views[first].c2w, views[second].c2w
    angle = np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1))
    apart = np.linalg.norm(a[:3, 3] - b[:3, 3])
    return bool(apart <= _ONE_PLACE * np.ptp(position, axis=0).max() and angle <= _ONE_DIRECTION_RAD)


def pose_distances(c2w: np.ndarray):
    """Return a function from numbers of views to their distances (n, v) from all views; infinite from themselves.

    Args:
        c2w: (v, 4, 4).
    """
    position, rotation = c2w[:, :3, 3], c2w[:, :3, :3].reshape(len(c2w), 9)
    extent = max(2 * np.linalg.norm(position - position.mean(0), axis=1).max(), 1e-12)

    def distances(views: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(position[views, None] - position, axis=2) / extent
        angle = np.arccos(((rotation[views] @ rotation.T - 1) / 2).clip(-1, 1))
        result = _ANGLE_PER_EXTENT * apart + angle
        result[np.arange(len(views)), views] = np.inf
        return result

    return distances
