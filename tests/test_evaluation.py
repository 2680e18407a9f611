"""Results of an evaluation: files of finished and unfinished runs, their order, curves over the number of inputs."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from data.output import evaluation as module
from data.output.curves import MARGIN, SHADE, SIZE
from data.output.evaluation import Evaluation, draw_scores
from data.output.metrics import SCORES
from data.output.report import SceneReport, SceneResult
from data.output.tables import summarise

ABOUT = {"not_computed": {}, "load": "w.pt"}
FILES = ["metrics.json", "metrics.md", "metrics.tex", "metrics_scenes.csv", "metrics_views.csv", "report.html"]


def result(tmp_path, scene: str, inputs: int, psnr: float) -> SceneResult:
    report = SceneReport(scene, tmp_path / scene, list(range(1, inputs + 1)), list(np.zeros((inputs, 4, 6, 3), np.uint8)), 1)
    photo, rendered = torch.rand(2, 3, 4, 6)
    scores = {"psnr": psnr, "psnr_mean": 9.0, "psnr_nearest": 11.0, "ssim": 0.5}
    report.add(0, photo, rendered, photo, dict.fromkeys(SCORES) | scores)
    return report.finish({"reconstruct_s": psnr / 10}, budget=100_000)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_scenes_come_in_the_order_of_the_list_and_counts_from_few_to_many(tmp_path):
    run = Evaluation(tmp_path, ABOUT, True, "w", 4)
    for scene, inputs, psnr in (("b", 2, 20.0), ("a", 2, 21.0), ("b", 5, 24.0), ("a", 5, math.inf)):
        run.add([result(tmp_path, scene, inputs, psnr)])
    text = run.finish()
    assert names(tmp_path) == ["curves.png", *FILES]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert [(row["scene"], row["inputs"], row["psnr"]) for row in found["views"]] == [
        ("b", 2, 20.0), ("b", 5, 24.0), ("a", 2, 21.0), ("a", 5, "inf"),
    ]  # fmt: skip
    assert [(scene["inputs"], scene["reconstruct_s"]) for scene in found["scenes"]] == [(2, 2.0), (5, 2.4), (2, 2.1), (5, "inf")]
    assert [line.split()[:3] for line in text.splitlines()[1:]] == [
        ["b", "2", "1"], ["b", "5", "1"], ["a", "2", "1"], ["a", "5", "1"], ["mean", "of", "2"], ["mean", "of", "2"],
        ["2", "inputs:", "reconstruct"], ["5", "inputs:", "reconstruct"],
    ]  # fmt: skip


def test_what_is_measured_is_on_disk_before_the_run_has_finished(tmp_path):
    (tmp_path / "metrics.json").write_text("of an earlier run")
    (tmp_path / "metrics_unfinished.jsonl").write_text("of another\n")
    run = Evaluation(tmp_path, ABOUT, False, "w", None)
    run.add([result(tmp_path, "a", 2, math.inf), result(tmp_path, "b", 3, 20.0)])
    run.add([])
    run.add([result(tmp_path, "c", 2, 21.0)])
    lines = [json.loads(line) for line in (tmp_path / "metrics_unfinished.jsonl").read_text().splitlines()]
    assert [(line["scene"], line["views"][0]["inputs"], line["views"][0]["psnr"]) for line in lines] == [
        ("a", 2, "inf"), ("b", 3, 20.0), ("c", 2, 21.0),
    ]  # fmt: skip
    assert lines[1]["reconstruct_s"] == 2.0
    assert (tmp_path / "metrics.json").read_text() == "of an earlier run"
    run.finish()
    assert names(tmp_path) == FILES
    assert json.loads((tmp_path / "metrics.json").read_text())["mean"]["inputs"] is None


def test_curves_are_over_the_inputs_and_the_range_of_the_training_is_shaded(tmp_path, monkeypatch):
    rows = [
        {"scene": "a", "inputs": n, "view": 0, **dict.fromkeys(SCORES), "psnr": 20.0 + n, "ssim": n / 20, "psnr_mean": 12.0,
         "psnr_nearest": math.inf}
        for n in (2, 5, 10)
    ]  # fmt: skip
    means = summarise(rows, {}, swept=True)["means"]
    drawn = []
    draw = module.draw_panels
    monkeypatch.setattr(module, "draw_panels", lambda path, panels: (drawn.extend(panels), draw(path, panels)))
    draw_scores(tmp_path / "curves.png", means, 6)
    assert [panel.title for panel in drawn] == [
        "PSNR, dB, over inputs (shaded: trained with up to 6)", "SSIM, over inputs (shaded: trained with up to 6)",
    ]  # fmt: skip
    assert [(name, points) for name, _, points in drawn[0].curves] == [
        ("rendering", [(2, 22.0), (5, 25.0), (10, 30.0)]), ("mean of inputs", [(2, 12.0), (5, 12.0), (10, 12.0)]),
    ]  # fmt: skip
    with Image.open(tmp_path / "curves.png") as image:
        pixels = np.asarray(image)
    # The axis goes from 2 to 10 with 5 % to spare on both sides: 6 is in the middle.
    left, right = MARGIN["left"], SIZE[1] - MARGIN["right"]
    shaded = np.flatnonzero((pixels[SIZE[0] // 2] == [int(SHADE[i : i + 2], 16) for i in (1, 3, 5)]).all(-1))
    assert shaded.min() == pytest.approx(left, abs=2)
    assert shaded.max() == pytest.approx((left + right) / 2, abs=2)
    drawn.clear()
    draw_scores(tmp_path / "curves.png", means, None)
    assert [panel.span for panel in drawn] == [None, None]
