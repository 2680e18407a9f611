"""Suspicious cameras of scenes: allowed by the format, but hardly intended; and a one-line description of a scene.

Images are not opened. Letters: n views, h w pixels.
"""

import os
import sys
import threading
from pathlib import Path

import numpy as np

from config.messages import counted
from data.pinhole import centre_in_corner, fields_of_view
from data.scene_format import Scene, View

# Fields of view outside this range are wrong intrinsics, not a lens (a strip of a photo is narrower in one direction); so are
# pixels less square than this.
NARROWEST_DEG, WIDEST_DEG, LEAST_SQUARE = 3.0, 160.0, 0.5
# Principal points differ by more, as shares of the image, in crops of different places than in photos of several cameras.
CROPPED = 0.05
# Views whose poses are compared with each other, and the least number that allows a conclusion.
MOST_COMPARED, LEAST_COMPARED = 256, 4
# Median distances from the origin, for objects: training has about 2.7.
NEAREST, FARTHEST = 0.1, 100.0
# Scenes that `CameraWarnings` names.
MOST_WARNINGS = 10


class CameraWarnings:
    """Warnings of suspicious cameras, a line per scene, on standard error of the first process.

    Args:
        normalised: whether poses are normalised, so that a scene's scale does not matter.
    """

    def __init__(self, normalised: bool) -> None:
        self.normalised = normalised
        self._checked: set[Path] = set()
        self._warned = 0
        self._lock = threading.Lock()

    def check(self, scene: Scene) -> None:
        """Warn of a scene's cameras, unless it was checked before or this is not the first process."""
        with self._lock:
            if scene.json_path in self._checked or self._warned > MOST_WARNINGS or os.environ.get("RANK", "0") != "0":
                return
            self._checked.add(scene.json_path)
            problems = ([] if self.normalised else scale_problems(scene)) + camera_problems(scene)
            if not problems:
                return
            self._warned += 1
            more = f" (and {len(problems) - 1} more, which check_scenes.py lists)" if len(problems) > 1 else ""
            line = f"warning: {problems[0]}{more}"
            if self._warned > MOST_WARNINGS:
                line = "warning: more scenes have suspicious cameras; check_scenes.py lists them"
            print(line, file=sys.stderr, flush=True)


def camera_problems(scene: Scene) -> list[str]:
    """Return one line for each problem of a scene's cameras."""
    problems = []
    files: dict[Path, int] = {}
    poses: dict[bytes, int] = {}
    centre = np.array([(view.cx / view.w, view.cy / view.h) for view in scene.views])
    # Of the middle half of the views: a single one is an error.
    cropped = bool(np.ptp(np.quantile(centre, [0.25, 0.75], axis=0), axis=0).max() > CROPPED)
    for i, view in enumerate(scene.views):
        where = f"{scene.json_path}, view {i}"
        first = files.setdefault(view.file_path, i)
        if first != i:
            problems.append(f"{where}: has the file of view {first}; wanted each once")
        first = poses.setdefault((view.w2c.round(9) + 0.0).tobytes(), i)
        if first != i:
            problems.append(f"{where}: has the pose of view {first}; wanted a different pose")
        problems += [f"{where}: {problem}" for problem in _intrinsics_problems(view, cropped)]
    return problems + [f"{scene.json_path}: {problem}" for problem in (*_centre_problems(scene), *_pose_problems(scene))]


def scale_problems(scene: Scene) -> list[str]:
    """Return one line if the scale of a scene whose poses are not normalised, an object, is wrong; else nothing."""
    distance = float(np.median(np.linalg.norm(_poses(scene)[:, :3, 3], axis=1)))
    if NEAREST <= distance <= FARTHEST:
        return []
    wanted = "about 2.7 for an object, or normalised poses (--scene_inference, --scene_pose_normalize) for a scene"
    return [f"{scene.json_path}: has cameras at a distance of {distance:.3g} (median) from the origin; wanted {wanted}"]


def describe(scene: Scene) -> str:
    """Return a scene in one line: number and size of its views, field of view and spread of its cameras."""
    sizes = sorted({(view.w, view.h) for view in scene.views}, reverse=True)
    size = f"{sizes[0][0]}×{sizes[0][1]}" + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else "")
    spread = "×".join(f"{side:.3g}" for side in np.ptp(_poses(scene)[:, :3, 3], axis=0))
    fov = [fields_of_view(view.w, view.h, view.fx, view.fy)[0] for view in scene.views]
    views = counted(len(scene.views), "view")
    return f"{scene.name}: {views}, {size} (w×h), field of view {np.median(fov):.1f}°, cameras spread over {spread}"


def _poses(scene: Scene) -> np.ndarray:
    """Return c2w (n, 4, 4)."""
    return np.stack([view.c2w for view in scene.views])


