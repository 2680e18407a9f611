"""Training on bad input, broken samples and diverging steps; crashes and full disks."""

import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

import train
from config.errors import InputError
from data import folder_source
from model.training.snapshot import SnapshotWriter, read_snapshot
from model.training.state import TrainingState
from model.weights.file import read_tensors, save_tensors
from tests.support.processes import run_processes
from tests.support.scenes import write_random_data_path
from tests.support.training_run import NETWORK, arguments, assert_same, final, program, rows, work_in


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return work_in(tmp_path, monkeypatch)


def refused(capsys, argv: list[str], message: str) -> None:
    capsys.readouterr()
    assert train.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 2e-2}, r"step_00000006.pt: was trained with other settings \(lr 0\.01 → 0\.02\); wanted the same"),
        ({"bs_per_gpu": 3}, r"bs_per_gpu × grad_accum × processes 2 → 3"),
        ({"resume": "none"}, r"snapshot: holds step_00000006.pt of an earlier run; wanted another --expname"),
        (
            {"resume": "outputs/done/snapshot/step_00000002.pt"},
            r"snapshot: holds step_00000006.pt, which is not part of the history of .*00000002.pt; wanted it deleted",
        ),
        ({"config": "other.yaml"}, r"other settings \(other.yaml: dim 16 → 24\)"),
    ],
)
def test_run_that_does_not_fit_its_snapshot_is_refused(capsys, changes, message):
    Path("other.yaml").write_text(NETWORK.replace("dim: 16", "dim: 24"))
    assert train.main(arguments("done")) == 0
    refused(capsys, arguments("done", **changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "nowhere.json"}, "nowhere.json: is not there"),
        ({"data_path": "synthetic:cats"}, "synthetic:cats: is not synthetic data; wanted synthetic:objects or"),
        ({"config": "network.yml"}, "network.yml: is not there"),
        ({"image_size": [8, 10]}, "--image_size: has the width 10; wanted a multiple of the patch 4"),
        (
            {"data_path": "synthetic:objects", "image_size": [8, 10]},
            "--image_size: has the width 10; wanted a multiple of the patch 4",
        ),
        ({"num_all_views": 7, "num_target_views": 7}, "views: are 6; wanted 7"),
        ({"val_data_path": "nowhere.json"}, "nowhere.json: is not there"),
        ({"load": "nowhere.pt"}, "nowhere.pt: is not there; wanted a weight file"),
        ({"resume": "nothing.pt"}, "nothing.pt: is not there; wanted a snapshot of outputs"),
        ({"device": "tpu9"}, "device: is 'tpu9'; wanted auto"),
    ],
)
def test_bad_input_is_one_line(capsys, changes, message):
    refused(capsys, arguments("bad", **changes), message)


def test_lpips_without_its_files_ends_before_the_first_step(capsys, monkeypatch):
    def missing():
        raise FileNotFoundError("weight/vgg16-397923af.pth: not there")

    monkeypatch.setattr(train, "resolve_lpips", missing)
    refused(capsys, arguments("perceptual", lpips_weight=1.0), "vgg16-397923af.pth: not there")
    assert not Path("outputs/perceptual").exists()


def plant_nan(monkeypatch, steps: set[int]) -> None:
    """Put a NaN into the images of the given steps, counted from 0."""
    split, calls = train.split, [0]

    def planted(batch, *counts):
        inputs, targets = split(batch, *counts)
        if calls[0] in steps:
            inputs["image"] = torch.where(inputs["image"] > 0.5, torch.nan, inputs["image"])
        calls[0] += 1
        return inputs, targets

    monkeypatch.setattr(train, "split", planted)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_step_with_nan_changes_neither_weights_nor_moments(monkeypatch, device):
    plant_nan(monkeypatch, {4, 5})
    assert train.main(arguments("nan", device=device)) == 0
    before, after = (read_snapshot(Path(f"outputs/nan/snapshot/step_0000000{step}.pt")) for step in (4, 6))
    assert_same({**before, "step": 0}, {**after, "step": 0})
    assert (before["skips"], after["skips"]) == (0, 2)
    assert [row["skips"] for row in rows("nan")] == [0, 0, 2]
    assert rows("nan")[-1]["loss"] is None


