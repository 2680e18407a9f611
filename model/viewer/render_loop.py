"""The thread that renders what browsers look at: the latest pose of each, coarse while it moves, fine once it rests.

It knows nothing of networks and browsers: a function draws, another one delivers.
"""

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from model.viewer.window import Pose

# A camera that has not moved for this long is at rest.
REST_S = 0.15
# A fine frame gives way to other browsers this often, then it is finished.
MOST_DEFERRALS = 3
# A browser at rest that has waited this long for a fine frame comes before those that move.
PATIENCE_S = 0.5
# Browsers that moved this recently share the target rate of frames.
ACTIVE_S = 0.5

Draw = Callable[[Pose, int, Callable[[], bool]], np.ndarray | None]


@dataclass
class Quality:
    """Sizes of frames, in rows of pixels; changed by the panel, read by the loop.

    Attributes:
        fine, coarse: heights at rest and in motion.
        coarse_first: render coarse frames in motion at all.
        automatic: let `target_fps` choose the coarse height.
        target_fps: frames per second in motion.
        least, step: smallest height, and what heights are multiples of.
    """

    fine: int
    coarse: int
    coarse_first: bool = True
    automatic: bool = True
    target_fps: float = 20.0
    least: int = 16
    step: int = 4


@dataclass(frozen=True, eq=False)
class Picture:
    """A rendered frame.

    Attributes:
        pixels: (h, w, 3) uint8.
        pose: what it shows.
        seconds: time to render it.
        asked_s: when the pose came, on the clock of `time.monotonic`.
        fine: whether it has the fine size.
    """

    pixels: np.ndarray
    pose: Pose
    seconds: float
    asked_s: float
    fine: bool


@dataclass
class _Browser:
    pose: Pose
    asked: int = 1  # number of its latest pose
    shown: int = 0  # number of the latest pose rendered at any size
    fine: int = 0  # number of the latest pose rendered at the fine size
    asked_s: float = field(default_factory=time.monotonic)
    served_s: float = -math.inf
    refreshed: bool = False  # at rest, and to be rendered once more
    deferrals: int = 0


