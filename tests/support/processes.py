"""Programs in several processes of one group, for tests."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    """Return ports of this machine on which nothing listens, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return [probe.getsockname()[1] for probe in probes]


def environment(**variables: object) -> dict[str, str]:
    """Return this process's environment variables and others, for a program of one thread that imports from the repository."""
    names = {"OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT, **variables}
    return {**os.environ, **{name: str(value) for name, value in names.items()}}


def run_processes(count: int, words: Sequence[str], folder: Path, status: int = 0, **variables: object) -> list[str]:
    """Run a program in `count` processes of one group; all end with `status`.

    Args:
        count: how many processes.
        words: the command line after `python`.
        folder: where they run.
        status: exit code that every one must end with.
        variables: more environment variables.

    Returns:
        what each of them wrote to standard error.
    """
    (port,) = free_ports(1)
    group = {"WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port, **variables}
    processes = []
    try:
        for rank in range(count):
            known = environment(RANK=rank, LOCAL_RANK=rank, **group)
            command = [sys.executable, *words]
            processes.append(subprocess.Popen(command, cwd=folder, env=known, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * count, errors
    return errors
