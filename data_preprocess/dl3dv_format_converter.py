"""Converter of downloaded DL3DV scenes to the unified format, by the rules of the published conversion.

    python data_preprocess/dl3dv_format_converter.py

converts data_example/dl3dv_benchmark to data_example/dl3dv_processed and writes data_example/dl3dv_sample_data_path.json. A scene
is a folder HASH with transforms.json and images_4, or with a folder nerfstudio that holds them. Safe to re-run; an interrupted
conversion continues and finished scenes are skipped.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.errors import InputError, missing_file
from config.flags import flag, read_command_line, settings
from data_preprocess.capture.conversion import ConversionSettings, Photo, convert, photo_name
from data_preprocess.capture.stored_image import read_header
from data_preprocess.capture.transforms import Frame, find_image, read_transforms
from data_preprocess.command import run_script

EXAMPLES = Path(__file__).resolve().parent.parent / "data_example"
STORED, WRITTEN = "images_4", "images_undistort"
# The world of the published conversion: x and y are swapped, and z is reversed.
WORLD = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Folders:
    """Flags: where scenes are read and written."""

    input: Path | None = flag(None, "folder with the scenes, at any depth", group="folders", unset="data_example/dl3dv_benchmark")
    output: Path | None = flag(None, "folder for the converted scenes", unset="data_example/dl3dv_processed")
    data_path_json: Path | None = flag(
        None, "list to write", unset="data_example/dl3dv_sample_data_path.json, or with --output OUTPUT/dl3dv_data_path.json"
    )


def find_scenes(folder: Path) -> dict[str, Path]:
    """Return the transforms.json of each scene below a folder, by its hash, sorted by path.

    Raises:
        FileNotFoundError: the folder does not exist or has no scenes.
        InputError: two scenes have the same name.
    """
    if not folder.is_dir():
        raise missing_file(folder, "a folder with DL3DV scenes")
    scenes: dict[str, Path] = {}
    for at, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # downloads in progress
        if "transforms.json" not in files:
            continue
        folders.clear()
        found = Path(os.path.abspath(at))
        name = found.parent.name if found.name == "nerfstudio" else found.name
        if name in scenes:
            raise InputError(found, f"is the same scene as {scenes[name].parent}", "each scene once")
        scenes[name] = found / "transforms.json"
    if not scenes:
        raise FileNotFoundError(f"{folder}: has no transforms.json below it; wanted scenes as HASH/nerfstudio/transforms.json")
    return scenes


def read_photos(json_path: Path) -> list[Photo]:
    """Return the photos of one scene, in the order of its transforms.json.

    Raises:
        FileNotFoundError: there is no `images_4`, or an image is missing.
        InputError: the file breaks its format, or an image is unusable.
    """
    if not (json_path.parent / STORED).is_dir():
        raise missing_file(json_path.parent / STORED, "the images at a quarter of full size")
    return [_photo(json_path.parent, frame) for frame in read_transforms(json_path)]


def published_w2c(frame: Frame) -> np.ndarray:
    """Return (4, 4) camera from world, OpenCV axes, in the world of the published conversion."""
    return np.linalg.inv(WORLD @ frame.c2w @ np.diag([1.0, -1.0, -1.0, 1.0]))


def _photo(folder: Path, frame: Frame) -> Photo:
    frame.opencv_c2w()
    parts = frame.file_path.parts
    source = find_image(folder, frame, PurePosixPath(STORED, *(parts[1:] if parts[0].startswith("images") else parts)))
    lens = frame.lens(read_header(source)[0])
    return Photo(source, photo_name(source.relative_to(folder), WRITTEN), lens, published_w2c(frame), not lens.fisheye)


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the scenes; return the problems."""
    given = read_command_line("dl3dv_format_converter.py", __doc__, (Folders, ConversionSettings), argv)
    folders, conversion = settings(Folders, given), settings(ConversionSettings, given)
    data_path_json = folders.data_path_json or (
        folders.output / "dl3dv_data_path.json" if folders.output else EXAMPLES / "dl3dv_sample_data_path.json"
    )
    scenes: dict[str, Callable[[], list[Photo]]] = {
        name: partial(read_photos, json_path)
        for name, json_path in find_scenes(folders.input or EXAMPLES / "dl3dv_benchmark").items()
    }
    output = folders.output or EXAMPLES / "dl3dv_processed"
    return convert(scenes, output, data_path_json, conversion.workers, conversion.long_lrm)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("dl3dv_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
