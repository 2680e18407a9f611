"""Layer contract: what a block calls, with argument and result types.

A layer is the function f in x + f(LayerNorm(x)) over tokens x. There are two kinds:

- A *local* layer treats every view alone.
- In a *mixing* layer views meet, in a state that input views write and that all views read. A target never writes.

Both are modules whose constructor takes the token width `dim` and the layer's `params` from the YAML; a type that can be either
kind takes `length_dim`, too. Results are in the layer's compute dtype; the sum x is float32.

Letters: b scenes, v views (any number of them, of inputs or of targets), t tokens of a view, d token width.
"""

from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from model.layers.address import Address, Places
from model.parallel.context import Shares

# What the input views have written into a layer: named tensors that do not depend on how the views were split.
State = dict[str, Tensor]
# What has to be kept of a memory, besides the state, so that more views can be written: named tensors, float32.
Sums = dict[str, Tensor]
# What a mixing layer accumulates over chunks of input views. Opaque to its callers, but for a list: it is that of what each chunk
# writes alone.
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
        """Add a chunk of input views to the memory.

        Args:
            x: normalised tokens (b, v, t, d); v may be 0.
            memory: of the earlier chunks; None for the first. Not modified.
            address: what `address` returned for these tokens.

        Returns:
            the memory of all chunks so far; up to rounding, independent of the chunks and of the order of views.
        """
        ...

    def reduce(self, memory: Memory, shares: Shares) -> Memory:
        """Combine the memories of all processes that hold views of the scene. Collective."""
        ...

    def finish(self, memory: Memory) -> State:
        """Return the state, in the compute dtype, once all input views have been written."""
        ...

    def sums(self, memory: Memory) -> Sums:
        """Return what `resume` needs of a memory besides the state; nothing where the state is all of it."""
        ...

    def resume(self, state: State, sums: Sums) -> Memory:
        """Return the memory of which these are `finish` and `sums`."""
        ...

    def without(self, memory: Memory, share: Memory | None, kept: Tensor) -> Memory:
        """Return a memory without some of its views.

        Args:
            memory: of l tokens.
            share: what those views write, alone; None if there are none of them.
            kept: positions, among the l, of the tokens of all other views, in the order wanted, on the memory's device.
        """
        ...

    def read(self, x: Tensor, state: State, target: bool, address: Address | None = None) -> Tensor:
        """Return the layer's output for normalised tokens: (b, v, t, d) → (b, v, t, d).

        Args:
            x: normalised tokens, of inputs or of targets.
            state: the scene's.
            target: whether the tokens are those of targets, which are not in the state and may need to see themselves.
            address: what `address` returned for these tokens.
        """
        ...


AnyMixing = Mixing[Any]
