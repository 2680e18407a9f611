"""Softmax attention: within each image, over all images of a scene, or through learned registers.

Letters: b scenes, v views, t tokens of a view, l tokens of all views, n heads, k head width, d width, r registers.
"""

import math
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from model.layers.address import Address, Places
from model.layers.contract import State, Sums
from model.layers.primitives import LayerNorm, Linear, RMSNorm, check_switch, check_whole, count_heads
from model.ops.attention import attention
from model.parallel.context import Shares

# Keys and values of chunks of input views, (b, v·t, n, k) each.
KeysAndValues = list[tuple[Tensor, Tensor]]


class RegisterMemory(NamedTuple):
    """What the registers have read so far.

    Attributes:
        attended: (b, n, r, k) mean of the values under the softmax so far, float32.
        log_sum: (b, n, r, 1) logarithm of the softmax's denominator so far, float32.
    """

    attended: Tensor
    log_sum: Tensor


class SelfAttention(nn.Module):
    """Multi-head self-attention with RMS-normalised queries and keys.

    Args:
        dim: token width.
        length_dim: `l`: tokens attend within their own image. `vl`: inputs attend to all inputs of the scene, a target
            to all inputs and to itself, never to another target (LVSM decoder-only, arXiv 2410.17242).
        head_dim: width of a head.
        use_qk_norm: normalise queries and keys per head, with a learned scale.

    Raises:
        InputError: `head_dim` does not divide `dim`.
    """

    length_dims: ClassVar[tuple[str, ...]] = ("l", "vl")

    def __init__(self, dim: int, length_dim: str, head_dim: int = 64, use_qk_norm: bool = True) -> None:
        super().__init__()
        self.mixes_views = length_dim == "vl"
        self.heads = count_heads(dim, head_dim)
        check_switch("use_qk_norm", use_qk_norm)
        self.to_qkv = Linear(dim, 3 * dim)
        self.c_proj = Linear(dim, dim)
        self.q_norm = RMSNorm(head_dim) if use_qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim) if use_qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each image: (b, v, t, d) → (b, v, t, d)."""
        q, k, v = self._parts(x.flatten(0, 1), self.q_norm, self.k_norm, None)
        return self._attend(q, k, v).unflatten(0, x.shape[:2])

    def address(self, places: Places) -> Address | None:
        """Return None: cameras enter by the ray channels alone."""
        return None

    def write(self, x: Tensor, memory: KeysAndValues | None = None, address: Address | None = None) -> KeysAndValues:
        """Append the keys and values of some input views to `memory`."""
        k, v = self._parts(x.flatten(1, 2), self.k_norm, None, first=1)
        return [*(memory or []), (k, v)]

    def reduce(self, memory: KeysAndValues, shares: Shares) -> KeysAndValues:
        """Gather the keys and values of all processes that hold views of the scene."""
        state = self.finish(memory)
        key, value = shares.gather(torch.stack([state["key"], state["value"]], dim=2), shares.tokens).unbind(2)
        return [(key, value)]

    def finish(self, memory: KeysAndValues) -> State:
        """Return the keys and values of all inputs, each (b, l, n, k)."""
        key, value = (torch.cat(parts, dim=1) for parts in zip(*memory, strict=True))
        return {"key": key, "value": value}

    def sums(self, memory: KeysAndValues) -> Sums:
        """Return nothing: the state is all of the memory."""
        return {}

    def resume(self, state: State, sums: Sums) -> KeysAndValues:
        """Return the memory with the state's keys and values."""
        return [(state["key"], state["value"])]

    def without(self, memory: KeysAndValues, share: KeysAndValues | None, kept: Tensor) -> KeysAndValues:
        """Leave out the keys and values of some views, and put those of the others in order."""
        state = self.finish(memory)
        return [(state["key"][:, kept], state["value"][:, kept])]

    def read(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Attend to all inputs, and for targets to the image's own tokens too: (b, v, t, d) → (b, v, t, d)."""
        if not target:
            (q,) = self._parts(x.flatten(1, 2), self.q_norm)
            return self._attend(q, state["key"], state["value"]).view(x.shape)
        if x.shape[1] == 0:
            return self._read_target(x.flatten(1, 2), state).view(x.shape)
        return torch.stack([self._read_target(view, state) for view in x.unbind(1)], dim=1)

    def _read_target(self, x: Tensor, state: State) -> Tensor:
        q, k, v = self._parts(x, self.q_norm, self.k_norm, None)
        return self._attend(q, torch.cat([state["key"], k], dim=1), torch.cat([state["value"], v], dim=1))

    def _parts(self, x: Tensor, *norms: nn.Module | None, first: int = 0) -> list[Tensor]:
        """Return adjacent parts of (query, key, value), (b, l, n, k) each, of tokens (b, l, d): one per norm, from `first` on."""
        d, count = x.shape[-1], len(norms)
        parts = self.to_qkv(x, slice(first * d, (first + count) * d)).unflatten(-1, (count, self.heads, -1)).unbind(-3)
        return [part if norm is None else norm(part) for norm, part in zip(norms, parts, strict=True)]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.c_proj(attention(query, key, value))


class RegisterAttention(nn.Module):
    """Learned registers read all input tokens; every token then reads the registers: a state of fixed size.

    Args:
        dim: token width.
        head_dim: width of a head.
        num_registers: r.

    Raises:
        InputError: `head_dim` does not divide `dim`, or `num_registers` is below 1.

    Precision: logits of the registers' read and their sums over chunks of views in float32.
    Source: Perceiver (arXiv 2103.03206) as the register baseline of LaCT (arXiv 2505.23884), one cross-attention per block.
    """

    length_dims: ClassVar[tuple[str, ...]] = ("vl",)
    mixes_views: bool = True

    def __init__(self, dim: int, head_dim: int = 64, num_registers: int = 1536) -> None:
        super().__init__()
        self.heads = count_heads(dim, head_dim)
        check_whole("num_registers", num_registers, least=1)
        self.registers = nn.Parameter(torch.randn(num_registers, dim) * 0.02)
        self.write_q, self.write_kv, self.write_proj = Linear(dim, dim), Linear(dim, 2 * dim), Linear(dim, dim)
        self.register_norm, self.latent_norm = LayerNorm(dim), LayerNorm(dim)
        self.read_q, self.read_kv, self.c_proj = Linear(dim, dim), Linear(dim, 2 * dim), Linear(dim, dim)
        self.write_q_norm, self.write_k_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)

    def address(self, places: Places) -> Address | None:
        """Return None: cameras enter by the ray channels alone."""
        return None

    def write(self, x: Tensor, memory: RegisterMemory | None = None, address: Address | None = None) -> RegisterMemory:
        """Let the registers read some input views."""
        if memory is not None and x.shape[1] == 0:  # a softmax over no token at all cannot be joined with another
            return memory
        query = self.write_q_norm(self._heads(self.write_q(self.register_norm(self.registers)))).float().transpose(-2, -3)
        key, value = (part.float().transpose(1, 2) for part in self._heads(self.write_kv(x.flatten(1, 2))).chunk(2, dim=2))
        logits = query @ self.write_k_norm(key).mT / math.sqrt(key.shape[-1])
        log_sum = logits.logsumexp(dim=-1, keepdim=True)
        attended = (logits - log_sum).exp() @ value
        if memory is None:
            return RegisterMemory(attended, log_sum)
        total = torch.logaddexp(memory.log_sum, log_sum)
        return RegisterMemory(memory.attended * (memory.log_sum - total).exp() + attended * (log_sum - total).exp(), total)

    def reduce(self, memory: RegisterMemory, shares: Shares) -> RegisterMemory:
        """Merge what the registers read in all processes that hold views of the scene."""
        parts = shares.gather(torch.cat(memory, dim=-1)[:, None], [1] * shares.group.size)
        attended, log_sum = parts[..., :-1], parts[..., -1:]
        total = log_sum.logsumexp(dim=1, keepdim=True)
        return RegisterMemory((attended * (log_sum - total).exp()).sum(dim=1), total[:, 0])

    def finish(self, memory: RegisterMemory) -> State:
        """Return keys and values (b, r, n, k) of the registers after they have read all inputs."""
        read = self.write_proj(rearrange(memory.attended, "b n r k -> b r (n k)"))
        key, value = self._heads(self.read_kv(self.latent_norm(self.registers + read.float()))).chunk(2, dim=2)
        return {"key": self.k_norm(key), "value": value}

    def sums(self, memory: RegisterMemory) -> Sums:
        """Return the memory itself."""
        return memory._asdict()

    def resume(self, state: State, sums: Sums) -> RegisterMemory:
        """Return the memory that `sums` is."""
        return RegisterMemory(**sums)

    def without(self, memory: RegisterMemory, share: RegisterMemory | None, kept: Tensor) -> RegisterMemory:
        """Take a part out of the softmax."""
        if share is None:
            return memory
        # Where the part was written in another state than it is read in, it may seem to be more than the whole.
        rest = (-torch.expm1(share.log_sum - memory.log_sum)).clamp_min(torch.finfo(torch.float32).eps)
        attended = (memory.attended - share.attended * (share.log_sum - memory.log_sum).exp()) / rest
        return RegisterMemory(attended, memory.log_sum + rest.log())

    def read(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Attend to the registers: (b, v, t, d) → (b, v, t, d); inputs and targets alike."""
        query = self.q_norm(self._heads(self.read_q(x.flatten(1, 2))))
        return self.c_proj(attention(query, state["key"], state["value"])).view(x.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """Split (…, l, s·d) into (…, l, s·n, k)."""
        return x.unflatten(-1, (-1, self.registers.shape[1] // self.heads))
