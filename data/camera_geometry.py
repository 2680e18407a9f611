"""Geometry of a set of cameras: the point they look at, the direction up, roll, and other conventions of their axes.

Letters: v views. Poses are world from camera, OpenCV axes (x right, y down, z forward), unless stated otherwise.
"""

from itertools import permutations, product

import numpy as np

# Distance of the cameras from an object in training data, and of a turntable's.
OBJECT_RADIUS = 2.7
# Cameras look at the common point if most of their axes miss it by less than this.
AIM_DEG = 15.0
# For an up direction: least spread of the x axes, most roll relative to it; else least length of the mean up axis.
_TURNED, _ROLLED, _AGREE = 0.02, 0.25, 0.3
# Axes are parallel if the matrix of their common point has a smaller eigenvalue.
_PARALLEL = 1e-4

# Directions in an OpenCV camera, by their initials: right, left, down, up, forward, backward.
DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "D": (0, 1, 0), "U": (0, -1, 0), "F": (0, 0, 1), "B": (0, 0, -1)}
WORDS = {"R": "right", "L": "left", "D": "down", "U": "up", "F": "forward", "B": "backward"}
OPENCV, OPENGL = "RDF", "RUB"


def _conventions() -> tuple[str, ...]:
    """Return the right-handed ones."""
    codes = ("".join(code) for axes in permutations(("RL", "UD", "FB")) for code in product(*axes))
    return tuple(sorted(code for code in codes if np.linalg.det([DIRECTIONS[letter] for letter in code]) > 0))


# Where the x, y and z axes of a camera point, in letters: all 24 that are right-handed, since rigid poses have no others.
CONVENTIONS = _conventions()


def to_opencv(c2w: np.ndarray, convention: str) -> np.ndarray:
    """Return poses (v, 4, 4) with OpenCV axes of cameras whose axes are those of one of `CONVENTIONS`."""
    turn = np.eye(4)
    turn[:3, :3] = [DIRECTIONS[letter] for letter in convention]
    return c2w @ turn


def axes_in_words(convention: str) -> str:
    """Return a convention as a message has it: `x right, y up, z backward`."""
    return ", ".join(f"{axis} {WORDS[letter]}" for axis, letter in zip("xyz", convention, strict=True))


def common_point(position: np.ndarray, axis: np.ndarray) -> np.ndarray | None:
    """Return the point (3) nearest to lines, in least squares; None if they are parallel.

    Args:
        position, axis: (v, 3) a point and the unit direction of each line.
    """
    across = np.eye(3) - axis[:, :, None] * axis[:, None, :]
    normal = across.mean(0)
    if np.linalg.eigvalsh(normal)[0] < _PARALLEL:
        return None
    return np.linalg.solve(normal, (across @ position[..., None]).mean(0)[:, 0])


def aim(point: np.ndarray, position: np.ndarray, axis: np.ndarray) -> np.ndarray | None:
    """Return the cosines (v) between axes and the directions to a point; None if a position is at the point."""
    towards = point - position
    distance = np.linalg.norm(towards, axis=1)
    if distance.min() < 1e-6 * max(distance.max(), 1e-300):
        return None
    return (towards * axis).sum(1) / distance


def point_of_view(c2w: np.ndarray) -> np.ndarray | None:
    """Return the point (3) nearest to the optical axes of cameras (v, 4, 4), or None if they do not look at one.

    It is the least-squares point. The axes must not be parallel, and most cameras must have it in front of them, less than
    `AIM_DEG` off.
    """
    point, miss = meeting_point(c2w[:, :3, 3], c2w[:, :3, 2])
    return point if miss < AIM_DEG else None


def meeting_point(position: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Return the point (3) where lines meet, and the median angle in degrees by which their directions miss it.

    Where they meet behind, the angle is above 90, and 180 at most. Where they are parallel, or start at the point, the point is
    None and the angle 90.

    Args:
        position, axis: (v, 3) a point and the unit direction of each line.
    """
    point = common_point(position, axis)
    cosine = None if point is None else aim(point, position, axis)
    if cosine is None:
        return None, 90.0
    return point, float(np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))))


def level_direction(c2w: np.ndarray) -> np.ndarray | None:
    """Return the up direction (3) of cameras that are level but turn; None if they are rolled or turn too little.

    People do not roll cameras: their x axes are level, and up is perpendicular to all of them however the cameras are tilted.

    Args:
        c2w: (v, 4, 4).
    """
    right, mean = c2w[:, :3, 0], -c2w[:, :3, 1].mean(0)
    share, axes = np.linalg.eigh(right.T @ right / len(right))
    along = axes[:, 0] @ mean
    if share[1] > _TURNED and share[0] < _ROLLED * share[1] and abs(along) > 0.1:
        return axes[:, 0] * np.sign(along)
    return None


def up_direction(c2w: np.ndarray) -> np.ndarray | None:
    """Return the up direction (3), or None where the cameras do not reveal it.

    It is that of level cameras or, where cameras turn too little for that, or are rolled, the mean of their own up axes.

    Args:
        c2w: (v, 4, 4).
    """
    level = level_direction(c2w)
    if level is not None:
        return level
    mean = -c2w[:, :3, 1].mean(0)
    length = np.linalg.norm(mean)
    return mean / length if length > _AGREE else None


def roll_deg(c2w: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the angles (v) in degrees, from -180 to 180, by which cameras (v, 4, 4) are turned around their axis, 0 is upright."""
    return np.degrees(np.arctan2(c2w[:, :3, 0] @ up, -c2w[:, :3, 1] @ up))
