"""Atomic file writes: a reader sees the old file or the finished new one, never half of one.

A file grows under a temporary name, `.STEM.RANDOM.tmp.SUFFIX` in its folder, which its process holds locked. Those of processes
that were killed have no lock, and the next process that writes into the folder deletes them.
"""

import contextlib
import errno
import functools
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.errors import InputError
from config.messages import one_line
from config.signals import held

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked, and nothing collected
    fcntl = None

# Most bytes of a file's stem and suffix that are in its temporary name: file systems take 255 bytes, some 143.
_LONGEST_STEM, _LONGEST_SUFFIX = 100, 16
_TEMPORARY = re.compile(r"\..*\.[a-z0-9_]{8}\.tmp(\.[^.]+)?", re.DOTALL)
# Places where the system keeps its own files; /dev/shm is a disk in memory.
_OF_THE_SYSTEM = re.compile(r"/(dev(?!/shm(/|$))|proc|sys)(/|$)")
# Error numbers of a disk that takes no more, and what helps.
DISK_ERRORS = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space within the quota",
    errno.EFBIG: "a disk and a limit of file sizes (ulimit -f) that allow it",
    errno.EROFS: "a disk that is not read-only",
    errno.EIO: "a disk that works",
}
_PROBE_BYTES = 1 << 20


@contextlib.contextmanager
def replace_when_finished(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` when the block ends, delete it when the block raises.

    Args:
        path: the file to write. Its folder is created. The temporary name keeps the suffix, by which encoders choose the format.

    Yields:
        the temporary path, in the same folder and so on the same file system: the rename is atomic.

    Raises:
        InputError: `path` is a folder, device, FIFO or socket, which no file may replace.
        OSError: it cannot be written, as on a full disk, whatever the block raised for that; see `unwritable`.
    """
    path = Path(path)
    check_output(path)
    with temporary_beside(path) as temporary, naming(path, temporary):
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a new file next to `path`, locked against `remove_leftovers` of other processes; delete it at the end."""
    stem, suffix = shortened(path.stem, _LONGEST_STEM), path.suffix
    suffix = suffix if len(os.fsencode(suffix)) <= _LONGEST_SUFFIX else ""
    handle, temporary = None, None
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent.absolute())
            while handle is None:
                with held():
                    handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=f".tmp{suffix}", dir=path.parent)
                    temporary = Path(name)
                if not _lock(handle, name):  # another process took it for a leftover before it was locked
                    os.close(handle)
                    handle = None
        assert temporary is not None
        yield temporary
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


@functools.cache
def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed processes in a folder; once per process, since a folder may hold many files.

    A file that is being written stays: its process holds a lock on it, which the system ends with the process. Machines that share
    a disk see each other's locks on all but unusual ones (NFS and Lustre mounted with locks of each machine's own). Where the file
    system has no locks, everything stays.
    """
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), open(entry.path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)


def _lock(handle: int, name: str) -> bool:
    """Lock a new file, where that is possible; return whether it is still there under its name."""
    if fcntl is None:
        return True
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.path.lexists(name)


def check_output(path: str | os.PathLike) -> None:
    """Check that a finished file may take the place of whatever is at `path`.

    A link is replaced, not what it leads to, unless that is no regular file.

    Raises:
        InputError: it is a folder, device, FIFO or socket, or in a folder of the system, such as /dev.
        OSError: there can be no such file, as where its name is too long.
    """
    path, wanted = Path(path), "a regular file, or none yet"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(path, "is a folder", wanted)
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(path, "is not a regular file, and would be replaced by one", wanted)
    if path.parent.is_dir() and _OF_THE_SYSTEM.match(os.path.realpath(path.parent)):
        raise InputError(path, "is in a folder of the system", "a place on a disk")


def check_output_folder(path: str | os.PathLike) -> None:
    """Check, before the work, that a folder for a script's files is there or may be made: else it is told for each file.

    Raises:
        InputError: it is a file, or a folder of the system, such as /dev.
        OSError: there can be no such folder.
    """
    if _OF_THE_SYSTEM.match(os.path.realpath(path)):
        raise InputError(path, "is in a folder of the system", "a place on a disk")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise InputError(path, "is not a folder", "a folder, or none yet")


def unwritable(path: str | os.PathLike, code: int) -> OSError:
    """Return the error `PATH: cannot be written (REASON); wanted REMEDY` for a number of `DISK_ERRORS`, which is its `errno`."""
    text = f"{os.fspath(path)}: cannot be written ({os.strerror(code)}); wanted {DISK_ERRORS[code]}"
    error = OSError(text)
    error.errno = code
    return error


@contextlib.contextmanager
def naming(path: Path, written: Path | None = None) -> Iterator[None]:
    """Turn whatever the block raises because the disk does not take `path` into the error of `unwritable`.

    Errors of the system about a temporary file name `path` instead.

    Args:
        path: the file, as the user knows it.
        written: the file that the block writes, if it has another name.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # encoders and serialisers have types of their own for what the system answers
        code = _code_of(error, written)
        if code is not None and code in DISK_ERRORS:
            raise unwritable(path, code) from error
        if isinstance(error, OSError) and isinstance(error.filename, str):
            is_temporary = _TEMPORARY.fullmatch(os.path.basename(error.filename))
            error.filename = os.fspath(path) if is_temporary else error.filename
        if "inline_container" in str(error):  # torch's writer, which does not pass on what the system answered
            raise OSError(f"{path}: cannot be written ({one_line(error)[:160]}); wanted a disk that takes it") from error
        raise


def _code_of(error: Exception, written: Path | None) -> int | None:
    """Return the number of the system's error behind an error of a writer; None if it is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.filename is None or written is None or Path(os.fsdecode(error.filename)) in (written, written.parent)
        named = error.strerror is None  # by `unwritable`
        return error.errno if ours and not named else None
    if written is None or (isinstance(error, OSError) and type(error) is not OSError):
        return None
    said = next((code for code in DISK_ERRORS if os.strerror(code) in str(error)), None)
    return said or disk_problem(written)


def disk_problem(path: Path) -> int | None:
    """Return the error number with which the disk answers more bytes in a file that a writer gave up; None if it takes them."""
    try:
        with path.open("ab", buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file.fileno())
            file.write(bytes(1))  # the first may have been cut short
    except OSError as error:
        return error.errno if error.errno in DISK_ERRORS else None
    return None


def shortened(name: str, most: int) -> str:
    """Return the start of a name, of `most` bytes on disk."""
    return os.fsencode(name)[:most].decode("utf-8", "ignore")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with replace_when_finished(path) as temporary:
        # Names from disk may have bytes that are not UTF-8: they are written as they are on disk.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` to `path` as indented JSON, atomically; NaN and infinity raise, since JSON has neither."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
