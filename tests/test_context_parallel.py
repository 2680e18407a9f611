"""Views of one scene shared among 2 and 4 processes over gloo: loss, gradients and states are those of one process alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train
from config.recipe import Recipe, read_recipe
from data.sampler import open_source
from model.blocks import BLOCKS, FastWeight
from model.context_parallel import ContextGroup, own_inputs, own_targets
from model.distributed import start_processes
from tests import context_run
from tests.context_run import DATA_PARALLEL, EXACT, FORGETFUL, ROUNDED, STATES, WORLD, alone, reconstruct
from tests.training_run import arguments, final, rows, work_in

ROOT = Path(__file__).parent.parent
# Three times what one process differs by from itself when its input views come in another order: 6e-7, and where Newton-Schulz
# steps blow rounding up, 6e-6 in a network of fast weights alone and 3.4e-5 behind full attention and registers.
BOUNDS = {"lact": 2e-5, "lvsm": 2e-6, "perceiver": 2e-6, "mixed": 1e-4}
# Twice what one process in bfloat16 differs by from itself in float32: every process rounds the sum over its own views.
BOUNDS_BFLOAT16 = {"lact": 0.1, "lvsm": 2e-3, "perceiver": 5e-3}


def run_processes(count: int, program: str, folder: Path) -> None:
    """Run a program in `count` processes that know each other, and wait for all of them."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(count):
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in where.items()}, "PYTHONPATH": str(ROOT)}
        environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-c", program]
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, errors


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    """Return what each of the processes came to."""
    folder = tmp_path_factory.mktemp("context")
    run_processes(WORLD, "from tests.context_run import work; work()", folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD)]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def largest_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the largest error of a tensor, relative to its norm and a hundredth of that of all, since some all but cancel."""
    assert set(found) == set(wanted)
    whole = flat(wanted).norm()
    return max(float((found[name] - wanted[name]).norm() / (wanted[name].norm() + whole / 100)) for name in wanted)


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def test_networks_have_every_kind_of_layer():
    assert {context_run.LAYERS[name]["type"] for names in context_run.NETWORKS.values() for name in names} == set(BLOCKS)


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_loss_and_gradients_are_those_of_one_process(results, case):
    wanted_loss, wanted = alone(case)
    for result in results:
        loss, found = result["shared"][case]
        assert error(loss, wanted_loss) < BOUNDS[case.network]
        assert largest_error(found, wanted) < BOUNDS[case.network]


@pytest.mark.parametrize("case", FORGETFUL, ids=str)
def test_without_collectives_in_the_backward_pass_gradients_are_wrong(results, case):
    _, wanted = alone(case)
    assert all(largest_error(result["shared"][case][1], wanted) > 0.1 for result in results)


@pytest.mark.parametrize("case", ROUNDED, ids=str)
def test_bfloat16_differs_by_its_rounding(results, case):
    wanted_loss, wanted = alone(case)
    for result in results:
        loss, found = result["shared"][case]
        assert error(loss, wanted_loss) < 1e-3
        assert error(flat(found), flat(wanted)) < BOUNDS_BFLOAT16[case.network]


def test_beside_data_parallelism_gradients_are_the_mean_over_scenes(results):
    parts = [alone(DATA_PARALLEL, seed)[1] for seed in (0, 1, 10, 11)]
    wanted = {name: sum(part[name] for part in parts) / 4 for name in parts[0]}
    for result in results:
        assert largest_error(result["data_parallel"], wanted) < BOUNDS[DATA_PARALLEL.network]


@pytest.mark.parametrize("case", STATES, ids=str)
def test_every_process_gets_the_state_of_all_views(results, case):
    wanted, rendered = reconstruct(case, None)
    parts = [result["states"][case] for result in results[: case.size]]
    for tensors, _ in parts:
        assert largest_error(tensors, wanted) < BOUNDS[case.network]
        assert all(torch.equal(tensors[name], parts[0][0][name]) for name in tensors)
    assert error(torch.cat([images for _, images in parts], dim=1), rendered) < BOUNDS[case.network]


@pytest.mark.parametrize("size", [2, 4])
def test_collectives_and_their_gradients(results, size):
    parts = [result["collectives"][size] for result in results[:size]]
    total, gathered = sum(part["x"] for part in parts), torch.cat([part["y"] for part in parts], dim=1)
    weights = size * (size + 1) // 2  # of the processes' sums of squares: 1 + 2 + …
    for part in parts:
        torch.testing.assert_close(part["total"], total, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part["gathered"], gathered, rtol=0, atol=0)
        torch.testing.assert_close(part["dx"], 2 * weights * total, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part["dy"], 2 * weights * part["y"], rtol=1e-12, atol=1e-12)


def test_processes_that_do_not_hold_the_same_scenes_are_refused_on_all(results):
    for result in results:
        unequal, nothing = result["refusals"]
        assert unequal == "context group: its processes hold scenes of h w: 1 of 8 12, 2 of 8 12; wanted the same on all"
        assert nothing == "context group: none of its 2 processes has an input view; wanted at least one in all"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_shares_are_the_whole_and_even(size):
    for inputs in range(12):
        for targets in range(12):
            shares = [(own_inputs(inputs, rank, size), own_targets(targets, rank, size)) for rank in range(size)]
            assert [i for own, _ in shares for i in own] == list(range(inputs))
            assert [i for _, own in shares for i in own] == list(range(targets))
            for counts in ([len(own) for own, _ in shares], [len(own) for _, own in shares]):
                assert max(counts) - min(counts) <= 1
            if (inputs + targets) % size == 0:
                assert {len(one) + len(other) for one, other in shares} == {(inputs + targets) // size}


TRAINING = """
import sys
import torch
import train
from model.blocks import FastWeight

