"""Machine capabilities: device, native dtype, free memory, and the number of views that fit a chunk."""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator

import torch

from config import cgroup
from config.errors import InputError
from config.messages import shown

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Tokens of a chunk: enough to fill the matrix units; on a CPU few enough that a layer's intermediate results stay in cache
# (2048 tokens of width 1536 in bfloat16 are 6 MB), which made element-wise passes up to 5 times as fast as 8192 did.
CHUNK_TOKENS = {"cpu": 2048, "cuda": 65536}
# Parts of messages about full memory: of torch's allocator, C++, oneDNN, OpenCV, and of sizes of tensors beyond 64 bits.
FULL_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "std::bad_alloc",
    "could not create a memory object",
    "Insufficient memory",
    "Storage size calculation overflowed",
    "integer multiplication overflow",
)
# Options of glibc's mallopt, see malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
# Share of the free memory that the intermediate results of one chunk may take.
CHUNK_MEMORY_SHARE = 0.5


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device for `auto` (the current CUDA device if there is one, else the CPU) or for its name.

    Raises:
        InputError: there is no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise InputError("device", f"is {shown(device)}", "auto, cpu, cuda or cuda:N") from error
    if picked.type not in ("cpu", "cuda"):
        raise InputError("device", f"is {shown(str(device))}", "auto, cpu, cuda or cuda:N")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise InputError("device", f"is {shown(str(device))} on a machine with {there} CUDA devices", "one of them, or cpu")
    return picked


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices in hardware: CUDA sm_80 and later, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch has no public name for these two yet.
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


# Of this machine, read once: it does not change, and a compiler cannot trace the query.
CPU_HAS_BFLOAT16 = has_bfloat16(torch.device("cpu"))


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype for `auto` (bfloat16 where `has_bfloat16`, else float32), `float32` or `bfloat16`.

    Raises:
        InputError: an unknown name.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if precision not in PRECISIONS:
        raise InputError("precision", f"is {shown(precision)}", f"auto, {' or '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on `device`, including what torch holds in reserve."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    available = _meminfo().get("MemAvailable")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if available is None else available
    allowed = cgroup.free_memory()
    return free if allowed is None else min(free, allowed)


@contextlib.contextmanager
def full_memory_is_refused(wanted: str) -> Iterator[None]:
    """Turn out-of-memory errors, of a GPU or of the host, into an InputError.

    Args:
        wanted: what would use less memory.

    Raises:
        InputError: memory ran out.
    """
    try:
        with _no_more_than_free_memory():
            yield
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            memory = "GPU memory"
        # On a CPU torch and OpenCV raise errors of no type of their own.
        elif isinstance(error, MemoryError) or any(sign in str(error) for sign in FULL_MEMORY):
            memory = "memory"
        else:
            raise
        raise InputError(memory, "is full", wanted) from error


@contextlib.contextmanager
def _no_more_than_free_memory() -> Iterator[None]:
    """Let allocations beyond what is free now fail while the block runs; children inherit the limit.

    Linux grants more memory than there is, and kills a process that uses it. Not on machines with a GPU, whose drivers reserve
    addresses without using memory.
    """
    if not os.path.exists("/proc/self/statm") or torch.cuda.is_available():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    free = free_memory(torch.device("cpu")) + _meminfo().get("SwapFree", 0)
    allowed = cgroup.free_memory()  # once more: of what is swapped, a cgroup's limit allows nothing
    limits = [_data_bytes() + (free if allowed is None else min(free, allowed)), *before]
    least = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (least, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Return the bytes that count towards this process's RLIMIT_DATA: writable memory of its own, used or not."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def _meminfo() -> dict[str, int]:
    """Return what Linux says of its memory, in bytes; nothing on other systems."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        return {name: int(value.split()[0]) * 1024 for name, value in fields.items()}
    except (OSError, ValueError):
        return {}


def keep_freed_memory() -> bool:
    """Make the C library keep the memory of freed CPU tensors for later ones, until the process ends.

    By default it returns every large tensor to the system, which maps and zeroes fresh pages for the next one: in a virtual
    machine that took up to 40 % of a training step. For programs that repeat the same work: memory use stays at its peak.

    Returns:
        whether the C library supports this (glibc).
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        return False
    # No mmap, no trimming of the heap, which grows by at least 64 MB. mallopt returns 1 if it accepts an option.
    options = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 26))
    return all(ctypes.CDLL(None).mallopt(*option) == 1 for option in options)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here on, where that is possible: on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use: on CUDA those of tensors since `reset_peak_memory`, on a CPU those of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def split_views(views: int, tokens_per_view: int, bytes_per_token: int, reserved_bytes: int, device: torch.device) -> list[int]:
    """Split views into chunks that fit into free memory.

    Args:
        views: number of views.
        tokens_per_view: tokens of one view, times the scenes of a batch.
        bytes_per_token: memory of the intermediate results for one token.
        reserved_bytes: memory that will be used in addition.
        device: where the views are processed.

    Returns:
        the number of views of each chunk, at least one, as equal as possible: at most two sizes, so that compiled code is
        specialised at most twice.
    """
    room = max(free_memory(device) - reserved_bytes, 0) * CHUNK_MEMORY_SHARE / bytes_per_token
    tokens = min(CHUNK_TOKENS.get(device.type, CHUNK_TOKENS["cuda"]), room)
    return even_chunks(views, max(1, int(tokens // tokens_per_view)))


def even_chunks(total: int, largest: int) -> list[int]:
    """Split `total` into as few parts of at most `largest` as possible; they differ by at most one."""
    parts = -(-total // largest)
    return [total // parts + (i < total % parts) for i in range(parts)]
