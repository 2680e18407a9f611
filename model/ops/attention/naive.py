"""Softmax attention in plain PyTorch, for any floating dtype and any device."""

import math

from torch import Tensor


def attention_naive(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """See `model.ops.attention.attention`, but heads before tokens: query and result (b, n, l, k), key and value (b, n, s, k)."""
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1) @ value
