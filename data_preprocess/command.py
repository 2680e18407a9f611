"""What the scripts of this folder share as commands."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence


class Parser(argparse.ArgumentParser):
    """Leaves it to `run_script` how an error is reported."""

    def error(self, message: str) -> None:
        """Raise it."""
        raise ValueError(f"{message}; see --help")


def run_script(program: str, work: Callable[[Sequence[str] | None], Sequence[str]], argv: Sequence[str] | None) -> int:
    """Do a script's work; return its exit code: 0, or 2 after one line a problem on standard error.

    Args:
        program: the script's name, at the start of each line.
        work: takes the command line and returns problems; what a user can put right may also be raised.
        argv: the command line, None for the process's own.
    """
    try:
        problems = work(argv)
    except (ValueError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        print(f"{program}: {' '.join(problem.split())}", file=sys.stderr)
    return 2 if problems else 0


def at_least(flag: str, value: int | None, least: int) -> int | None:
    """Return a flag's value, which may be None for not given.

    Raises:
        ValueError: it is less than `least`.
    """
    if value is not None and value < least:
        raise ValueError(f"{flag}: found {value}, wanted {least} or more")
    return value


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
