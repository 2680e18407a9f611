"""Transformer MLP."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.primitives import Linear, hidden_width


class MLP(nn.Module):
    """Two linear maps with an exact GELU between them, token by token.

    Args:
        dim: token width.
        inter_multi: hidden width over token width.

    Raises:
        InputError: `inter_multi` leaves no hidden number.
    """

    length_dims: ClassVar[tuple[str, ...]] = ("l", "vl")  # both mean the same: no token sees another
    mixes_views: bool = False

    def __init__(self, dim: int, inter_multi: float = 4) -> None:
        super().__init__()
        hidden = hidden_width(dim, inter_multi)
        self.c_fc, self.c_proj = Linear(dim, hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for normalised tokens `x` (b, v, t, d), in the compute dtype."""
        return self.c_proj(F.gelu(self.c_fc(x)))
