"""Problem of a scene's cameras: what was found, why it matters, and the command that mends it."""

import math
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Views that a message names, and that a command leaves out; of more it does not give the numbers.
MOST_VIEWS_NAMED, MOST_DROPPED = 6, 200
# The script that mends cameras without the photos.
SCRIPT = "data_preprocess/adjust_cameras.py"
# What is right where cameras that are taken for an object's are not.
NORMALISED = "normalised poses (--scene_inference, --scene_pose_normalize) for a scene"
# Its flags, in the order in which they take effect.
FLAGS = ("invert", "axes", "drop", "intrinsics_size", "frame", "scale")


@dataclass(frozen=True)
class Problem:
    """A problem of a scene's cameras.

    Args:
        found: what is wrong, and what it costs, as the predicate of a sentence about the scene or `views`.
        wanted: what would have been right.
        views: the views that have it; none where all of them together have it.
        flags: of `SCRIPT`, by name, that mend it; none where the photos are needed.
    """

    found: str
    wanted: str
    views: tuple[int, ...] = ()
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def is_convention(self) -> bool:
        """Whether the poses are of another convention: other axes, or the inverse."""
        return bool({"invert", "axes"} & self.flags.keys())


def mended_without(views: Sequence[int], found: str, wanted: str) -> Problem:
    """Return a problem of some views that is mended by leaving them out."""
    return Problem(found, wanted, tuple(views), {"drop": tuple(views)})


def lines_of(json_path: Path, problems: Sequence[Problem]) -> list[str]:
    """Return problems as `WHERE: FOUND; wanted WANTED: COMMAND`; the command mends all of those that a command mends."""
    mending = command(json_path, [problem.flags for problem in problems])
    return [statement(json_path, problem) + (f": {mending}" if problem.flags else "") for problem in problems]


def statement(json_path: str | os.PathLike, problem: Problem) -> str:
    """Return a problem as `WHERE: FOUND; wanted WANTED`, without a command."""
    where = f"{os.fspath(json_path)}, {named(problem.views)}" if problem.views else os.fspath(json_path)
    return f"{where}: {problem.found}; wanted {problem.wanted}"


def command(json_path: str | os.PathLike, flags: Iterable[dict[str, Any]]) -> str:
    """Return the command that mends a scene's problems, each of which some flags of `SCRIPT` mend: all of them at once."""
    return " ".join(["python", SCRIPT, shlex.quote(os.fspath(json_path)), *_written(_merged(flags))])


def named(views: Sequence[int]) -> str:
    """Return views as a message names them: `view 3`, or `views 3, 4, 5 and 2 more`."""
    first = ", ".join(map(str, views[:MOST_VIEWS_NAMED]))
    more = len(views) - MOST_VIEWS_NAMED
    return f"view{'s' * (len(views) != 1)} {first}" + (f" and {more} more" if more > 0 else "")


def place(point: np.ndarray, scale: float) -> str:
    """Return a point (3) as a message has it, to about a thousandth of a scale: `(0, 1.21, 2.7)`."""
    digits = 3 - math.floor(math.log10(scale)) if scale > 0 else 3
    return "(" + ", ".join(f"{x:.3g}" for x in np.round(point, digits) + 0.0) + ")"


def _merged(given: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the flags that do what all of them do; an object's frame has its own scale."""
    merged: dict[str, Any] = {}
    for flags in given:
        for name, value in flags.items():
            merged[name] = tuple(sorted({*merged.get(name, ()), *value})) if name == "drop" else value
    if "frame" in merged:
        merged.pop("scale", None)
    return merged


def _written(flags: dict[str, Any]) -> list[str]:
    words = []
    for name in FLAGS:
        if name in flags:
            value = flags[name]
            values = () if value is True else value if isinstance(value, tuple) else (value,)
            values = ("VIEWS",) if len(values) > MOST_DROPPED else values
            words += [f"--{name}", *(f"{item:.6g}" if isinstance(item, float) else str(item) for item in values)]
    return words
