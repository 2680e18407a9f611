"""Softmax attention: within each image, over all images of a scene, or through learned registers.

Letters: b scenes, v views, t tokens of a view, l tokens of all views, n heads, k head width, d width, r registers.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from model.layers.primitives import LayerNorm, Linear, RMSNorm
from model.ops.attention import attention
from model.parallel.context import Shares


class SelfAttention(nn.Module):
    """Multi-head self-attention with RMS-normalised queries and keys.

    Args:
        dim: token width.
        length_dim: `l`: tokens attend within their own image. `vl`: inputs attend to all inputs of the scene, a target
            to all inputs and to itself, never to another target (LVSM decoder-only, arXiv 2410.17242).
        head_dim: width of a head.
        use_qk_norm: normalise queries and keys per head, with a learned scale.

    Raises:
        ValueError: `head_dim` does not divide `dim`.
    """

    def __init__(self, dim: int, length_dim: str, head_dim: int = 64, use_qk_norm: bool = True) -> None:
        super().__init__()
        self.mixes_views = length_dim == "vl"
        self.heads = count_heads(dim, head_dim)
        self.to_qkv = Linear(dim, 3 * dim)
        self.c_proj = Linear(dim, dim)
        self.q_norm = RMSNorm(head_dim) if use_qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim) if use_qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each image: (b, v, t, d) → (b, v, t, d)."""
        q, k, v = self._qkv(x.flatten(0, 1))
        return self._attend(q, k, v).unflatten(0, x.shape[:2])

    def write(self, x: Tensor, memory: list[tuple[Tensor, Tensor]] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Append the keys and values (b, v·t, n, k) of some input views to `memory`."""
        _, k, v = self._qkv(x.flatten(1, 2), first=1)
        return [*(memory or []), (k, v)]

    def reduce(self, memory: list[tuple[Tensor, Tensor]], shares: Shares) -> list[tuple[Tensor, Tensor]]:
        """Gather the keys and values of all processes that hold views of the scene."""
        state = self.finish(memory)
        key, value = shares.gather(torch.stack([state["key"], state["value"]], dim=2), shares.tokens).unbind(2)
        return [(key, value)]

    def finish(self, memory: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Return the keys and values of all inputs, each (b, l, n, k)."""
        key, value = (torch.cat(parts, dim=1) for parts in zip(*memory, strict=True))
        return {"key": key, "value": value}

    def read(self, x: Tensor, state: dict[str, Tensor], target: bool) -> Tensor:
        """Attend to all inputs, and for targets to the image's own tokens too: (b, v, t, d) → (b, v, t, d)."""
        if not target:
            (q,) = self._qkv(x.flatten(1, 2), last=1)
            return self._attend(q, state["key"], state["value"]).view(x.shape)
        if x.shape[1] == 0:
            return self._read_target(x.flatten(1, 2), state).view(x.shape)
        return torch.stack([self._read_target(view, state) for view in x.unbind(1)], dim=1)

    def _read_target(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        q, k, v = self._qkv(x)
        return self._attend(q, torch.cat([state["key"], k], dim=1), torch.cat([state["value"], v], dim=1))

    def _qkv(self, x: Tensor, first: int = 0, last: int = 3) -> tuple[Tensor | None, ...]:
        """Return the parts first..last−1 of (query, key, value), each (b, l, n, k), for tokens (b, l, d)."""
        d = x.shape[-1]
        parts = self.to_qkv(x, slice(first * d, last * d)).unflatten(-1, (last - first, self.heads, -1)).unbind(-3)
        norms = (self.q_norm, self.k_norm, nn.Identity())[first:last]
        return (None,) * first + tuple(norm(part) for norm, part in zip(norms, parts, strict=True))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.c_proj(attention(query, key, value))


class RegisterAttention(nn.Module):
    """Learned registers read all input tokens; every token then reads the registers: a state of fixed size.

    Args:
        dim: token width.
        length_dim: `vl`.
        head_dim: width of a head.
        num_registers: r, how many registers.

    Raises:
        ValueError: `head_dim` does not divide `dim`, or `length_dim` is not `vl`.

    Precision: logits of the registers' read and their sums over chunks of views in float32.
    Source: Perceiver (arXiv 2103.03206) as the register baseline of LaCT (arXiv 2505.23884), one cross-attention a block.
    """

    mixes_views = True

    def __init__(self, dim: int, length_dim: str, head_dim: int = 64, num_registers: int = 1536) -> None:
        super().__init__()
        if length_dim != "vl":
            raise ValueError(f"register_attention: length_dim is {length_dim!r}; wanted vl, since registers read all images")
        self.heads = count_heads(dim, head_dim)
        self.registers = nn.Parameter(torch.randn(num_registers, dim) * 0.02)
        self.write_q, self.write_kv, self.write_proj = Linear(dim, dim), Linear(dim, 2 * dim), Linear(dim, dim)
        self.register_norm, self.latent_norm = LayerNorm(dim), LayerNorm(dim)
        self.read_q, self.read_kv, self.c_proj = Linear(dim, dim), Linear(dim, 2 * dim), Linear(dim, dim)
        self.write_q_norm, self.write_k_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)

    def write(self, x: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Let the registers read some input views; `memory` is (attended values (b, n, r, k), log of the softmax's sum)."""
        query = self.write_q_norm(self._heads(self.write_q(self.register_norm(self.registers)))).float().transpose(-2, -3)
        key, value = (part.float().transpose(1, 2) for part in self._heads(self.write_kv(x.flatten(1, 2))).chunk(2, dim=2))
        logits = query @ self.write_k_norm(key).mT / math.sqrt(key.shape[-1])
        log_sum = logits.logsumexp(dim=-1, keepdim=True)
        attended = (logits - log_sum).exp() @ value
        if memory is None:
            return attended, log_sum
        total = torch.logaddexp(memory[1], log_sum)
        return memory[0] * (memory[1] - total).exp() + attended * (log_sum - total).exp(), total

    def reduce(self, memory: tuple[Tensor, Tensor], shares: Shares) -> tuple[Tensor, Tensor]:
        """Merge what the registers read in all processes that hold views of the scene."""
        parts = shares.gather(torch.cat(memory, dim=-1)[:, None], [1] * shares.group.size)
        attended, log_sum = parts[..., :-1], parts[..., -1:]
        total = log_sum.logsumexp(dim=1, keepdim=True)
        return (attended * (log_sum - total).exp()).sum(dim=1), total[:, 0]

    def finish(self, memory: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return keys and values (b, r, n, k) of the registers after they have read all inputs."""
        read = self.write_proj(rearrange(memory[0], "b n r k -> b r (n k)"))
        key, value = self._heads(self.read_kv(self.latent_norm(self.registers + read.float()))).chunk(2, dim=2)
        return {"key": self.k_norm(key), "value": value}

    def read(self, x: Tensor, state: dict[str, Tensor], target: bool) -> Tensor:
        """Attend to the registers: (b, v, t, d) → (b, v, t, d); inputs and targets alike."""
        query = self.q_norm(self._heads(self.read_q(x.flatten(1, 2))))
        return self.c_proj(attention(query, state["key"], state["value"])).view(x.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """Split (…, l, s·d) into (…, l, s·n, k)."""
        return x.unflatten(-1, (-1, self.registers.shape[1] // self.heads))


def count_heads(dim: int, head_dim: int) -> int:
    """Return how many heads of width `head_dim` make up `dim`."""
    if head_dim < 1 or dim % head_dim:
        raise ValueError(f"head_dim is {head_dim}; wanted a divisor of dim, {dim}")
    return dim // head_dim
