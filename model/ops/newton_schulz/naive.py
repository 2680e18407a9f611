"""Newton-Schulz orthogonalisation in plain PyTorch, for any floating dtype and any device.

X is divided by (its Frobenius norm + 1e-7); a step is A = XXᵀ, B = bA + cA², X ← aX + BX, with X transposed where rows > columns.

Letters: b matrices, s shorter side, l longer side.
"""

import torch
from torch import Tensor

from model.ops.gradient_mode import gradients_are_recorded

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
    for _ in range(steps):
        x = Step.apply(x) if fast else _step(x)[0]
    return x.mT if tall else x


def _step(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return aX + BX, and what its derivative needs: A = XXᵀ and B = bA + cA²."""
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    return torch.baddbmm(x, polynomial, x, beta=a), gram, polynomial


class Step(torch.autograd.Function):
    """A step with a hand-written derivative, which uses that A and B are symmetric.

    Four products instead of six and a third of the passes over memory. For the gradient D of Y = aX + BX:
    S = DXᵀ + XDᵀ, dX = aD + BD + (bS + c(SA + AS)) X.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y, gram, polynomial = _step(x)
        ctx.save_for_backward(x, gram, polynomial)
        return y

    @staticmethod
    def backward(ctx, d: Tensor) -> Tensor:
        a, b, c = COEFFICIENTS
        x, gram, polynomial = ctx.saved_tensors
        d_polynomial = d @ x.mT
        d_polynomial = d_polynomial + d_polynomial.mT  # S
        product = d_polynomial @ gram
        d_gram = torch.add(d_polynomial * b, product + product.mT, alpha=c)  # bS + c(SA + AS)
        return torch.baddbmm(torch.baddbmm(d, polynomial, d, beta=a), d_gram, x)
