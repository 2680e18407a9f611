"""Poses of another convention: other axes of the cameras, or the inverse. Letters: v views.

An object is looked at from around it, so any pose that does not is wrong. A scene may be looked at in any way, and its world may
have any direction up, so that there a convention shows only in these cases:

- the axes meet behind the cameras, and those are upside down in a world whose z is up, as that of most sources is;
- the axes meet behind the cameras in one point, from several heights, all pointing down: a dome around something, turned over.
  People who look around look up as well, or from one height.

It cannot be told from poses alone whether a level ring of cameras looks outwards, as in a panorama, or inwards with the axes of
OpenGL: turned over, one is the other. So are cameras that face forward, where their world is not z up; a round tour is a ring with
x forward; and photos that lie on their side are, where z is not up, upright ones with other x and y axes.
"""

from collections.abc import Sequence

import numpy as np

from data.camera_geometry import (
    AIM_DEG,
    OPENCV,
    OPENGL,
    axes_in_words,
    level_direction,
    meeting_point,
    to_opencv,
    up_direction,
)
from data.problems.problem import NORMALISED, Problem

# Whose cameras have which axes: the likeliest first.
ROLLED = "LUF"
WHOSE = {
    OPENGL: "OpenGL's and Blender's",
    "DRB": "LLFF's",
    "FLU": "ROS's",
    "FRD": "an aircraft's",
    "RFU": "a car's",
    ROLLED: "PyTorch3D's",
}
# Conventions that are others where the photos are not upright.
ON_THEIR_SIDE = {"DRB": "RUB (OpenGL)", ROLLED: "--frame object"}

# The least number of views that allows a conclusion.
LEAST_COMPARED = 4
# A dome: axes meet this exactly, point down by this much in the mean, by amounts of this range, and hardly one above the last.
DOME_MISS_DEG, DOME_DOWN_DEG, DOME_RANGE_DEG, LEVEL_DEG = 4.0, 15.0, 15.0, 5.0
# Cosines: of the direction up with z, reversed, and of each camera's y axis with z.
_UPSIDE_DOWN, _DOWN = 0.9, 0.7
# Objects are looked at from above: most views by more than this.
ABOVE_DEG = 5.0


def convention_problem(c2w: np.ndarray, is_object: bool) -> Problem | None:
    """Return the problem of poses of another convention; None if there is none, or none that can be told.

    Args:
        c2w: (v, 4, 4).
        is_object: whether the cameras must look at something in their midst.
    """
    if len(c2w) < LEAST_COMPARED:
        return None
    return _object_problem(c2w) if is_object else _scene_problem(c2w)


def mended(c2w: np.ndarray, problem: Problem | None) -> np.ndarray:
    """Return poses (v, 4, 4) in OpenCV's convention, given the problem that theirs is."""
    if problem is None:
        return c2w
    right = np.linalg.inv(c2w) if problem.flags.get("invert") else c2w
    return to_opencv(right, problem.flags.get("axes", OPENCV))


def in_one_place(c2w: np.ndarray) -> bool:
    """Return whether several cameras are at the same place, exactly."""
    position = c2w[:, :3, 3]
    return len(c2w) > 1 and bool(np.ptp(position, axis=0).max() <= 1e-9 * np.abs(position).max())


def looks_upside_down(c2w: np.ndarray) -> bool:
    """Return whether cameras are upside down in a world with z up: their own direction up is opposite.

    Where they turn too little to have one, as on a short arc, each must be upside down.
    """
    up = level_direction(c2w)
    return bool(c2w[:, 2, 1].min() > _DOWN if up is None else up[2] < -_UPSIDE_DOWN)


def _object_problem(c2w: np.ndarray) -> Problem | None:
    """Return the problem of cameras that do not look at what they surround, or not upright, if another convention lets them."""
    miss = _miss_deg(c2w)
    if miss < AIM_DEG:
        what = "are upside down, and yet above what they look at"
        return _axes_problem(c2w, ROLLED, what, NORMALISED) if _is_rolled_over(c2w) else None
    found = _convention_of(c2w, tuple(WHOSE))
    if found is not None:
        what = "have behind them what they surround" if miss > 180 - AIM_DEG else f"miss what they surround by {miss:.0f} degrees"
        return _axes_problem(c2w, found[0], what, NORMALISED)
    found = _convention_of(np.linalg.inv(c2w), (OPENCV, OPENGL))
    return None if found is None else _inverse_problem(len(c2w), *found)


def _scene_problem(c2w: np.ndarray) -> Problem | None:
    for convention in (OPENCV, OPENGL):
        if _looks_inverted(np.linalg.inv(to_opencv(np.linalg.inv(c2w), convention))):
            return _inverse_problem(len(c2w), convention)
    point, miss = meeting_point(c2w[:, :3, 3], c2w[:, :3, 2])
    meets_behind = point is not None and miss > 180 - AIM_DEG
    if (meets_behind or _all_behind(c2w)) and looks_upside_down(c2w):
        return _axes_problem(c2w, OPENGL, "are upside down and look away from each other")
    if looks_like_dome(c2w):
        return _axes_problem(c2w, OPENGL, "all look down and away from one point behind them, from several heights")
    return None


def _inverse_problem(v: int, convention: str, miss: float | None = None) -> Problem:
    exactly = "" if miss is None else f", to {miss:.1f} degrees"
    found = f"has {v} poses whose inverses look at one point{exactly}, while they do not, so that no view is where it was taken"
    if convention == OPENCV:
        return Problem(found, "w2c, camera from world, not c2w", flags={"invert": True})
    wanted = f"w2c, camera from world, with {axes_in_words(OPENCV)} (OpenCV), not c2w with {axes_in_words(convention)}"
    return Problem(found, wanted, flags={"invert": True, "axes": convention})


