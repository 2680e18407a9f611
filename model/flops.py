"""What a training step costs in matrix products, and how fast this machine multiplies matrices.

Letters: b scenes, v views, h w pixels.
"""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from config import ModelConfig
from model.lact_lvsm import LaCTLVSM

# Sides of the square product that is timed, and how often; the best counts.
SIDE = {"cpu": 2048, "cuda": 8192}
REPEATS = 5


def training_flops(config: ModelConfig, num_input_views: int, num_target_views: int, image_size: tuple[int, int]) -> int:
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
    """Measure FLOP/s of a square matrix product on `device` in `dtype`."""
    side = SIDE.get(device.type, SIDE["cuda"])
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
