"""Number of CPU cores that this process may use, and the settings of OpenMP, by which torch computes on a CPU."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from config.cgroup import quota

# Rounds for which a thread of GNU's OpenMP, which torch's packages for Linux hold, spins while it waits for the others, before it
# sleeps: about as long as it takes to be woken, 25 to 50 µs. The default is 300,000, 7 ms or more: where other processes want the
# cores, a thread then spins through its share of time, waiting for one that the spinning keeps from running.
# tests/benchmark/threads.py compares them.
SPINS = "1000"
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")


def choose_threads(environment: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Set the number of threads and how they wait, in the environment that OpenMP reads when torch is imported.

    What the user, torchrun or a scheduler has set stays. Without a cgroup's limit the number is left to OpenMP, which heeds the
    affinity. The load of the machine has no say: sums over another number of threads differ in their last bits, and the same
    command must give the same result.

    Args:
        environment: changed; child processes inherit it.
        root: of the file system.
    """
    if not _is_set(environment, _WAITING):
        environment["GOMP_SPINCOUNT"] = SPINS
    if not _is_set(environment, _COUNTS) and quota(root) is not None:
        environment["OMP_NUM_THREADS"] = str(cores(root))


def cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: those of its affinity, but not more than its cgroup's limit."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota(root)
    return count if limit is None else min(count, max(1, round(limit)))


def _is_set(environment: Mapping[str, str], names: tuple[str, ...]) -> bool:
    return any(environment.get(name) for name in names)
