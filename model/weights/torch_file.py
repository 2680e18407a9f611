"""Torch files: checked against their checksums, then read, tensors and plain values only."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import IO

import torch

from config.errors import InputError
from config.messages import is_plain, with_type
from model.weights.checksum import check_members

ZIP_START = b"PK\x03\x04"


def is_zip(source: str | os.PathLike | IO[bytes]) -> bool:
    """Return whether a file, or its content, is a zip, damaged or not, as torch's files with checksums are.

    Args:
        source: a file, which may be missing, or its content.
    """
    if isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):
            return False
        with open(source, "rb") as file:
            return is_zip(file)
    source.seek(0)
    begins_as_zip = source.read(len(ZIP_START)) == ZIP_START
    try:
        return begins_as_zip or zipfile.is_zipfile(source)
    except zipfile.BadZipFile:  # it looks like one but is damaged
        return True


class _Bounded(io.BufferedReader):
    """A file that takes no more memory for a `read` than it has bytes left: damaged pickles ask for gigabytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, all that are left by default."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def load_torch_file(source: Path | IO[bytes], where: str | os.PathLike, wanted: str) -> object:
    """Read a torch file, tensors and plain values only; tensors are memory-mapped where the format allows it.

    Every member of a zip is checked first. The older format is not a zip and has no checksums.

    Args:
        source: the file, or its content.
        where, wanted: parts of the error message.

    Raises:
        InputError: it cannot be read, is damaged, or its pickle needs more.
    """
    try:
        zipped = is_zip(source)
        if not zipped and isinstance(source, Path):
            with _Bounded(source) as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        all_stored = zipped and check_members(source)
        if not isinstance(source, Path):
            source.seek(0)
        mapped = all_stored and isinstance(source, Path) and is_plain(str(source))  # torch maps names in UTF-8 only
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises nearly anything, from IndexError to struct.error
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed:
            found = f"needs {needed[1]} to unpickle, which may run code and is refused"
            raise InputError(where, found, "tensors only, as torch.save(model.state_dict(), path) writes") from error
        raise unreadable(where, _without_advice(error), wanted) from error


def _without_advice(error: Exception) -> Exception:
    """Return what is wrong with a pickle without torch's advice to allow code, which stands before and after it."""
    if not isinstance(error, pickle.UnpicklingError):
        return error
    return pickle.UnpicklingError(str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0])


def unreadable(where: str | os.PathLike, error: Exception, wanted: str, problem: str = "cannot be read") -> InputError:
    """Return the error for a file whose reader raised `error`."""
    if "Bad CRC-32" in str(error):
        return InputError(where, f"is damaged ({error})", wanted)
    return InputError(where, f"{problem} ({with_type(error)})", wanted)
