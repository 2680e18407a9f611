"""Rendering of new views from posed photos: metrics on held-out views, comparison pictures, and a video per scene.

    python inference.py --load weight/obj_res256.pt --image_size 256 256 --data_path data_example/gso_sample_data_path.json

--output_dir gets report.html, the scores as metrics.json, CSV, Markdown and LaTeX, and per scene a folder with comparison.png and
video.mp4. `--num_input_views 4 8 16` compares numbers of inputs: SCENE/inputs_N/, and curves.png.
`torchrun --nproc_per_node=N inference.py …` divides the scenes among N processes and writes one table; with `--context_parallel M`
groups of M processes, called contexts, split the views of one scene, for scenes with too many views for one GPU.
"""

if __name__ == "__main__":  # before the imports below, which take seconds, and before torch reads its settings
    from config.startup import start

    start()

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from config.console import forgiving_console
from config.errors import InputError, line_of
from config.flags import read_command_line, settings
from config.messages import speaks_for_machine
from config.rendering import (
    DEFAULT_SCENE_WEIGHTS,
    DEFAULT_WEIGHTS,
    SETTINGS,
    Interaction,
    Machine,
    Network,
    Results,
    Scenes,
    Streaming,
    Video,
    Views,
)
from config.rendering_checks import check_flags, check_kind, with_protocol
from config.signals import run_interruptibly
from data.image_size import check_image_size
from data.output.evaluation import Evaluation
from data.output.html_report import section_budget
from data.output.report import bar, open_folder
from data.output.video import find_encoder
from data.view_index import write_view_index
from model import LaCTLVSM, SceneState, load_model
from model.departure import TrainedWith, departure
from model.evaluation.plan import Job, choices_of, choose_views, input_views, noted, notes_of, plan_scenes
from model.evaluation.render_scene import LESS_MEMORY, Renderer, render_scene
from model.evaluation.scores import choose_metrics
from model.machine import describe_machine, version
from model.parallel.context import join_context
from model.parallel.launcher import adopt_slurm, world_size
from model.parallel.processes import Processes, end_processes, lost_processes_are_refused, start_processes
from model.runtime import PRECISIONS, full_memory_is_refused
from model.video_frames import render_video
from model.video_plan import VideoPlan
from model.viewer import PathFiles, Photos, ViewedScene, serve
from model.weights.hub import resolve_weights
from model.weights.trained_with import trained_with

# Errors that the user can fix. Any other is a bug and shows its traceback.
USER_ERRORS = (InputError, OSError)


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
        given = with_protocol(given)
        state = SceneState.load(given["load_state"]) if "load_state" in given else None
        of_scenes = given.get("scene_inference", state is not None and state.normalised)
        given.setdefault("load", str(DEFAULT_SCENE_WEIGHTS if of_scenes else DEFAULT_WEIGHTS))
        trained = trained_with(given["load"])
        normalised = trained.scene_pose_normalize if state is None or state.normalised is None else state.normalised
        given.setdefault("scene_inference", bool(normalised))
        check_kind(given, given["scene_inference"])
        plan = VideoPlan.of(settings(Video, given), given["scene_inference"], None if state is None else given.get("image_size"))
    except USER_ERRORS as error:
        if speaks_for_machine():
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
        dataset, jobs = plan_scenes(scenes, views, trained, machine.num_workers, Streaming())
        check_image_size(dataset.image_size, model.config.patch_size)
        size = dataset.image_size
        warn(notes_of(noted(jobs, Path(network.weights).name, trained, size, scenes.normalised)))
        menu = {job.name: partial(viewed_scene, job, model, size, views, machine.chunk_views) for job in jobs}
    else:
        size, name = scenes.image_size or state.image_size, Path(given["load_state"]).stem
        menu = {name: partial(ViewedScene.of_state, state, model, name, machine.chunk_views)}
    files = PathFiles.of(settings(Video, given), Path(scenes.output_dir))
    serve(menu, size, files, interaction.host, interaction.port, few_sizes=machine.compile)


def viewed_scene(job: Job, model: LaCTLVSM, size: tuple[int, int], views: Views, chunk_views: int | None) -> ViewedScene:
    """Return a job's scene for the viewer, in which any number of its views can become inputs."""

    def choose(number: int) -> list[int]:
        these = replace(views, view_index=None, num_input_views=(number,), num_target_views=0, target_every=None)
        return choose_views(job.scene, these, number, job.from_capture is not None).inputs[0]

    photos = Photos(job.scene, size, choose)
    return ViewedScene.of_photos(photos, model, job.name, job.inputs, job.from_capture, chunk_views)


