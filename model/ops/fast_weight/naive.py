"""Fast-weight MLP in plain PyTorch, for any floating dtype and any device.

With k, v, q the keys, values and queries of the tokens (rows), and R the rotation of hidden numbers by `turn` (the identity
without it):

    forward         g = k w0,  u = k w2,  a = SiLU(g) · u,  f(k) = (R a) w1
    inner loss      −Σ v·f(k) over tokens; inside the sum a learning rate per token and weight, lr0, lr1, lr2
    gradients       dw1 = (lr1 R a)ᵀ v                       all three negated, down the loss
                    da = Rᵀ (v w1ᵀ)
                    dw0 = (lr0 k)ᵀ (da · u · SiLU'(g))
                    dw2 = (lr2 k)ᵀ (da · SiLU(g))
    Muon update     ŵ = w + NewtonSchulz(dw)                 see `model.ops.newton_schulz`
    normalisation   w ← ŵ |w| / (|ŵ| + 1e-5)                 per column, norms over dim 1; |w| carries no gradient

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
    gate = key @ w0  # g
    up = key @ w2  # u
    gate_silu = F.silu(gate)
    # dw1 = (lr1 R a)ᵀ v, computed as ((lr1 v)ᵀ (R a))ᵀ. A learning rate multiplies the narrow operand (k wide): the same product
    # as on the wide one (m), for less work. And the narrow operand is the transposed one: transposing the wide one took as long
    # on a CPU as the product itself.
    dw1 = ((value * rates[len(rates) // 2]).mT @ _turned(gate_silu * up, turn)).mT
    if len(rates) == 1:
        return (dw1,)
    d_hidden = _turned(value @ w1.mT, turn, back=True)  # da = Rᵀ (v w1ᵀ)
    dw0 = (key * rates[0]).mT @ _silu_backward(d_hidden * up, gate)  # (lr0 k)ᵀ (da · u · SiLU'(g))
    dw2 = (key * rates[2]).mT @ (d_hidden * gate_silu)  # (lr2 k)ᵀ (da · SiLU(g))
    return dw0, dw1, dw2


def update_naive(weights: Weights, gradients: tuple[Tensor, ...], steps: int, dtype: torch.dtype) -> Weights:
    """See `model.ops.fast_weight.update`."""
    w0, w1, w2 = weights
    if len(gradients) == 1:
        d1 = newton_schulz(gradients[0].mT, steps, dtype).mT
        return w0, _add_keeping_norm(w1, d1.to(w1.dtype)), w2
    dw0, dw1, dw2 = gradients
    # One batch of three equal shapes: more work per call, which small batches need to fill the machine.
    orthogonal = newton_schulz(torch.cat([dw0, dw1.mT, dw2]), steps, dtype)
    d0, d1, d2 = (d.to(w0.dtype) for d in orthogonal.chunk(3))
    return _add_keeping_norm(w0, d0), _add_keeping_norm(w1, d1.mT), _add_keeping_norm(w2, d2)


def apply_naive(weights: Weights, query: Tensor, turn: Tensor | None = None) -> Tensor:
    """See `model.ops.fast_weight.apply`."""
    w0, w1, w2 = weights
    hidden = _turned(F.silu(query @ w0) * (query @ w2), turn)  # R a, of f(q) = (R a) w1
    return product(hidden[0], w1[0])[None] if len(hidden) == 1 else hidden @ w1


def _turned(fresh: Tensor, turn: Tensor | None, back: bool = False) -> Tensor:
    """Return R · fresh, or Rᵀ · fresh with `back`, in place: nothing else holds `fresh`."""
    return fresh if turn is None else rotate(fresh, turn, back, in_place=True)


def _silu_backward(d: Tensor, gate: Tensor) -> Tensor:
    """Return d · SiLU'(gate). The fused kernel has no derivative, which training needs."""
    if not gradients_are_recorded():
        return aten.silu_backward(d, gate)
    sigmoid = gate.sigmoid()  # SiLU'(g) = σ(g) (1 + g (1 − σ(g)))
    return d * (sigmoid * (1 + gate * (1 - sigmoid)))


def _add_keeping_norm(w: Tensor, d: Tensor) -> Tensor:
    """Return ŵ |w| / (|ŵ| + 1e-5), ŵ = w + d, norms per column (over dim 1); |w| carries no gradient."""
    moved = w + d
    return moved * (w.detach().norm(dim=1, keepdim=True) / (moved.norm(dim=1, keepdim=True) + NORM_EPS))
