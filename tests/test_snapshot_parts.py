"""Snapshots in parts, and training resumed from them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import train
from config.errors import InputError
from model.training.snapshot import read_snapshot
from model.training.snapshot_parts import join_parts, write_parts
from tests.support.training_run import arguments, assert_same, final, work_in

LARGE = {"snapshot_parts": "100K", "snapshot_total": "9M", "ema": 0.9}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return work_in(tmp_path, monkeypatch)


def stopped_run(expname: str, **changes) -> Path:
    """Train one step, stopped by the clock; copy the parts elsewhere, delete the run, and return the copy's folder."""
    assert train.main(arguments(expname, max_hours=0, **changes)) == 0
    carried = Path("carried") / expname
    shutil.copytree(Path("outputs") / expname / "parts", carried)
    shutil.rmtree(Path("outputs") / expname)
    return carried


def refused_total(capsys) -> str:
    assert train.main(arguments("refused", ema=0.9, snapshot_parts="1K", snapshot_total="1K")) == 2
    return capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_run_goes_on_from_its_parts_bitwise(optimizer, capsys):
    changes = {"optimizer": optimizer, **LARGE}
    assert train.main(arguments("straight", **changes)) == 0
    parts = stopped_run("carried", **changes)
    assert "carried/parts: the whole snapshot; --resume outputs/carried/parts continues from there" in capsys.readouterr().out
    assert train.main(arguments("carried", resume=str(parts), **changes)) == 0
    assert_same(final("straight"), final("carried"))


@pytest.mark.slow
def test_more_than_fits_leaves_the_optimizer_state_behind(capsys):
    changes = {"ema": 0.9, "snapshot_parts": "100K"}
    whole = stopped_run("whole", **{**changes, "snapshot_total": "9M"})
    size = sum(path.stat().st_size for path in whole.glob("*.part*"))
    parts = stopped_run("reduced", **{**changes, "snapshot_total": f"{size // 1024 - 1}K"})
    capsys.readouterr()
    one, other = read_snapshot(whole), read_snapshot(parts)
    assert other["optimizer"] is None
    assert one["optimizer"]["state"]
    # Totals refused before training are too small for the weights and their average.
    least = int(re.search(r"wanted (\d+)K", refused_total(capsys))[1])
    assert sum(path.stat().st_size for path in parts.glob("*.part*")) <= least * 1024 < size
    for part in ("model", "average"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert train.main(arguments("reduced", resume=str(parts), **changes)) == 0
    assert f"{parts}: holds no optimizer state, which is reset; the learning-rate schedule continues" in capsys.readouterr().out
    assert final("reduced")["step"] == 6


def test_weights_that_do_not_fit_are_refused_before_training(capsys):
    assert train.main(arguments("large", snapshot_parts="1K", snapshot_total="2K")) == 2
    error = capsys.readouterr().err
    assert re.search(r"--snapshot_total: is 2K; wanted \d+K or more, for weights, or no --snapshot_parts", error)
    assert not Path("outputs/large").exists()


def test_newer_parts_replace_older_ones_and_tools_of_the_shell_join_them(folder):
    assert train.main(arguments("run", keep=1, **LARGE)) == 0
    parts = folder / "outputs" / "run" / "parts"
    names = sorted(os.listdir(parts))
    assert names[-1] == "step_00000006.sha256" or names[0] == "step_00000006.pt.part00"
    assert all(name.startswith("step_00000006.") for name in names)
    assert len(names) > 2
    assert max(path.stat().st_size for path in parts.iterdir()) <= 100 * 1024
    subprocess.run("sha256sum -c step_00000006.sha256 && cat step_00000006.pt.part* > joined", shell=True, cwd=parts, check=True)
    assert (parts / "joined").read_bytes() == (folder / "outputs/run/snapshot/step_00000006.pt").read_bytes()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda parts, sums: parts[1].unlink(), r"part01: is missing; wanted all 4 parts that step_00000007.sha256 names"),
        (lambda parts, sums: parts[2].write_bytes(b"other"), r"part02: does not match step_00000007.sha256"),
        (lambda parts, sums: sums.write_text("../x  y\n"), r"step_00000007.sha256: holds lines that are not checksums"),
        (lambda parts, sums: sums.write_text(""), r"step_00000007.sha256: holds lines that are not checksums"),
        (lambda parts, sums: sums.unlink(), r"carried: holds no step_N.sha256"),
    ],
)
def test_damaged_parts_are_refused(folder, fault, message):
    (folder / "step_00000007.pt").write_bytes(bytes(range(100)) * 4)
    assert write_parts(folder / "step_00000007.pt", folder / "carried", 110, 1000, Path.touch)
    parts = sorted((folder / "carried").glob("*.part*"))
    assert join_parts(folder / "carried").read() == bytes(range(100)) * 4
    fault(parts, folder / "carried" / "step_00000007.sha256")
    with pytest.raises(InputError, match=message):
        join_parts(folder / "carried")


def test_parts_beside_newer_snapshots_are_refused(capsys):
    parts = stopped_run("again", **LARGE)
    assert train.main(arguments("again", **LARGE)) == 0
    assert train.main(arguments("again", resume=str(parts), **LARGE)) == 2
    assert "wanted it deleted, or another --expname" in capsys.readouterr().err
