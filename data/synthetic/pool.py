"""Pool of procedural scenes in device memory, renewed by a background thread while training draws from it.

The pool holds a window of an endless sequence of scenes. Training advances the window; the thread renders the next scenes, on a
CUDA stream of its own, so that neither waits for the other as long as the thread keeps ahead. The content of the window depends on
its position alone, not on timing, so that a resumed run sees the same scenes as an uninterrupted one.

Letters: v views of a scene, h w pixels, b samples, n views of a sample.
"""

import contextlib
import dataclasses
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from config.signals import end_with_parent, end_workers, held
from data.synthetic.batch import describe
from data.synthetic.render import render
from data.synthetic.tables import Batch, pack

# Scenes rendered together, and the step of the window: enough to fill a GPU. The same number on every device, so that a run sees
# the same scenes wherever it continues, and always in the same groups, so that a resumed run sees the same pixels.
GROUP = 64
# Rays per pixel.
SAMPLES = 4
# Groups that may be ready, or in progress, beyond the window.
AHEAD = 2

Described = tuple[Batch, np.ndarray, np.ndarray]


class _Closed(Exception):
    """The pool is closed: what its thread is making is not wanted."""


class ScenePool:
    """A window of scenes, each with all its views, as uint8 in the memory of a device.

    Args:
        kind, seed: of the generator, see `describe`.
        scenes: in the window, rounded up to whole groups.
        num_views: v.
        image_size: (h, w).
        device: where images are rendered and kept; cameras stay on the CPU.
        share: (rank, ranks): this process has the scenes rank, rank + ranks, … of the sequence.
        processes: number of processes that describe scenes (19 ms per room); 0: the thread does it.
    """

    def __init__(
        self,
        kind: str,
        seed: int,
        scenes: int,
        num_views: int,
        image_size: tuple[int, int],
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        processes: int = 0,
    ) -> None:
        self.kind, self.seed, self.num_views, self.image_size = kind, seed, num_views, image_size
        self.device, self.share = device, share
        self.group = min(GROUP, scenes)
        self.groups = -(-scenes // self.group)
        self.slots = self.groups + AHEAD
        shape = (self.slots * self.group, num_views)
        self._image = torch.empty(*shape, 3, *image_size, dtype=torch.uint8, device=device)
        self._c2w, self._fxfycxcy = np.empty((*shape, 4, 4), np.float32), np.empty((*shape, 4), np.float32)
        self._executor = _describers(processes)
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._changed = threading.Condition()
        self._first = -1  # first group of the window; -1 before there is one
        self._made = 0  # groups up to this one are ready
        self._ready: dict[int, Any] = {}  # group → event after its rendering
        self._released: Any = None  # event after the last use of slots outside the window
        self._closed, self._problem = False, None
        self._thread: threading.Thread | None = None

    @property
    def scenes(self) -> int:
        """Number of scenes in the window."""
        return self.groups * self.group

    def move(self, scene: int) -> int:
        """Move the window to start at the group of `scene`, never backwards; return its first scene.

        Waits until all scenes of the window have been submitted to the device.

        Raises:
            Exception: the thread's error, where scenes could not be made.
        """
        first = scene // self.group
        with self._changed:
            begins = self._first < 0
            if first > self._first:
                self._first = first
                if self._cuda:  # the first time, too: the pool's memory may have been another tensor's
                    self._released = torch.cuda.current_stream(self.device).record_event()
                self._changed.notify_all()
            if begins:
                self._made = first
                self._thread = threading.Thread(target=self._make_all, name="scene pool", daemon=True)
                self._thread.start()
            self._wait_until_made(first + self.groups, show=begins and self.share[0] == 0)
            ready = [self._ready.pop(group) for group in sorted(self._ready) if group < first + self.groups]
        if self._cuda and ready:
            torch.cuda.current_stream(self.device).wait_event(ready[-1])  # the thread's stream finishes them in order
        return first * self.group

    def draw(self, scenes: Sequence[int], views: np.ndarray) -> dict[str, Tensor]:
        """Return views of scenes in the window.

        Args:
            scenes: b scene numbers.
            views: (b, n) view numbers.

        Returns:
            `image` (b, n, 3, h, w) float32 in 0..1 on the device, without a host sync; `fxfycxcy` (b, n, 4) in pixels and `c2w`
            (b, n, 4, 4), float32 on the CPU.
        """
        slots = self._slots(scenes)
        place = torch.from_numpy(np.stack(np.broadcast_arrays(slots, views)))
        place = place.pin_memory().to(self.device, non_blocking=True) if self._cuda else place
        image = self._image[place[0], place[1]].float() / 255
        return {"image": image, "fxfycxcy": torch.from_numpy(self._fxfycxcy[slots, views]), "c2w": self.c2w(scenes, views)}

    def c2w(self, scenes: Sequence[int], views: np.ndarray) -> Tensor:
        """Return only the poses that `draw` returns."""
        return torch.from_numpy(self._c2w[self._slots(scenes), views])

    def close(self) -> None:
        """Stop the thread and its processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def _slots(self, scenes: Sequence[int]) -> np.ndarray:
        """Return the slots (b, 1) of scenes."""
        return np.array(scenes)[:, None] % (self.slots * self.group)

    def _wait_until_made(self, group: int, show: bool) -> None:
        """Wait until the groups up to this one are made, with or without a progress bar."""
        if self._made >= group:
            return
        with tqdm(total=self.scenes, desc="pool", unit="scene", disable=None if show else True, leave=False) as bar:
            while self._made < group and self._problem is None:
                self._changed.wait()
                bar.update((self._made - self._first) * self.group - bar.n)
        if self._problem is not None:
            raise self._problem

    def _make_all(self) -> None:
        group = self._made
        try:
            with held():  # for the processes that these start
                waiting = [self._described(group + i) for i in range(AHEAD)]
            while True:
                with self._changed:
                    self._changed.wait_for(lambda group=group: self._closed or group < self._first + self.slots)
                    if self._closed:
                        return
                    released = self._released
                waiting.append(self._described(group + AHEAD))
                event = self._make(group, waiting.pop(0)(), released)
                group += 1
                with self._changed:
                    self._made = group
                    if event is not None:
                        self._ready[group - 1] = event
                    self._changed.notify_all()
        except _Closed:
            return
        except Exception as problem:  # of any type: raised again in the thread that waits for the scenes
            if isinstance(problem, BrokenProcessPool):
                end_workers()
            with self._changed:
                self._problem = problem
                self._changed.notify_all()

    def _make(self, group: int, described: Described, released: Any) -> Any:
        """Render a group into its slot; return the event after it, on CUDA."""
        batch, c2w, fxfycxcy = described
        first = group % self.slots * self.group
        slot = slice(first, first + self.group)
        stream = self._stream
        with contextlib.nullcontext() if stream is None else torch.cuda.stream(stream):
            views = render(
                _to(batch, self.device), torch.from_numpy(c2w).to(self.device), torch.from_numpy(fxfycxcy).to(self.device),
                self.image_size, SAMPLES, self._check_open,
            )  # fmt: skip
            if stream is not None and released is not None:
                stream.wait_event(released)
            self._image[slot] = (views["image"].clamp(0, 1) * 255).round().byte()
            event = None if stream is None else stream.record_event()
        self._c2w[slot], self._fxfycxcy[slot] = c2w, fxfycxcy
        return event

    def _check_open(self) -> None:
        if self._closed:
            raise _Closed

    def _described(self, group: int) -> Callable[[], Described]:
        """Start describing a group, in another process if there are any; return a function that returns the result."""
        rank, ranks = self.share
        indices = [(group * self.group + i) * ranks + rank for i in range(self.group)]
        arguments = (self.kind, self.seed, indices, self.num_views, self.image_size)
        return self._executor.submit(_describe_group, *arguments).result if self._executor else partial(_describe_group, *arguments)


def _describe_group(kind: str, seed: int, indices: list[int], num_views: int, image_size: tuple[int, int]) -> Described:
    scenes, poses, cameras = zip(*(describe(kind, seed, i, num_views, image_size) for i in indices), strict=True)
    return pack(scenes), np.stack(poses).astype(np.float32), np.stack(cameras).astype(np.float32)


def _describers(processes: int) -> Executor | None:
    if processes == 0:
        return None
    with held():  # starts a process that cleans up after the others
        return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_describer)


def _start_describer() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _to(value: Any, device: torch.device) -> Any:
    """Return a dataclass of tensors, or of such dataclasses, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value):
        return type(value)(*(_to(getattr(value, field.name), device) for field in dataclasses.fields(value)))
    return value
