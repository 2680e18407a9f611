"""Results of an evaluation as they come, and the files that present them: tables, curves over the number of inputs, the page."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files import naming
from data.output.curves import Panel, draw_panels
from data.output.html_report import write_html
from data.output.metrics import METRICS, PICTURES
from data.output.report import CURVES, PAGE, SceneResult
from data.output.tables import UNFINISHED, finite, summarise, table, write_tables

COLOURS = {"": "#3b6ea8", "_nearest": "#c2502e", "_mean": "#7d7d84"}


class Evaluation:
    """The results of a run, scene by scene.

    What is measured so far is in metrics_unfinished.jsonl, a line for every scene and number of inputs. Tables of an earlier run in
    the same folder remain until this one has finished.

    Args:
        folder: output folder.
        about: settings that the figures depend on.
        swept: whether several numbers of inputs are compared.
        method: what is evaluated, in rows of tables.
        most_inputs: of the training of the weights, where it is known.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], swept: bool, method: str, most_inputs: int | None) -> None:
        self.folder, self.about, self.swept, self.method, self.most_inputs = folder, dict(about), swept, method, most_inputs
        self._results: list[SceneResult] = []

    def add(self, results: Sequence[SceneResult]) -> None:
        """Add scenes, and write their scores."""
        path, first = self.folder / UNFINISHED, not self._results
        self._results += results
        lines = [{"scene": result.section.scene, **result.speed, "views": finite(result.rows)} for result in results if result.rows]
        if lines:
            with naming(path), path.open("w" if first else "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)

    def finish(self) -> str:
        """Write all files; return the scores as a text table."""
        write_tables(self.folder, self._rows, self._speeds, self.about, self.swept, self.method)
        means = summarise(self._rows, self._speeds, self.swept)["means"]
        curves = self.folder / CURVES
        if self.swept:
            draw_scores(curves, means, self.most_inputs)
        else:
            curves.unlink(missing_ok=True)  # those of an earlier run are not of these tables
        write_html(
            self.folder / PAGE, [result.section for result in self._sorted], self.about, means, [curves] if self.swept else []
        )
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        return table(self._rows, self._speeds, self.about, self.swept)

    @property
    def _sorted(self) -> list[SceneResult]:
        """The results in the order of the scenes, those of one scene by their number of inputs."""
        names = dict.fromkeys(result.section.scene for result in self._results)
        order = {name: i for i, name in enumerate(names)}
        return sorted(self._results, key=lambda result: (order[result.section.scene], len(result.section.inputs)))

    @property
    def _rows(self) -> list[dict]:
        return [row for result in self._sorted for row in result.rows]

    @property
    def _speeds(self) -> dict[tuple[str, int], dict[str, float]]:
        return {(result.section.scene, len(result.section.inputs)): result.speed for result in self._results}


def draw_scores(path: Path, means: Sequence[Mapping[str, Any]], most_inputs: int | None) -> None:
    """Draw scores over the number of inputs, a panel for each metric, and shade the numbers that the weights were trained with.

    Args:
        path: the PNG.
        means: one mapping for each number of inputs, as `summarise` returns them.
        most_inputs: of the training, where it is known.
    """
    shaded = "" if most_inputs is None else f" (shaded: trained with up to {most_inputs})"
    panels = []
    for metric in ("psnr", "ssim", "lpips"):
        curves = [
            (PICTURES[suffix], COLOURS[suffix], [(mean["inputs"], mean[metric + suffix]) for mean in means])
            for suffix in COLOURS
            if all(mean[metric + suffix] is not None and math.isfinite(mean[metric + suffix]) for mean in means)
        ]
        if curves:
            title = ", ".join(filter(None, (METRICS[metric].name, METRICS[metric].unit, f"over inputs{shaded}")))
            panels.append(Panel(title, curves, span=None if most_inputs is None else (0, most_inputs)))
    draw_panels(path, panels)
