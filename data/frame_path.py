"""Paths of frames of videos: `clip.mp4/000120` is frame 120, counted from 0 in display order, of the video clip.mp4."""

import os
import re
from pathlib import Path

from config.errors import InputError

# Not by `str.lower`, which makes some letters two.
_VIDEO = re.compile(r"\.(mp4|mov|mkv|webm|avi|m4v)", re.IGNORECASE | re.ASCII)


def split_frame(path: str | os.PathLike) -> tuple[str, str] | None:
    """Split the path of a frame into the video and the frame's number as written, which is not checked.

    Returns:
        None for any other path: what stands before its last part is no regular file, or has no suffix of a video.
    """
    video, number = os.path.split(os.fspath(path))
    return (video, number) if number and looks_like_video(video) and os.path.isfile(video) else None


def looks_like_video(path: str | os.PathLike) -> bool:
    """Return whether a path has the suffix of a video of which frames can be photos."""
    return _VIDEO.fullmatch(os.path.splitext(path)[1]) is not None


def file_behind(path: Path) -> Path:
    """Return the file that a photo is stored in: for a frame its video, for any other path itself."""
    return path if split_frame(path) is None else path.parent


def refuse_frame(path: str | os.PathLike, wanted: str) -> None:
    """Refuse a frame of a video where the bytes of a file are needed.

    Args:
        path: of a photo.
        wanted: for the message.

    Raises:
        InputError: it is one.
    """
    if split_frame(path) is not None:
        raise InputError(path, "is a frame of a video, not a file", wanted)
