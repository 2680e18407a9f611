"""Fast-weight layer of LaCT: input tokens train a small MLP, all tokens read from it.

Per scene and head, with f(x) = (SiLU(x w0) * (x w2)) w1:

- q, k, v = SiLU(to_qkv(x)); q and k are divided by (their L2 norm + 1e-5);
- lr_i = softplus(lr_fc(x) + c), c = softplus⁻¹(base_lr), one rate per token and weight;
- write: one step of w0, w1, w2 on the inner loss −Σ lr · v·f(k), see `model.ops.fast_weight`;
- read: c_proj(RMSNorm(f(q))).

With an address, rotations apply to q and k after their division, to hidden numbers inside f, or to v (written) and f(q) (read).

Letters: b scenes, v views, t tokens of a view, l = v·t, n heads, k head width, m hidden width, d width.
"""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from config import AddressConfig
from config.errors import InputError
from config.messages import shown
from model.layers.address import Address, Places, address_of
from model.layers.contract import State, Sums
from model.layers.primitives import Linear, RMSNorm, check_switch, check_whole, count_heads, hidden_width, unit
from model.ops import fast_weight as op
from model.ops.rotation import rotate
from model.parallel.context import Shares

# Keeps the inverse of softplus within float64.
LARGEST_RATE = 100
# Newton-Schulz converges in a dozen steps at most.
MOST_STEPS = 100


class FastWeightMemory(NamedTuple):
    """What the input views have written so far.

    Attributes:
        initial: the weights at which gradients are taken, (b·n, …), in the compute dtype: cast once for all chunks.
        gradients: sums over tokens, float32; of w0, w1, w2, or of w1 alone.
    """

    initial: op.Weights
    gradients: tuple[Tensor, ...]


