"""Tables of an evaluation: scores per view, per scene and overall, as JSON, CSV, text, Markdown and LaTeX.

A score is a metric of a rendering, or the same metric of a baseline: of the mean of the inputs (`psnr_mean`, …), or of the nearest
input photo (`psnr_nearest`, …). `psnr_box` counts the box of the object alone. A row is
{"scene": name, "inputs": their number, "view": position in the scene, score: value or None where it was not computed}.
"""

import csv
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.messages import counted
from data.files import replace_when_finished, write_json
from data.output.html_numbers import quantity
from data.output.metrics import BASELINES, METRICS, PICTURES, SCORES, metric_of

# Of a scene; over scenes the median of the first two, the largest of the others.
SPEEDS = ("reconstruct_s", "frames_per_s", "input_tokens", "tokens_per_view", "peak_memory_bytes")
SUMMARY, UNFINISHED = "metrics.json", "metrics_unfinished.jsonl"
VIEWS, SCENES, MARKDOWN, LATEX = "metrics_views.csv", "metrics_scenes.csv", "metrics.md", "metrics.tex"
# Scores of baselines in tables.
_COMPARED = tuple(f"psnr{baseline}" for baseline in BASELINES)
FILES = (SUMMARY, UNFINISHED, VIEWS, SCENES, MARKDOWN, LATEX)

Speeds = Mapping[tuple[str, int], Mapping[str, float]]


def summarise(rows: Sequence[dict], speeds: Speeds, swept: bool = False) -> dict:
    """Return the means of rows.

    Args:
        rows: one per view.
        speeds: (scene, number of inputs) → `SPEEDS`, where they are known.
        swept: rows of different numbers of inputs are apart, or else belong to one mean.

    Returns:
        `scenes`: for every scene and number of inputs {"scene", "inputs", "views", score: mean over views, speed};
        `means`: for every number of inputs, or for all, {"inputs", "scenes", "views", score: mean over scenes, speed}. `inputs` is
        None if it differs among scenes. A mean is None if any of its values was not computed.
    """
    groups: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["scene"], row["inputs"]), []).append(row)
    scenes = [
        {"scene": name, "inputs": inputs, "views": len(group), **_means(group), **speeds.get((name, inputs), {})}
        for (name, inputs), group in groups.items()
    ]
    counts: list[int | None] = [*dict.fromkeys(row["inputs"] for row in rows)] if swept else [None]
    return {"scenes": scenes, "means": [_overall([s for s in scenes if n in (None, s["inputs"])]) for n in counts if scenes]}


