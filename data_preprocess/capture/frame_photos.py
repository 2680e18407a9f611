"""The photo of each frame of a transforms.json. Whatever has no partner, a frame or a photo, is left out and listed."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import InputError
from data_preprocess.capture.photo_folder import find_spellings, in_other_spelling, is_file
from data_preprocess.capture.stored_image import SUFFIXES, read_header
from data_preprocess.capture.transforms import Frame, natural_key
from data_preprocess.command import say, some


def match_photos(scene: str, json_path: Path, frames: Sequence[Frame]) -> list[tuple[Frame, Path]]:
    """Return the frames whose photo exists, with the photo, in their order.

    Prints photos under another spelling of their name, frames without a photo, frames that repeat another, and photos without a
    frame in the folders of the others.

    Args:
        scene: its name, for what is printed.
        json_path: the transforms.json.
        frames: of it; at least one.

    Raises:
        FileNotFoundError: no photo exists.
        InputError: two frames have the same photo and different cameras.
    """
    folder = json_path.parent
    photos = [find_photo(folder, frame) for frame in frames]
    if None in photos:
        photos = _with_other_spellings(scene, folder, frames, photos)
    found = [(frame, photo) for frame, photo in zip(frames, photos, strict=True) if photo is not None]
    if not found:
        first = frames[0]
        wanted = f"it there, with or without {', '.join(SUFFIXES)}: no photo of its {len(frames)} frames exists"
        raise FileNotFoundError(f"{first.where}, file_path: is {_looked_for(folder, first, full=True)}; wanted {wanted}")
    if len(found) < len(frames):
        there = {frame for frame, _ in found}
        gone = [_looked_for(folder, frame) for frame in frames if frame not in there]
        say(f"{scene}: {len(gone)} of {len(frames)} frames are without their photo: {some(gone)}")
    matched = _each_once(found)
    if len(matched) < len(found):
        kept = {frame for frame, _ in matched}
        again = [str(frame.file_path) for frame, _ in found if frame not in kept]
        say(f"{scene}: {len(again)} of {len(frames)} frames repeat another frame and are skipped: {some(again)}")
    if rest := _photos_without_frame(folder, frames, [photo for _, photo in matched]):
        say(f"{scene}: {len(rest)} of {len(rest) + len(matched)} photos have no frame in {json_path.name}: {some(rest)}")
    return matched


def find_photo(folder: Path, frame: Frame) -> Path | None:
    """Return a frame's photo, or None if there is none; a name without a suffix gets that of the existing file.

    Links are followed wherever they lead.

    Args:
        folder: of the transforms.json.
        frame: whose photo it is.
    """
    names = [f"{frame.file_path}{suffix}" for suffix in ("", *SUFFIXES, *map(str.upper, SUFFIXES))]
    return next((file for file in (folder / name for name in names) if is_file(file)), None)


def _with_other_spellings(scene: str, folder: Path, frames: Sequence[Frame], photos: Sequence[Path | None]) -> list[Path | None]:
    """Return the photos of frames, also those whose name differs from the frame's in case or in the spelling of accents."""
    taken = [photo.relative_to(folder).as_posix() for photo in photos if photo is not None]
    missing = [frame for frame, photo in zip(frames, photos, strict=True) if photo is None]
    names = {frame: [f"{frame.file_path}{suffix}" for suffix in ("", *SUFFIXES)] for frame in missing}
    # A link to nothing has its name on disk.
    wanted = dict.fromkeys(name for tried in names.values() for name in tried if not os.path.lexists(folder / name))
    spellings = find_spellings([*taken, *wanted], folder)
    if spellings:
        say(f"{scene}: {in_other_spelling('photos', spellings)}")
    other = {frame: next((folder / spellings[name] for name in tried if name in spellings), None) for frame, tried in names.items()}
    return [other[frame] if photo is None else photo for frame, photo in zip(frames, photos, strict=True)]


def _looked_for(folder: Path, frame: Frame, full: bool = False) -> str:
    """Return the path of a photo that does not exist, in words: one that is a link has its target named."""
    path = folder / frame.file_path
    name = str(path if full else frame.file_path)
    if os.path.islink(path):
        return f"{name} (a link to {os.readlink(path)}, which is not there)"
    return f"{name}, which is not there" if full else name


def _each_once(found: Sequence[tuple[Frame, Path]]) -> list[tuple[Frame, Path]]:
    """Return the frames without those that repeat an earlier one."""
    first: dict[Path, Frame] = {}
    for frame, photo in found:
        other = first.setdefault(photo, frame)
        if other is frame:
            continue
        header = read_header(photo)
        if not np.array_equal(frame.c2w, other.c2w) or frame.lens(*header) != other.lens(*header):
            wanted = "each photo once, or with the same camera"
            raise InputError(
                f"{frame.where}, file_path", f"is {frame.file_path}, which has another camera in {other.where}", wanted
            )
    return [(frame, photo) for photo, frame in first.items()]


def _photos_without_frame(folder: Path, frames: Sequence[Frame], photos: Sequence[Path]) -> list[str]:
    """Return the photos in the folders of `photos` that no frame names, as masks and depth are, relative to `folder`."""
    named = {folder / value for frame in frames for value in frame.values.values() if isinstance(value, str)}
    named.update(photos)
    beside = [file for place in {photo.parent for photo in photos} for file in place.iterdir()]
    rest = [file for file in beside if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file not in named]
    return sorted((file.relative_to(folder).as_posix() for file in rest if file.is_file()), key=natural_key)
