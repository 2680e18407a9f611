"""Conversion of chunks to scenes of the unified format, several chunks at a time, one chunk per thread in memory."""

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from config.errors import InputError
from config.messages import shown_key
from data.files import DISK_ERRORS, replace_when_finished
from data_preprocess.re10k.chunk import StoredScene, content_of, key_of, read_chunk, read_scene
from data_preprocess.scene_folder import SceneFolder


@dataclass(eq=False)
class ChunkResult:
    """What became of a chunk's scenes.

    Args:
        problem: why the chunk cannot be read.
        held: keys of all its scenes.
        finished: JSON files of the converted ones.
        views: number of their views.
        unusable: keys of those that cannot be used, with the reason in brackets.
        repeated: keys that another scene has.
        numbered: keys of scenes whose images are named by number.
    """

    problem: str | None = None
    held: list[str] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    views: int = 0
    unusable: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    numbered: list[str] = field(default_factory=list)


class ChunkConversion:
    """Conversion of chunks to scene folders; `convert` may run in several threads.

    Args:
        output: folder for the scenes.
        keys: of the scenes to convert; None for all.
        long_lrm: write scenes in Long-LRM's spelling.
    """

    def __init__(self, output: Path, keys: Collection[str] | None, long_lrm: bool) -> None:
        self.output, self.long_lrm = output, long_lrm
        self.keys = None if keys is None else frozenset(keys)
        self.stopped = threading.Event()
        self._claims: dict[str, object] = {}

    def convert(self, chunk: Path) -> ChunkResult:
        """Convert a chunk, or the part of it until `stopped` is set.

        Raises:
            OSError: the disk takes no more; `stopped` is set then.
        """
        result = ChunkResult()
        try:
            entries = read_chunk(chunk)
            state = chunk.stat()
        except (InputError, OSError) as error:
            result.problem = str(error)
            return result
        source = str(chunk.resolve()), state.st_size, state.st_mtime_ns
        for i, entry in enumerate(entries):
            if self.stopped.is_set():
                break
            self._convert_entry(entry, f"scene {i} of {chunk.name}", source, result)
        return result

    def _convert_entry(self, entry: object, place: str, source: tuple[str, int, int], result: ChunkResult) -> None:
        """Convert a scene of a chunk and add it to the result."""
        name = place
        try:
            key = name = key_of(entry)
            result.held.append(key)
            if self.keys is not None and key not in self.keys:
                return
            mine = object()
            if self._claims.setdefault(key, mine) is not mine:
                result.repeated.append(f"{key} ({place})")
                return
            assert isinstance(entry, dict)  # it has a key
            scene = read_scene(entry)
            json_path = self._write(scene, source)
        except InputError as error:
            result.unusable.append(f"{shown_key(name)} ({error.where} {error.found})")
        except OSError as error:
            if error.errno in DISK_ERRORS:
                self.stopped.set()
                raise
            result.unusable.append(f"{shown_key(name)} ({error})")
        else:
            if json_path is None:
                return
            result.finished.append(json_path)
            result.views += len(scene.views)
            if not scene.by_time:
                result.numbered.append(key)

    def _write(self, scene: StoredScene, source: tuple[str, int, int]) -> Path | None:
        """Write the files of a scene that are missing; return its JSON, or None once `stopped` is set."""
        path = self.output / scene.key
        folder = SceneFolder(path, [replace(view, file_path=path / view.file_path) for view in scene.views])
        for i in folder.begin(repr((*source, scene.key))):
            if self.stopped.is_set():
                return None
            with replace_when_finished(folder.views[i].file_path) as temporary:
                temporary.write_bytes(content_of(scene.images[i]))
        folder.finish(self.long_lrm)
        return folder.json_path


def convert_chunks(chunks: Sequence[Path], conversion: ChunkConversion, workers: int) -> list[ChunkResult]:
    """Convert chunks in several threads, with a progress bar; return their results, in their order."""
    results = []
    progress = tqdm(total=len(chunks), desc="chunks", unit="chunk", leave=False, dynamic_ncols=True)
    with ThreadPoolExecutor(workers) as pool, progress:
        try:
            for result in pool.map(conversion.convert, chunks):
                results.append(result)
                progress.set_postfix(scenes=sum(len(done.finished) for done in results))
                progress.update()
        except BaseException:  # after an interruption, too, chunks that still wait are not converted
            conversion.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return results
