"""Number of CPU cores that this process may use, and the settings of OpenMP, by which torch computes on a CPU."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path, PurePosixPath

# Rounds for which a thread of GNU's OpenMP, which torch's packages for Linux hold, spins while it waits for the others, before it
# sleeps: about as long as it takes to be woken, 25 to 50 µs. The default is 300,000, 7 ms or more: where other processes want the
# cores, a thread then spins through its share of time, waiting for one that the spinning keeps from running.
# tests/benchmark/threads.py compares them.
SPINS = "1000"
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
_PERIOD_US = b"100000"  # the kernel's default


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


def quota(root: Path = Path("/")) -> float | None:
    """Return the limit of CPU time of this process's cgroups, versions 1 and 2, in cores; None if there is none.

    Containers set it, and leave the affinity at all cores of the machine.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    limits = [limit for line in groups.splitlines() for limit in _limits(line, root / "sys/fs/cgroup")]
    return min(limits, default=None)


def _limits(line: str, mount: Path) -> Iterator[float]:
    """Yield the limits of a cgroup and of those that it lies in; `line` is one of /proc/self/cgroup, NUMBER:CONTROLLERS:PATH."""
    number, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if number == "0":  # version 2
        tops, limit_of = [mount], _limit_2
    elif "cpu" in controllers.split(","):
        tops, limit_of = [mount / controllers, mount / "cpu"], _limit_1
    else:
        return
    # In a container the path may be the one outside, and only the top be there.
    own = PurePosixPath(*(part for part in path.split("/") if part not in ("", "..")))
    for folder in {top / part for top in tops for part in (own, *own.parents)}:
        try:
            time_us, period_us = limit_of(folder)
            if time_us > 0 and period_us > 0:
                yield time_us / period_us
        except (OSError, ValueError):  # no such file, or "max"
            continue


def _limit_1(folder: Path) -> list[int]:
    return [int((folder / f"cpu.cfs_{name}_us").read_bytes()) for name in ("quota", "period")]  # -1: no limit


def _limit_2(folder: Path) -> list[int]:
    return [int(word) for word in (*(folder / "cpu.max").read_bytes().split(), _PERIOD_US)][:2]


def _is_set(environment: Mapping[str, str], names: tuple[str, ...]) -> bool:
    return any(environment.get(name) for name in names)
