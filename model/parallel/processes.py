"""The processes of a training run: who they are, and the few things that they agree on."""

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Functions in there have the default group as a default argument. Imported later, by a compiler say, they would keep the group that
# there is by then, and its threads, beyond `end_processes`.
import torch.distributed.nn.functional
from torch import Tensor

from config.errors import InputError
from model.runtime import pick_device


@dataclass(frozen=True)
class Processes:
    """This process among those of the run; all its methods are collective and do nothing for a single process.

    Attributes:
        rank: number of this process.
        world: how many there are.
        device: what this one computes on.
        context: how many share the views of each scene, ranks in a row.
    """

    rank: int
    world: int
    device: torch.device
    context: int = 1

    @property
    def data_rank(self) -> int:
        """Number of this process's share of the samples; processes of one context have the same."""
        return self.rank // self.context

    @property
    def data_ranks(self) -> int:
        """How many shares of the samples there are."""
        return self.world // self.context

    @property
    def first(self) -> bool:
        return self.rank == 0

    def highest(self, number: int) -> int:
        """Return the highest of all processes' numbers. Goes over the CPU: a GPU is not waited for."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def maximum(self, value: Tensor) -> Tensor:
        """Return the largest of all processes' values, on their device."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of all processes' values, on their device."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value, dist.ReduceOp.SUM)
        return value

    def gather(self, value: Any) -> list[Any] | None:
        """Return the objects of all processes, by rank, on the first one; None on the others."""
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.first else None
        dist.gather_object(value, values)
        return values

    @contextlib.contextmanager
    def first_in_turn(self) -> Iterator[None]:
        """Let the first process go through the block before the others: it downloads what they then find."""
        if self.world > 1 and not self.first:
            dist.barrier()
        yield
        if self.world > 1 and self.first:
            dist.barrier()


def start_processes(device: str, context: int = 1) -> Processes:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; with several processes on CUDA each takes the one of its local rank, or with
            `cuda:N` all take that one, and talk over gloo: NCCL refuses to share a GPU.
        context: how many share the views of each scene.

    Raises:
        InputError: there is no such device, or the processes cannot be divided into contexts.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world % context:
        raise InputError("--context_parallel", f"is {context} with {world} processes", "a divisor of their number (see torchrun)")
    if "RANK" not in os.environ:
        return Processes(0, 1, pick_device(device))
    own = torch.cuda.is_available() and device in ("auto", "cuda")
    picked = pick_device(f"cuda:{os.environ['LOCAL_RANK']}" if own else device)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    shared = not own and int(os.environ.get("LOCAL_WORLD_SIZE", world)) > 1
    dist.init_process_group("gloo" if picked.type != "cuda" or shared else "cpu:gloo,cuda:nccl")
    return Processes(dist.get_rank(), dist.get_world_size(), picked, context)


def end_processes() -> None:
    """Leave the other processes, and wait for the threads that talk to them.

    A thread of theirs that outlives the interpreter kills the process: it may hold the last reference to a tensor.
    """
    if dist.is_initialized():
        gc.collect()  # a network that averages gradients refers to itself and to the group
        dist.destroy_process_group()
