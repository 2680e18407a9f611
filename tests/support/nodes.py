"""Machines of a run in the form of several torchrun on this machine, for tests."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.processes import environment, free_ports


class Node:
    """A torchrun and its processes; what they write goes to the files `nodeN.out` and `nodeN.err`."""

    def __init__(self, number: int, launch: Sequence[str], words: Sequence[str], folder: Path) -> None:
        self.out, self.err = (folder / f"node{number}.{suffix}" for suffix in ("out", "err"))
        command = [sys.executable, "-m", "torch.distributed.run", *launch, *words]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=out, stderr=err)

    def workers(self) -> list[int]:
        """Return the numbers of its processes, without that of torchrun."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in listed.read_text().split()] if listed.exists() else []

    def kill(self) -> None:
        """End it as a loss of power would."""
        for number in [self.process.pid, *self.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()

    def said(self, program: str = "train.py") -> list[str]:
        """Return the lines of a program on standard error, without those of torchrun."""
        return [line for line in self.err.read_text().splitlines() if line.startswith(f"{program}: ")]


@contextlib.contextmanager
def nodes(count: int, processes: int, words: Sequence[str], folder: Path) -> Iterator[list[Node]]:
    """Start a program on several machines with so many processes each; yield the machines, and end them after the block."""
    launch = ["--nnodes", str(count), "--nproc_per_node", str(processes), "--rdzv_id", "test", "--rdzv_backend", "c10d"]
    launch += ["--rdzv_endpoint", f"127.0.0.1:{free_ports(1)[0]}"]
    started: list[Node] = []
    try:
        started.extend(Node(number, launch, words, folder) for number in range(count))
        yield started
    finally:
        for node in started:
            node.kill()


def run_nodes(count: int, processes: int, words: Sequence[str], folder: Path, status: int = 0) -> list[Node]:
    """Run a program on several machines; all end with `status`."""
    with nodes(count, processes, words, folder) as started:
        found = [node.process.wait(300) for node in started]
        assert found == [status] * count, [node.err.read_text() for node in started]
    return started


def wait_until(condition: Callable[[], object], started: Sequence[Node]) -> None:
    """Wait until a condition holds; no machine ends before."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert all(node.process.poll() is None for node in started), [node.err.read_text() for node in started]
        time.sleep(0.05)
