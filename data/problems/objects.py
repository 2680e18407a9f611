"""Cameras of objects, whose poses are used as given: scale, centre, direction up and view. Letters: v views.

Networks for objects are trained on objects at the origin with z up and cameras 1.7 to 4 away. The limits here are where the bundled
network loses about 0.5 dB; data_preprocess/README.md has the measurements.
"""

import numpy as np

from data.camera_geometry import AIM_DEG, OBJECT_RADIUS, aim, level_direction, meeting_point, point_of_view
from data.problems.intrinsics import are_crops
from data.problems.poses import looks_like_dome, looks_upside_down
from data.problems.problem import NORMALISED, Problem, mended_without, place
from data.scene_format import Scene

# Median distance of the cameras; how far the object may be from the origin, in those; and tilt of the direction up.
NEAREST, FARTHEST, MOST_ASIDE, MOST_TILT_DEG = 1.5, 4.5, 0.2, 15.0
# Renders of an object miss the origin by less than the first, or one point by less than the second; photos, and the cameras of a
# walk that has something in its middle, by more. That point is nearer to the origin than the third, in distances of the cameras,
# and where a converter moved it there than the fourth.
RENDERED_DEG, EXACT_DEG, NEAR, AT_ORIGIN = 4.0, 0.5, 1.0, 1e-3
# Least number of views with a common point that says anything.
LEAST_VIEWS = 4
# A view that does not show the object has it this many times as far from the middle as most views.
_USUAL = 3.0


def looks_like_object(c2w: np.ndarray) -> bool:
    """Return whether cameras look at a point near the origin as those of an object do.

    Their axes pass through the origin as exactly as in renders, or all through one other point near it; or the origin is the point
    nearest to them, as after a conversion with --frame object. They may meet behind the cameras only where those have OpenGL's
    axes for certain (see `data.problems.poses`): cameras that look outwards are a scene's. The scale does not matter.
    """
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    distance = np.linalg.norm(position, axis=1)
    cosine = aim(np.zeros(3), position, forward)
    if cosine is None:
        return False
    upside_down = looks_upside_down(c2w) or looks_like_dome(c2w)
    sign = -1 if np.median(cosine) < 0 and upside_down else 1
    if _miss(sign * cosine) < RENDERED_DEG:
        return True
    if len(c2w) < LEAST_VIEWS:
        return False
    point, miss = meeting_point(position, sign * forward)
    if point is None:
        return False
    aside = np.linalg.norm(point) / np.median(np.linalg.norm(position - point, axis=1))
    at_origin = bool(np.linalg.norm(point) < AT_ORIGIN * np.median(distance))
    return bool((miss < EXACT_DEG and aside < NEAR) or (at_origin and miss < AIM_DEG))


def object_problems(scene: Scene, c2w: np.ndarray, chosen: np.ndarray, intrinsics_are_right: bool = True) -> list[Problem]:
    """Return the problems of an object's cameras.

    Args:
        scene: for the intrinsics.
        c2w: (v, 4, 4) with OpenCV axes.
        chosen: (v) the numbers of these views in the scene.
        intrinsics_are_right: whether they say what views show.
    """
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    point = point_of_view(c2w) if len(c2w) >= LEAST_VIEWS else None
    if point is None and len(c2w) >= LEAST_VIEWS:
        cosine = aim(np.zeros(3), position, forward)
        if cosine is None or _miss(cosine) > 2 * AIM_DEG:
            distance = float(np.median(np.linalg.norm(position, axis=1)))
            found = (
                f"has cameras at a distance of {distance:.3g} (median) from the origin that look at no common point and past it, "
                "where an object's network expects the object"
            )
            return [Problem(found, f"cameras around an object at the origin, or {NORMALISED}")]
    centre = np.zeros(3) if point is None else point
    distance = float(np.median(np.linalg.norm(position - centre, axis=1)))
    problems = _scale_problems(distance, point is not None) + _centre_problems(centre, distance)
    problems += _up_problems(c2w) if len(c2w) >= LEAST_VIEWS else []
    return problems + (_view_problems(scene, c2w, chosen, centre) if intrinsics_are_right else [])


