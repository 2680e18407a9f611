"""The programs on every device: as a user starts them, in several processes, from one device to another, out of memory."""

from pathlib import Path

import pytest
import torch

import inference
import train
from model.layers import FastWeight
from model.training.snapshot import list_snapshots
from model.training.step_graphs import StepGraphs
from model.weights.file import read_weights
from tests.support.inference_run import metrics, told
from tests.support.processes import run_processes
from tests.support.training_run import arguments, assert_same, final, program, rows, run_straight_and_resumed, work_in

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "data_example" / "objects_1000003_000060" / "opencv_cameras.json"
# A run of six steps as test_train has it; nothing is compiled unless compilation is tested.
EXACT = {"precision": "float32", "ema": 0.9}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(FastWeight, "implementation", "naive")
    return work_in(tmp_path, monkeypatch)


def assert_near(one: str, other: str, device: torch.device) -> None:
    """Compare two runs' final weights.

    AdamW moves a weight by up to the learning rate, 1e-2, regardless of its gradient's size: where that is rounding alone, two
    devices may diverge. A run on other samples from the same weights ends 2e-2 away on average.
    """
    weights = [torch.cat([x.flatten() for x in final(name)["model"].values()]) for name in (one, other)]
    distance = (weights[0] - weights[1]).abs()
    assert distance.mean() < 1e-4
    assert device.type == "cuda" or distance.max() < 1e-3


@pytest.mark.slow
def test_bundled_model_renders_the_same_on_every_device(folder, device):
    words = ["--data_path", str(EXAMPLE), "--precision", "float32", "--newton_schulz_dtype", "float32", "--save_images"]
    words += ["--video_format", "gif", "--video_frames", "3"]
    found = {}
    for name in ("cpu", device.type):
        assert inference.main([*words, "--device", name, "--output_dir", name]) == 0
        found[name] = metrics(Path(name))
        assert (Path(name) / found[name]["views"][0]["scene"] / "video.gif").stat().st_size > 0
    for one, other in zip(found["cpu"]["views"], found[device.type]["views"], strict=True):
        assert other["psnr"] == pytest.approx(one["psnr"], abs=0.01)  # float32: errors below 1e-4 in a picture at 20 dB


@pytest.mark.slow
def test_debug_recipe_learns_on_every_device(folder, device):
    recipe, config = ROOT / "config" / "train" / "debug.yaml", ROOT / "config" / "debug.yaml"
    short = ["--steps", "100", "--warmup", "10", "--log_every", "25", "--val_every", "100"]
    assert train.main(["--recipe", str(recipe), "--config", str(config), "--device", device.type, *short]) == 0
    found = [row["psnr"] for row in rows("debug") if "psnr" in row]
    assert found[-1] > found[0] + 3  # from a grey picture to coarse shapes
    assert read_weights("outputs/debug/model.safetensors")