class RenderLoop:
    """The thread.

    Args:
        draw: renders a pose at a height; asks its third argument between steps whether the frame is abandoned, and returns None if
            it is, or if there is nothing to render yet.
        deliver: receives a browser's key and a picture, in this thread; it must be quick.
        failed: receives a browser's key and an exception of `draw`. The pose that raised it is not tried again.
        quality: sizes of frames.
    """

    def __init__(
        self,
        draw: Draw,
        deliver: Callable[[Hashable, Picture], None],
        failed: Callable[[Hashable, Exception], None],
        quality: Quality,
    ) -> None:
        self._draw, self._deliver, self._failed, self.quality = draw, deliver, failed, quality
        self._browsers: dict[Hashable, _Browser] = {}
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="render", daemon=True)
        self._thread.start()

    def ask(self, key: Hashable, pose: Pose) -> None:
        """Show a browser a new pose; one that is waiting is dropped."""
        with self._changed:
            browser = self._browsers.get(key)
            if browser is None:
                self._browsers[key] = _Browser(pose)
            else:
                browser.pose, browser.asked, browser.asked_s = pose, browser.asked + 1, time.monotonic()
                browser.refreshed, browser.deferrals = False, 0
            self._changed.notify()

    def forget(self, key: Hashable) -> None:
        """Drop a browser that has gone."""
        with self._changed:
            self._browsers.pop(key, None)
            self._changed.notify()

    def refresh(self) -> None:
        """Render what all browsers look at once more: the scene or the sizes have changed."""
        with self._changed:
            for browser in self._browsers.values():
                browser.refreshed = browser.shown > 0 and time.monotonic() - browser.asked_s >= REST_S
                browser.asked += 1
            self._changed.notify()

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task in this thread, before the next frame."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; a frame in the works is abandoned."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                job = None
                while not self._closed and not self._tasks and (job := self._next()) is None:
                    self._changed.wait(self._until_rest())
                if self._closed:
                    return
                task = self._tasks.popleft() if self._tasks else None
            if task is not None:
                self._run_task(task)
            elif job is not None:
                key, browser, fine = job
                self._serve(key, browser, fine)

    @staticmethod
    def _run_task(task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:  # one browser's task must not end the thread that serves all of them
            traceback.print_exc()

    def _next(self) -> tuple[Hashable, _Browser, bool] | None:
        """Return whom to serve next, and whether with a fine frame: who has waited longest for any frame, then for a fine one."""
        now = time.monotonic()
        waiting = [key for key, browser in self._browsers.items() if browser.shown < browser.asked]
        resting = [
            key
            for key, browser in self._browsers.items()
            if browser.shown == browser.asked > browser.fine and now - browser.asked_s >= REST_S
        ]
        starved = [key for key in resting if now - self._browsers[key].served_s > PATIENCE_S]
        for keys in (starved, waiting, resting):
            if keys:
                key = min(keys, key=lambda key: self._browsers[key].served_s)
                browser = self._browsers[key]
                return key, browser, keys is not waiting or not self._coarser or browser.refreshed
        return None

    @property
    def _coarser(self) -> bool:
        """Whether frames in motion are coarser than those at rest."""
        return self.quality.coarse_first and self.quality.coarse < self.quality.fine

    def _until_rest(self) -> float | None:
        """Return the seconds until a moving camera counts as at rest; None if none moves."""
        now = time.monotonic()
        left = [browser.asked_s + REST_S - now for browser in self._browsers.values() if browser.fine < browser.asked]
        return max(min(left), 0.001) if left else None

    def _serve(self, key: Hashable, browser: _Browser, fine: bool) -> None:
        with self._changed:
            number, pose, asked_s = browser.asked, browser.pose, browser.asked_s
            # Frames in motion are finished even if the camera moves on: else nothing would be shown.
            needed = not fine or not self._coarser
            in_motion = browser.shown < number and not browser.refreshed

        def abandoned() -> bool:
            if self._closed:
                return True
            if needed:
                return False
            others = any(other.shown < other.asked for other in list(self._browsers.values()) if other is not browser)
            return browser.asked != number or (others and browser.deferrals < MOST_DEFERRALS)

        start = time.perf_counter()
        try:
            pixels = self._draw(pose, self.quality.fine if fine else self.quality.coarse, abandoned)
        except Exception as error:  # whatever it is, the other browsers go on
            self._failed(key, error)
            browser.shown = browser.fine = number
            return
        seconds = time.perf_counter() - start
        with self._changed:
            browser.served_s = time.monotonic()
            if pixels is None:
                if abandoned():
                    browser.deferrals += 1
                else:  # there is nothing to show yet: `refresh` tells when there is
                    browser.shown = browser.fine = number
                return
            browser.shown = number
            browser.fine = number if fine else browser.fine
            if in_motion:
                self._adapt(seconds)
        self._deliver(key, Picture(pixels, pose, seconds, asked_s, fine))

    def _adapt(self, seconds: float) -> None:
        """Move the coarse height towards the one that meets the target rate; by steps, and only if it is clearly off."""
        q = self.quality
        if not q.automatic or not q.coarse_first:
            return
        now = time.monotonic()
        active = sum(now - browser.asked_s < ACTIVE_S for browser in self._browsers.values())
        ratio = 1 / (q.target_fps * max(1, active) * max(seconds, 1e-4))
        if 0.8 < ratio < 1.5:
            return
        wanted = q.coarse * min(max(math.sqrt(ratio), 0.5), 1.25)
        rows = math.floor(wanted / q.step) * q.step if ratio < 1 else math.ceil(wanted / q.step) * q.step
        q.coarse = min(max(rows, q.least), q.fine)