def _intrinsics_problems(view: View, cropped: bool) -> list[str]:
    """Return problems of a view's intrinsics; where views are crops of different places, a principal point may be outside."""
    problems = []
    fov = fields_of_view(view.w, view.h, view.fx, view.fy)
    if not NARROWEST_DEG <= max(fov) <= WIDEST_DEG:
        problems.append(
            f"has a field of view of {fov[0]:.3g}×{fov[1]:.3g} degrees (w×h); wanted {NARROWEST_DEG:g} to {WIDEST_DEG:g}: focal "
            "lengths are in pixels of w and h"
        )
    if not LEAST_SQUARE <= view.fx / view.fy <= 1 / LEAST_SQUARE:
        problems.append(f"has focal lengths {view.fx:g} and {view.fy:g}; wanted nearly square pixels")
    centre = f"has the principal point ({view.cx:g}, {view.cy:g})"
    if not (cropped or (0 <= view.cx <= view.w and 0 <= view.cy <= view.h)):
        problems.append(f"{centre} outside {view.w}×{view.h} (w×h); wanted it in the image")
    elif centre_in_corner(view.w, view.h, view.cx, view.cy):
        problems.append(f"{centre} in the corner of {view.w}×{view.h} (w×h); wanted pixels from that corner, not shares or offsets")
    return problems


def _centre_problems(scene: Scene) -> list[str]:
    """Return the problem of principal points that are, in all views, the centre of an image of another size.

    A crop may have any principal point; but one on the diagonal, or at the centre of the turned image, in every view is unlikely.
    """
    centre = np.array([(view.cx, view.cy) for view in scene.views])
    size = np.array([(view.w, view.h) for view in scene.views])
    share, turned = centre / size, centre / size[:, ::-1]
    view = scene.views[0]
    found = f"has principal points of another image size, in view 0 ({view.cx:g}, {view.cy:g}) for {view.w}×{view.h} (w×h)"
    on_diagonal = (np.abs(share[:, 0] - share[:, 1]) < 0.01) & (np.abs(share[:, 0] - 0.5) > 0.15)
    if on_diagonal.all() and not any(centre_in_corner(view.w, view.h, view.cx, view.cy) for view in scene.views):
        return [f"{found}; wanted intrinsics in pixels of w and h, not of about {2 * view.cx:.0f}×{2 * view.cy:.0f}"]
    oblong = size.max(axis=1) > 1.1 * size.min(axis=1)
    if (oblong & (np.abs(turned - 0.5) < 0.02).all(axis=1)).all():
        return [f"{found}; wanted w and h of the upright image, which look swapped"]
    return []


def _pose_problems(scene: Scene) -> list[str]:
    """Return the problems of the cameras taken together, if they are certain."""
    n = len(scene.views)
    chosen = [scene.views[i] for i in np.linspace(0, n - 1, min(n, MOST_COMPARED)).round().astype(int)]
    c2w, w2c = np.stack([view.c2w for view in chosen]), np.stack([view.w2c for view in chosen])
    position = c2w[:, :3, 3]
    if n > 1 and np.ptp(position, axis=0).max() <= 1e-9 * np.abs(position).max():
        problem = f"has all {n} cameras in one place; wanted different positions"
        return [f"{problem}: w2c is camera from world"] if _looks_inverted(w2c, position) else [problem]
    if _looks_inverted(w2c, position):
        centre = position.mean(0).round(9) + 0.0  # rounding errors, and a negative zero, would only confuse
        place = ", ".join(f"{x:.3g}" for x in centre)
        return [f"has all cameras close to ({place}); wanted w2c, camera from world, not c2w"]
    if _looks_away(c2w):
        return ["has cameras upside down that look away from each other; wanted the axes x right, y down, z forward (OpenCV)"]
    return []


def _looks_inverted(w2c: np.ndarray, position: np.ndarray) -> bool:
    """Return whether `w2c` (n, 4, 4) is world from camera of an object's views.

    Cameras that look at the origin from all around are, when inverted, all at one point (0, 0, distance); as they are, on
    different sides of the origin. So are the faces of panoramas taken at one height, but most of those on one of its sides.
    """
    if len(w2c) < LEAST_COMPARED:
        return False
    depth, aside = position[:, 2], np.linalg.norm(position[:, :2], axis=1)
    at_one_point = depth.min() > 0 and depth.max() < 3 * depth.min() and aside.max() < 0.2 * depth.min()
    directions = w2c[:, :3, 3] / np.maximum(np.linalg.norm(w2c[:, :3, 3], axis=1, keepdims=True), 1e-12)
    at_one_side = (directions @ directions.T > np.cos(0.3)).mean(0).max()
    return bool(at_one_point and np.linalg.norm(directions.mean(0)) < 0.7 and at_one_side < 0.4)


def _looks_away(c2w: np.ndarray) -> bool:
    """Return whether cameras (n, 4, 4) have y up and z backward, as in OpenGL.

    If so, each camera around an object in a world with z up has all the others behind it and is upside down. Cameras that look
    outwards also have the others behind them, and some that face forward do, but they are not upside down.
    """
    if len(c2w) < LEAST_COMPARED:
        return False
    position, forward, down = c2w[:, :3, 3], c2w[:, :3, 2], c2w[:, :3, 1]
    depth = forward @ position.T - (forward * position).sum(1)[:, None]  # of camera j in camera i
    behind = (depth < 0).mean() * len(c2w) / (len(c2w) - 1)  # no camera is behind itself
    return bool(behind > 0.9 and (down[:, 2] > 0).mean() > 0.9)
