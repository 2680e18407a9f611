"""Rendering of new views from posed photos: metrics on held-out views, comparison pictures, and a video per scene.

    python inference.py --load weight/obj_res256.pt --image_size 256 256 --data_path data_example/gso_sample_data_path.json

--output_dir gets metrics.json, metrics_views.csv, metrics_scenes.csv, and per scene a folder with comparison.png and video.mp4.
`torchrun --nproc_per_node=N inference.py …` divides the scenes among N processes and writes one table; with `--context_parallel M`
groups of M processes, called contexts, split the views of one scene, for scenes with too many views for one GPU.

Letters: v input views, u target views, h w pixels.
"""

if __name__ == "__main__":  # before the imports below, which take seconds, and before torch reads its settings
    from config.startup import start

    start()

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.console import forgiving_console
from config.errors import InputError, line_of
from config.flags import read_command_line, settings
from config.rendering import (
    DEFAULT_SCENE_WEIGHTS,
    DEFAULT_WEIGHTS,
    SETTINGS,
    Interaction,
    Machine,
    Network,
    Results,
    Scenes,
    Video,
    Views,
    check_flags,
    check_kind,
)
from config.signals import run_interruptibly
from config.threads import cores
from data.dataset import SceneDataset
from data.image_size import check_image_size
from data.output.report import SceneReport, bar, folder_names, layer_bar, open_folder, table, write_report
from data.output.video import find_encoder
from data.poses import in_scene_frame
from data.scene_format import Scene
from data.scene_problems import CameraWarnings
from data.view_index import read_view_index
from data.view_selection import default_method, select_views
from model import LaCTLVSM, SceneState, load_model
from model.departure import TrainedWith, departure
from model.machine import describe_machine, version
from model.metric import LPIPS, psnr, ssim
from model.parallel.context import ContextGroup, join_context, own_inputs, own_targets
from model.parallel.launcher import adopt_slurm, world_size
from model.parallel.processes import Processes, end_processes, lost_processes_are_refused, start_processes
from model.runtime import PRECISIONS, full_memory_is_refused
from model.video_frames import render_video
from model.video_plan import VideoPlan
from model.viewer import PathFiles, Photos, ViewedScene, serve
from model.weights.hub import resolve_lpips, resolve_weights
from model.weights.trained_with import trained_with

# Defaults where neither weight/checkpoints.yaml nor the weight file states these.
DEFAULT_IMAGE_SIZE, DEFAULT_INPUT_VIEWS = (256, 256), 8
# Number of targets whose photos are in memory at once.
TARGET_BATCH = 16
LESS_MEMORY = "fewer input views, smaller images or --chunk_views 1"
# Errors that the user can fix. Any other is a bug and shows its traceback.
USER_ERRORS = (InputError, OSError)

