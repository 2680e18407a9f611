"""The benchmark of growing states, rehearsed with a small network: what its figures are by hand, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from config.errors import InputError
from model import PosedImages
from tests.benchmark import streaming
from tests.benchmark.streaming import main, parse
from tests.benchmark.streaming_cost import cost, random_views
from tests.benchmark.streaming_forget import forget, window
from tests.benchmark.streaming_quality import (
    Chunks,
    Test,
    chosen,
    draw,
    evenly,
    focus,
    passes,
    quality,
    score,
    split,
    streamed,
)
from tests.support.networks import random_views as views_of
from tests.support.networks import relative_error, small_model

SIZE = (8, 12)


@pytest.fixture
def test() -> Test:
    model = small_model("self_attention", "fast_weight by foot", "mlp")
    scenes = [
        PosedImages(*(views_of(1, 12, *SIZE, seed=seed)[name][0] for name in ("image", "fxfycxcy", "c2w")), views=range(12))
        for seed in (0, 1)
    ]
    return Test("noise", model, scenes)


def test_targets_are_never_inputs_and_stay_the_same():
    scene = PosedImages(torch.rand(50, 3, 4, 4), torch.rand(50, 4), torch.rand(50, 4, 4), views=range(50))
    inputs, targets = split(scene)
    assert targets == list(range(0, 50, 3))
    assert not set(inputs) & set(targets)
    assert len(inputs) + len(targets) == 50
    assert evenly(inputs, 4) == [1, inputs[8], inputs[16], inputs[24]]
    with pytest.raises(InputError, match="inputs: are 34; wanted 1 to 33, as many views as are no targets"):
        evenly(inputs, 34)


def test_a_stream_is_cut_as_told_and_tested_on_the_way(test):
    scene, order = test.scenes[0], [5, 1, 7, 2, 9, 3, 4]
    states = streamed(test.model, scene, order, Chunks.of("2+3"), marks=[4])
    assert list(states) == [4, 7]
    by_hand = test.model.reconstruct(chosen(scene, [5, 1]), keep_sums=True)
    for part in ([7, 2], [9, 3, 4]):
        by_hand = test.model.extend(by_hand, chosen(scene, part))
        found = states[by_hand.c2w.shape[1]]
        assert all(torch.equal(found.layers[-1][name], x) for name, x in by_hand.layers[-1].items())
    assert Chunks.of("4") == (4, 4)


def test_a_focus_that_moves_is_that_of_the_views_so_far(test):
    scene, seen = test.scenes[0], []

    def told(views: PosedImages) -> torch.Tensor:
        seen.append(list(views.views))
        return torch.full((1, 3), float(len(views)))

    state = streamed(test.model, scene, [3, 1, 2], Chunks(2, 1), focus=told)[3]
    assert seen == [[3, 1], [3, 1, 2]]
    assert state.focus is not None
    assert state.focus.tolist() == [[3.0, 3.0, 3.0]]


def test_quality_is_the_difference_from_the_exact_state(test, tmp_path):
    args = parse(["--views", "2", "5", "99", "--orders", "given", "3", "--chunks", "1", "4+1", "5"])
    table, rows = quality(test, args)
    found = {(row["order"], row["chunks"], row["views"]): row["psnr"] for row in rows}
    inputs, targets = split(test.scenes[1])
    state = test.model.reconstruct(chosen(test.scenes[1], evenly(inputs, 5)))
    assert found["given", "exact", 5][1] == score(test.model, state, chosen(test.scenes[1], targets))
    # The whole of it is one chunk.
    assert found["given", "5", 5] == pytest.approx(found["given", "exact", 5], abs=1e-4)
    for order in ("given", "3"):
        assert found[order, "4+1", 2] == pytest.approx(found[order, "exact", 2], abs=1e-4)
    lines = table.splitlines()
    assert lines[0] == "| views at a time | 2 views | 5 views | worst |"
    assert lines[6].startswith("| shuffled by 3, exact, dB | ")
    differences = [one - other for one, other in zip(found["given", "1", 5], found["given", "exact", 5], strict=True)]
    assert f"| {sum(differences) / 2:+.2f} |" in lines[3]
    draw(tmp_path / "quality.png", [{"data": "noise", **row} for row in rows])
    assert (tmp_path / "quality.png").stat().st_size > 1000


def test_as_many_passes_as_layers_are_exact(test):
    _, rows = passes(test, parse(["--inputs", "5"]))
    assert [(row["chunk"], row["passes"]) for row in rows] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    for row in rows:
        # Two layers, of which the first is exact at once.
        assert [error < 1e-4 for error in row["errors"]] == [True, row["passes"] == 2]
        assert len(row["difference"]) == 2


def test_focus_window_and_forgetting(test):
    test = replace(test, scenes=test.scenes[:1])
    args = parse(["--inputs", "5", "--hold", "3", "--moves", "9"])
    table, rows = focus(test, args)
    assert [row["first"] for row in rows] == [1, 2, 4, 8]
    # All five views come in the first chunk of eight: no way differs from the exact one.
    assert max(abs(x) for name in ("kept", "all", "moving", "drift") for x in rows[-1][name]) < 1e-3
    assert len(table.splitlines()) == 2 + 4
    _, rows = forget(test, args)
    assert len(rows) == 6
    assert all(len(row["values"]) == 1 for row in rows)
    newest = next(row for row in rows if row["forgotten"] == "newest")
    for found, never, _, _ in newest["values"]:
        assert found == pytest.approx(never, abs=1e-2)
    _, rows = window(test, args)
    assert [row["move"] for row in rows] == [0, 1, 2]  # six views may be held
    assert max(relative_error(torch.tensor(v["window"]), torch.tensor(v["exact"])) for v in rows[0]["values"]) < 1e-4


def test_cost_of_a_network():
    flags = ["--config", "config/debug.yaml", "--image_size", "16", "16", "--held", "2", "--repeats", "1"]
    table, [row] = cost(parse(flags))
    assert 0 < row["flops"]["newton_schulz"] < row["flops"]["extend"] < row["flops"]["reconstruct"]
    assert set(row["seconds"]) == {"reconstruct", "extend", "newton_schulz", "forget"}
    assert "| add 1 view to 2 | " in table
    assert "with sums" in table
    counted, [row] = cost(parse([*flags, "--flops_only"]))
    assert "seconds" not in row
    assert "take 1 view out" not in counted
    assert len(list(random_views(7, SIZE))) == 8


def test_the_script_writes_its_tables(test, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(streaming, "find_tests", lambda args: [test])
    flags = ["--views", "2", "3", "--orders", "given", "spread", "--chunks", "1", "--out", str(tmp_path)]
    assert main(["--only", "quality", *flags]) == 0
    assert (tmp_path / "quality.md").read_text(encoding="utf-8").startswith("noise:\n\n| views at a time | 2 views | 3 views |")
    assert {row["data"] for row in json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))} == {"noise"}
    assert (tmp_path / "quality.png").exists()
    told = capsys.readouterr().out
    assert "| given order, exact, dB | " in told
    assert "| spread, exact, dB | " in told


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "quality", "--chunks", "2+"], "streaming.py: --chunks: is '2+'; wanted K or FIRST+K, of 1 or more\n"),
        (["--only", "quality", "--chunks", "0"], "streaming.py: --chunks: is '0'; wanted K or FIRST+K, of 1 or more\n"),
        (["--only", "passes", "--inputs", "99"], "streaming.py: inputs: are 99; wanted 1 to 6, as many views as are no targets\n"),
    ],
)
def test_what_is_refused(argv, said, test, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(streaming, "find_tests", lambda args: [test])
    assert main([*argv, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []
