"""Training state and its snapshots: written atomically, the newest few kept, everything restored."""

import dataclasses
import gc
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from config import config_from_dict
from config.errors import InputError
from config.recipe import DEFAULT_CONFIG
from model import LaCTLVSM, load_model
from model.machine import code_version
from model.training.snapshot import (
    FORMAT,
    SnapshotWriter,
    check_same_run,
    copied,
    list_snapshots,
    read_snapshot,
    rng_state,
    set_rng_state,
)
from model.training.state import TrainingState
from model.weights.file import read_weights
from model.weights.load import read_config
from tests.support.snapshots import CPU, RECIPE, config, content, trained
from tests.support.training_run import assert_same_state

ROOT = Path(__file__).parent.parent


def written(folder: Path, *steps: int, keep: int = 9) -> list[Path]:
    writer = SnapshotWriter(folder, keep)
    for step in steps:
        writer.save(content(step))
    writer.close()
    return [path for _, path in list_snapshots(folder)]


def test_state_saves_and_restores_itself(tmp_path):
    recipe = dataclasses.replace(RECIPE, ema=0.9)
    state = trained(seed=1, step=7, recipe=recipe)
    writer = SnapshotWriter(tmp_path, 1)
    writer.save(state.content(recipe, [rng_state(CPU)], data_ranks=2))
    writer.close()
    found = read_snapshot(tmp_path / "step_00000007.pt")
    assert (found["step"], found["skips"], found["data_ranks"], found["code_version"]) == (7, 3, 2, code_version())
    assert found["recipe"] == dataclasses.asdict(recipe)
    assert config_from_dict(found["config"]) == config()

    other = trained(seed=2, recipe=recipe)
    other.restore(found, tmp_path / "step_00000007.pt", rank=0)
    assert (other.step, other.skips.tolist()) == (7, [3, 0])
    assert not torch.equal(state.average.input_linear.weight, state.model.input_linear.weight)
    for one, two in ((state.model, other.model), (state.average, other.average)):
        assert all(torch.equal(x, y) for x, y in zip(one.parameters(), two.parameters(), strict=True))
    for one, two in zip(state.model.parameters(), other.model.parameters(), strict=True):
        moments, other_moments = state.optimizer.state[one], other.optimizer.state[two]
        assert set(moments) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[name], other_moments[name]) for name in moments)


def test_snapshot_of_the_former_spelling_is_read(tmp_path):
    old = content(step=4)
    old = {"format": FORMAT.replace(" 2", " 1"), **old, "optimiser": old.pop("optimizer")}
    torch.save(old, tmp_path / "old.pt")
    found, state = read_snapshot(tmp_path / "old.pt"), trained(seed=2)
    state.restore(found, tmp_path / "old.pt", rank=0)
    assert state.step == 4
    moments = state.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[i]["exp_avg"], x["exp_avg"]) for i, x in old["optimiser"]["state"].items())


def test_weights_that_a_run_starts_from_are_its_average_too():
    source, state = trained(seed=1), trained(seed=2, recipe=dataclasses.replace(RECIPE, ema=0.9))
    state.load(source.model.state_dict(), "weights.pt")
    for network in (state.model, state.average):
        assert all(torch.equal(x, y) for x, y in zip(network.parameters(), source.model.parameters(), strict=True))


