"""Writer of packs: uncompressed zip files that hold scenes of the unified format, see `data/pack.py`.

Unzipped, a pack is a folder with its scenes and a list of them.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from config.errors import InputError, check_file
from data.files import replace_when_finished
from data.pack import Pack
from data.scene_format import CAMERAS, View, check_views
from data.scene_list import PACK_LIST

# Time of all members, the earliest that zip files can state: the same scenes give the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


class PackWriter:
    """A pack that is being written; see `write_pack`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        self.scenes: dict[str, None] = {}  # in order

    def add(self, folder: str, views: Sequence[View], contents: Iterable[bytes], name: str | None = None) -> None:
        """Add a scene; if this raises, write no more to the pack.

        Args:
            folder: of the scene, in the pack.
            views: with paths of images through the pack: `path / folder / "images" / "00000.jpg"`.
            contents: bytes of these images, in this order.
            name: of the scene, if it is not that of the folder.

        Raises:
            InputError: a view breaks the format, the name cannot be a scene's, or the pack has a scene of this name.
        """
        json_path = self.path.absolute() / folder / CAMERAS
        if folder in self.scenes:
            raise InputError(json_path, "is in the pack already", "each scene once")
        entries = check_views(json_path, views)
        content = entries if name in (None, folder) else {"scene_name": name, "frames": entries}
        # The JSON first: after it, the images are found beside it.
        self._write(f"{folder}/{CAMERAS}", json.dumps(content, allow_nan=False).encode())
        for file_path, image in dict(zip((entry["file_path"] for entry in entries), contents, strict=True)).items():
            self._write(f"{folder}/{file_path}", image)
        self.scenes[folder] = None

    def finish(self, note: str) -> None:
        """Add the list of scenes and the note."""
        self._write(PACK_LIST, json.dumps([f"{folder}/{CAMERAS}" for folder in self.scenes], indent=1).encode())
        self._archive.comment = note.encode()

    def _write(self, name: str, content: bytes) -> None:
        self._archive.writestr(zipfile.ZipInfo(name, _TIME), content)


@contextlib.contextmanager
def write_pack(path: str | os.PathLike, note: str) -> Iterator[PackWriter]:
    """Write a pack atomically: it appears under its name when the block ends and everything in it was read back.

    Args:
        path: the file to write.
        note: what it was made from, in a line, which becomes the zip file's comment; see `pack_note`.

    Yields:
        the writer, to whom at least one scene must be added.

    Raises:
        InputError, OSError: as `replace_when_finished`; or what is read back is not what was written.
    """
    path = Path(path)
    with replace_when_finished(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            writer = PackWriter(path, archive)
            yield writer
            writer.finish(note)
        written = Pack(os.fspath(temporary))
        for name in written.names():
            written.read(name)


def pack_note(path: str | os.PathLike) -> str | None:
    """Return the note of a pack; None if there is no pack.

    Raises:
        InputError: there is something else, or the pack is damaged.
    """
    if not os.path.lexists(path):
        return None
    check_file(path, "a pack of scenes")
    return Pack(os.fspath(path)).comment.decode("utf-8", "replace")
