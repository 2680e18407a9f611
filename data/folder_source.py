"""Training samples of posed photos on disk, in folders and packs; see `data.scene_format`."""

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from config.errors import InputError
from config.recipe import TrainingRecipe
from data.dataset import SceneDataset, Windows
from data.images import with_margin
from data.poses import normalise_poses
from data.problems.scene import CameraWarnings
from data.sampler import CROP, REPLACEMENT, VIEWS, Batch, scene_of, views_of_sample
from data.scene_format import Scene
from data.view_selection import select_views


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
            sample = self._load(scene, shown)
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
                return self._load(scene, self._choose(scene, number), np.random.default_rng([self.recipe.seed, CROP, number]))
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

    def _load(self, scene: Scene, views: Sequence[int], crops: np.random.Generator | None = None) -> Batch:
        """Load views of a scene; of their images, with `crop_margin`, windows at random places, or without `crops` the centre."""
        own, windows = list(range(len(views)) if self.views is None else self.views), None
        if self.recipe.crop_margin:
            corners = np.full((len(views), 2), 0.5) if crops is None else crops.random((len(views), 2))
            windows = Windows(self.recipe.crop_margin, corners[own])
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
