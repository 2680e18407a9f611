"""Processes of a run: rank, device, and collectives over plain values and tensors."""

import contextlib
import datetime
import gc
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Its functions have the default group as a default argument. Imported later, for example by a compiler, they would keep that group
# and its threads alive beyond `end_processes`.
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from config.errors import InputError
from config.lock import lock_folder
from config.messages import one_line, speaks_for_machine
from config.signals import ending_at_once
from model.parallel.keepalive import keep_connections_alive
from model.parallel.launcher import world_size
from model.runtime import pick_device

# The first process may download weights, and a context may have a longer scene than the others. A process that has ended is noticed
# without this, and so is a machine (`keepalive`).
LONGEST_WAIT = datetime.timedelta(hours=6)
# Until all processes have started: on the machines of a cluster, minutes apart.
LONGEST_JOINING = datetime.timedelta(minutes=15)
# Gloo raises a bare RuntimeError about a connection, and for its other errors, which are ours.
_LOST = re.compile(r"by peer|gloo/transport/.*(Read error|Write error|writev|timed out)")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. All methods are collective, and communicate only where there are several processes.

    Attributes:
        rank: number of this process.
        world: number of processes.
        device: of this process.
        context_size: number of processes, consecutive ranks, that share the views of each scene.
    """

    rank: int
    world: int
    device: torch.device
    context_size: int = 1

    @property
    def data_rank(self) -> int:
        """Number of this process's share of the samples; processes of one context have the same."""
        return self.rank // self.context_size

    @property
    def data_ranks(self) -> int:
        """Number of shares of the samples."""
        return self.world // self.context_size

    @property
    def data_share(self) -> tuple[int, int]:
        """(data rank, data ranks) of this process."""
        return self.data_rank, self.data_ranks

    @property
    def first(self) -> bool:
        return self.rank == 0

    def highest(self, number: int) -> int:
        """Return the highest of all processes' numbers. Communicates over the CPU: no host sync."""
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
    def first_then_others(self) -> Iterator[None]:
        """Let the first process go through the block before the others, which then find what it has downloaded.

        If the block fails on one process, all of them end: that one with its error, the others with `SystemExit`.
        """
        if self.world == 1:
            yield
            return
        if not self.first and self.highest(0):
            raise SystemExit(2)
        try:
            yield
        except BaseException:  # whatever ends this process, an interruption too: the others wait for its turn to end
            self._end_turn(failed=True)
            raise
        if self._end_turn(failed=False):
            raise SystemExit(2)

    @contextlib.contextmanager
    def locked(self, folder: Path, flag: str) -> Iterator[None]:
        """Hold the lock of a folder, on the first process, in the block; say so if its file system has no locks.

        Args:
            folder, flag: see `lock_folder`.

        Raises:
            InputError: on the first process, if another program holds the lock; the others exit.
            OSError: likewise, if the folder cannot be created.
        """
        with contextlib.ExitStack() as stack:
            with self.first_then_others():
                problem = stack.enter_context(lock_folder(folder, flag)) if self.first else None
            if problem:
                print(problem, file=sys.stderr, flush=True)
            yield

    def _end_turn(self, failed: bool) -> bool:
        """Return whether the block failed on any process; the first opens the turn of the others, unless it has failed."""
        if self.first and self.highest(int(failed)):
            return True
        return bool(self.highest(int(failed)))


def start_processes(device: str, context: int = 1) -> Processes:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Several processes on CUDA each take the device of their local rank; with
            `cuda:N` all take that one and communicate over gloo, since NCCL refuses to share a GPU.
        context: number of processes that share the views of each scene.

    Raises:
        InputError: no such device, a number of processes that contexts do not divide (on one process of each machine; the others
            exit), or processes that cannot be joined.
    """
    world = world_size()
    if world % context:
        if not speaks_for_machine():
            raise SystemExit(2)
        raise InputError("--context_parallel", f"is {context} with {world} processes", "a divisor of their number (see torchrun)")
    if "RANK" not in os.environ:
        if context > 1:  # some clusters set WORLD_SIZE to the number of machines
            raise InputError("environment, RANK", f"is missing, with WORLD_SIZE {world}", "torchrun, which sets both")
        return Processes(0, 1, pick_device(device))
    own = torch.cuda.is_available() and device in ("auto", "cuda")
    picked = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if own else device)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    shared = not own and int(os.environ.get("LOCAL_WORLD_SIZE", world)) > 1
    backend = "gloo" if picked.type != "cuda" or shared else "cpu:gloo,cuda:nccl"
    try:
        with ending_at_once():
            store, rank, _ = next(rendezvous("env://", timeout=LONGEST_JOINING))
            store.set_timeout(LONGEST_WAIT)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=LONGEST_WAIT)
            keep_connections_alive()
    except Exception as error:  # a ValueError for variables that are missing, a RuntimeError for what the network refuses
        found = f"cannot be joined ({type(error).__name__}: {error})"
        raise InputError(f"the {world} processes of the run", found, "the environment that torchrun or srun sets up") from error
    return Processes(dist.get_rank(), dist.get_world_size(), picked, context)


@contextlib.contextmanager
def lost_processes_are_refused() -> Iterator[None]:
    """Turn errors of communication with a process of the run that has ended into an InputError, on one process of each machine.

    Raises:
        InputError: another process has ended; on all but the first process of a machine, SystemExit.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        if not speaks_for_machine():  # the first process of all may be the one that has ended
            raise SystemExit(2) from error
        found = f"have ended ({one_line(error)[:160]})"
        raise InputError("other processes of the run", found, "all of them until the end: see their messages") from error


def end_processes() -> None:
    """Leave the process group, and wait for its threads.

    A thread that outlives the interpreter kills the process: it may hold the last reference to a tensor.
    """
    if dist.is_initialized():
        gc.collect()  # a network that averages gradients refers to itself and to the group
        dist.destroy_process_group()
