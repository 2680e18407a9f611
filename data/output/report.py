"""Evaluation report: progress bars, a picture per scene, tables of metrics as text, JSON and CSV.

Metrics are per view, per scene (mean of its views) and overall (mean of the scenes). A row is
{"scene": name, "view": position in the scene, "psnr": dB, "ssim": …, "lpips": …}; a metric that was not computed is None.

Letters: v input views, h w pixels.
"""

import contextlib
import csv
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from config.errors import InputError
from config.messages import counted
from data.files import check_output, replace_when_finished, write_json
from data.output.picture import MOST_TARGETS, comparison
from data.output.video import to_uint8

METRICS = ("psnr", "ssim", "lpips")
SUMMARY, TABLES = "metrics.json", ("metrics_views.csv", "metrics_scenes.csv")
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4}


def bar(**options) -> tqdm:
    """Return a progress bar with rate and remaining time, cleared when done; of several processes only the first shows it.

    Args:
        options: tqdm's.
    """
    return tqdm(leave=False, dynamic_ncols=True, disable=os.environ.get("RANK", "0") != "0", **options)


@contextlib.contextmanager
def layer_bar(device: torch.device) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for `LaCTLVSM.reconstruct`, called after each layer, that advances a progress bar."""
    with bar(desc="reconstruct", unit="layer") as progress:

        def show(done: int, total: int) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # the bar shows finished layers, not queued ones
            progress.total = total
            progress.update(done - progress.n)

        yield show


def open_folder(path: str | os.PathLike) -> None:
    """Create the folder of a report if it does not exist, and check that it is writable.

    Raises:
        InputError: something that is not a file is in the place of one of the report's.
        OSError: it cannot be created or written to.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(f"{path}: cannot be written to ({error.strerror}); wanted a folder for the results") from error
    for name in (SUMMARY, *TABLES):
        check_output(Path(path) / name)


def folder_names(names: Sequence[str]) -> list[str]:
    """Return a unique folder name for every scene: the scene's name, all prefixed with their numbers if any two are the same."""
    return list(names) if len(set(names)) == len(names) else [f"{i:03d}_{name}" for i, name in enumerate(names)]


def check_rendered(images: Tensor, what: str) -> Tensor:
    """Check that rendered images, of any shape, are free of NaN, and return them. Syncs with the host.

    Raises:
        InputError: a pixel is NaN; the message names `what`.
    """
    if images.isnan().any():
        raise InputError(what, "is rendered as NaN", "numbers: finite weights, and cameras of a usual scale")
    return images


class SceneReport:
    """Comparison of a scene's renderings with its photos, view by view: metrics of all, and a picture of some.

    Args:
        folder: output folder; its name is the scene's in tables.
        inputs: (v, 3, h, w) photos in 0..1, for the picture.
        num_targets: how many views will be added.
        metrics: name → function of rendering and photo, (3, h, w) each, that returns a scalar tensor.
        save_images: write every rendering to `images/`, named by its position in the scene.
        first: number of the scene's views that go to other reports before this one's; see `take_in`.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Tensor,
        num_targets: int,
        metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
        save_images: bool = False,
        first: int = 0,
    ) -> None:
        self.folder, self.metrics, self.save_images, self.first = folder, metrics, save_images, first
        self.inputs = [to_uint8(image) for image in inputs]
        self.rows: list[dict] = []
        self._picked = {round(k * (num_targets - 1) / (MOST_TARGETS - 1)) for k in range(MOST_TARGETS)}
        self._shown: list[tuple] = []

    def add(self, view: int, target: Tensor, rendered: Tensor) -> None:
        """Add the view at a position in the scene: its photo and its rendering, (3, h, w) each.

        Raises:
            InputError: the rendering is NaN.
        """
        target = target.to(rendered)
        scores = {name: self.metrics[name](rendered, target).item() if name in self.metrics else None for name in METRICS}
        if any(math.isnan(score) for score in scores.values() if score is not None):
            check_rendered(rendered, f"{self.folder.name}, view {view}")
        if self.first + len(self.rows) in self._picked:
            self._shown.append((view, to_uint8(target), to_uint8(rendered), f"{scores['psnr']:.2f} dB"))
        self.rows.append({"scene": self.folder.name, "view": view, **scores})
        if self.save_images:
            with replace_when_finished(self.folder / "images" / f"{view:05d}.png") as temporary:
                Image.fromarray(to_uint8(rendered)).save(temporary)

    @property
    def content(self) -> tuple[list, list, list]:
        """Inputs, rows and views of the picture, for `take_in` of another process's report."""
        return self.inputs, self.rows, self._shown

    def take_in(self, content: tuple[list, list, list]) -> None:
        """Append the content of a report on the scene's next views."""
        for mine, more in zip(self.content, content, strict=True):
            mine.extend(more)

    def finish(self, note: str = "") -> list[dict]:
        """Write the picture, unless there are no targets, with a note below its title; return the rows."""
        if self._shown:
            mean = summarise(self.rows)["mean"]
            scores = f"PSNR {_cell(mean, 'psnr')} dB, SSIM {_cell(mean, 'ssim')} over {counted(mean['views'], 'target')}"
            views, *columns = zip(*self._shown, strict=True)
            title = f"{self.folder.name}: {scores}, showing views {', '.join(map(str, views))}"
            comparison(self.folder / "comparison.png", self.inputs, *columns, title=title, note=note)
        return self.rows


