"""Softmax attention: contract and choice of implementation.

Letters: b scenes or views, l queries, s keys, n heads, k head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.ops.attention.naive import attention_naive
from model.ops.attention.products import attention_by_products
from model.ops.gradient_mode import gradients_are_recorded
from model.runtime import CPU_HAS_BFLOAT16

IMPLEMENTATIONS = ("auto", "naive", "fused", "products")
# Of this machine, read once, as `CPU_HAS_BFLOAT16`.
CPU_HAS_AMX = torch.cpu._is_amx_tile_supported()
# Training by products keeps a probability for every pair of a query and a key. With more keys than this that would exceed
# everything else that a layer keeps (1 KB per query and head here).
KEPT_KEYS = 512


def attention(query: Tensor, key: Tensor, value: Tensor, implementation: str = "auto") -> Tensor:
    """Return softmax(query · keyᵀ / √k) · value for every head.

    Args:
        query: (b, l, n, k).
        key, value: (b, s, n, k), same dtype.
        implementation: `naive` (the formula), `fused` (torch's kernel), `products` (batched products with a softmax between
            them, in blocks that stay in cache) or `auto` (products in bfloat16 on a CPU where they are faster, else fused).

    Returns:
        (b, l, n·k), in the dtype of `query`, heads side by side.

    Raises:
        ValueError: unknown implementation, or shapes that do not fit.

    Precision: `fused` keeps logits and sums in float32, and on a CPU computes everything in float32 where gradients are recorded.
        `products` rounds logits and probabilities to the dtype of `query`; sums are in float32.
    Cost: 4 · b · n · l · s · k FLOPs. With a gradient, `products` keeps b · n · l · s probabilities.
    """
    b, _, n, k = query.shape
    if key.shape != value.shape or key.shape[::2] != (b, n) or key.shape[3] != k:
        shapes = [tuple(x.shape) for x in (query, key, value)]
        raise ValueError(f"attention: query, key, value are {shapes}; wanted b l n k, b s n k, b s n k")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention: implementation is {implementation!r}; wanted one of {', '.join(IMPLEMENTATIONS)}")
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if query.numel() == 0:  # a process without views: CUDA has no fused kernel for it, and key and value still get a gradient
        out = query @ key.mT @ value
    elif implementation == "naive":
        out = attention_naive(query, key, value)
    elif implementation == "products" or (implementation == "auto" and _products_are_faster(query, key)):
        out = attention_by_products(query, key, value)
    else:
        out = _fused(query, key, value)
    return out.transpose(1, 2).flatten(2)


def _products_are_faster(query: Tensor, key: Tensor) -> bool:
    """Return whether products beat torch's kernel: in bfloat16 on a CPU, where it does not use AMX or gradients are recorded."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or not CPU_HAS_BFLOAT16:
        return False
    return key.shape[2] <= KEPT_KEYS if gradients_are_recorded() else not CPU_HAS_AMX


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # On a CPU the backward pass of the fused kernel is four times as slow in bfloat16 as in float32.
    wide = query.device.type == "cpu" and query.dtype == torch.bfloat16 and gradients_are_recorded()
    dtype = torch.float32 if wide else query.dtype
    return F.scaled_dot_product_attention(query.to(dtype), key.to(dtype), value.to(dtype)).to(query.dtype)
