"""Evaluation report: rows, picture and section of a scene, the output folder, and the progress bars."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from config.errors import InputError
from data.output import report
from data.output.metrics import SCORES
from data.output.report import SceneReport, bar, folder_names, open_folder, reconstruction_bar
from data.output.video import to_uint8


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


def photos_of(*shape: int) -> list[np.ndarray]:
    return [to_uint8(image) for image in images(*shape)]


def scores_of(photo: Tensor, rendered: Tensor) -> dict[str, float | None]:
    return dict.fromkeys(SCORES) | {"psnr": (rendered - photo).mean().item(), "ssim": rendered.mean().item()}


def scene_report(folder: Path, n: int, **options) -> tuple[SceneReport, Tensor, Tensor]:
    photos, rendered = images(n, 9, 14, 1), images(n, 9, 14, 2)
    scene = SceneReport("fox", folder, [2, 4, 5], photos_of(3, 9, 14, 0), n, **options)
    for i in range(n):
        scene.add(10 * i, photos[i], rendered[i], photos[i] / 2, scores_of(photos[i], rendered[i]))
    return scene, photos, rendered


def test_scene_report_has_a_row_for_every_view_and_saves_the_renderings(tmp_path):
    scene, photos, rendered = scene_report(tmp_path / "here", 3, save_images=True)
    result = scene.finish({"reconstruct_s": 2.5})
    assert [(row["scene"], row["inputs"], row["view"]) for row in result.rows] == [("fox", 3, 0), ("fox", 3, 10), ("fox", 3, 20)]
    for i, row in enumerate(result.rows):
        assert {**row, **scores_of(photos[i], rendered[i])} == row
        with Image.open(tmp_path / "here" / "images" / f"{10 * i:05d}.png") as image:
            pixels = np.asarray(image)
        assert np.abs(pixels / 255 - rendered[i].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["comparison.png", "images"]
    assert result.speed == {"reconstruct_s": 2.5}


def test_renderings_of_an_earlier_run_do_not_stay_among_those_of_this_one(tmp_path):
    for name in ("00010.png", "00015.png", "mine.png", "15.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    scene, _, _ = scene_report(tmp_path, 2, save_images=True)
    scene.finish({})
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["00000.png", "00010.png", "15.png", "mine.png"]
    assert (tmp_path / "images" / "00010.png").stat().st_size > 0


def test_section_of_the_page_has_inputs_views_and_means(tmp_path):
    scene, photos, rendered = scene_report(tmp_path / "fox", 7)
    section = scene.finish({"reconstruct_s": 2.5}, "trained on less", budget=1_000_000).section
    assert (section.scene, section.inputs, section.num_targets) == ("fox", [2, 4, 5], 7)
    assert (section.note, section.video, section.speed) == ("trained on less", None, {"reconstruct_s": 2.5})
    assert [view for view, _ in section.photos] == [2, 4, 5]
    assert [target.view for target in section.targets] == [0, 10, 20, 40, 50, 60]
    assert section.scores["psnr"] == pytest.approx((rendered - photos).mean().item(), abs=1e-6)
    shown = section.targets[3]
    for content, expected in ((shown.photo, photos[4]), (shown.rendering, rendered[4]), (shown.nearest, photos[4] / 2)):
        with Image.open(io.BytesIO(content)) as image:
            assert np.abs(np.asarray(image) / 255 - expected.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert shown.scores == scores_of(photos[4], rendered[4])


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
    rows = scene.finish({}, "trained on less").rows
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
    scene = SceneReport("fox", tmp_path / "fox", [0], photos_of(1, 9, 14, 0), 2, save_images=True)
    photo, rendered = images(2, 9, 14, 1)
    scene.add(0, photo, rendered, photo, scores_of(photo, rendered))
    rendered[1, 4, 5] = torch.nan
    with pytest.raises(InputError, match="fox, view 7: is rendered as NaN; wanted numbers: finite weights, and"):
        scene.add(7, photo, rendered, photo, scores_of(photo, rendered))
    assert [path.name for path in (tmp_path / "fox" / "images").iterdir()] == ["00000.png"]


def test_scene_without_targets_has_no_picture(tmp_path):
    scene, _, _ = scene_report(tmp_path / "fox", 0)
    result = scene.finish({})
    assert result.rows == []
    assert (result.section.targets, result.section.num_targets, len(result.section.photos)) == ([], 0, 3)
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
    with reconstruction_bar(torch.device("cpu")) as progress:
        progress(1, 5)
        progress(4, 5)
    assert moved == [(1, 5), (4, 5), "closed"]
