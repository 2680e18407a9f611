"""Rotation of pairs in plain PyTorch, for any floating dtype and any device.

Letters: b scenes, n heads, l tokens, k width, p rotated pairs.
"""

import torch
from torch import Tensor

from model.ops.gradient_mode import gradients_are_recorded


def rotate_naive(x: Tensor, turn: Tensor, back: bool, in_place: bool) -> Tensor:
    """See `model.ops.rotation.rotate`."""
    if gradients_are_recorded() and not turn.requires_grad:
        return Rotation.apply(x, turn, back)
    if gradients_are_recorded() or torch.compiler.is_compiling():
        return _put_together(x, turn, back)
    # Without gradients: passes over the rotated numbers alone, where concatenating parts would copy all of them. On a CPU, bfloat16
    # arithmetic takes twice as long as converting to float32 and back.
    heads = _heads(x if in_place else x.clone(), turn)
    places = _pairs(heads, turn)
    first, second = (place.to(turn.dtype) for place in places)
    cos, sin = _cos_sin(turn, back)
    turned = (first * sin).addcmul_(second, cos)
    first.mul_(cos).addcmul_(second, sin, value=-1)  # in float32, `first` is a view of x
    places[1].copy_(turned)
    if x.dtype != turn.dtype:
        places[0].copy_(first)
    return heads.flatten(0, 1)


class Rotation(torch.autograd.Function):
    """Rotation with a hand-written derivative, the inverse rotation: autograd would add up parts padded with zeros."""

    @staticmethod
    def forward(ctx, x: Tensor, turn: Tensor, back: bool) -> Tensor:
        ctx.save_for_backward(turn)
        ctx.back = back
        return _put_together(x, turn, back)

    @staticmethod
    def backward(ctx, d: Tensor) -> tuple[Tensor, None, None]:
        return _put_together(d, ctx.saved_tensors[0], not ctx.back), None, None


def _put_together(x: Tensor, turn: Tensor, back: bool) -> Tensor:
    heads = _heads(x, turn)
    first, second = (place.to(turn.dtype) for place in _pairs(heads, turn))
    cos, sin = _cos_sin(turn, back)
    parts = (first * cos - second * sin).to(x.dtype), (first * sin + second * cos).to(x.dtype)
    return torch.cat([*parts, heads[..., 2 * turn.shape[-1] :]], dim=-1).flatten(0, 1)


def _heads(x: Tensor, turn: Tensor) -> Tensor:
    """Return x as (b, n, l, k)."""
    return x.unflatten(0, (turn.shape[1], -1))


def _pairs(heads: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second numbers of the pairs, (b, n, l, p) each."""
    p = turn.shape[-1]
    return heads[..., :p], heads[..., p : 2 * p]


def _cos_sin(turn: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    cos, sin = turn[:, :, None].unbind(0)
    return cos, -sin if back else sin