def test_count_of_skipped_steps_survives_a_resume(monkeypatch):
    with monkeypatch.context() as patched:
        plant_nan(patched, {0})
        assert train.main(arguments("counted", max_hours=0)) == 0
    assert train.main(arguments("counted")) == 0
    assert [(row["step"], row["skips"]) for row in rows("counted")] == [(1, 1), (2, 1), (4, 1), (6, 1)]


def test_gradient_norm_above_the_bound_is_skipped_from_its_first_step_on():
    assert train.main(arguments("bound", skip_norm=1e-6, skip_norm_start=4)) == 0
    assert [row["skips"] for row in rows("bound")] == [0, 0, 2]
    before, after = (read_snapshot(Path(f"outputs/bound/snapshot/step_0000000{step}.pt")) for step in (4, 6))
    assert_same({**before, "step": 0}, {**after, "step": 0})


@pytest.mark.parametrize(("nan", "log_every"), [({1, 3, 4, 5}, 2), ({3, 4}, 6)])
def test_too_many_skipped_steps_in_a_row_stop_the_run(capsys, monkeypatch, nan, log_every):
    # Two in a row are reached in step 5, numbered from 1, and seen at the log of step 6: nothing is learned in between.
    plant_nan(monkeypatch, nan)
    assert train.main(arguments("lost", max_skips=2, log_every=log_every, save_every=4)) == 1
    error = capsys.readouterr().err
    assert "step 5: 2 steps in a row had a non-finite loss or gradient" in error
    assert error.rstrip().endswith("the last good snapshot is outputs/lost/snapshot/step_00000004.pt")
    assert not Path("outputs/lost/model.safetensors").exists()
    assert rows("lost")[-1]["skips"] == len(nan | {5})


def test_a_run_that_skipped_every_step_is_not_finished(capsys, monkeypatch):
    plant_nan(monkeypatch, set(range(9)))
    assert train.main(arguments("skipped", ema=0.9)) == 1
    out, error = capsys.readouterr()
    assert error == (
        "train.py: every step of 6 was skipped: its loss or gradient was not finite, or its gradient norm above skip_norm; "
        "nothing is exported\n"
    )
    assert "finished" not in out
    assert not Path("outputs/skipped/model.safetensors").exists()
    saved = final("skipped")  # unchanged
    assert all(x.isfinite().all() for part in ("model", "average") for x in saved[part].values())
    assert train.main(arguments("skipped", ema=0.9)) == 1  # again


@pytest.mark.parametrize("part", ["model", "average", "moments"])
def test_a_run_whose_weights_come_apart_keeps_its_good_snapshots(capsys, monkeypatch, part):
    finish_step, steps = TrainingState.finish_step, [0]

    def come_apart(state, *args):
        finish_step(state, *args)
        steps[0] += 1
        if steps[0] == 5:
            if part == "moments":
                next(iter(state.optimizer.state.values()))["exp_avg"].fill_(torch.nan)
            else:
                getattr(state, part).input_linear.weight.data.fill_(torch.nan)

    monkeypatch.setattr(TrainingState, "finish_step", come_apart)
    assert train.main(arguments("apart", ema=0.9, keep=1)) == 1
    out, error = capsys.readouterr()
    assert re.search(r"^train.py: step 6: weights, their average or the optimizer's state are not finite; the last good", error)
    assert error.endswith("the last good snapshot is outputs/apart/snapshot/step_00000004.pt\n")
    assert "finished" not in out
    assert [path.name for path in Path("outputs/apart/snapshot").iterdir()] == ["step_00000004.pt"]
    assert not Path("outputs/apart/model.safetensors").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("lr", [1e10, 1e20, 1e30, 3e38, 1e300])
def test_a_learning_rate_that_destroys_the_weights_is_not_exported(capsys, optimizer, ema, lr):
    """Up to about 1e38 the weights are finite after the first step, but no loss is; from then on all steps are skipped."""
    changes = {"optimizer": optimizer, "ema": ema, "lr": lr, "steps": 3, "warmup": 0, "save_every": 9, "log_every": 9}
    for _ in range(2):  # the second run does not resume from a state that is lost
        assert train.main(arguments("lost", **changes)) == 1
        out, error = capsys.readouterr()
        assert re.search(r"^train.py: step 3: (weights, their .* are not|the weights render no) finite", error)
        assert "finished" not in out
        assert [path.name for path in Path("outputs/lost").rglob("*") if path.suffix in (".pt", ".safetensors")] == []


