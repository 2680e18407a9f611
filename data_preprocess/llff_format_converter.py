"""Converter of captures with a poses_bounds.npy (LLFF, nerf_llff_data, Mip-NeRF 360) to the unified format.

    python data_preprocess/llff_format_converter.py --input nerf_llff_data/* --images images_4 --output llff

A capture is a folder with poses_bounds.npy and photos in `images`, or in the folder that --images names, at any scale: as many as
there are rows, in the order of their names. Where there is a COLMAP model, colmap_format_converter.py is better: poses_bounds.npy
has no distortion. Cameras are turned upright, centred and scaled as `inference.py` expects; --frame selects the world frame. Safe
to re-run; an interrupted conversion continues and finished scenes are skipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import counted, shown
from data_preprocess.capture.conversion import ConversionSettings, Photo, convert
from data_preprocess.capture.cut_out import CutOutSettings
from data_preprocess.capture.photo_folder import list_photos
from data_preprocess.capture.posed_photos import posed_photos
from data_preprocess.capture.poses_bounds import read_poses_bounds
from data_preprocess.capture.resized_photos import check_photo_folder, photo_folder
from data_preprocess.capture.world_frame import FrameSettings
from data_preprocess.colmap.sparse_model import has_model
from data_preprocess.command import run_script, say, say_left_out
from data_preprocess.shards import read_shard

CAMERAS = "poses_bounds.npy"


@dataclass(frozen=True, kw_only=True)
class Captures:
    """Flags: what to convert, and where it goes."""

    input: tuple[Path, ...] = flag(..., f"captures: folders with {CAMERAS}", group="captures", metavar="DIR")
    images: Path | None = flag(
        None, "photos: the name of a folder in each capture, such as images_4, or a path", metavar="DIR", unset="images"
    )
    output: Path = flag(..., "folder for the scenes")
    data_path_json: Path | None = flag(None, "list to write", unset="OUTPUT/llff_data_path.json")


SETTINGS = (Captures, FrameSettings, ConversionSettings, CutOutSettings)


def read_capture(capture: Path, captures: Captures, frame: str) -> list[Photo]:
    """Return the photos of a capture; print what is left out, and whether there is a better source.

    Args:
        capture: its folder.
        captures: the flags.
        frame: as in `world_frame.orient`.

    Raises:
        FileNotFoundError: there are no cameras, or no such folder of photos.
        InputError: there are more photos than cameras or fewer, the cameras break their format, or the frame is impossible.
    """
    path = capture / CAMERAS
    lenses, w2c = read_poses_bounds(path)
    if captures.images is None:
        folder = photo_folder(capture, Path("images"), alone=False)
    else:
        folder = photo_folder(capture, captures.images, alone=len(captures.input) == 1)
    photos = list_photos(folder)
    for kind, files in photos.left_out.items():
        say_left_out(capture.name, kind, files)
    if len(photos.names) != len(lenses):
        raise InputError(
            folder, f"holds {counted(len(photos.names), 'photo')}", f"one for each of the {len(lenses)} rows of {path}"
        )
    if has_model(capture):
        given = [] if captures.images is None else ["--images", str(captures.images)]
        command = shlex.join(["--input", str(capture), *given, "--output", str(captures.output)])
        advice = f"python data_preprocess/colmap_format_converter.py {command}"
        say(f"{capture.name}: has a COLMAP model, which is better, since it knows the distortion: {advice}")
    # By letter, as LLFF's scripts sort them.
    return posed_photos(folder, sorted(photos.names), lenses, list(w2c), frame, path)


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the captures; return the problems."""
    given = read_command_line("llff_format_converter.py", __doc__, SETTINGS, argv)
    captures, conversion = settings(Captures, given), settings(ConversionSettings, given)
    check_photo_folder(captures.images, captures.input)
    frame, shard = settings(FrameSettings, given).frame, read_shard(conversion.shard)
    cutting = settings(CutOutSettings, given)
    scenes: dict[str, Callable[[], list[Photo]]] = {}
    for capture in captures.input:
        name = os.path.basename(os.path.abspath(capture))
        if name in scenes:
            raise InputError(capture, f"is a second input for the scene {shown(name, 200)}", "a different name for each")
        scenes[name] = partial(read_capture, Path(os.path.abspath(capture)), captures, frame)
    data_path_json = captures.data_path_json or captures.output / "llff_data_path.json"
    return convert(scenes, captures.output, data_path_json, conversion.workers, conversion.long_lrm, shard, cutting, frame)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("llff_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
