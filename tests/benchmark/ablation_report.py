"""Report of the ablation: means and spreads over seeds, differences beyond the spread, tables and curves."""

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from data.files import write_json, write_text
from data.output.curves import Panel, draw_panels
from data.output.tables import markdown_table
from tests.benchmark.ablation_variants import PICTURE, VARIANTS, check_name
from tests.benchmark.memories import COLOURS

BASELINE = "none"


def read_results(folder: Path) -> list[dict]:
    """Return the results of the finished runs in a folder, in the order of `VARIANTS`, seeds ascending.

    Raises:
        InputError: one is of a variant that no longer exists.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "result").glob("*.json")]
    for row in results:
        check_name(row["name"])
    order = list(VARIANTS)
    return sorted(results, key=lambda row: (order.index(row["name"].partition("@")[0]), row["name"], row["seed"]))


def at_seconds(curve: Sequence[Sequence[float]], seconds_per_step: float, seconds: float) -> float | None:
    """Return a curve's value at a time: linear between its (step, value), the last after its end, None before its start."""
    step = seconds / seconds_per_step
    if step < curve[0][0]:
        return None
    for (left, low), (right, high) in itertools.pairwise(curve):
        if step <= right:
            return low + (high - low) * (step - left) / (right - left)
    return curve[-1][1]


def spread(values: Sequence[float]) -> float | None:
    """Return largest minus smallest; None for a single one."""
    return max(values) - min(values) if len(values) > 1 else None


def summarise(results: Sequence[dict]) -> dict[str, dict]:
    """Return, by name, figures over its seeds: steps, time per step, and PSNR of each seed at the end and at equal time.

    Equal time is that of all steps of the baseline. It is omitted for NAME@OTHER, which ends at OTHER's time.
    """
    names = list(dict.fromkeys(row["name"] for row in results))
    groups = {name: [row for row in results if row["name"] == name] for name in names}
    figures = {}
    for name, rows in groups.items():
        figures[name] = {
            "steps": rows[0]["steps"], "seeds": [row["seed"] for row in rows], "psnr": [row["psnr"] for row in rows],
            "psnr_last": [row["psnr_last"] for row in rows], "floor": rows[0]["floor"], "parameters": rows[0]["parameters"],
            "seconds_per_step": statistics.median(row["seconds_per_step"] for row in rows),
            "cpu_seconds": statistics.mean(row["cpu_seconds"] for row in rows), "at_equal_seconds": None,
        }  # fmt: skip
    if BASELINE in figures:
        limit = figures[BASELINE]["steps"] * figures[BASELINE]["seconds_per_step"]
        for name, figure in figures.items():
            values = [at_seconds(row["curve"], figure["seconds_per_step"], limit) for row in groups[name]]
            if "@" not in name and None not in values:
                figure["at_equal_seconds"] = values
    return figures


def compare(figures: dict[str, dict]) -> list[dict]:
    """Return the differences of all pairs to be compared that have results, see `difference`."""
    rows = []
    for name, figure in figures.items():
        base, _, other = name.partition("@")
        for against in (other,) if other else VARIANTS[base].against:
            if against not in figures:
                continue
            row = {"name": name, "against": against}
            for key in ("psnr", "at_equal_seconds"):
                row[key] = None
                if figure[key] and figures[against][key]:
                    known = [spread(item[key]) for item in figures.values() if item[key] and len(item[key]) > 1]
                    row[key] = difference(figure[key], figures[against][key], max(known, default=None))
            rows.append(row)
    return rows


def difference(one: Sequence[float], other: Sequence[float], largest_spread: float | None) -> dict:
    """Compare the PSNR of two variants over their seeds.

    Args:
        one, other: PSNR of each seed.
        largest_spread: of any variant with several seeds, used where one of the two has a single seed; or None.

    Returns:
        `difference` of the means, the `spread` that it must exceed (the larger of the two; largest minus smallest),
        and a `verdict` in words: the difference or `none`, and whether one has a single seed.
    """
    found = statistics.mean(one) - statistics.mean(other)
    both = len(one) > 1 and len(other) > 1
    bound = max((x for x in (spread(one), spread(other)) if x is not None), default=None)
    if not both:
        bound = max((x for x in (bound, largest_spread) if x is not None), default=None)
    verdict = "none" if bound is not None and abs(found) <= bound else f"{found:+.2f}"
    if bound is None:
        verdict += ", spread unknown"
    elif not both:
        verdict += ", one seed"
    return {"difference": found, "spread": bound, "verdict": verdict}


def write_report(folder: Path) -> str:
    """Write report.md, report.json and report.png of the finished runs in a folder; return the first."""
    results = read_results(folder)
    figures = summarise(results)
    comparisons = compare(figures)
    hours = sum(row["cpu_seconds"] for row in results) / 3600
    text = f"{folder.name}: {len(results)} runs, {hours:.1f} core-hours. PSNR in dB, mean over seeds (largest minus smallest).\n\n"
    head = ["name", "description", "seeds", "steps", "PSNR", "at equal seconds", "CPU s per step", "CPU s in all", "M parameters"]
    text += markdown_table(head, [_line(name, figure) for name, figure in figures.items()]) + "\n"
    lines = [[row["name"], row["against"], *(_verdict(row[key]) for key in ("psnr", "at_equal_seconds"))] for row in comparisons]
    text += f"\n{markdown_table(['name', 'against', 'difference at the end', 'at equal seconds'], lines)}\n"
    averages = {name: figure for name, figure in figures.items() if figure["psnr"] != figure["psnr_last"]}
    text += "".join(f"\n{name} without averaging: {mean_and_spread(figure['psnr_last'])}\n" for name, figure in averages.items())
    write_text(folder / "report.md", text)
    write_json(folder / "report.json", {"figures": figures, "comparisons": comparisons, "results": results})
    if results:
        _draw(folder / "report.png", results, figures)
    return text


def _line(name: str, figure: dict) -> list[str]:
    base, _, other = name.partition("@")
    what = VARIANTS[base].what + (f", for the time of {other}" if other else "")
    numbers = [f"{figure['seconds_per_step']:.2f}", f"{figure['cpu_seconds']:.0f}", f"{figure['parameters'] / 1e6:.2f}"]
    scores = [mean_and_spread(figure["psnr"]), mean_and_spread(figure["at_equal_seconds"])]
    return [name, what, str(len(figure["seeds"])), str(figure["steps"]), *scores, *numbers]


def mean_and_spread(values: Sequence[float] | None) -> str:
    """Return the mean over seeds in words, with the spread in brackets where there are several; `-` for None."""
    if values is None:
        return "-"
    between = spread(values)
    return f"{statistics.mean(values):.2f}" + ("" if between is None else f" ({between:.2f})")


def _verdict(found: dict | None) -> str:
    return "-" if found is None else found["verdict"]


def _draw(path: Path, results: Sequence[dict], figures: dict[str, dict]) -> None:
    """Draw PSNR over CPU seconds, the mean over seeds, in panels of two to four variants."""
    panels = []
    for title, names in PICTURE.items():
        curves = []
        for colour, name in zip(COLOURS, names, strict=True):
            found = [row["curve"] for row in results if row["name"] == name]
            if found:
                seconds = figures[name]["seconds_per_step"]
                points = [(steps[0][0] * seconds, statistics.mean(x for _, x in steps)) for steps in zip(*found, strict=True)]
                curves.append((name, colour, points))
        if len(curves) > 1:
            panels.append(Panel(f"{title}: PSNR in dB, over CPU seconds", curves))
    if panels:
        draw_panels(path, panels)
