"""Packs as the output of a conversion of chunks: one for each chunk, so that millions of images are a few thousand files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from config.errors import InputError
from config.messages import shown
from data.pack import SUFFIX
from data.pack_writer import pack_note, write_pack
from data.scene_format import CAMERAS, check_views
from data.scene_list import read_pack_list
from data_preprocess.re10k.chunk import StoredScene
from data_preprocess.re10k.conversion import ChunkConversion, ChunkResult, placed_views

# Zip files take so many bytes of comment.
_MOST_NOTE_BYTES = (1 << 16) - 1
_COUNTS = ("scenes", "views", "numbered")


class PackConversion(ChunkConversion):
    """Conversion to a pack per chunk, `OUTPUT/NAME_CHUNK.zip`. Finished packs are recognised by their note and skipped.

    Args:
        output, keys, long_lrm: as in `ChunkConversion`.
        name: NAME.
    """

    def __init__(self, output: Path, keys: Sequence[str] | None, long_lrm: bool, name: str) -> None:
        super().__init__(output, keys, long_lrm)
        self.name = name

    def pack_of(self, chunk: Path) -> Path:
        """Return the pack of a chunk."""
        return self.output / f"{self.name}_{chunk.stem}{SUFFIX}"

    def check_names(self, chunks: Iterable[Path]) -> None:
        """Check that chunks have packs of different names.

        Raises:
            InputError: they have not.
        """
        first: dict[Path, Path] = {}
        for chunk in chunks:
            other = first.setdefault(self.pack_of(chunk), chunk)
            if other is not chunk:
                raise InputError("--input", f"has {other} and {chunk} for {self.pack_of(chunk)}", "chunks of different names")

    def finished(self, chunk: Path) -> ChunkResult | None:
        """Return the result of a chunk that was converted before, from its pack, and claim the keys of its scenes.

        The chunk is not read, but for its size; None if there is no pack.
        """
        pack, result = self.pack_of(chunk), ChunkResult()
        try:
            note = pack_note(pack)
            if note is None:
                return None
            try:
                found = json.loads(note)
                found = found if found["made_from"] == self._made_from(chunk) else None
            except (ValueError, TypeError, KeyError, RecursionError):
                found = None
            if found is None:
                made = f"is not the pack of {chunk} with these flags ({shown(note)})"
                raise InputError(pack, made, "another --output or --name, or the pack deleted")
            result.held = [path.parent.name for path in read_pack_list(pack)] + list(found["unusable"])
            result.unusable, result.repeated, result.written = found["unusable"], found["repeated"], [pack]
            result.scenes, result.views, result.numbered = (found[key] for key in _COUNTS)
        except (InputError, OSError) as error:
            result.problem = str(error)
        for key in result.held:
            self.claim(key)
        return result

    def write(self, chunk: Path, scenes: Iterable[StoredScene], result: ChunkResult) -> None:
        """Write the pack of a chunk, if it has a usable scene."""
        pack_path, usable = self.pack_of(chunk), []
        for scene in scenes:
            folder = pack_path.absolute() / scene.key
            with result.noting(scene.key):
                check_views(folder / CAMERAS, placed_views(scene, folder))
                usable.append(scene)
                result.add(scene)
        if not usable:
            return
        with write_pack(pack_path, self._note(chunk, result)) as pack:
            for scene in usable:
                views = placed_views(scene, pack_path.absolute() / scene.key)
                pack.add(scene.key, views, self._contents(scene), self.long_lrm)
        result.written.append(pack_path)

    def _contents(self, scene: StoredScene) -> Iterator[bytes]:
        return (self.content_of(scene, i) for i in range(len(scene.images)))

    def _made_from(self, chunk: Path) -> list[object]:
        """Return what a pack depends on: the chunk, by its name and size, so that a copy is the same; the keys; the spelling."""
        keys = None if self.keys is None else hashlib.sha256(json.dumps(sorted(self.keys)).encode()).hexdigest()
        return [chunk.name, chunk.stat().st_size, keys, self.long_lrm]

    def _note(self, chunk: Path, result: ChunkResult) -> str:
        """Return what a pack was made from, and what a later run that skips it reports."""
        content = {"made_from": self._made_from(chunk)} | {key: getattr(result, key) for key in _COUNTS}
        unusable, repeated = list(result.unusable.items()), list(result.repeated)
        while len(note := json.dumps({**content, "unusable": dict(unusable), "repeated": repeated})) > _MOST_NOTE_BYTES:
            unusable, repeated = unusable[: len(unusable) // 2], repeated[: len(repeated) // 2]
        return note
