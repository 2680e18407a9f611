"""The fast-weight MLP in plain PyTorch, for any floating dtype and any device.

Letters: b scenes times heads, l tokens, k head width, m hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.ops import aten

from model.ops.newton_schulz import newton_schulz
from model.ops.product import product

NORM_EPS = 1e-5

Weights = tuple[Tensor, Tensor, Tensor]


def gradients_naive(weights: Weights, key: Tensor, value: Tensor, learning_rate: Tensor) -> Weights:
    """See `model.ops.fast_weight.gradients`."""
    w0, w1, w2 = weights
    lr0, lr1, lr2 = learning_rate.to(key.dtype).unbind(0)
    gate = key @ w0
    up = key @ w2
    gate_silu = F.silu(gate)
    d_hidden = value @ w1.mT
    # A learning rate multiplies the narrow operand (k wide): the same product as on the wide one (m), for less work. And the
    # narrow operand is the transposed one: transposing the wide one took as long again on a CPU as the product itself.
    dw1 = ((value * lr1).mT @ (gate_silu * up)).mT
    dw0 = (key * lr0).mT @ _silu_backward(d_hidden * up, gate)
    dw2 = (key * lr2).mT @ (d_hidden * gate_silu)
    return dw0, dw1, dw2


def update_naive(weights: Weights, gradients: Weights, steps: int, dtype: torch.dtype) -> Weights:
    """See `model.ops.fast_weight.update`."""
    dw0, dw1, dw2 = gradients
    # One batch of equal shapes: three times the work in each call, which small batches need to fill the machine.
    orthogonal = newton_schulz(torch.cat([dw0, dw1.mT, dw2]), steps, dtype)
    d0, d1, d2 = orthogonal.chunk(3)
    return tuple(_add_keeping_norm(w, d.to(w.dtype)) for w, d in zip(weights, (d0, d1.mT, d2), strict=True))


def apply_naive(weights: Weights, query: Tensor) -> Tensor:
    """See `model.ops.fast_weight.apply`."""
    w0, w1, w2 = weights
    hidden = F.silu(query @ w0) * (query @ w2)
    return product(hidden[0], w1[0])[None] if len(hidden) == 1 else hidden @ w1


def _silu_backward(d: Tensor, gate: Tensor) -> Tensor:
    """Return d · SiLU'(gate). The fused kernel has no derivative of its own, which training needs."""
    if not torch.is_grad_enabled():
        return aten.silu_backward(d, gate)
    sigmoid = gate.sigmoid()
    return d * (sigmoid * (1 + gate * (1 - sigmoid)))


def _add_keeping_norm(w: Tensor, d: Tensor) -> Tensor:
    """Return w + d with every column (along dim 1) as long as it is in w; that length carries no gradient."""
    moved = w + d
    return moved * (w.detach().norm(dim=1, keepdim=True) / (moved.norm(dim=1, keepdim=True) + NORM_EPS))
