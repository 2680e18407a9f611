"""Evaluation report: progress bars, the output folder, a picture and a section of the page for every scene.

Letters: v input views, h w pixels.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from config.errors import InputError
from config.messages import counted
from data.files import check_output, replace_when_finished
from data.output.html_report import Section, make_section
from data.output.metrics import SCORES
from data.output.picture import MOST_TARGETS, comparison
from data.output.tables import FILES, cell, summarise
from data.output.video import to_uint8

PAGE, CURVES = "report.html", "curves.png"


def bar(**options) -> tqdm:
    """Return a progress bar with rate and remaining time, cleared when done; of several processes only the first shows it.

    Args:
        options: tqdm's.
    """
    return tqdm(leave=False, dynamic_ncols=True, disable=os.environ.get("RANK", "0") != "0", **options)


@contextlib.contextmanager
def reconstruction_bar(device: torch.device, unit: str = "layer") -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, in all), called after each layer or other unit of a reconstruction, that advances a progress bar."""
    with bar(desc="reconstruct", unit=unit) as progress:

        def show(done: int, total: int) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # the bar shows finished units, not queued ones
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
    for name in (*FILES, PAGE, CURVES):
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


@dataclass(frozen=True)
class SceneResult:
    """Scores of a scene with one choice of inputs.

    Attributes:
        rows: one per target, as in `data.output.tables`.
        speed: of the scene, as in `data.output.tables.SPEEDS`.
        section: its part of the page.
    """

    rows: list[dict]
    speed: dict[str, float]
    section: Section


class SceneReport:
    """Comparison of a scene's renderings with its photos, view by view: scores of all, and a picture of some.

    Args:
        name: of the scene, in tables.
        folder: output folder.
        views: positions of the inputs in the scene.
        inputs: their photos, (h, w, 3) uint8, for the picture; read as often as they are shown.
        num_targets: how many views will be added, here and to the reports that are taken in.
        save_images: write every rendering to `images/`, named by its position in the scene; those of an earlier run are replaced.
        first: number of the scene's views that go to other reports before this one's; see `take_in`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        views: Sequence[int],
        inputs: Sequence[np.ndarray],
        num_targets: int,
        save_images: bool = False,
        first: int = 0,
    ) -> None:
        self.name, self.folder, self.save_images, self.first = name, folder, save_images, first
        self.views, self.inputs = list(views), inputs
        self.rows: list[dict] = []
        self._picked = {round(k * (num_targets - 1) / (MOST_TARGETS - 1)) for k in range(MOST_TARGETS)}
        self._shown: list[tuple] = []

    def add(self, view: int, photo: Tensor, rendered: Tensor, nearest: Tensor, scores: Mapping[str, float | None]) -> None:
        """Add the view at a position in the scene: its photo, its rendering, the nearest input, (3, h, w) each, and its scores.

        Raises:
            InputError: the rendering is NaN.
        """
        if any(math.isnan(score) for score in scores.values() if score is not None):
            check_rendered(rendered, f"{self.name}, view {view}")
        if self.first + len(self.rows) in self._picked:
            self._shown.append((view, *(to_uint8(image) for image in (photo, rendered, nearest)), dict(scores)))
        self.rows.append({"scene": self.name, "view": view, **scores})
        if self.save_images:
            with replace_when_finished(self.folder / "images" / f"{view:05d}.png") as temporary:
                Image.fromarray(to_uint8(rendered)).save(temporary)

    @property
    def content(self) -> tuple[Sequence[np.ndarray], list, list, list]:
        """Inputs, their positions, rows, and views of the picture, for `take_in` of another process's report."""
        return self.inputs, self.views, self.rows, self._shown

    def take_in(self, content: tuple[Sequence[np.ndarray], list, list, list]) -> None:
        """Append the content of a report on the scene's next views."""
        inputs, *others = content
        if len(inputs):
            self.inputs = [*self.inputs, *inputs]
        for mine, more in zip((self.views, self.rows, self._shown), others, strict=True):
            mine.extend(more)

    def finish(self, speed: dict[str, float], note: str = "", budget: int = 0) -> SceneResult:
        """Write the picture, unless there are no targets, with a note below its title; return rows, speed and a section.

        Args:
            speed: of the scene.
            note: how the run departs from what the weights were trained with.
            budget: bytes of the section's pictures.
        """
        if self.save_images:
            self._remove_other_images()
        count = len(self.inputs)
        rows = [{"scene": self.name, "inputs": count, **row} for row in self.rows]
        scene = summarise(rows, {})["scenes"][0] if rows else {}
        if self._shown:
            scores = f"PSNR {cell(scene, 'psnr')} dB, SSIM {cell(scene, 'ssim')} over {counted(len(rows), 'target')}"
            views, photos, rendered, _, of_each = zip(*self._shown, strict=True)
            title = f"{self.name}: {scores}, showing views {', '.join(map(str, views))}"
            captions = [f"{each['psnr']:.2f} dB" for each in of_each]
            comparison(self.folder / "comparison.png", self.inputs, photos, rendered, captions, title=title, note=note)
        scores = {name: scene[name] for name in SCORES} if rows else {}
        section = make_section(
            self.name, self.views, self.inputs, self._shown, len(rows), scores, speed, note, video=None, budget=budget
        )
        return SceneResult(rows, speed, section)

    def _remove_other_images(self) -> None:
        """Delete renderings of views that an earlier run had as targets, and this one has not."""
        views = {row["view"] for row in self.rows}
        for path in (self.folder / "images").glob("[0-9]" * 5 + ".png"):
            if int(path.stem) not in views:
                path.unlink()
