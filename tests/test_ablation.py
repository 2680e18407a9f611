"""Arithmetic and bookkeeping of the ablation: variants, curves at equal time, verdicts, and skipping of finished runs."""

import inspect
import json
from pathlib import Path

import pytest
import torch

from config import config_from_dict
from config.errors import InputError
from config.recipe import recipe_from_dict
from data.files import write_json
from model.lact_lvsm import LaCTLVSM
from model.layers.fast_weight import FastWeight
from tests.benchmark import ablation, ablation_report
from tests.benchmark.ablation import Run, main, parse, recipe, steps_of
from tests.benchmark.ablation_report import at_seconds, compare, difference, summarise
from tests.benchmark.ablation_variants import KINDS, PICTURE, VARIANTS, check_name, network

CAN_ADDRESS = {"address", "w1_only"} <= set(inspect.signature(FastWeight).parameters)


def result(name: str, seed: int, psnr: float, seconds_per_step: float = 1.0, steps: int = 600) -> dict:
    """Return a result whose curve rises by 1 dB from step to step of its six points."""
    curve = [[steps * i // 6, psnr - 6 + i] for i in range(1, 7)]
    return {
        "name": name, "seed": seed, "steps": steps, "psnr": psnr, "psnr_last": psnr, "floor": 10.0, "curve": curve,
        "seconds_per_step": seconds_per_step, "cpu_seconds": 1800.0, "parameters": 5_240_000, "machine": {},
    }  # fmt: skip


def write(folder: Path, *results: dict) -> None:
    for row in results:
        write_json(folder / "result" / f"{row['name']}_s{row['seed']}.json", row)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_networks_with_recipes_that_differ(name):
    args = parse(["--kind", "scenes"])
    settings = recipe_from_dict(recipe(Run(name, 1, 600, Path("/x")), args, Path("data.json")), name)
    assert (settings.seed, settings.warmup, settings.save_every, settings.scene_pose_normalize) == (1, 50, 100, True)
    if not VARIANTS[name].fast or CAN_ADDRESS:
        config = config_from_dict(network(name), name)
        with torch.device("meta"):
            model = LaCTLVSM(config)
        assert 3e6 < sum(x.numel() for x in model.parameters()) < 8e6
        assert all(side % config.patch_size == 0 for side in settings.image_size)


def test_no_two_variants_are_the_same_and_all_names_are_known():
    described = [json.dumps([network(name), variant.recipe], sort_keys=True) for name, variant in VARIANTS.items()]
    assert len(set(described)) == len(VARIANTS)
    named = [name for group in (*KINDS.values(), *PICTURE.values()) for name in group]
    for name in [*named, *(other for variant in VARIANTS.values() for other in variant.against), "none@foot_p4"]:
        check_name(name)


def test_value_of_a_curve_at_a_time_by_hand():
    curve = [(100, 10.0), (200, 14.0), (300, 15.0)]
    assert at_seconds(curve, 2.0, 300.0) == pytest.approx(12.0)  # step 150
    assert at_seconds(curve, 2.0, 200.0) == pytest.approx(10.0)
    assert at_seconds(curve, 0.5, 1000.0) == 15.0
    assert at_seconds(curve, 2.0, 199.0) is None


def test_equal_time_is_that_of_the_baseline():
    figures = summarise([result("none", 0, 17.0), result("none_p4", 0, 18.0, 2.0), result("none@none_p4", 0, 17.5, steps=1200)])
    assert figures["none"]["at_equal_seconds"] == [17.0]
    assert figures["none_p4"]["at_equal_seconds"] == [pytest.approx(15.0)]  # after 300 of 600 steps
    assert figures["none@none_p4"]["at_equal_seconds"] is None
    assert [(row["name"], row["against"]) for row in compare(figures)] == [("none_p4", "none"), ("none@none_p4", "none_p4")]


@pytest.mark.parametrize(
    ("one", "other", "known", "verdict"),
    [
        ([18.0, 18.2], [17.0, 17.1], None, "+1.05"),
        ([17.0, 17.4], [17.1, 17.2], None, "none"),  # the spread of one of them is larger
        ([17.1, 17.2], [17.0, 17.4], 0.1, "none"),
        ([16.0, 16.1], [17.0, 17.1], None, "-1.00"),
        ([18.0], [17.0, 17.3], 0.2, "+0.85, one seed"),
        ([17.3], [17.0], 0.4, "none, one seed"),
        ([17.3], [17.0, 17.1], 0.4, "none, one seed"),  # another variant's seeds differ by more
        ([17.3], [17.0], None, "+0.30, spread unknown"),
    ],
)
def test_differences_below_the_spread_are_none(one, other, known, verdict):
    found = difference(one, other, known)
    assert found["verdict"] == verdict
    assert found["difference"] == pytest.approx(sum(one) / len(one) - sum(other) / len(other))


def test_report_of_results(tmp_path, capsys):
    folder = tmp_path / "objects_400"
    write(folder, *(result("none", seed, 17 + seed / 10) for seed in (0, 1)), result("none_p4", 0, 18.0, 2.0),
          result("lvsm", 0, 17.1) | {"psnr_last": 16.5})  # fmt: skip
    assert main(["--report", "--out", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert page.startswith("objects_400: 4 runs, 2.0 core-hours.")
    assert "| none | no address | 2 | 600 | 17.05 (0.10) | 17.05 (0.10) | 1.00 | 1800 | 5.24 |\n" in page
    assert "| none_p4 | none | +0.95, one seed | -2.05, one seed |\n" in page
    assert "| lvsm | none | none, one seed | none, one seed |\n" in page
    assert "lvsm without averaging: 16.50\n" in page
    assert page.strip() == (folder / "report.md").read_text().strip()
    found = json.loads((folder / "report.json").read_text())
    assert found["figures"]["none"]["psnr"] == [17.0, 17.1]
    assert found["comparisons"][0]["psnr"]["spread"] == pytest.approx(0.1)
    assert (folder / "report.png").stat().st_size > 1000


def test_steps_for_the_time_of_another():
    results = [result("none", 0, 17.0, 0.5), result("none", 1, 17.0, 0.7), result("none_p4", 0, 18.0, 1.3)]
    assert steps_of("none", 600, results) == 600
    assert steps_of("none@none_p4", 600, results) == 1560
    with pytest.raises(InputError, match="none@foot: has no finished run of foot with 600 steps; wanted one"):
        steps_of("none@foot", 600, results)


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_failures_are_told(tmp_path, monkeypatch, capsys):
    write(tmp_path / "objects_400", result("none", 0, 17.0))
    monkeypatch.setattr(ablation, "export", lambda *_: tmp_path / "data.json")
    assert main(["--only", "none", "--out", str(tmp_path)]) == 0  # a repeated run would miss data.json
    assert not (tmp_path / "objects_400" / "console").exists()
    assert main(["--only", "none", "--seeds", "0", "1", "--data_path", str(tmp_path / "data.json"), "--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "none_s0" not in told.out + told.err
    assert "none_s1: not finished: train.py: " in told.err
    assert "data.json" in told.err
    assert sorted(path.name for path in (tmp_path / "objects_400" / "result").iterdir()) == ["none_s0.json"]


def test_results_of_a_variant_that_is_no_more_are_refused(tmp_path, capsys):
    write(tmp_path / "objects_400", result("nine", 0, 17.0))
    assert main(["--report", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        "ablation.py: nine: 'nine' is not a variant; wanted a known one (did you mean 'none'?"
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--only", "none", "fot"],
            "ablation.py: fot: 'fot' is not a variant; wanted a known one (did you mean 'foot'? known: none, image",
        ),
        (["--only", "none@feet"], "ablation.py: none@feet: 'feet' is not a variant; wanted a known one (did you mean 'foot'?"),
        (["--curve", "lsvm"], "ablation.py: lsvm: 'lsvm' is not a variant; wanted a known one (did you mean 'lvsm'?"),
        (["--curve", "lvsm"], "ablation.py: lvsm: has no finished run in "),
    ],
)
def test_what_is_refused(argv, said, tmp_path, capsys):
    assert main([*argv, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1
    assert ablation_report.read_results(tmp_path) == []
