"""Training samples: scenes and views as a function of seed and sample number alone, read ahead by threads.

Samples are numbered through the whole run: 0, 1, 2, … Every step takes the next numbers, which its ranks and micro-steps share. A
resumed run therefore needs no replay, and the same step split in another way sees the same samples.

Letters: b samples, n views of a sample: inputs are the first of them, targets the last. A batch is a dict of `image`
(b, n, 3, h, w) in 0..1, `fxfycxcy` (b, n, 4) in pixels and `c2w` (b, n, 4, 4).
"""

import functools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from config.recipe import TrainingRecipe

Batch = dict[str, Tensor]

# Purposes of random numbers, so that no two uses share a stream.
ORDER, VIEWS, REPLACEMENT, INPUTS, POOL, CROP = 1, 2, 3, 4, 5, 6


class Source(Protocol):
    """Source of samples.

    Attributes:
        broken: unreadable samples replaced so far.
        ahead: batches worth preparing ahead of the one in use.
    """

    broken: int
    ahead: int

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return the training samples of these numbers."""
        ...

    def validation_batch(self, i: int) -> Batch:
        """Return scene i for validation: a batch of one, with the same views every time."""
        ...

    def count_validation_scenes(self) -> int:
        """Return the number of scenes for validation."""
        ...

    def close(self) -> None:
        """End the threads and processes that make samples."""
        ...


def views_of_sample(recipe: TrainingRecipe) -> int:
    """Return n: inputs and targets share views where num_all_views is less than both together."""
    return min(recipe.num_all_views, recipe.num_input_views + recipe.num_target_views)


def scene_of(number: int, scenes: int, seed: int) -> int:
    """Return which scene sample `number` shows: every scene once an epoch, in an order that changes with each."""
    epoch, position = divmod(number, scenes)
    return int(_order(scenes, seed, epoch)[position])


@functools.lru_cache(maxsize=4)
def _order(scenes: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, ORDER, epoch]).permutation(scenes)


def numbers_of(step: int, micro_step: int, rank: int, ranks: int, recipe: TrainingRecipe) -> range:
    """Return the sample numbers that data rank `rank` of `ranks` computes in one micro-step of step `step`."""
    per_rank = recipe.bs_per_gpu * recipe.grad_accum
    first = step * per_rank * ranks + rank * per_rank + micro_step * recipe.bs_per_gpu
    return range(first, first + recipe.bs_per_gpu)


def inputs_of_step(step: int, recipe: TrainingRecipe) -> int:
    """Return the number of inputs of a step, the same for all its samples: the first of each sample's inputs are used."""
    if recipe.min_input_views is None:
        return recipe.num_input_views
    return int(np.random.default_rng([recipe.seed, INPUTS, step]).integers(recipe.min_input_views, recipe.num_input_views + 1))


def empty_batch(scenes: int, views: int, image_size: tuple[int, int], device: torch.device) -> Batch:
    """Return black images of one camera at the origin: what a process computes when its samples cannot be read."""
    h, w = image_size
    return {
        "image": torch.zeros(scenes, views, 3, h, w, device=device),
        "fxfycxcy": torch.tensor([w, w, w / 2, h / 2], device=device).expand(scenes, views, 4),
        "c2w": torch.eye(4, device=device).expand(scenes, views, 4, 4),
    }


def split(batch: Batch, num_inputs: int, num_targets: int) -> tuple[Batch, Batch]:
    """Return inputs (b, v, …), the first of a sample's views, and targets (b, u, …), the last; both share the batch's storage."""
    inputs = {key: value[:, :num_inputs] for key, value in batch.items()}
    targets = {key: value[:, -num_targets:] for key, value in batch.items()}
    return inputs, targets


def load_ahead(source: Source, batches: Iterable[Sequence[int]], device: torch.device) -> Generator[Batch]:
    """Yield the batches of the given sample numbers on `device`, in order, while threads prepare the next `source.ahead` ones.

    Close the iterator to end its threads. An exception in a thread is raised here.
    """
    if source.ahead == 0:
        for numbers in batches:
            yield source.batch(numbers)
        return

    def prepare(numbers: Sequence[int]) -> Batch:
        batch = source.batch(numbers)
        return {key: value.pin_memory() for key, value in batch.items()} if device.type == "cuda" else batch

    batches = iter(batches)
    pool = ThreadPoolExecutor(source.ahead, thread_name_prefix="batch")
    try:
        waiting = deque(pool.submit(prepare, numbers) for numbers in islice(batches, source.ahead))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(prepare, numbers) for numbers in islice(batches, 1))
            yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
