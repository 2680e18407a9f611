"""The photo of each frame of a transforms.json. Whatever has no partner, a frame or a photo, is left out and listed."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import InputError, broken_link, missing_file
from config.messages import counted
from data_preprocess.capture.photo_folder import find_spellings, in_other_spelling, is_file
from data_preprocess.capture.photo_names import natural_key
from data_preprocess.capture.stored_image import SUFFIXES, read_header
from data_preprocess.capture.transforms import Frame
from data_preprocess.command import say, say_left_out


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
        wanted = f"it there, with or without {', '.join(SUFFIXES)}: none of {counted(len(frames), 'frame')} has its photo"
        raise missing_file(folder / frames[0].file_path, wanted, within=f"{frames[0].where}, file_path")
    there = {frame for frame, _ in found}
    gone = [_looked_for(folder, frame) for frame in frames if frame not in there]
    say_left_out(scene, "frames without their photo", gone, of=len(frames))
    matched = _each_once(found)
    kept = {frame for frame, _ in matched}
    again = [str(frame.file_path) for frame, _ in found if frame not in kept]
    say_left_out(scene, "frames that repeat another", again, of=len(frames))
    rest = _photos_without_frame(folder, frames, [photo for _, photo in matched])
    say_left_out(scene, f"photos without a frame in {json_path.name}", rest, of=len(rest) + len(matched))
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
        say(f"{scene}: {in_other_spelling(spellings, len(frames))}")
    other = {frame: next((folder / spellings[name] for name in tried if name in spellings), None) for frame, tried in names.items()}
    return [other[frame] if photo is None else photo for frame, photo in zip(frames, photos, strict=True)]


def _looked_for(folder: Path, frame: Frame) -> str:
    """Return the name of a photo that does not exist, with the link that leads nowhere, if there is one."""
    found = broken_link(folder / frame.file_path)
    return f"{frame.file_path}" + (f" ({found})" if found else "")


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
