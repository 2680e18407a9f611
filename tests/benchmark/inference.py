"""Benchmark of reconstruction and rendering: seconds, frames per second, peak memory, share of the machine's matmul rate.

    python tests/benchmark/inference.py --config config/lact_l14_d768_ttt2x.yaml --image_size 256 256 --num_input_views 8

A script, not a test: machines differ and are noisy. In the same process it also runs a baseline: the same network written plainly
in float32 (plain.py). Shares are computed from the FLOPs of the model's own path; the matmul rate is the best of several sizes,
before and after the measurement.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from config import load_config
from config.console import forgiving_console
from data.output.tables import markdown_table
from model import LaCTLVSM
from model.machine import in_words
from model.ops.fast_weight import IMPLEMENTATIONS
from model.runtime import pick_device, pick_dtype
from model.training.flops import matmul_rate
from tests.benchmark.measure import machine, peak, random_scene, reset_peak, show, time_calls
from tests.benchmark.plain import plain_pass

PUBLISHED = """Published: LaCT paper, one A100, 48 inputs at 512x512 (l24 ttt2x): reconstruct 1.4 s, render 38.7 frames/s.
A third party's run of the published code, A100, 536x960 (l24 ttt4x): 16/32/64 inputs 14.6/29.3/59 s, 1.8 frames/s."""

HEAD = ("pass", "seconds", "TFLOP", "share of matmul rate", "peak memory", "baseline seconds", "times as fast")


@forgiving_console()
def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table in Markdown."""
    args = parse(argv)
    device = pick_device(args.device)
    dtype = pick_dtype(args.precision, device)
    torch.manual_seed(0)
    model = LaCTLVSM(load_config(args.config)).to(device).eval()
    model.set_fast_weight(torch.bfloat16, args.fast_weight_ops)
    image_size, inputs, targets = tuple(args.image_size), args.num_input_views, args.num_target_views
    views = f"{inputs} inputs and {targets} targets of {image_size[0]}x{image_size[1]}"
    print(f"{args.config}, {views}; {in_words(machine(device))}")

    scene, cameras = random_scene(inputs, image_size, device), random_scene(targets, image_size, device)
    work = count_flops(model, inputs, targets, image_size)
    rate = matmul_rate(device, dtype)
    with torch.no_grad():
        fast = copy.deepcopy(model).set_compute_dtype(dtype, store=True)
        if args.compile:
            fast.compile_layers()
        ours = run_model(fast, scene, cameras, args.chunk_views, args.repeats)
        baseline = None if args.no_baseline else run_baseline(model, scene, cameras, max(1, args.repeats // 2))
    rate = max(rate, matmul_rate(device, dtype))
    report(ours, baseline, work, rate, targets, dtype)
    print(PUBLISHED)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="config/lact_l14_d768_ttt2x.yaml", help="network config")
    parser.add_argument("--image_size", nargs=2, type=int, default=[256, 256], metavar=("H", "W"))
    parser.add_argument("--num_input_views", type=int, default=8)
    parser.add_argument("--num_target_views", type=int, default=4)
    parser.add_argument("--chunk_views", type=int, help="views per chunk (default: by free memory)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; the median is printed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile every layer")
    parser.add_argument("--fast_weight_ops", default="auto", choices=IMPLEMENTATIONS)
    parser.add_argument("--no_baseline", action="store_true", help="measure only the model")
    return parser.parse_args(argv)


def count_flops(model: LaCTLVSM, inputs: int, targets: int, image_size: tuple[int, int]) -> dict[str, float]:
    """Count the FLOPs of matrix products and attention in both passes, by running them on meta tensors."""
    meta = torch.device("meta")
    shadow = LaCTLVSM(model.config).to(meta).set_fast_weight(torch.bfloat16, "naive")
    shadow.fingerprint = lambda: ""
    scene, cameras = random_scene(inputs, image_size, meta), random_scene(targets, image_size, meta)
    with FlopCounterMode(display=False) as counter:
        state = shadow.reconstruct(**scene, chunk_views=inputs)
        reconstruct = counter.get_total_flops()
        shadow.render(state, cameras["fxfycxcy"], cameras["c2w"], image_size, chunk_views=targets)
    return {"reconstruct": reconstruct, "render": counter.get_total_flops() - reconstruct}


def run_model(model: LaCTLVSM, scene: dict, cameras: dict, chunk_views: int | None, repeats: int) -> dict[str, dict]:
    """Measure both passes of the model."""

    def reconstruct():
        return model.reconstruct(**scene, chunk_views=chunk_views)

    found = {"reconstruct": measure(reconstruct, model.device, repeats)}
    state, image_size = reconstruct(), tuple(cameras["image"].shape[-2:])

    def render() -> None:
        model.render(state, cameras["fxfycxcy"], cameras["c2w"], image_size, chunk_views)

    return found | {"render": measure(render, model.device, repeats)}


@torch.no_grad()
def run_baseline(model: LaCTLVSM, scene: dict, cameras: dict, repeats: int) -> dict[str, dict]:
    """Measure both passes of the same network written plainly."""
    inputs, image_size = scene["image"].shape[1], tuple(cameras["image"].shape[-2:])

    def reconstruct() -> list:
        x = model.tokenise(scene["fxfycxcy"], scene["c2w"], tuple(scene["image"].shape[-2:]), scene["image"])
        return plain_pass(model, x, inputs)[1]

    found = {"reconstruct": measure(reconstruct, model.device, repeats)}
    states = reconstruct()

    def render() -> None:
        x = model.tokenise(cameras["fxfycxcy"], cameras["c2w"], image_size)
        model.decode(plain_pass(model, x, states=states)[0], image_size)

    return found | {"render": measure(render, model.device, repeats)}


def measure(call: Callable[[], object], device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of `repeats` runs after a first one, and the peak memory of the first one."""
    start_bytes = reset_peak(device)
    call()
    peak_bytes = peak(device) - start_bytes
    return {"seconds": time_calls(call, device, repeats), "peak_bytes": peak_bytes}


def report(ours: dict, baseline: dict | None, work: dict, rate: float, targets: int, dtype: torch.dtype) -> None:
    print(f"matmul rate of this machine, {show(dtype)}: {rate / 1e12:.2f} TFLOP/s")
    rows = []
    for name in ("reconstruct", "render"):
        seconds, flops = ours[name]["seconds"], work[name]
        share = flops / seconds / rate
        row = [name, f"{seconds:.3f}", f"{flops / 1e12:.2f}", f"{share:.0%}", f"{ours[name]['peak_bytes'] / 2**20:.0f} MiB"]
        if baseline:
            row += [f"{baseline[name]['seconds']:.2f}", f"{baseline[name]['seconds'] / seconds:.1f}"]
        rows.append(row + ["-"] * (len(HEAD) - len(row)))
    print(markdown_table(HEAD, rows))
    print(f"frames per second: {targets / ours['render']['seconds']:.2f}")


if __name__ == "__main__":
    main()
