"""AdamW as the network is trained with: what decays, the learning rate of a step, steps that are left out, averaged weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.95)


def build_optimiser(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the model, fused, weight decay on tensors of two or more dimensions.

    The learning rate is set before every step: see `learning_rate`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [x for x in parameters if x.ndim >= 2], "weight_decay": weight_decay},
        {"params": [x for x in parameters if x.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)


def learning_rate(step: int, peak: float, warmup: int, steps: int) -> float:
    """Return the learning rate of step 0, 1, …: linear to `peak` at step warmup − 1, then a cosine to 0 behind the last."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients as one vector, float32, on their device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def apply_step(optimiser: torch.optim.AdamW, norm: Tensor, refused: Tensor, lr: float, clip: float) -> None:
    """Clip and update, or, where `refused`, leave weights, moments and step count untouched; the host waits for nothing.

    Args:
        optimiser: from `build_optimiser`.
        norm: of all gradients, on the parameters' device.
        refused: 1 or 0, float32 scalar there: whether to leave the step out.
        lr: learning rate.
        clip: largest norm that passes unscaled.
    """
    for group in optimiser.param_groups:
        group["lr"] = lr
    # The two attributes through which torch's GradScaler talks to a fused optimiser: its kernel divides gradients by the one and
    # does nothing where the other is set, so that neither clipping nor skipping costs a pass or a wait.
    optimiser.grad_scale = (norm / clip).clamp(min=1.0)
    optimiser.found_inf = refused
    optimiser.step()
    del optimiser.grad_scale, optimiser.found_inf


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the model's after step 0, 1, ….

    Early on the decay is (step + 1) / (step + 10), so that the average does not hang on to the initial weights.
    """
    decay = min(decay, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
