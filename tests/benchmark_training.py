"""Measure training steps: seconds, tokens per second, share of the machine's own matmul rate, peak memory.

    python tests/benchmark_training.py --image_size 128 128 --bs_per_gpu 1
    python tests/benchmark_training.py --bs_per_gpu 8 --compile --actckpt
    python tests/benchmark_training.py --no_baseline --recipes config/train/object_256.yaml config/train/scene_536x960.yaml

A script, no test: machines differ and are noisy. Takes the flags of train.py that matter to a step. Beside ours it runs, in the
same process, a baseline: the same step written plainly in float32, where every target computes key, value and learning rates
too, and nothing is fused. LPIPS is left out. FLOPs are those that the model needs, forward and backward, without recomputation.

Letters: b scenes, v views, t tokens of a view, n heads, k head width, d token width.
"""

import argparse
import ctypes
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import load_config
from config.recipe import Recipe, read_recipe
from model import LaCTLVSM
from model.blocks import FastWeight, Layer, SelfAttention
from model.blocks.primitives import unit
from model.flops import matmul_rate, synchronise, training_flops
from model.loss import render_loss
from model.ops.newton_schulz import newton_schulz
from model.optimiser import apply_step, build_optimiser, gradient_norm
from model.runtime import pick_device, pick_dtype
from tests.benchmark_inference import peak, plain_attention, random_scene, reset_peak

