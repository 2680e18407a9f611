"""Passes of posed images that write into the layers of a network.

Letters: b scenes, v views, t tokens of a view, l = v·t, h w pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.backbone import Backbone, of_layer, size_of
from model.layers import MixingLayer, State, Sums
from model.layers.address import Address
from model.parallel.context import Shares
from model.token_stream import TokenStream


@dataclass(frozen=True)
class Batch:
    """Checked posed images of some scenes: image (b, v, 3, h, w), fxfycxcy (b, v, 4), c2w (b, v, 4, 4)."""

    image: Tensor
    fxfycxcy: Tensor
    c2w: Tensor

    @property
    def image_size(self) -> tuple[int, int]:
        return size_of(self.image)

    def __getitem__(self, views: slice) -> "Batch":
        return Batch(self.image[:, views], self.fxfycxcy[:, views], self.c2w[:, views])


@dataclass(frozen=True)
class Written:
    """What the mixing layers of a network hold, in its order.

    Attributes:
        states: of the layers.
        sums: of the layers; none where they were not kept.
        tokens: l, of the views that wrote them.
    """

    states: list[State]
    sums: list[Sums]
    tokens: int

    def memory(self, layer: MixingLayer, n: int) -> Any:
        """Return the memory of the n-th mixing layer, `layer`."""
        return layer.resume(self.states[n], self.sums[n])


class SceneWriter(Backbone):
    """The backbone with its passes over input views."""

    def _write_views(
        self,
        views: Batch,
        bounds: list[slice],
        focus: Tensor | None,
        shares: Shares | None,
        held: Written | None,
        keep_sums: bool,
        progress: Callable[[int, int], None] | None,
    ) -> Written:
        """Pass views through the layers, all of them through one layer before the next: they write, and read what is there then.

        Args:
            views: of this process.
            bounds: the chunks that they pass in.
            focus: (b, 3), see `model.layers.address`; None where no layer uses it.
            shares: how all processes' views are split over them.
            held: what earlier views wrote, with its sums; they read nothing again.
            keep_sums: return the sums.
            progress: called with (layers done, layers in all) after each layer that views write into.
        """
        parts = [views[s] for s in bounds]
        tokens = [self.tokenise(part.fxfycxcy, part.c2w, part.image_size, part.image) for part in parts]
        stream = TokenStream(tokens, [self._addresses(part.fxfycxcy, part.c2w, part.image_size, focus) for part in parts])
        layers = [(i, layer) for block in self.block_list for i, layer in enumerate(block.layers)]
        writers, first = len(self.mixing_layers), shares is None or shares.group.rank == 0
        whole = shares.after(held.tokens) if shares and held else shares
        states: list[State] = []
        sums: list[Sums] = []
        for i, layer in layers:
            state = None
            if isinstance(layer, MixingLayer):
                memory = held.memory(layer, len(states)) if held and first else None
                for x, addresses in stream.caught_up():
                    memory = self._added(layer, x, memory, of_layer(addresses, i))
                memory = layer.reduce(memory, whole)
                state = layer.finish(memory)
                states.append(state)
                if keep_sums:
                    sums.append(layer.sums(memory))
                if progress:
                    progress(len(states), writers)
            stream.waiting.append(partial(self._pass, i, layer, state))
        return Written(states, sums, sum(x.shape[1] * x.shape[2] for x in tokens))

    def _sweep(
        self, views: Batch, bounds: list[slice], focus: Tensor | None, states: list[State], memories: list[Any], first: int = 0
    ) -> list[Any]:
        """Pass views through the whole network, chunk by chunk, reading states that do not change, and collect what they write.

        Args:
            views, bounds, focus: as of `_write_views`.
            states: of the mixing layers, to read.
            memories: of the mixing layers from the `first` on, to write into; not modified.
            first: number of the first mixing layer whose memory is wanted.

        Returns:
            the memories.
        """
        memories = list(memories)
        for bound in bounds:
            part = views[bound]
            x = self.tokenise(part.fxfycxcy, part.c2w, part.image_size, part.image)
            addresses = self._addresses(part.fxfycxcy, part.c2w, part.image_size, focus)
            n = 0
            for i, layer in ((i, layer) for block in self.block_list for i, layer in enumerate(block.layers)):
                state = None
                if isinstance(layer, MixingLayer):
                    if n >= first:
                        memories[n - first] = self._added(layer, x, memories[n - first], of_layer(addresses, i))
                    state = states[n]
                    n += 1
                    if n == len(states):
                        break
                x = self._pass(i, layer, state, x, addresses)
        return memories

    def _added(self, layer: MixingLayer, x: Tensor, memory: Any, address: Address | None) -> Any:
        """Return a layer's memory with a chunk of views added; lists are joined here, or each length would be compiled anew."""
        if isinstance(memory, list):
            return memory + self._write(layer, x, None, address)
        return self._write(layer, x, memory, address)

    def _finish(self, memories: list[Any], shares: Shares | None = None) -> tuple[list[State], list[Sums]]:
        """Return states and sums of the last mixing layers once the memories of all processes are one. Collective."""
        layers = self.mixing_layers[-len(memories) :]
        whole = [(layer, layer.reduce(memory, shares)) for layer, memory in zip(layers, memories, strict=True)]
        return [layer.finish(memory) for layer, memory in whole], [layer.sums(memory) for layer, memory in whole]


def find_cameras(c2w: Tensor, fxfycxcy: Tensor, others: tuple[Tensor, Tensor]) -> list[int | None]:
    """Return for each view (b, v) the last of other views with the same camera in all scenes, each taken once; None for none.

    Args:
        c2w, fxfycxcy: of the views.
        others: c2w (b, n, 4, 4) and fxfycxcy (b, n, 4).
    """
    cameras = torch.cat([c2w.flatten(2), fxfycxcy], dim=-1).double().cpu()
    known = torch.cat([others[0].flatten(2), others[1]], dim=-1).double().cpu()
    scale = known.abs().amax(dim=(0, 1)).clamp_min(1)
    same = ((cameras[:, :, None] - known[:, None]).abs() <= 1e-5 * scale).all(dim=-1).all(dim=0)
    found: list[int | None] = []
    for row in same.tolist():
        free = [i for i, equal in enumerate(row) if equal and i not in found]
        found.append(free[-1] if free else None)
    return found
