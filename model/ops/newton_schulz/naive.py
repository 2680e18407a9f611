"""Newton-Schulz orthogonalisation in plain PyTorch, for any floating dtype and any device.

Letters: b matrices, s shorter side, l longer side.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


def newton_schulz_naive(x: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """See `model.ops.newton_schulz.newton_schulz`."""
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = x.to(dtype)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPS)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
