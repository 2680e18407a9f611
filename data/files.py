"""Atomic file writes: a reader sees the old file or the finished new one, never half of one."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.signals import held

# Bytes of a file's name that its temporary file's name begins with.
_LONGEST_STEM = 100


@contextlib.contextmanager
def replace_when_finished(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` when the block ends, delete it when the block raises.

    Args:
        path: the file to write. Its folder is created. The temporary name keeps the suffix, by which encoders choose the format.

    Yields:
        the temporary path, in the same folder and so on the same file system: the rename is atomic.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # File systems take 255 bytes, which the name itself may have.
    stem = os.fsencode(path.stem)[:_LONGEST_STEM].decode("utf-8", "ignore")
    temporary = None
    try:
        with held():
            handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=f".tmp{path.suffix}", dir=path.parent)
            temporary = Path(name)
        os.close(handle)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with replace_when_finished(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` to `path` as indented JSON, atomically; NaN and infinity raise, since JSON has neither."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
