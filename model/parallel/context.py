"""The views of one scene shared among several processes, exactly: who holds what, and the two collectives with their gradients.

Every process of a context group holds some input views and some targets of the same scenes. Layers that treat views alone need
nothing from the others. A layer that mixes views lets them meet once, between `write` and `finish`: in `reduce`.

The loss is the sum of what all processes compute from their own targets, so what a process sent out takes part in the loss of
all: its gradient is the sum of theirs. Gradients of parameters then lack a sum over the group, as in data parallelism.

Every process has to make the same passes over the network, in the same order, forward and backward.

Letters: b scenes, v views, t tokens of a view.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Operators know a group by its name alone: a compiler cannot look into process groups. The references are weak, so that groups end
# when torch.distributed lets go of them: their threads must not outlive it.
_GROUPS: weakref.WeakValueDictionary[str, dist.ProcessGroup] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class ContextGroup:
    """This process among those that share the views of a scene.

    Attributes:
        rank: number of this process in the group.
        size: how many there are.
        name: what collectives find the group by.
    """

    rank: int
    size: int
    name: str

    def shares(self, b: int, v: int, image_size: tuple[int, int], tokens_per_view: int) -> "Shares":
        """Tell the others how many input views this process holds, and learn what they hold. Collective; goes over the CPU.

        Raises:
            ValueError: the processes differ in scenes or image size, or none of them has a view; the same one on all.
        """
        mine = torch.tensor([v, b, *image_size])
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(rows, mine, group=_GROUPS[self.name])
        views, *others = zip(*(row.tolist() for row in rows), strict=True)
        if any(len(set(values)) > 1 for values in others):
            found = ", ".join("{} of {} {}".format(*row) for row in zip(*others, strict=True))
            raise ValueError(f"context group: its processes hold scenes of h w: {found}; wanted the same on all")
        if sum(views) == 0:
            raise ValueError(f"context group: none of its {self.size} processes has an input view; wanted at least one in all")
        return Shares(self, views, tuple(count * tokens_per_view for count in views))

    def gather(self, value: Any) -> list[Any] | None:
        """Return the objects of all processes, by rank, on the first one; None on the others. Collective; goes over the CPU."""
        group = _GROUPS[self.name]
        values = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dist.get_global_rank(group, 0), group)
        return values


@dataclass(frozen=True)
class Shares:
    """What every process of a context group holds of the scenes of one pass.

    Attributes:
        group: the processes.
        views: number of input views of each.
        tokens: number of their tokens, per scene.
    """

    group: ContextGroup
    views: tuple[int, ...]
    tokens: tuple[int, ...]

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of all processes' `x`, of one shape; so is its gradient."""
        return torch.ops.lact_nvs.context_total(x, self.group.name)

    def gather(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Put the parts of all processes one behind the other, by rank.

        Args:
            x: (b, lengths[rank], …) of this process.
            lengths: of all processes: `views`, `tokens`, or ones.

        Returns:
            (b, sum of lengths, …). The gradient of a part is the sum of all processes' gradients of it.

        Cost: the backward pass adds up the gradients of the whole, twice the traffic of a reduce-scatter.
        """
        return torch.ops.lact_nvs.context_gather(x.transpose(0, 1), lengths, self.group.rank, self.group.name).transpose(0, 1)


def join_context(size: int) -> ContextGroup | None:
    """Divide the processes of the run into groups of `size` in a row, and return the one of this process; None if `size` is 1.

    Collective over all processes.
    """
    if size == 1:
        return None
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    group = groups[rank // size]
    assert isinstance(group, dist.ProcessGroup)  # this process is in it
    _GROUPS[group.group_name] = group
    return ContextGroup(rank % size, size, group.group_name)


def own_inputs(count: int, rank: int, size: int) -> range:
    """Return which of `count` input views are those of process `rank` of `size`; where they are uneven, the first has more."""
    return range(-(-count * rank // size), -(-count * (rank + 1) // size))


def own_targets(count: int, rank: int, size: int) -> range:
    """Return which of `count` targets are those of process `rank` of `size`.

    Where they are uneven, the last has more: beside `own_inputs`, so that inputs and targets together are as even as they can be.
    """
    return range(count * rank // size, count * (rank + 1) // size)


def _total(x: Tensor, group: str) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=_GROUPS[group])
    return total


def _total_shape(x: Tensor, group: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _remember_total(ctx, inputs, output) -> None:
    ctx.group = inputs[1]


def _total_backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
    return torch.ops.lact_nvs.context_total(gradient, ctx.group), None


def _gather(x: Tensor, lengths: Sequence[int], rank: int, group: str) -> Tensor:
    # Parts of unequal length are padded: gloo gathers none else.
    padded = x.new_zeros(max(lengths), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded, group=_GROUPS[group])
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def _gather_shape(x: Tensor, lengths: Sequence[int], rank: int, group: str) -> Tensor:
    return x.new_empty(sum(lengths), *x.shape[1:])


def _remember_gather(ctx, inputs, output) -> None:
    _, ctx.lengths, ctx.rank, ctx.group = inputs


def _gather_backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    first = sum(ctx.lengths[: ctx.rank])
    total = torch.ops.lact_nvs.context_total(gradient, ctx.group)
    return total[first : first + ctx.lengths[ctx.rank]].clone(), None, None, None


# Operators, so that compiled code may call them: a compiler keeps them as they are.
for _name, _arguments, _function, _shape, _backward, _remember in (
    ("context_total", "Tensor x, str group", _total, _total_shape, _total_backward, _remember_total),
    ("context_gather", "Tensor x, int[] lengths, int rank, str group", _gather, _gather_shape, _gather_backward, _remember_gather),
):
    torch.library.define(f"lact_nvs::{_name}", f"({_arguments}) -> Tensor")
    torch.library.impl(f"lact_nvs::{_name}", "CompositeExplicitAutograd", _function)
    torch.library.register_fake(f"lact_nvs::{_name}", _shape)
    torch.library.register_autograd(f"lact_nvs::{_name}", _backward, setup_context=_remember)
