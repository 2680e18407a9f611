"""Signals that end a program: SIGINT (Ctrl-C), SIGTERM (schedulers, torchrun) and SIGHUP (a closed terminal).

A program ends with one line, exit status 128 + the signal's number, and no unfinished files:

- while its modules are imported, at once (`end_at_once`): there is nothing to clean up;
- while it works, by `Interrupted`, raised in the main thread so that `with` and `finally` clean up; or, from `Signals.defer` on, by
  itself: it asks `Signals.received` (`run_interruptibly`);
- once its work is done, as it would without a signal.

A signal that is ignored from the start stays ignored: nohup does so with SIGHUP, a shell with SIGINT in the background.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM) if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Signals this soon after one that was raised are ignored: it is being cleaned up after it. A later one is raised again, since the
# first may have been lost, for example in a destructor.
CLEANING_S = 5.0


class Interrupted(KeyboardInterrupt):
    """A signal, raised in the main thread."""


class Signals:
    """The signals that a program receives while it works.

    Attributes:
        number: of the first one; None before there is one.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._deferred = False
        self._holds, self._due = 0, False
        self._raised_s = -math.inf

    @property
    def received(self) -> bool:
        """Whether there was one."""
        return self.number is not None

    def defer(self) -> None:
        """Only note signals from here on."""
        self._deferred = True

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            Interrupted: unless signals are deferred, held back, or being cleaned up after.
        """
        if self.number is None:
            self.number = number
        _leave_lost_terminal()
        if self._holds:
            self._due = True
        elif not self._deferred and time.monotonic() - self._raised_s >= CLEANING_S:
            self._raised_s = time.monotonic()
            raise Interrupted

    def hold(self) -> None:
        """Hold signals back until `release`."""
        self._holds += 1

    def release(self) -> None:
        """Handle a signal that was held back."""
        self._holds -= 1
        if self._due and not self._holds:
            self._due = False
            self.receive(self.number or signal.SIGINT, None)


# Those of the program that runs in the main thread.
_current: Signals | None = None


def end_at_once() -> None:
    """Let each of the signals end this process with one line. For the start of a program, before imports that take seconds."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _end)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals end the process as `end_at_once` does, in a block in which the main thread waits where Python handles none."""
    if threading.current_thread() is not threading.main_thread() or _current is None:
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)  # gets the number of every signal as it arrives

    def watch() -> None:
        with open(read, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] in SIGNALS:
                    _end(number[0], None)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)


def _end(number: int, frame: FrameType | None) -> None:
    _leave_lost_terminal()
    _tell(f"{Path(sys.argv[0]).name}: interrupted")
    os._exit(128 + number)


def run_interruptibly(program: str, work: Callable[[Signals], int], advice: str = "") -> int:
    """Run a program; return its exit status, 128 + the signal's number with one line on standard error if it was interrupted.

    Args:
        program: its name, at the start of the line.
        work: what it does, in the main thread; returns the exit status.
        advice: end of the line.
    """
    with _catching() as signals:
        with contextlib.suppress(KeyboardInterrupt):
            return work(signals)
        # The frames of the exception are gone, and with them the progress bars that they kept open.
        signals.defer()
        _tell(f"{program}: interrupted{advice}")
        return 128 + (signals.number or signal.SIGINT)


@contextlib.contextmanager
def _catching() -> Iterator[Signals]:
    """Handle the signals in the block. After it, a program that began with `end_at_once` ignores them; others get theirs back."""
    global _current
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():  # signals concern the main thread alone
        yield signals
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    outer, _current = _current, signals
    try:
        for number in handlers:
            signal.signal(number, signals.receive)
        yield signals
    finally:
        signals.defer()
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if handler is _end else handler)
        _current = outer


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold signals back in the block, so that nothing is lost between its making and the variable that is to hold it.

    Processes started in the block hold them back for good, SIGTERM too: the process that started them ends them, by SIGKILL.
    """
    signals = _current if threading.current_thread() is threading.main_thread() else None
    if signals is not None:
        signals.hold()
    try:
        with _blocked():
            yield
    finally:
        if signals is not None:
            signals.release()


def end_workers() -> None:
    """End the processes that multiprocessing started, once one is lost: those from `held` would not end when their pool asks."""
    for process in multiprocessing.active_children():
        process.kill()


def end_with_parent() -> None:
    """End this process, started by multiprocessing, when the one that started it has ended, however that happened."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Block the signals in this thread and in processes that it starts."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tell(line: str) -> None:
    """Print a line on standard error; of several processes, only the first does."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def _leave_lost_terminal() -> None:
    """Discard what is still printed to a terminal that was closed: writing to it raises, which would disturb the clean-up."""
    for output in (1, 2):
        try:
            os.write(output, b"")
        except OSError:
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), output)
