"""Verdicts on programs under attack."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Letters in a message; bytes of memory that a refusal may take.
LONGEST, MEMORY = 400, 2 << 30
BAR = re.compile(r"\d+%\||\d+/\d+ \[|\d+(?:it|step|layer|view|frame|scene|photo)s? \[|\d\d:\d\d[<,]")
ESCAPES = re.compile(r"\x1b\[[A-Za-z]|\r")


class Outcome(NamedTuple):
    """What came of one attack; `problem` is empty where it came right."""

    name: str
    problem: str


def own_lines(stderr: str) -> list[str]:
    """Return the lines of standard error that are no progress bars and not empty."""
    lines = (line.strip() for line in ESCAPES.sub("\n", stderr).splitlines())
    return [line for line in lines if line and not BAR.search(line)]


def letters(line: str) -> int:
    """Return the length of a message without the list of known names at its end, which is long and helps."""
    return len(re.split(r"[;?] known: ", line)[0])


def judge(
    status: int | None, stderr: str, statuses: Sequence[int] = (2,), lines: Sequence[int] = (1,), names: str = "", memory: int = 0
) -> str:
    """Return what is wrong with how a program ended; nothing if all is right.

    Args:
        status: its exit status, -N after signal N, which a shell sees as 128 + N; None if it had to be killed because it took too
            long.
        stderr: what it wrote to standard error.
        statuses: the right ones. After status 0, any number of lines is right.
        lines: the right numbers of lines.
        names: what the line must name.
        memory: the most bytes that it held.
    """
    said = own_lines(stderr)
    words = f": {' | '.join(said[-2:])[:200]}" if said else ""
    if status is None:
        return "hangs" + words
    if "Traceback (most recent call last)" in stderr or "Exception ignored in" in stderr:
        return f"traceback, status {status}{words}"
    if (128 - status if status < 0 else status) not in statuses:
        return f"status {status}, wanted {' or '.join(map(str, statuses))}{words}"
    # Lines of their own, before whatever comes: what is left out, and what a run goes on without.
    said = [line for line in said if ": left out, " not in line and ": goes on without " not in line]
    full = len(said) > 1 and all(": cannot be written (" in line for line in said)  # a line per file
    if status != 0 and len(said) not in lines and not full:
        return f"{len(said)} lines{words}"
    longest = max(map(letters, said), default=0)
    if longest > LONGEST:
        return f"a line of {longest} letters{words}"
    if status != 0 and names not in "".join(own_lines(stderr)):
        return f"does not name {names}{words}"
    if memory > MEMORY:
        return f"takes {memory >> 20} MiB{words}"
    return ""


def temporaries(folder: Path) -> list[str]:
    """Return the unfinished files in a folder."""
    return sorted(path.name for path in folder.rglob("*") if ".tmp" in path.name)


def first_problem(*problems: str) -> str:
    return next(filter(None, problems), "")
