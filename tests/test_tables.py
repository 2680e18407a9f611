"""Tables of an evaluation: means against hand-computed ones, files read back, rows for papers."""

import csv
import json
import math

import pytest

from data.output.metrics import METRICS, SCORES, metric_of
from data.output.tables import SPEEDS, latex, markdown, summarise, table, write_tables

SPEED = {("fox", 3): {"reconstruct_s": 2.0, "frames_per_s": 5.0, "input_tokens": 24, "tokens_per_view": 8, "peak_memory_bytes": 7}}
SPEED[("a, b", 3)] = {**SPEED[("fox", 3)], "reconstruct_s": 4.0, "peak_memory_bytes": 9}


def row(scene: str, view: int, psnr: float, ssim: float = 0.5, lpips: float | None = 0.25, inputs: int = 3) -> dict:
    scores = dict.fromkeys(SCORES) | {"psnr": psnr, "ssim": ssim, "lpips": lpips, "psnr_mean": psnr - 8, "psnr_nearest": psnr - 5}
    return {"scene": scene, "inputs": inputs, "view": view, **scores}


# Two scenes of unequal length: the mean over scenes, (20 + 31) / 2, is not that over views, (19 + 21 + 31) / 3.
ROWS = [row("fox", 4, 19.0, 0.25), row("fox", 0, 21.0, 0.75), row("a, b", 2, 31.0, 0.9)]


def of(names: str, values: dict) -> list:
    return [values[name] for name in names.split()]


def test_there_is_a_baseline_beside_every_score():
    assert set(SCORES) == {*METRICS, *(f"{metric}_{baseline}" for metric in METRICS for baseline in ("mean", "nearest"))}
    assert [metric_of(f"psnr_box{baseline}").name for baseline in ("", "_mean", "_nearest")] == 3 * ["object PSNR"]
    assert metric_of("lpips_mean").higher is False


def test_summary_is_the_mean_over_scenes_of_the_mean_over_views():
    summary = summarise(ROWS, SPEED)
    names = "scene inputs views psnr ssim lpips psnr_mean psnr_nearest psnr_box"
    assert [of(names, scene) for scene in summary["scenes"]] == [
        ["fox", 3, 2, 20.0, 0.5, 0.25, 12.0, 15.0, None],
        ["a, b", 3, 1, 31.0, 0.9, 0.25, 23.0, 26.0, None],
    ]
    (mean,) = summary["means"]
    assert of("inputs scenes views psnr ssim psnr_mean psnr_nearest ssim_mean", mean) == [
        3, 2, 3, 25.5, pytest.approx(0.7), 17.5, 20.5, None,
    ]  # fmt: skip
    # the median of seconds and rates, the most of the others
    assert of(" ".join(SPEEDS), mean) == [3.0, 5.0, 24, 8, 9]
    assert of("reconstruct_s peak_memory_bytes", summary["scenes"][1]) == [4.0, 9]


def test_numbers_of_inputs_are_apart_in_a_sweep_alone():
    rows = [*ROWS, row("fox", 4, 25.0, inputs=5), row("a, b", 2, 35.0, inputs=5)]
    swept = summarise(rows, {}, swept=True)
    assert [of("inputs scenes views psnr", mean) for mean in swept["means"]] == [[3, 2, 3, 25.5], [5, 2, 2, 30.0]]
    assert [(scene["scene"], scene["inputs"]) for scene in swept["scenes"]] == [("fox", 3), ("a, b", 3), ("fox", 5), ("a, b", 5)]
    # Scenes with fewer views have fewer inputs: that is one table.
    (mean,) = summarise([ROWS[0], row("owl", 1, 21.0, inputs=2)], {})["means"]
    assert of("inputs scenes psnr", mean) == [None, 2, 20.0]
    assert summarise([], {}) == {"scenes": [], "means": []}


def test_mean_of_values_of_which_one_is_missing_is_missing():
    summary = summarise([*ROWS, row("third", 1, 20.0, lpips=None)], {})
    assert [scene["lpips"] for scene in summary["scenes"]] == [0.25, 0.25, None]
    assert summary["means"][0]["lpips"] is None
    assert summary["means"][0]["psnr"] == pytest.approx(71 / 3)


