"""Files of scenes, wherever they are: in a folder, or in a pack (`data/pack.py`), whose paths look as if it were a folder.

Frames of videos (`data/frame_path.py`), whose paths do so too, are no files: their state and size are those of the video.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO

from config.errors import InputError, check_file, missing_file
from data.frame_path import refuse_frame, split_frame
from data.pack import open_pack, split_path


def read_file(path: str | os.PathLike, wanted: str = "a file") -> bytes:
    """Return the bytes of a file.

    Args:
        path: of a file, or through a pack.
        wanted: what it should be, for the message.

    Raises:
        FileNotFoundError: there is no such file, or none in the pack.
        InputError: it is not a regular file, or the pack or its member is damaged.
    """
    place = split_path(path)
    if place is not None:
        return open_pack(place[0]).read(place[1])
    refuse_frame(path, wanted)
    check_file(path, wanted)
    return Path(path).read_bytes()


def open_file(path: str | os.PathLike, wanted: str = "a file") -> BinaryIO:
    """Open a file for reading, as `read_file` finds it; of a file on disk, nothing is read yet."""
    if split_path(path) is not None:
        return io.BytesIO(read_file(path, wanted))
    refuse_frame(path, wanted)
    check_file(path, wanted)
    return Path(path).open("rb")


def is_there(path: str | os.PathLike) -> bool:
    """Return whether there is a file or folder, or a file in a pack.

    Raises:
        InputError: the pack is damaged.
    """
    place = split_path(path)
    return os.path.exists(path) if place is None else place[1] in open_pack(place[0])


def file_state(path: str | os.PathLike, wanted: str = "a file") -> tuple[int, int]:
    """Return modification time and size, of what is in a pack or video those of that: others mean that it has changed.

    Raises:
        FileNotFoundError: there is no such file or pack.
    """
    place = split_path(path) or split_frame(path)
    try:
        state = os.stat(path if place is None else place[0])
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(path, wanted) from None
    return state.st_mtime_ns, state.st_size


def file_size(path: str | os.PathLike) -> int:
    """Return the bytes of a file, of a frame its video's.

    Raises:
        FileNotFoundError: there is no such file, or none in the pack.
        InputError: the pack is damaged.
    """
    place = split_path(path)
    return file_state(path)[1] if place is None else open_pack(place[0]).size(place[1])


def refuse_in_pack(path: str | os.PathLike) -> None:
    """Refuse a path through a pack where a file is to be written.

    Raises:
        InputError: it is one.
    """
    place = split_path(path)
    if place is not None:
        raise InputError(path, "would be written into a pack", f"a scene in a folder: unzip {Path(place[0]).name} first")
