"""Training loss: mean squared error, optionally that of differences between neighbouring pixels, and LPIPS.

Letters: b scenes, v views, h w pixels.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.metric import LPIPS, psnr

# Views per pass of LPIPS: the trunk's first group keeps 128 numbers per pixel.
LPIPS_VIEWS = 16


def render_loss(
    rendered: Tensor,
    target: Tensor,
    lpips: LPIPS | None,
    weight: float,
    recompute: bool = False,
    autocast: bool = False,
    gradient_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare renderings with photos.

    Args:
        rendered: (b, v, 3, h, w) in 0..1, with gradients.
        target: (b, v, 3, h, w) in 0..1.
        lpips: the perceptual distance, or None.
        weight: factor of LPIPS.
        recompute: run the trunk of LPIPS again in the backward pass instead of keeping its activations.
        autocast: run the trunk in bfloat16.
        gradient_weight: factor of the squared error of differences between neighbouring pixels; 0 omits it.

    Returns:
        the loss, a mean over all views, and figures without gradients: its parts `mse`, `gradient` and `lpips`, where they
        are computed, and `psnr`, the mean over views of each one's PSNR in dB, as in validation.

    Precision: float32; the trunk's features are compared in float32, regardless of the dtype they were computed in.
    """
    loss = F.mse_loss(rendered, target.to(rendered.dtype))
    parts = {"mse": loss.detach(), "psnr": psnr(rendered.detach(), target).mean()}
    if gradient_weight:
        gradient = _gradient_error(rendered - target.to(rendered.dtype))
        parts["gradient"] = gradient.detach()
        loss = loss + gradient_weight * gradient
    if lpips is None:
        return loss, parts
    distance = _perceptual(rendered.flatten(0, 1), target.flatten(0, 1), lpips, recompute, autocast)
    parts["lpips"] = distance.detach()
    return loss + weight * distance, parts


def _gradient_error(error: Tensor) -> Tensor:
    """Return the mean square of the differences of an error (…, h, w) between neighbouring pixels, patch borders included."""
    down, across = error.diff(dim=-2), error.diff(dim=-1)
    return (down.square().sum() + across.square().sum()) / (down.numel() + across.numel())


def _perceptual(rendered: Tensor, target: Tensor, lpips: LPIPS, recompute: bool, autocast: bool) -> Tensor:
    total = rendered.new_zeros(())
    context = torch.autocast(rendered.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()
    for one, other in zip(rendered.split(LPIPS_VIEWS), target.split(LPIPS_VIEWS), strict=True):
        with context:
            distance = checkpoint(lpips, one, other, use_reentrant=False) if recompute else lpips(one, other)
        total = total + distance.float().sum()
    return total / len(rendered)
