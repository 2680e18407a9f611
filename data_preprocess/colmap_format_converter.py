"""Converter of captures with a COLMAP model, of plain photos and of videos to the unified format.

    python data_preprocess/colmap_format_converter.py --input captures/garden --output data_example/captures
    python data_preprocess/colmap_format_converter.py --from_images photos/desk walk.mp4 --output data_example/captures

A capture (--input) is a folder with a sparse model, binary or text, in `sparse/0`, in `sparse` or in the folder itself, and with
photos in `images`; of several models, the one with the most photos is used. --from_images takes folders of photos, and videos,
and finds the cameras with COLMAP (pip install pycolmap); its files stay in OUTPUT_colmap, so that an interrupted run continues.
Thumbnails, copies of other photos and unreadable files are left out and listed. Photos are undistorted, cameras turned upright,
centred and scaled as `inference.py` expects. Safe to re-run; finished scenes are skipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from config.errors import InputError
from config.flags import flag, read_command_line, refuse_without_effect, settings
from config.messages import counted, shown, some
from config.threads import cores
from data_preprocess.capture.conversion import ConversionSettings, Photo, convert
from data_preprocess.capture.lens import Lens
from data_preprocess.capture.photo_folder import PhotoFolder, choose_photos, find_spellings, in_other_spelling, is_file, list_photos
from data_preprocess.capture.photo_names import SIZE_FOLDER, natural_key, photo_names
from data_preprocess.capture.stored_image import SUFFIXES, read_header
from data_preprocess.capture.video_frames import draw_frames
from data_preprocess.capture.world_frame import FrameSettings, orient
from data_preprocess.colmap.sparse_model import Image, find_models, lens_of, unused_models
from data_preprocess.colmap.structure_from_motion import CAMERA_MODELS, MATCHING, find_cameras, require_pycolmap
from data_preprocess.command import check_one_of, run_script, say, say_left_out
from data_preprocess.scene_folder import refuse_linked_folders
from data_preprocess.shards import read_shard

# Folders of models, which do not give a scene its name.
SPARSE = ("sparse", "colmap_sparse")
# A turn by 90° clockwise (EXIF orientation 6) or counterclockwise (8), of camera axes.
_TURNS = {6: np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), 8: np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])}


@dataclass(frozen=True, kw_only=True)
class Captures:
    """Flags: what to convert, and where it goes."""

    input: tuple[Path, ...] | None = flag(
        None, "captures with a COLMAP model", group="captures", metavar="DIR", unset="none; this or --from_images is required"
    )
    from_images: tuple[Path, ...] | None = flag(
        None, "folders of photos, or videos, whose cameras COLMAP finds", metavar="PATH", unset="none; this or --input is required"
    )
    images: Path | None = flag(None, "photos of the one capture of --input", metavar="DIR", unset="images in it")
    output: Path = flag(..., "folder for the scenes")
    data_path_json: Path | None = flag(None, "list to write", unset="OUTPUT/colmap_data_path.json")


@dataclass(frozen=True)
class CameraSearch:
    """Flags: how COLMAP finds cameras."""

    num_frames: int = flag(120, "frames to draw from a video", least=3, group="with --from_images")
    camera_model: str = flag("RADIAL", "lens model, by its name in COLMAP", choices=CAMERA_MODELS)
    matching: str = flag("auto", "pairs of photos to match; auto is all pairs of up to 150 photos", choices=MATCHING)
    min_registered: float = flag(0.5, "least share of the photos that COLMAP must place", above=0, most=1, metavar="SHARE")
    seed: int = flag(0, "seed of COLMAP's random numbers", least=0, most=2**31 - 1)
    work: Path | None = flag(None, "folder for COLMAP's files", metavar="DIR", unset="OUTPUT_colmap")


SETTINGS = (Captures, FrameSettings, ConversionSettings, CameraSearch)


def scene_name(path: Path) -> str:
    """Return the name of a capture or video: its folder's name above `sparse/0` or `images`, or its own without suffix."""
    path = path.absolute()
    if path.is_file():
        return path.stem
    inner = (*SPARSE, "distorted", "nerfstudio")
    parts = [part for part in path.parts[1:] if part not in inner and not SIZE_FOLDER.fullmatch(part)]
    if path.parent.name in SPARSE and parts[-1:] == [path.name]:
        parts.pop()
    return parts[-1] if parts else path.name