def test_a_last_step_that_destroys_the_weights_is_not_exported(capsys, monkeypatch):
    monkeypatch.setattr(train, "learning_rate", lambda step, *_: 1e20 if step == 5 else 1e-3)
    assert train.main(arguments("last", save_every=2)) == 1
    assert "step 6: the weights render no finite numbers; the last good snapshot is outputs/last/snapshot/step_00000004.pt" in (
        capsys.readouterr().err
    )
    assert [path.name for path in Path("outputs/last").rglob("*.safetensors")] == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells what is mapped on Linux")
def test_a_resumed_run_does_not_keep_its_snapshot_mapped(monkeypatch):
    """Its file may then be cut or deleted, and its disk space is free."""
    assert train.main(arguments("mapped", steps=6, max_hours=0)) == 0
    mapped, apply_step = [], train.apply_step

    def look(*given):
        mapped.append("step_0" in Path("/proc/self/maps").read_text())
        apply_step(*given)

    monkeypatch.setattr(train, "apply_step", look)
    assert train.main(arguments("mapped", steps=6)) == 0
    assert mapped
    assert not any(mapped)


def test_weights_that_overflow_in_the_export_are_not_exported(capsys, monkeypatch):
    def apply_step(optimizer, *_):
        optimizer.param_groups[0]["params"][0].data[0, 0] = (
            3.4e38  # a column of zeros of the camera at the origin: it still renders
        )

    monkeypatch.setattr(train, "apply_step", apply_step)
    assert train.main(arguments("large", steps=1, warmup=0, export="bfloat16")) == 1
    assert capsys.readouterr().err == "train.py: the weights are not finite, or overflow in bfloat16; nothing is exported\n"
    assert not Path("outputs/large/model.safetensors").exists()


def test_weights_that_are_not_finite_are_refused_before_training(capsys):
    assert train.main(arguments("first", max_hours=0)) == 0
    weights, metadata = read_tensors("outputs/first/model.safetensors", "weights")
    weights["input_linear.weight"][0, 0] = torch.nan
    save_tensors(weights, "nan.safetensors", metadata)
    refused(
        capsys,
        arguments("second", load="nan.safetensors"),
        "nan.safetensors, input_linear.weight: holds 1 number that is not finite",
    )
    assert not Path("outputs/second").exists()


def test_a_damaged_snapshot_is_not_resumed(capsys):
    assert train.main(arguments("damaged", max_hours=0)) == 0
    path = Path("outputs/damaged/snapshot/step_00000001.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(capsys, arguments("damaged"), r"step_00000001.pt: is damaged \(.*\); wanted a whole snapshot: delete it to resume from")


def test_a_breakdown_is_not_saved(monkeypatch):
    plant_nan(monkeypatch, {0, 1})
    assert train.main(arguments("lost", max_skips=2, save_every=3, log_every=99)) == 1
    assert not list(Path("outputs/lost/snapshot").glob("*"))


def test_a_crash_leaves_a_closed_log_curves_and_the_snapshot_in_the_making(monkeypatch):
    def crash(*_):
        raise RuntimeError("crash")

    monkeypatch.setattr(train, "validate", crash)
    with pytest.raises(RuntimeError, match="crash"):
        train.main(arguments("crashed", val_data_path="scenes/test_data_path.json", val_every=4))
    assert [row["step"] for row in rows("crashed")] == [2, 4]
    assert Path("outputs/crashed/curves.png").is_file()
    assert (read_snapshot(Path("outputs/crashed/snapshot/step_00000004.pt")))["step"] == 4


@pytest.mark.parametrize("crashing", [False, True])
def test_a_snapshot_that_cannot_be_written_is_reported(capsys, monkeypatch, crashing):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:664]. unexpected pos 704 vs 598")  # torch's words for it

    def crash(*_):
        raise RuntimeError("crash")

    monkeypatch.setattr("model.training.snapshot.torch.save", full)
    if crashing:
        monkeypatch.setattr(train, "validate", crash)
        with pytest.raises(RuntimeError, match="crash"):
            train.main(arguments("full", val_data_path="scenes/test_data_path.json", val_every=2))
        unwritten = r"outputs/full/snapshot/step_00000002.pt: cannot be written \(.*unexpected pos .*; there is no snapshot yet"
        message = rf"outputs/full: not all was written \({unwritten}\)\n"
    else:
        assert train.main(arguments("full", save_every=6)) == 2
        message = (
            r"train.py: outputs/full/snapshot/step_00000006.pt: cannot be written \(.*unexpected pos .*; there is no snapshot yet\n"
        )
    assert re.fullmatch(message, capsys.readouterr().err)
    assert rows("full")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
