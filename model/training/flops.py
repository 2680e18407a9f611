"""FLOPs of a training step, and the rate at which this machine multiplies matrices.

Letters: b scenes, v views, h w pixels.
"""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from config import NetworkConfig
from model.lact_lvsm import LaCTLVSM

# Sides of the square products that are timed, and how often each.
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
REPEATS = 5


def training_flops(config: NetworkConfig, num_input_views: int, num_target_views: int, image_size: tuple[int, int]) -> int:
    """Count the FLOPs of matrix products and attention in forward and backward of one scene, by running them without data.

    What activation checkpointing computes again is not counted: these are the FLOPs that the model needs.
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

    Neighbours and other sizes only make it less. Where a share of it matters, take the best of before and after.
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


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
