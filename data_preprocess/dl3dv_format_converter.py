"""Converter of downloaded DL3DV scenes to the unified format, by the rules of the published conversion.

    python data_preprocess/dl3dv_format_converter.py

converts data_example/dl3dv_benchmark to data_example/dl3dv_processed and writes data_example/dl3dv_sample_data_path.json. A scene
is a folder HASH with transforms.json and images_4, or with a folder nerfstudio that holds them. Safe to re-run; an interrupted
conversion continues and finished scenes are skipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from config.errors import InputError, missing_file
from config.flags import flag, read_command_line, settings
from data.scene_format import CAMERAS
from data_preprocess.capture.conversion import ConversionSettings, Photo, convert
from data_preprocess.capture.frame_photos import match_photos
from data_preprocess.capture.photo_folder import is_extra
from data_preprocess.capture.photo_names import SIZE_FOLDER, photo_names, without_size_folder
from data_preprocess.capture.stored_image import read_header
from data_preprocess.capture.transforms import Frame, read_transforms
from data_preprocess.command import run_script, say_left_out
from data_preprocess.scene_folder import UNFINISHED
from data_preprocess.shards import read_shard

EXAMPLES = Path(__file__).resolve().parent.parent / "data_example"
STORED, WRITTEN = "images_4", "images_undistort"
HASH = re.compile("[0-9a-f]{64}")
# Folders of a scene in the benchmark's repository; only nerfstudio has a transforms.json.
PARTS = ("nerfstudio", "gaussian_splat")
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


def find_scenes(folder: Path, output: Path | None = None) -> dict[str, Path]:
    """Return the transforms.json of each scene below a folder, by its hash, sorted by path.

    A folder with images and without cameras, or empty and named as scenes are, counts as a scene whose file does not exist, by its
    path.

    Args:
        folder: is searched at any depth.
        output: a folder that is not searched: another process may be creating scenes in it.

    Raises:
        FileNotFoundError: the folder does not exist or has no scenes.
        InputError: two scenes have the same name.
    """
    if not folder.is_dir():
        raise missing_file(folder, "a folder with DL3DV scenes")
    scenes: dict[str, Path] = {}
    complete, incomplete = _scene_folders(folder, output)
    for scene, found in sorted((incomplete | complete).items()):
        name = scene.name if scene in complete else str(found)
        if name in scenes:
            raise InputError(found, f"is the same scene as {scenes[name].parent}", "each scene once")
        scenes[name] = found / "transforms.json"
    if not scenes:
        raise FileNotFoundError(f"{folder}: has no transforms.json below it; wanted scenes as HASH/nerfstudio/transforms.json")
    return scenes


def _scene_folders(folder: Path, output: Path | None) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Return the folders with a transforms.json, and those with only images, each by the folder of the scene."""
    complete: dict[Path, Path] = {}
    incomplete: dict[Path, Path] = {}
    unreadable: list[str] = []
    skipped = None if output is None else Path(os.path.abspath(output))

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename} ({error.strerror})")

    for at, folders, files in os.walk(folder, onerror=note, followlinks=True):
        found = Path(os.path.abspath(at))
        scene = found.parent if found.name in PARTS else found
        images = [name for name in folders if SIZE_FOLDER.fullmatch(name)]
        if "transforms.json" in files:
            complete[scene] = found
            folders.clear()
        elif (images or HASH.fullmatch(found.name)) and not {CAMERAS, UNFINISHED} & set(files):  # no scene converted here
            incomplete.setdefault(scene, found)
        # Hidden ones are downloads in progress.
        kept = (name for name in folders if not (is_extra(name) or name in images or _leads_back(found / name)))
        folders[:] = sorted(name for name in kept if found / name != skipped)
    say_left_out(folder, "folders that cannot be opened", unreadable)
    above = {folder for scene in complete.values() for folder in scene.parents}
    return complete, {scene: found for scene, found in incomplete.items() if scene in complete or scene not in above}


def _leads_back(path: Path) -> bool:
    """Return whether a path is a link to a folder that it is in: following it would not end."""
    return path.is_symlink() and path.resolve() in {folder.resolve() for folder in path.parents}


def read_photos(name: str, json_path: Path) -> list[Photo]:
    """Return the photos of one scene, in the order of its transforms.json; print frames and photos that are left out.

    Raises:
        FileNotFoundError: there is no transforms.json, no `images_4`, or no image.
        InputError: the file breaks its format, or an image is unusable.
    """
    folder = json_path.parent
    if not json_path.is_file():
        images = sorted(path.name for path in folder.iterdir() if SIZE_FOLDER.fullmatch(path.name))
        found = f"has {', '.join(images)} and no transforms.json; wanted it beside them"
        raise FileNotFoundError(f"{folder}: {found if images else f'has no transforms.json; wanted it and {STORED}'}")
    if not (folder / STORED).is_dir():
        raise missing_file(folder / STORED, "the images at a quarter of full size")
    frames = [
        replace(frame, file_path=PurePosixPath(STORED, without_size_folder(frame.file_path)))
        for frame in read_transforms(json_path)
    ]
    matched = match_photos(name, json_path, frames)
    names = photo_names([photo.relative_to(folder) for _, photo in matched], WRITTEN)
    return [_photo(frame, source, written) for (frame, source), written in zip(matched, names, strict=True)]


def published_w2c(frame: Frame) -> np.ndarray:
    """Return (4, 4) camera from world, OpenCV axes, in the world of the published conversion."""
    return np.linalg.inv(WORLD @ frame.c2w @ np.diag([1.0, -1.0, -1.0, 1.0]))


def _photo(frame: Frame, source: Path, name: str) -> Photo:
    frame.opencv_c2w()
    lens = frame.lens(*read_header(source))
    return Photo(source, name, lens, published_w2c(frame), not lens.fisheye)


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the scenes; return the problems."""
    given = read_command_line("dl3dv_format_converter.py", __doc__, (Folders, ConversionSettings), argv)
    folders, conversion = settings(Folders, given), settings(ConversionSettings, given)
    shard = read_shard(conversion.shard)
    data_path_json = folders.data_path_json or (
        folders.output / "dl3dv_data_path.json" if folders.output else EXAMPLES / "dl3dv_sample_data_path.json"
    )
    output = folders.output or EXAMPLES / "dl3dv_processed"
    scenes: dict[str, Callable[[], list[Photo]]] = {
        name: partial(read_photos, name, json_path)
        for name, json_path in find_scenes(folders.input or EXAMPLES / "dl3dv_benchmark", output).items()
    }
    return convert(scenes, output, data_path_json, conversion.workers, conversion.long_lrm, shard)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("dl3dv_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