def test_files_that_the_system_refuses_to_extend_are_one_line(folder):
    """As on a full disk, with the errors that torch and safetensors really raise: files may have 20 kB, a snapshot has more."""
    lines = "import resource, signal, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    (error,) = run_processes(1, ["-c", lines + program(arguments("large"))], folder, status=2)
    message = r"step_00000004.pt: cannot be written \(File too large\); wanted .*; there is no snapshot yet$"
    assert re.search(rf"^train.py: \S*{message}", error, re.MULTILINE)
    assert "Traceback" not in error
    assert not list(Path("outputs/large").rglob("*.pt"))
    save = """
from pathlib import Path
import torch
from model.weights.file import save_tensors
try:
    save_tensors({"x": torch.zeros(9000)}, "x.safetensors", {})
except OSError as error:
    sys.exit(0 if str(error).startswith("x.safetensors: cannot be written (") and not list(Path().glob(".x*")) else str(error))
"""
    run_processes(1, ["-c", lines + save], folder)


def test_a_bad_photo_and_a_full_disk_are_both_reported(folder, capsys, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:664]. unexpected pos 704 vs 598")

    monkeypatch.setattr("model.training.snapshot.torch.save", full)
    accumulate, calls = train.accumulate, [0]

    def broken_at_the_second(*given):
        calls[0] += 1
        figures, bad_data = accumulate(*given)
        return figures, bad_data if calls[0] < 2 else InputError("a.png", "is damaged", "a whole photo")

    monkeypatch.setattr(train, "accumulate", broken_at_the_second)
    assert train.main(arguments("both")) == 2
    error = capsys.readouterr().err
    assert "outputs/both: not all was written (" in error
    assert "train.py: a.png: is damaged; wanted a whole photo\n" in error


@pytest.mark.slow
@pytest.mark.parametrize("val_every", [3, 6])
def test_a_damaged_scene_for_validation_ends_the_run_where_it_can_be_resumed(folder, capsys, val_every):
    write_random_data_path(folder / "held_out", scenes=2, n=6, size=(10, 15))
    changes = {"val_data_path": "held_out/test_data_path.json", "val_every": val_every, "save_every": 9}
    photo = folder / "held_out" / "scene_1" / "images" / "00002.png"
    whole = photo.read_bytes()
    photo.write_bytes(b"no photo")
    refused(capsys, arguments("damaged", **changes), "held_out/scene_1/.*00002.png: is not an image")
    photo.write_bytes(whole)
    assert train.main(arguments("damaged", **changes)) == 0
    assert train.main(arguments("straight", **changes)) == 0
    assert_same(final("damaged"), final("straight"))
    assert [[row["step"] for row in rows(name) if "val_psnr" in row] for name in ("damaged", "straight")] == [
        sorted({val_every, 6})
    ] * 2


def test_a_signal_while_the_last_snapshot_is_written_does_not_end_that(monkeypatch):
    close = SnapshotWriter.close

    def close_after_a_signal(writer):
        os.kill(os.getpid(), signal.SIGTERM)
        close(writer)

    monkeypatch.setattr(SnapshotWriter, "close", close_after_a_signal)
    assert train.main(arguments("signal", max_hours=0)) == 0
    assert Path("outputs/signal/model.safetensors").is_file()


def test_validation_takes_nothing_from_the_log():
    assert train.main(arguments("without")) == 0
    assert train.main(arguments("with", val_data_path="scenes/test_data_path.json", val_every=3)) == 0
    rows_with = [row for row in rows("with") if "loss" in row]
    assert [(row["step"], row["loss"]) for row in rows_with] == [(row["step"], row["loss"]) for row in rows("without")]


