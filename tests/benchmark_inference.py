"""Measure reconstruction and rendering: seconds, frames per second, peak memory, share of the machine's own matmul rate.

    python tests/benchmark_inference.py --config config/lact_l14_d768_ttt2x.yaml --image_size 256 256 --num_input_views 8

A script, no test: machines differ and are noisy. Beside the model it runs, in the same process, a baseline: the same network
written plainly in float32, over all views at once, computing query, key, value and learning rates of every token, and the last
block on inputs too, as the published script does. The FLOPs behind the shares are those that the model's own path needs.

Letters: b scenes, v views, t tokens of a view, n heads, k head width, d token width.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import load_config
from model import LaCTLVSM
from model.blocks import FastWeight, Layer, SelfAttention
from model.blocks.primitives import unit
from model.camera_path import turntable
from model.flops import matmul_rate, synchronise
from model.ops.newton_schulz import newton_schulz
from model.runtime import pick_device, pick_dtype

PUBLISHED = """Published beside: LaCT paper, one A100, 48 inputs at 512x512 (l24 ttt2x): reconstruct 1.4 s, render 38.7 frames/s.
A third party's run of the published code, A100, 536x960 (l24 ttt4x): 16/32/64 inputs 14.6/29.3/59 s, 1.8 frames/s."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table in Markdown."""
    args = parse(argv)
    device = pick_device(args.device)
    dtype = pick_dtype(args.precision, device)
    torch.manual_seed(0)
    model = LaCTLVSM(load_config(args.config)).to(device).eval()
    model.set_fast_weight(torch.bfloat16, args.fast_weight_ops)
    image_size, inputs, targets = tuple(args.image_size), args.num_input_views, args.num_target_views
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    views = f"{inputs} inputs and {targets} targets of {image_size[0]}x{image_size[1]}"
    print(f"{args.config}, {views}; {name}; torch {torch.__version__}")

    scene = random_scene(inputs, image_size, device)
    cameras = {key: value[:, :targets] for key, value in random_scene(targets, image_size, device).items() if key != "image"}
    work = count_flops(model, inputs, targets, image_size)
    with torch.no_grad():
        fast = copy.deepcopy(model).set_compute_dtype(dtype, store=True)
        if args.compile:
            fast.compile_layers()
        ours = run_model(fast, scene, cameras, image_size, args)
        baseline = None if args.no_baseline else run_baseline(model, scene, cameras, image_size, args)
    rate = matmul_rate(device, dtype)
    report(ours, baseline, work, rate, targets, dtype)
    print(PUBLISHED)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="config/lact_l14_d768_ttt2x.yaml", help="network recipe")
    parser.add_argument("--image_size", nargs=2, type=int, default=[256, 256], metavar=("H", "W"))
    parser.add_argument("--num_input_views", type=int, default=8)
    parser.add_argument("--num_target_views", type=int, default=4)
    parser.add_argument("--chunk_views", type=int, help="views a layer works on at a time (default: by free memory)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; the median is printed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile every layer")
    parser.add_argument("--fast_weight_ops", default="auto", choices=["auto", "naive", "compiled"])
    parser.add_argument("--no_baseline", action="store_true", help="measure the model alone")
    return parser.parse_args(argv)


