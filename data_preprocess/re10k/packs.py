"""Packs as the output of a conversion of chunks: one for each chunk, so that millions of images are a few thousand files."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from config.errors import InputError, line_of
from config.messages import shown
from data.pack import SUFFIX
from data.pack_writer import pack_note, write_pack
from data.scene_format import CAMERAS, check_views
from data.scene_list import read_pack_list
from data_preprocess.re10k.chunk import StoredScene
from data_preprocess.re10k.conversion import ChunkConversion, ChunkResult, placed_views

_INCOMPLETE = ", without some scenes"


class PackConversion(ChunkConversion):
    """Conversion to a pack per chunk, `OUTPUT/NAME_CHUNK.zip`. Finished packs are recognised by their note and skipped.

    Args:
        output, keys: as in `ChunkConversion`.
        name: NAME.
    """

    def __init__(self, output: Path, keys: Collection[str] | None, name: str) -> None:
        super().__init__(output, keys)
        self.name = name
        self._keys = "all" if keys is None else hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()[:32]

    def pack_of(self, chunk: Path) -> Path:
        """Return the pack of a chunk."""
        return self.output.absolute() / f"{self.name}_{chunk.stem}{SUFFIX}"

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
        """Return the result of a chunk that was converted before, and claim the keys of its scenes; the chunk is not read.

        None if there is no pack, or one that lacks scenes, which could not be used.
        """
        pack, result = self.pack_of(chunk), ChunkResult()
        try:
            note = pack_note(pack)
            match = (
                None
                if note is None
                else re.fullmatch(f"{re.escape(self._made_from(chunk))}; ([0-9]{{1,12}}) views({_INCOMPLETE})?", note)
            )
            if note is not None and match is None:
                found = f"holds {shown(note, 120) if note else 'something else'}"
                raise InputError(pack, found, f"scenes of {self._made_from(chunk)}: another --output or --name, or delete it")
            if match is None or match[2]:
                return None
            result.held = [path.parent.name for path in read_pack_list(pack)]
            result.written, result.scenes, result.views = [pack], len(result.held), int(match[1])
        except (InputError, OSError) as error:
            result.problem = line_of(error)
        for key in result.held:
            self.claim(key)
        return result

    def write(self, chunk: Path, scenes: Iterable[StoredScene], result: ChunkResult) -> None:
        """Write the pack of a chunk, if it has a usable scene."""
        path, usable = self.pack_of(chunk), []
        for scene in scenes:
            with result.noting(scene.key):
                check_views(path / scene.key / CAMERAS, placed_views(scene, path / scene.key))
                usable.append(scene)
        if not usable:
            return
        views = sum(len(scene.views) for scene in usable)
        incomplete = _INCOMPLETE if result.unusable or result.repeated else ""
        with write_pack(path, f"{self._made_from(chunk)}; {views} views{incomplete}") as pack:
            for scene in usable:
                contents = (self.content_of(scene, i) for i in range(len(scene.images)))
                pack.add(scene.key, placed_views(scene, path / scene.key), contents)
        for scene in usable:
            result.add(scene)
        result.written.append(path)

    def _made_from(self, chunk: Path) -> str:
        """Return what a pack depends on: the chunk, by its name and size, so that a copy of it is the same; and the keys."""
        return f"{chunk.name}, {chunk.stat().st_size} bytes, keys: {self._keys}"
