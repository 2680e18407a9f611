"""Unified format of posed photos on disk: read, write, validate.

A scene is a folder with its images and one JSON: a list of views
`{"w", "h", "fx", "fy", "cx", "cy", "w2c", "file_path"}` or, as Long-LRM writes it, `{"scene_name", "frames": [views]}`.
Cameras have OpenCV axes (x right, y down, z forward), intrinsics are in pixels, `file_path` is relative to the JSON. Lists of such
files are read by `scene_list.py`. The page data_example/README.md documents every field.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from config.errors import InputError
from config.messages import is_file_path, is_folder_name, shown
from config.paths import find_beside
from data.files import write_json
from data.frame_path import looks_like_video
from data.pinhole import LARGEST_FOCAL_SHARE, centre_in_corner, check_intrinsics
from data.problems.problem import SCRIPT
from data.rigid import pose_problem
from data.stored_file import read_file

# File name of a scene's JSON.
CAMERAS = "opencv_cameras.json"

# Views of a scene, as many as five digits number; reading them takes 20 s and 0.2 GB on one slow core.
MOST_VIEWS = 100_000
ORTHONORMAL_TOLERANCE = 1e-3
LAST_ROW_TOLERANCE = 1e-6
# What a path may leave a folder by: `..`, and on Windows a backslash and a drive's colon.
_STEPS = re.compile(r"\.\.|\\|:")
# Beyond these, squares and quotients of camera parameters overflow float32: pictures and networks would get infinity or NaN.
LARGEST_NUMBER, LEAST_FOCAL = 1e12, 1e-3


@dataclass(frozen=True, eq=False)
class View:
    """One posed photo.

    Args:
        file_path: absolute path of the image, or of a frame of a video, see `data.frame_path`.
        w, h: size that the intrinsics refer to, in pixels of the upright image.
        fx, fy, cx, cy: intrinsics in pixels; the centre of the first pixel is at (0.5, 0.5).
        w2c: (4, 4) float64, camera from world, OpenCV axes.
    """

    file_path: Path
    w: int
    h: int
    fx: float
    fy: float
    cx: float
    cy: float
    w2c: np.ndarray

    @property
    def c2w(self) -> np.ndarray:
        """(4, 4) float64, world from camera."""
        return np.linalg.inv(self.w2c)


@dataclass(frozen=True, eq=False)
class Scene:
    """The views of one scene, in the order of its JSON; `name` is a valid folder name."""

    name: str
    json_path: Path
    views: tuple[View, ...]


def read_json(path: str | os.PathLike) -> object:
    """Read a JSON file of any content.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a regular file, or not JSON.
    """
    return parse_json(read_file(path, "a JSON file"), path)


def parse_json(content: str | bytes, where: str | os.PathLike) -> object:
    """Read JSON of any content; `where` names it in the message.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(content)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(where, f"is not JSON ({error})", "a JSON file") from None


def read_scene(json_path: str | os.PathLike) -> Scene:
    """Read and check one scene, in either spelling; images are not opened.

    Args:
        json_path: the scene's `CAMERAS`.

    Returns:
        the scene. Its name is `scene_name` if the file has one, else the name of the file's folder.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file breaks the format; the message names file, view and key.
    """
    return parse_scene(json_path, read_json(json_path))


def parse_scene(json_path: str | os.PathLike, content: object) -> Scene:
    """Check the content of a scene's JSON; as `read_scene`, which reads it."""
    json_path = Path(os.path.abspath(json_path))
    name, entries = json_path.parent.name, content
    if isinstance(content, dict):
        entries = required(f"{json_path}", content, "frames")
        name = content.get("scene_name", name)
    if not isinstance(entries, list):
        raise InputError(json_path, f"holds {shown(entries)}", "a list of views")
    if not 1 <= len(entries) <= MOST_VIEWS:
        raise InputError(json_path, f"holds {len(entries) or 'no'} views", f"at least one, {MOST_VIEWS} at most")
    _check_name(json_path, name)
    views = _regular_views(json_path, entries)
    if views is None:
        views = tuple(_view(json_path, i, entry) for i, entry in enumerate(entries))
    if json_path.is_symlink():  # in a cache of downloads the images are beside the link, else beside what it leads to
        views = tuple(replace(view, file_path=_found_beside(json_path, view.file_path)) for view in views)
    return Scene(name, json_path, views)


