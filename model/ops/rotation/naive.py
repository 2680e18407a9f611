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
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        first, second = (heads[..., :p].to(turn.dtype), heads[..., p : 2 * p].to(turn.dtype))
        turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
        return torch.cat([turned, heads[..., 2 * p :]], dim=-1).flatten(0, 1)
    # Without gradients: passes over the turning numbers alone, where putting parts together would copy all of them. In bfloat16,
    # arithmetic on a CPU takes twice as long as converting to float32 and back.
    heads = heads if in_place else heads.clone()
    places = heads[..., :p], heads[..., p : 2 * p]
    first, second = (place.to(turn.dtype) for place in places)
    crossed = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(crossed)
    if x.dtype != turn.dtype:
        places[0].copy_(first), places[1].copy_(second)
    return heads.flatten(0, 1)
