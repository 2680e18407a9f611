"""Wording of messages: in one line, with numbers and nouns that agree, and lists of names that stay short."""

import unicodedata
from collections.abc import Sequence

from config.secrets import without_secrets

# Names in a message, unless it asks for fewer.
MOST_NAMES = 20


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