def _miss(cosine: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))))


def _scale_problems(distance: float, has_centre: bool) -> list[Problem]:
    if NEAREST <= distance <= FARTHEST:
        return []
    what = "what they look at" if has_centre else "the origin"
    found = (
        f"has cameras at a distance of {distance:.3g} (median) from {what}, {distance / OBJECT_RADIUS:.2g} times as far as in "
        "training, where the object is about 1 in half-extent, so that new views are blurred"
    )
    wanted = f"about {OBJECT_RADIUS:g} for an object, or {NORMALISED}"
    return [Problem(found, wanted, flags={"scale": OBJECT_RADIUS / distance} if distance > 0 else {})]


def _centre_problems(centre: np.ndarray, distance: float) -> list[Problem]:
    aside = float(np.linalg.norm(centre))
    if aside <= MOST_ASIDE * distance:
        return []
    found = (
        f"has cameras that look at {place(centre, distance)}, {aside / distance:.2g} of their distance from the origin, where an "
        "object's network expects the object, so that new views are blurred"
    )
    return [Problem(found, f"the object at the origin, or {NORMALISED}", flags={"frame": "object"})]


def _up_problems(c2w: np.ndarray) -> list[Problem]:
    up = level_direction(c2w)
    if up is None:
        return []
    tilt = float(np.degrees(np.arccos(np.clip(up[2], -1, 1))))
    if tilt <= MOST_TILT_DEG:
        return []
    names = [f"{sign}{axis}" for axis in "xyz" for sign in ("", "-")]
    axes = np.concatenate([[axis, -axis] for axis in np.eye(3)])
    nearest = int((axes @ up).argmax())
    seems = f", which is about {names[nearest]}," if axes[nearest] @ up > np.cos(np.radians(MOST_TILT_DEG)) else ""
    found = (
        f"has cameras whose direction up{seems} is {tilt:.0f} degrees off z, which is up in training, so that new views are blurred"
    )
    return [Problem(found, f"z up for an object, or {NORMALISED}", flags={"frame": "object"})]


def _view_problems(scene: Scene, c2w: np.ndarray, chosen: np.ndarray, centre: np.ndarray) -> list[Problem]:
    """Return the problem of views that do not show the point that the cameras have in common, unless they are crops."""
    if are_crops(scene):
        return []
    x, y, z = np.einsum("vji,vj->iv", c2w[:, :3, :3], centre - c2w[:, :3, 3])
    views = [scene.views[i] for i in chosen]
    w, h, fx, fy, cx, cy = np.array([(view.w, view.h, view.fx, view.fy, view.cx, view.cy) for view in views]).T
    z_safe = np.where(z > 0, z, 1.0)
    aside = np.maximum(np.abs((fx * x / z_safe + cx) / w - 0.5), np.abs((fy * y / z_safe + cy) / h - 0.5))
    outside = (z <= 0) | (aside > 0.5)
    if outside.mean() <= 0.5:  # in photos taken by hand the point is anywhere, and sometimes just outside
        outside &= (z <= 0) | (aside > _USUAL * np.quantile(aside[z > 0], 0.8))
    if not outside.any():
        return []
    few = tuple(chosen[outside].tolist())
    where = place(centre, float(np.median(np.linalg.norm(c2w[:, :3, 3] - centre, axis=1))))
    if outside.mean() > 0.5:
        found = f"has {len(few)} of {len(chosen)} views that do not show {where}, where the object is expected"
        return [Problem(found, "it in the picture: other poses, or intrinsics in pixels of w and h")]
    what = "does not show" if len(few) == 1 else "do not show"
    found = f"{what} {where}, which the other {len(chosen) - len(few)} views show, as with a wrong pose or principal point"
    return [mended_without(few, found, "it in the picture, or the others alone")]
