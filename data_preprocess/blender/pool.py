"""Pool of Blender worker processes in the environment of `objaverse_requirement.txt`: start, send jobs, watch, replace.

See `worker.py` for the protocol.
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
from config.messages import shown
from config.signals import held

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
ENVIRONMENT = ROOT / ".blender_env"
REQUIREMENT = ROOT / "data_preprocess" / "objaverse_requirement.txt"
DEBIAN_PACKAGES = "libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1"
# Blender's memory grows from object to object: a fresh process after this many.
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
            f"--blender_python: is {python}, which is not there; wanted the Python of an environment with Blender. To create one: "
            f"python3.11 -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install -r {REQUIREMENT}"
        )
    return os.path.abspath(python)


def clean_environment() -> dict[str, str]:
    """Return environment variables for Blender's Python, without those that point to another Python's packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "PYTHONNOUSERSITE": "1"}


def read_answer(python: str, line: str) -> dict:
    """Parse a line of JSON from a process of Blender's Python.

    Raises:
        InputError: it is something else: `python` is another program.
    """
    try:
        answer = json.loads(line)
    except MemoryError:
        raise
    except Exception:  # a parser may raise anything at another program's output
        answer = None
    if not isinstance(answer, dict):
        raise InputError(python, f"answers {shown(line.strip(), 80)}", "the Python of an environment with Blender")
    return answer


class BlenderPool:
    """Workers that wait for jobs; a context manager that ends them.

    Args:
        python: of Blender's environment.
        workers: number of workers, 1 or more.
        threads: number of threads per worker.
        device: `cpu`, or a kind of GPU known to Cycles; workers take the GPUs of that kind in turn.
        timeout_s: a worker silent for this long is ended.
    """

    def __init__(self, python: str, workers: int, threads: int, device: str, timeout_s: float) -> None:
        self._workers = [_Worker([python, str(WORKER), device, str(threads), str(number)], timeout_s) for number in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> "BlenderPool":
        """Start one worker, so that a problem common to all surfaces before any work.

        Raises:
            InputError: it does not start.
        """
        try:
            self._workers[0].start()
        except BaseException:  # leave no process running after an interruption either
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers immediately; jobs of other threads fail."""
        for worker in self._workers:
            worker.stop()

    def render(self, glb: Path, job: dict, on_view: Callable[[int], None]) -> None:
        """Run a job on an idle worker, waiting for one if necessary; safe to call from several threads.

        Args:
            glb: the object's file.
            job: see `worker.py`, without the file.
            on_view: called with 1 after each picture.

        Raises:
            InputError: the worker reported an error, crashed, was ended or did not start.
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
        with held():  # in a separate session: signals reach only the parent process, which then ends its workers
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
        # A worker that has died since reads nothing; the cause is found when its answer is read.
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
        """Return the next message, or None from a worker that has ended or is ended after a timeout."""
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
        """Wait for a process that has stopped answering; return how it ended, and its last line of output."""
        self._process.kill()
        code = self._process.wait()
        if self._timed_out:
            return f"no answer for {self._timeout_s:g} s, the --timeout"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{ended}: {lines[-1][:200]}" if lines else ended


def _refusal(python: str, error: str, wanted: str | None) -> InputError:
    """Return the error of a worker that could not start: the device is missing, or the import of Blender failed."""
    if wanted is not None:
        return InputError("--device", error, wanted)
    if "cannot open shared object file" in error:
        library = error.split(":")[0]
        advice = f"it to be installed; on Debian and Ubuntu: apt-get install {DEBIAN_PACKAGES}"
        return InputError(python, f"needs {library} for Blender, which this machine lacks", advice)
    advice = f"an environment with Blender: {python} -m pip install -r {REQUIREMENT}"
    return InputError(python, f"cannot import Blender ({error})", advice)
