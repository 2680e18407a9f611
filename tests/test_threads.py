"""Cores that a process may use, from affinity and cgroups, and the settings of OpenMP that follow from them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config import cgroup, threads
from config.cgroup import quota
from config.threads import choose_threads, cores

ROOT = Path(__file__).parent.parent


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Write the cgroups of this process, and files of the cgroup file system, below a folder that stands for /."""
    for name, content in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "150000\n"}, 1.5),  # the kernel's default period
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 200000", "cpu.max": "300000 100000"}, 2),
        ("0::/host/path\n", {"cpu.max": "50000 100000"}, 0.5),  # a container that is told its path outside
        ("0::/../other\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("4:cpuacct,cpu:/\n", {"cpuacct,cpu/cpu.cfs_quota_us": "250000\n", "cpuacct,cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("9:cpu:/d/1\n0::/\n", {"cpu/d/1/cpu.cfs_quota_us": "1000", "cpu/d/1/cpu.cfs_period_us": "1000"}, 1),
        ("9:cpu:/d/1\n", {"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "30000"}, 3),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "1000", "cpu/cpu.cfs_period_us": "1000"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": ""}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        ("0::/\n", {"cpu.max/is_a_folder": ""}, None),
        ("nonsense\n\n", {"cpu.max": "50000 100000"}, None),
    ],
)
def test_quota_is_the_smallest_of_the_cgroup_and_those_around_it(tmp_path, groups, files, expected):
    assert quota(machine(tmp_path, groups, files)) == expected


def test_there_is_no_quota_without_cgroups(tmp_path):
    assert quota(tmp_path) is None
    assert cgroup.free_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, None),
        ("0::/\n", {"memory.max": "100\n", "memory.current": "30\n"}, 70),
        ("0::/\n", {"memory.max": "100", "memory.current": "90", "memory.stat": "anon 60\ninactive_file 20\n"}, 30),
        ("0::/a\n", {"a/memory.max": "100", "a/memory.current": "30", "memory.max": "50", "memory.current": "40"}, 10),
        ("0::/a\n", {"memory.max": "50", "memory.current": "60"}, 0),
        ("7:memory:/b\n", {"memory/b/memory.limit_in_bytes": "100", "memory/b/memory.usage_in_bytes": "1",
                           "memory/b/memory.stat": "inactive_file 1\ntotal_inactive_file 0\n"}, 99),
        ("7:cpu:/b\n", {"memory/b/memory.limit_in_bytes": "100", "memory/b/memory.usage_in_bytes": "1"}, None),
    ],
)  # fmt: skip
def test_free_memory_is_the_least_that_the_cgroups_leave(tmp_path, groups, files, expected):
    assert cgroup.free_memory(machine(tmp_path, groups, files)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 6), ("50000", 1), ("100000", 1), ("240000", 2), ("260000", 3), ("9900000", 6)]
)
def test_cores_are_those_of_the_affinity_and_no_more_than_the_quota(tmp_path, monkeypatch, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(2, 8)), raising=False)
    assert cores(machine(tmp_path, "0::/\n", {"cpu.max": f"{limit} 100000"})) == expected


def test_cores_without_affinity_are_those_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("environment", "limit", "expected"),
    [
        ({}, "max", {"GOMP_SPINCOUNT": threads.SPINS}),
        ({}, "200000", {"GOMP_SPINCOUNT": threads.SPINS, "OMP_NUM_THREADS": "2"}),
        ({"OMP_NUM_THREADS": "1"}, "200000", {"GOMP_SPINCOUNT": threads.SPINS}),  # torchrun's, or the user's
        ({"MKL_NUM_THREADS": "3"}, "200000", {"GOMP_SPINCOUNT": threads.SPINS}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "max", {}),
        ({"GOMP_SPINCOUNT": "7"}, "max", {}),
        ({"KMP_BLOCKTIME": "200"}, "200000", {"OMP_NUM_THREADS": "2"}),
        ({"OMP_WAIT_POLICY": ""}, "max", {"GOMP_SPINCOUNT": threads.SPINS, "OMP_WAIT_POLICY": ""}),
    ],
)
def test_only_what_the_user_has_not_set_is_set(tmp_path, monkeypatch, environment, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    found = dict(environment)
    choose_threads(found, machine(tmp_path, "0::/\n", {"cpu.max": f"{limit} 100000"}))
    assert found == {**environment, **expected}


@pytest.mark.skipif(sys.platform != "linux", reason="affinity")
@pytest.mark.slow
def test_torch_takes_the_number_of_threads():
    script = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from config.threads import choose_threads
choose_threads()
import torch
print(torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
