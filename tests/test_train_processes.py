"""Training program in two processes over gloo, on a CPU."""

import json
import re
from pathlib import Path

import pytest
import torch

import train
from data.sampler import scene_of
from model.layers import FastWeight
from model.training.snapshot import list_snapshots
from tests.support.processes import free_ports, run_processes
from tests.support.scenes import write_random_data_path
from tests.support.training_run import arguments, assert_same, final, furnish, program, rows

pytestmark = pytest.mark.slow

# Two processes run these one after the other: name → (changed settings, step before which process 1 gets a NaN, or a SIGTERM).
SCENARIOS = {
    "two": ({}, None, None),
    "two_resumed": ({}, None, 3),
    "two_resumed ": ({}, None, None),
    "two_nan": ({}, 3, None),
    "two_accumulated": ({"grad_accum": 2, "bs_per_gpu": 1}, None, None),
}
WORKER = """
import json, os, signal, sys
import torch
import train
from model.layers import FastWeight

FastWeight.newton_schulz_dtype = torch.float32
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
train.matmul_rate = lambda device, dtype: 1e12
prepare, split, apply_step = train.prepare, train.split, train.apply_step

plans, ports = (json.loads(word) for word in sys.argv[1:])

for port, (name, (argv, nan_at, stop_at)) in zip(ports, plans.items()):
    os.environ["MASTER_PORT"] = str(port)
    networks, calls = [], [0, 0]

    def keep(model, *others):
        networks.append(model)
        return prepare(model, *others)

    def poisoned(batch, *counts):
        inputs, targets = split(batch, *counts)
        calls[0] += 1
        if rank == 1 and calls[0] == nan_at:
            inputs["image"] = inputs["image"] * torch.nan
        return inputs, targets

    def stopped(*arguments):
        apply_step(*arguments)
        calls[1] += 1
        if rank == 1 and calls[1] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    train.prepare, train.split, train.apply_step = keep, poisoned, stopped
    assert train.main(argv) == 0, name
    torch.save(networks[0].state_dict(), f"{name.strip()}.rank{rank}.pt")
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Run the scenarios in two processes over gloo; return the folder that they worked in."""
    folder = furnish(tmp_path_factory.mktemp("two"))
    ports = free_ports(len(SCENARIOS))
    plans = {name: (arguments(name.strip(), **changes), *rest) for name, (changes, *rest) in SCENARIOS.items()}
    run_processes(2, ["-c", WORKER, json.dumps(plans), json.dumps(ports)], folder)
    return folder


@pytest.fixture
def in_two_processes(two_processes, monkeypatch):
    monkeypatch.chdir(two_processes)
    torch.set_num_threads(1)
    return two_processes


def test_two_processes_hold_the_same_weights(in_two_processes):
    for name in ("two", "two_resumed", "two_nan", "two_accumulated"):
        one, other = (torch.load(f"{name}.rank{rank}.pt") for rank in range(2))
        assert all(torch.equal(one[key], other[key]) for key in one), name
        assert all(torch.isfinite(value).all() for value in one.values()), name


def test_two_processes_stopped_and_resumed_are_bitwise_equal(in_two_processes):
    assert [step for step, _ in list_snapshots(Path("outputs/two_resumed/snapshot"))] == [2, 3, 4, 6]
    assert_same(final("two"), final("two_resumed"))


def test_nan_on_one_process_is_left_out_by_both(in_two_processes):
    assert final("two_nan")["skips"] == 1
    assert [row["skips"] for row in rows("two_nan")] == [0, 1, 1]
    assert len(final("two_nan")["rng"]) == 2


def test_one_process_with_twice_the_micro_steps_equals_two(in_two_processes, monkeypatch):
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)
    assert train.main(arguments("one", grad_accum=2)) == 0
    for name in ("two", "two_accumulated"):
        one, other = final("one")["model"], final(name)["model"]
        assert max((one[key] - other[key]).abs().max() for key in one) < 1e-3  # as above: order of sums


def test_two_processes_resume_what_one_began(in_two_processes, monkeypatch):
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)
    source = next(path for step, path in list_snapshots(Path("outputs/two/snapshot")) if step == 2)
    assert train.main(arguments("alone", grad_accum=2, resume=str(source))) == 0
    one, other = final("alone")["model"], final("two")["model"]
    assert max((one[key] - other[key]).abs().max() for key in one) < 1e-3


def test_broken_sample_of_one_process_ends_both_where_the_run_can_go_on(tmp_path, monkeypatch):
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_random_data_path(tmp_path / "four", scenes=4, n=6, size=(10, 15))
    # Every sample has all six views. Sample 3, the last of four scenes, is what process 1 has in step 1.
    settings = {"num_all_views": 6, "num_input_views": 3, "save_every": 99, "bs_per_gpu": 1}
    settings["data_path"] = "four/test_data_path.json"
    photo = tmp_path / "four" / f"scene_{scene_of(3, 4, 95)}" / "images" / "00002.png"
    whole = photo.read_bytes()
    photo.write_bytes(b"no photo")
    errors = run_processes(2, ["-c", program(arguments("broken", **settings))], tmp_path, status=2)
    assert len(re.findall(r"train.py: sample 3, scene .*00002.png: is not an image", "".join(errors))) == 1
    assert "Traceback" not in "".join(errors)
    assert [step for step, _ in list_snapshots(Path("outputs/broken/snapshot"))] == [1]
    photo.write_bytes(whole)
    run_processes(2, ["-c", program(arguments("broken", **settings))], tmp_path)
    run_processes(2, ["-c", program(arguments("straight", **settings))], tmp_path)
    assert_same(final("straight"), final("broken"))