FastWeight.newton_schulz_dtype = torch.float32
torch.set_num_threads(1)
train.matmul_rate = lambda device, dtype: 1e12
argv = {argv!r}
sys.exit(train.main(argv))
"""
SHARED_RUN = {
    "steps": 3, "num_all_views": 5, "num_input_views": 3, "num_target_views": 3, "scene_pose_normalize": True, "grad_accum": 2,
    "val_data_path": "scenes/test_data_path.json", "val_every": 3, "log_every": 1, "ema": 0.5, "actckpt": True,
}


@pytest.mark.parametrize("changes", [{}, {"min_input_views": 1}], ids=["", "drawn"])
def test_training_with_shared_views_is_training_alone(tmp_path, monkeypatch, changes):
    folder = work_in(tmp_path, monkeypatch)
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)
    argv = arguments("shared", **SHARED_RUN, **changes, context_parallel=2)
    run_processes(2, TRAINING.format(argv=argv), folder)
    assert train.main(arguments("alone", **SHARED_RUN, **changes)) == 0
    one, other = final("alone"), final("shared")
    assert one["data_ranks"] == other["data_ranks"] == 1
    for name, weights in one["model"].items():
        assert (other["model"][name] - weights).abs().max() < 1e-4, name  # three steps of up to 1e-2
    for row, shared in zip(rows("alone"), rows("shared"), strict=True):
        for name in {"loss", "psnr", "gradient_norm", "val_psnr", "val_ssim"} & set(row):
            assert shared[name] == pytest.approx(row[name], rel=1e-3), (row["step"], name)


@pytest.mark.parametrize("data_path", ["scenes/test_data_path.json", "synthetic:objects", "synthetic:objects:2"])
def test_shares_of_a_batch_put_together_are_the_batch(tmp_path, monkeypatch, data_path):
    work_in(tmp_path, monkeypatch)
    recipe = read_recipe(arguments("share", data_path=data_path, **SHARED_RUN, context_parallel=3))

    def counts(recipe: Recipe) -> tuple[int, int]:
        return recipe.num_input_views, recipe.num_target_views

    whole = train.split(open_source(data_path, recipe, 4, torch.device("cpu")).batch([3, 8]), *counts(recipe))
    parts = []
    for rank in range(3):
        share, own = train.own_share(recipe, ContextGroup(rank, 3, "none"))
        parts.append(train.split(open_source(data_path, recipe, 4, torch.device("cpu"), own).batch([3, 8]), *counts(share)))
    for wanted, found in zip(whole, zip(*parts, strict=True), strict=True):
        for key, value in wanted.items():
            assert torch.equal(torch.cat([part[key] for part in found], dim=1), value)


def test_processes_that_cannot_be_divided_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="context_parallel is 3 with 4 processes; wanted a divisor of their number"):
        start_processes("cpu", 3)
