"""Softmax attention in plain PyTorch, for any floating dtype and any device."""

import math

from torch import Tensor


def attention_naive(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """See `model.ops.attention.attention`; heads before tokens here: (b, n, l, k) of (b, n, l, k), (b, n, s, k) twice."""
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1) @ value