def test_wrong_flags_are_reported_by_the_first_process_alone(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert train.main(["--stepz", "3"]) == 2
    assert capsys.readouterr().err == ""


def test_load_beside_a_snapshot_is_reported(capsys):
    assert train.main(arguments("first", max_hours=0)) == 0
    assert train.main(arguments("second", max_hours=0, load="outputs/first/model.safetensors")) == 0
    assert " scenes per step, from outputs/first/model.safetensors\n" in capsys.readouterr().out
    assert train.main(arguments("second", max_hours=0, load="outputs/first/model.safetensors")) == 0
    told, path = capsys.readouterr().out, "outputs/second/snapshot/step_00000001.pt"
    assert (
        f", resumed from {path}\n{path}: takes precedence over --load outputs/first/model.safetensors, which has no effect" in told
    )


def test_broken_sample_stops_the_run_or_is_replaced(folder, capsys):
    (folder / "scenes" / "scene_1" / "images" / "00002.png").write_bytes(b"no image")
    refused(capsys, arguments("strict"), r"scene .*scene_1/opencv_cameras.json, .*00002.png: is not an image.*skip_broken allows 0")
    assert train.main(arguments("tolerant", skip_broken=99)) == 0
    assert "skipped: sample" in capsys.readouterr().err
    assert rows("tolerant")[-1]["broken"] > 0


@pytest.mark.parametrize(
    ("owner", "name"), [(train, "render_loss"), (train, "apply_step"), (train, "validate"), (folder_source, "normalise_poses")]
)
def test_faults_of_the_program_are_not_told_as_mistakes_of_the_user(monkeypatch, owner, name):
    def fault(*_, **__):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(owner, name, fault)
    changes = {"val_data_path": "scenes/test_data_path.json", "val_every": 1, "skip_broken": 9, "scene_pose_normalize": True}
    with pytest.raises(ValueError, match="not enough values") as caught:
        train.main(arguments("fault", **changes))
    assert caught.type is ValueError


def test_a_disk_that_is_full_for_a_while_costs_one_snapshot(capsys, monkeypatch):
    save, calls = torch.save, [0]

    def full_at_the_second(content, path):
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    monkeypatch.setattr("model.training.snapshot.torch.save", full_at_the_second)
    assert train.main(arguments("full")) == 0
    unwritten = "outputs/full/snapshot/step_00000004.pt: cannot be written (No space left on device); wanted free space on its disk"
    good = "the last good snapshot is outputs/full/snapshot/step_00000002.pt"
    assert f"outputs/full: not all was written ({unwritten}; {good})\n" in capsys.readouterr().err
    assert sorted(path.name for path in Path("outputs/full/snapshot").iterdir()) == ["step_00000002.pt", "step_00000006.pt"]


def test_a_last_snapshot_that_cannot_be_written_leaves_the_weights(capsys, monkeypatch):
    save = torch.save

    def full_at_the_end(content, path):
        if content["step"] == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    monkeypatch.setattr("model.training.snapshot.torch.save", full_at_the_end)
    refused(capsys, arguments("full"), r"step_00000006.pt: cannot be written .*; the last good snapshot is .*step_00000004.pt$")
    assert read_tensors(Path("outputs/full/model.safetensors"), "")[0]


def test_weights_that_cannot_be_written_name_the_last_snapshot(capsys, monkeypatch):
    def full(*_):
        raise OSError("w: cannot be written")

    monkeypatch.setattr(train, "save_weights", full)
    refused(capsys, arguments("full"), r"w: cannot be written; the last good snapshot is .*step_00000006.pt$")


def test_a_picture_that_cannot_be_written_ends_nothing(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("model.training.validation.comparison", full)
    assert train.main(arguments("full", val_data_path="scenes/test_data_path.json", val_every=2)) == 0
    assert capsys.readouterr().err.count("outputs/full: goes on without pictures (") == 1
    assert [row["step"] for row in rows("full") if "val_psnr" in row] == [2, 4, 6]


@pytest.mark.skipif(sys.platform != "linux", reason="special files")
@pytest.mark.parametrize(
    ("name", "message"),
    [("log.jsonl", "is not a regular file"), ("model.safetensors", "is not a reg"), ("snapshot/step_00000006.pt", "is not a reg")],
)
def test_special_files_in_the_place_of_outputs_and_inputs(capsys, name, message):
    path = Path("outputs/special", name)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    refused(capsys, arguments("special"), f"{path}: {message}")
    assert path.is_fifo()
