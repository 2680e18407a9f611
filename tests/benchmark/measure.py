"""Measurement tools: seconds, peak memory, rates and description of the machine."""

import contextlib
import ctypes
import datetime
import gc
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from model.camera_path import published_turntable
from model.machine import Facts, describe_machine
from model.runtime import synchronise

# Environment variable: process groups to pause while something is measured; and the seconds in which a GPU finishes their kernels.
PAUSED, PAUSE_SECONDS = "PAUSED_WHILE_MEASURING", 0.5
# Bytes that are copied to measure bandwidth: several times any cache.
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Pause the process groups that the environment variable PAUSED_WHILE_MEASURING names, inside the block."""
    groups = [int(group) for group in os.environ.get(PAUSED, "").split()]
    for group in groups:
        signal_group(group, signal.SIGSTOP)
    if groups:
        time.sleep(PAUSE_SECONDS)
    try:
        yield
    finally:
        for group in groups:
            signal_group(group, signal.SIGCONT)


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def time_calls(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median seconds of `repeats` runs, without warm-up."""
    seconds = []
    with undisturbed():
        for _ in range(repeats):
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def copy_rate(device: torch.device, size: int | None = None) -> float:
    """Measure bytes per second, reads plus writes, of copies within the memory of `device`; the best of five."""
    source = torch.empty(size or COPY_BYTES[device.type], dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / time_calls(lambda: target.copy_(source), device, 5)


def reset_peak(device: torch.device) -> int:
    """Reset the peak memory counter; return the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak(device: torch.device) -> int:
    """Return the most bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def resident(field: str) -> int:
    """Read a memory field of this process, in bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def give_memory_back() -> None:
    """Return freed memory to the system, so that it does not hide what the next measurement takes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def random_scene(views: int, image_size: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
    """Return noise images with cameras of a turntable, one scene."""
    path = published_turntable(views, image_size)
    return {
        "image": torch.rand(1, views, 3, *image_size, device=device),
        "fxfycxcy": path.fxfycxcy[None].to(device),
        "c2w": path.c2w[None].to(device),
    }


def machine(device: torch.device) -> Facts:
    """Return the context of a figure: see `describe_machine`; also the GPU's driver, and the date."""
    facts = describe_machine(device)
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            facts["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            facts["driver"] = "unknown"
    return facts | {"date": datetime.date.today().isoformat()}


def show(dtype: torch.dtype) -> str:
    """Return the dtype's bare name."""
    return str(dtype).removeprefix("torch.")