def write_scene(json_path: str | os.PathLike, views: Sequence[View], long_lrm: bool = False) -> None:
    """Write a scene's JSON atomically; nothing is written that `read_scene` would reject.

    Args:
        json_path: the file to write, in the folder that holds all the images.
        views: at least one.
        long_lrm: write `{"scene_name", "frames"}`. The scene's name is that of the folder.

    Raises:
        InputError: a view breaks the format, or the folder's name cannot be a scene's.
        ValueError: there are no views.
    """
    absolute = Path(os.path.abspath(json_path))
    entries = check_views(absolute, views)
    if not entries:
        raise ValueError(f"{absolute}: no views to write")
    write_json(absolute, {"scene_name": absolute.parent.name, "frames": entries} if long_lrm else entries)


def check_views(json_path: str | os.PathLike, views: Sequence[View]) -> list[dict]:
    """Return views as a scene's JSON holds them, once it is certain that `read_scene` would not reject them.

    Args:
        json_path: the scene's file, which need not exist.
        views: of the scene.

    Raises:
        InputError: a view breaks the format, or the folder's name cannot be a scene's.
    """
    absolute = Path(os.path.abspath(json_path))
    entries = [_entry(view, absolute.parent) for view in views]
    for i, entry in enumerate(entries):
        _view(absolute, i, entry)
    _check_name(absolute, absolute.parent.name)
    return entries


def same_views(found: Sequence[View], wanted: Sequence[View]) -> bool:
    """Return whether two lists of views have the same files, sizes and, to 1e-6, cameras: if so, a scene on disk is finished."""
    named = [[(view.file_path.absolute(), view.w, view.h) for view in views] for views in (found, wanted)]
    if named[0] != named[1]:
        return False
    numbers = [np.array([[view.fx, view.fy, view.cx, view.cy, *view.w2c.flat] for view in views]) for views in (found, wanted)]
    return np.allclose(*numbers, rtol=1e-6, atol=1e-6)


def _entry(view: View, folder: Path) -> dict:
    numbers = {key: getattr(view, key) for key in ("w", "h", "fx", "fy", "cx", "cy")}
    numbers = {key: value.item() if isinstance(value, np.generic) else value for key, value in numbers.items()}
    file_path = Path(os.path.relpath(view.file_path, folder)).as_posix()
    return {**numbers, "w2c": np.asarray(view.w2c, dtype=np.float64).tolist(), "file_path": file_path}


def _regular_views(json_path: Path, entries: list) -> tuple[View, ...] | None:
    """Check all views at once, in a fifth of the time that one after another takes; None where any is unusual, for `_view`."""
    try:
        numbers = [(entry["w"], entry["h"], entry["fx"], entry["fy"], entry["cx"], entry["cy"]) for entry in entries]
        rows = [row for entry in entries for row in entry["w2c"]]
        files = [entry["file_path"] for entry in entries]
        if any(len(entry["w2c"]) != 4 for entry in entries):
            return None
        if set(map(type, chain(chain.from_iterable(numbers), chain.from_iterable(rows)))) - {int, float}:
            return None
        cameras, poses = np.array(numbers, dtype=np.float64), np.array(rows, dtype=np.float64).reshape(len(entries), 4, 4)
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    sizes, focals = cameras[:, :2], cameras[:, 2:4]
    in_range = (np.abs(cameras) <= LARGEST_NUMBER).all() and (np.abs(poses) <= LARGEST_NUMBER).all()  # NaN is not
    if not (in_range and (sizes >= 1).all() and (sizes % 1 == 0).all() and (focals >= LEAST_FOCAL).all()):
        return None
    if pose_problem(poses, ORTHONORMAL_TOLERANCE, LAST_ROW_TOLERANCE) is not None or not all(map(_is_simple, files)):
        return None
    try:
        for w, h, *camera in set(map(tuple, cameras.tolist())):
            check_intrinsics("", int(w), int(h), tuple(camera))
    except InputError:
        return None
    poses.flags.writeable = False
    folder = json_path.parent
    return tuple(
        View(folder / file, int(w), int(h), fx, fy, cx, cy, pose)
        for file, (w, h, fx, fy, cx, cy), pose in zip(files, cameras.tolist(), poses, strict=True)
    )


def _is_simple(file: object) -> bool:
    """Return whether a path is certain to stay in the folder it is relative to."""
    return isinstance(file, str) and is_file_path(file) and file[:1] not in ("", ".", "/") and _STEPS.search(file) is None


