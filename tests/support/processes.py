"""Programs in several processes that know each other, for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_processes(count: int, program: str, folder: Path, status: int = 0) -> list[str]:
    """Run a program in `count` processes that know each other; all end with `status`. Return what they told on standard error."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(count):
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in where.items()}, "PYTHONPATH": str(ROOT)}
        environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-c", program]
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * count, errors
    return errors