def read_capture(capture: Path, images: Path | None, frame: str) -> list[Photo]:
    """Return the photos of a COLMAP reconstruction; print what is left out.

    Args:
        capture: folder with the model.
        images: folder of the photos; None for `images` next to the model's folders, or the folder itself.
        frame: as in `world_frame.orient`.

    Raises:
        FileNotFoundError: there is no model, or none of its photos.
        InputError: the model breaks its format, a camera cannot be undistorted, or the frame is impossible.
    """
    models = find_models(capture)
    model, name = models[0], scene_name(capture)
    used = f"{model.path} with {counted(len(model.images), 'photo')}"
    say_left_out(name, f"models other than {used}", unused_models(capture, models))
    folder = _image_folder(capture, model.path, model.images) if images is None else images
    spellings = find_spellings([image.name for image in model.images], folder)
    if spellings:
        say(f"{name}: {in_other_spelling(spellings, len(model.images))}")
    named = [replace(image, name=spellings.get(image.name, image.name)) for image in model.images]
    found = [image for image in named if is_file(folder / image.name)]
    missing = [image.name for image in named if image not in found]
    if not found:
        lacks = f"lacks {len(missing)} of the {counted(len(named), 'photo')} of {model.path} ({some(missing)})"
        raise FileNotFoundError(f"{folder}: {lacks}; wanted them there")
    say_left_out(name, f"photos of the model that are not in {folder}", missing, of=len(named))
    _say_not_registered(name, list_photos(folder), {image.name for image in found})
    return photos_of(found, folder, frame, where=model.path)


def search_cameras(source: Path, work: Path, workers: int, frame: str, search: CameraSearch) -> list[Photo]:
    """Return photos, or frames of a video, with the cameras that COLMAP finds; print those that are left out.

    Args:
        source: folder of photos, or a video.
        work: folder for files kept between runs.
        workers: threads.
        frame: as in `world_frame.orient`.
        search: how cameras are found.

    Raises:
        FileNotFoundError, InputError: as in `structure_from_motion.find_cameras`; there are no photos, or no such video; or there
            is a link in `work`.
    """
    # COLMAP writes into existing files, and old frames are deleted.
    refuse_linked_folders(work.parent, [place / "file" for place in (work, *work.glob("*"))])
    name = scene_name(source)
    if source.is_dir():
        folder, photos = source, choose_photos(source, workers)
        for kind, files in photos.left_out.items():
            say_left_out(name, kind, files)
        if not photos.names:
            others = f" ({photos.counts()})" if photos.left_out else ""
            raise InputError(source, f"holds no photos{others}", f"{', '.join(SUFFIXES)} (other formats: convert them first)")
    else:
        folder = work / "frames"
        photos = PhotoFolder([file.name for file in draw_frames(source, folder, search.num_frames)])
    names = photos.names
    options = search.camera_model, search.matching, search.min_registered, search.seed
    found, others = find_cameras(folder, names, work, workers, *options)
    registered = {image.name for image in found}
    lenses = len({image.camera for image in found})
    left_out = f"; left out: {photos.counts()}" if photos.left_out else ""
    say(f"{name}: {len(found)} of {counted(len(names), 'photo')} placed, {lenses} lens{'es' * (lenses != 1)}{left_out}")
    for group in others:
        say_left_out(name, "photos that fit only each other", group, of=len(names))
    alone = [photo for photo in names if photo not in registered.union(*others)]
    say_left_out(name, "photos that could not be placed", alone, of=len(names))
    return photos_of(found, folder, frame, where=source)