Metrics = dict[str, Callable[[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class Job:
    """A scene and its chosen views: all of them, or one process's part.

    Attributes:
        scene: the scene, without its images.
        folder: where results go.
        inputs, targets: v and u positions in `scene.views`.
        input_c2w, target_c2w: (v, 4, 4) and (u, 4, 4) poses in the frame that the network sees.
        from_capture: (4, 4) float64, the similarity from the frame of the scene's file into that frame; None if it is the same.
        targets_before: number of targets in the parts of lower-ranked processes.
        note: how the run departs from what the weights were trained with; empty if it does not.
    """

    scene: Scene
    folder: Path
    inputs: list[int]
    targets: list[int]
    input_c2w: Tensor
    target_c2w: Tensor
    from_capture: Tensor | None = None
    targets_before: int = 0
    note: str = ""


@dataclass(frozen=True)
class Renderer:
    """A network, the processes that it shares a scene's views with, and the views computed at a time (None: by free memory)."""

    model: LaCTLVSM
    context: ContextGroup
    chunk_views: int | None


@forgiving_console()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code.

    0: done; 2: an error that the user can fix, with one line on standard error; 128 + the number of a signal: interrupted.
    """
    return run_interruptibly("inference.py", lambda signals: begin(argv))


def begin(argv: Sequence[str] | None) -> int:
    """Read the flags, join the other processes and run; return the exit code."""
    try:
        adopt_slurm()
        given = read_command_line("inference.py", "Render new views from posed photos.", SETTINGS, argv, version=version)
        check_flags(given, world_size())
        state = SceneState.load(given["load_state"]) if "load_state" in given else None
        of_scenes = given.get("scene_inference", state is not None and state.normalised)
        given.setdefault("load", str(DEFAULT_SCENE_WEIGHTS if of_scenes else DEFAULT_WEIGHTS))
        trained = trained_with(given["load"])
        normalised = trained.scene_pose_normalize if state is None or state.normalised is None else state.normalised
        given.setdefault("scene_inference", bool(normalised))
        check_kind(given, given["scene_inference"])
        plan = VideoPlan.of(settings(Video, given), given["scene_inference"], None if state is None else given.get("image_size"))
    except USER_ERRORS as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of the machine would print this
            print(f"inference.py: {line_of(error)}", file=sys.stderr)
        return 2
    machine = settings(Machine, given)
    try:
        with full_memory_is_refused(LESS_MEMORY), lost_processes_are_refused():
            run(given, trained, state, plan, start_processes(machine.device, machine.context_parallel))
    except USER_ERRORS as error:
        print(f"inference.py: {line_of(error)}", file=sys.stderr)
        return 2
    finally:
        end_processes()
    return 0


@contextlib.contextmanager
def together(processes: Processes) -> Iterator[None]:
    """If the block fails on one process, end the run on all of them: the first reports the error, and none is left waiting."""
    problem = None
    try:
        with full_memory_is_refused(LESS_MEMORY):
            yield
    except USER_ERRORS as error:
        problem = error
    if not processes.highest(int(problem is not None)):
        return
    # Some subclasses of OSError cannot be sent to another process.
    sent = problem if problem is None or isinstance(problem, InputError) else OSError(str(problem))
    problems = processes.gather(sent)
    if problems is None:
        raise SystemExit(2)
    raise problem or next(filter(None, problems))


def run(given: Mapping[str, Any], trained: TrainedWith, state: SceneState | None, plan: VideoPlan, processes: Processes) -> None:
    """Evaluate all scenes, or render the video of a saved reconstruction.

    Args:
        given: the flags on the command line, and `scene_inference`.
        trained: what the weights were trained with.
        state: the saved reconstruction, if any.
        plan: of the videos.
        processes: of the run.
    """
    scenes = settings(Scenes, given)
    if "viewer" in given:
        view(given, trained, state, processes.device)
        return
    with together(processes):
        if plan.wanted:
            find_encoder(plan.file_name)
        open_folder(scenes.output_dir)
    with processes.locked(Path(scenes.output_dir), "--output_dir"):
        if state is None:
            evaluate_scenes(given, trained, plan, processes)
        else:
            render_saved(state, given, trained, plan, processes.device)
    if processes.first:
        print(f"results in {scenes.output_dir}")


def render_saved(state: SceneState, given: Mapping[str, Any], trained: TrainedWith, plan: VideoPlan, device: torch.device) -> None:
    """Render the video of a scene that an earlier run reconstructed."""
    network, scenes, machine = settings(Network, given), settings(Scenes, given), settings(Machine, given)
    model = prepare_model(network, machine, device)
    plan.check_size(state.image_size, model.config.patch_size)
    image_size = plan.image_size(state.image_size)
    note = departure(Path(network.weights).name, trained, image_size, state.c2w.shape[1], scenes.normalised)
    warn([note] if note else [])
    render_video(model, join_context(1), machine.chunk_views, state, plan, Path(scenes.output_dir), given["load_state"])


def view(given: Mapping[str, Any], trained: TrainedWith, state: SceneState | None, device: torch.device) -> None:
    """Show the scenes, or a saved reconstruction, in browsers until the program is interrupted."""
    network, scenes, views = settings(Network, given), settings(Scenes, given), settings(Views, given)
    interaction, machine = settings(Interaction, given), settings(Machine, given)
    model = prepare_model(network, machine, device)
    if state is None:
        dataset, jobs = plan_scenes(scenes, views, trained, machine.num_workers)
        check_image_size(dataset.image_size, model.config.patch_size)
        size = dataset.image_size
        warn(notes_of(noted(jobs, network, trained, size, scenes.normalised)))
        menu = {job.folder.name: partial(viewed_scene, job, model, size, views, machine.chunk_views) for job in jobs}
    else:
        size, name = scenes.image_size or state.image_size, Path(given["load_state"]).stem
        menu = {name: partial(ViewedScene.of_state, state, model, name, machine.chunk_views)}
    files = PathFiles.of(settings(Video, given), Path(scenes.output_dir))
    serve(menu, size, files, interaction.host, interaction.port, few_sizes=machine.compile)


def viewed_scene(job: Job, model: LaCTLVSM, size: tuple[int, int], views: Views, chunk_views: int | None) -> ViewedScene:
    """Return a job's scene for the viewer, in which any number of its views can become inputs."""

    def choose(number: int) -> list[int]:
        these = replace(views, view_index=None, num_input_views=number, num_target_views=0, target_every=None)
        return choose_views(job.scene, job.folder, number, these, job.from_capture is not None).inputs

    photos = Photos(job.scene, size, choose)
    return ViewedScene.of_photos(photos, model, job.folder.name, job.inputs, job.from_capture, chunk_views)


def noted(jobs: list[Job], network: Network, trained: TrainedWith, size: tuple[int, int], normalised: bool) -> list[Job]:
    """Return the jobs, each with how it departs from what the weights were trained with."""
    name = Path(network.weights).name
    return [replace(job, note=departure(name, trained, size, len(job.inputs), normalised)) for job in jobs]


def notes_of(jobs: Iterable[Job]) -> list[str]:
    """Return the notes of some jobs, each once."""
    return list(dict.fromkeys(job.note for job in jobs if job.note))


def warn(notes: Iterable[str]) -> None:
    """Print each note on a line of its own, on standard error."""
    for note in notes:
        print(f"inference.py: {note}", file=sys.stderr)


def evaluate_scenes(given: Mapping[str, Any], trained: TrainedWith, plan: VideoPlan, processes: Processes) -> None:
    """Render all scenes, each on one context of processes; write and print the metrics on the first process."""
    network, scenes = settings(Network, given), settings(Scenes, given)
    results, machine = settings(Results, given), settings(Machine, given)
    context = join_context(processes.context_size)
    with together(processes):
        dataset, jobs = plan_scenes(scenes, settings(Views, given), trained, machine.num_workers)
        jobs = noted(jobs, network, trained, dataset.image_size, scenes.normalised)
        model = prepare_model(network, machine, processes.device)
        model.context = context
        renderer = Renderer(model, context, machine.chunk_views)
        check_image_size(dataset.image_size, model.config.patch_size)
        plan.check_size(dataset.image_size, model.config.patch_size)
        weights = resolve_weights(network.weights).resolve()
        bundled = weights in (DEFAULT_WEIGHTS.resolve(), DEFAULT_SCENE_WEIGHTS.resolve())
        video_size = plan.image_size(dataset.image_size)
        # With a bundled model nothing is downloaded.
        metrics, not_computed = choose_metrics(jobs, results.no_lpips, not bundled, processes.device)
    if processes.highest(len(not_computed)) > len(not_computed):  # another process lacks LPIPS: none computes it
        del metrics["lpips"]
        not_computed = {"lpips": "its weights are missing on another process"}
    notes = notes_of(jobs)
    if plan.wanted and video_size != dataset.image_size:
        note = departure(f"video, {Path(network.weights).name}", trained, video_size, 0, scenes.normalised)
        notes += [note] if note else []
    if processes.first:
        warn(notes)
    rows: list[dict] = []
    with bar(total=len(jobs), desc="scenes", unit="scene") as progress:
        for start in range(0, len(jobs), processes.data_ranks):
            turn, mine = jobs[start : start + processes.data_ranks], []
            with together(processes):
                if processes.data_rank < len(turn):
                    job = turn[processes.data_rank]
                    mine = render_scene(job, dataset, renderer, metrics, scenes.normalised, plan, results)
            rows += [row for part in processes.gather(mine) or [] for row in part]
            progress.update(len(turn))
    if processes.first and rows:
        about = {**settings_of(given), "load": str(weights) if bundled else network.weights, "data_path": scenes.source}
        about |= {"image_size": dataset.image_size, "device": str(processes.device), "precision": str(model.compute_dtype)}
        about |= {"machine": describe_machine(processes.device, model.compute_dtype)}
        about |= {"not_computed": not_computed, "input_views": {job.folder.name: job.inputs for job in jobs}}
        about |= {"trained_with": trained.to_dict(), "warnings": notes}
        write_report(scenes.output_dir, rows, about)
        print(table(rows, not_computed))


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for metrics.json: switches, video format and fast-weight operations always, others if given."""
    always = {**asdict(settings(Scenes, given)), **asdict(settings(Results, given))}
    always |= {"video_format": Video().video_format, "compile": Machine().compile, "fast_weight_ops": Machine().fast_weight_ops}
    return {name: value for name, value in {**always, **given}.items() if value is not None and name != "output_dir"}


def plan_scenes(scenes: Scenes, views: Views, trained: TrainedWith, num_workers: int | None) -> tuple[SceneDataset, list[Job]]:
    """Read the scenes' cameras and choose the views of each; no image is read yet."""
    image_size = scenes.image_size or trained.image_size or DEFAULT_IMAGE_SIZE
    most_inputs = trained.num_input_views or DEFAULT_INPUT_VIEWS
    workers = min(8, cores()) if num_workers is None else num_workers
    dataset = SceneDataset(scenes.source, image_size, patch_size=1, workers=workers)  # the patch is known when the model is loaded
    found = [dataset[i] for i in range(len(dataset))]
    jobs = []
    for scene, name in zip(found, folder_names([scene.name for scene in found]), strict=True):
        jobs.append(choose_views(scene, Path(scenes.output_dir) / name, most_inputs, views, scenes.normalised))
    warnings = CameraWarnings(normalised=scenes.normalised)
    for scene in found:
        warnings.check(scene)
    return dataset, jobs


def default_inputs(n: int, views: Views, most: int) -> int:
    """Return the number of inputs of a scene of n views where none is given: `most`, or as many as leave a target."""
    candidates = min(n, views.num_all_views or n) - (1 if views.num_target_views is None else views.num_target_views)
    if views.target_every is not None:
        candidates = n - len(range(0, n, views.target_every))
    return max(1, min(most, candidates))


def choose_views(scene: Scene, folder: Path, most_inputs: int, views: Views, scene_inference: bool) -> Job:
    """Choose a scene's inputs and targets, and transform their poses into the frame that the network sees."""
    c2w = np.stack([view.c2w for view in scene.views])
    method = views.view_selection or default_method(scene_inference)
    index = None if views.view_index is None else read_view_index(views.view_index, scene.name, len(c2w))
    try:
        if index is not None:
            inputs, targets = index.inputs[0], index.targets
        else:
            inputs, targets = select_views(
                c2w,
                num_all_views=views.num_all_views,
                num_input_views=views.num_input_views or default_inputs(len(c2w), views, most_inputs),
                num_target_views=views.num_target_views,
                method=method,
                target_every=views.target_every,
                seed=views.seed,
            )
        poses, from_capture = torch.from_numpy(c2w[inputs + targets]), None
        if scene_inference:
            reference = poses[: len(inputs)] if views.pose_reference == "inputs" else poses
            poses, from_capture = in_scene_frame(poses, reference, views.scene_scale)
    except InputError as error:
        raise error.within(scene.json_path) from error
    input_c2w, target_c2w = poses.float().split([len(inputs), len(targets)])
    return Job(scene, folder, inputs, targets, input_c2w, target_c2w, from_capture)


def prepare_model(network: Network, machine: Machine, device: torch.device) -> LaCTLVSM:
    """Load the network, and compile its layers where that is requested."""
    model = load_model(network.weights, network.config, device, machine.precision)
    model.set_fast_weight(PRECISIONS[machine.newton_schulz_dtype], machine.fast_weight_ops)
    return model.compile_layers(mode=machine.compile_mode) if machine.compile else model


def choose_metrics(jobs: list[Job], no_lpips: bool, fetch: bool, device: torch.device) -> tuple[Metrics, dict[str, str]]:
    """Return the metrics to compute, and why the others are not; `fetch`: download LPIPS's files where they are missing."""
    metrics: Metrics = {"psnr": psnr, "ssim": ssim}
    if no_lpips:
        return metrics, {"lpips": "--no_lpips"}
    if any(job.targets for job in jobs):
        try:
            metrics["lpips"] = LPIPS.from_files(*resolve_lpips(fetch=fetch)).to(device)
        except OSError as error:
            return metrics, {"lpips": str(error)}
    return metrics, {}


def render_scene(
    job: Job,
    dataset: SceneDataset,
    renderer: Renderer,
    metrics: Metrics,
    scene_inference: bool,
    plan: VideoPlan,
    results: Results,
) -> list[dict]:
    """Reconstruct a scene and write its results; return a row of metrics per target.

    Each process of the context computes its part of inputs, targets and frames; the first writes what concerns the whole scene and
    returns all rows, the others none. Steps that can fail on one process alone run in `context.together`: no other waits for it.
    """
    context = renderer.context
    own = own_part(job, context)
    with context.together():
        photos = dataset.load(own.scene, own.inputs)
    state = reconstruct(renderer, own, photos)
    state.normalised = scene_inference
    state.from_capture = None if job.from_capture is None else job.from_capture[None]
    with context.together():
        if results.save_state and context.rank == 0:
            state.save(job.folder / "state.safetensors")
        # The report keeps bytes; the floats are freed before targets are rendered.
        inputs = photos.pop("image")
        report = SceneReport(job.folder, inputs, len(job.targets), metrics, results.save_images, own.targets_before)
        del inputs
        evaluate(renderer, state, dataset, own, report)
    parts = context.gather(report.content)
    rows = []
    with context.together():
        if parts is not None:  # on the first process
            for part in parts[1:]:
                report.take_in(part)
            rows = report.finish(job.note)
    if plan.wanted:
        render_video(renderer.model, context, renderer.chunk_views, state, plan, job.folder, job.folder.name, report.inputs)
    return rows


def own_part(job: Job, context: ContextGroup) -> Job:
    """Return this process's part of a job."""
    i = own_inputs(len(job.inputs), context.rank, context.size)
    t = own_targets(len(job.targets), context.rank, context.size)
    inputs, targets = slice(i.start, i.stop), slice(t.start, t.stop)
    own = replace(job, inputs=job.inputs[inputs], targets=job.targets[targets], targets_before=t.start)
    return replace(own, input_c2w=job.input_c2w[inputs], target_c2w=job.target_c2w[targets])


def reconstruct(renderer: Renderer, own: Job, photos: Mapping[str, Tensor]) -> SceneState:
    """Encode the input views of all processes of the context into one state, which all of them return. Collective."""
    cameras = photos["fxfycxcy"][None], own.input_c2w[None]
    try:
        with full_memory_is_refused(LESS_MEMORY), layer_bar(renderer.model.device) as progress:
            return renderer.model.reconstruct(photos["image"][None], *cameras, renderer.chunk_views, progress)
    except InputError as error:
        if renderer.context.size == 1:
            raise
        # The others wait for this process inside the network: its exit is the only way to unblock them.
        print(f"inference.py: {line_of(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def evaluate(renderer: Renderer, state: SceneState, dataset: SceneDataset, own: Job, report: SceneReport) -> None:
    """Render this process's targets and add each, with its photo, to the report."""
    with bar(total=len(own.targets), desc="evaluate", unit="view") as progress:
        for start in range(0, len(own.targets), TARGET_BATCH):
            batch = slice(start, start + TARGET_BATCH)
            photos = dataset.load(own.scene, own.targets[batch])
            cameras = photos["fxfycxcy"][None], own.target_c2w[None, batch]
            stream = renderer.model.render_stream(state, *cameras, state.image_size, renderer.chunk_views)
            rendered = (image for chunk in stream for image in chunk[0])
            for view, photo, image in zip(own.targets[batch], photos["image"], rendered, strict=True):
                report.add(view, photo, image)
                progress.update()


if __name__ == "__main__":
    sys.exit(main())
