"""Conversion of chunks to the unified format, several at a time, each in a thread; folders as its output."""

import abc
import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from config.errors import InputError, line_of
from config.messages import counted, one_line
from data.files import DISK_ERRORS, replace_when_finished
from data.scene_format import View
from data_preprocess.re10k.chunk import StoredScene, content_of, key_of, read_chunk, read_scene
from data_preprocess.scene_folder import SceneFolder


@dataclass(eq=False)
class ChunkResult:
    """What became of a chunk's scenes.

    Args:
        problem: why the chunk cannot be converted.
        held: keys of all its scenes.
        written: files to list.
        scenes, views: numbers of converted ones.
        unusable: why a scene cannot be used, by its key, or by its place where it has none.
        repeated: keys that another scene has, with their place.
        numbered: number of scenes whose images are named by number.
    """

    problem: str | None = None
    held: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    scenes: int = 0
    views: int = 0
    unusable: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    numbered: int = 0

    def add(self, scene: StoredScene) -> None:
        """Count a converted scene."""
        self.scenes += 1
        self.views += len(scene.views)
        self.numbered += not scene.by_time

    @contextlib.contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Note why the block cannot use a scene; a disk that takes no more is no such reason."""
        try:
            yield
        except InputError as error:
            self.unusable[name] = f"{error.where} {error.found}"
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            self.unusable[name] = one_line(error)


class Stopped(Exception):
    """The conversion was interrupted, or has failed in another thread."""


class ChunkConversion(abc.ABC):
    """Conversion of chunks; `convert` may run in several threads, and has one chunk in memory in each.

    Args:
        output: folder for the scenes.
        keys: of the scenes to convert; None for all.
    """

    def __init__(self, output: Path, keys: Collection[str] | None) -> None:
        self.output = output
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
        except (InputError, OSError) as error:
            result.problem = line_of(error)
            return result
        try:
            self.write(chunk, self._scenes(chunk, entries, result), result)
        except Stopped:
            pass
        except InputError as error:
            result.problem = line_of(error)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                self.stopped.set()
                raise
            result.problem = line_of(error)
        return result

    @abc.abstractmethod
    def write(self, chunk: Path, scenes: Iterable[StoredScene], result: ChunkResult) -> None:
        """Write the scenes of a chunk and add them to the result, and to its `unusable` those that cannot be written."""

    def claim(self, key: str) -> bool:
        """Return whether no other scene has had a key so far."""
        mine = object()
        return self._claims.setdefault(key, mine) is mine

    def content_of(self, scene: StoredScene, view: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            Stopped: `stopped` is set.
        """
        if self.stopped.is_set():
            raise Stopped
        return content_of(scene.images[view])

    def _scenes(self, chunk: Path, entries: Sequence[object], result: ChunkResult) -> Iterator[StoredScene]:
        """Yield the usable ones of a chunk's scenes that are to be converted; note the others."""
        for i, entry in enumerate(entries):
            place, scene = f"scene {i} of {chunk.name}", None
            with result.noting(place):
                key = key_of(entry)
                result.held.append(key)
                if self.keys is not None and key not in self.keys:
                    continue
                if not self.claim(key):
                    result.repeated.append(f"{key} ({place})")
                    continue
                assert isinstance(entry, dict)  # it has a key
                with result.noting(key):
                    scene = read_scene(entry)
            if scene is not None:
                yield scene


class FolderConversion(ChunkConversion):
    """Conversion to a folder per scene. Finished scenes are skipped, unfinished ones completed.

    Args:
        output, keys: as in `ChunkConversion`.
        long_lrm: write scenes in Long-LRM's spelling.
    """

    def __init__(self, output: Path, keys: Collection[str] | None, long_lrm: bool) -> None:
        super().__init__(output, keys)
        self.long_lrm = long_lrm

    def write(self, chunk: Path, scenes: Iterable[StoredScene], result: ChunkResult) -> None:
        """Write the files of each scene that are missing."""
        state = chunk.stat()
        source = str(chunk.resolve()), state.st_size, state.st_mtime_ns
        for scene in scenes:
            with result.noting(scene.key):
                folder = SceneFolder(self.output / scene.key, placed_views(scene, self.output / scene.key))
                for i in folder.begin(repr((*source, scene.key))):
                    with replace_when_finished(folder.views[i].file_path) as temporary:
                        temporary.write_bytes(self.content_of(scene, i))
                folder.finish(self.long_lrm)
                result.written.append(folder.json_path)
                result.add(scene)


def placed_views(scene: StoredScene, folder: Path) -> list[View]:
    """Return the views of a scene with their images in a folder."""
    return [replace(view, file_path=folder / view.file_path) for view in scene.views]


def convert_chunks(chunks: Sequence[Path], conversion: ChunkConversion, workers: int) -> list[ChunkResult]:
    """Convert chunks in several threads, with a progress bar; return their results, in their order."""
    results, scenes = [], 0
    progress = tqdm(total=len(chunks), desc="chunks", unit="chunk", leave=False, dynamic_ncols=True)
    with ThreadPoolExecutor(workers) as pool, progress:
        try:
            for result in pool.map(conversion.convert, chunks):
                results.append(result)
                scenes += result.scenes
                progress.set_postfix_str(counted(scenes, "scene"))
                progress.update()
        except BaseException:  # after an interruption, too, chunks that still wait are not converted
            conversion.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return results
