"""Evaluation report: tables against hand-computed means, files read back, the picture and the progress bars."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from config.errors import InputError
from data.output import report
from data.output.report import (
    SceneReport,
    bar,
    folder_names,
    layer_bar,
    open_folder,
    summarise,
    table,
    write_report,
)


def row(scene: str, view: int, psnr: float, ssim: float = 0.5, lpips: float | None = 0.25) -> dict:
    return {"scene": scene, "view": view, "psnr": psnr, "ssim": ssim, "lpips": lpips}


# Two scenes of unequal length: the mean over scenes, (20 + 31) / 2, is not that over views, (19 + 21 + 31) / 3.
ROWS = [row("fox", 4, 19.0, 0.25), row("fox", 0, 21.0, 0.75), row("a, b", 2, 31.0, 0.9)]


def test_summary_is_the_mean_over_scenes_of_the_mean_over_views():
    summary = summarise(ROWS)
    assert summary["scenes"] == [
        {"scene": "fox", "views": 2, "psnr": 20.0, "ssim": 0.5, "lpips": 0.25},
        {"scene": "a, b", "views": 1, "psnr": 31.0, "ssim": 0.9, "lpips": 0.25},
    ]
    assert summary["mean"] == {"scenes": 2, "views": 3, "psnr": 25.5, "ssim": pytest.approx(0.7), "lpips": 0.25}


def test_mean_of_values_of_which_one_is_missing_is_missing():
    summary = summarise([*ROWS, row("third", 1, 20.0, lpips=None)])
    assert [scene["lpips"] for scene in summary["scenes"]] == [0.25, 0.25, None]
    assert summary["mean"]["lpips"] is None
    assert summary["mean"]["psnr"] == pytest.approx(71 / 3)


def test_report_is_json_and_csv_per_view_and_per_scene(tmp_path):
    rows = [row("fox", 4, math.inf), row("fox", 0, 21.0, lpips=None), row("a, b", 2, 31.0)]
    write_report(tmp_path / "new", rows, {"load": "w.pt", "image_size": (8, 12), "not_computed": {}})
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "metrics.json", "metrics_scenes.csv", "metrics_views.csv",
    ]  # fmt: skip
    content = json.loads((tmp_path / "new" / "metrics.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert content["about"] == {"load": "w.pt", "image_size": [8, 12], "not_computed": {}}
    assert content["views"] == [{**rows[0], "psnr": "inf"}, *rows[1:]]
    assert content["scenes"][0] == {"scene": "fox", "views": 2, "psnr": "inf", "ssim": 0.5, "lpips": None}
    assert content["mean"]["scenes"] == 2
    with (tmp_path / "new" / "metrics_views.csv").open(newline="") as file:
        views = list(csv.DictReader(file))
    assert [list(view.values()) for view in views] == [
        ["fox", "4", "inf", "0.5", "0.25"], ["fox", "0", "21.0", "0.5", ""], ["a, b", "2", "31.0", "0.5", "0.25"],
    ]  # fmt: skip
    assert list(views[0]) == ["scene", "view", "psnr", "ssim", "lpips"]
    with (tmp_path / "new" / "metrics_scenes.csv").open(newline="") as file:
        scenes = list(csv.DictReader(file))
    assert [scene["scene"] for scene in scenes] == ["fox", "a, b"]
    assert [scene["views"] for scene in scenes] == ["2", "1"]
    assert [scene["psnr"] for scene in scenes] == ["inf", "31.0"]


def test_table_has_a_line_per_scene_and_says_what_was_not_computed():
    lines = table([{**row, "lpips": None} for row in ROWS], {"lpips": "no file"}).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["fox", "2", "20.00", "0.5000", "not", "computed"],
        ["a,", "b", "1", "31.00", "0.9000", "not", "computed"],
    ]
    assert lines[3].split() == ["mean", "of", "2", "scenes", "3", "25.50", "0.7000", "not", "computed"]
    assert lines[4:] == ["LPIPS not computed: no file"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert "mean of 1 scene " in table(ROWS[:1], {})


def test_scenes_that_share_a_name_get_folders_of_their_own():
    assert folder_names(["fox", "owl"]) == ["fox", "owl"]
    # A number after the name would make two "fox_1".
    assert folder_names(["fox", "fox", "fox_1"]) == ["000_fox", "001_fox", "002_fox_1"]


def test_open_folder_creates_it_and_leaves_nothing_in_it(tmp_path):
    open_folder(tmp_path / "a" / "b")
    open_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"file.*: cannot be written to \(.+\); wanted a folder for the results"):
            open_folder(path)

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(report.tempfile, "TemporaryFile", refuse)  # a test that runs as root may write anywhere
    with pytest.raises(OSError, match=r"cannot be written to \(Permission denied\)"):
        open_folder(tmp_path)


def images(n: int, h: int, w: int, seed: int) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def scene_report(folder: Path, n: int, **options) -> tuple[SceneReport, Tensor, Tensor]:
    targets, rendered = images(n, 9, 14, 1), images(n, 9, 14, 2)
    metrics = {"psnr": lambda one, other: (one - other).mean(), "ssim": lambda one, other: one.mean()}
    scene = SceneReport(folder, images(3, 9, 14, 0), n, metrics, **options)
    for i in range(n):
        scene.add(10 * i, targets[i].double(), rendered[i])
    return scene, targets, rendered


def test_scene_report_scores_every_view_and_saves_the_renderings(tmp_path):
    scene, targets, rendered = scene_report(tmp_path / "fox", 3, save_images=True)
    rows = scene.finish()
    assert [(row["scene"], row["view"], row["lpips"]) for row in rows] == [("fox", 0, None), ("fox", 10, None), ("fox", 20, None)]
    for i, row in enumerate(rows):
        assert row["psnr"] == pytest.approx((rendered[i] - targets[i]).mean().item(), abs=1e-6)
        assert row["ssim"] == pytest.approx(rendered[i].mean().item(), abs=1e-6)
        with Image.open(tmp_path / "fox" / "images" / f"{10 * i:05d}.png") as image:
            pixels = np.asarray(image)
        assert np.abs(pixels / 255 - rendered[i].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert sorted(path.name for path in (tmp_path / "fox").iterdir()) == ["comparison.png", "images"]


@pytest.mark.parametrize(
    ("n", "shown"),
    [(1, [0]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 4, 5]), (7, [0, 1, 2, 4, 5, 6]), (56, [0, 11, 22, 33, 44, 55])],
)
def test_picture_shows_targets_from_the_first_to_the_last(tmp_path, monkeypatch, n, shown):
    drawn = {}

    def draw(path, inputs, targets, rendered, captions, title, note):
        drawn.update(path=path, inputs=inputs, targets=targets, rendered=rendered, captions=captions, title=title, note=note)

    monkeypatch.setattr(report, "comparison", draw)
    scene, targets, rendered = scene_report(tmp_path / "fox", n)
    rows = scene.finish("trained on less")
    assert drawn["note"] == "trained on less"
    assert drawn["path"] == tmp_path / "fox" / "comparison.png"
    assert len(drawn["inputs"]) == 3
    for name, tensors in (("targets", targets), ("rendered", rendered)):
        assert len(drawn[name]) == len(shown)
        for image, i in zip(drawn[name], shown, strict=True):
            assert np.abs(image / 255 - tensors[i].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert list(drawn["captions"]) == [f"{rows[i]['psnr']:.2f} dB" for i in shown]
    assert drawn["title"].startswith("fox: PSNR ")
    assert drawn["title"].endswith(f" over {n} target{'s' * (n > 1)}, showing views {', '.join(str(10 * i) for i in shown)}")


def test_rendering_of_nan_is_refused(tmp_path):
    scene = SceneReport(tmp_path / "fox", images(3, 9, 14, 0), 2, {"psnr": lambda one, other: (one - other).mean()}, True)
    target, rendered = images(2, 9, 14, 1)
    scene.add(0, target, rendered)
    rendered[1, 4, 5] = torch.nan
    with pytest.raises(InputError, match="fox, view 7: is rendered as NaN; wanted numbers: finite weights, and"):
        scene.add(7, target, rendered)
    assert [path.name for path in (tmp_path / "fox" / "images").iterdir()] == ["00000.png"]


def test_scene_without_targets_has_no_picture(tmp_path):
    scene, _, _ = scene_report(tmp_path / "fox", 0)
    assert scene.finish() == []
    assert not (tmp_path / "fox").exists()


def test_bars_show_rate_and_remaining_time_on_the_first_process_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    for rank in (None, "0", "1"):
        if rank:
            monkeypatch.setenv("RANK", rank)
        text = io.StringIO()
        with bar(total=4, desc="video", unit="frame", file=text, mininterval=0) as progress:
            progress.update()
            progress.update()
        if rank == "1":
            assert text.getvalue() == ""
        else:
            assert "video:  50%" in text.getvalue()
            assert "frame/s" in text.getvalue()
            assert "\n" not in text.getvalue()


def test_layer_bar_follows_what_is_done(monkeypatch):
    moved = []

    class Recorder:
        n, total = 0, None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            moved.append("closed")

        def update(self, step):
            self.n += step
            moved.append((self.n, self.total))

    monkeypatch.setattr(report, "bar", lambda **_: Recorder())
    with layer_bar(torch.device("cpu")) as progress:
        progress(1, 5)
        progress(4, 5)
    assert moved == [(1, 5), (4, 5), "closed"]
