"""Time that a device works."""

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

from model.runtime import synchronise

Item = TypeVar("Item")


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


def timed(stream: Iterator[Item], watch: Stopwatch) -> Iterator[Item]:
    """Yield the items of a stream, and count the time that it takes to make them."""
    while True:
        with watch:
            item = next(stream, None)
        if item is None:
            return
        yield item
