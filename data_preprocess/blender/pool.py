"""Worker processes that render with Blender, each in the environment of `objaverse_requirement.txt`: start, ask, watch, replace.

See `worker.py` for what is said between them.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from config.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
ENVIRONMENT = ROOT / ".blender_env"
REQUIREMENT = ROOT / "data_preprocess" / "objaverse_requirement.txt"
DEBIAN_PACKAGES = "libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1"
# Blender's memory grows from object to object: a fresh process after so many of them.
JOBS_PER_PROCESS = 50


def find_python(given: str | None) -> str:
    """Return the Python of Blender's environment.

    Args:
        given: its path; None takes the environment variable BLENDER_PYTHON, else the folder `.blender_env` of the project.

    Raises:
        FileNotFoundError: there is none.
    """
    python = given or os.environ.get("BLENDER_PYTHON") or str(ENVIRONMENT / "bin" / "python")
    if not Path(python).is_file():
        raise FileNotFoundError(
            f"--blender_python: is {python}, which is not there; wanted the Python of an environment with Blender. To make one: "
            f"python3.11 -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install -r {REQUIREMENT}"
        )
    return os.path.abspath(python)


def clean_environment() -> dict[str, str]:
    """Return the environment variables for a process of Blender's Python, without those that point to another Python's packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "PYTHONNOUSERSITE": "1"}


def read_answer(python: str, line: str) -> dict:
    """Return what a process of Blender's Python says in a line of JSON.

    Raises:
        InputError: it says something else: `python` is another program.
    """
    try:
        answer = json.loads(line)
    except MemoryError:
        raise
    except Exception:  # a parser may raise anything at what another program says
        answer = None
    if not isinstance(answer, dict):
        raise InputError(python, f"answers {line.strip()!r:.80}", "the Python of an environment with Blender")
    return answer


class BlenderPool:
    """Some workers that wait for jobs; a context manager that ends them.

    Args:
        python: of Blender's environment.
        workers: how many, 1 or more.
        threads: that each of them computes with.
        device: `cpu`, or a kind of GPU that Cycles knows; workers take the GPUs of that kind in turn.
        timeout_s: a worker that says nothing for so long is ended.
    """

    def __init__(self, python: str, workers: int, threads: int, device: str, timeout_s: float) -> None:
        self._workers = [_Worker([python, str(WORKER), device, str(threads), str(number)], timeout_s) for number in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> "BlenderPool":
        """Start one worker, so that what is wrong with all of them is known before any work.

        Raises:
            InputError: it does not start.
        """
        try:
            self._workers[0].start()
        except BaseException:  # an interruption, too, leaves no process behind
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they do; jobs of other threads fail."""
        for worker in self._workers:
            worker.stop()

    def render(self, glb: Path, job: dict, on_view: Callable[[int], None]) -> None:
        """Have a job done; may be called by as many threads as there are workers, and more wait.

        Args:
            glb: the object's file.
            job: see `worker.py`, without the file.
            on_view: called with 1 after each picture.

        Raises:
            InputError: what the worker answered, or that it crashed, was ended or did not start.
        """
        worker = self._idle.get()
        try:
            worker.do(glb, job, on_view)
        finally:
            self._idle.put(worker)


class _Worker:
    def __init__(self, command: list[str], timeout_s: float) -> None:
        self._command, self._timeout_s = command, timeout_s
        self._process: subprocess.Popen | None = None
        self._open = contextlib.ExitStack()
        self._jobs, self._timed_out = 0, False

    def start(self) -> None:
        self.stop()
        self._jobs, self._timed_out = 0, False
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by stop)
        self._log = self._open.enter_context(log)
        # A session of its own: an interrupt from the keyboard is for the project's process, which then ends its workers.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
            errors="replace", start_new_session=True, env=clean_environment(),
        )  # fmt: skip
        message = self._hear()
        if message is None:
            raise InputError(self._command[0], f"cannot start Blender ({self._end()})", "an environment in which it starts")
        if "ready" not in message:
            self.stop()
            raise _refusal(self._command[0], message.get("error", "no answer"), message.get("wanted"))

    def do(self, glb: Path, job: dict, on_view: Callable[[int], None]) -> None:
        if self._process is None or self._process.poll() is not None or self._jobs >= JOBS_PER_PROCESS:
            self.start()
        self._jobs += 1
        # A worker that has died since reads nothing; what it died of comes to light when it is heard.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"glb": str(glb.absolute()), **job}) + "\n")
            self._process.stdin.flush()
        while True:
            message = self._hear()
            if message is None:
                raise InputError(glb, f"ended Blender ({self._end()})", "an object that it renders")
            if "done" in message:
                return
            if "error" in message:
                raise InputError(glb, message["error"], message["wanted"])
            on_view(1)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._open.close()

    def _hear(self) -> dict | None:
        """Return the next message, or None from a worker that has ended or is ended for its silence."""
        process = self._process
        watch = threading.Timer(self._timeout_s, self._kill_late, [process])
        watch.daemon = True
        watch.start()
        try:
            line = process.stdout.readline()
        finally:
            watch.cancel()
        return read_answer(self._command[0], line) if line else None

    def _kill_late(self, process: subprocess.Popen) -> None:
        self._timed_out = True
        process.kill()

    def _end(self) -> str:
        """Wait for a process that says no more; return how it ended, and its last words."""
        self._process.kill()
        code = self._process.wait()
        if self._timed_out:
            return f"no sign of it for {self._timeout_s:g} s, the --timeout"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{ended}: {lines[-1][:200]}" if lines else ended


def _refusal(python: str, error: str, wanted: str | None) -> InputError:
    """Return what to do about a worker that says why it does not start: a device that is missing, or an import that failed."""
    if wanted is not None:
        return InputError("--device", error, wanted)
    if "cannot open shared object file" in error:
        library = error.split(":")[0]
        advice = f"it installed; on Debian and Ubuntu: apt-get install {DEBIAN_PACKAGES}"
        return InputError(python, f"needs {library} for Blender, which this machine lacks", advice)
    advice = f"an environment with Blender: {python} -m pip install -r {REQUIREMENT}"
    return InputError(python, f"cannot import Blender ({error})", advice)
