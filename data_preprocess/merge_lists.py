"""Merge of the lists that the shards of a script have written, `--shard I/N`, into the list of all scenes.

    python data_preprocess/merge_lists.py OUTPUT/NAME_data_path.json

The parts are beside the list, NAME_data_path.part-0003-of-0016.json, and stay there. All must be there. Lists of failed objects,
NAME_failed.part-0003-of-0016.json, are merged into NAME_failed.json likewise. Safe to re-run.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from config.errors import InputError, missing_file
from config.flags import flag, read_command_line, settings
from config.messages import counted, shown, some
from data.files import check_output, write_json
from data.pack import is_pack
from data.scene_format import read_json
from data.scene_list import read_listed, write_data_path
from data_preprocess.command import run_script, say_left_out
from data_preprocess.shards import Shard, find_parts

LISTS, FAILED = "_data_path", "_failed"

Key = TypeVar("Key", str, Path)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Flags: what to merge."""

    data_path: Path = flag(
        ..., "list to write, whose parts are beside it", group="lists", positional=True, metavar="NAME_data_path.json"
    )
    partial: bool = flag(False, "merge what is there, although parts are missing")


def parts_of_one_run(path: Path) -> tuple[int, dict[int, Path]]:
    """Return the number of shards, 0 for none, and the parts of a list that are there, by index.

    Raises:
        InputError: there are parts of different numbers of shards.
    """
    found = find_parts(path)
    if len(found) > 1:
        counts = " and of ".join(f"{count} ({counted(len(parts), 'part')})" for count, parts in found.items())
        raise InputError(path, f"has parts of {counts} shards beside it", "those of one run: the others deleted")
    return next(iter(found.items()), (0, {}))


def all_parts(path: Path, partial: bool) -> tuple[int, list[Path]]:
    """Return the number of shards and the parts of a list, in order.

    Args:
        path: of the list.
        partial: print which are missing, instead of refusing them.

    Raises:
        FileNotFoundError: there are none.
        InputError: some are missing, or there are parts of different numbers of shards.
    """
    count, parts = parts_of_one_run(path)
    if not parts:
        example = Shard(0, 4).list_path(path).name
        raise missing_file(example, "the parts that scripts write with --shard", within=str(path.parent))
    missing = [Shard(index, count).list_path(path).name for index in range(count) if index not in parts]
    if missing and not partial:
        found = f"lacks {len(missing)} of {count} parts: {some(missing, 5)}"
        raise InputError(path, found, "all: those shards run again, or --partial")
    say_left_out(path, "parts that are missing", missing, of=count)
    return count, list(parts.values())


def read_scenes(part: Path) -> list[Path]:
    """Return the scenes or packs of a part.

    Raises:
        FileNotFoundError: it lists a scene that does not exist.
        InputError: it is not a list of scenes.
    """
    content = read_json(part)
    if not isinstance(content, list) or not all(isinstance(entry, str) for entry in content):
        raise InputError(part, f"holds {shown(content)}", "a list of paths to scenes")
    return read_listed(part) if content else []


def read_failed(part: Path) -> dict[str, str]:
    """Return the problems of failed objects in a part, by name.

    Raises:
        InputError: it is something else.
    """
    content = read_json(part)
    if not isinstance(content, dict) or not all(isinstance(problem, str) for problem in content.values()):
        raise InputError(part, f"holds {shown(content)}", "problems of objects, by their names")
    return content


def joined(parts: Mapping[Path, Iterable[Key]]) -> list[Key]:
    """Return the entries of all parts, in order.

    Raises:
        InputError: one is there twice.
    """
    seen: dict[Key, Path] = {}
    for part, entries in parts.items():
        for entry in entries:
            if entry in seen:
                twice = "twice" if seen[entry] == part else f"and so does {seen[entry].name}"
                raise InputError(part, f"has {entry}, {twice}", "each scene once, in one part")
            seen[entry] = part
    return list(seen)


def work(argv: Sequence[str] | None) -> None:
    """Merge the parts of a list, and those of the list of failed objects, if there are any."""
    merge = settings(Merge, read_command_line("merge_lists.py", __doc__, (Merge,), argv))
    path = merge.data_path
    check_output(path)
    count, parts = all_parts(path, merge.partial)
    scenes = joined({part: read_scenes(part) for part in parts})
    if not scenes:
        raise InputError(path, f"would be empty: its {counted(len(parts), 'part')} hold no scene", "at least one")
    failed_path = path.with_name(f"{path.stem.removesuffix(LISTS)}{FAILED}{path.suffix}") if path.stem.endswith(LISTS) else None
    failed = read_all_failed(failed_path, count) if failed_path else {}
    write_data_path(path, scenes)
    line = f"{counted(len(scenes), 'pack' if all(map(is_pack, scenes)) else 'scene')} of {counted(len(parts), 'part')} in {path}"
    if failed_path:
        line += write_failed(failed_path, failed)
    print(line)


def read_all_failed(path: Path, count: int) -> dict[str, str]:
    """Return the problems of all failed objects, by name, in order; a shard without one has written no part.

    Raises:
        InputError: the list is no place for a file, a part is unreadable or not of `count` shards, or an object is there twice.
    """
    check_output(path)
    found, parts = parts_of_one_run(path)
    if found not in (0, count):
        raise InputError(next(iter(parts.values())), f"is of {found} shards, unlike the {count} of the list", "it deleted")
    failed = {part: read_failed(part) for part in parts.values()}
    joined(failed)
    return {name: problem for problems in failed.values() for name, problem in problems.items()}


def write_failed(path: Path, failed: Mapping[str, str]) -> str:
    """Write the list of failed objects, or delete an earlier one if none has failed; return what to tell of it."""
    if not failed:
        path.unlink(missing_ok=True)
        return ""
    write_json(path, failed)
    return f"; {len(failed)} failed, see {path}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("merge_lists.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
