"""Machine capabilities: even chunks within cache and memory, precision, and freed memory kept."""

import subprocess
import sys

import pytest
import torch

from config.errors import InputError
from model import runtime
from model.runtime import even_chunks, free_memory, pick_dtype, split_views

CPU = torch.device("cpu")


@pytest.mark.parametrize(("total", "largest"), [(1, 1), (7, 3), (9, 3), (5, 9), (128, 31)])
def test_even_chunks_cover_everything_and_differ_by_one(total: int, largest: int) -> None:
    chunks = even_chunks(total, largest)
    assert sum(chunks) == total
    assert max(chunks) <= largest
    assert max(chunks) - min(chunks) <= 1
    assert (len(chunks) - 1) * largest < total, "one chunk less would do"


@pytest.mark.parametrize(
    ("views", "tokens_per_view", "free", "expected"),
    [
        (8, 1024, 1 << 40, [2, 2, 2, 2]),  # 2048 tokens at a time
        (8, 4096, 1 << 40, [1] * 8),  # at least one view
        (6, 256, 1 << 40, [6]),
        (8, 1024, 3_000_000, [1] * 8),  # half of 3 MB at 1000 bytes per token: 1500 tokens
        (8, 1024, 0, [1] * 8),
    ],
)
def test_chunks_fit_cache_and_memory(
    monkeypatch: pytest.MonkeyPatch, views: int, tokens_per_view: int, free: int, expected: list[int]
) -> None:
    monkeypatch.setattr(runtime, "free_memory", lambda device: free + 5000)
    assert split_views(views, tokens_per_view, 1000, 5000, CPU) == expected


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="a limit of Linux, set without a GPU")
@pytest.mark.parametrize("kind", ["torch.ones(1 << 18)", "np.ones(1 << 17)", "bytearray(1 << 20)"])
def test_memory_that_linux_would_grant_and_kill_for_is_refused(kind: str) -> None:
    # In a process of its own. Many small allocations: Linux itself refuses only single ones beyond its whole memory.
    script = f"""
import resource, numpy as np, torch
from config.errors import InputError
from config.errors import InputError
from model import runtime
runtime.free_memory, runtime._meminfo = lambda device: 300 << 20, dict
before, kept = resource.getrlimit(resource.RLIMIT_DATA), []
try:
    with runtime.full_memory_is_refused("less"):
        for _ in range(1000):
            kept.append({kind})
except InputError as error:
    print(len(kept) > 200, error, resource.getrlimit(resource.RLIMIT_DATA) == before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("True memory: is full; wanted less True\n", "")


@pytest.mark.parametrize("shape", [(1 << 50,), (1 << 40, 1 << 40), (3, 1 << 62)])
def test_tensors_beyond_any_memory_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^memory: is full; wanted less$"), runtime.full_memory_is_refused("less"):
        torch.empty(shape)


def test_free_memory_is_that_of_the_machine() -> None:
    assert 1 << 26 < free_memory(CPU) < 1 << 44


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    # In a process of its own: the setting lasts.
    script = """
import resource, sys, torch
from model.runtime import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 26, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))  # the first ones may each be cut from new memory
"""
    runs = [subprocess.run([sys.executable, "-c", script, mode], capture_output=True, text=True) for mode in ("keep", "default")]
    if runs[0].returncode == 77:
        pytest.skip("this C library has no mallopt")
    kept, default = (int(run.stdout) for run in runs)
    # 64 MB are 16384 pages of 4 KB, or 32 of 2 MB where the system uses those; if kept, a few of the interpreter's own remain.
    assert kept < 20
    assert default > kept


@pytest.mark.parametrize(("silicon", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch, silicon: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: silicon)
    assert pick_dtype("auto", CPU) == expected
    assert pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.gpu
def test_gpu_free_memory_counts_what_torch_holds_in_reserve() -> None:
    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()
    before = free_memory(device)
    block = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    assert free_memory(device) <= before - (1 << 28)
    del block
    assert abs(free_memory(device) - before) < 1 << 26
