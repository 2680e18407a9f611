"""Softmax attention by batched matrix products with a softmax between them, in blocks of logits that stay in cache.

For CPUs on which torch's fused kernel runs far below the rate of a matrix product. The loop over blocks is eager PyTorch and a
single operation to the compiler: fused across blocks, the passes over all logits would go through memory.

Letters: b scenes or views, l queries, s keys, n heads, h = b·n, k head width.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from model.ops.gradient_mode import gradients_are_recorded

aten = torch.ops.aten
# Logits per block, 2 MB in bfloat16: half as many and twice as many are up to 10 % slower on one core and on two.
BLOCK_LOGITS = 2**20
# Queries per block where nothing is kept for a gradient: with many keys, several heads still fit.
BLOCK_QUERIES = 512


def attention_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """See `model.ops.attention.attention`, but heads before tokens: query and result (b, n, l, k), key and value (b, n, s, k)."""
    b, n, _, k = query.shape
    # A power of two for the usual widths: it multiplies the narrow operand without rounding.
    query, key, value = (x.reshape(b * n, -1, k) for x in (query * (1 / math.sqrt(k)), key, value))
    out = attend_and_keep(query, key, value)[0] if gradients_are_recorded() else attend(query, key, value)
    return out.unflatten(0, (b, n))


@torch.library.custom_op("lact::attend", mutates_args=())
def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query · keyᵀ) · value, (h, l, k), of queries (h, l, k), keys and values (h, s, k)."""
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for heads in _blocks(len(query), min(query.shape[1], BLOCK_QUERIES) * key.shape[1]):
        transposed = key[heads].mT
        rows = max(1, min(BLOCK_QUERIES, BLOCK_LOGITS // key.shape[1]))
        for part, target in zip(query[heads].split(rows, dim=1), out[heads].split(rows, dim=1), strict=True):
            target.copy_(torch.bmm(_softmax(torch.bmm(part, transposed)), value[heads]))
    return out


@torch.library.custom_op("lact::attend_and_keep", mutates_args=())
def attend_and_keep(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result of `attend`, and the probabilities (h, l, s) for `attend_backward`."""
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    kept = query.new_empty(len(query), query.shape[1], key.shape[1])
    for heads in _blocks(len(query), query.shape[1] * key.shape[1]):
        _softmax(torch.bmm(query[heads], key[heads].mT, out=kept[heads]))
        torch.bmm(kept[heads], value[heads], out=out[heads])
    return out, kept


@torch.library.custom_op("lact::attend_backward", mutates_args=())
def attend_backward(d: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value for the gradient `d` (h, l, k) of the result."""
    d_query, d_key, d_value = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))
    for heads in _blocks(len(query), query.shape[1] * key.shape[1]):
        torch.bmm(kept[heads].mT, d[heads], out=d_value[heads])
        d_kept = torch.bmm(d[heads], value[heads].mT)
        d_logits = aten._softmax_backward_data(d_kept, kept[heads], -1, d_kept.dtype)
        torch.bmm(d_logits, key[heads], out=d_query[heads])
        torch.bmm(d_logits.mT, query[heads], out=d_key[heads])
    return d_query, d_key, d_value


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@attend_and_keep.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    kept = query.new_empty(query.shape[0], query.shape[1], key.shape[1])
    return torch.empty_like(query, memory_format=torch.contiguous_format), kept


@attend_backward.register_fake
def _(d: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d_query, d_key, d_value = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))
    return d_query, d_key, d_value


def _keep(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, d: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return attend_backward(d, *ctx.saved_tensors)


attend_and_keep.register_autograd(_backward, setup_context=_keep)


def _blocks(heads: int, logits: int) -> Iterator[slice]:
    """Yield slices of heads with up to BLOCK_LOGITS logits together, or single heads where one has more."""
    size = max(1, BLOCK_LOGITS // logits)
    return (slice(start, start + size) for start in range(0, heads, size))


def _softmax(logits: Tensor) -> Tensor:
    """Take the softmax over the last dimension in place."""
    return aten._softmax.out(logits, -1, False, out=logits)