HEADER = "| step | inputs + targets | size | scenes | seconds | tokens/s | TFLOP | share of matmul rate | peak memory |"
# A learning rate so small that repeated steps do not change what is measured.
LR = 1e-6


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--recipes", nargs="*", metavar="YAML", help="measure these; the other flags go over each")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps; the median is printed")
    parser.add_argument("--no_baseline", action="store_true", help="measure ours alone")
    args, flags = parser.parse_known_args(argv)
    sources = [["--recipe", path] for path in args.recipes or []] or [[]]
    recipes = [read_recipe([*source, "--data_path", "none", *flags]) for source in sources]
    device = pick_device(recipes[0].device)
    dtype = pick_dtype(recipes[0].precision, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rates = {dtype: matmul_rate(device, dtype), torch.float32: matmul_rate(device, torch.float32)}
    print(f"{name}; torch {torch.__version__}; matmul rate " + ", ".join(f"{show(x)} {rates[x] / 1e12:.2f} TFLOP/s" for x in rates))
    print(HEADER, "| --- " * HEADER.count(" | ") + "| --- |", sep="\n")
    for recipe in recipes:
        ours = measure(lambda recipe=recipe: our_step(recipe, device, dtype), device, args.repeats)
        options = [flag for flag in ("compile", "actckpt") if getattr(recipe, flag)]
        label = " ".join([Path(recipe.config).stem, show(dtype), *options])
        report(label, recipe, ours, rates[dtype])
        if not args.no_baseline:
            plain = measure(lambda recipe=recipe: baseline_step(recipe, device), device, max(1, args.repeats // 2))
            report("baseline, float32", recipe, plain, rates[torch.float32])
            print(f"\ntimes as fast as the baseline: {plain['seconds'] / ours['seconds']:.2f}\n")


def batch(recipe: Recipe, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return noise images with cameras of a turntable: inputs and targets."""
    scenes = []
    for views in (recipe.num_input_views, recipe.num_target_views):
        scene = random_scene(views, recipe.image_size, device)
        scenes.append({key: value.repeat(recipe.bs_per_gpu, *[1] * (value.ndim - 1)) for key, value in scene.items()})
    return scenes[0], scenes[1]


def our_step(recipe: Recipe, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Return a training step as train.py takes it."""
    model = LaCTLVSM(load_config(recipe.config)).to(device).set_compute_dtype(dtype)
    model.activation_checkpointing = recipe.actckpt
    if recipe.compile:
        model.compile_layers()
    optimiser = build_optimiser(model, recipe.weight_decay, recipe.optimizer)
    inputs, targets = batch(recipe, device)

    def step() -> None:
        for _ in range(recipe.grad_accum):
            loss, _ = render_loss(model(inputs, targets), targets["image"], None, 0.0)
            (loss / recipe.grad_accum).backward()
        norm = gradient_norm(model.parameters())
        apply_step(optimiser, norm, (~norm.isfinite()).float(), LR, recipe.grad_clip)
        optimiser.zero_grad(set_to_none=True)

    return step


def baseline_step(recipe: Recipe, device: torch.device) -> Callable[[], None]:
    """Return the same step written plainly."""
    model = LaCTLVSM(load_config(recipe.config)).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.05, foreach=False, fused=False)
    inputs, targets = batch(recipe, device)
    v = recipe.num_input_views

    def step() -> None:
        for _ in range(recipe.grad_accum):
            x = model.tokenise(inputs["fxfycxcy"], inputs["c2w"], recipe.image_size, inputs["image"])
            y = model.tokenise(targets["fxfycxcy"], targets["c2w"], recipe.image_size)
            rendered = model.decode(plain_blocks(model, torch.cat([x, y], dim=1), v)[:, v:], recipe.image_size)
            (F.mse_loss(rendered, targets["image"]) / recipe.grad_accum).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip, foreach=False)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def plain_blocks(model: LaCTLVSM, x: Tensor, inputs: int) -> Tensor:
    """Run the blocks over tokens (b, v, t, d) of which the first `inputs` views write."""
    for block in model.blocks:
        for layer in block.module_list:
            h = layer.ln(x)
            if isinstance(layer.f, FastWeight):
                x = x + plain_fast_weight(layer, h, inputs)
            elif isinstance(layer.f, SelfAttention):
                x = x + plain_attention(layer, h)
            else:
                x = x + F.linear(F.gelu(F.linear(h, layer.f.c_fc.weight)), layer.f.c_proj.weight)
    return x


def plain_fast_weight(layer: Layer, h: Tensor, inputs: int) -> Tensor:
    f, (b, v, t, _) = layer.f, h.shape
    q, k, value = rearrange(F.silu(F.linear(h, f.to_qkv.weight)), "b v t (s n k) -> s (b n) (v t) k", s=3, n=f.heads)
    q, k = unit(q), unit(k)
    rates = F.softplus(F.linear(h, f.lr_fc.weight, f.lr_fc.bias) + f.lr_offset)
    written = slice(0, inputs * t)
    lr0, lr1, lr2 = rearrange(rates, "b v t (s n) -> s (b n) (v t) 1", s=3)[:, :, written]
    k, value = k[:, written], value[:, written]
    w0, w1, w2 = (w.repeat(b, 1, 1) for w in (f.w0, f.w1, f.w2))
    gate, up, d_hidden = k @ w0, k @ w2, value @ w1.mT
    slope = gate.sigmoid() * (1 + gate * (1 - gate.sigmoid()))
    steps = [
        (k * lr0).mT @ (d_hidden * up * slope),
        (F.silu(gate) * up * lr1).mT @ value,
        (k * lr2).mT @ (d_hidden * F.silu(gate)),
    ]
    moved = [w + newton_schulz(step).float() for w, step in zip((w0, w1, w2), steps, strict=True)]
    norms = [w.detach().norm(dim=1, keepdim=True) for w in (w0, w1, w2)]
    w0, w1, w2 = (w / (w.norm(dim=1, keepdim=True) + 1e-5) * norm for w, norm in zip(moved, norms, strict=True))
    out = f.o_norm((F.silu(q @ w0) * (q @ w2)) @ w1)
    return F.linear(rearrange(out, "(b n) (v t) k -> b v t (n k)", b=b, v=v), f.c_proj.weight)


def measure(prepare: Callable[[], Callable[[], None]], device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of `repeats` steps after two that warm up, and the peak memory, weights and moments included."""
    give_memory_back()
    start_bytes = reset_peak(device)
    step = prepare()
    step(), step()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        step()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "peak_bytes": peak(device) - start_bytes}


def give_memory_back() -> None:
    """Return what earlier measurements freed to the system, so that it does not hide what the next one takes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def report(label: str, recipe: Recipe, found: dict[str, float], rate: float) -> None:
    """Print a row."""
    config, scenes = load_config(recipe.config), recipe.bs_per_gpu * recipe.grad_accum
    v, u = recipe.num_input_views, recipe.num_target_views
    work = training_flops(config, v, u, recipe.image_size) * scenes
    tokens = (v + u) * math.prod(recipe.image_size) // config.patch_size**2 * scenes
    size, seconds = "×".join(map(str, recipe.image_size)), found["seconds"]
    row = [label, f"{v} + {u}", size, f"{scenes}", f"{seconds:.3f}", f"{tokens / seconds:.0f}", f"{work / 1e12:.2f}"]
    row += [f"{work / seconds / rate:.0%}", f"{found['peak_bytes'] / 2**30:.2f} GiB"]
    print("| " + " | ".join(row) + " |", flush=True)


def show(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
