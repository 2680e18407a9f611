"""Training samples: scenes and views as a function of seed and sample number alone, read ahead by threads.

Samples are numbered through the whole run: 0, 1, 2, … Every step takes the next numbers, which its ranks and micro-steps share. A
resumed run therefore needs no replay, and the same step split in another way sees the same samples.

Letters: b samples, n views of a sample: inputs are the first of them, targets the last. A batch is a dict of `image`
(b, n, 3, h, w) in 0..1, `fxfycxcy` (b, n, 4) in pixels and `c2w` (b, n, 4, 4).
"""

import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError
from config.recipe import TrainingRecipe
from config.threads import cores
from data.dataset import SceneDataset, Windows
from data.image_size import check_image_size
from data.images import with_margin
from data.poses import normalise_poses
from data.problems.scene import CameraWarnings
from data.scene_format import Scene
from data.view_selection import select_views

Batch = dict[str, Tensor]

SYNTHETIC = "synthetic:"
# Most scenes of a set of N, all of which are shuffled; for more, data is endless.
SYNTHETIC_MOST = 1_000_000
# Held-out scenes of endless data, and scenes of a set of N that stay in memory.
SYNTHETIC_HELD_OUT = 8
SYNTHETIC_KEPT = 64
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


def open_source(
    path: str,
    recipe: TrainingRecipe,
    patch_size: int,
    device: torch.device,
    views: Sequence[int] | None = None,
    data_share: tuple[int, int] | None = None,
) -> Source:
    """Return the source that `--data_path` or `--val_data_path` names.

    Args:
        path: a `NAME_data_path.json`, one scene's JSON, `synthetic:KIND` or `synthetic:KIND:N`.
        recipe: of the run.
        patch_size: of the network.
        device: where synthetic scenes are rendered.
        views: positions, among the n views of a sample, of those that this process computes; None for all.
        data_share: (data rank, data ranks) of this process, for training; None for validation.

    Raises:
        FileNotFoundError, InputError: nothing of that name, an unreadable file, or images that the patch does not divide.
    """
    check_image_size(recipe.image_size, patch_size)
    _check_batch(recipe)
    if path.startswith(SYNTHETIC):
        if recipe.pool is not None and data_share is not None:
            return PoolSource(path, recipe, device, views, data_share)
        return SyntheticSource(path, recipe, device, views)
    return FolderSource(path, recipe, patch_size, views)


