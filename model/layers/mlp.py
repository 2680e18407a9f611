"""The transformer's MLP."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.primitives import Linear


class MLP(nn.Module):
    """Two linear maps with an exact GELU between them, token by token.

    Args:
        dim: token width.
        length_dim: `l` or `vl`; both mean the same, since no token sees another.
        inter_multi: hidden width over token width.
    """

    mixes_views = False

    def __init__(self, dim: int, length_dim: str, inter_multi: float = 4) -> None:
        super().__init__()
        self.c_fc = Linear(dim, int(dim * inter_multi))
        self.c_proj = Linear(int(dim * inter_multi), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for normalised tokens `x` (b, v, t, d), in the compute dtype."""
        return self.c_proj(F.gelu(self.c_fc(x)))
