"""User errors: one exception for the whole project, in three parts and one dialect.

The programs turn an `InputError` into one line on standard error and exit code 2. Any other `ValueError` is a bug and
shows its traceback.
"""

import errno
import os
from pathlib import Path

# Letters of a part of a message, of its place, and of a message of the system.
_MOST_PART, _MOST_PLACE, _MOST_LINE = 300, 240, 350


class InputError(ValueError):
    """Input that cannot be used, as `WHERE: FOUND; wanted WANTED`.

    Args:
        where: the file, flag, key or view, outermost first: `scene.json, view 3, fx`.
        found: what is wrong there, as the predicate of a sentence about it: `is -1`, `holds no views`, `cannot be decoded (…)`.
        wanted: what would have been right and, where it helps, what to do: `a number above 0`.

    Line breaks, common in messages of decoders and parsers and in names from damaged files, become spaces: the message is one line.
    What is longer than any of this project's own words is cut, a place in its middle, since it may begin with a path and ends with
    what is wrong there; `config.messages.shown` shortens a single value.
    Raised where input is read and checked, and nowhere else: what only a bug can cause is another error.
    """

    def __init__(self, where: str | os.PathLike, found: str, wanted: str) -> None:
        self.where = _cut_middle(" ".join(os.fspath(where).splitlines()), _MOST_PLACE)
        self.wanted = _cut(" ".join(wanted.splitlines()), _MOST_PART)
        self.found = _cut(" ".join(found.split()), _MOST_PART)
        # All three go to the base class, so that the error can be pickled.
        super().__init__(self.where, self.found, self.wanted)

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; wanted {self.wanted}"

    def within(self, outer: str | os.PathLike) -> "InputError":
        """Return the same error with an outer place in front: `OUTER, WHERE: …`."""
        return InputError(f"{os.fspath(outer)}, {self.where}", self.found, self.wanted)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _cut_middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 :]}"


def line_of(error: Exception) -> str:
    """Return an error's message as a line for the user, cut where it is that of the system about a name too long for any disk."""
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return _cut_middle(str(error), _MOST_LINE) if too_long else str(error)


def missing_file(path: str | os.PathLike, wanted: str, within: str | None = None) -> FileNotFoundError:
    """Return the error for a missing file, in the same dialect; the programs also report every `OSError` in one line.

    Args:
        path: the file; where a link in it leads nowhere, the message names the link and its target, and where a folder, FIFO,
            socket or device is in its place, it says so.
        wanted: as for `InputError`.
        within: an outer place, to stand in front of the path.
    """
    where = _cut_middle(os.fspath(path) if within is None else f"{within}, {os.fspath(path)}", _MOST_PLACE)
    return FileNotFoundError(f"{where}: {broken_link(path) or _no_file(path) or 'is not there'}; wanted {wanted}")


def check_file(path: str | os.PathLike, wanted: str) -> None:
    """Check that a path leads, directly or through links, to a regular file: reading a FIFO or a device might never end.

    Args:
        path: the file.
        wanted: what it should be, as for `InputError`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is a folder, FIFO, socket or device.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(path, wanted) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(path, f"has {len(os.fspath(path))} letters, more than a file's name", wanted) from None
    found = _no_file(path)
    if found is not None:
        raise InputError(path, found, wanted)


def _no_file(path: str | os.PathLike) -> str | None:
    """Return the predicate of a message about a path that leads to a folder, FIFO, socket or device; None for anything else."""
    if os.path.isdir(path):
        return "is a folder"
    return "is not a regular file" if os.path.exists(path) and not os.path.isfile(path) else None


def broken_link(path: str | os.PathLike) -> str | None:
    """Return which link keeps a path from being there, as the predicate of a message about the path; None if none does."""
    path = Path(path)
    # Functions of os.path: they take a name that is too long for any disk, which raises in Path's methods.
    places = (*reversed(path.parents), path)
    link = next((place for place in places if os.path.islink(place) and not os.path.exists(place)), None)
    if link is None:
        return None
    target = " ".join(os.readlink(link).splitlines())
    return f"is a link to {target}, which is not there" if link == path else f"is not there: {link} is a link to {target}"