def test_snapshot_is_taken_at_the_moment_of_saving(tmp_path):
    saved = content(step=1)
    expected = {name: tensor.clone() for name, tensor in saved["model"].items()}
    writer = SnapshotWriter(tmp_path, 1)
    writer.save(saved)
    for tensor in saved["model"].values():
        tensor.zero_()
    writer.close()
    found = read_snapshot(tmp_path / "step_00000001.pt")["model"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_only_the_newest_are_kept(tmp_path):
    assert [path.name for path in written(tmp_path, 90, 100, 1000, keep=2)] == ["step_00000100.pt", "step_00001000.pt"]


def test_names_sort_by_number(tmp_path):
    written(tmp_path, 5)
    (tmp_path / "step_00000005.pt").rename(tmp_path / "step_123456789.pt")
    written(tmp_path, 99999999)
    (tmp_path / "step_latest.pt").touch()
    assert [step for step, _ in list_snapshots(tmp_path)] == [99999999, 123456789]


def test_error_in_the_background_is_raised(tmp_path):
    (tmp_path / "file").touch()
    writer = SnapshotWriter(tmp_path / "file" / "snapshot", 1)
    writer.save(content(1))
    with pytest.raises(OSError, match="file"):
        writer.close()


KILLED = """
import sys, torch
from pathlib import Path
from model.training.snapshot import SnapshotWriter
writer = SnapshotWriter(Path(sys.argv[1]), keep=2)
for step in range(1, 1000):
    writer.save({"step": step, "model": {"weight": torch.full((4096, 4096), float(step))}, "average": None, "optimizer": {},
                 "skips": 0, "rng": [], "recipe": {}, "config": {}, "data_ranks": 1, "code_version": ""})
"""


@pytest.mark.slow
def test_killed_while_saving_leaves_the_one_before(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    limit = time.monotonic() + 60
    while not (list_snapshots(tmp_path) and any(path.stat().st_size > 2**20 for path in tmp_path.glob(".step_*.tmp.pt"))):
        assert time.monotonic() < limit
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".step_*.tmp.pt"))  # it was in the middle of one
    step, path = list_snapshots(tmp_path)[-1]
    found = read_snapshot(path)
    assert found["step"] == step
    assert (found["model"]["weight"] == step).all()
    SnapshotWriter(tmp_path, keep=2)
    assert not list(tmp_path.glob(".*"))


def test_random_numbers_go_on_where_they_were():
    def draw() -> list[float]:
        return [random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()]  # noqa: NPY002

    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
    draw()
    state = rng_state(torch.device("cpu"))
    expected = draw() + draw()
    random.seed(4), np.random.seed(5), torch.manual_seed(6)  # noqa: NPY002
    set_rng_state(state)
    assert draw() + draw() == expected


def test_weights_in_a_snapshot_load_for_inference(tmp_path):
    (path,) = written(tmp_path, 1)
    assert set(read_weights(path)) == set(LaCTLVSM(config()).state_dict())


def test_missing_snapshot(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"step_1.pt: is not there; wanted a snapshot of outputs/EXPNAME/snapshot"):
        read_snapshot(tmp_path / "step_1.pt")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_short_snapshot(tmp_path, share):
    (path,) = written(tmp_path, 1)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"step_00000001.pt: cannot be read \(.*\); wanted a whole snapshot: delete it"):
        read_snapshot(path)


def test_other_files_are_no_snapshots(tmp_path):
    torch.save({"model": {}}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"weights.pt: is not a training snapshot; wanted .*--load"):
        read_snapshot(tmp_path / "weights.pt")
    torch.save(Path("x"), tmp_path / "pickle.pt")
    with pytest.raises(InputError, match=r"pickle.pt: needs .* to unpickle"):
        read_snapshot(tmp_path / "pickle.pt")


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": "7"}, "step: is a str; wanted an int"),
        ({"step": -1}, "step: is -1; wanted 0 or more, 2147483647 at most"),
        ({"skips": None}, "skips: is nothing; wanted an int"),
        ({"step": 10**400}, "step: is 10{40}.*; wanted 0 or more, 2147483647 at most"),
        ({"skips": -1}, "skips: is -1; wanted 0 or more, 2147483647 at most"),
        ({"rng": [{"torch": torch.zeros(1).expand(10**12)}]}, "rng, 0, torch: is .1000000000000,., 4000000000000 bytes of which"),
        ({"optimizer": {"state": {0: {"step": torch.empty(3, device="meta")}}}}, "optimizer, state, 0, step: is without values"),
        ({"model": {"x": torch.eye(2).to_sparse()}}, "model, x: is sparse"),
        ({"rng": nested(30)}, "rng, 0, 0, 0: is nested more than 20 deep"),
        ({"data_ranks": True}, "data_ranks: is a bool"),
        ({"recipe": []}, "recipe: is a list; wanted a dict"),
        ({"config": 3}, "config: is an int; wanted a dict"),
        ({"rng": {}}, "rng: is a dict; wanted a list"),
        ({"model": {"x": 3}}, "model, 'x': is an int; wanted tensors by their names"),
        ({"model": {3: torch.zeros(1)}}, "model, 3: is a Tensor"),
        ({"average": [1]}, "average: is a list; wanted a dict or nothing"),
        ({"optimizer": 0.5}, "optimizer: is a float; wanted a dict or nothing"),
    ],
)
def test_parts_of_other_types_are_refused(tmp_path, changes, message):
    torch.save({"format": FORMAT, **content(7), **changes}, tmp_path / "step_00000007.pt")
    with pytest.raises(InputError, match=rf"step_00000007.pt, {message}"):
        read_snapshot(tmp_path / "step_00000007.pt")


