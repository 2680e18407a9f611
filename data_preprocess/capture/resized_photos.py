"""Photos of a capture at another size, in a folder of their own such as images_4, which may have other names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from config.errors import InputError, missing_file
from config.messages import counted, some
from data_preprocess.capture.photo_names import natural_key


def check_photo_folder(images: Path | None, captures: Sequence[Path]) -> None:
    """Check `--images` before captures are read.

    Raises:
        InputError: it is one path for several captures.
    """
    if images is not None and images.is_absolute() and len(captures) > 1:
        raise InputError("--images", f"is one path for {len(captures)} captures", "the name of a folder in each, such as images_4")


def photo_folder(capture: Path, images: Path, alone: bool) -> Path:
    """Return the folder that `--images` names: one in the capture, or else, for a single capture, a path.

    Args:
        capture: its folder.
        images: of `--images`.
        alone: whether it is the only capture, so that a path can be meant.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    inside = capture / images
    if inside.is_dir():
        return inside
    if not images.is_dir() or not alone:
        raise missing_file(inside, "the photos of the capture" + (f", there or in {images}" if alone else ""))
    return images


def find_by_stem(names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Return the file of each name that has the same name up to the suffix, if there is one, and one such name.

    Args:
        names, files: relative to a folder, with forward slashes.
    """
    named, found = defaultdict(list), defaultdict(list)
    for groups, paths in ((named, names), (found, files)):
        for path in paths:
            groups[str(PurePosixPath(path).with_suffix(""))].append(path)
    return {group[0]: found[stem][0] for stem, group in named.items() if len(group) == len(found[stem]) == 1}


def pair_in_order(where: Path, names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Return the file of each name where all names differ: first with first, and so on, as LLFF's and NeRF's programs sort them.

    That the shapes agree is checked where the photos are converted.

    Args:
        where: folder of the files, for messages.
        names, files: relative to a folder, with forward slashes.

    Raises:
        InputError: there are more of one than of the other, or sorted by their numbers they are in another order.
    """
    if len(names) != len(files):
        found = f"holds {counted(len(files), 'photo')} of other names than the {len(names)} of the cameras"
        raise InputError(where, found, "the same names, up to the suffix, or as many in the same order")
    by_letter = dict(zip(sorted(names), sorted(files), strict=True))
    by_number = dict(zip(sorted(names, key=natural_key), sorted(files, key=natural_key), strict=True))
    if by_letter != by_number:
        first = next(name for name in by_letter if by_letter[name] != by_number[name])
        found = f"holds photos of other names, {by_letter[first]} or {by_number[first]} for {first}, sorted by letter or by number"
        raise InputError(where, found, "the same names, up to the suffix")
    return by_letter


def under_other_names(how: str, files: Mapping[str, str], of: int) -> str:
    """Return in words which files stand for a number of names."""
    return f"photos {how} ({len(files)} of {of}): {some([f'{name} is {file}' for name, file in sorted(files.items())])}"
