"""Findings of a check: what was found, for which views, in one line; and their wording where there are many.

Letters: v views.
"""

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from config.messages import counted, some

# Lines up to which all findings are shown, and lines of each kind that are shown where there are more.
MOST_LINES, FIRST_LINES = 20, 3
# Views that a line names.
_MOST_NAMED = 8
_VIEWS = re.compile(r", views? (\d+(?:, \d+)*)")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a scene.

    Args:
        kind: of the problem, in the singular: `blurred photo`. Its plural takes an s.
        line: `WHERE: has FOUND; wanted WANTED`.
        views: whose photo or camera it is, by number; empty if it concerns the whole scene.
        mark: a few words for a caption; empty if no view is to be marked.
    """

    kind: str
    line: str
    views: tuple[int, ...] = ()
    mark: str = ""


def finding_of(kind: str, line: str, mark: str = "") -> Finding:
    """Return a finding of a line that names its views as `..., view 3: ...` or `..., views 3, 5 and 2 more: ...`, or no view."""
    found = _VIEWS.search(line)
    views = tuple(int(number) for number in found[1].split(", ")) if found else ()
    return Finding(kind, line, views, mark if views else "")


def where(json_path: str | os.PathLike, views: Sequence[int]) -> str:
    """Return the place that a line is about: the scene's JSON, with the views if these are few."""
    if not views:
        return f"{json_path}"
    return f"{json_path}, {'view' if len(views) == 1 else 'views'} {named(views)}"


def named(views: Sequence[int]) -> str:
    """Return numbers of views in one line: the first few, and how many more there are."""
    return some([str(view) for view in views], _MOST_NAMED)


def adjust(json_path: str | os.PathLike, *flags: str) -> str:
    """Return the command that mends a scene's cameras."""
    return f"python data_preprocess/adjust_cameras.py {shlex.quote(str(json_path))} {' '.join(flags)}"


def drop(json_path: str | os.PathLike, views: Collection[int]) -> str:
    """Return the command that leaves views out; of many views it does not give the numbers."""
    numbers = [str(view) for view in sorted(views)]
    return adjust(json_path, "--drop", *(numbers if len(numbers) <= MOST_LINES else ["VIEWS"]))


def lines_of(findings: Sequence[Finding], subject: str | os.PathLike) -> list[str]:
    """Return the lines of findings: all of them, or the first of each kind and the number of the others.

    Args:
        findings: of all scenes.
        subject: the list of scenes, for the lines that count.
    """
    if len(findings) <= MOST_LINES:
        return [finding.line for finding in findings]
    by_kind = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding.line)
    lines = []
    for kind, of_kind in by_kind.items():
        lines += of_kind[:FIRST_LINES]
        more = len(of_kind) - FIRST_LINES
        if more > 0:
            lines.append(f"{subject}: has {counted(more, f'more {kind}')}, {len(of_kind)} in all; wanted none")
    return lines


def counts(findings: Sequence[Finding]) -> str:
    """Return the number of findings, and of each kind if there are several kinds."""
    number: dict[str, int] = defaultdict(int)
    for finding in findings:
        number[finding.kind] += 1
    parts = f" ({', '.join(counted(n, kind) for kind, n in number.items())})" if len(number) > 1 else ""
    return counted(len(findings), "problem") + parts
