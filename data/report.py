"""Tables of metrics: on screen, as JSON and as CSV; per view, per scene (mean of its views) and overall (mean of the scenes).

A row is {"scene": name, "view": position in the scene, "psnr": dB, "ssim": …, "lpips": …}; a metric that was not computed is None.
"""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

from data.files import replace_when_finished, write_json

METRICS = ("psnr", "ssim", "lpips")
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4}


def summarise(rows: Sequence[dict]) -> dict:
    """Return {"scenes": [{"scene", "views", metric: mean over views}], "mean": {"scenes", "views", metric: mean over scenes}}."""
    names = list(dict.fromkeys(row["scene"] for row in rows))
    groups = {name: [row for row in rows if row["scene"] == name] for name in names}
    scenes = [
        {"scene": name, "views": len(group), **{metric: _mean([row[metric] for row in group]) for metric in METRICS}}
        for name, group in groups.items()
    ]
    means = {metric: _mean([scene[metric] for scene in scenes]) for metric in METRICS}
    return {"scenes": scenes, "mean": {"scenes": len(scenes), "views": len(rows), **means}}


def write_report(folder: str | os.PathLike, rows: Sequence[dict], about: dict) -> None:
    """Write metrics.json (settings, summary, views) and metrics.csv (views) into `folder`.

    An infinite PSNR, of a render that equals its target, is written as the text "inf": JSON has no such number.

    Args:
        folder: where; created.
        rows: one per view.
        about: settings that the figures depend on.
    """
    write_json(Path(folder) / "metrics.json", _finite({"about": about, **summarise(rows), "views": list(rows)}))
    with replace_when_finished(Path(folder) / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["scene", "view", *METRICS])
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[dict], notes: dict[str, str]) -> str:
    """Return the summary as a text table, the mean over scenes last.

    Args:
        rows: one per view.
        notes: metric → why it was not computed; printed below.
    """
    summary = summarise(rows)
    lines = [(scene["scene"], scene["views"], *(_cell(scene, metric) for metric in METRICS)) for scene in summary["scenes"]]
    mean = summary["mean"]
    lines.append((f"mean of {mean['scenes']} scenes", mean["views"], *(_cell(mean, metric) for metric in METRICS)))
    head = ("scene", "views", "PSNR dB", "SSIM", "LPIPS")
    width = max(len(str(line[0])) for line in [head, *lines])
    text = [f"{line[0]:<{width}}  {line[1]:>5}  {line[2]:>12}  {line[3]:>12}  {line[4]:>12}" for line in [head, *lines]]
    return "\n".join([*text, *(f"{metric.upper()} not computed: {why}" for metric, why in notes.items())])


def _cell(values: dict, metric: str) -> str:
    return "not computed" if values[metric] is None else f"{values[metric]:.{DIGITS[metric]}f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