def _check_batch(recipe: TrainingRecipe) -> None:
    """Refuse a batch whose images alone exceed the machine's memory, before its samples are computed one by one.

    Raises:
        InputError: they do.
    """
    h, w = recipe.image_size
    needed, memory = (
        recipe.bs_per_gpu * views_of_sample(recipe) * 12 * h * w,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    if needed > memory:
        found = f"is {recipe.bs_per_gpu}, with {needed >> 20} MB of images on a machine with {memory >> 20}"
        raise InputError("bs_per_gpu", found, "fewer scenes at a time, with grad_accum for the rest")


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


class FolderSource:
    """Posed photos on disk, see `data.scene_format`."""

    ahead = 2

    def __init__(self, path: str, recipe: TrainingRecipe, patch_size: int, views: Sequence[int] | None = None) -> None:
        self.recipe, self.views = recipe, views
        self.dataset = SceneDataset(path, recipe.image_size, patch_size, reduced=recipe.reduced_decoding)
        self.pool = ThreadPoolExecutor(recipe.workers, thread_name_prefix="decode")
        self.broken = 0
        self._lock = threading.Lock()
        self._warnings = CameraWarnings(normalised=recipe.scene_pose_normalize)
        self._warned = False

    def batch(self, numbers: Sequence[int]) -> Batch:
        """See `Source`.

        Raises:
            InputError: a sample cannot be read and `skip_broken` allows no more of them.
        """
        samples = list(self.pool.map(self._sample, numbers))
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    def validation_batch(self, i: int) -> Batch:
        """See `Source`. Views are evenly spaced over the middle `frame_window` frames or, without a window, spread over the scene.

        Raises:
            InputError, OSError: the scene cannot be read, or has too few views.
        """
        recipe, scene = self.recipe, self.dataset[i]
        count, window = len(scene.views), recipe.frame_window
        first = 0 if window is None else max(0, (count - window) // 2)
        frames = scene.views[first : None if window is None else first + window]
        c2w = np.stack([view.c2w for view in frames])
        method = "spread" if window is None else "uniform"
        try:
            chosen = select_views(c2w, None, recipe.num_input_views, recipe.num_target_views, method)
            shown = [first + view for views in chosen for view in views]
            sample = self._load(scene, shown, np.full((len(shown), 2), 0.5))
        except InputError as error:
            raise error.within(scene.json_path) from None
        return {key: value[None] for key, value in sample.items()}

    def count_validation_scenes(self) -> int:
        return len(self.dataset)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _sample(self, number: int) -> Batch:
        attempt = 0
        while True:
            index = scene_of(number, len(self.dataset), self.recipe.seed)
            if attempt:
                index = int(np.random.default_rng([self.recipe.seed, REPLACEMENT, number, attempt]).integers(len(self.dataset)))
            try:
                scene = self.dataset[index]
                corners = np.random.default_rng([self.recipe.seed, CROP, number]).random((views_of_sample(self.recipe), 2))
                return self._load(scene, self._choose(scene, number), corners)
            except (InputError, OSError) as error:
                self._tolerate(f"sample {number}, scene {self.dataset.scene_paths[index]}", error)
            attempt += 1

    def _choose(self, scene: Scene, number: int) -> list[int]:
        rng = np.random.default_rng([self.recipe.seed, VIEWS, number])
        count, wanted = len(scene.views), views_of_sample(self.recipe)
        if count < wanted:
            raise InputError("views", f"are {count}", f"{wanted} or more, for num_input_views and num_target_views")
        window = min(self.recipe.frame_window or count, count)
        first = int(rng.integers(count - window + 1))
        return (first + rng.choice(window, wanted, replace=False)).tolist()

    def _load(self, scene: Scene, views: Sequence[int], corners: np.ndarray) -> Batch:
        """Load views of a scene; of their images, with `crop_margin`, the windows at these corners (see `Windows`)."""
        own = list(range(len(views)) if self.views is None else self.views)
        windows = Windows(self.recipe.crop_margin, corners[own]) if self.recipe.crop_margin else None
        sample = self.dataset.load(scene, [views[i] for i in own], windows=windows)
        self._warnings.check(scene)
        self._warn_of_small_images(scene)
        if self.recipe.scene_pose_normalize:
            c2w = torch.from_numpy(np.stack([scene.views[view].c2w for view in views]))
            sample["c2w"] = normalise_poses(c2w[None])[0, own].float()
        return sample

    def _warn_of_small_images(self, scene: Scene) -> None:
        """Warn once, in the first process, if images are smaller than they are trained at, such as packs of another size."""
        h, w = with_margin(self.recipe.image_size, self.recipe.crop_margin)
        view = scene.views[0]
        with self._lock:
            if self._warned or max(h / view.h, w / view.w) <= 1 or os.environ.get("RANK", "0") != "0":
                return
            self._warned = True
        margin = " with crop_margin" if self.recipe.crop_margin else ""
        found = f"has images of {view.h}×{view.w} (h×w), which are enlarged to {h}×{w}{margin}"
        print(f"warning: {scene.json_path}: {found}; wanted larger ones", file=sys.stderr, flush=True)

    def _tolerate(self, sample: str, problem: InputError | OSError) -> None:
        """Count and report a broken sample; raise an InputError once there are more than `skip_broken`."""
        if isinstance(problem, InputError):
            error = problem.within(sample)
        else:
            error = InputError(sample, f"cannot be read ({problem})", "a sample that can")
        with self._lock:
            self.broken += 1
            if self.broken > self.recipe.skip_broken:
                allowed = f"skip_broken allows {self.recipe.skip_broken} broken samples, and this is number {self.broken}"
                raise InputError(error.where, error.found, f"{error.wanted}: {allowed}") from problem
            print(f"skipped: {error}", file=sys.stderr, flush=True)


class SyntheticSource:
    """Procedural scenes: endlessly many, or with `synthetic:KIND:N` the same N of num_all_views views each."""

    broken = 0

    def __init__(self, path: str, recipe: TrainingRecipe, device: torch.device, views: Sequence[int] | None = None) -> None:
        from data.synthetic import FIRST_HELD_OUT_SEED, KINDS, synthetic_batch

        kind, _, count = path.removeprefix(SYNTHETIC).partition(":")
        if kind not in KINDS or (count and not (count.isdecimal() and len(count) < 9 and 1 <= int(count) <= SYNTHETIC_MOST)):
            wanted = " or ".join(SYNTHETIC + known for known in KINDS)
            raise InputError(path, "is not synthetic data", f"{wanted}, with :N at the end for N scenes, {SYNTHETIC_MOST} at most")
        if recipe.seed >= FIRST_HELD_OUT_SEED:
            wanted = f"one below {FIRST_HELD_OUT_SEED} for {path}: the others are held out"
            raise InputError("--seed", f"is {recipe.seed}", wanted)
        self.kind, self.scenes = kind, int(count) if count else None
        self.recipe, self.device, self.views = recipe, device, views
        # A GPU is busy with training: there, scenes are rendered when they are needed.
        self.ahead = 1 if device.type == "cpu" else 0
        self._make, self._held_out_seed = synthetic_batch, FIRST_HELD_OUT_SEED + recipe.seed
        self._kept = functools.lru_cache(maxsize=SYNTHETIC_KEPT)(self._keep)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """See `Source`."""
        if self.scenes is None:
            return self._shuffled(self._render(self.recipe.seed, list(numbers), views_of_sample(self.recipe)), numbers)
        scenes = [self._kept(scene_of(number, self.scenes, self.recipe.seed)) for number in numbers]
        return self._shuffled({key: torch.cat([scene[key] for scene in scenes]) for key in scenes[0]}, numbers)

    def validation_batch(self, i: int) -> Batch:
        """See `Source`. Endless data has held-out scenes; a set of N, meant for overfitting, is validated on its own scenes."""
        if self.scenes is not None:
            return self._shuffled(self._kept(i), [i])
        views = self.recipe.num_input_views + self.recipe.num_target_views
        return self._shuffled(self._render(self._held_out_seed, [i], views), [i])

    def count_validation_scenes(self) -> int:
        return self.scenes or SYNTHETIC_HELD_OUT

    def close(self) -> None:
        """Do nothing: there are no threads or processes."""

    def _keep(self, index: int) -> Batch:
        return self._render(self.recipe.seed, [index], self.recipe.num_all_views)

    def _render(self, seed: int, indices: list[int], views: int) -> Batch:
        scenes = self._make(self.kind, seed, indices, views, self.recipe.image_size, self.device)
        return {key: scenes[key] for key in ("image", "fxfycxcy", "c2w")}

    def _shuffled(self, scenes: Batch, numbers: Sequence[int]) -> Batch:
        """Return each sample's views, as many as it has, in a random order of its own: cameras may follow a path."""
        streams = [np.random.default_rng([self.recipe.seed, VIEWS, number]) for number in numbers]
        views = scenes["image"].shape[1]
        wanted = min(views, self.recipe.num_input_views + self.recipe.num_target_views)
        order = torch.from_numpy(np.stack([rng.permutation(views)[:wanted] for rng in streams])).to(self.device)
        rows = torch.arange(len(numbers), device=self.device)[:, None]
        batch = {key: value[rows, order] for key, value in scenes.items()}
        if self.recipe.scene_pose_normalize:
            batch["c2w"] = normalise_poses(batch["c2w"])
        return batch if self.views is None else {key: value[:, list(self.views)] for key, value in batch.items()}


class PoolSource(SyntheticSource):
    """Endless scenes, a window of them in the device's memory: each is drawn `pool_reuse` times on average, then replaced.

    A sample is a function of seed, sample number, scenes per step, and (data rank, data ranks).
    """

    def __init__(
        self,
        path: str,
        recipe: TrainingRecipe,
        device: torch.device,
        views: Sequence[int] | None,
        data_share: tuple[int, int],
    ) -> None:
        from data.synthetic.pool import ScenePool

        super().__init__(path, recipe, device, views)
        self.ahead = 0  # the pool has a thread of its own
        assert recipe.pool is not None  # `open_source` takes another source then
        # On a CPU, rendering already keeps the cores busy.
        processes = min(recipe.workers, max(cores() - 1, 0)) if device.type == "cuda" else 0
        self.data_share = data_share
        self.pool = ScenePool(
            self.kind, recipe.seed, recipe.pool, recipe.num_all_views, recipe.image_size, device, data_share, processes
        )

    def batch(self, numbers: Sequence[int]) -> Batch:
        """See `Source`. `numbers` are those of a micro-step, from `numbers_of`, and later than in the previous call."""
        a_step = self.recipe.bs_per_gpu * self.recipe.grad_accum
        step = numbers[0] // (a_step * self.data_share[1])
        first = self.pool.move(step * a_step // self.recipe.pool_reuse)
        streams = [np.random.default_rng([self.recipe.seed, POOL, number]) for number in numbers]
        scenes = [first + int(rng.integers(self.pool.scenes)) for rng in streams]
        wanted = views_of_sample(self.recipe)
        views = np.stack([rng.permutation(self.recipe.num_all_views)[:wanted] for rng in streams])
        own = list(range(wanted) if self.views is None else self.views)
        batch = self.pool.draw(scenes, views[:, own])
        if self.recipe.scene_pose_normalize:
            # Over all views of the sample, also those of other processes.
            batch["c2w"] = normalise_poses(self.pool.c2w(scenes, views))[:, own]
        if self.device.type == "cuda":
            batch = {key: x if x.is_cuda else x.pin_memory().to(self.device, non_blocking=True) for key, x in batch.items()}
        return batch

    def close(self) -> None:
        self.pool.close()


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
