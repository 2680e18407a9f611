"""Adjustment of the cameras of scenes, without their photos: other axes, inverse poses, an object's frame, fewer views.

    python data_preprocess/adjust_cameras.py captures/chair/opencv_cameras.json --axes RUB --frame object
    python data_preprocess/adjust_cameras.py captures/objects_data_path.json --scale 0.1

check_scenes.py says which flags a scene needs. Each scene gets a second JSON beside its first, adjusted_cameras.json for
opencv_cameras.json, which every program reads as it reads the first; nothing else is written but the list of them. The flags take
effect in the order of --help. Safe to re-run.
"""

# Letters: v views, h w pixels.

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import counted
from config.paths import find_path
from config.threads import cores
from data.camera_geometry import CONVENTIONS, OPENCV, axes_in_words, to_opencv
from data.files import check_output, write_json
from data.pinhole import LARGEST_FOCAL_SHARE
from data.problems.problem import FLAGS, named
from data.problems.scene import camera_problems
from data.scene_format import LARGEST_NUMBER, Scene, check_views, parse_scene, read_json
from data.scene_list import read_data_path, write_data_path
from data.stored_file import refuse_in_pack
from data_preprocess.capture.world_frame import orient
from data_preprocess.command import LARGEST_SIDE, MOST_WORKERS, run_script, say

PREFIX, LIST = "adjusted_", "data_path"
# Principal points nearer to the middle of the view than this, as a share of its size, are those of the view's own size.
MIDDLE = 0.05


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """Flags: which scenes, and what to adjust, in this order."""

    data_path: Path = flag(..., "list of scenes, or one scene's JSON", group="scenes", positional=True, metavar="DATA_PATH.json")
    data_path_json: Path | None = flag(
        None, "list of the adjusted scenes", unset="NAME_adjusted_data_path.json for NAME_data_path.json, none for a single scene"
    )
    invert: bool = flag(False, "the poses are world from camera, not camera from world", group="adjustment")
    axes: str | None = flag(
        None,
        "where the cameras' x, y and z axes point (Right, Left, Up, Down, Forward, Backward): RUB for OpenGL, Blender and "
        "nerfstudio, DRB for LLFF, FLU for ROS",
        choices=[convention for convention in CONVENTIONS if convention != OPENCV],
        unset=f"{OPENCV}, OpenCV's",
    )
    drop: tuple[int, ...] | None = flag(None, "views to leave out of one scene, numbered from 0", least=0)
    intrinsics_size: tuple[int, int] | None = flag(
        None,
        "height and width of the images that the intrinsics are in pixels of, 1 1 for shares; principal points in the middle stay",
        least=1,
        most=LARGEST_SIDE,
        unset="h and w of the views",
    )
    frame: str | None = flag(
        None,
        "object: z up, origin at the point that the cameras look at, cameras 2.7 away; scene: z up, cameras within a cube of "
        "half-side 1",
        choices=("object", "scene"),
    )
    scale: float | None = flag(None, "factor of the positions", above=0, most=1e9)
    workers: int | None = flag(None, "threads", least=1, most=MOST_WORKERS, group="machine", unset="one per core")


def adjust_scene(json_path: Path, adjustment: Adjustment) -> tuple[Scene, list[str]]:
    """Return an adjusted scene, which is not yet written, and what was done, for the user.

    Raises:
        FileNotFoundError, InputError: the scene cannot be read, or the adjustment is impossible or leaves it invalid.
    """
    content = read_json(json_path)
    done = []
    if adjustment.intrinsics_size is not None:
        content, moved = _rescaled(json_path, content, adjustment.intrinsics_size)
        h, w = adjustment.intrinsics_size
        middle = "" if moved else ", principal points left in the middle"
        done.append(f"intrinsics from {w}×{h} (w×h) to the size of the views{middle}")
    scene = parse_scene(json_path, content)
    w2c = np.stack([view.w2c for view in scene.views])
    if adjustment.invert:
        w2c = np.linalg.inv(w2c)
        done.append("poses inverted")
    if adjustment.axes is not None:
        w2c = np.linalg.inv(to_opencv(np.linalg.inv(w2c), adjustment.axes))
        done.append(f"axes turned from {axes_in_words(adjustment.axes)}")
    kept = _kept(scene, adjustment.drop or ())
    if adjustment.drop:
        done.append(f"{named(sorted(set(adjustment.drop)))} of {len(scene.views)} left out")
    w2c = w2c[kept]
    if adjustment.frame is not None:
        try:
            w2c = orient(w2c, adjustment.frame)
        except InputError as error:
            raise error.within(json_path) from None
        done.append(f"moved into the frame of {'an object' if adjustment.frame == 'object' else 'a scene'}")
    if adjustment.scale is not None:
        w2c[:, :3, 3] *= adjustment.scale
        done.append(f"positions times {adjustment.scale:g}")
    w2c[:, 3] = (0, 0, 0, 1)
    views = tuple(replace(scene.views[i], w2c=pose) for i, pose in zip(kept, w2c, strict=True))
    return Scene(scene.name, adjusted_path(scene.json_path), views), done


def adjusted_path(json_path: Path) -> Path:
    """Return the file for the adjusted cameras of a scene."""
    return json_path.with_name(f"{PREFIX}{json_path.name.removeprefix('opencv_')}")


def list_path(data_path: Path) -> Path:
    """Return the file for the list of adjusted scenes."""
    return data_path.with_name(f"{data_path.stem.removesuffix(f'_{LIST}')}_{PREFIX}{LIST}.json")


