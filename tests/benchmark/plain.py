"""Baseline: the same network written plainly, as the published script computes it.

All views at once, in the weights' dtype, with query, key, value and learning rates of every token, and the last block on inputs
too; nothing is fused, and Newton-Schulz is differentiated by autograd.

Letters: b scenes, v views, t tokens of a view, n heads, k head width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model import LaCTLVSM
from model.layers import FastWeight, LocalLayer, MixingLayer
from model.layers.attention import SelfAttention
from model.layers.primitives import unit
from model.ops.newton_schulz import newton_schulz

State = tuple[Tensor, Tensor, Tensor]


def plain_pass(model: LaCTLVSM, x: Tensor, num_inputs: int = 0, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
    """Run the blocks over tokens (b, v, t, d).

    Args:
        num_inputs: the first `num_inputs` views write; ignored if `states` are given.
        states: of the fast-weight layers, to be read; None writes them.

    Returns:
        the tokens after the last block, and the states.
    """
    used: list[State] = []
    for block in model.blocks:
        for layer in block.module_list:
            h = layer.ln(x)
            if isinstance(layer.f, FastWeight):
                y, state = plain_fast_weight(layer, h, num_inputs, states[len(used)] if states else None)
                used.append(state)
            elif isinstance(layer.f, SelfAttention):
                y = plain_attention(layer, h)
            else:
                y = F.linear(F.gelu(F.linear(h, layer.f.c_fc.weight)), layer.f.c_proj.weight)
            x = x + y
    return x, used


def plain_attention(layer: LocalLayer, h: Tensor) -> Tensor:
    """Return the output of self-attention within each view."""
    f, v = layer.f, h.shape[1]
    q, k, value = rearrange(F.linear(h, f.to_qkv.weight), "b v t (s n k) -> s (b v) n t k", s=3, n=f.heads)
    out = F.scaled_dot_product_attention(f.q_norm(q), f.k_norm(k), value)
    return F.linear(rearrange(out, "(b v) n t k -> b v t (n k)", v=v), f.c_proj.weight)


def plain_fast_weight(layer: MixingLayer, h: Tensor, num_inputs: int, state: State | None) -> tuple[Tensor, State]:
    """Return the output of the fast weights, and the weights that were read."""
    f, (b, v, t, _) = layer.f, h.shape
    q, k, value = rearrange(F.silu(F.linear(h, f.to_qkv.weight)), "b v t (s n k) -> s (b n) (v t) k", s=3, n=f.heads)
    q, k = unit(q), unit(k)
    rates = F.softplus(F.linear(h, f.lr_fc.weight, f.lr_fc.bias) + f.lr_offset)
    if state is None:
        written = slice(0, num_inputs * t)
        lr0, lr1, lr2 = rearrange(rates, "b v t (s n) -> s (b n) (v t) 1", s=3)[:, :, written]
        state = plain_write(tuple(w.repeat(b, 1, 1) for w in (f.w0, f.w1, f.w2)), k[:, written], value[:, written], lr0, lr1, lr2)
    w0, w1, w2 = state
    out = f.o_norm((F.silu(q @ w0) * (q @ w2)) @ w1)
    return F.linear(rearrange(out, "(b n) (v t) k -> b v t (n k)", b=b, v=v), f.c_proj.weight), state


def plain_write(weights: State, k: Tensor, value: Tensor, lr0: Tensor, lr1: Tensor, lr2: Tensor) -> State:
    """Return the fast weights after one step on keys and values (b·n, v·t, k)."""
    w0, w1, w2 = weights
    gate, up, d_hidden = k @ w0, k @ w2, value @ w1.mT
    slope = gate.sigmoid() * (1 + gate * (1 - gate.sigmoid()))
    steps = [
        (k * lr0).mT @ (d_hidden * up * slope),
        (F.silu(gate) * up * lr1).mT @ value,
        (k * lr2).mT @ (d_hidden * F.silu(gate)),
    ]
    moved = [w + newton_schulz(step, dtype=torch.bfloat16).to(w.dtype) for w, step in zip(weights, steps, strict=True)]
    norms = [w.detach().norm(dim=1, keepdim=True) for w in weights]
    return tuple(w / (w.norm(dim=1, keepdim=True) + 1e-5) * norm for w, norm in zip(moved, norms, strict=True))
