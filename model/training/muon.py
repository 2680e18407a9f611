"""Muon, also for CPUs that do not multiply bfloat16 matrices."""

import math
from collections.abc import Iterable

import torch

from model.ops.newton_schulz import newton_schulz
from model.runtime import CPU_HAS_BFLOAT16


class Muon(torch.optim.Muon):
    """torch's Muon, with its update scaled to AdamW's usual size.

    torch orthogonalises in bfloat16, whose products take 30 to 40 times as long as float32's on a CPU without them. There the same
    step uses `newton_schulz`, which emulates bfloat16. State and settings are torch's.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale is of arXiv 2502.16982.
    """

    def __init__(self, matrices: Iterable[torch.Tensor], weight_decay: float) -> None:
        super().__init__(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  (no closure is ever given)
        """Update the matrices that have gradients."""
        moving = [(x, x.grad, group) for group in self.param_groups for x in group["params"] if x.grad is not None]
        if CPU_HAS_BFLOAT16 or any(x.is_cuda for x, _, _ in moving):
            super().step()
            return
        for x, gradient, group in moving:
            momentum = self.state[x].setdefault("momentum_buffer", torch.zeros_like(x))
            momentum.lerp_(gradient, 1 - group["momentum"])
            direction = newton_schulz(gradient.lerp(momentum, group["momentum"])[None], group["ns_steps"])[0]
            x.mul_(1 - group["lr"] * group["weight_decay"])
            x.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(x.shape)))