def write_adjusted(json_path: Path, adjustment: Adjustment) -> tuple[Path | None, list[str]]:
    """Adjust a scene and write it, in the spelling of its first JSON; print what was done.

    Returns:
        the new JSON, None if the scene cannot be adjusted; and one line for each problem.
    """
    try:
        scene, done = adjust_scene(json_path, adjustment)
        refuse_in_pack(scene.json_path)
        check_output(scene.json_path)
        entries = check_views(scene.json_path, scene.views)
        in_long_lrm = isinstance(read_json(json_path), dict)
        write_json(scene.json_path, {"scene_name": scene.name, "frames": entries} if in_long_lrm else entries)
    except (InputError, OSError) as error:
        return None, [str(error)]
    say(f"{json_path}: {'; '.join(done)}; in {scene.json_path}")
    return scene.json_path, camera_problems(scene, "object" if adjustment.frame == "object" else "scene")


def _kept(scene: Scene, drop: Sequence[int]) -> list[int]:
    v = len(scene.views)
    if max(drop, default=0) >= v:
        raise InputError("--drop", f"is {max(drop)}, but {scene.json_path} has {counted(v, 'view')}", f"0 to {v - 1}")
    kept = sorted(set(range(v)) - set(drop))
    if not kept:
        raise InputError("--drop", f"names all {counted(v, 'view')} of {scene.json_path}", "at least one left")
    return kept


def _rescaled(json_path: Path, content: object, size: tuple[int, int]) -> tuple[object, bool]:
    """Return a scene's JSON with its intrinsics in pixels of its views, and whether the principal points were moved.

    The numbers are scaled before they are checked, since those in shares of the image are refused. What is no number, or is
    missing, is left to the check.
    """
    entries = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        return content, False
    keys = ("w", "h", "fx", "fy", "cx", "cy")
    if not all(_is_number(entry.get(key)) for entry in entries for key in keys):
        return content, False
    if not all(min(entry["w"], entry["h"]) > 0 for entry in entries):
        return content, False
    sizes = {(entry["w"], entry["h"]) for entry in entries}
    if len(sizes) > 1 and size != (1, 1):
        found = f"is one size for the views of {json_path}, which have {len(sizes)}"
        raise InputError("--intrinsics_size", found, "views of one size, or 1 1 for intrinsics in shares of the image")
    largest = max(max(entry["fx"], entry["fy"]) for entry in entries)
    if size == (1, 1) and largest > LARGEST_FOCAL_SHARE:
        found = f"is 1 1, for shares of the image, but {json_path} has a focal length of {largest:g}"
        raise InputError("--intrinsics_size", found, "height and width in pixels")
    middle = all(max(abs(entry["cx"] / entry["w"] - 0.5), abs(entry["cy"] / entry["h"] - 0.5)) < MIDDLE for entry in entries)
    h, w = size
    scaled = []
    for entry in entries:
        across, along = entry["w"] / w, entry["h"] / h
        centre = {} if middle else {"cx": entry["cx"] * across, "cy": entry["cy"] * along}
        scaled.append({**entry, "fx": entry["fx"] * across, "fy": entry["fy"] * along, **centre})
    return ({**content, "frames": scaled} if isinstance(content, dict) else scaled), not middle


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER


def read_adjustment(argv: Sequence[str] | None) -> Adjustment:
    """Read the command line.

    Raises:
        InputError: a flag is out of range, contradicts another, or none says what to adjust.
    """
    given = read_command_line("adjust_cameras.py", __doc__, (Adjustment,), argv)
    _check_flags(given)
    return settings(Adjustment, given)


def _check_flags(given: Mapping[str, Any]) -> None:
    if not any(given.get(name) for name in FLAGS):
        raise InputError("flags", "name nothing to adjust", " or ".join(f"--{name}" for name in FLAGS))
    if "frame" in given and "scale" in given:
        raise InputError("--scale", "has no effect with --frame, which sets the scale", "one of the two")


def _check_places(paths: Sequence[Path]) -> None:
    """Check that no scene is written over another."""
    written: dict[Path, Path] = {}
    inputs = {path.resolve() for path in paths}
    for path in paths:
        target = adjusted_path(path)
        first = written.setdefault(target.resolve(), path)
        if first != path:
            raise InputError(path, f"would be written to {target}, as {first} would", "scenes of other folders or names")
        if target.resolve() in inputs:
            raise InputError(path, f"would be written to {target}, which is listed too", "one of the two")


def work(argv: Sequence[str] | None) -> list[str]:
    """Adjust all scenes of a list; return the problems."""
    adjustment = read_adjustment(argv)
    paths = list(dict.fromkeys(read_data_path(adjustment.data_path)))
    if adjustment.drop and len(paths) > 1:
        raise InputError("--drop", f"numbers the views of one scene, and the list has {len(paths)}", "one scene's JSON")
    _check_places(paths)
    given = Path(find_path(adjustment.data_path)).absolute()
    single = paths == [given]
    target = adjustment.data_path_json or (None if single else list_path(given))
    if target is not None:
        check_output(target)
    with ThreadPoolExecutor(adjustment.workers or cores()) as pool:
        results = list(pool.map(lambda path: write_adjusted(path, adjustment), paths))
    finished = [written for written, _ in results if written is not None]
    if target is not None and finished:
        write_data_path(target, finished)
        print(f"{len(finished)} of {counted(len(paths), 'scene')} in {target}")
    return [problem for _, problems in results for problem in problems]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("adjust_cameras.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
