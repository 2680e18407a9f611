"""Command lines of the scripts in this folder: flags, exit codes, and errors in one line."""

import os
import sys
from collections.abc import Callable, Sequence

from config.errors import InputError


def run_script(program: str, work: Callable[[Sequence[str] | None], Sequence[str] | None], argv: Sequence[str] | None) -> int:
    """Do a script's work; return its exit code: 0, 2 after one line a problem on standard error, or 130 when interrupted.

    Args:
        program: the script's name, at the start of each line.
        work: takes the command line and returns problems, if there are any; what a user can put right may also be raised.
        argv: the command line, None for the process's own.
    """
    try:
        problems = work(argv) or ()
    except (InputError, OSError) as error:
        problems = [str(error)]
    except MemoryError as error:
        problems = [f"memory: is full ({one_line(error)}); wanted more of it, or fewer --workers"]
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run again to complete", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"{program}: {' '.join(problem.split())}", file=sys.stderr)
    return 2 if problems else 0


def at_least(flag: str, value: int | None, least: int) -> int | None:
    """Return a flag's value, which may be None for not given.

    Raises:
        InputError: it is less than `least`.
    """
    if value is not None and value < least:
        raise InputError(flag, f"is {value}", f"{least} or more")
    return value


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_line(error: Exception) -> str:
    """Return what an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
