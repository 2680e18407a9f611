"""Lock of a folder that one program at a time writes results into.

It is a lock of the system on a file in the folder. So it goes when its process ends, however that happens, and none is left behind
to be judged by process number or age; NFS passes it on to other machines. The file's text names the process, for the message.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from config.errors import InputError
from config.signals import held

NAME = ".lact.lock"


@contextlib.contextmanager
def lock_folder(folder: Path, flag: str) -> Iterator[str | None]:
    """Lock a folder in the block. If it does not exist it is created, and removed after the block if it is empty.

    Args:
        folder: the folder.
        flag: by which the user chooses it, for the message.

    Yields:
        None, or, where files cannot be locked, a line that says so: then nothing is.

    Raises:
        InputError: another process holds the lock.
        OSError: the folder cannot be created.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file, problem = None, None
    try:
        try:
            with held():
                file = _open_locked(folder, flag)
        except OSError as error:
            problem = f"{folder}: cannot be locked ({error.strerror}); wanted no other process to write there meanwhile"
        yield problem
    finally:
        with contextlib.suppress(OSError):
            if file is not None:
                (folder / NAME).unlink()  # while it is locked: later it may be another's
        with contextlib.suppress(OSError):
            if file is not None:
                os.close(file)
        with contextlib.suppress(OSError):  # not empty
            for place in created:
                place.rmdir()


def _open_locked(folder: Path, flag: str) -> int:
    """Open the folder's file, locked, and write in it who holds it; return its descriptor.

    Raises:
        InputError: another process holds the lock.
        OSError: the file cannot be opened, or its file system has no locks.
    """
    if sys.platform == "win32":
        raise OSError(0, "not on Windows")
    path = folder / NAME
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            _lock(file)
            if _is_at(file, path):
                _sign(file)
                return file
            os.close(file)  # its holder has removed it since we opened it
        except BlockingIOError:
            holder = " ".join(os.pread(file, 200, 0).decode("utf-8", "replace").split()) or "another process"
            os.close(file)
            raise InputError(folder, f"is in use by {holder}", f"it to end, or another {flag}") from None
        except BaseException:  # an interruption, too, must not leave it open and locked
            os.close(file)
            raise


def _lock(file: int) -> None:
    """Lock an open file for this process alone: not, as flock would, for processes forked from it too, which may outlive it."""
    import fcntl  # not on Windows

    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: only the message to another process is poorer
        os.truncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