def first_moments(saved: dict) -> dict:
    return saved["optimizer"]["state"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x["model"]["input_linear.weight"].fill_(torch.nan),
            "input_linear.weight: holds 384 numbers that are not finite",
        ),
        (lambda x: x["average"]["input_linear.weight"].fill_(torch.nan), "average, input_linear.weight: holds 384 numbers that"),
        (lambda x: x.update(average=None), "average: is missing; wanted averaged weights"),
        (lambda x: first_moments(x)["exp_avg"].fill_(torch.inf), "optimizer, exp_avg: holds 384 numbers that are not finite"),
        (lambda x: first_moments(x).update(exp_avg=torch.zeros(3)), r"optimizer, exp_avg: is \(3,\); wanted \(8, 48\)"),
        (lambda x: first_moments(x).update(exp_avg=None), "optimizer, exp_avg: is nothing; wanted"),
        (lambda x: first_moments(x).pop("exp_avg_sq"), r"optimizer: holds \['step', 'exp_avg'\]; wanted exp_avg, exp_avg_sq, step"),
        (lambda x: x["optimizer"].update(state={}), "optimizer: is empty after 4 steps"),
        (lambda x: x["optimizer"].update(state={99: {"step": 1}}), "optimizer: holds"),
        (lambda x: x["optimizer"]["param_groups"].pop(), r"optimizer: cannot be restored \(ValueError"),
        (lambda x: x["optimizer"]["param_groups"][0].update(eps="x"), "optimizer, eps: is 'x'; wanted a float"),
        (lambda x: x["optimizer"]["state"].pop(0), r"optimizer: is that of \d+ of \d+ parameters"),
        (lambda x: x["optimizer"]["state"].update({0: 3.5}), r"optimizer: (holds 3\.5|cannot be restored)"),
        (lambda x: first_moments(x).update(step=torch.tensor(2.0)), "optimizer, step: differs between parameters"),
        (lambda x: x.update(optimizer={}), r"optimizer: cannot be restored \(KeyError"),
        (lambda x: x.update(rng=[{}]), r"rng: cannot be restored \(KeyError"),
        (lambda x: x["rng"][0].update(torch=torch.zeros(5)), r"rng: cannot be restored"),
        (lambda x: x["rng"][0].update(python=3), r"rng: cannot be restored"),
    ],
)
def test_parts_that_do_not_fit_the_run_are_refused(tmp_path, change, message):
    recipe = dataclasses.replace(RECIPE, ema=0.9)
    saved = trained(seed=1, step=7, recipe=recipe).content(recipe, [rng_state(CPU)], 1)
    change(saved)
    torch.save({"format": FORMAT, **saved}, tmp_path / "step_00000007.pt")
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(InputError, match=rf"step_00000007.pt, {message}"):
        trained(2, 0, recipe).restore(read_snapshot(tmp_path / "step_00000007.pt"), tmp_path / "step_00000007.pt", 0)
    torch.set_rng_state(before[0])
    random.setstate(before[1])


@pytest.mark.parametrize(
    ("change", "message"), [({"dim": torch.zeros(2)}, "config, dim: is"), ({"later": 1}, "config, later: is unknown")]
)
def test_a_network_that_no_config_describes_is_refused(tmp_path, change, message):
    (path,) = written(tmp_path, 1)
    saved = read_snapshot(path)
    saved["config"] |= change
    with pytest.raises(InputError, match=rf"step_\d+.pt, {message}"):
        check_same_run(saved, path, RECIPE, config(), 1)


