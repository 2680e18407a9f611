"""Console output that cannot fail: a closed pipe, a full disk or a terminal without Unicode never ends a program.

What is told is not the work. A program whose output nobody reads, as in `train.py … | head -2`, goes on in silence; one whose
output does not fit the disk says so once, on standard error, and goes on, too. Letters that the encoding lacks become escapes.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class _Forgiving(io.FileIO):
    """File descriptor that takes everything, and writes it if it can.

    Args:
        descriptor: stays open when the object is closed.
        name: of the stream, in the one message about it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._stream, self._failed = name, False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)  # nothing: a terminal that blocks
        except OSError as error:
            if not self._failed and error.errno != errno.EPIPE:
                self._failed = True
                told = f"{self._stream}: cannot be written ({error.strerror}); the program goes on, and what it says is lost\n"
                with contextlib.suppress(OSError):
                    os.write(2, told.encode(errors="replace"))
            return len(data)


@contextlib.contextmanager
def forgiving_console() -> Iterator[None]:
    """Replace standard output and standard error by streams that never fail while the block, or the decorated function, runs.

    Streams that are no file, such as those of a test or a notebook, stay. One that was closed before the program began is opened on
    the null device: a file that is opened later would take its number, and get what libraries print.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _forgiving(sys.stdout, "standard output"), _forgiving(sys.stderr, "standard error")
    try:
        yield
    finally:
        for stream in {sys.stdout, sys.stderr} - set(before):
            stream.flush()
        sys.stdout, sys.stderr = before


def _forgiving(stream: TextIO | None, name: str) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return stream
    if descriptor not in (1, 2) or not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(descriptor, name)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
