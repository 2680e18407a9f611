"""Converter of captures with a COLMAP model, of plain photos and of videos to the unified format.

    python data_preprocess/colmap_format_converter.py --input captures/garden --output data_example/captures
    python data_preprocess/colmap_format_converter.py --from_images photos/desk walk.mp4 --output data_example/captures

A capture (--input) is a folder with a sparse model, binary or text, in `sparse/0`, in `sparse` or in the folder itself, and with
photos in `images`, or in the folder that --images names; of several models, the one with the most photos is used. --from_images
takes folders of photos, and videos, and finds the cameras with COLMAP (pip install pycolmap); its files stay in OUTPUT_colmap, so
that an interrupted run continues. Thumbnails, copies of other photos and unreadable files are left out and listed. Photos are
undistorted, cameras turned upright, centred and scaled as `inference.py` expects. Safe to re-run; finished scenes are skipped.
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

from config.errors import InputError
from config.flags import flag, read_command_line, refuse_without_effect, settings
from config.messages import counted, shown, some
from config.threads import cores
from data_preprocess.capture.conversion import ConversionSettings, Photo, convert
from data_preprocess.capture.cut_out import CutOutSettings
from data_preprocess.capture.masks import mask_folder
from data_preprocess.capture.photo_folder import PhotoFolder, choose_photos, find_spellings, in_other_spelling, is_file, list_photos
from data_preprocess.capture.photo_names import SIZE_FOLDER
from data_preprocess.capture.posed_photos import posed_photos
from data_preprocess.capture.resized_photos import (
    check_photo_folder,
    find_by_stem,
    pair_in_order,
    photo_folder,
    under_other_names,
)
from data_preprocess.capture.stored_image import SUFFIXES
from data_preprocess.capture.video_frames import draw_frames
from data_preprocess.capture.world_frame import FrameSettings
from data_preprocess.colmap.sparse_model import Image, Model, find_models, lens_of, unused_models
from data_preprocess.colmap.structure_from_motion import CAMERA_MODELS, MATCHING, find_cameras, require_pycolmap
from data_preprocess.command import check_one_of, run_script, say, say_left_out
from data_preprocess.scene_folder import refuse_linked_folders
from data_preprocess.shards import read_shard

# Folders of models, which do not give a scene its name.
SPARSE = ("sparse", "colmap_sparse")


@dataclass(frozen=True, kw_only=True)
class Captures:
    """Flags: what to convert, and where it goes."""

    input: tuple[Path, ...] | None = flag(
        None, "captures with a COLMAP model", group="captures", metavar="DIR", unset="none; this or --from_images is required"
    )
    from_images: tuple[Path, ...] | None = flag(
        None, "folders of photos, or videos, whose cameras COLMAP finds", metavar="PATH", unset="none; this or --input is required"
    )
    images: Path | None = flag(
        None, "photos of --input: the name of a folder in each capture, such as images_4, or a path", metavar="DIR", unset="images"
    )
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


SETTINGS = (Captures, FrameSettings, ConversionSettings, CutOutSettings, CameraSearch)


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


def read_capture(capture: Path, images: Path | None, frame: str, alone: bool = True) -> list[Photo]:
    """Return the photos of a COLMAP reconstruction; print what is left out.

    Args:
        capture: folder with the model.
        images: folder of the photos, in the capture or a path; None for `images` next to the model's folders, or the folder itself.
        alone: whether it is the only capture, as in `photo_folder`.
        frame: as in `world_frame.orient`.

    Raises:
        FileNotFoundError: there is no model, or none of its photos.
        InputError: the model breaks its format, a camera cannot be undistorted, photos of other names cannot be paired with the
            model's, or the frame is impossible.
    """
    models = find_models(capture)
    model, name = models[0], scene_name(capture)
    used = f"{model.path} with {counted(len(model.images), 'photo')}"
    say_left_out(name, f"models other than {used}", unused_models(capture, models))
    if images is None:
        folder = _image_folder(capture, model.path, model.images)
    else:
        folder = photo_folder(_capture_folder(capture), images, alone)
    spellings = find_spellings([image.name for image in model.images], folder)
    if spellings:
        say(f"{name}: {in_other_spelling(spellings, len(model.images))}")
    if images is not None:
        missing = [image.name for image in model.images if not is_file(folder / spellings.get(image.name, image.name))]
        spellings |= _resized_photos(capture, model, folder, missing)
    named = [replace(image, name=spellings.get(image.name, image.name)) for image in model.images]
    found = [image for image in named if is_file(folder / image.name)]
    missing = [image.name for image in named if image not in found]
    if not found:
        lacks = f"lacks {len(missing)} of the {counted(len(named), 'photo')} of {model.path} ({some(missing)})"
        raise FileNotFoundError(f"{folder}: {lacks}; wanted them there")
    say_left_out(name, f"photos of the model that are not in {folder}", missing, of=len(named))
    _say_not_registered(name, list_photos(folder), {image.name for image in found})
    return photos_of(found, folder, frame, where=model.path)


def search_cameras(
    source: Path, work: Path, workers: int, frame: str, search: CameraSearch, mask: Path | None = None
) -> list[Photo]:
    """Return photos, or frames of a video, with the cameras that COLMAP finds; print those that are left out.

    Args:
        source: folder of photos, or a video.
        work: folder for files kept between runs.
        workers: threads.
        frame: as in `world_frame.orient`.
        search: how cameras are found.
        mask: folder of masks, as given.

    Raises:
        FileNotFoundError, InputError: as in `structure_from_motion.find_cameras`; there are no photos, or no such video; or there
            is a link in `work`.
    """
    # COLMAP writes into existing files, and old frames are deleted.
    refuse_linked_folders(work.parent, [place / "file" for place in (work, *work.glob("*"))])
    name = scene_name(source)
    if source.is_dir():
        folder, photos = source, choose_photos(source, workers, None if mask is None else mask_folder(mask, source))
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
    lenses = []
    for image in images:
        try:
            lenses.append(lens_of(image.camera))
        except InputError as error:
            raise error.within(f"{where}, {image.name}") from error
    return posed_photos(folder, [image.name for image in images], lenses, [image.w2c for image in images], frame, where)


def _resized_photos(capture: Path, model: Model, folder: Path, missing: Sequence[str]) -> dict[str, str]:
    """Return the files in the folder of --images that stand for photos of a model; print them.

    Programs that scale photos write other formats, so that names differ in their suffix. Where no photo of the model is there,
    files are paired with photos in sorted order: with those in the capture's own folder, since the model may lack some of them, or
    else with those of the model.

    Args:
        capture, model: folder and model.
        folder: the folder of --images.
        missing: photos of the model that are not in it.

    Raises:
        InputError: no name fits, and neither does the number of files.
    """
    name, files = scene_name(capture), list_photos(folder).names
    registered = {image.name for image in model.images}
    found = find_by_stem(missing, [file for file in files if file not in registered])
    if found or len(missing) < len(registered) or not files:
        if found:
            say(f"{name}: {under_other_names('with another suffix', found, len(registered))}")
        return found
    try:
        originals = list_photos(_image_folder(capture, model.path, model.images)).names
    except FileNotFoundError:
        originals = []
    pairs = pair_in_order(folder, originals if registered <= set(originals) else missing, files)
    found = {photo: file for photo, file in pairs.items() if photo in registered}
    say(f"{name}: {under_other_names('of other names, in sorted order', found, len(registered))}")
    return found


def _capture_folder(path: Path) -> Path:
    """Return the folder of a capture: above `sparse/0`, if that was given."""
    path = path.absolute()
    while path.name in SPARSE or path.parent.name in SPARSE:
        path = path.parent
    return path


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
    check_photo_folder(captures.images, captures.input or ())


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the captures; return the problems."""
    given = read_command_line("colmap_format_converter.py", __doc__, SETTINGS, argv)
    captures, search = settings(Captures, given), settings(CameraSearch, given)
    check(captures, given)
    conversion, frame = settings(ConversionSettings, given), settings(FrameSettings, given).frame
    workers, shard = conversion.workers or cores(), read_shard(conversion.shard)
    cutting = settings(CutOutSettings, given)
    if captures.from_images:
        require_pycolmap()
    below = search.work or Path(f"{captures.output.absolute()}_colmap")
    scenes: dict[str, Callable[[], list[Photo]]] = {}
    for path in captures.input or captures.from_images or ():
        name = scene_name(path)
        if name in scenes:
            raise InputError(path, f"is a second input for the scene {shown(name, 200)}", "a different name for each")
        if captures.input:
            scenes[name] = partial(read_capture, path, captures.images, frame, len(captures.input) == 1)
        else:
            scenes[name] = partial(search_cameras, path, below / name, workers, frame, search, cutting.mask)
    data_path_json = captures.data_path_json or captures.output / "colmap_data_path.json"
    return convert(scenes, captures.output, data_path_json, workers, conversion.long_lrm, shard, cutting, frame)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("colmap_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
