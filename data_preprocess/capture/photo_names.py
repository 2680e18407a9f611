"""Names of photos: their natural order, and the names of the files that they are written to."""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

# Bytes of a file's name without its suffix where something is appended: disks take 255 with it.
_LONGEST = 240
# Folders of one set of photos in several sizes; images_left is a folder of its own.
SIZE_FOLDER = re.compile(r"images(?:_\d+)?", re.ASCII)


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts frame_2 before frame_10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text)]


def photo_names(file_paths: Sequence[str | os.PathLike], folder: str = "images") -> list[str]:
    """Return a `Photo.name` for each file of a source: below `folder`, with its own subfolders, without suffix.

    A first folder called images or images_N is omitted, unless two photos would then have the same name. Names that differ only in
    their suffix get it appended. Names that are still the same on a disk that ignores case or Unicode's forms are numbered.

    Args:
        file_paths: relative to the source's folder, with forward slashes.
        folder: in the scene's folder.
    """
    paths = [PurePosixPath(path) for path in file_paths]
    short = [without_size_folder(path) for path in paths]
    if len({_on_disk(path) for path in short}) < len({_on_disk(path) for path in paths}):
        short = paths
    bare = [PurePosixPath(folder, path.parent, path.stem).as_posix() for path in short]
    times = Counter(map(_on_disk, bare))
    suffixed = [
        _with(name, path.suffix[1:]) if times[_on_disk(name)] > 1 and path.suffix else name
        for name, path in zip(bare, short, strict=True)
    ]
    return _numbered(suffixed)


def without_size_folder(path: PurePosixPath) -> PurePosixPath:
    """Return a path without a first folder called images or images_N."""
    return PurePosixPath(*path.parts[1:]) if len(path.parts) > 1 and SIZE_FOLDER.fullmatch(path.parts[0]) else path


def _with(name: str, ending: str) -> str:
    """Return a name with `_ending` appended, shortened where no disk would take it."""
    path = PurePosixPath(name)
    room = _LONGEST - len(os.fsencode(f"_{ending}"))
    return (path.parent / f"{os.fsencode(path.name)[:room].decode('utf-8', 'ignore')}_{ending}").as_posix()


def _numbered(names: Sequence[str]) -> list[str]:
    """Return names that differ on every disk: the second of two equal ones gets `_2` appended."""
    taken: set[str] = set()
    different = []
    for name in names:
        candidates = itertools.chain([name], (_with(name, str(number)) for number in itertools.count(2)))
        different.append(next(candidate for candidate in candidates if _on_disk(candidate) not in taken))
        taken.add(_on_disk(different[-1]))
    return different


def _on_disk(path: str | PurePosixPath) -> str:
    """Return what distinguishes a path on disks that ignore case and Unicode's composition, as macOS's and Windows's may."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