def random_scene(views: int, image_size: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
    """Return noise images with cameras of a turntable, one scene."""
    fxfycxcy, c2w = turntable(views, image_size)
    return {
        "image": torch.rand(1, views, 3, *image_size, device=device),
        "fxfycxcy": fxfycxcy[None].float().to(device),
        "c2w": c2w[None].float().to(device),
    }


def count_flops(model: LaCTLVSM, inputs: int, targets: int, image_size: tuple[int, int]) -> dict[str, float]:
    """Count the FLOPs of matrix products and attention in both passes, by running them without data."""
    meta = torch.device("meta")
    shadow = LaCTLVSM(model.config).to(meta).set_fast_weight(torch.bfloat16, "naive")
    shadow.fingerprint = lambda: ""
    scene, cameras = random_scene(inputs, image_size, meta), random_scene(targets, image_size, meta)
    with FlopCounterMode(display=False) as counter:
        state = shadow.reconstruct(**scene, chunk_views=inputs)
        reconstruct = counter.get_total_flops()
        shadow.render(state, cameras["fxfycxcy"], cameras["c2w"], image_size, chunk_views=targets)
    return {"reconstruct": reconstruct, "render": counter.get_total_flops() - reconstruct}


def run_model(model: LaCTLVSM, scene: dict, cameras: dict, image_size: tuple[int, int], args: argparse.Namespace) -> dict:
    reconstruct = measure(lambda: model.reconstruct(**scene, chunk_views=args.chunk_views), model.device, args.repeats)
    state = model.reconstruct(**scene, chunk_views=args.chunk_views)
    render = measure(
        lambda: model.render(state, cameras["fxfycxcy"], cameras["c2w"], image_size, args.chunk_views), model.device, args.repeats
    )
    return {"reconstruct": reconstruct, "render": render}


def run_baseline(model: LaCTLVSM, scene: dict, cameras: dict, image_size: tuple[int, int], args: argparse.Namespace) -> dict:
    states = plain_pass(model, model.tokenise(scene["fxfycxcy"], scene["c2w"], image_size, scene["image"]), None)[1]

    def reconstruct() -> None:
        plain_pass(model, model.tokenise(scene["fxfycxcy"], scene["c2w"], image_size, scene["image"]), None)

    def render() -> None:
        model.decode(plain_pass(model, model.tokenise(cameras["fxfycxcy"], cameras["c2w"], image_size), states)[0], image_size)

    repeats = max(1, args.repeats // 2)
    return {"reconstruct": measure(reconstruct, model.device, repeats), "render": measure(render, model.device, repeats)}


def plain_pass(model: LaCTLVSM, x: Tensor, states: list | None) -> tuple[Tensor, list]:
    """Run the blocks over tokens (b, v, t, d) at once, in the weights' dtype: writing states, or reading the given ones."""
    written = []
    for block in model.blocks:
        for layer in block.module_list:
            h = layer.ln(x)
            if isinstance(layer.f, FastWeight):
                y, state = plain_fast_weight(layer, h, states[len(written)] if states else None)
                written.append(state)
            elif isinstance(layer.f, SelfAttention):
                y = plain_attention(layer, h)
            else:
                y = F.linear(F.gelu(F.linear(h, layer.f.c_fc.weight)), layer.f.c_proj.weight)
            x = x + y
    return x, written


def plain_attention(layer: Layer, h: Tensor) -> Tensor:
    f, v = layer.f, h.shape[1]
    q, k, value = rearrange(F.linear(h, f.to_qkv.weight), "b v t (s n k) -> s (b v) n t k", s=3, n=f.heads)
    out = F.scaled_dot_product_attention(f.q_norm(q), f.k_norm(k), value)
    return F.linear(rearrange(out, "(b v) n t k -> b v t (n k)", v=v), f.c_proj.weight)


def plain_fast_weight(layer: Layer, h: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
    f, (b, v) = layer.f, h.shape[:2]
    q, k, value = rearrange(F.silu(F.linear(h, f.to_qkv.weight)), "b v t (s n k) -> s (b n) (v t) k", s=3, n=f.heads)
    q, k = unit(q), unit(k)
    rates = F.softplus(F.linear(h, f.lr_fc.weight, f.lr_fc.bias) + f.lr_offset)
    lr0, lr1, lr2 = rearrange(rates, "b v t (s n) -> s (b n) (v t) 1", s=3)
    if state is None:
        w0, w1, w2 = (w.repeat(b, 1, 1) for w in (f.w0, f.w1, f.w2))
        gate, up, d_hidden = k @ w0, k @ w2, value @ w1.mT
        slope = gate.sigmoid() * (1 + gate * (1 - gate.sigmoid()))
        steps = [
            (k * lr0).mT @ (d_hidden * up * slope),
            (F.silu(gate) * up * lr1).mT @ value,
            (k * lr2).mT @ (d_hidden * F.silu(gate)),
        ]
        moved = [w + newton_schulz(step).float() for w, step in zip((w0, w1, w2), steps, strict=True)]
        norms = [w.norm(dim=1, keepdim=True) for w in (w0, w1, w2)]
        state = [w / (w.norm(dim=1, keepdim=True) + 1e-5) * norm for w, norm in zip(moved, norms, strict=True)]
    w0, w1, w2 = state
    out = f.o_norm((F.silu(q @ w0) * (q @ w2)) @ w1)
    return F.linear(rearrange(out, "(b n) (v t) k -> b v t (n k)", b=b, v=v), f.c_proj.weight), state


def measure(call: Callable[[], object], device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of `repeats` runs after a first one, and the memory that the first one took at its peak."""
    start_bytes = reset_peak(device)
    call()
    peak_bytes = peak(device) - start_bytes
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "peak_bytes": peak_bytes}


def reset_peak(device: torch.device) -> int:
    """Start counting peak memory anew; return the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def resident(field: str) -> int:
    """Read a memory field of this process, in bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def report(ours: dict, baseline: dict | None, work: dict, rate: float, targets: int, dtype: torch.dtype) -> None:
    print(f"matmul rate of this machine, {dtype}: {rate / 1e12:.2f} TFLOP/s".replace("torch.", ""))
    print("| pass | seconds | TFLOP | share of matmul rate | peak memory | baseline seconds | times as fast |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ("reconstruct", "render"):
        seconds, flops = ours[name]["seconds"], work[name]
        share = flops / seconds / rate
        row = [name, f"{seconds:.3f}", f"{flops / 1e12:.2f}", f"{share:.0%}", f"{ours[name]['peak_bytes'] / 2**20:.0f} MiB"]
        if baseline:
            row += [f"{baseline[name]['seconds']:.2f}", f"{baseline[name]['seconds'] / seconds:.1f}"]
        print("| " + " | ".join(row + ["-"] * (7 - len(row))) + " |")
    print(f"frames per second: {targets / ours['render']['seconds']:.2f}")


if __name__ == "__main__":
    main()