def _axes_problem(c2w: np.ndarray, convention: str, what: str, instead: str | None = None) -> Problem:
    """Return the problem of axes of another convention.

    Args:
        what: about the cameras, the predicate of a sentence.
        instead: what would be right where the cameras are not an object's.
    """
    axes = f"{WHOSE[convention]} axes {axes_in_words(convention)}"
    found = f"has {len(c2w)} cameras that {what}, as with {axes}, so that new views are blurs"
    wanted = [f"the axes {axes_in_words(OPENCV)} (OpenCV)", instead]
    if convention in ON_THEIR_SIDE:
        wanted.insert(1, f"{ON_THEIR_SIDE[convention]} instead of {convention} if the photos lie on their side or upside down")
    return Problem(found, ", or ".join(part for part in wanted if part), flags={"axes": convention})


def _miss_deg(c2w: np.ndarray) -> float:
    """Return the median angle in degrees by which cameras miss the point in their midst where their axes meet, or the origin."""
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    towards = -(position * forward).sum(1) / np.maximum(np.linalg.norm(position, axis=1), 1e-12)
    past_origin = float(np.degrees(np.arccos(np.clip(np.median(towards), -1, 1))))
    point, miss = meeting_point(position, forward)
    at_point = point is not None and min(miss, 180 - miss) < AIM_DEG and _in_midst(point, position)
    return miss if at_point and past_origin > AIM_DEG else past_origin


def _in_midst(point: np.ndarray, position: np.ndarray) -> bool:
    """Return whether a point is nearer to the origin than to most cameras."""
    return bool(np.linalg.norm(point) < np.median(np.linalg.norm(position - point, axis=1)))


def _convention_of(c2w: np.ndarray, conventions: Sequence[str]) -> tuple[str, float] | None:
    """Return the convention in which cameras look at a point in their midst, and by how many degrees they miss it; None if none.

    Of several it is the first, unless another one makes the cameras level in a world with z up.
    """
    found = []
    for convention in conventions:
        turned = to_opencv(c2w, convention)
        point, miss = meeting_point(turned[:, :3, 3], turned[:, :3, 2])
        if point is not None and miss < AIM_DEG and _in_midst(point, turned[:, :3, 3]):
            found.append((not _is_upright(turned), convention, miss))
    return min(found, key=lambda each: each[0])[1:] if found else None


def _is_rolled_over(c2w: np.ndarray) -> bool:
    """Return whether cameras are upside down in a world with z up and look down on it, as nobody looks from below."""
    up = level_direction(c2w)
    down = np.median(_elevation_deg(c2w[:, :3, 2], np.array([0.0, 0.0, 1.0]))) < -ABOVE_DEG
    return bool(up is not None and up[2] < -_UPSIDE_DOWN and down)


def _is_upright(c2w: np.ndarray) -> bool:
    up = level_direction(c2w)
    return up is not None and bool(up[2] > np.cos(np.radians(AIM_DEG)))


def _looks_inverted(c2w: np.ndarray) -> bool:
    """Return whether poses are the inverse of those of views around something.

    Cameras that look at the origin from all around are, when inverted, all at one point (0, 0, distance); as they are, on
    different sides of the origin. So are the faces of panoramas taken at one height, but most of those on one of its sides.
    """
    position, inverse = c2w[:, :3, 3], np.linalg.inv(c2w)[:, :3, 3]
    depth, aside = position[:, 2], np.linalg.norm(position[:, :2], axis=1)
    at_one_point = depth.min() > 0 and depth.max() < 3 * depth.min() and aside.max() < 0.2 * depth.min()
    directions = inverse / np.maximum(np.linalg.norm(inverse, axis=1, keepdims=True), 1e-12)
    at_one_side = (directions @ directions.T > np.cos(0.3)).mean(0).max()
    return bool(at_one_point and np.linalg.norm(directions.mean(0)) < 0.7 and at_one_side < 0.4)


def _all_behind(c2w: np.ndarray) -> bool:
    """Return whether each camera has all the others behind it, as around something, turned over, or when they look outwards."""
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    depth = forward @ position.T - (forward * position).sum(1)[:, None]  # of camera j in camera i
    return bool((depth < 0).mean() * len(c2w) / (len(c2w) - 1) > 0.9)  # no camera is behind itself


def looks_like_dome(c2w: np.ndarray) -> bool:
    """Return whether cameras look down, by their own images, and away from one point behind them, from several heights."""
    up = up_direction(c2w)
    point, miss = meeting_point(c2w[:, :3, 3], c2w[:, :3, 2])
    if up is None or point is None or miss < 180 - DOME_MISS_DEG:
        return False
    pitch = _elevation_deg(c2w[:, :3, 2], up)
    seen_from_point = _elevation_deg(c2w[:, :3, 3] - point, up)
    ranges = [np.subtract(*np.quantile(angles, [0.9, 0.1])) for angles in (pitch, seen_from_point)]
    return bool(np.quantile(pitch, 0.9) < LEVEL_DEG and pitch.mean() < -DOME_DOWN_DEG and min(ranges) > DOME_RANGE_DEG)


def _elevation_deg(direction: np.ndarray, up: np.ndarray) -> np.ndarray:
    sine = direction @ up / np.maximum(np.linalg.norm(direction, axis=1), 1e-12)
    return np.degrees(np.arcsin(np.clip(sine, -1, 1)))
