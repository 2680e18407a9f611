"""Main function of this folder's scripts: exit codes, one-line errors, limits that they share."""

import os
import sys
from collections.abc import Callable, Collection, Sequence

from tqdm import tqdm

from config.console import forgiving_console
from config.errors import InputError, line_of
from config.messages import left_out, one_line, shown
from config.signals import run_interruptibly

# More threads or processes than any machine has use for, and fewer than systems refuse to start.
MOST_WORKERS = 1024
# Larger square images are more than Pillow opens without a warning.
LARGEST_SIDE = 8192
# File systems take 255 bytes; `_data_path.json` and the suffix of a temporary file follow.
_LONGEST_NAME = 200


@forgiving_console()
def run_script(program: str, work: Callable[[Sequence[str] | None], Sequence[str] | None], argv: Sequence[str] | None) -> int:
    """Run a script; return its exit code: 0, 2 with one line per problem on standard error, or 128 + the number of a signal.

    Args:
        program: the script's name, at the start of each line.
        work: takes the command line; returns problems, if any, or raises what the user can fix.
        argv: the command line, None for the process's own.
    """
    return run_interruptibly(program, lambda signals: _report(program, work, argv), "; run again to complete")


def _report(program: str, work: Callable[[Sequence[str] | None], Sequence[str] | None], argv: Sequence[str] | None) -> int:
    """Run a script; print its problems, and return the exit code."""
    try:
        problems = work(argv) or ()
    except (InputError, OSError) as error:
        problems = [line_of(error)]
    except MemoryError as error:
        problems = [f"memory: is full ({one_line(error)}); wanted more of it, or fewer --workers"]
    for problem in problems:
        print(f"{program}: {' '.join(problem.split())}", file=sys.stderr)
    return 2 if problems else 0


def check_one_of(given: Collection[str], first: str, second: str, wanted: str) -> None:
    """Check that exactly one of two flags was given.

    Args:
        given: names of the flags that were given.
        first, second: the two.
        wanted: what to give, for the message.

    Raises:
        InputError: both or neither were.
    """
    found = (first in given) + (second in given)
    if found != 1:
        raise InputError(f"--{first}, --{second}", "are both given" if found else "are both missing", f"one of them: {wanted}")


def check_list_name(name: str) -> None:
    """Check NAME in NAME_data_path.json.

    Raises:
        InputError: it is empty, has a slash, so that the list would be written elsewhere, or is too long for a file's name.
    """
    if not name or os.path.basename(name) != name or len(os.fsencode(name)) > _LONGEST_NAME:
        raise InputError("--name", f"is {shown(name, 80)}", f"the start of a file's name: no slash, {_LONGEST_NAME} bytes at most")


def bytes_text(count: float) -> str:
    """Return a readable number of bytes, in powers of 1000."""
    return tqdm.format_sizeof(count, "B", 1000)


def say(line: str) -> None:
    """Print a line above the progress bars."""
    tqdm.write(" ".join(line.splitlines()))


def say_left_out(where: str | os.PathLike, kind: str, names: Sequence[str], of: int | None = None) -> None:
    """Print what is left out, as `left_out` words it, above the progress bars; nothing if there are no names.

    Args:
        where: the scene or folder.
        kind, names, of: as in `left_out`.
    """
    if names:
        say(f"{os.fspath(where)}: {left_out(kind, names, of)}")
