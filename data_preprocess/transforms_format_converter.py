"""Converter to the unified format of captures with a transforms.json: nerfstudio, instant-ngp, Blender's synthetic scenes.

    python data_preprocess/transforms_format_converter.py --input captures/garden --output data_example/garden

A capture is a folder with a transforms.json, or such a file by any name; --input takes several, or a folder of captures. Photos
are undistorted, transparency is kept. Cameras are turned upright, centred and scaled as `inference.py` expects; --frame says how.
An interrupted conversion continues where it stopped; a finished scene is not done again.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError
from data_preprocess.capture.conversion import Photo, add_flags, convert, photo_name
from data_preprocess.capture.stored_image import read_header
from data_preprocess.capture.transforms import find_image, natural_key, read_transforms
from data_preprocess.capture.world_frame import add_frame_flag, orient
from data_preprocess.command import run_script


def find_captures(inputs: Sequence[Path]) -> dict[str, Path]:
    """Return the transforms.json of each capture, by a name for its scene.

    A capture is called after its folder, and one in a file transforms_PART.json FOLDER_PART.

    Raises:
        FileNotFoundError: one is not there.
        InputError: two have one name.
    """
    captures: dict[str, Path] = {}
    for path in inputs:
        for json_path in _json_paths(Path(os.path.abspath(path))):
            part = json_path.stem.removeprefix("transforms").strip("_")
            name = json_path.parent.name + (f"_{part}" if part else "")
            if name in captures:
                raise InputError("--input", f"has {captures[name]} and {json_path} for the scene {name!r}", "a name for each")
            captures[name] = json_path
    return captures


def _json_paths(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "transforms.json").is_file():
        return [path / "transforms.json"]
    below = sorted(path.glob("*/transforms.json"))
    if not below:
        others = " ".join(str(file) for file in sorted(path.glob("*.json")))
        wanted = "one" + (f", or the file itself, if it is one of {others}" if others else "")
        raise FileNotFoundError(f"{path}: has no transforms.json in it or in its folders; wanted {wanted}")
    return below


def read_photos(json_path: Path, frame: str) -> list[Photo]:
    """Return the photos of one capture, sorted by their names, with cameras as `world_frame.orient` says."""
    folder = json_path.parent
    frames = sorted(read_transforms(json_path), key=lambda entry: natural_key(str(entry.file_path)))
    sources = [find_image(folder, entry) for entry in frames]
    lenses = [entry.lens(read_header(source)[0]) for entry, source in zip(frames, sources, strict=True)]
    w2c = np.linalg.inv(np.stack([entry.opencv_c2w() for entry in frames]))
    try:
        w2c = orient(w2c, frame)
    except InputError as error:
        raise error.within(json_path) from error
    names = [photo_name(source.relative_to(folder)) for source in sources]
    return [Photo(*photo) for photo in zip(sources, names, lenses, w2c, strict=True)]


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert what the command line says; return the problems."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="captures: folders, or files transforms*.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for the scenes")
    parser.add_argument("--data_path_json", type=Path, help="list to write (default: OUTPUT/transforms_data_path.json)")
    add_frame_flag(parser)
    add_flags(parser)
    args = parser.parse_args(argv)
    scenes: dict[str, Callable[[], list[Photo]]] = {
        name: partial(read_photos, json_path, args.frame) for name, json_path in find_captures(args.input).items()
    }
    data_path_json = args.data_path_json or args.output / "transforms_data_path.json"
    return convert(scenes, args.output, data_path_json, args.workers, args.long_lrm)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("transforms_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
