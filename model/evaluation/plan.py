"""Plan of an evaluation: the scenes, and for each of them inputs, targets and poses. Letters: v input views, u target views."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError
from config.rendering import Scenes, Streaming, Views
from config.threads import cores
from data.dataset import SceneDataset
from data.growing_scene import wait_for_scene
from data.output.report import folder_names
from data.poses import in_scene_frame
from data.problems.scene import CameraWarnings
from data.scene_format import Scene
from data.view_index import read_view_index
from data.view_selection import ViewChoice, default_method, select_sweep
from model.departure import TrainedWith, departure
from model.scene_request import SceneRequest
from model.scene_stream import SceneStream

# Defaults where neither weight/checkpoints.yaml nor the weight file states these.
DEFAULT_IMAGE_SIZE, DEFAULT_INPUT_VIEWS = (256, 256), 8


@dataclass(frozen=True)
class Job:
    """A scene and its chosen views: all of them, or one process's part.

    Attributes:
        scene: the scene, without its images.
        name: of the scene in tables; no two scenes of a run share one.
        folder: where results go.
        inputs, targets: v and u positions in `scene.views`.
        input_c2w, target_c2w: (v, 4, 4) and (u, 4, 4) poses in the frame that the network sees.
        from_capture: (4, 4) float64, the similarity from the frame of the scene's file into that frame; None if it is the same.
        targets_before: number of targets in the parts of lower-ranked processes.
        note: how the run departs from what the weights were trained with; empty if it does not.
        growing: where the inputs come from if the scene is still being captured; `inputs` are then those listed so far.
    """

    scene: Scene
    name: str
    folder: Path
    inputs: list[int]
    targets: list[int]
    input_c2w: Tensor
    target_c2w: Tensor
    from_capture: Tensor | None = None
    targets_before: int = 0
    note: str = ""
    growing: SceneStream | None = None


def plan_scenes(
    scenes: Scenes, views: Views, trained: TrainedWith, num_workers: int | None, streaming: Streaming
) -> tuple[SceneDataset, list[Job]]:
    """Read the scenes' cameras and choose the views of each; no image is read yet.

    Args:
        scenes, views: settings.
        trained: what the weights were trained with.
        num_workers: threads that read images; None for one per core, 8 at most.
        streaming: whether inputs are read as a stream: then they are in list order and, unless their number is given, all views
            that are not targets.

    Returns:
        the scenes, and a job for every scene, or in a sweep for every number of inputs and every scene.
    """
    streamed, wait_s = streaming.stream is not None, streaming.wait
    if wait_s:
        wait_for_scene(scenes.source, wait_s)
    image_size = scenes.image_size or trained.image_size or DEFAULT_IMAGE_SIZE
    most_inputs = trained.num_input_views or DEFAULT_INPUT_VIEWS
    workers = min(8, cores()) if num_workers is None else num_workers
    dataset = SceneDataset(scenes.source, image_size, patch_size=1, workers=workers)  # the patch is known when the model is loaded
    found = [dataset[i] for i in range(len(dataset))]
    if wait_s and len(found) > 1:
        raise InputError(scenes.source, f"lists {len(found)} scenes with --wait", "one scene")
    jobs = []
    for scene, name in zip(found, folder_names([scene.name for scene in found]), strict=True):
        choice = choose_views(scene, views, None if streamed else most_inputs, scenes.normalised)
        for inputs in map(sorted, choice.inputs) if streamed else choice.inputs:
            folder = Path(scenes.output_dir) / name / (f"inputs_{len(inputs)}" if views.swept else "")
            job = plan_job(scene, name, folder, inputs, choice.targets, views, scenes.normalised)
            if wait_s:
                frame = SceneRequest(image_size, scenes.normalised, views.pose_reference, views.scene_scale)
                job = replace(job, growing=SceneStream(scene, frame, None, wait_s))
            jobs.append(job)
    warnings = CameraWarnings(normalised=scenes.normalised)
    for scene in found:
        warnings.check(scene)
    # By number of inputs, so that processes that take a scene each at a time take equally long.
    return dataset, sorted(jobs, key=lambda job: len(job.inputs)) if views.swept else jobs


def choose_views(scene: Scene, views: Views, most_inputs: int | None, normalised: bool) -> ViewChoice:
    """Choose a scene's targets and, for every number of inputs that is asked for, its inputs.

    Args:
        scene: the scene.
        views: how to choose.
        most_inputs: number of inputs where none is given, or as many as leave a target; None for all that are not targets.
        normalised: whether poses are normalised, as for scenes.
    """
    c2w = np.stack([view.c2w for view in scene.views])
    if views.view_index is not None:
        return read_view_index(views.view_index, scene.name, len(c2w), views.num_input_views)
    try:
        return select_sweep(
            c2w,
            views.num_input_views or (default_inputs(len(c2w), views, most_inputs),),
            num_all_views=views.num_all_views,
            num_target_views=views.num_target_views,
            method=views.view_selection or default_method(normalised),
            target_every=views.target_every,
            seed=views.seed,
        )
    except InputError as error:
        raise error.within(scene.json_path) from error


def plan_job(scene: Scene, name: str, folder: Path, inputs: list[int], targets: list[int], views: Views, normalised: bool) -> Job:
    """Return the job of a scene with chosen views: transform their poses into the frame that the network sees."""
    poses, from_capture = torch.from_numpy(np.stack([scene.views[i].c2w for i in inputs + targets])), None
    if normalised:
        reference = poses[: len(inputs)] if views.pose_reference == "inputs" else poses
        try:
            poses, from_capture = in_scene_frame(poses, reference, views.scene_scale)
        except InputError as error:
            raise error.within(scene.json_path) from error
    input_c2w, target_c2w = poses.float().split([len(inputs), len(targets)])
    return Job(scene, name, folder, inputs, targets, input_c2w, target_c2w, from_capture)


def default_inputs(n: int, views: Views, most: int | None) -> int:
    """Return the number of inputs of a scene of n views where none is given: `most`, or as many as leave a target.

    With None for `most`, all that are not targets; by default none is one.
    """
    left = (1 if most is not None else 0) if views.num_target_views is None else views.num_target_views
    candidates = min(n, views.num_all_views or n) - left
    if views.target_every is not None:
        candidates = n - len(range(0, n, views.target_every))
    return max(1, candidates if most is None else min(most, candidates))


def choices_of(jobs: Iterable[Job]) -> dict[str, ViewChoice]:
    """Return the chosen views of every scene, by its name in its file, for an index file.

    Raises:
        InputError: two scenes have one name.
    """
    choices: dict[str, ViewChoice] = {}
    names: dict[str, str] = {}
    for job in jobs:
        if names.setdefault(job.scene.name, job.name) != job.name:
            raise InputError(
                "--write_view_index", f"cannot tell two scenes named {job.scene.name} apart", "scenes of different names"
            )
        before = choices.get(job.scene.name, ViewChoice((), job.targets))
        choices[job.scene.name] = ViewChoice((*before.inputs, job.inputs), job.targets)
    return choices


def input_views(jobs: Sequence[Job], swept: bool) -> Mapping[str, object]:
    """Return the inputs of every scene, in a sweep by their number, for metrics.json."""
    if not swept:
        return {job.name: job.inputs for job in jobs}
    names = dict.fromkeys(job.name for job in jobs)
    return {name: {str(len(job.inputs)): job.inputs for job in jobs if job.name == name} for name in names}


def noted(jobs: list[Job], weights: str, trained: TrainedWith, size: tuple[int, int], normalised: bool) -> list[Job]:
    """Return the jobs, each with how it departs from what the weights, a name, were trained with."""
    return [replace(job, note=departure(weights, trained, size, len(job.inputs), normalised)) for job in jobs]


def notes_of(jobs: Iterable[Job]) -> list[str]:
    """Return the notes of some jobs, each once."""
    return list(dict.fromkeys(job.note for job in jobs if job.note))
