"""Shards of a script's work, for machines that work at the same time, and the part of the list of scenes that each writes.

A script reads its whole input, checks it, and then takes its part, so that all shards see the same problems. Parts are consecutive:
their lists in order are the list of an undivided run. merge_lists.py joins them.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from config.errors import InputError
from config.flags import flag
from config.messages import shown
from data.files import check_output, write_json
from data.scene_list import write_data_path

# More shards than there are machines; merge_lists.py names those that are missing.
MOST_SHARDS = 100_000
_GIVEN = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
_PART = re.compile(r"\.part-(\d{4,9})-of-(\d{4,9})", re.ASCII)
_TASK, _LEAST, _MOST, _COUNT, _STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT", "STEP"))
_BY_HAND = "--shard I/N, I from 0 to N - 1"

Item = TypeVar("Item")


def shard_flag() -> Any:
    """Return the field `shard` of a settings dataclass, a text for `read_shard`."""
    return flag(
        None,
        "which of N parts of the work to do, from 0 to N - 1; slurm takes both from the job array that the task is of",
        group="several machines",
        metavar="I/N",
        unset="all of the work",
    )


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the work, or all of it if `count` is None."""

    index: int = 0
    count: int | None = None

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this shard's items, consecutive ones; none if there are fewer items than shards."""
        if self.count is None:
            return items
        return items[self.index * len(items) // self.count : (self.index + 1) * len(items) // self.count]

    def list_path(self, path: str | os.PathLike) -> Path:
        """Return the file that this shard writes in the place of a list: `a.part-0003-of-0016.json` for `a.json`."""
        path = Path(path)
        if self.count is None:
            return path
        return path.with_name(f"{path.stem}.part-{self.index:04d}-of-{self.count:04d}{path.suffix}")

    def begin(self, path: str | os.PathLike) -> None:
        """Check the place of a list, before the work; an earlier part of this shard is deleted, since it may be of other input.

        Raises:
            InputError: it is no place for a file, or parts of another number of shards are there.
        """
        check_output(path)
        if self.count is None:
            return
        own = self.list_path(path)
        check_output(own)
        for count, parts in find_parts(path).items():
            if count != self.count:
                found = f"is of {count} shards, not of {self.count}"
                raise InputError(next(iter(parts.values())), found, f"--shard I/{count}, or the parts of {count} deleted")
        own.unlink(missing_ok=True)

    def write_list(self, path: str | os.PathLike, scenes: Sequence[str | os.PathLike]) -> Path | None:
        """Write the list of finished scenes, or this shard's part of it, which may be empty; a list without scenes is not written.

        Args:
            path: of the whole list.
            scenes: the JSONs of this shard's scenes, in order.

        Returns:
            the file; None if none was written.
        """
        path = self.list_path(path)
        if scenes:
            write_data_path(path, scenes)
        elif self.count is None:
            return None
        else:
            write_json(path, [])
        return path


ALL = Shard()


def read_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard that `--shard` names.

    Args:
        text: `I/N`, or `slurm` for the task of a job array, or None for all of the work.
        environment: where the variables of a job array are.

    Raises:
        InputError: it is something else, or the job array is no range of tasks.
    """
    if text is None:
        return ALL
    if text == "slurm":
        return _of_array(environment)
    match = _GIVEN.fullmatch(text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if index >= count:
        raise InputError("--shard", f"is {shown(text)}", "I/N, with I from 0 to N - 1, or slurm")
    if count > MOST_SHARDS:
        raise InputError("--shard", f"is {text}", f"{MOST_SHARDS} shards at most")
    return Shard(index, count)


def find_parts(path: str | os.PathLike) -> dict[int, dict[int, Path]]:
    """Return the parts beside a list, by number of shards and then by index, both sorted."""
    path = Path(path)
    found: list[tuple[int, int, Path]] = []
    if path.parent.is_dir():
        for part in path.parent.iterdir():
            middle = part.name.removeprefix(path.stem).removesuffix(path.suffix)
            match = _PART.fullmatch(middle)
            index, count = map(int, match.groups()) if match else (0, 0)
            if index < count <= MOST_SHARDS and Shard(index, count).list_path(path) == part:
                found.append((count, index, part))
    parts: dict[int, dict[int, Path]] = {}
    for count, index, part in sorted(found):
        parts.setdefault(count, {})[index] = part
    return parts


def _of_array(environment: Mapping[str, str]) -> Shard:
    """Return the shard of a task of a SLURM job array, whose tasks are numbered in equal steps."""
    task, least, most, count, step = (_number(environment, name) for name in (_TASK, _LEAST, _MOST, _COUNT, _STEP))
    if count == 1:
        # Most likely one that is repeated: it would do all of the work.
        raise InputError("--shard", f"is slurm, in a job array of one task, {task}", f"several tasks, or {_BY_HAND}")
    regular = (
        1 < count <= MOST_SHARDS
        and step > 0
        and least + (count - 1) * step == most
        and least <= task <= most
        and not (task - least) % step
    )
    if not regular:
        found = f"is slurm, in task {task} of a job array of {count} from {least} to {most}, step {step}"
        raise InputError("--shard", found, f"an array in equal steps, such as --array=0-15, or {_BY_HAND}")
    return Shard((task - least) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None:
        raise InputError("--shard", f"is slurm, and {name} is not set", f"a task of a job array (sbatch --array), or {_BY_HAND}")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError("--shard", f"is slurm, and {name} is {shown(text)}", f"a number, as SLURM sets it, or {_BY_HAND}")
    return int(text)
