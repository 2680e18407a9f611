"""Photos in a folder and its subfolders, what else is there, and photos under another spelling of their names."""

import errno
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from config.errors import InputError
from config.messages import is_plain, some
from data_preprocess.capture.copies import Reduced, find_copies, read_reduced
from data_preprocess.capture.photo_names import natural_key
from data_preprocess.capture.stored_image import SUFFIXES

# Folders of thumbnails, recycled files and other extras that file servers, systems and photo programs keep beside photos.
NO_PHOTOS = {
    "@eadir", "@__thumb", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "__macosx", "thumb", "thumbs", "thumbnail", "thumbnails", "_thumbs", "_thumbnails",
}  # fmt: skip
OTHER_FORMATS = {
    ".heic", ".heif", ".hif", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jfif", ".jpe", ".jp2", ".jxl", ".jxr", ".wdp", ".apng",
    ".ppm", ".pgm", ".pnm", ".tga", ".exr", ".hdr", ".psd", ".insp", ".mpo",
    ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".rwl", ".pef",
    ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf", ".kdc", ".dcr", ".mrw", ".mos", ".mef", ".gpr",
}  # fmt: skip
VIDEOS = {
    ".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg", ".wmv", ".flv", ".insv",
    ".lrv",
}  # fmt: skip
_BROKEN = "links to nothing"


@dataclass(frozen=True, eq=False)
class PhotoFolder:
    """Photos of a folder.

    Args:
        names: relative to the folder, with forward slashes, in natural order.
        left_out: names of the others, some with a reason in brackets, by what they are: a plural for messages.
    """

    names: list[str]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def counts(self) -> str:
        """Return how many files of each kind are left out, or an empty string."""
        return ", ".join(f"{kind} ({len(names)})" for kind, names in self.left_out.items())


def list_photos(folder: Path) -> PhotoFolder:
    """Return the photos in a folder and its subfolders, by their names; links are followed, and no photo is opened."""
    names, left_out = [], defaultdict(list)
    for path, kind in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if kind is None:
            names.append(name)
        else:
            left_out[kind].append(name)
    for group in (names, *left_out.values()):
        group.sort(key=natural_key)
    return PhotoFolder(names, dict(sorted(left_out.items())))


def choose_photos(folder: Path, workers: int, masks: Path | None = None) -> PhotoFolder:
    """Return the photos in a folder that can be used, without copies of each other; all are decoded.

    Args:
        folder: of the photos.
        workers: threads.
        masks: a folder of masks, which are no photos and may be in `folder`.
    """
    listed = list_photos(folder)
    if masks is not None:
        photos = [name for name in listed.names if masks.resolve() not in (folder / name).resolve().parents]
        listed = PhotoFolder(photos, listed.left_out)

    def read(name: str) -> Reduced | str:
        try:
            return read_reduced(folder / name)
        except InputError as error:
            return error.found
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(workers) as pool:
        results = list(
            tqdm(pool.map(read, listed.names), "photos", len(listed.names), leave=False, unit="photo", dynamic_ncols=True)
        )
    damaged = [f"{name} ({found})" for name, found in zip(listed.names, results, strict=True) if isinstance(found, str)]
    whole = [(name, found) for name, found in zip(listed.names, results, strict=True) if not isinstance(found, str)]
    names = [name for name, _ in whole]
    copies = find_copies([folder / name for name in names], [found for _, found in whole])
    left_out = dict(listed.left_out)
    if damaged:
        left_out["photos that cannot be read"] = damaged
    if copies:
        left_out["copies of other photos"] = [f"{names[i]} (of {names[copies[i]]})" for i in sorted(copies)]
    return PhotoFolder([name for i, name in enumerate(names) if i not in copies], left_out)


def is_extra(folder_name: str) -> bool:
    """Return whether a folder of this name is hidden or holds thumbnails, recycled files and the like."""
    return folder_name.startswith(".") or folder_name.casefold() in NO_PHOTOS


def find_spellings(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the names on disk of files that are there only under another spelling.

    Systems and archives spell letters with accents in two ways (Unicode NFC and NFD), and some ignore case. A file is taken if it
    is the only one with the name in another Unicode spelling, or else in another case.

    Args:
        names: relative to the folder, with forward slashes.
        folder: of the files.
    """
    missing = [name for name in names if not is_file(folder / name)]
    taken, found = set(names).difference(missing), {}
    on_disk = [path.relative_to(folder).as_posix() for path, kind in _walk(folder) if kind != _BROKEN] if missing else []
    for spelling in (_composed, lambda name: _composed(name.casefold())):
        spelled, wanted = defaultdict(list), defaultdict(list)
        for name in on_disk:
            if name not in taken:
                spelled[spelling(name)].append(name)
        for name in missing:
            if name not in found:
                wanted[spelling(name)].append(name)
        for key, (first, *more) in wanted.items():
            if not more and len(spelled[key]) == 1:
                found[first] = spelled[key][0]
                taken.add(found[first])
    return found


def in_other_spelling(spellings: Mapping[str, str], of: int) -> str:
    """Return the result of `find_spellings` for a number of names in words."""
    pairs = some([f"{name} is {spelled}" for name, spelled in sorted(spellings.items())])
    return f"photos spelled differently on disk, in case or accents ({len(spellings)} of {of}): {pairs}"


def is_file(path: Path) -> bool:
    """Return whether there is such a file; there is none of a name longer than disks take."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the photos below a folder, with None, and what could be taken for photos, with what it is."""
    unreadable: list[Path] = []
    seen = set()
    for root, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename)), followlinks=True):
        # Links may lead back to a folder above.
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        within = Path(root).relative_to(folder).parts
        for name in files:
            path = Path(root, name)
            if (kind := _kind(path, within)) != "":
                yield path, kind
        for path in unreadable:
            yield path, "folders that cannot be opened"
        unreadable.clear()


def _kind(path: Path, within: Sequence[str]) -> str | None:
    """Return None for a photo, an empty string for what is neither photo nor video, else a plural."""
    suffix = path.suffix.lower()
    if suffix not in {*SUFFIXES, *OTHER_FORMATS, *VIDEOS}:
        return ""
    extra = next((part for part in within if part.casefold() in NO_PHOTOS), None)
    if extra is not None:
        return f"files in folders {extra}"
    if path.name.startswith(".") or any(part.startswith(".") for part in within):
        return "hidden files"
    if path.is_symlink() and not path.exists():
        return _BROKEN
    if not path.is_file():
        return ""
    if suffix in VIDEOS:
        return "videos"
    if suffix in OTHER_FORMATS:
        return "files in formats that are not read"
    return None if is_plain("/".join([*within, path.name])) else "photos with control characters or undecodable bytes in the name"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