def test_tables_are_json_csv_markdown_and_latex(tmp_path):
    rows = [row("fox", 4, math.inf), row("fox", 0, 21.0, lpips=None), row("a, b", 2, 31.0)]
    write_tables(tmp_path / "new", rows, SPEED, {"load": "w.pt", "machine": {"torch": "2.13", "device": "cpu"}}, False, "w")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "metrics.json", "metrics.md", "metrics.tex", "metrics_scenes.csv", "metrics_views.csv",
    ]  # fmt: skip
    content = json.loads((tmp_path / "new" / "metrics.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert list(content) == ["about", "scenes", "means", "mean", "views"]
    assert content["about"] == {"load": "w.pt", "machine": {"torch": "2.13", "device": "cpu"}}
    assert content["views"] == [{**rows[0], "psnr": "inf", "psnr_mean": "inf", "psnr_nearest": "inf"}, *rows[1:]]
    assert of("scene inputs views psnr ssim lpips reconstruct_s", content["scenes"][0]) == ["fox", 3, 2, "inf", 0.5, None, 2.0]
    assert content["mean"] == content["means"][0]
    with (tmp_path / "new" / "metrics_views.csv").open(newline="") as file:
        views = list(csv.DictReader(file))
    assert list(views[0]) == ["scene", "inputs", "view", *SCORES]
    assert [of("scene inputs view psnr ssim lpips psnr_nearest", view) for view in views] == [
        ["fox", "3", "4", "inf", "0.5", "0.25", "inf"], ["fox", "3", "0", "21.0", "0.5", "", "16.0"],
        ["a, b", "3", "2", "31.0", "0.5", "0.25", "26.0"],
    ]  # fmt: skip
    with (tmp_path / "new" / "metrics_scenes.csv").open(newline="") as file:
        scenes = list(csv.DictReader(file))
    assert list(scenes[0]) == ["scene", "inputs", "views", *SCORES]
    assert [of("scene views psnr", scene) for scene in scenes] == [["fox", "2", "inf"], ["a, b", "1", "31.0"]]
    means = summarise(rows, SPEED)["means"]
    assert (tmp_path / "new" / "metrics.tex").read_text() == latex(means, "w")
    assert (tmp_path / "new" / "metrics.md").read_text() == markdown(means, "w") + "\ntorch 2.13, device cpu\n"


def test_a_sweep_has_no_single_mean(tmp_path):
    write_tables(tmp_path, [*ROWS, row("fox", 4, 25.0, inputs=5)], {}, {}, True, "w")
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["about", "scenes", "means", "views"]


def test_text_table_has_a_line_per_scene_and_says_what_was_not_computed():
    lines = table([{**row, "lpips": None} for row in ROWS], {}, {"not_computed": {"lpips": "no file"}}).splitlines()
    assert lines[0].split() == [
        *[
            "scene",
            "inputs",
            "targets",
            "PSNR",
            "SSIM",
            "LPIPS",
            "PSNR",
            "of",
            "nearest",
            "input",
            "PSNR",
            "of",
            "mean",
            "of",
            "inputs",
        ]
    ]
    assert [line.split() for line in lines[1:3]] == [
        ["fox", "3", "2", "20.00", "0.5000", "not", "computed", "15.00", "12.00"],
        ["a,", "b", "3", "1", "31.00", "0.9000", "not", "computed", "26.00", "23.00"],
    ]
    assert lines[3].split() == ["mean", "of", "2", "scenes", *["3", "3", "25.50", "0.7000", "not", "computed", "20.50", "17.50"]]
    assert lines[4:] == ["LPIPS not computed: no file"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert "mean of 1 scene " in table(ROWS[:1], {}, {})
    assert "object PSNR    SSIM" in table([{**ROWS[0], "psnr_box": 18.0}], {}, {})
    assert [line.split()[4:6] for line in table([*ROWS, row("fox", 4, 25.0, inputs=5)], {}, {}, True).splitlines()[-2:]] == [
        ["3", "3"], ["5", "1"],
    ]  # fmt: skip


def test_rows_for_papers():
    means = summarise([*ROWS, row("fox", 4, 25.0, lpips=None, inputs=5)], {}, swept=True)["means"]
    assert markdown(means, "a|b_64").splitlines() == [
        "| method | inputs | scenes | targets | PSNR | SSIM | LPIPS | PSNR of nearest input | PSNR of mean of inputs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a\\|b_64 | 3 | 2 | 3 | 25.50 | 0.7000 | 0.2500 | 20.50 | 17.50 |",
        "| a\\|b_64 | 5 | 1 | 1 | 25.00 | 0.5000 | – | 20.00 | 17.00 |",
    ]
    assert latex(means, "a_64 & {more} 5% ~\\").splitlines() == [
        r"% method & inputs & PSNR & SSIM & LPIPS & reconstruct, s & frames/s \\",
        r"a\_64 \& \{more\} 5\% \textasciitilde{}\textbackslash{} & 3 & 25.50 & 0.7000 & 0.2500 & -- & -- \\",
        r"a\_64 \& \{more\} 5\% \textasciitilde{}\textbackslash{} & 5 & 25.00 & 0.5000 & -- & -- & -- \\",
    ]
    assert "| various |" in markdown(summarise([ROWS[0], row("owl", 1, 21.0, inputs=2)], {})["means"], "m")


def test_tables_tell_speed_memory_and_machine():
    about = {"not_computed": {}, "machine": {"commit": "1a2b", "precision": "bfloat16"}}
    assert table(ROWS, SPEED, about).splitlines()[4:] == [
        "3 inputs: reconstruct 3 s, frames per second 5, input tokens 24, tokens per view 8, peak memory 0.00 MiB",
        "commit 1a2b, precision bfloat16",
    ]
    means = summarise(ROWS, SPEED)["means"]
    head, _, line = markdown(means, "w").splitlines()
    assert head.endswith("| reconstruct | frames per second | input tokens | tokens per view | peak memory |")
    assert line.endswith("| 3 s | 5 | 24 | 8 | 0.00 MiB |")
    assert latex(means, "w").splitlines()[1].endswith(r"& 3 & 5 \\")
