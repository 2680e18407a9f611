"""Programs of a checkout under attack: how they are started, paused and ended. Linux only.

A program runs as the main file of a forked copy of this interpreter, in which libraries and the checkout's modules are imported
already, so that an attack costs a second and hits the program's own work; `fresh` starts a new interpreter instead, as users do.
"""

import atexit
import contextlib
import itertools
import os
import resource
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.benchmark.attack_verdict import own_lines

# Bytes of memory that any run is given.
MOST_MEMORY = 4 << 30


@dataclass
class Pause:
    """Where a program waits for the attacker: before its `turn`-th opening of a path that holds `path`."""

    path: str
    turn: int = 1


@dataclass
class Run:
    """A running program: its process, and what it has printed; `status` stays None if it has to be killed for taking too long."""

    pid: int
    folder: Path
    printed: Path
    told: Path
    paused: int
    resume: int
    status: int | None = None
    memory: int = 0
    ended: bool = False

    @property
    def stdout(self) -> str:
        return self.printed.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self.told.read_text(encoding="utf-8", errors="replace")

    def wait_for_pause(self, seconds: float = 60) -> bool:
        """Wait until the program pauses; return whether it did."""
        ready, _, _ = select.select([self.paused], [], [], seconds)
        return bool(ready and os.read(self.paused, 1))

    def go_on(self) -> None:
        """End the pause."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.resume, b".")

    def wait_until(self, condition: Callable[[], object], seconds: float = 60) -> bool:
        """Wait until a condition holds; return whether it came to hold before the program ended."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and self.is_alive():
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def is_alive(self) -> bool:
        if not self.ended:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.ended, self.status, self.memory = True, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        return not self.ended

    def send(self, number: int) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    def finish(self, seconds: float = 60) -> int | None:
        """Wait for the end and return the exit status; None after killing a program that takes longer."""
        limit, wait = time.monotonic() + seconds, 0.002
        while self.is_alive() and time.monotonic() < limit:
            time.sleep(wait)
            wait = min(0.05, wait * 1.3)
        late = not self.ended
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # with what it has started
        while self.is_alive():
            time.sleep(0.002)
        if late:
            self.status = None
        for handle in (self.paused, self.resume):
            with contextlib.suppress(OSError):
                os.close(handle)
        return self.status

    def last_words(self) -> str:
        """Return the end of what the program said, in one short line."""
        lines = own_lines(self.stderr) or self.stdout.splitlines()[-1:]
        return " | ".join(lines[-2:])[:200]


class Arena:
    """Place of the attacks: the checkout, a scratch folder for inputs and runs, and the size of everything.

    Args:
        project: the checkout.
        scratch: folder; emptied by whoever made it.
        repeats: factor of the numbers of kills, damaged and mutated files.
    """

    def __init__(self, project: Path, scratch: Path, repeats: float = 1.0) -> None:
        self.project, self.scratch, self.repeats = project.resolve(), scratch, repeats
        self._numbers = itertools.count()

    def many(self, count: int) -> int:
        """Return how many of `count` attacks to run."""
        return max(1, round(count * self.repeats))

    def place(self, base: str | None = None) -> Path:
        """Return a new folder, with the content of one of the folders of inputs."""
        folder = self.scratch / f"run_{next(self._numbers):04d}"
        if base is None:
            folder.mkdir()
        else:
            shutil.copytree(self.scratch / "inputs" / base, folder)
        return folder

    def start(
        self,
        words: Sequence[object],
        folder: Path,
        pause: Pause | None = None,
        fresh: bool = False,
        stdout: int | None = None,
        stderr: int | None = None,
        **environment: str,
    ) -> Run:
        """Start a program of the checkout.

        Args:
            words: the program, relative to the checkout, and its arguments.
            folder: where it runs.
            pause: where it waits for `go_on`.
            fresh: in a new interpreter; it cannot pause then.
            stdout, stderr: file handles to write to, instead of files that `Run` reads.
            environment: more variables.
        """
        number = next(self._numbers)
        printed, told = (self.scratch / f"{number:04d}.{name}" for name in ("stdout", "stderr"))
        printed.touch(), told.touch()
        (paused, tell), (listen, resume) = os.pipe(), os.pipe()
        sys.stdout.flush(), sys.stderr.flush()
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                os.close(paused), os.close(resume)
                out = os.open(printed, os.O_WRONLY) if stdout is None else stdout
                error = os.open(told, os.O_WRONLY) if stderr is None else stderr
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(out, 1), os.dup2(error, 2)
                os.chdir(folder)
                os.environ.update(environment)
                resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
                if fresh:
                    os.execv(sys.executable, [sys.executable, str(self.project / str(words[0])), *map(str, words[1:])])
                if pause:
                    _pause_at(pause, tell, listen)
                _become(self.project, words)
            finally:
                os._exit(70)
        os.close(tell), os.close(listen)
        return Run(pid, folder, printed, told, paused, resume)

    def run(self, words: Sequence[object], folder: Path, seconds: float = 60, **options: Any) -> Run:
        """Run a program to its end."""
        run = self.start(words, folder, **options)
        run.finish(seconds)
        return run

    def call(self, work: Callable[..., object], *arguments: object, seconds: float = 600) -> Run:
        """Call a function in a process of its own; `Run.stdout` is what it prints.

        It may import from the checkout. Whatever computes or decodes runs so: libraries would start threads here, and a program
        forked from a process with threads can find their locks held for ever.
        """
        return self.run([work, *arguments], self.scratch, seconds)

    def prepare(self, work: Callable[..., object], *arguments: object) -> None:
        """Call a function in a process of its own that makes inputs; it must not fail."""
        made = self.call(work, *arguments)
        if made.status != 0:
            raise RuntimeError(f"{work.__name__}: status {made.status}\n{made.stderr}")


def _pause_at(pause: Pause, tell: int, listen: int) -> None:
    left = [pause.turn]

    def hook(event: str, details: tuple) -> None:
        if event == "open" and left[0] and pause.path in str(details[0]):
            left[0] -= 1
            if not left[0]:
                os.write(tell, b".")
                os.read(listen, 1)

    sys.addaudithook(hook)


def _become(project: Path, words: Sequence[object]) -> NoReturn:
    """Run a program, or a function of this script, as the main file of this process, and end like an interpreter."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.stdout, sys.stderr = (open(i, "w", buffering=1 if i == 2 else -1, encoding="utf-8") for i in (1, 2))  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:  # those of the checkout
        del sys.modules[name]
    work = words[0]
    program = project / "train.py" if callable(work) else project / str(work)
    here = {str(Path(__file__).parent), str(Path(__file__).parents[2])}
    sys.path[:] = [str(program.parent), *(path for path in sys.path if path not in here)]
    sys.argv = [str(program), *map(str, words[1:])]
    if program.name == "train.py" and not callable(work):
        import model.training.flops as flops

        flops.matmul_rate = lambda *_: 1e12  # else a third of the time goes into measuring the machine
    status: object = 0
    try:
        work(*words[1:]) if callable(work) else runpy.run_path(str(program), run_name="__main__")
    except SystemExit as end:
        status = 0 if end.code is None else end.code
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException as error:
        traceback.print_exc()
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(int(status) & 255)  # type: ignore[call-overload]


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "6m") -> Iterator[bool]:
    """Mount a small disk at a folder while the block runs; yield whether that is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = (
        not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode
        if shutil.which("mount")
        else False
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder and remove it after the block: `TemporaryDirectory` would also do so at the end of each forked program."""
    folder = Path(tempfile.mkdtemp(prefix="attacks_"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
