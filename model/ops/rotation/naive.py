"""Rotation of pairs in plain PyTorch, for any floating dtype and any device.

Letters: b scenes, n heads, l tokens, k width, p pairs that turn.
"""

import torch
from torch import Tensor


def rotate_naive(x: Tensor, turn: Tensor, back: bool, in_place: bool) -> Tensor:
    """See `model.ops.rotation.rotate`."""
    p = turn.shape[-1]
    cos, sin = turn[:, :, None].unbind(0)
    sin = -sin if back else sin
    heads = x.unflatten(0, (cos.shape[0], -1))
    first, second = heads[..., :p], heads[..., p : 2 * p]
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        parts = [first * cos - second * sin, first * sin + second * cos, heads[..., 2 * p :]]
        return torch.cat(parts, dim=-1).flatten(0, 1)
    # Without gradients: passes over the turning numbers alone, where putting parts together would copy all of them.
    if not in_place:
        heads = heads.clone()
        first, second = heads[..., :p], heads[..., p : 2 * p]
    crossed = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(crossed)
    return heads.flatten(0, 1)
