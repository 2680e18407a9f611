"""Blocks from YAML: the registry of layers and the contract that they keep.

A layer is a module `f` in `x + f(LayerNorm(x))` over tokens x (b scenes, v views, t tokens of a view, d). There are two sorts:

- `f.mixes_views` is False: `f(x)` treats every view alone.
- `f.mixes_views` is True: views meet in a state that input views write and all views read:
  `memory = f.write(x, memory)` for any split of the inputs into chunks of views, then `state = f.finish(memory)`, a dict of
  tensors, then `f.read(x, state, target)` for inputs (target False) and targets (True). A target never writes. Where several
  processes share the views, `memory = f.reduce(memory, shares)` before `finish` turns the parts of all into the whole.
- A layer that rotates its tokens by where they look has `f.address(places)`; what that returns for the tokens of a call is then
  the last argument of `write` and `read`.

Results are in the layer's compute dtype; the sum x is float32.
"""

import inspect

from torch import Tensor, nn

from config import LayerConfig, did_you_mean
from model.layers.address import Address, Places
from model.layers.attention import RegisterAttention, SelfAttention
from model.layers.fast_weight import FastWeight
from model.layers.mlp import MLP
from model.layers.primitives import LayerNorm, residual
from model.parallel.context import Shares

BLOCKS = {
    "self_attention": SelfAttention,
    "fast_weight": FastWeight,
    "mlp": MLP,
    "register_attention": RegisterAttention,
}

# What each layer of a block is given for the tokens of a call.
Addresses = tuple[Address | None, ...]


def build_layer(config: LayerConfig, dim: int) -> nn.Module:
    """Build a layer from its recipe.

    Raises:
        ValueError: unknown type, or parameters that it does not take.
    """
    if config.type not in BLOCKS:
        raise ValueError(f"layer type {config.type!r} is unknown; {did_you_mean(config.type, list(BLOCKS))}")
    cls = BLOCKS[config.type]
    arguments = {"dim": dim, "length_dim": config.length_dim, **config.params}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        known = [name for name in inspect.signature(cls).parameters if name not in ("dim", "length_dim")]
        raise ValueError(f"{config.type}: params {config.params}: {error}; wanted {', '.join(known)}") from error
    return cls(**arguments)


class Layer(nn.Module):
    """A layer with its pre-norm and residual sum, x + f(LayerNorm(x)); without gradients, `x` is overwritten."""

    def __init__(self, config: LayerConfig, dim: int) -> None:
        super().__init__()
        self.ln = LayerNorm(dim)
        self.f = build_layer(config, dim)

    @property
    def mixes_views(self) -> bool:
        return self.f.mixes_views

    def forward(self, x: Tensor) -> Tensor:
        return residual(x, self.f(self.ln(x)))

    def address(self, places: Places) -> Address | None:
        return self.f.address(places) if isinstance(self.f, FastWeight) else None

    def write(self, x: Tensor, memory, address: Address | None = None):
        return self.f.write(self.ln(x), memory, *_given(address))

    def finish(self, memory, shares: Shares | None = None) -> dict[str, Tensor]:
        return self.f.finish(memory if shares is None else self.f.reduce(memory, shares))

    def read(self, x: Tensor, state: dict[str, Tensor], target: bool, address: Address | None = None) -> Tensor:
        return residual(x, self.f.read(self.ln(x), state, target, *_given(address)))


def _given(address: Address | None) -> tuple[Address, ...]:
    """Return the argument for layers that take it, and none for the others."""
    return () if address is None else (address,)


class Block(nn.Module):
    """The layers of one block. `forward` is the training pass: inputs write, inputs and targets read."""

    def __init__(self, layers: tuple[LayerConfig, ...], dim: int) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(Layer(config, dim) for config in layers)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        last: bool = False,
        shares: Shares | None = None,
        input_addresses: Addresses | None = None,
        target_addresses: Addresses | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens of inputs (b, v, t, d) and targets (b, u, t, d) after this block.

        Args:
            last: nothing reads the inputs after this block: they are left where the last write needed them.
            shares: where inputs and targets are those of one process among several.
            input_addresses, target_addresses: for every layer; None where no layer has any.
        """
        none = (None,) * len(self.module_list)
        input_addresses, target_addresses = input_addresses or none, target_addresses or none
        writers = [i for i, layer in enumerate(self.module_list) if layer.mixes_views]
        needed_until = (writers[-1] if writers else -1) if last else len(self.module_list)
        for i, layer in enumerate(self.module_list):
            if layer.mixes_views:
                state = layer.finish(layer.write(inputs, None, input_addresses[i]), shares)
                targets = layer.read(targets, state, True, target_addresses[i])
                inputs = layer.read(inputs, state, False, input_addresses[i]) if i < needed_until else inputs
            else:
                targets = layer(targets)
                inputs = layer(inputs) if i < needed_until else inputs
        return inputs, targets