def write_tables(folder: str | os.PathLike, rows: Sequence[dict], speeds: Speeds, about: dict, swept: bool, method: str) -> None:
    """Write the tables of a finished run into a folder, which is created.

    A PSNR that is not finite (that of a rendering equal to its target) is written as text: JSON has no infinity.

    Args:
        folder: output folder.
        rows, speeds, swept: as in `summarise`.
        about: settings that the figures depend on.
        method: what is evaluated, in rows of tables.
    """
    folder, summary = Path(folder), summarise(rows, speeds, swept)
    mean = {"mean": summary["means"][0]} if len(summary["means"]) == 1 else {}
    write_json(folder / SUMMARY, finite({"about": about, **summary, **mean, "views": list(rows)}))
    tables = (
        (VIEWS, ("scene", "inputs", "view", *SCORES), rows),
        (SCENES, ("scene", "inputs", "views", *SCORES), summary["scenes"]),
    )
    for name, columns, lines in tables:
        # Names of scenes may have bytes that are not UTF-8: they are written as they are on disk.
        options: dict = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with replace_when_finished(folder / name) as temporary, temporary.open("w", **options) as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(lines)
    below = f"\n{machine_line(about)}\n" if "machine" in about else ""
    for name, text in ((MARKDOWN, markdown(summary["means"], method) + below), (LATEX, latex(summary["means"], method))):
        with replace_when_finished(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def table(rows: Sequence[dict], speeds: Speeds, about: Mapping, swept: bool = False) -> str:
    """Return the summary as a text table, the mean over scenes last; below it what is not computed, speed, and the machine.

    Args:
        rows, speeds, swept: as in `summarise`.
        about: settings; of these `not_computed` (metric → reason) and `machine` are used.
    """
    summary = summarise(rows, speeds, swept)
    metrics = _shown(rows)
    groups = [(scene["scene"], scene) for scene in summary["scenes"]]
    groups += [(f"mean of {counted(mean['scenes'], 'scene')}", mean) for mean in summary["means"]]
    head = ["scene", "inputs", "targets", *_heads(metrics)]
    lines = [
        [
            name,
            "" if group["inputs"] is None else str(group["inputs"]),
            str(group["views"]),
            *(cell(group, score) for score in (*metrics, *_COMPARED)),
        ]
        for name, group in groups
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = [f"{line[0]:<{widths[0]}}  " + "  ".join(map(str.rjust, line[1:], widths[1:])) for line in [head, *lines]]
    text += [f"{METRICS[metric].name} not computed: {why}" for metric, why in about.get("not_computed", {}).items()]
    for mean in summary["means"]:
        speed = [" ".join(quantity(name, mean[name])) for name in SPEEDS if name in mean]
        inputs = "" if mean["inputs"] is None else f"{counted(mean['inputs'], 'input')}: "
        text += [inputs + ", ".join(speed)] if speed else []
    return "\n".join([*text, *([machine_line(about)] if "machine" in about else [])])


def machine_line(about: Mapping) -> str:
    """Return the facts of the machine that a run's settings have, as a line of text."""
    return ", ".join(f"{name} {value}" for name, value in about["machine"].items())


def markdown(means: Sequence[dict], method: str) -> str:
    """Return a table in Markdown, a row for every number of inputs: scores, PSNR of the baselines, and speed."""
    metrics, speeds = _shown(means), [name for name in SPEEDS if any(name in mean for mean in means)]
    head = ["method", "inputs", "scenes", "targets", *_heads(metrics), *(quantity(name, 0)[0] for name in speeds)]
    rows = []
    for mean in means:
        scores = [cell(mean, score, "–") for score in (*metrics, *_COMPARED)]
        counts = ["various" if mean["inputs"] is None else str(mean["inputs"]), str(mean["scenes"]), str(mean["views"])]
        speed = [quantity(name, mean[name])[1] if name in mean else "–" for name in speeds]
        rows.append([method.replace("|", "\\|"), *counts, *scores, *speed])
    return markdown_table(head, rows) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> str:
    """Return a table in Markdown, or without rows its head."""
    return "\n".join(markdown_line(cells) for cells in (head, ["---"] * len(head), *rows))


def markdown_line(cells: Sequence[str]) -> str:
    """Return a line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def latex(means: Sequence[dict], method: str) -> str:
    r"""Return rows of a LaTeX table, for `\begin{tabular}{lrrrrrr}`, below a comment that names the columns."""
    metrics = _shown(means)
    heads = [*(METRICS[metric].name for metric in metrics), "reconstruct, s", "frames/s"]
    lines = [f"% method & inputs & {' & '.join(heads)} \\\\"]
    for mean in means:
        cells = [_in_latex(method), "--" if mean["inputs"] is None else str(mean["inputs"])]
        cells += [cell(mean, metric, "--") for metric in metrics]
        cells += [f"{mean[name]:.3g}" if name in mean else "--" for name in SPEEDS[:2]]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join(lines) + "\n"


def cell(values: Mapping, score: str, missing: str = "not computed") -> str:
    """Return a score in its usual number of digits."""
    if values[score] is None:
        return missing
    return f"{values[score]:.{metric_of(score).digits}f}"


def finite(value: object) -> object:
    """Return plain values for JSON: numbers that are not finite as text."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shown(rows: Sequence[dict]) -> list[str]:
    """Return the metrics of a table: all, but the box of an object only where there is one."""
    return [metric for metric in METRICS if metric != "psnr_box" or any(row[metric] is not None for row in rows)]


def _heads(metrics: Sequence[str]) -> list[str]:
    return [*(METRICS[metric].name for metric in metrics), *(f"PSNR of {PICTURES[baseline]}" for baseline in BASELINES)]


def _means(rows: Sequence[dict]) -> dict[str, float | None]:
    return {score: _mean([row[score] for row in rows]) for score in SCORES}


def _overall(scenes: Sequence[dict]) -> dict:
    inputs = {scene["inputs"] for scene in scenes}
    mean = {"inputs": inputs.pop() if len(inputs) == 1 else None, "scenes": len(scenes), "views": sum(s["views"] for s in scenes)}
    mean |= _means(scenes)
    for name in SPEEDS:
        known = [scene[name] for scene in scenes if name in scene]
        if known:
            mean[name] = statistics.median(known) if name in SPEEDS[:2] else max(known)
    return mean


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _in_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
