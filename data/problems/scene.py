"""Suspicious cameras of scenes: allowed by the format, but hardly intended; and a one-line description of a scene.

Images are not opened. Letters: v views.
"""

import os
import sys
import threading
from pathlib import Path

import numpy as np

from config.messages import counted
from data.pinhole import fields_of_view
from data.problems.intrinsics import intrinsics_problems
from data.problems.objects import looks_like_object, object_problems
from data.problems.poses import convention_problem, in_one_place, mended
from data.problems.problem import Problem, lines_of, mended_without
from data.problems.views import far_problems, view_problems
from data.scene_format import Scene

# What poses are: of an object, used as given; of a scene, normalised, so that neither scale nor frame matter; or either.
KINDS = ("auto", "object", "scene")
# Views whose poses are compared with each other.
MOST_COMPARED = 256
# Scenes that `CameraWarnings` names.
MOST_WARNINGS = 10


class CameraWarnings:
    """Warnings of suspicious cameras, a line per scene, on standard error of the first process.

    Args:
        normalised: whether poses are normalised, so that a scene's scale and frame do not matter.
    """

    def __init__(self, normalised: bool) -> None:
        self.kind = "scene" if normalised else "object"
        self._checked: set[Path] = set()
        self._warned = 0
        self._lock = threading.Lock()

    def check(self, scene: Scene) -> None:
        """Warn of a scene's cameras, unless it was checked before or this is not the first process."""
        with self._lock:
            if scene.json_path in self._checked or self._warned > MOST_WARNINGS or os.environ.get("RANK", "0") != "0":
                return
            self._checked.add(scene.json_path)
            problems = camera_problems(scene, self.kind)
            if not problems:
                return
            self._warned += 1
            more = f" (and {len(problems) - 1} more, which check_scenes.py lists)" if len(problems) > 1 else ""
            line = f"warning: {problems[0]}{more}"
            if self._warned > MOST_WARNINGS:
                line = "warning: more scenes have suspicious cameras; check_scenes.py lists them"
            print(line, file=sys.stderr, flush=True)


def camera_problems(scene: Scene, kind: str = "scene") -> list[str]:
    """Return one line for each of `find_problems`."""
    return lines_of(scene.json_path, find_problems(scene, kind))


def find_problems(scene: Scene, kind: str = "scene") -> list[Problem]:
    """Return the problems of a scene's cameras: those of their poses, of single views, and of their intrinsics.

    Args:
        scene: as read.
        kind: one of `KINDS`.
    """
    c2w = poses_of(scene)
    is_object = kind_of(scene, kind) == "object"
    intrinsics = intrinsics_problems(scene)
    return _repeated(scene, c2w) + intrinsics + _pose_problems(scene, c2w, is_object, not intrinsics)


def kind_of(scene: Scene, kind: str = "auto") -> str:
    """Return `object` or `scene`: the kind itself, or what the cameras look like if it is `auto`."""
    if kind != "auto":
        return kind
    return "object" if looks_like_object(poses_of(scene)) else "scene"


def describe(scene: Scene) -> str:
    """Return a scene in one line: number and size of its views, field of view and spread of its cameras."""
    sizes = sorted({(view.w, view.h) for view in scene.views}, reverse=True)
    size = f"{sizes[0][0]}×{sizes[0][1]}" + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else "")
    spread = "×".join(f"{side:.3g}" for side in np.ptp(poses_of(scene)[:, :3, 3], axis=0))
    fov = [fields_of_view(view.w, view.h, view.fx, view.fy)[0] for view in scene.views]
    views = counted(len(scene.views), "view")
    return f"{scene.name}: {views}, {size} (w×h), field of view {np.median(fov):.1f}°, cameras spread over {spread}"


def poses_of(scene: Scene) -> np.ndarray:
    """Return c2w (v, 4, 4)."""
    return np.linalg.inv(np.stack([view.w2c for view in scene.views]))


def _repeated(scene: Scene, c2w: np.ndarray) -> list[Problem]:
    """Return the problems of files and poses that views have in common."""
    problems = []
    files: dict[Path, int] = {}
    poses: dict[bytes, int] = {}
    for i, (view, pose) in enumerate(zip(scene.views, c2w.round(9) + 0.0, strict=True)):
        first = files.setdefault(view.file_path, i)
        if first != i:
            problems.append(mended_without((i,), f"has the file of view {first}", "each once"))
        first = poses.setdefault(pose.tobytes(), i)
        if first != i:
            problems.append(mended_without((i,), f"has the pose of view {first}", "a different pose"))
    return problems


def _pose_problems(scene: Scene, c2w: np.ndarray, is_object: bool, intrinsics_are_right: bool) -> list[Problem]:
    """Return the problems of the cameras together and of single ones, each as if those before it were mended."""
    far = far_problems(c2w)
    left = _without(np.arange(len(c2w)), far)
    convention = convention_problem(c2w[_even(left)], is_object)
    if in_one_place(c2w):
        found, wanted = f"has all {len(c2w)} cameras in one place", "different positions"
        if convention is None:
            return [Problem(found, wanted)]
        convention = Problem(found, f"{wanted}: {convention.wanted}", flags=convention.flags)
    c2w = mended(c2w, convention)
    single = view_problems(c2w, left)
    left = _even(_without(left, single))
    together = object_problems(scene, c2w[left], left, intrinsics_are_right) if is_object else []
    return [*far, *([convention] if convention else []), *single, *together]


def _without(left: np.ndarray, problems: list[Problem]) -> np.ndarray:
    return np.setdiff1d(left, [i for problem in problems for i in problem.views]).astype(int)


def _even(left: np.ndarray) -> np.ndarray:
    """Return an even choice of very many views."""
    return left[np.linspace(0, len(left) - 1, min(len(left), MOST_COMPARED)).round().astype(int)]