def _view(json_path: Path, i: int, entry: object) -> View:
    where = f"{json_path}, view {i}"
    if not isinstance(entry, dict):
        raise InputError(where, f"is {shown(entry)}", "an object with w, h, fx, fy, cx, cy, w2c, file_path")
    w, h = (_size(where, entry, key) for key in ("w", "h"))
    fx, fy = (_focal(where, entry, key) for key in ("fx", "fy"))
    cx, cy = (finite_number(f"{where}, {key}", required(where, entry, key)) for key in ("cx", "cy"))
    _check_intrinsics(json_path, where, w, h, (fx, fy, cx, cy))
    w2c = rigid(f"{where}, w2c", required(where, entry, "w2c"))
    file_path = _inside(f"{where}, file_path", json_path.parent, required(where, entry, "file_path"))
    return View(file_path, w, h, fx, fy, cx, cy, w2c)


def _check_intrinsics(json_path: Path, where: str, w: int, h: int, camera: tuple[float, float, float, float]) -> None:
    """Check the intrinsics of a view; where they look like shares of the image, name the command that scales them."""
    try:
        check_intrinsics(where, w, h, camera)
    except InputError as error:
        in_middle = centre_in_corner(w, h, *camera[2:]) and 0.2 < min(camera[2:]) <= max(camera[2:]) < 0.8
        if not (in_middle and max(camera[:2]) <= LARGEST_FOCAL_SHARE):
            raise
        command = f"python {SCRIPT} {shlex.quote(str(json_path))} --intrinsics_size 1 1"
        raise InputError(where, error.found, f"{error.wanted}: {command}") from None


def required(where: str, entry: dict, key: str) -> object:
    """Return the value of a key that an object must have."""
    if key not in entry:
        raise InputError(f"{where}, {key}", "is missing", f"it along with {shown(sorted(entry))}")
    return entry[key]


def finite_number(where: str, value: object) -> float:
    """Return a number of a JSON as float; refuse anything else, infinity and NaN, and numbers beyond `LARGEST_NUMBER`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(where, f"is {shown(value)}", "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(where, f"is {shown(value)}", "a finite number")
    if abs(number) > LARGEST_NUMBER:
        raise InputError(where, f"is {shown(value)}", f"a number between {-LARGEST_NUMBER:g} and {LARGEST_NUMBER:g}")
    return number


def _size(where: str, entry: dict, key: str) -> int:
    number = finite_number(f"{where}, {key}", required(where, entry, key))
    if number < 1 or number != int(number):
        raise InputError(f"{where}, {key}", f"is {shown(entry[key])}", "a whole number of pixels, 1 or more")
    return int(number)


def _focal(where: str, entry: dict, key: str) -> float:
    number = finite_number(f"{where}, {key}", required(where, entry, key))
    if number < LEAST_FOCAL:
        raise InputError(f"{where}, {key}", f"is {shown(entry[key])}", f"a focal length above 0, at least {LEAST_FOCAL:g} pixels")
    return number


def rigid(where: str, value: object, axes: str = "x right, y down, z forward") -> np.ndarray:
    """Return a pose of a JSON (4, 4); refuse anything but 4 rows that are a rotation and a translation. `axes`: for the message."""
    if not (isinstance(value, list) and [_length(row) for row in value] == [4] * 4):
        raise InputError(where, f"is {shown(value)}", "4 rows of 4 numbers")
    pose = np.array([[finite_number(where, number) for number in row] for row in value], dtype=np.float64)
    problem = pose_problem(pose[None], ORTHONORMAL_TOLERANCE, LAST_ROW_TOLERANCE, axes)
    if problem is not None:
        raise InputError(where, problem.found, problem.wanted)
    pose.flags.writeable = False
    return pose


def _inside(where: str, folder: Path, value: object) -> Path:
    """Return the path of a file in a folder.

    The path as written must stay in it. Links on disk may lead anywhere: download caches and data on other disks consist of them,
    and their target is the choice of whoever made them. `..` after a link would leave the folder that the link is in.
    """
    if not isinstance(value, str) or not value or not is_file_path(value):
        raise InputError(where, f"is {shown(value)}", "a path relative to the JSON")
    relative = Path(value)
    # An anchor is a slash at the start; on Windows also a drive.
    if relative.anchor or ".." in relative.parts or not relative.parts:
        raise InputError(where, f"is {shown(value)}", "a file in the folder of the JSON")
    return folder / value


def _found_beside(json_path: Path, file_path: Path) -> Path:
    name = os.path.relpath(file_path, json_path.parent)
    found = find_beside(json_path, name)
    if found is None and looks_like_video(file_path.parent):
        video = find_beside(json_path, os.path.dirname(name))
        found = None if video is None else video / file_path.name
    return found or file_path


def _check_name(json_path: Path, name: object) -> None:
    if not is_folder_name(name):
        raise InputError(f"{json_path}, scene_name", f"is {shown(name)}", "a valid folder name")


def _length(row: object) -> int | None:
    return len(row) if isinstance(row, list) else None