def summarise(rows: Sequence[dict]) -> dict:
    """Return {"scenes": [{"scene", "views", metric: mean over views}], "mean": {"scenes", "views", metric: mean over scenes}}.

    A mean is None if any of its values was not computed.
    """
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["scene"], []).append(row)
    scenes = [
        {"scene": name, "views": len(group), **{metric: _mean([row[metric] for row in group]) for metric in METRICS}}
        for name, group in groups.items()
    ]
    means = {metric: _mean([scene[metric] for scene in scenes]) for metric in METRICS}
    return {"scenes": scenes, "mean": {"scenes": len(scenes), "views": len(rows), **means}}


def write_report(folder: str | os.PathLike, rows: Sequence[dict], about: dict) -> None:
    """Write metrics.json (settings, scenes, mean, views), metrics_views.csv and metrics_scenes.csv into a folder.

    A PSNR that is not finite (that of a rendering equal to its target) is written as text: JSON has no infinity.

    Args:
        folder: output folder; created.
        rows: one per view.
        about: settings that the figures depend on.
    """
    folder, summary = Path(folder), summarise(rows)
    write_json(folder / SUMMARY, _finite({"about": about, **summary, "views": list(rows)}))
    for name, first, lines in zip(TABLES, (("scene", "view"), ("scene", "views")), (rows, summary["scenes"]), strict=True):
        # Names of scenes may have bytes that are not UTF-8: they are written as they are on disk.
        options: dict = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with replace_when_finished(folder / name) as temporary, temporary.open("w", **options) as file:
            writer = csv.DictWriter(file, [*first, *METRICS])
            writer.writeheader()
            writer.writerows(lines)


def table(rows: Sequence[dict], not_computed: Mapping[str, str]) -> str:
    """Return the summary as a text table, the mean over scenes last.

    Args:
        rows: one per view.
        not_computed: metric → reason; listed below the table.
    """
    summary = summarise(rows)
    mean = summary["mean"]
    groups = [(scene["scene"], scene) for scene in summary["scenes"]]
    groups.append((f"mean of {counted(mean['scenes'], 'scene')}", mean))
    lines = [("scene", "targets", "PSNR dB", "SSIM", "LPIPS")]
    lines += [(name, group["views"], *(_cell(group, metric) for metric in METRICS)) for name, group in groups]
    width = max(len(line[0]) for line in lines)
    text = [f"{line[0]:<{width}}  {line[1]:>7}  {line[2]:>12}  {line[3]:>12}  {line[4]:>12}" for line in lines]
    return "\n".join([*text, *(f"{metric.upper()} not computed: {why}" for metric, why in not_computed.items())])


def _cell(values: dict, metric: str) -> str:
    return "not computed" if values[metric] is None else f"{values[metric]:.{DIGITS[metric]}f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
