"""Inputs of a scene whose photos are read when they are needed, and not kept. Letters: v inputs, h w pixels."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from data.dataset import SceneDataset
from data.output.video import to_uint8
from data.scene_format import Scene
from model.evaluation.plan import Job
from model.evaluation.stopwatch import Stopwatch, timed
from model.parallel.context import ContextGroup
from model.posed_images import PosedImages


class InputsOfJob:
    """The inputs of a job, some at a time; while these are used, the next are read.

    Args:
        job: the scene and its inputs.
        dataset: of its photos.
        chunk: views that are read together.
        order: numbers of all inputs, in the order in which they are read.
    """

    def __init__(self, job: Job, dataset: SceneDataset, chunk: int, order: Sequence[int]) -> None:
        self.job, self.dataset, self.chunk, self.order = job, dataset, chunk, list(order)

    @property
    def scene(self) -> Scene:
        """The scene."""
        return self.job.scene

    @property
    def views(self) -> list[int]:
        """Positions of the inputs in the scene, in the order of the job."""
        return self.job.inputs

    def __iter__(self) -> Iterator[PosedImages]:
        with ThreadPoolExecutor(1, thread_name_prefix="inputs") as pool:
            coming = pool.submit(self._load, 0)
            for start in range(0, len(self.order), self.chunk):
                found = coming.result()
                coming = pool.submit(self._load, start + self.chunk)  # after the last ones, none
                yield found

    def _load(self, start: int) -> PosedImages:
        some = self.order[start : start + self.chunk]
        views = [self.views[i] for i in some]
        loaded = self.dataset.load(self.scene, views)
        return PosedImages(loaded["image"], loaded["fxfycxcy"], self.job.input_c2w[some], self.job.name, views)


class Watched:
    """Views that are read one after another, with what they sum up to and the time that they took. Iterating is collective.

    Args:
        views: what is iterated; each time from the start. In all processes of the context, the same.
        context: processes that read them.

    Attributes:
        total: (3, h, w), the sum of the photos that the last iteration has given; zero for none.
        waiting: time in which views were waited for.
        failed: whether reading has ended with an error: then with the same one in all processes.
    """

    def __init__(self, views: Iterable[PosedImages], context: ContextGroup) -> None:
        self.views, self.context, self.total = views, context, torch.zeros(())
        self.waiting, self.failed = Stopwatch(torch.device("cpu")), False

    def __iter__(self) -> Iterator[PosedImages]:
        self.total = torch.zeros(())
        for found in timed(self._read(), self.waiting):
            self.total = self.total + found.image.sum(0)
            yield found

    def _read(self) -> Iterator[PosedImages]:
        views = iter(self.views)
        while True:
            self.failed = True
            with self.context.together():
                found = next(views, None)
            self.failed = False
            if found is None:
                return
            yield found


class StoredPhotos(Sequence[Any]):
    """Photos of a scene, (h, w, 3) uint8, each read when it is looked at.

    Args:
        dataset: of the photos.
        scene: of the dataset.
        views: their positions in it.
    """

    def __init__(self, dataset: SceneDataset, scene: Scene, views: Sequence[int]) -> None:
        self.dataset, self.scene, self.views = dataset, scene, views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, i: Any) -> np.ndarray:
        return to_uint8(self.dataset.load(self.scene, [self.views[i]])["image"][0])
