"""Benchmark of training steps: seconds, tokens per second, share of the machine's matmul rate, peak memory.

    python tests/benchmark/training.py --image_size 128 128 --bs_per_gpu 1
    python tests/benchmark/training.py --bs_per_gpu 8 --compile --actckpt
    python tests/benchmark/training.py --no_baseline --recipes config/train/object_256.yaml config/train/scene_536x960.yaml

A script, not a test: machines differ and are noisy. Takes the flags of train.py that affect a step. In the same process it also
runs a baseline: the same step written plainly in float32 (plain.py), where every target computes key, value and learning rates too.
LPIPS is omitted. On a CPU both keep freed memory, as train.py does. FLOPs are those of the model's forward and backward pass,
without recomputation.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from config import load_config
from config.console import forgiving_console
from config.recipe import TrainingRecipe, read_recipe
from data.output.tables import markdown_line, markdown_table
from model import LaCTLVSM
from model.machine import in_words
from model.runtime import keep_freed_memory, pick_device, pick_dtype
from model.training.flops import matmul_rate, training_flops
from model.training.loss import render_loss
from model.training.optimizer import apply_step, build_optimizer, gradient_norm
from tests.benchmark.measure import give_memory_back, machine, peak, random_scene, reset_peak, show, time_calls
from tests.benchmark.plain import plain_pass

HEAD = ("step", "inputs + targets", "size", "scenes", "seconds", "tokens/s", "TFLOP", "share of matmul rate", "peak memory")
# So small that repeated steps do not change the measurement.
LR = 1e-6


@forgiving_console()
def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--recipes", nargs="*", metavar="YAML", help="measure these; the other flags override each")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps; the median is printed")
    parser.add_argument("--no_baseline", action="store_true", help="measure only ours")
    args, flags = parser.parse_known_args(argv)
    sources = [["--recipe", path] for path in args.recipes or []] or [[]]
    recipes = [read_recipe([*source, "--data_path", "none", *flags]) for source in sources]
    device = pick_device(recipes[0].device)
    dtype = pick_dtype(recipes[0].precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    rates = {dtype: 0.0, torch.float32: 0.0}
    print(in_words(machine(device)), markdown_table(HEAD), sep="\n")
    for recipe in recipes:
        measure_rates(rates, device)
        ours = measure(lambda recipe=recipe: our_step(recipe, device, dtype), device, args.repeats)
        measure_rates(rates, device)
        options = [flag for flag in ("compile", "actckpt") if getattr(recipe, flag)]
        label = " ".join([Path(recipe.config).stem, show(dtype), *options])
        report(label, recipe, ours, rates[dtype])
        if not args.no_baseline:
            plain = measure(lambda recipe=recipe: baseline_step(recipe, device), device, max(1, args.repeats // 2))
            report("baseline, float32", recipe, plain, rates[torch.float32])
            print(f"\ntimes as fast as the baseline: {plain['seconds'] / ours['seconds']:.2f}\n")
    print("matmul rate: " + ", ".join(f"{show(x)} {rates[x] / 1e12:.2f} TFLOP/s" for x in rates))


def measure_rates(rates: dict[torch.dtype, float], device: torch.device) -> None:
    """Keep the best matmul rate so far, so that other load on the machine does not push shares above 100 %."""
    for dtype in rates:
        rates[dtype] = max(rates[dtype], matmul_rate(device, dtype))


def batch(recipe: TrainingRecipe, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return noise images with cameras of a turntable: inputs and targets."""
    scenes = []
    for views in (recipe.num_input_views, recipe.num_target_views):
        scene = random_scene(views, recipe.image_size, device)
        scenes.append({key: value.repeat(recipe.bs_per_gpu, *[1] * (value.ndim - 1)) for key, value in scene.items()})
    return scenes[0], scenes[1]


def our_step(recipe: TrainingRecipe, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Return a training step as in train.py."""
    model = LaCTLVSM(load_config(recipe.config)).to(device).set_compute_dtype(dtype)
    model.activation_checkpointing = recipe.actckpt
    if recipe.compile:
        model.compile_layers(mode=recipe.compile_mode)
    optimizer = build_optimizer(model, recipe.weight_decay, recipe.optimizer)
    inputs, targets = batch(recipe, device)

    def step() -> None:
        for _ in range(recipe.grad_accum):
            if recipe.compile_mode == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            loss, _ = render_loss(model(inputs, targets), targets["image"], None, 0.0)
            (loss / recipe.grad_accum).backward()
        norm = gradient_norm(model.parameters())
        apply_step(optimizer, norm, (~norm.isfinite()).float(), LR, recipe.grad_clip)
        optimizer.zero_grad(set_to_none=True)

    return step


def baseline_step(recipe: TrainingRecipe, device: torch.device) -> Callable[[], None]:
    """Return the same step written plainly."""
    model = LaCTLVSM(load_config(recipe.config)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.05, foreach=False, fused=False)
    inputs, targets = batch(recipe, device)
    v = recipe.num_input_views

    def step() -> None:
        for _ in range(recipe.grad_accum):
            x = model.tokenise(inputs["fxfycxcy"], inputs["c2w"], recipe.image_size, inputs["image"])
            y = model.tokenise(targets["fxfycxcy"], targets["c2w"], recipe.image_size)
            rendered = model.decode(plain_pass(model, torch.cat([x, y], dim=1), v)[0][:, v:], recipe.image_size)
            (F.mse_loss(rendered, targets["image"]) / recipe.grad_accum).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip, foreach=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(prepare: Callable[[], Callable[[], None]], device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of `repeats` steps after two that warm up, and the peak memory, weights and moments included."""
    give_memory_back()
    start_bytes = reset_peak(device)
    step = prepare()
    step(), step()
    seconds = time_calls(step, device, repeats)
    return {"seconds": seconds, "peak_bytes": peak(device) - start_bytes}


def work_of(recipe: TrainingRecipe) -> tuple[int, int, float]:
    """Return scenes, tokens and FLOPs per step."""
    config, scenes = load_config(recipe.config), recipe.bs_per_gpu * recipe.grad_accum
    v, u = recipe.num_input_views, recipe.num_target_views
    tokens = (v + u) * math.prod(recipe.image_size) // config.patch_size**2
    return scenes, scenes * tokens, scenes * training_flops(config, v, u, recipe.image_size)


def report(label: str, recipe: TrainingRecipe, found: dict[str, float], rate: float) -> None:
    """Print a table row."""
    scenes, tokens, flops = work_of(recipe)
    views = f"{recipe.num_input_views} + {recipe.num_target_views}"
    size, seconds = "×".join(map(str, recipe.image_size)), found["seconds"]
    row = [label, views, size, f"{scenes}", f"{seconds:.3f}", f"{tokens / seconds:.0f}", f"{flops / 1e12:.2f}"]
    row += [f"{flops / seconds / rate:.0%}", f"{found['peak_bytes'] / 2**30:.2f} GiB"]
    print(markdown_line(row), flush=True)


if __name__ == "__main__":
    main()
