"""Wording of messages: in one line, with numbers and nouns that agree, and lists of names that stay short."""

import os
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import TypeGuard

from config.secrets import without_secrets

# Bytes of a file's or folder's name, on all common disks.
LONGEST_NAME = 255
# Names in a message, unless it asks for fewer.
MOST_NAMES = 20


def speaks_for_machine() -> bool:
    """Return whether this process is the first of those that torchrun or srun started on its machine: it says what all would."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))


class _Short(reprlib.Repr):
    """Python's notation of values from files, in bounded time: a few YAML aliases can stand for a billion items."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 3, 20, 20, 20, 20
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits of a number; of one that has more than Python converts, their number."""
        try:
            return super().repr_int(x, level)
        except ValueError:
            return f"<a whole number of {x.bit_length()} bits>"


def shown(value: object, most: int = 60) -> str:
    """Return a value of any type and size as a message shows it: as Python writes it, the first `most` letters."""
    text = _Short().repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def shown_key(key: object, most: int = 60) -> str:
    """Return a key of a mapping from a file as a message shows it: a text without quotes, cut after `most` letters."""
    if not isinstance(key, str):
        return shown(key, most)
    return key if len(key) <= most else f"{key[:most]}…"


def one_line(error: Exception) -> str:
    """Return an error's message in one line, without passwords; its type where it has none."""
    return " ".join(without_secrets(str(error)).split()) or type(error).__name__


def with_type(error: Exception, most: int = 160) -> str:
    """Return an error's type and the first `most` letters of its message, in one line; the type alone where it has none."""
    kind, text = type(error).__name__, one_line(error)
    return kind if text == kind else f"{kind}: {text[:most]}"


def with_article(kind: type) -> str:
    """Return the name of a type with its article: `a dict`, `an int`; `nothing` for that of None."""
    if kind is type(None):
        return "nothing"
    return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: `1 frame`, `3 frames`. The plural takes an s."""
    return f"{number} {noun}{'s' * (number != 1)}"


def is_plain(text: str) -> bool:
    """Return whether a text is free of control characters, which garble messages, and of halves of surrogate pairs."""
    return not {"Cc", "Cs"} & set(map(unicodedata.category, text))


def is_path(text: str) -> bool:
    """Return whether a text can be a file system path: a JSON string can hold NUL or half of a surrogate pair."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def is_file_path(text: str) -> bool:
    """Return whether a text can be the path of a file on disk, where a name has `LONGEST_NAME` bytes at most."""
    return is_path(text) and max(map(len, os.fsencode(text).split(b"/"))) <= LONGEST_NAME


def is_folder_name(value: object) -> TypeGuard[str]:
    """Return whether a value of a file is a text that can be the name of a folder on disk."""
    if not isinstance(value, str) or value in ("", ".", "..") or set(value) & set("/\\"):
        return False
    return is_plain(value) and is_file_path(value)


def some(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Return names in one line: the first `most`, and the number of the others; control characters as escapes."""
    line = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in line)


def left_out(kind: str, names: Sequence[str], of: int | None = None, most: int = MOST_NAMES) -> str:
    """Return what is said of anything that is left out: `left out, KIND (COUNT of ALL): NAMES`.

    Args:
        kind: what they are, in the plural.
        names: of all of them.
        of: how many things there are in all; None where that says nothing.
        most: names to show.
    """
    count = f"{len(names)}" if of is None else f"{len(names)} of {of}"
    return f"left out, {kind} ({count}): {some(names, most)}"
