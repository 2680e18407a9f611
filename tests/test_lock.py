"""Lock of a folder: one program at a time, taken over from a killed one, and no condition for a run."""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import config.lock as lock
from config.errors import InputError
from config.lock import NAME, lock_folder
from tests.support.processes import environment

HOLDER = """
import sys
from pathlib import Path
from config.lock import lock_folder

with lock_folder(Path(sys.argv[1]), "--expname"):
    {fork}
    print("locked", flush=True)
    sys.stdin.readline()
"""


def hold(folder: Path, fork: str = "") -> subprocess.Popen:
    """Start a process that holds the lock of a folder until it reads a line."""
    command = [sys.executable, "-c", HOLDER.format(fork=fork), str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_folder_in_use_is_refused_until_its_process_has_ended(tmp_path):
    folder = tmp_path / "run"
    process = hold(folder)
    message = f"{folder}: is in use by process {process.pid} on {socket.gethostname()}; wanted it to end, or another --expname"
    for _ in range(2):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"), lock_folder(folder, "--expname"):
            pass
    process.communicate("\n", timeout=30)
    assert not folder.exists()  # it has put nothing there
    with lock_folder(folder, "--expname") as problem:
        assert problem is None
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


@pytest.mark.parametrize("fork", ["", "import os; pid = os.fork(); __import__('time').sleep(60 * (pid == 0))"])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, fork):
    process = hold(tmp_path, fork)
    process.send_signal(signal.SIGKILL)
    process.wait(30)  # a process forked from it lives on
    assert (tmp_path / NAME).read_text().startswith(f"process {process.pid} ")
    with lock_folder(tmp_path, "--expname") as problem:
        assert problem is None
        assert (tmp_path / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not list(tmp_path.iterdir())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lock_folder(tmp_path, "--expname") as problem:
        pass
    assert problem == f"{tmp_path}: cannot be locked ({os.strerror(number)}); wanted no other process to write there meanwhile"


def test_a_folder_that_cannot_be_written_to_is_not_the_locks_problem(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock.os, "open", refuse)
    with lock_folder(tmp_path, "--expname") as problem:
        pass
    assert problem.startswith(f"{tmp_path}: cannot be locked (Read-only file system); wanted ")


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / NAME).symlink_to(tmp_path / "other")
    with lock_folder(tmp_path, "--expname") as problem:
        pass
    assert "cannot be locked" in problem
    assert (tmp_path / "other").read_text() == "kept"


def test_a_file_that_its_holder_removes_meanwhile_is_opened_again(tmp_path, monkeypatch):
    lockf, calls = fcntl.lockf, []

    def late(*words):
        if not calls:
            (tmp_path / NAME).unlink()
        calls.append(words)
        lockf(*words)

    monkeypatch.setattr(fcntl, "lockf", late)
    with lock_folder(tmp_path, "--expname") as problem:
        assert problem is None
        assert (tmp_path / NAME).is_file()
    assert len(calls) == 2


def test_folders_of_someone_else_stay(tmp_path):
    (tmp_path / "outputs").mkdir()
    with lock_folder(tmp_path / "outputs" / "a" / "b", "--expname"):
        pass
    assert (tmp_path / "outputs").is_dir()
    assert not (tmp_path / "outputs" / "a").exists()