def test_stopped_and_resumed_on_a_device_is_bitwise_equal(folder, monkeypatch, device):
    changes = {"device": device.type, **EXACT, "optimizer": "muon"}
    run_straight_and_resumed(monkeypatch, **changes)
    assert_same(final("straight"), final("resumed"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_replayed_steps_are_the_eager_ones(folder, monkeypatch, device, optimizer):
    changes = {"device": device.type, **EXACT, "optimizer": optimizer, "schedule": "constant", "steps": 9, "min_input_views": 1}
    replayed = counted_replays(monkeypatch)
    assert train.main(arguments("eager", **changes)) == 0
    assert not replayed
    assert train.main(arguments("graphs", cuda_graphs=True, **changes)) == 0
    assert_same(final("eager"), final("graphs"))
    assert device.type == "cpu" or len(replayed) >= 3
    for one, other in zip(rows("eager"), rows("graphs"), strict=True):
        assert one["loss"] == other["loss"]


def counted_replays(monkeypatch) -> list[bool]:
    """Return a list that grows with every replay of a step."""
    replayed, replay = [], StepGraphs._replay
    monkeypatch.setattr(StepGraphs, "_replay", lambda *args: (replayed.append(True), replay(*args))[1])
    return replayed


def test_snapshot_of_a_device_goes_on_on_a_cpu_to_rounding(folder, monkeypatch, device):
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)  # bfloat16 makes a last bit a hundredth
    assert train.main(arguments("straight", device=device.type, **EXACT)) == 0
    begun = next(path for step, path in list_snapshots(Path("outputs/straight/snapshot")) if step == 4)
    assert train.main(arguments("moved", device="cpu", resume=str(begun), **EXACT)) == 0
    assert_near("straight", "moved", device)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_training_follows_the_eager_one(folder, monkeypatch, device, mode):
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)
    if device.type == "cpu":
        compile_layers = train.LaCTLVSM.compile_layers
        monkeypatch.setattr(train.LaCTLVSM, "compile_layers", lambda model, **_: compile_layers(model, backend="aot_eager"))
    assert train.main(arguments("eager", device=device.type, steps=3, **EXACT)) == 0
    compiled = {"compile": True, "compile_mode": mode, "actckpt": mode == "default"}
    assert train.main(arguments("compiled", device=device.type, steps=3, **compiled, **EXACT)) == 0
    assert_near("eager", "compiled", device)


@pytest.mark.slow
@pytest.mark.parametrize("context", [1, 2])
def test_two_processes_share_one_device(folder, device, context, monkeypatch):
    monkeypatch.setattr(FastWeight, "newton_schulz_dtype", torch.float32)
    name = "cuda:0" if device.type == "cuda" else "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torchrun sets it
    share = {"context_parallel": 2, "bs_per_gpu": 2} if context == 2 else {"bs_per_gpu": 1}
    run_processes(2, ["-c", program(arguments("two", device=name, **share, **EXACT))], folder)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert train.main(arguments("one", device=device.type, **EXACT)) == 0
    assert_near("one", "two", device)


ONE_PROCESS = """
import torch
import torch.distributed as dist
from model.parallel.processes import end_processes, start_processes
processes = start_processes({device!r})
assert processes.world == 1 and processes.device.type == {device!r}
x = torch.ones(3, device=processes.device)
dist.all_reduce(x)
assert x.tolist() == [1, 1, 1]
assert dist.get_backend() == {backend!r}, dist.get_backend()
end_processes()
"""


@pytest.mark.slow
def test_one_process_under_torchrun_talks_by_the_backend_of_its_device(folder, device, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    run_processes(1, ["-c", ONE_PROCESS.format(device=device.type, backend=backend)], folder)


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("out of memory.\nTried to allocate 3 GiB")


@pytest.mark.parametrize("program", ["inference", "train"])
def test_out_of_memory_is_one_line(folder, device, monkeypatch, capsys, program):
    if device.type == "cpu":
        monkeypatch.setattr(train.LaCTLVSM, "forward", out_of_memory)
        monkeypatch.setattr(inference.LaCTLVSM, "reconstruct", out_of_memory)
    else:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.002)  # 160 MiB of 80 GiB
    try:
        if program == "inference":
            argv = ["--device", device.type, "--image_size", "1024", "1024", "--num_input_views", "12", "--chunk_views", "12"]
            status = inference.main([*argv, "--data_path", str(EXAMPLE), "--video_format", "none", "--output_dir", "out"])
        else:
            large = {"image_size": [256, 256], "bs_per_gpu": 8}
            status = train.main(arguments("large", device=device.type, **large))
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert status == 2
    *notes, error = told(capsys.readouterr().err)
    assert len(notes) == (program == "inference")  # the size is not that of the weights
    assert all(": trained at 64×64, here 1024×1024 (h×w)" in note for note in notes)
    assert error.startswith(f"{program}.py: GPU memory: is full; wanted fewer")
