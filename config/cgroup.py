"""Limits that the cgroups of this process set on CPU time and memory, versions 1 and 2, as in containers (Linux)."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PERIOD_US = b"100000"  # the kernel's default


def quota(root: Path = Path("/")) -> float | None:
    """Return the limit of CPU time, in cores; None if there is none.

    Containers set it, and leave the affinity at all cores of the machine.
    """
    limits = []
    for version, folder in _groups("cpu", root):
        try:
            time_us, period_us = _cpu_limit(version, folder)
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if time_us > 0 and period_us > 0:  # version 1 has -1 for no limit
            limits.append(time_us / period_us)
    return min(limits, default=None)


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that the limits of memory still allow, at least 0; None if there is none.

    Files in the page cache that were not used lately count as free: the kernel gives them up.
    """
    rooms = []
    for version, folder in _groups("memory", root):
        limit, used, idle = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if version == 1
            else ("memory.max", "memory.current", "inactive_file")
        )
        try:
            room = int((folder / limit).read_bytes()) - int((folder / used).read_bytes())
        except (OSError, ValueError):
            continue
        rooms.append(max(room + _statistic(folder / "memory.stat", idle), 0))
    return min(rooms, default=None)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of the cgroups that may limit `controller` for this process, and of those that they lie in."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:  # NUMBER:CONTROLLERS:PATH
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            version, tops = 2, [mount]
        elif controller in controllers.split(","):
            version, tops = 1, [mount / controllers, mount / controller]
        else:
            continue
        # In a container the path may be the one outside, and only the top be there.
        own = PurePosixPath(*(part for part in path.split("/") if part not in ("", "..")))
        for folder in {top / part for top in tops for part in (own, *own.parents)}:
            yield version, folder


def _cpu_limit(version: int, folder: Path) -> list[int]:
    if version == 1:
        return [int((folder / f"cpu.cfs_{name}_us").read_bytes()) for name in ("quota", "period")]
    return [int(word) for word in (*(folder / "cpu.max").read_bytes().split(), _PERIOD_US)][:2]


def _statistic(path: Path, name: str) -> int:
    """Return a number of a file with a name and a number per line; 0 if it is not there."""
    try:
        return int(dict(line.split() for line in path.read_text(encoding="ascii").splitlines())[name])
    except (OSError, ValueError, KeyError):
        return 0
