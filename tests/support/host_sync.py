"""Finding where the host waits for the device, for tests: on CUDA by the driver, on a CPU by what would wait on CUDA."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result the host reads: a number, or a size that depends on values.
READ_BY_THE_HOST = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal")


class _NoRead(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if any(name.startswith(word) for word in READ_BY_THE_HOST):
            raise AssertionError(f"host sync: {name}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_sync(device: torch.device) -> Iterator[None]:
    """Raise where the host would wait for `device`; work queued before the block is finished first."""
    if device.type == "cpu":
        with _NoRead():
            yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
