"""Findings of a check: what was found, for which views, in one line; and their wording where there are many.

Letters: v views.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from config.messages import counted
from data.problems.problem import Problem, command, statement

# Lines up to which all findings are shown, and lines of each kind that are shown where there are more.
MOST_LINES, FIRST_LINES = 20, 3


@dataclass(frozen=True)
class Finding:
    """Something wrong with a scene.

    Args:
        kind: of the problem, in the singular: `blurred photo`. Its plural takes an s.
        line: `WHERE: has FOUND; wanted WANTED`.
        views: whose photo or camera it is, by number; empty if it concerns the whole scene.
        mark: a few words for a caption; empty if no view is to be marked.
        flags: of adjust_cameras.py that mend it; none where it takes more.
    """

    kind: str
    line: str
    views: tuple[int, ...] = ()
    mark: str = ""
    flags: dict[str, Any] = field(default_factory=dict)


def finding_of(kind: str, json_path: str | os.PathLike, problem: Problem, mark: str = "") -> Finding:
    """Return the finding of a problem; its views, if it has any, get the mark."""
    return Finding(kind, statement(json_path, problem), problem.views, mark if problem.views else "", problem.flags)


def with_command(json_path: str | os.PathLike, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of a scene, with the command that mends them in their lines: one for all, as each starts anew."""
    mending = command(json_path, [finding.flags for finding in findings])
    return [replace(finding, line=f"{finding.line}: {mending}") if finding.flags else finding for finding in findings]


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
