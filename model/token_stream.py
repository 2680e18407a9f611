"""Tokens of the input views on their way through the layers, a chunk of views at a time.

Letters: b scenes, v views, t tokens of a view, d token width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from model.layers import Addresses


@dataclass
class TokenStream:
    """Tokens of the input views, in chunks, and the layers not yet applied to them.

    Layers wait until a later one writes their output: those after the last write are never run.

    Attributes:
        chunks: (b, v, t, d) each, of some of the views.
        addresses: one entry per chunk.
        waiting: layers, in order, as functions of a chunk and its addresses.
    """

    chunks: list[Tensor]
    addresses: list[Addresses | None]
    waiting: list[Callable[[Tensor, Addresses | None], Tensor]] = field(default_factory=list)

    def caught_up(self) -> Iterator[tuple[Tensor, Addresses | None]]:
        """Apply the waiting layers to each chunk and yield its tokens and addresses; then no layer is waiting."""
        for i, addresses in enumerate(self.addresses):
            x = self.chunks[i]
            for layer in self.waiting:
                x = layer(x, addresses)
            self.chunks[i] = x
            yield x, addresses
        self.waiting.clear()
