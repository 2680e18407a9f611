"""Newton-Schulz orthogonalisation in plain PyTorch, for any floating dtype and any device.

X is divided by (its Frobenius norm + 1e-7); a step is A = XXᵀ, B = bA + cA², X ← aX + BX, with X transposed where rows > columns.

Letters: b matrices, s shorter side, l longer side.
"""

import torch
from torch import Tensor

from model.ops.gradient_mode import gradients_are_recorded
from model.runtime import CPU_HAS_BFLOAT16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


def newton_schulz_naive(x: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """See `model.ops.newton_schulz.newton_schulz`."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.to(dtype)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPS)
    # float32 serves to compare with other code, whose rounding only autograd reproduces.
    fast = dtype == torch.bfloat16 and x.requires_grad and gradients_are_recorded()
    emulated = dtype == torch.bfloat16 and x.device.type == "cpu" and not CPU_HAS_BFLOAT16
    x = x.float() if emulated else x
    for _ in range(steps):
        x = Step.apply(x, emulated) if fast else _step(x, emulated)[0]
    x = x.to(dtype)
    return x.mT if tall else x


def _step(x: Tensor, emulated: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return aX + BX, and what its derivative needs: A = XXᵀ and B = bA + cA²."""
    a, b, c = COEFFICIENTS
    gram = _rounded(x @ x.mT, emulated)
    polynomial = _rounded(torch.baddbmm(gram, gram, gram, beta=b, alpha=c), emulated)
    return _rounded(torch.baddbmm(x, polynomial, x, beta=a), emulated), gram, polynomial


def _rounded(x: Tensor, emulated: bool) -> Tensor:
    """Return a result in float32 as bfloat16 would hold it, where bfloat16 is emulated.

    A CPU without bfloat16 takes 30 to 40 times as long for its products as for float32's. These are the same, but for the order of
    their sums: products of two bfloat16 numbers are exact in float32, in which the hardware adds them up, too.
    """
    return x.bfloat16().float() if emulated else x


class Step(torch.autograd.Function):
    """A step with a hand-written derivative, which uses that A and B are symmetric.

    Four products instead of six and a third of the passes over memory. For the gradient D of Y = aX + BX:
    S = DXᵀ + XDᵀ, dX = aD + BD + (bS + c(SA + AS)) X.
    """

    @staticmethod
    def forward(ctx, x: Tensor, emulated: bool) -> Tensor:
        y, gram, polynomial = _step(x, emulated)
        ctx.save_for_backward(x, gram, polynomial)
        ctx.emulated = emulated
        return y

    @staticmethod
    def backward(ctx, d: Tensor) -> tuple[Tensor, None]:
        a, b, c = COEFFICIENTS
        x, gram, polynomial = ctx.saved_tensors
        emulated = ctx.emulated
        d_polynomial = _rounded(d @ x.mT, emulated)
        d_polynomial = _rounded(d_polynomial + d_polynomial.mT, emulated)  # S
        product = _rounded(d_polynomial @ gram, emulated)
        d_gram = _rounded(torch.add(d_polynomial * b, product + product.mT, alpha=c), emulated)  # bS + c(SA + AS)
        direct = _rounded(torch.baddbmm(d, polynomial, d, beta=a), emulated)
        return _rounded(torch.baddbmm(direct, d_gram, x), emulated), None
