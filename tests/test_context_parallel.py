"""Views of one scene split over 2 and 4 processes by gloo: loss, gradients and states are those of one process alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inference
import train
from model.layers import BLOCKS, FastWeight
from model.scene_state import SceneState
from model.weights.file import save_weights
from tests.support import context_run
from tests.support.context_run import (
    DATA_PARALLEL,
    EXACT,
    FORGETFUL,
    ROUNDED,
    STATES,
    WORLD,
    Case,
    alone,
    build,
    grown,
    reconstruct,
)
from tests.support.processes import run_processes
from tests.support.scenes import write_random_data_path
from tests.support.training_run import arguments, final, program, rows, work_in
from tests.support.videos import decode

pytestmark = pytest.mark.slow
# Three times what one process differs by from itself when its input views come in another order: 6e-7, and where Newton-Schulz
# steps amplify rounding, 6e-6 in a network of fast weights alone and 3.4e-5 after full attention and registers.
BOUNDS = {"lact": 2e-5, "addressed": 2e-5, "lvsm": 2e-6, "perceiver": 2e-6, "mixed": 1e-4}
# Twice what one process in bfloat16 differs by from itself in float32: every process rounds the sum over its own views.
BOUNDS_BFLOAT16 = {"lact": 0.1, "lvsm": 2e-3, "perceiver": 5e-3}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    """Return the results of each process."""
    folder = tmp_path_factory.mktemp("context")
    run_processes(WORLD, ["-c", "from tests.support.context_run import work; work()"], folder)
    with torch.serialization.safe_globals([Case]):
        return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


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


@pytest.mark.parametrize("case", STATES, ids=str)
def test_states_that_grow_are_those_of_one_process(results, case, tmp_path):
    wanted = grown(case, None, tmp_path)
    for name, rendered in wanted.items():
        for result in results[: case.size]:
            assert error(result["grown"][case][name], rendered) < BOUNDS[case.network], name


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


@pytest.mark.parametrize("size", [2, 4])
def test_items_come_in_rank_order_and_an_error_on_all(results, size):
    for rank, result in enumerate(results):
        items, error = result["streams"][size]
        assert items == ([f"{i}.{k}" for i in range(size) for k in range(i)] if rank % size == 0 else [])
        assert error == "photo.png: is damaged; wanted a whole one"


def test_processes_that_do_not_hold_the_same_scenes_are_refused_on_all(results):
    for result in results:
        unequal, nothing = result["refusals"]
        assert unequal == "context group: its processes hold scenes of h w: 1 of 8 12, 2 of 8 12; wanted the same on all"
        assert nothing == "context group: none of its 2 processes has an input view; wanted at least one in all"


SHARED_RUN = {
    "steps": 3,
    "num_all_views": 5,
    "num_input_views": 3,
    "num_target_views": 3,
    "scene_pose_normalize": True,
    "grad_accum": 2,
    "val_data_path": "scenes/test_data_path.json",
    "val_every": 3,
    "log_every": 1,
    "ema": 0.5,
    "actckpt": True,
}


@pytest.mark.parametrize("changes", [{}, {"min_input_views": 1}], ids=["", "drawn"])
def test_training_with_shared_views_is_training_alone(tmp_path, monkeypatch, changes):
    folder = work_in(tmp_path, monkeypatch)
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)
    argv = arguments("shared", **SHARED_RUN, **changes, context_parallel=2)
    run_processes(2, ["-c", program(argv)], folder)
    assert train.main(arguments("alone", **SHARED_RUN, **changes)) == 0
    one, other = final("alone"), final("shared")
    assert one["data_ranks"] == other["data_ranks"] == 1
    for name, weights in one["model"].items():
        assert (other["model"][name] - weights).abs().max() < 1e-4, name  # three steps of up to 1e-2
    for row, shared in zip(rows("alone"), rows("shared"), strict=True):
        for name in {"loss", "psnr", "gradient_norm", "val_psnr", "val_ssim"} & set(row):
            assert shared[name] == pytest.approx(row[name], rel=1e-3), (row["step"], name)


INFERENCE = "import sys, inference; sys.exit(inference.main({argv!r}))"


def inference_flags(folder: Path, out: str, *flags: str) -> list[str]:
    """Put a network and three scenes into a folder unless they are there; return a command line."""
    if not (folder / "weights.safetensors").exists():
        model = build(Case("lact", 1))
        save_weights(folder / "weights.safetensors", model.state_dict(), model.config)
        write_random_data_path(folder, scenes=3, n=7, size=(10, 15))
    words = "--load weights.safetensors --data_path test_data_path.json --device cpu --precision float32 --image_size 8 12"
    shared = "--newton_schulz_dtype float32 --num_input_views 3 --video_frames 5 --no_lpips --scene_inference --save_state"
    return [*words.split(), *shared.split(), "--output_dir", out, *flags]


@pytest.mark.parametrize("flags", ["", "--stream 2 --passes 2"])
def test_inference_with_shared_views_leaves_what_inference_alone_leaves(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    assert inference.main(inference_flags(tmp_path, "alone", "--save_images", *flags.split())) == 0
    argv = inference_flags(tmp_path, "shared", "--save_images", "--context_parallel", "2", *flags.split())
    run_processes(4, ["-c", INFERENCE.format(argv=argv)], tmp_path)  # two pairs: the second has nothing to do in the second turn
    one, other = Path("alone"), Path("shared")
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (one, other)]
    assert names[0] == names[1]
    found, wanted = (json.loads((folder / "metrics.json").read_text()) for folder in (other, one))
    assert [row["view"] for row in found["views"]] == [row["view"] for row in wanted["views"]]
    for row, view in zip(found["views"], wanted["views"], strict=True):
        assert row == {**view, "psnr": pytest.approx(view["psnr"], abs=1e-3), "ssim": pytest.approx(view["ssim"], abs=1e-4)}
    for i in range(3):
        states = [SceneState.load(folder / f"scene_{i}" / "state.safetensors") for folder in (one, other)]
        tensors = [{f"{j}.{name}": x for j, layer in enumerate(s.layers) for name, x in layer.items()} for s in states]
        assert largest_error(tensors[1], tensors[0]) < BOUNDS["lact"]
        assert torch.equal(states[0].c2w, states[1].c2w)
        videos = [decode(folder / f"scene_{i}" / "video.mp4")[0].astype(int) for folder in (one, other)]
        assert len(videos[0]) == len(videos[1]) == 5
        assert np.abs(videos[0] - videos[1]).max() <= 2  # levels; renderings differ by less than one before rounding
        with Image.open(one / f"scene_{i}" / "comparison.png") as a, Image.open(other / f"scene_{i}" / "comparison.png") as b:
            assert a.size == b.size
            assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1


@pytest.mark.parametrize("view", [5, 6], ids=["input", "target"])
def test_photo_that_one_of_them_cannot_read_ends_inference_of_all(tmp_path, monkeypatch, view):
    monkeypatch.chdir(tmp_path)
    argv = inference_flags(tmp_path, "out", "--context_parallel", "2", "--view_selection", "uniform")
    (tmp_path / "scene_0" / "images" / f"{view:05d}.png").write_bytes(b"no photo")
    errors = run_processes(4, ["-c", INFERENCE.format(argv=argv)], tmp_path, status=2)  # the other pair has another scene
    assert len(re.findall(rf"inference.py: .*scene_0/images/{view:05d}.png: is not an image", "".join(errors))) == 1
    assert "Traceback" not in "".join(errors)


def test_photo_of_a_stream_that_none_of_them_can_read_is_told_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = inference_flags(tmp_path, "out", "--context_parallel", "2", "--view_selection", "uniform", "--stream", "1")
    (tmp_path / "scene_0" / "images" / "00005.png").write_bytes(b"no photo")
    errors = "".join(run_processes(2, ["-c", INFERENCE.format(argv=argv)], tmp_path, status=2))
    assert errors.count("images/00005.png: is not an image") == errors.count("inference.py: ") == 1
    assert "Traceback" not in errors


FULL_DISK = """
import sys, inference
from data.output.report import SceneReport
def fail(*_):
    raise OSError(28, "No space left on device")
SceneReport.finish = fail
sys.exit(inference.main({argv!r}))
"""


def test_picture_that_the_first_cannot_write_ends_inference_of_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = inference_flags(tmp_path, "out", "--context_parallel", "2")
    errors = run_processes(2, ["-c", FULL_DISK.format(argv=argv)], tmp_path, status=2)
    assert "".join(errors).count("inference.py: [Errno 28] No space left on device") == 1


FULL_MEMORY = """
import os, sys, inference
def fail(*_):
    raise MemoryError
if os.environ["RANK"] == "1":
    inference.LaCTLVSM.reconstruct = fail
try:
    status = inference.main({argv!r})
except RuntimeError:  # the collective in which this process waited for the other
    status = 2
sys.exit(status)
"""


def test_full_memory_of_one_of_them_inside_the_network_leaves_none_waiting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = inference_flags(tmp_path, "out", "--context_parallel", "2")
    errors = run_processes(2, ["-c", FULL_MEMORY.format(argv=argv)], tmp_path, status=2)
    assert "".join(errors).count("inference.py: memory: is full; wanted fewer input views") == 1