class FastWeight(nn.Module):
    """Large-chunk test-time training of a SwiGLU MLP per head, over all views of a scene.

    Args:
        dim: token width.
        head_dim: k, width of a head.
        inter_multi: m / k.
        base_lr: learning rate of a token for which `lr_fc` gives 0.
        muon_update_steps: Newton-Schulz steps.
        address: rotate tokens by where they look, see `model.layers.address`; None: the published layer.
        w1_only: update w1 alone per scene.

    Attributes:
        newton_schulz_dtype: dtype of the Newton-Schulz steps.
        implementation: of the operations, see `model.ops.fast_weight`.

    Raises:
        InputError: `head_dim` does not divide `dim`, another number is out of range, or there are too few hidden numbers to rotate.

    Precision: products in the compute dtype; rotations, learning rates, norms, sums over chunks and weights in float32.
    Source: LaCT (arXiv 2505.23884), section 3; for w1 alone arXiv 2602.21204.
    """

    length_dims: ClassVar[tuple[str, ...]] = ("vl",)
    mixes_views: bool = True
    newton_schulz_dtype: torch.dtype = torch.bfloat16
    implementation: str = "auto"

    def __init__(
        self,
        dim: int,
        head_dim: int,
        inter_multi: float,
        base_lr: float,
        muon_update_steps: int = 5,
        address: AddressConfig | None = None,
        w1_only: bool = False,
    ) -> None:
        super().__init__()
        self.heads = count_heads(dim, head_dim)
        check_whole("muon_update_steps", muon_update_steps, least=0, most=MOST_STEPS)
        check_switch("w1_only", w1_only)
        if type(base_lr) not in (int, float) or not 0 < base_lr <= LARGEST_RATE:
            raise InputError("base_lr", f"is {shown(base_lr)}", f"a number above 0, {LARGEST_RATE} at most")
        self.lr_offset = math.log(math.expm1(base_lr))  # c = softplus⁻¹(base_lr)
        self.muon_update_steps = muon_update_steps
        self.w1_only = w1_only
        self.address_config = address
        hidden = hidden_width(head_dim, inter_multi)
        if address is not None and hidden < head_dim and "hidden" in address.sites:
            raise InputError("inter_multi", f"is {inter_multi}", "1 or more, to rotate hidden numbers as keys are")
        self.w0 = nn.Parameter(torch.randn(self.heads, head_dim, hidden) * math.sqrt(2 / head_dim))
        self.w1 = nn.Parameter(torch.randn(self.heads, hidden, head_dim) * math.sqrt(2 / hidden))
        self.w2 = nn.Parameter(torch.randn(self.heads, head_dim, hidden) * math.sqrt(2 / head_dim))
        self.to_qkv = Linear(dim, 3 * dim)
        self.c_proj = Linear(dim, dim)
        self.lr_fc = nn.Linear(dim, (1 if w1_only else 3) * self.heads)
        self.o_norm = RMSNorm(head_dim, eps=1e-5)

    def address(self, places: Places) -> Address | None:
        """Return the address of tokens at these places; the same in every block."""
        if self.address_config is None:
            return None
        return address_of(self.address_config, places, self.w0.shape[1])

    def write(self, x: Tensor, memory: FastWeightMemory | None = None, address: Address | None = None) -> FastWeightMemory:
        """Add the gradients of some input views, normalised tokens (b, v, t, d), to `memory`."""
        shape, x = x.shape, x.flatten(1, 2)
        d = x.shape[-1]
        narrow = x.to(self.to_qkv.compute_dtype)
        key = _unit(self._heads(F.silu(self.to_qkv(narrow, slice(d, 2 * d)))), address)
        value = self._heads(F.silu(self.to_qkv(narrow, slice(2 * d, 3 * d))))
        if address is not None and address.rotation is not None:
            value = _rotate_blocks(value, address.rotation, shape)
        weights = memory.initial if memory else self._weights_to_write(shape[0], key.dtype)
        part = op.gradients(weights, key, value, self._learning_rate(x), self.implementation, _turn_hidden(address))
        if memory is None:
            return FastWeightMemory(weights, tuple(gradient.float() for gradient in part))
        sums = tuple(total + gradient for total, gradient in zip(memory.gradients, part, strict=True))
        return FastWeightMemory(weights, sums)

    def reduce(self, memory: FastWeightMemory, shares: Shares) -> FastWeightMemory:
        """Add up the gradients of all processes that hold views of the scene."""
        weights, gradients = memory
        total = shares.total(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = total.split([gradient.numel() for gradient in gradients])
        return FastWeightMemory(weights, tuple(part.view_as(old) for part, old in zip(parts, gradients, strict=True)))

    def finish(self, memory: FastWeightMemory) -> State:
        """Return the scene's fast weights, (b·n, …), in the compute dtype."""
        gradients = memory.gradients
        initial = self._initial_weights(gradients[0].shape[0] // self.heads, torch.float32)
        weights = op.update(initial, gradients, self.muon_update_steps, self.newton_schulz_dtype, self.implementation)
        return {name: w.to(self.to_qkv.compute_dtype) for name, w in zip(("w0", "w1", "w2"), weights, strict=True)}

    def sums(self, memory: FastWeightMemory) -> Sums:
        """Return the sums of gradients."""
        return dict(zip(self._names_of_sums(), memory.gradients, strict=True))

    def resume(self, state: State, sums: Sums) -> FastWeightMemory:
        """Return the memory with these sums of gradients, that of w1 column-major as `write` makes it."""
        gradients = tuple(sums[name].mT.contiguous().mT if name == "dw1" else sums[name] for name in self._names_of_sums())
        return FastWeightMemory(self._weights_to_write(len(gradients[0]) // self.heads, self.to_qkv.compute_dtype), gradients)

    def without(self, memory: FastWeightMemory, share: FastWeightMemory | None, kept: Tensor) -> FastWeightMemory:
        """Subtract the gradients of some views."""
        if share is None:
            return memory
        pairs = zip(memory.gradients, share.gradients, strict=True)
        return FastWeightMemory(memory.initial, tuple(total - part for total, part in pairs))

    def read(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Read the fast weights for tokens (b, v, t, d), of inputs and targets alike: c_proj(RMSNorm(f(q)))."""
        query = _unit(self._heads(F.silu(self.to_qkv(x.flatten(1, 2), slice(0, x.shape[-1])))), address)
        out = op.apply((state["w0"], state["w1"], state["w2"]), query, self.implementation, _turn_hidden(address))
        if address is not None and address.rotation is not None:
            out = _rotate_blocks(out, address.rotation.mT, x.shape)
        return self.c_proj(rearrange(self.o_norm(out), "(b n) l k -> b l (n k)", n=self.heads)).view(x.shape)

    def _names_of_sums(self) -> tuple[str, ...]:
        return ("dw1",) if self.w1_only else ("dw0", "dw1", "dw2")

    def _learning_rate(self, x: Tensor) -> Tensor:
        """Return lr_i = softplus(lr_fc(x) + c), (3, b·n, l, 1) float32; of w1 alone (1, b·n, l, 1)."""
        raw = F.linear(x.float(), self.lr_fc.weight.float(), self.lr_fc.bias.float())
        return rearrange(F.softplus(raw + self.lr_offset), "b l (s n) -> s (b n) l 1", n=self.heads)

    def _initial_weights(self, b: int, dtype: torch.dtype) -> op.Weights:
        w0, w1, w2 = (repeat(w.to(dtype), "n i j -> (b n) i j", b=b) for w in (self.w0, self.w1, self.w2))
        return w0, w1, w2

    def _weights_to_write(self, b: int, dtype: torch.dtype) -> op.Weights:
        """Return the initial weights, w1 column-major: the gradients need only its transpose."""
        w0, w1, w2 = self._initial_weights(b, dtype)
        return w0, w1.mT.contiguous().mT, w2

    def _heads(self, x: Tensor) -> Tensor:
        """Split (b, l, d) into (b·n, l, k)."""
        return rearrange(x, "b l (n k) -> (b n) l k", n=self.heads)


def _unit(x: Tensor, address: Address | None) -> Tensor:
    """Return queries or keys x / (|x| + 1e-5), (b·n, l, k), rotated by their address, rounded once."""
    if address is None or address.turn_qk is None:
        return unit(x)
    return rotate(unit(x.float()), address.turn_qk, in_place=True).to(x.dtype)


def _turn_hidden(address: Address | None) -> Tensor | None:
    return None if address is None else address.turn_hidden


def _rotate_blocks(x: Tensor, rotation: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rotate blocks of three numbers of x (b·n, l, k) by rotation (b, v, 3, 3) of their view, in float32; the rest is unchanged.

    `shape` is that of the tokens, (b, v, t, d).
    """
    b, v, t, _ = shape
    n, turning = x.shape[0] // b, x.shape[-1] // 3 * 3
    blocks = x[..., :turning].float().reshape(b, n, v, t * turning // 3, 3)
    turned = (blocks @ rotation.mT[:, None]).reshape(b * n, v * t, turning).to(x.dtype)
    return torch.cat([turned, x[..., turning:]], dim=-1)