@pytest.mark.parametrize("name", ["weight_decay", "betas"])
def test_settings_of_the_optimizer_are_those_of_the_recipe(tmp_path, name):
    state = trained(seed=1, step=7)
    saved, other = state.content(RECIPE, [rng_state(CPU)], 1), {"weight_decay": 3.5, "betas": (0.9, None)}
    saved["optimizer"]["param_groups"][0][name] = other[name]
    torch.save({"format": FORMAT, **saved}, tmp_path / "step_00000007.pt")
    again = trained(seed=2, step=0)
    again.restore(read_snapshot(tmp_path / "step_00000007.pt"), tmp_path / "step_00000007.pt", 0)
    assert again.optimizer.param_groups[0][name] == state.optimizer.param_groups[0][name]


@pytest.mark.skipif(sys.platform != "linux", reason="lists mapped files by /proc")
def test_a_restored_run_does_not_keep_the_file_mapped(tmp_path):
    (path,) = written(tmp_path, 1)
    state = trained(seed=2)
    state.restore(read_snapshot(path), path, rank=0)
    gc.collect()
    assert path.name not in Path("/proc/self/maps").read_text()
    before = copied(state.optimizer.state_dict())
    with path.open("r+b") as file:
        file.truncate(0)
    assert_same_state(before, state.optimizer.state_dict())


def test_differences_are_all_named(tmp_path):
    (path,) = written(tmp_path, 1)
    found = read_snapshot(path)
    check_same_run(found, path, dataclasses.replace(RECIPE, save_every=7, log_every=3, actckpt=True, keep=1), config(), 1)
    changed = dataclasses.replace(RECIPE, lr=1e-3, image_size=(8, 16))
    message = "image_size (256, 256) → (8, 16); lr 0.0004 → 0.001; bs_per_gpu × grad_accum × processes 8 → 16); wanted the same"
    with pytest.raises(InputError, match=re.escape(message)):
        check_same_run(found, path, changed, config(), 2)
    with pytest.raises(InputError, match=r"ttt2x.yaml: dim 8 → 12\); wanted"):
        check_same_run(found, path, dataclasses.replace(RECIPE, config=DEFAULT_CONFIG), config(dim=12), 1)


def test_restoring_another_network_is_refused(tmp_path):
    (path,) = written(tmp_path, 1)
    with pytest.raises(InputError, match=r"step_00000001.pt, input_linear.weight: is \(8, 48\), and \(12, 48\)"):
        trained(seed=0, dim=12).restore(read_snapshot(path), path, rank=0)


def test_weights_of_a_snapshot_bring_their_config(tmp_path):
    # Shapes do not show the address: the network would silently render nonsense.
    address = {"phases": "foot", "sites": ["qk"], "lowest": 1.0, "highest": 2.0, "frequencies": None}
    layer = {"type": "fast_weight", "length_dim": "vl", "params": {"head_dim": 12, "inter_multi": 2, "base_lr": 0.02}}
    layer["params"] |= {"address": address, "w1_only": True}
    described = config_from_dict({"patch_size": 2, "dim": 24, "layers": 1, "block": [layer]})
    state = TrainingState(described, RECIPE, CPU, torch.float32)
    torch.save({"format": FORMAT, **state.content(RECIPE, [rng_state(CPU)], 1), "step": 3}, tmp_path / "a.pt")
    assert read_config(tmp_path / "a.pt", read_weights(tmp_path / "a.pt")) == described
    loaded = load_model(tmp_path / "a.pt", device="cpu")
    assert loaded.config == described
    assert loaded.trained_with.steps == 3
    # From bare weights, the config is inferred from shapes.
    torch.save(state.model.state_dict(), tmp_path / "b.pt")
    told = read_config(tmp_path / "b.pt", read_weights(tmp_path / "b.pt")).block[0].params
    assert told == {"head_dim": 12, "inter_multi": 2, "base_lr": 0.01, "muon_update_steps": 5, "w1_only": True}
