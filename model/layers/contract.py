"""The contract of a layer: what a block calls, with the types of what goes in and what comes out.

A layer is the function f in x + f(LayerNorm(x)) over tokens x. There are two kinds:

- A *local* layer treats every view alone.
- In a *mixing* layer views meet, in a state that input views write and that all views read. A target never writes.

Both are modules whose constructor takes the token width `dim` and what the layer's `params` in the YAML name; a type that can be
either kind takes `length_dim`, too. Results are in the layer's compute dtype; the sum x is float32.

Letters: b scenes, v views (any number of them, of inputs or of targets), t tokens of a view, d token width.
"""

from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from model.layers.address import Address, Places
from model.parallel.context import Shares

# What input views have written into a layer: named tensors, the same for any split of the views. Saved, sent and read.
State = dict[str, Tensor]
# What a mixing layer keeps between the chunks of input views that it writes: its own affair.
Memory = TypeVar("Memory")


class Local(Protocol):
    """A layer that treats every view alone.

    Attributes:
        length_dims: the values of `length_dim` in the YAML that make sense for this type of layer.
        mixes_views: False.
    """

    length_dims: ClassVar[tuple[str, ...]]
    mixes_views: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's output for normalised tokens: (b, v, t, d) → (b, v, t, d)."""
        ...


class Mixing(Protocol[Memory]):
    """A layer in which views meet: `write` for every chunk of input views, `finish` once, `read` for all views.

    Attributes:
        length_dims: as in `Local`.
        mixes_views: True.
    """

    length_dims: ClassVar[tuple[str, ...]]
    mixes_views: bool

    def address(self, places: Places) -> Address | None:
        """Return the address of tokens at these places, for a layer that rotates its tokens by where they look; else None."""
        ...

    def write(self, x: Tensor, memory: Memory | None = None, address: Address | None = None) -> Memory:
        """Take in a chunk of input views.

        Args:
            x: normalised tokens (b, v, t, d); v may be 0.
            memory: what the chunks before have left; None for the first. It stays as it is.
            address: what `address` returned for these tokens.

        Returns:
            the memory of all chunks so far. Neither the split into chunks nor the order of views matters, up to rounding.
        """
        ...

    def reduce(self, memory: Memory, shares: Shares) -> Memory:
        """Turn the memories of all processes that hold views of the scene into that of the whole. Collective."""
        ...

    def finish(self, memory: Memory) -> State:
        """Return the state, in the compute dtype, once all input views have been written."""
        ...

    def read(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Return the layer's output for normalised tokens: (b, v, t, d) → (b, v, t, d).

        Args:
            x: normalised tokens, of inputs or of targets.
            state: of the scene.
            target: whether the tokens are those of targets, which are not in the state and may need to see themselves.
            address: what `address` returned for these tokens.
        """
        ...


AnyMixing = Mixing[Any]
