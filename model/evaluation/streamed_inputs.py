"""Inputs of a scene whose photos are read when they are needed, and not kept. Letters: v inputs, h w pixels."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from data.dataset import SceneDataset
from data.output.video import to_uint8
from data.scene_format import Scene
from model.evaluation.plan import Job
from model.evaluation.stopwatch import Stopwatch
from model.posed_images import PosedImages


class StreamedInputs:
    """The inputs of a job, some at a time, for `LaCTLVSM.reconstruct_stream`; while these are used, the next are read.

    Args:
        job: the scene and its inputs.
        dataset: of its photos.
        chunk: views that are read together.

    Attributes:
        total: (3, h, w), the sum of all photos, once all have been read.
        waiting: time in which they were waited for.
    """

    def __init__(self, job: Job, dataset: SceneDataset, chunk: int) -> None:
        self.job, self.dataset, self.chunk = job, dataset, chunk
        self.total = torch.zeros(3, *dataset.image_size)
        self.waiting = Stopwatch(torch.device("cpu"))

    def __iter__(self) -> Iterator[PosedImages]:
        self.total.zero_()
        with ThreadPoolExecutor(1, thread_name_prefix="inputs") as pool:
            coming = pool.submit(self._load, 0)
            for start in range(0, len(self.job.inputs), self.chunk):
                with self.waiting:
                    found = coming.result()
                coming = pool.submit(self._load, start + self.chunk)  # after the last ones, none
                self.total += found.image.sum(0)
                yield found

    def _load(self, start: int) -> PosedImages:
        some = slice(start, start + self.chunk)
        views = self.job.inputs[some]
        loaded = self.dataset.load(self.job.scene, views)
        return PosedImages(loaded["image"], loaded["fxfycxcy"], self.job.input_c2w[some], self.job.name, views)


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