def photos_of(images: Sequence[Image], folder: Path, frame: str, where: Path) -> list[Photo]:
    """Return registered images in a folder as photos to write, in natural order of their names, upright and oriented."""
    images = sorted(images, key=lambda image: natural_key(image.name))
    lenses, poses = [], []
    for image in images:
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
    names = photo_names([image.name for image in images])
    return [Photo(*photo) for photo in zip(sources, names, lenses, poses, strict=True)]


def make_upright(lens: Lens, w2c: np.ndarray, stored: tuple[int, int], orientation: int) -> tuple[Lens, np.ndarray]:
    """Turn the camera of a photo that is stored sideways; COLMAP takes photos as stored.

    Args:
        lens, w2c: of the photo as COLMAP saw it.
        stored: (h, w) of the file.
        orientation: its EXIF orientation.

    Returns:
        lens and pose of the upright photo; `conversion.convert` then turns the pixels. Unchanged if the photo is upright, or
        nearly square, or COLMAP saw it upright.
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


def _image_folder(capture: Path, model: Path, images: Sequence[Image]) -> Path:
    """Return the folder of a model's photos, the nearest to the model: an undistorted model in `dense` has its own."""
    outer = [folder for folder in model.absolute().parents if folder.name not in (*SPARSE, "distorted")]
    top = capture.absolute()
    parents = [*outer[: outer.index(top)], capture] if top in outer else [capture, *outer[:1]]
    candidates = [folder for parent in parents for folder in (parent / "images", parent)]
    names = [image.name for image in images]
    for folder in candidates:
        if any((folder / name).is_file() for name in names):
            return folder
    for folder in candidates:
        # Not in a folder above the capture, which may hold anything.
        if (folder.name == "images" or folder == capture) and find_spellings(names, folder):
            return folder
    lacks = f"lacks the photos of {model}, such as {names[0]}"
    raise FileNotFoundError(f"{capture}: {lacks}; wanted them in {candidates[0]} or in --images")


def _say_not_registered(name: str, photos: PhotoFolder, registered: Collection[str]) -> None:
    for kind, files in photos.left_out.items():
        say_left_out(name, kind, [file for file in files if file not in registered])
    rest = [photo for photo in photos.names if photo not in registered]
    say_left_out(name, "photos that are not in the model", rest, of=len(rest) + len(registered))


def check(captures: Captures, given: Collection[str]) -> None:
    """Check flags against each other; `given` has the names of those that were given.

    Raises:
        InputError: the source is missing or given twice, or a flag has no effect.
    """
    check_one_of(given, "input", "from_images", "captures with a COLMAP model, or folders of photos and videos")
    if captures.from_images is not None:
        refuse_without_effect(given, "with --from_images", ["images"])
        return
    refuse_without_effect(given, "with --input", [field.name for field in fields(CameraSearch)])
    if captures.images is not None and captures.input is not None and len(captures.input) > 1:
        raise InputError("--images", f"is given with {len(captures.input)} captures", "one capture")


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the captures; return the problems."""
    given = read_command_line("colmap_format_converter.py", __doc__, SETTINGS, argv)
    captures, search = settings(Captures, given), settings(CameraSearch, given)
    check(captures, given)
    conversion, frame = settings(ConversionSettings, given), settings(FrameSettings, given).frame
    workers, shard = conversion.workers or cores(), read_shard(conversion.shard)
    if captures.from_images:
        require_pycolmap()
    below = search.work or Path(f"{captures.output.absolute()}_colmap")
    scenes: dict[str, Callable[[], list[Photo]]] = {}
    for path in captures.input or captures.from_images or ():
        name = scene_name(path)
        if name in scenes:
            raise InputError(path, f"is a second input for the scene {shown(name, 200)}", "a different name for each")
        if captures.input:
            scenes[name] = partial(read_capture, path, captures.images, frame)
        else:
            scenes[name] = partial(search_cameras, path, below / name, workers, frame, search)
    data_path_json = captures.data_path_json or captures.output / "colmap_data_path.json"
    return convert(scenes, captures.output, data_path_json, workers, conversion.long_lrm, shard)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("colmap_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
