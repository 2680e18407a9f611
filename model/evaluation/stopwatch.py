"""Time that a device works."""

import time

import torch

from model.runtime import synchronise


class Stopwatch:
    """Seconds that a device has worked inside `with` blocks."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> None:
        synchronise(self.device)
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        synchronise(self.device)
        self.seconds += time.perf_counter() - self._start
