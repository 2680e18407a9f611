"""Numbers on the page of an evaluation: columns of scores with their baselines, and quantities with units."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data.output.metrics import METRICS, PICTURES, Metric

NOT_COMPUTED = "not computed"


# Shown even where no scene has them: a reader looks for these.
ALWAYS = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class Column:
    """A column of scores: that of the rendering or of a baseline."""

    key: str
    metric: Metric
    picture: str = "rendering"
    baselines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A score as the page shows it.

    Attributes:
        text: the figure.
        sort: its value for a script; empty if there is none.
        worse: whether a baseline is as good.
    """

    text: str
    sort: str
    worse: bool


def score_columns(rows: Iterable[Mapping[str, float | None]]) -> list[Column]:
    """Return the columns for rows of scores: the known metrics, baselines beside them, then other quantities in their order."""
    there = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    columns = []
    for name, metric in METRICS.items():
        baselines = tuple(name + suffix for suffix in PICTURES if suffix and name + suffix in there)
        if name in there or name in ALWAYS:
            columns.append(Column(name, metric, PICTURES[""], baselines))
        columns += [Column(key, metric, PICTURES[key.removeprefix(name)]) for key in baselines]
    known = {column.key for column in columns}
    return columns + [Column(key, Metric(quantity(key, 0)[0]), "") for key in there if key not in known]


def groups_of(columns: list[Column]) -> list[tuple[Metric, int]]:
    """Return the metrics of neighbouring columns, and how many columns each has."""
    counts: dict[Metric, int] = {}
    for column in columns:
        counts[column.metric] = counts.get(column.metric, 0) + 1
    return list(counts.items())


def cell_of(scores: Mapping[str, float | None], column: Column) -> Cell:
    """Return a column's cell of a row of scores."""
    value = scores.get(column.key)
    if value is None:
        return Cell(NOT_COMPUTED, "", False)
    if column.metric.higher is None:
        return Cell(quantity(column.key, value)[1], repr(float(value)), False)
    rivals = [rival for rival in (scores.get(key) for key in column.baselines) if rival is not None]
    sign = 1 if column.metric.higher else -1
    return Cell(figure(value, column.metric.digits), repr(float(value)), any(sign * rival >= sign * value for rival in rivals))


def figure(value: float | None, digits: int) -> str:
    """Return a score with a number of decimal digits, `∞`, or that it was not computed."""
    if value is None:
        return NOT_COMPUTED
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else f"{value:.{digits}f}".replace("-", "−")


def caption(scores: Mapping[str, float | None], suffix: str = "") -> str:
    """Return the scores of a rendering, or of the baseline with a suffix, in one line: `21.30 dB, SSIM 0.7120, LPIPS 0.2110`."""
    parts = []
    for name, metric in METRICS.items():
        value = scores.get(name + suffix)
        if value is not None:
            text = " ".join(filter(None, (figure(value, metric.digits), metric.unit)))
            parts.append(text if name == "psnr" else f"{text} on the object" if name == "psnr_box" else f"{metric.name} {text}")
    return ", ".join(parts)


def quantity(name: str, value: float) -> tuple[str, str]:
    """Return the label and the text of a measured quantity, whose unit is the end of its name (`_bytes`, `_per_s`, `_s`)."""
    for suffix, more, write in (("_bytes", "", _bytes), ("_per_s", " per second", _plain), ("_s", "", _seconds), ("", "", _plain)):
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " ") + more, write(value)
    raise AssertionError(name)


def _plain(value: float) -> str:
    if not math.isfinite(value):
        return figure(value, 0)
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{_plain(value)} s" if value >= 1 else f"{_plain(1000 * value)} ms"


def _bytes(value: float) -> str:
    unit, power = ("GiB", 30) if value >= 2**30 else ("MiB", 20)
    return f"{value / 2**power:.2f} {unit}"
