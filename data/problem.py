"""Problem of a scene's cameras: what was found, why it matters, and the command that mends it."""

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Views that a message names.
MOST_VIEWS_NAMED = 6
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


def lines_of(json_path: Path, problems: Sequence[Problem]) -> list[str]:
    """Return problems as `WHERE: FOUND; wanted WANTED: COMMAND`; the command mends all of those that a command mends."""
    flags = _merged(problem.flags for problem in problems)
    command = " ".join(["python", SCRIPT, shlex.quote(f"{json_path}"), *_written(flags)])
    lines = []
    for problem in problems:
        where = f"{json_path}, {named(problem.views)}" if problem.views else f"{json_path}"
        lines.append(f"{where}: {problem.found}; wanted {problem.wanted}" + (f": {command}" if problem.flags else ""))
    return lines


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
            words += [f"--{name}", *(f"{item:.6g}" if isinstance(item, float) else str(item) for item in values)]
    return words