def warn(notes: Iterable[str]) -> None:
    """Print each note on a line of its own, on standard error."""
    for note in notes:
        print(f"inference.py: {note}", file=sys.stderr)


def evaluate_scenes(given: Mapping[str, Any], trained: TrainedWith, plan: VideoPlan, processes: Processes) -> None:
    """Render all scenes, each on one context of processes; write and print the scores on the first process."""
    network, scenes, views = settings(Network, given), settings(Scenes, given), settings(Views, given)
    results, machine, streaming = settings(Results, given), settings(Machine, given), settings(Streaming, given)
    context = join_context(processes.context_size)
    with together(processes):
        dataset, jobs = plan_scenes(scenes, views, trained, machine.num_workers, streaming)
        size = dataset.image_size
        jobs = noted(jobs, Path(network.weights).name, trained, size, scenes.normalised)
        model = prepare_model(network, machine, processes.device)
        model.context = context
        renderer = Renderer(model, context, machine.chunk_views, streaming)
        check_image_size(size, model.config.patch_size)
        plan.check_size(size, model.config.patch_size)
        if views.write_view_index and processes.first:
            write_view_index(views.write_view_index, choices_of(jobs))
        weights = resolve_weights(network.weights).resolve()
        bundled = weights in (DEFAULT_WEIGHTS.resolve(), DEFAULT_SCENE_WEIGHTS.resolve())
        # With a bundled model nothing is downloaded.
        any_targets = any(job.targets for job in jobs)
        metrics, not_computed = choose_metrics(any_targets, results.no_lpips, not bundled, processes.device)
    if processes.highest(len(not_computed)) > len(not_computed):  # another process lacks LPIPS: none computes it
        del metrics["lpips"]
        not_computed = {"lpips": "its weights are missing on another process"}
    notes = notes_of(jobs)
    video_size = plan.image_size(size)
    if plan.wanted and video_size != size:
        note = departure(f"video, {Path(network.weights).name}", trained, video_size, 0, scenes.normalised)
        notes += [note] if note else []
    if processes.first:
        warn(notes)
    about = {**settings_of(given), "load": str(weights) if bundled else network.weights, "data_path": scenes.source}
    about |= {"image_size": size, "device": str(processes.device), "precision": str(model.compute_dtype)}
    about |= {"machine": describe_machine(processes.device, model.compute_dtype), "not_computed": not_computed}
    about |= {"input_views": input_views(jobs, views.swept), "trained_with": trained.to_dict(), "warnings": notes}
    evaluation = Evaluation(Path(scenes.output_dir), about, views.swept, weights.stem, trained.num_input_views)
    budget = section_budget(len(jobs))
    with bar(total=len(jobs), desc="scenes", unit="scene") as progress:
        for start in range(0, len(jobs), processes.data_ranks):
            turn, mine = jobs[start : start + processes.data_ranks], []
            with together(processes):
                if processes.data_rank < len(turn):
                    job = turn[processes.data_rank]
                    mine = render_scene(job, dataset, renderer, metrics, plan, results, budget)
            parts = processes.gather(mine) or []
            with together(processes):
                evaluation.add([result for part in parts for result in part])
            progress.update(len(turn))
    if processes.first and any_targets:
        print(evaluation.finish())


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for metrics.json: switches, video format and fast-weight operations always, others if given."""
    always = {**asdict(settings(Scenes, given)), **asdict(settings(Results, given))}
    always |= {"video_format": Video().video_format, "compile": Machine().compile, "fast_weight_ops": Machine().fast_weight_ops}
    return {name: value for name, value in {**always, **given}.items() if value is not None and name != "output_dir"}


def prepare_model(network: Network, machine: Machine, device: torch.device) -> LaCTLVSM:
    """Load the network, and compile its layers where that is requested."""
    model = load_model(network.weights, network.config, device, machine.precision)
    model.set_fast_weight(PRECISIONS[machine.newton_schulz_dtype], machine.fast_weight_ops)
    return model.compile_layers(mode=machine.compile_mode) if machine.compile else model


if __name__ == "__main__":
    sys.exit(main())
