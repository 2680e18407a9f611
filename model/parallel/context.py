"""Context parallelism: the views of one scene split over processes, exactly, with the collectives and their gradients.

Every process of a context group holds some input views and some targets of the same scenes. Layers that treat views alone need
no communication. A layer that mixes views combines the processes' parts once, between `write` and `finish`: in `reduce`.

The loss is the sum over processes of the loss on their own targets, so a tensor that a process sends out enters the loss of all
of them: its gradient is the sum of theirs. Gradients of parameters still need a sum over the group, as in data parallelism.

Every process has to make the same passes over the network, in the same order, forward and backward.

Letters: b scenes, v views, t tokens of a view.
"""

import contextlib
import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.keepalive import keep_connections_alive

Item = TypeVar("Item")

# Operators know a group by its name alone: a compiler cannot look into process groups. The references are weak, so that groups end
# when torch.distributed releases them: their threads must not outlive it.
_GROUPS: weakref.WeakValueDictionary[str, dist.ProcessGroup] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class ContextGroup:
    """This process among those that share the views of a scene. In a group of size 1, it is alone and does not communicate.

    Attributes:
        rank: number of this process in the group.
        size: number of processes.
        name: key of the process group for collectives; empty where `size` is 1.
    """

    rank: int
    size: int
    name: str

    def shares(self, b: int, v: int, image_size: tuple[int, int], tokens_per_view: int) -> "Shares":
        """Exchange the numbers of input views that the processes hold. Collective, over the CPU.

        Raises:
            ValueError: the processes differ in scenes or image size, or none of them has a view; the same error on all.
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

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raise an exception that one process raises inside the block on all of them. Collective at the end of the block.

        The block itself must not be collective: the others would wait there for the process that left it.
        """
        if self.size == 1:
            yield
            return
        problem = None
        try:
            yield
        except Exception as error:  # of any type: the others must not wait for this process
            problem = error
        problems = [None] * self.size
        dist.all_gather_object(problems, problem, group=_GROUPS[self.name])
        for found in (problem, *problems):
            if found is not None:
                raise found

    def in_rank_order(self, items: Iterable[Item]) -> Iterable[Item]:
        """Return the items of all processes, by rank, on the first one; none on the others. Collective, over the CPU.

        In a group of one, `items` itself is returned, so that a stream is never held as a whole. Otherwise each process first
        makes a list of its own, and an exception in one of them is raised on all.
        """
        if self.size == 1:
            return items
        with self.together():
            own = list(items)
        return [item for part in self.gather(own) or [] for item in part]

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of all processes' `x`, which have one shape. Collective; in a group of one, `x` itself."""
        return x if self.size == 1 else torch.ops.lact_nvs.context_total(x, self.name)

    def gather(self, value: Any) -> list[Any] | None:
        """Return the objects of all processes, by rank, on the first one; None on the others. Collective, over the CPU."""
        if self.size == 1:
            return [value]
        group = _GROUPS[self.name]
        values = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dist.get_global_rank(group, 0), group)
        return values


@dataclass(frozen=True)
class Shares:
    """The split of one pass over the processes of a context group.

    Attributes:
        group: the processes.
        views: input views of each process.
        tokens: tokens of these views, per scene.
    """

    group: ContextGroup
    views: tuple[int, ...]
    tokens: tuple[int, ...]

    def after(self, tokens: int) -> "Shares":
        """Return the split where the first process also holds as many tokens of earlier views."""
        return dataclasses.replace(self, tokens=(tokens + self.tokens[0], *self.tokens[1:]))

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of all processes' `x`, which have one shape; the gradient is summed likewise."""
        return torch.ops.lact_nvs.context_total(x, self.group.name)

    def gather(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Concatenate the parts of all processes, by rank.

        Args:
            x: (b, lengths[rank], …) of this process.
            lengths: of all processes: `views`, `tokens`, or ones.

        Returns:
            (b, sum of lengths, …). The gradient of a part is the sum of all processes' gradients of it.

        Cost: the backward pass sums the gradients of the whole, twice the traffic of a reduce-scatter.
        """
        return torch.ops.lact_nvs.context_gather(x.transpose(0, 1), lengths, self.group.rank, self.group.name).transpose(0, 1)


def join_context(size: int) -> ContextGroup:
    """Divide the processes of the run into groups of `size` consecutive ranks, and return the group of this process.

    Collective over all processes, unless `size` is 1: then this process is alone in its group, and torch.distributed is not used.
    """
    if size == 1:
        return ContextGroup(0, 1, "")
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    keep_connections_alive()
    group = groups[rank // size]
    assert isinstance(group, dist.ProcessGroup)  # this process is in it
    _GROUPS[group.group_name] = group
    return ContextGroup(rank % size, size, group.group_name)


def own_inputs(count: int, rank: int, size: int) -> range:
    """Return which of `count` input views process `rank` of `size` holds; in an uneven split, the first process has more."""
    return range(-(-count * rank // size), -(-count * (rank + 1) // size))


def own_targets(count: int, rank: int, size: int) -> range:
    """Return which of `count` targets process `rank` of `size` holds.

    In an uneven split the last process has more, in that of `own_inputs` the first: together they are as even as possible.
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
    # Parts are padded to one length: gloo gathers equal shapes only.
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


# Custom operators, so that compiled code can call them: a compiler does not look inside.
for _name, _arguments, _function, _shape, _backward, _remember in (
    ("context_total", "Tensor x, str group", _total, _total_shape, _total_backward, _remember_total),
    ("context_gather", "Tensor x, int[] lengths, int rank, str group", _gather, _gather_shape, _gather_backward, _remember_gather),
):
    torch.library.define(f"lact_nvs::{_name}", f"({_arguments}) -> Tensor")
    torch.library.impl(f"lact_nvs::{_name}", "CompositeExplicitAutograd", _function)
    torch.library.register_fake(f"lact_nvs::{_name}", _shape)
    torch.library.register_autograd(f"lact_nvs::{_name}", _backward, setup_context=_remember)
