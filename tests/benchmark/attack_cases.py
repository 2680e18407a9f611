"""Cases: crafted inputs, each with the command that meets it and how it must end."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_verdict import Outcome, first_problem, judge, temporaries

HUGE = int("9" * 400)
# Folders that programs write into.
OUTPUTS = ("out", "output", "outputs")
# A run that uses such a picture or number may also be right.
EITHER = (0, 2)


class Case(NamedTuple):
    """A crafted input: what is changed in a folder of inputs, and the command that meets it."""

    name: str
    base: str
    words: list
    change: Callable[[Path], object]
    statuses: tuple[int, ...] = (2,)


def attack(arena: Arena, cases: Iterable[Case], seconds: float = 20, outputs: bool = False) -> Iterator[Outcome]:
    """Run cases, three at a time; each is right if it ends with a right status, and one line where that is not 0.

    Args:
        arena: where.
        cases: to run.
        seconds: that a program may take.
        outputs: check that nothing is written but in `OUTPUTS`.
    """
    cases = iter(cases)
    while batch := list(itertools.islice(cases, 3)):
        runs = []
        for case in batch:
            folder = arena.place(case.base)
            case.change(folder)
            runs.append((arena.start(case.words, folder), _beside_outputs(folder)))
        for case, (run, before) in zip(batch, runs, strict=True):
            run.finish(seconds)
            left = temporaries(run.folder)
            changed = sorted(_beside_outputs(run.folder) ^ before) if outputs else []
            wrong = judge(run.status, run.stderr, case.statuses, memory=run.memory)
            yield Outcome(
                case.name,
                first_problem(
                    wrong,
                    f"{len(left)} temporaries left: {left[0]}" if left else "",
                    f"writes or deletes {changed[0]}" if changed else "",
                ),
            )
            shutil.rmtree(run.folder)


def _beside_outputs(folder: Path) -> set[str]:
    """Return the names of what a folder holds beside outputs, and of what is beside the folders of runs."""
    inside = {path.relative_to(folder) for path in folder.rglob("*")}
    beside = {path.name for path in folder.parent.iterdir() if not path.name.startswith("run_") and path.suffix != ".stderr"}
    return {str(path) for path in inside if path.parts[0] not in OUTPUTS} | {
        name for name in beside if not name.endswith(".stdout")
    }


def nothing(folder: Path) -> None:
    """Change nothing."""


def copied(source: Path, to: str, folder: Path) -> None:
    """Put a file into a folder."""
    (folder / to).write_bytes(source.read_bytes())


def written(to: str, content: str | bytes, folder: Path) -> None:
    """Write a file in a folder."""
    (folder / to).write_bytes(content.encode() if isinstance(content, str) else content)
