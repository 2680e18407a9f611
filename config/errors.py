"""User errors: one exception for the whole project, in three parts and one dialect.

The programs turn an `InputError` into one line on standard error and exit code 2. Any other `ValueError` is a bug and
shows its traceback.
"""

import os


class InputError(ValueError):
    """Input that cannot be used, as `WHERE: FOUND; wanted WANTED`.

    Args:
        where: the file, flag, key or view, outermost first: `scene.json, view 3, fx`.
        found: what is wrong there, as the predicate of a sentence about it: `is -1`, `holds no views`, `cannot be decoded (…)`.
        wanted: what would have been right and, where it helps, what to do: `a number above 0`.

    Line breaks, common in messages of decoders and parsers and in names from damaged files, become spaces: the message is one line.
    Raised where input is read and checked, and nowhere else: what only a bug can cause is another error.
    """

    def __init__(self, where: str | os.PathLike, found: str, wanted: str) -> None:
        self.where, self.wanted = (" ".join(text.splitlines()) for text in (os.fspath(where), wanted))
        self.found = " ".join(found.split())
        # All three go to the base class, so that the error can be pickled.
        super().__init__(self.where, self.found, self.wanted)

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; wanted {self.wanted}"

    def within(self, outer: str | os.PathLike) -> "InputError":
        """Return the same error with an outer place in front: `OUTER, WHERE: …`."""
        return InputError(f"{os.fspath(outer)}, {self.where}", self.found, self.wanted)


def missing_file(path: str | os.PathLike, wanted: str) -> FileNotFoundError:
    """Return the error for a missing file, in the same dialect; the programs also report every `OSError` in one line."""
    return FileNotFoundError(f"{os.fspath(path)}: is not there; wanted {wanted}")
