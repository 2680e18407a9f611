"""Blocks: layers in sequence with their norms and residual sums, for the training pass or step by step.

Letters: b scenes, v input views, u target views, t tokens of a view, d token width.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from config import LayerConfig, NetworkConfig
from config.errors import InputError
from model.layers.address import Address, Places
from model.layers.contract import AnyMixing, Local, State, Sums
from model.layers.primitives import LayerNorm
from model.layers.registry import build_layer
from model.parallel.context import Shares

# Addresses of the tokens of a call, one per layer of a block.
Addresses = tuple[Address | None, ...]
# Shapes of named tensors.
Shapes = dict[str, tuple[int, ...]]


class LocalLayer(nn.Module):
    """A local layer with its norm and residual sum, x + f(LayerNorm(x))."""

    def __init__(self, f: Local, dim: int) -> None:
        super().__init__()
        self.ln = LayerNorm(dim)
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after this layer, (b, v, t, d) float32."""
        return x + self.f(self.ln(x))

    def forward_(self, x: Tensor) -> Tensor:
        """Compute `forward` in place on `x`; without gradients only."""
        return x.add_(self.f(self.ln(x)).to(x.dtype))


class MixingLayer(nn.Module):
    """A mixing layer with its norm and residual sum, x + f.read(LayerNorm(x), state)."""

    def __init__(self, f: AnyMixing, dim: int) -> None:
        super().__init__()
        self.ln = LayerNorm(dim)
        self.f = f

    def address(self, places: Places) -> Address | None:
        """Return the layer's address of tokens at these places."""
        return self.f.address(places)

    def write(self, x: Tensor, memory: Any, address: Address | None = None) -> Any:
        """Return the layer's memory with a chunk of input views (b, v, t, d) added."""
        return self.f.write(self.ln(x), memory, address)

    def reduce(self, memory: Any, shares: Shares | None) -> Any:
        """Return the memory of all processes; `shares`: how the input views are split over them, None for a process alone."""
        return memory if shares is None else self.f.reduce(memory, shares)

    def finish(self, memory: Any) -> State:
        """Return the state of the scene, once its memory is that of all processes."""
        return self.f.finish(memory)

    def sums(self, memory: Any) -> Sums:
        """Return what `resume` needs of a memory besides the state."""
        return self.f.sums(memory)

    def resume(self, state: State, sums: Sums) -> Any:
        """Return the memory of which these are `finish` and `sums`."""
        return self.f.resume(state, sums)

    def without(self, memory: Any, share: Any, kept: Tensor) -> Any:
        """Return the memory without the views that wrote `share`; `kept`: positions of the tokens of all others."""
        return self.f.without(memory, share, kept)

    def read(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Return the tokens after this layer, (b, v, t, d) float32."""
        return x + self.f.read(self.ln(x), state, target, address)

    def read_(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Compute `read` in place on `x`; without gradients only."""
        return x.add_(self.f.read(self.ln(x), state, target, address).to(x.dtype))


Layer = LocalLayer | MixingLayer


def layer_of(config: LayerConfig, dim: int) -> Layer:
    """Build the layer that a network config describes, with its norm and residual sum."""
    f = build_layer(config, dim)
    return MixingLayer(cast(AnyMixing, f), dim) if f.mixes_views else LocalLayer(cast(Local, f), dim)


def check_layers(config: NetworkConfig, where: str) -> NetworkConfig:
    """Return a network config, once it is certain that its block can be built; `where` is its file, for errors.

    Raises:
        InputError: it names an unknown layer or parameter, or one that is out of range.
    """
    try:
        with torch.device("meta"):
            Block(config.block, config.dim)
    except InputError as error:
        raise error.within(where) from error
    return config


class StateShapes:
    """Shapes of what `finish` and `sums` return for every mixing layer of a block, found without computing it.

    Args:
        layers: of the block.
        dim: token width.
        b: scenes.
    """

    def __init__(self, layers: tuple[LayerConfig, ...], dim: int, b: int) -> None:
        # Every size is a linear function of the number of tokens: two numbers determine it. Tracing takes 30 ms, long for a view.
        self._one, self._two = (_traced_shapes(layers, dim, b, tokens) for tokens in (1, 2))

    def at(self, tokens: int) -> tuple[list[Shapes], list[Shapes]]:
        """Return the shapes of states, and of sums, for as many tokens of all input views of a scene."""

        def extrapolated(one: Shapes, two: Shapes) -> Shapes:
            return {name: tuple(x + (y - x) * (tokens - 1) for x, y in zip(one[name], two[name], strict=True)) for name in one}

        states, sums = (list(map(extrapolated, *parts)) for parts in zip(self._one, self._two, strict=True))
        return states, sums


@torch.no_grad()
def _traced_shapes(layers: tuple[LayerConfig, ...], dim: int, b: int, tokens: int) -> tuple[list[Shapes], list[Shapes]]:
    with torch.device("meta"):
        block, x = Block(layers, dim), torch.empty(b, 1, tokens, dim)
        written = [(layer, layer.write(x, None)) for layer in block.layers if isinstance(layer, MixingLayer)]
        states = [layer.finish(memory) for layer, memory in written]
        sums = [layer.sums(memory) for layer, memory in written]
    return list(map(shapes_of, states)), list(map(shapes_of, sums))


def shapes_of(tensors: dict[str, Tensor]) -> Shapes:
    """Return the shapes of named tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class Block(nn.Module):
    """The layers of one block. `forward` is the training pass: inputs write, inputs and targets read.

    Raises:
        InputError: an unknown layer or parameter, or one out of range.
    """

    def __init__(self, layers: tuple[LayerConfig, ...], dim: int) -> None:
        super().__init__()
        self.module_list = nn.ModuleList()
        for i, config in enumerate(layers):
            try:
                self.module_list.append(layer_of(config, dim))
            except InputError as error:
                raise error.within(f"block[{i}]") from error

    @property
    def layers(self) -> Iterator[Layer]:
        """The layers, in order."""
        return cast(Iterator[Layer], iter(self.module_list))

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
            inputs, targets: their tokens before this block; not modified.
            last: nothing reads the inputs after this block, so they stop at the last write.
            shares: given where inputs and targets are those of one process of several.
            input_addresses, target_addresses: one per layer; None where no layer has any.
        """
        none = (None,) * len(self.module_list)
        input_addresses, target_addresses = input_addresses or none, target_addresses or none
        writers = [i for i, layer in enumerate(self.layers) if isinstance(layer, MixingLayer)]
        needed_until = (writers[-1] if writers else -1) if last else len(self.module_list)
        for i, layer in enumerate(self.layers):
            if isinstance(layer, MixingLayer):
                state = layer.finish(layer.reduce(layer.write(inputs, None, input_addresses[i]), shares))
                targets = layer.read(targets, state, True, target_addresses[i])
                inputs = layer.read(inputs, state, False, input_addresses[i]) if i < needed_until else inputs
            else:
                targets = layer(targets)
                inputs = layer(inputs) if i < needed_until else inputs
        return inputs, targets
