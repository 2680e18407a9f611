"""Converter to the unified format of captures whose cameras COLMAP has found, or of plain photos or videos.

    python data_preprocess/colmap_format_converter.py --input captures/garden --output data_example/captures
    python data_preprocess/colmap_format_converter.py --from_images photos/desk walk.mp4 --output data_example/captures

A capture (--input) is a folder with a sparse model, binary or text, in `sparse/0`, in `sparse` or in itself, and with photos in
`images`. --from_images takes folders of photos, and videos, and finds the cameras with COLMAP (pip install pycolmap); its work
stays in OUTPUT_colmap, so that an interrupted run continues. Photos are undistorted, cameras turned upright, centred and scaled as
`inference.py` expects. A finished scene is not done again.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError
from data_preprocess.capture.conversion import Photo, add_flags, convert, photo_name
from data_preprocess.capture.lens import Lens
from data_preprocess.capture.stored_image import SUFFIXES, read_header
from data_preprocess.capture.transforms import natural_key
from data_preprocess.capture.video_frames import draw_frames
from data_preprocess.capture.world_frame import add_frame_flag, orient
from data_preprocess.colmap.sparse_model import Image, find_model, lens_of, read_model
from data_preprocess.colmap.structure_from_motion import CAMERA_MODELS, MATCHING, find_cameras, require_pycolmap
from data_preprocess.command import at_least, cores, run_script

DEFAULT_FRAMES = 120
# Names of photos in a message.
MOST_NAMES = 20
# Flags of one way in only.
_MODEL_FLAGS, _SEARCH_FLAGS = ("images",), ("num_frames", "camera_model", "matching", "min_registered", "seed", "work")
# A turn by 90° clockwise (EXIF orientation 6) or counterclockwise (8), of camera axes.
_TURNS = {6: np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), 8: np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])}


def scene_name(path: Path) -> str:
    """Return what a capture or a video is called: its folder's name above `sparse/0` or `images`, or its own without suffix."""
    path = path.absolute()
    if path.is_file():
        return path.stem
    parts = [part for part in path.parts[1:] if part not in ("sparse", "images", "nerfstudio") and not part.startswith("images_")]
    if path.parent.name == "sparse" and path.name.isdecimal():
        parts.pop()
    return parts[-1] if parts else path.name


def read_capture(capture: Path, images: Path | None, frame: str) -> list[Photo]:
    """Return the photos of a COLMAP reconstruction, and print which photos are not in it.

    Args:
        capture: folder with the model.
        images: folder of the photos; None for `images` beside the model's folders, or the folder itself.
        frame: as in `world_frame.orient`.

    Raises:
        FileNotFoundError: there is no model, or its photos are not there.
        InputError: the model breaks its format, a camera cannot be undistorted, or the frame does not fit.
    """
    model = find_model(capture)
    found = read_model(model)
    folder = _image_folder(capture, model, found) if images is None else images
    missing = [image.name for image in found if not (folder / image.name).is_file()]
    if missing:
        lacks = f"lacks {len(missing)} of the {len(found)} photos of {model} ({_some(missing)})"
        raise FileNotFoundError(f"{folder}: {lacks}; wanted all of them")
    registered = {image.name for image in found}
    if rest := [name for name in list_photos(folder) if name not in registered]:
        _say(f"{scene_name(capture)}: {len(rest)} of {len(rest) + len(found)} photos are not in the model: {_some(rest)}")
    return photos_of(found, folder, frame, where=model)


def search_cameras(source: Path, work: Path, workers: int, num_frames: int, frame: str, **search: object) -> list[Photo]:
    """Return photos, or frames of a video, with the cameras that COLMAP finds, and print which it could not place.

    Args:
        source: folder of photos, or a video.
        work: folder for what is kept between runs.
        workers: threads.
        num_frames: how many to draw from a video.
        frame: as in `world_frame.orient`.
        search: of `structure_from_motion.find_cameras`.

    Raises:
        FileNotFoundError, InputError: as there; there are no photos, or no such video.
    """
    if source.is_dir():
        folder, names = source, list_photos(source)
        if not names:
            raise InputError(source, "holds no photo", f"{', '.join(SUFFIXES)} (other formats: convert them first)")
    else:
        folder = work / "frames"
        names = [file.name for file in draw_frames(source, folder, num_frames)]
    found, others = find_cameras(folder, names, work, workers, **search)
    registered = {image.name for image in found}
    name = scene_name(source)
    lenses = len({image.camera for image in found})
    _say(f"{name}: {len(found)} of {len(names)} photos placed, {lenses} lens{'es' * (lenses != 1)}")
    for group in others:
        _say(f"{name}: {len(group)} photos fit each other only and are left out: {_some(group)}")
    alone = [name for name in names if name not in registered.union(*others)]
    if alone:
        _say(f"{name}: {len(alone)} photos could not be placed and are left out: {_some(alone)}")
    return photos_of(found, folder, frame, where=source)


def photos_of(images: Sequence[Image], folder: Path, frame: str, where: Path) -> list[Photo]:
    """Return registered images in a folder as photos to write, in natural order of their names, upright and oriented.

    Of several that differ in nothing but the suffix, each gets it at the end of its name.
    """
    images = sorted(images, key=lambda image: natural_key(image.name))
    times = Counter(photo_name(image.name) for image in images)
    names, lenses, poses = [], [], []
    for image in images:
        name = photo_name(image.name)
        names.append(name if times[name] == 1 else f"{name}_{Path(image.name).suffix[1:]}")
        try:
            lens = lens_of(image.camera)
        except InputError as error:
            raise error.within(f"{where}, {image.name}") from error
        lens, w2c = make_upright(lens, image.w2c, *read_header(folder / image.name))
        lenses.append(lens)
        poses.append(w2c)
    try:
        poses = orient(np.stack(poses), frame)
    except InputError as error:
        raise error.within(where) from error
    sources = [folder / image.name for image in images]
    return [Photo(*photo) for photo in zip(sources, names, lenses, poses, strict=True)]


