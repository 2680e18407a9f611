"""Files of the camera paths that are drawn in the viewer."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import InputError
from config.rendering import Video
from model.keyframes import KeyframePath
from model.nerfstudio_path import (
    camera_path_dict,
    parse_keyframes,
    read_dataparser_transform,
    read_keyframes,
    write_camera_path,
)

MOST_BYTES = 64 << 20
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 100


@dataclass(frozen=True, eq=False)
class PathFiles:
    """Where camera paths are saved, and in which frame.

    Attributes:
        folder: for `save`; None: paths are only downloaded.
        first: the path that the first scene begins with, in the capture's frame.
        from_capture: (4, 4) the similarity from the capture's frame into that of the files.
    """

    folder: Path | None = None
    first: KeyframePath | None = None
    from_capture: np.ndarray = field(default_factory=lambda: np.eye(4))

    @classmethod
    def of(cls, video: Video, folder: Path) -> "PathFiles":
        """Return the files as `--camera_path` and `--camera_path_frame` say; raises what reading them does."""
        moved = np.eye(4) if video.camera_path_frame is None else read_dataparser_transform(*video.camera_path_frame)
        first = None if video.camera_path is None else read_keyframes(video.camera_path).moved(np.linalg.inv(moved))
        return cls(folder, first, moved)

    def read(self, content: bytes, name: str) -> KeyframePath:
        """Return a path from a file's content, in the capture's frame.

        Raises:
            InputError: it is too large, or not a camera path.
        """
        if len(content) > MOST_BYTES:
            raise InputError(name, f"has {len(content) >> 20} MiB", f"{MOST_BYTES >> 20} MiB at most")
        return parse_keyframes(content, name).moved(np.linalg.inv(self.from_capture))

    def content(self, path: KeyframePath) -> dict[str, Any]:
        """Return what a file of a path in the capture's frame holds."""
        return camera_path_dict(path.moved(self.from_capture))

    def save(self, path: KeyframePath, name: str) -> Path:
        """Write a path in the capture's frame; return the file."""
        assert self.folder is not None
        file = self.folder / file_name(name)
        write_camera_path(file, path.moved(self.from_capture))
        return file


def file_name(name: str) -> str:
    """Return the file name for what somebody typed into a browser: no folders, nothing hidden."""
    return f"{_NOT_IN_NAMES.sub('_', name).strip('._')[:_LONGEST_NAME] or 'camera_path'}.json"
