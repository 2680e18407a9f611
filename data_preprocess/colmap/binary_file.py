"""Numbers and names of a COLMAP sparse model's binary files."""

import struct
from collections.abc import Iterator
from pathlib import Path

from config.errors import InputError, check_file
from config.messages import counted


class BinaryFile:
    """A file's numbers and names, little-endian, read in sequence."""

    def __init__(self, path: Path) -> None:
        check_file(path, "a file of a COLMAP model")
        self.path, self.content, self.position, self.entry = path, path.read_bytes(), 0, "the count"

    def take(self, form: str) -> tuple:
        form = f"<{form}"
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.content, self.position - struct.calcsize(form))

    def skip(self, size: int) -> None:
        if size > len(self.content) - self.position:
            raise self.too_short()
        self.position += size

    def name(self) -> str:
        end = self.content.find(b"\0", self.position)
        if end < 0:
            raise self.too_short()
        start, self.position = self.position, end + 1
        return self.content[start:end].decode("utf-8", "surrogateescape")

    def too_short(self) -> InputError:
        return InputError(self.path, f"ends after {counted(len(self.content), 'byte')} in {self.entry}", "a complete model")

    def entries(self, what: str) -> Iterator[str]:
        (count,) = self.take("Q")
        for i in range(count):
            self.entry = f"{what} {i} of {count}"
            yield f"{self.path}, {what} {i}"
        if self.position < len(self.content):
            found = f"has {counted(len(self.content) - self.position, 'byte')} after the last of {counted(count, what)}"
            raise InputError(self.path, found, "a file that ends there")
