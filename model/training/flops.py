"""FLOPs of a training step, and the rate at which this machine multiplies matrices.

Letters: b scenes, v views, h w pixels.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from config import NetworkConfig
from config.recipe import TrainingRecipe
from model.lact_lvsm import LaCTLVSM
from model.runtime import synchronise

# Sides of the square products that are timed, and repeats of each.
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
REPEATS = 5


@dataclass(frozen=True)
class Workload:
    """Size of a training step, cost of one scene, and the machine's matmul rate.

    Attributes:
        scenes: per step and share of the samples.
        tokens: of one scene's inputs and targets.
        flops: of forward and backward for one scene.
        rate: FLOP/s of matrix products of one process.
    """

    scenes: int
    tokens: int
    flops: int
    rate: float


def workload_of(config: NetworkConfig, recipe: TrainingRecipe, rate: float) -> Workload:
    """Return the workload of a run at a matmul rate, FLOP/s; where the number of inputs is drawn, for their mean number."""
    mean_inputs = (recipe.num_input_views + (recipe.min_input_views or recipe.num_input_views)) // 2
    tokens = (mean_inputs + recipe.num_target_views) * math.prod(recipe.image_size) // config.patch_size**2
    flops = training_flops(config, mean_inputs, recipe.num_target_views, recipe.image_size)
    return Workload(recipe.bs_per_gpu * recipe.grad_accum, tokens, flops, rate)


def training_flops(config: NetworkConfig, num_input_views: int, num_target_views: int, image_size: tuple[int, int]) -> int:
    """Count the FLOPs of matrix products and attention in forward and backward of one scene, on meta tensors.

    Recomputation by activation checkpointing is not counted: these are the FLOPs that the model needs.
    """
    meta = torch.device("meta")
    with meta:
        model = LaCTLVSM(config).set_fast_weight(torch.bfloat16, "naive")
        inputs, targets = (
            {
                "image": torch.empty(1, views, 3, *image_size),
                "fxfycxcy": torch.empty(1, views, 4),
                "c2w": torch.empty(1, views, 4, 4),
            }
            for views in (num_input_views, num_target_views)
        )
    with FlopCounterMode(display=False) as counter:
        model(inputs, targets).sum().backward()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure FLOP/s of square matrix products on `device` in `dtype`: the best of several sizes and repeats.

    Noise only lowers it: to report a share of it, measure before and after, and take the larger.
    """
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for side in SIDES.get(device.type, SIDES["cuda"]):
        a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
        out = torch.empty_like(a)
        for _ in range(REPEATS):
            synchronise(device)
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            synchronise(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