def make_upright(lens: Lens, w2c: np.ndarray, stored: tuple[int, int], orientation: int) -> tuple[Lens, np.ndarray]:
    """Turn the camera of a photo that is stored sideways; COLMAP takes photos as they are stored.

    Args:
        lens, w2c: of the photo as COLMAP saw it.
        stored: (h, w) of the file.
        orientation: its EXIF orientation.

    Returns:
        lens and pose of the upright photo, to which `conversion.convert` then turns the pixels. Those given, where the photo is
        upright, or nearly square, or COLMAP saw it upright.
    """
    h, w = stored
    sideways = orientation in _TURNS and (w > h) == (lens.w > lens.h) and max(h, w) > 1.05 * min(h, w)
    if not sideways:
        return lens, w2c
    cx, cy = (lens.h - lens.cy, lens.cx) if orientation == 6 else (lens.cy, lens.w - lens.cx)
    terms = list(lens.distortion)
    if not lens.fisheye and len(terms) > 3:
        p1, p2 = terms[2:4]
        terms[2:4] = (p2, -p1) if orientation == 6 else (-p2, p1)
    turn = np.eye(4)
    turn[:3, :3] = _TURNS[orientation]
    turned = replace(lens, w=lens.h, h=lens.w, fx=lens.fy, fy=lens.fx, cx=cx, cy=cy, distortion=tuple(terms))
    return turned, turn @ w2c


def list_photos(folder: Path) -> list[str]:
    """Return the photos in a folder and in those below it, relative to it, in natural order; hidden ones are left out."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts)]
    return sorted(names, key=natural_key)


def _image_folder(capture: Path, model: Path, images: Sequence[Image]) -> Path:
    above = [capture, *(folder for folder in model.absolute().parents if folder.name not in ("sparse", "distorted"))][:2]
    candidates = [folder for parent in above for folder in (parent / "images", parent)]
    for folder in candidates:
        if any((folder / image.name).is_file() for image in images):
            return folder
    lacks = f"lacks the photos of {model}, such as {images[0].name}"
    raise FileNotFoundError(f"{capture}: {lacks}; wanted them in {candidates[0]} or in --images")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def _say(line: str) -> None:
    # Above the bars that are shown.
    tqdm.write(line)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line. What could be without effect is None unless given.

    Raises:
        InputError: a flag is wrong, or has no effect.
    """
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--input", type=Path, nargs="+", metavar="DIR", help="captures with a COLMAP model")
    way.add_argument("--from_images", type=Path, nargs="+", metavar="PATH", help="folders of photos, or videos")
    add("--images", type=Path, metavar="DIR", help="the photos of the one capture (default: images in it)")
    add("--output", type=Path, required=True, help="folder for the scenes")
    add("--data_path_json", type=Path, help="list to write (default: OUTPUT/colmap_data_path.json)")
    add_frame_flag(parser)
    add_flags(parser)
    add = parser.add_argument_group("with --from_images").add_argument
    add("--num_frames", type=int, help=f"frames to draw from a video (default: {DEFAULT_FRAMES})")
    add("--camera_model", choices=CAMERA_MODELS, help="how lenses distort, in COLMAP's names (default: RADIAL)")
    add("--matching", choices=MATCHING, help="which photos may show the same (default: auto, all pairs of up to 150)")
    add("--min_registered", type=float, metavar="SHARE", help="share of the photos that must be placed (default: 0.5)")
    add("--seed", type=int, help="of COLMAP's random numbers (default: 0)")
    add("--work", type=Path, metavar="DIR", help="folder for COLMAP's files (default: OUTPUT_colmap)")
    args = parser.parse_args(argv)
    useless, mode = (_SEARCH_FLAGS, "--input") if args.input else (_MODEL_FLAGS, "--from_images")
    for flag in useless:
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag}", f"has no effect with {mode}", "it left out")
    if args.images is not None and len(args.input) > 1:
        raise InputError("--images", f"is given with {len(args.input)} captures", "one capture")
    for flag, least in (("workers", 1), ("num_frames", 3), ("seed", 0)):
        at_least(f"--{flag}", getattr(args, flag), least)
    if args.min_registered is not None and not 0 < args.min_registered <= 1:
        raise InputError("--min_registered", f"is {args.min_registered}", "a share above 0, up to 1")
    return args


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert what the command line says; return the problems."""
    args = parse(argv)
    workers = args.workers or cores()
    given = {flag: getattr(args, flag) for flag in ("camera_model", "matching", "min_registered", "seed")}
    search = {flag: value for flag, value in given.items() if value is not None}
    if args.from_images:
        require_pycolmap()
    below = args.work or args.output.absolute().with_name(f"{args.output.absolute().name}_colmap")
    scenes: dict[str, Callable[[], list[Photo]]] = {}
    for path in args.input or args.from_images:
        name = scene_name(path)
        if name in scenes:
            raise InputError(path, f"is a second input for the scene {name!r}", "a name for each")
        if args.input:
            scenes[name] = partial(read_capture, path, args.images, args.frame)
        else:
            num_frames = args.num_frames or DEFAULT_FRAMES
            scenes[name] = partial(search_cameras, path, below / name, workers, num_frames, args.frame, **search)
    data_path_json = args.data_path_json or args.output / "colmap_data_path.json"
    return convert(scenes, args.output, data_path_json, workers, args.long_lrm)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("colmap_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
