"""Converter of captures with a transforms.json (nerfstudio, instant-ngp, Blender's synthetic scenes) to the unified format.

    python data_preprocess/transforms_format_converter.py --input captures/garden --output data_example/garden

A capture is a folder with a transforms.json, or such a file of any name; --input takes several, or a folder of captures. Photos
are undistorted, transparency is kept. Cameras are turned upright, centred and scaled as `inference.py` expects; --frame selects
how. Safe to re-run; an interrupted conversion continues and finished scenes are skipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import shown
from data.scene_format import CAMERAS
from data_preprocess.capture.conversion import ConversionSettings, Photo, convert
from data_preprocess.capture.cut_out import CutOutSettings
from data_preprocess.capture.frame_photos import match_photos
from data_preprocess.capture.photo_folder import is_extra
from data_preprocess.capture.photo_names import natural_key, photo_names
from data_preprocess.capture.stored_image import SUFFIXES, read_header
from data_preprocess.capture.transforms import read_transforms
from data_preprocess.capture.world_frame import FrameSettings, orient
from data_preprocess.command import run_script, say_left_out
from data_preprocess.scene_folder import UNFINISHED
from data_preprocess.shards import read_shard


@dataclass(frozen=True, kw_only=True)
class Captures:
    """Flags: what to convert, and where it goes."""

    input: tuple[Path, ...] = flag(..., "captures: folders, or files transforms*.json", group="captures")
    output: Path = flag(..., "folder for the scenes")
    data_path_json: Path | None = flag(None, "list to write", unset="OUTPUT/transforms_data_path.json")


SETTINGS = (Captures, FrameSettings, ConversionSettings, CutOutSettings)


def find_captures(inputs: Sequence[Path], masks: Path | None = None) -> dict[str, Path]:
    """Return the transforms.json of each capture, by the name of its scene.

    A capture is named after its folder; one in a file transforms_PART.json is named FOLDER_PART. A folder of masks is none.

    Raises:
        FileNotFoundError: there is no capture.
        InputError: two have the same name.
    """
    captures: dict[str, Path] = {}
    for path in inputs:
        for json_path in _json_paths(Path(os.path.abspath(path)), masks):
            part = json_path.stem.removeprefix("transforms").strip("_")
            name = json_path.parent.name + (f"_{part}" if part else "")
            if name in captures:
                raise InputError(
                    "--input", f"has {captures[name]} and {json_path} for the scene {shown(name, 200)}", "a different name for each"
                )
            captures[name] = json_path
    return captures


def _json_paths(path: Path, masks: Path | None) -> list[Path]:
    if path.is_file():
        return [path]
    own = path / "transforms.json"
    below = sorted(file for file in path.glob("*/transforms.json") if not is_extra(file.parent.name))
    if own.is_file():
        say_left_out(path, "captures in subfolders of a capture", [str(file) for file in below])
        return [own]
    if not below:
        raise FileNotFoundError(f"{path}: has no transforms.json in it or in its subfolders; wanted {_or_another(path)}")
    others = [folder / "transforms.json" for folder in path.iterdir() if not (masks and folder.resolve() == masks.resolve())]
    return sorted([*below, *(file for file in others if file not in below and _holds_photos(file.parent))])


def _or_another(folder: Path) -> str:
    others = " ".join(str(file) for file in sorted(folder.glob("*.json")))
    return "one" + (f", or the file itself, if it is one of {others}" if others else "")


def _holds_photos(folder: Path) -> bool:
    """Return whether a folder has photos at any depth; hidden folders, thumbnails and converted scenes do not count."""
    if is_extra(folder.name) or not folder.is_dir():
        return False
    for _, folders, files in os.walk(folder):
        converted = bool({CAMERAS, UNFINISHED} & set(files))
        folders[:] = [] if converted else [name for name in folders if not is_extra(name)]
        if not converted and any(Path(file).suffix.lower() in SUFFIXES for file in files):
            return True
    return False


def read_photos(scene: str, json_path: Path, frame: str) -> list[Photo]:
    """Return the photos of one capture, sorted by name, with cameras moved by `world_frame.orient`.

    Prints frames and photos that are left out.

    Raises:
        FileNotFoundError: there is no transforms.json, or no photo.
        InputError: the file breaks its format, a photo is unusable, or the frame is impossible.
    """
    folder = json_path.parent
    if not json_path.is_file():
        raise FileNotFoundError(f"{folder}: has photos and no transforms.json; wanted {_or_another(folder)}")
    frames = sorted(read_transforms(json_path), key=lambda entry: natural_key(str(entry.file_path)))
    matched = match_photos(scene, json_path, frames)
    lenses = [entry.lens(*read_header(source)) for entry, source in matched]
    w2c = np.linalg.inv(np.stack([entry.opencv_c2w() for entry, _ in matched]))
    try:
        w2c = orient(w2c, frame)
    except InputError as error:
        raise error.within(json_path) from error
    sources = [source for _, source in matched]
    relative = [source.relative_to(folder) for source in sources]
    posed = zip(sources, photo_names(relative), lenses, w2c, relative, strict=True)
    return [Photo(*photo, relative=path.as_posix()) for *photo, path in posed]


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the captures; return the problems."""
    given = read_command_line("transforms_format_converter.py", __doc__, SETTINGS, argv)
    captures, conversion = settings(Captures, given), settings(ConversionSettings, given)
    frame, shard = settings(FrameSettings, given).frame, read_shard(conversion.shard)
    cutting = settings(CutOutSettings, given)
    scenes: dict[str, Callable[[], list[Photo]]] = {
        name: partial(read_photos, name, json_path, frame)
        for name, json_path in find_captures(captures.input, cutting.mask).items()
    }
    data_path_json = captures.data_path_json or captures.output / "transforms_data_path.json"
    return convert(scenes, captures.output, data_path_json, conversion.workers, conversion.long_lrm, shard, cutting, frame)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("transforms_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
