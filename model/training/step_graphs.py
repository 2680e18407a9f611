"""CUDA graphs of training steps: for small networks, whose kernels take less time than launching them."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from config.errors import InputError
from config.messages import with_type
from model.training.log import Window
from model.training.optimizer import Optimizer

Result = TypeVar("Result")
Batches = Iterator[dict[str, Tensor]]


class StepGraphs:
    """A training step that is captured once per setting and then replayed.

    A setting is everything that a step depends on besides its batch and what lies in memory: the number of inputs, the learning
    rate, the losses. The first step of a setting runs eagerly, on the same stream; from the second on its graph is replayed. Both
    run the same kernels on the same numbers. Tensors that a step returns are valid until the next one.

    Args:
        step: takes batches, of which it uses one, and a setting; returns its result.
        optimizer: of the step; its state stays on the device.
        window: counts the time spent waiting for batches.
        device: a CUDA device.
    """

    def __init__(self, step: Callable[[Batches, Any], Result], optimizer: Optimizer, window: Window, device: torch.device) -> None:
        self._step, self._optimizer, self._window = step, optimizer, window
        self._stream = torch.cuda.Stream(device)
        self._memory = torch.cuda.graph_pool_handle()
        self._batch: dict[str, Tensor] = {}
        self._seen: set[Any] = set()
        self._works = True
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Any]] = {}
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True

    def __call__(self, batches: Batches, setting: Any) -> Any:
        """Take a step; return what the step returns."""
        try:
            with self._window.waiting():
                batch = next(batches)
        except (InputError, OSError) as error:
            return self._step(_broken(error), setting)
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if setting not in self._seen or not self._works:
                self._seen.add(setting)
                result = self._step(iter([batch]), setting)
            else:
                result = self._replay(batch, setting)
        current.wait_stream(self._stream)
        return result

    def _replay(self, batch: dict[str, Tensor], setting: Any) -> Any:
        if not self._batch:
            self._batch = {name: torch.empty_like(x) for name, x in batch.items()}
        for name, x in batch.items():
            self._batch[name].copy_(x)
        if setting not in self._graphs:
            try:
                self._graphs[setting] = self._capture(setting)
            except RuntimeError as error:
                print(
                    f"cuda_graphs: steps run eagerly, since capturing one failed ({with_type(error)})", file=sys.stderr, flush=True
                )
                self._works = False
                self._optimizer.zero_grad(set_to_none=True)  # gradients of a capture lie in its memory and were never computed
                return self._step(iter([batch]), setting)
        graph, result = self._graphs[setting]
        graph.replay()
        return result

    def _capture(self, setting: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = torch.cuda.CUDAGraph()
        # Other threads wait for the device meanwhile, which the default mode forbids.
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            return graph, self._step(iter([self._batch]), setting)


def _broken(error: Exception) -> Batches:
    raise error
    yield
