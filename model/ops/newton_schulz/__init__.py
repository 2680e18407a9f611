"""Newton-Schulz orthogonalisation: contract.

Letters: b matrices, r rows, c columns.
"""

import torch
from torch import Tensor

from model.ops.newton_schulz.naive import newton_schulz_naive


def newton_schulz(x: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Push the singular values of each matrix towards 1, keeping its singular vectors.

    Args:
        x: (b, r, c), any floating dtype.
        steps: number of quintic steps; 0 only scales by the Frobenius norm.
        dtype: dtype that the steps run in. Published weights were trained with bfloat16.

    Returns:
        (b, r, c) in `dtype`: x = U S Vᵀ becomes U p(S) Vᵀ with p(S) within about 0.7 to 1.2 for singular values that
        are not tiny against the Frobenius norm.

    Raises:
        ValueError: `x` is not a batch of matrices, or `dtype` is not floating.

    Precision: everything, the Frobenius norm too, in `dtype`, as in the training of the published weights.
    Cost: steps · b · (4 s² l + 2 s³) FLOPs, s the shorter and l the longer side.
    Source: Jordan et al. 2024 (Muon), with its coefficients; LaCT (arXiv 2505.23884), section 3.
    """
    if x.ndim != 3:
        raise ValueError(f"newton_schulz: x has shape {tuple(x.shape)}; wanted (b, r, c)")
    if not dtype.is_floating_point:
        raise ValueError(f"newton_schulz: dtype is {dtype}; wanted a floating dtype")
    return newton_schulz_naive(x, steps, dtype)
