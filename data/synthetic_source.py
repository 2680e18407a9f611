"""Training samples of procedural scenes, rendered when they are drawn, or drawn from a pool in the device's memory."""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from config.errors import InputError
from config.recipe import TrainingRecipe
from config.threads import cores
from data.poses import normalise_poses
from data.sampler import POOL, VIEWS, Batch, scene_of, views_of_sample

SYNTHETIC = "synthetic:"
# Most scenes of a set of N, all of which are shuffled; for more, data is endless.
SYNTHETIC_MOST = 1_000_000
# Held-out scenes of endless data, and scenes of a set of N that stay in memory.
SYNTHETIC_HELD_OUT = 8
SYNTHETIC_KEPT = 64


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
