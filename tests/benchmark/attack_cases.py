"""Cases: crafted inputs, each with the command that meets it and how it must end."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_verdict import Outcome, first_problem, judge, temporaries

HUGE = int("9" * 400)
# A run that uses such a picture or number may also be right.
EITHER = (0, 2)


class Case(NamedTuple):
    """A crafted input: what is changed in a folder of inputs, and the command that meets it."""

    name: str
    base: str
    words: list
    change: Callable[[Path], object]
    statuses: tuple[int, ...] = (2,)


def attack(arena: Arena, cases: Iterable[Case], seconds: float = 20) -> Iterator[Outcome]:
    """Run cases, three at a time; each is right if it ends with a right status, and one line where that is not 0."""
    cases = iter(cases)
    while batch := list(itertools.islice(cases, 3)):
        runs = []
        for case in batch:
            folder = arena.place(case.base)
            case.change(folder)
            runs.append(arena.start(case.words, folder))
        for case, run in zip(batch, runs, strict=True):
            run.finish(seconds)
            left = temporaries(run.folder)
            wrong = judge(run.status, run.stderr, case.statuses, memory=run.memory)
            yield Outcome(case.name, first_problem(wrong, f"{len(left)} temporaries left: {left[0]}" if left else ""))
            shutil.rmtree(run.folder)


def nothing(folder: Path) -> None:
    """Change nothing."""
