"""The fast-weight MLP in plain PyTorch, for any floating dtype and any device.

Letters: b scenes times heads, l tokens, k head width, m hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.ops.gradient_mode import gradients_are_recorded
from model.ops.newton_schulz import newton_schulz
from model.ops.product import product
from model.ops.rotation import rotate

NORM_EPS = 1e-5
aten = torch.ops.aten

Weights = tuple[Tensor, Tensor, Tensor]


def gradients_naive(
    weights: Weights, key: Tensor, value: Tensor, learning_rate: Tensor, turn: Tensor | None = None
) -> tuple[Tensor, ...]:
    """See `model.ops.fast_weight.gradients`."""
    w0, w1, w2 = weights
    rates = learning_rate.to(key.dtype).unbind(0)
    gate = key @ w0
    up = key @ w2
    gate_silu = F.silu(gate)
    # A learning rate multiplies the narrow operand (k wide): the same product as on the wide one (m), for less work. And the
    # narrow operand is the transposed one: transposing the wide one took as long again on a CPU as the product itself.
    dw1 = ((value * rates[len(rates) // 2]).mT @ _turned(gate_silu * up, turn)).mT
    if len(rates) == 1:
        return (dw1,)
    d_hidden = _turned(value @ w1.mT, turn, back=True)
    dw0 = (key * rates[0]).mT @ _silu_backward(d_hidden * up, gate)
    dw2 = (key * rates[2]).mT @ (d_hidden * gate_silu)
    return dw0, dw1, dw2


def update_naive(weights: Weights, gradients: tuple[Tensor, ...], steps: int, dtype: torch.dtype) -> Weights:
    """See `model.ops.fast_weight.update`."""
    w0, w1, w2 = weights
    if len(gradients) == 1:
        d1 = newton_schulz(gradients[0].mT, steps, dtype).mT
        return w0, _add_keeping_norm(w1, d1.to(w1.dtype)), w2
    dw0, dw1, dw2 = gradients
    # One batch of equal shapes: three times the work in each call, which small batches need to fill the machine.
    orthogonal = newton_schulz(torch.cat([dw0, dw1.mT, dw2]), steps, dtype)
    d0, d1, d2 = (d.to(w0.dtype) for d in orthogonal.chunk(3))
    return _add_keeping_norm(w0, d0), _add_keeping_norm(w1, d1.mT), _add_keeping_norm(w2, d2)


def apply_naive(weights: Weights, query: Tensor, turn: Tensor | None = None) -> Tensor:
    """See `model.ops.fast_weight.apply`."""
    w0, w1, w2 = weights
    hidden = _turned(F.silu(query @ w0) * (query @ w2), turn)
    return product(hidden[0], w1[0])[None] if len(hidden) == 1 else hidden @ w1


def _turned(fresh: Tensor, turn: Tensor | None, back: bool = False) -> Tensor:
    """Rotate a result that nothing else holds."""
    return fresh if turn is None else rotate(fresh, turn, back, in_place=True)


def _silu_backward(d: Tensor, gate: Tensor) -> Tensor:
    """Return d · SiLU'(gate). The fused kernel has no derivative of its own, which training needs."""
    if not gradients_are_recorded():
        return aten.silu_backward(d, gate)
    sigmoid = gate.sigmoid()
    return d * (sigmoid * (1 + gate * (1 - sigmoid)))


def _add_keeping_norm(w: Tensor, d: Tensor) -> Tensor:
    """Return w + d with every column (along dim 1) as long as it is in w; that length carries no gradient."""
    moved = w + d
    return moved * (w.detach().norm(dim=1, keepdim=True) / (moved.norm(dim=1, keepdim=True) + NORM_EPS))
