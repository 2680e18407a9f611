"""Evaluation of one scene: reconstruction, renderings of the targets with their scores, video. Letters: v inputs, u targets."""

import contextlib
import math
import sys
import warnings
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError, line_of
from config.rendering import Results, Streaming
from data.dataset import SceneDataset
from data.output.report import SceneReport, SceneResult, bar, reconstruction_bar
from data.output.video import to_uint8
from data.view_selection import spread_order
from model.evaluation.plan import Job
from model.evaluation.scores import Metrics, Scored
from model.evaluation.stopwatch import Stopwatch, timed
from model.evaluation.streamed_inputs import InputsOfJob, StoredPhotos, Watched
from model.lact_lvsm import FIRST_VIEWS, LaCTLVSM
from model.layers.address import focus_of
from model.parallel.context import ContextGroup, own_inputs, own_targets
from model.runtime import full_memory_is_refused, peak_memory, reset_peak_memory
from model.scene_state import SceneState
from model.scene_stream import ViewsMissing
from model.video_frames import nearest_inputs, render_video
from model.video_plan import VideoPlan

# Number of targets whose photos are in memory at once.
TARGET_BATCH = 16
# Distance of a focus from that of all views, in those of the cameras, from which on it costs more than what a stream loses anyway.
FAR_DRIFT = 0.5
LESS_MEMORY = "fewer input views, smaller images or --chunk_views 1"


@dataclass(frozen=True)
class Renderer:
    """A network and how it is used.

    Attributes:
        model: the network.
        context: the processes that share a scene's views.
        chunk_views: views computed at a time; None: by free memory.
        streaming: whether inputs are read as a stream, and how.
    """

    model: LaCTLVSM
    context: ContextGroup
    chunk_views: int | None
    streaming: Streaming


@dataclass(frozen=True)
class Baselines:
    """What a rendering is compared with: the mean of a scene's inputs, and the input nearest to each target.

    Attributes:
        mean: (3, h, w).
        nearest: (u) positions in the scene.
    """

    mean: Tensor
    nearest: list[int]


@dataclass(frozen=True)
class Reconstruction:
    """A scene's state, and what its report needs of the inputs.

    Attributes:
        state: of all inputs.
        views: positions in the scene of those inputs whose photos this process has at hand.
        photos: these photos, (h, w, 3) uint8.
        mean: (3, h, w), the mean of all inputs.
        seconds: that it took, without reading photos.
    """

    state: SceneState
    views: list[int]
    photos: Sequence[np.ndarray]
    mean: Tensor
    seconds: float


def render_scene(
    job: Job, dataset: SceneDataset, renderer: Renderer, metrics: Metrics, plan: VideoPlan, results: Results, budget: int
) -> list[SceneResult]:
    """Reconstruct a scene and write its results; return its scores.

    Each process of the context computes its part of inputs, targets and frames; the first writes what concerns the whole scene and
    returns the result, the others none. Steps that can fail on one process alone run in `context.together`: no other waits for it.

    Args:
        job: the scene.
        dataset: of its photos.
        renderer: of this process.
        metrics: to compute.
        plan: of the video.
        results: what to write.
        budget: bytes of pictures in the scene's section of the page.
    """
    context, device = renderer.context, renderer.model.device
    own = own_part(job, context)
    reset_peak_memory(device)
    if renderer.streaming.stream is None:
        made = reconstruct(renderer, own, dataset, len(job.inputs))
    else:
        made = reconstruct_stream(renderer, job, dataset)
    state = replace(made.state, normalised=job.from_capture is not None)
    state.from_capture = None if job.from_capture is None else job.from_capture[None]
    rendering = Stopwatch(device)
    with context.together():
        if results.save_state and context.rank == 0:
            state.save(job.folder / "state.safetensors")
        report = SceneReport(
            job.name, job.folder, made.views, made.photos, len(job.targets), results.save_images, own.targets_before
        )
        nearest = [job.inputs[i] for i in nearest_inputs(own.target_c2w, job.input_c2w)]
        evaluate(renderer, state, dataset, own, report, metrics, Baselines(made.mean, nearest), rendering)
    parts = context.gather((report.content, rendering.seconds, peak_memory(device)))
    found = []
    with context.together():
        if parts is not None:  # on the first process
            for content, _, _ in parts[1:]:
                report.take_in(content)
            seconds, peaks = max(part[1] for part in parts), max(part[2] for part in parts)
            tokens = math.prod(dataset.image_size) // renderer.model.config.patch_size**2
            speed = {"reconstruct_s": made.seconds, "input_tokens": tokens * state.c2w.shape[1]}
            speed |= {"tokens_per_view": tokens, "peak_memory_bytes": peaks}
            speed |= {"frames_per_s": len(job.targets) / seconds} if seconds else {}
            found = [report.finish(speed, job.note, budget)]
    if plan.wanted:
        render_video(renderer.model, context, renderer.chunk_views, state, plan, job.folder, job.name, report.inputs)
        video = job.folder / plan.file_name
        found = [replace(result, section=replace(result.section, video=video)) for result in found]
    return found


def own_part(job: Job, context: ContextGroup) -> Job:
    """Return this process's part of a job."""
    i = own_inputs(len(job.inputs), context.rank, context.size)
    t = own_targets(len(job.targets), context.rank, context.size)
    inputs, targets = slice(i.start, i.stop), slice(t.start, t.stop)
    own = replace(job, inputs=job.inputs[inputs], targets=job.targets[targets], targets_before=t.start)
    return replace(own, input_c2w=job.input_c2w[inputs], target_c2w=job.target_c2w[targets])


def reconstruct(renderer: Renderer, own: Job, dataset: SceneDataset, count: int) -> Reconstruction:
    """Reconstruct a scene from all of its `count` inputs, of which this process reads its own. Collective."""
    with renderer.context.together():
        photos = dataset.load(own.scene, own.inputs)
    watch = Stopwatch(renderer.model.device)
    cameras = photos["fxfycxcy"][None], own.input_c2w[None]
    with (
        failing_ends_all(renderer.context),
        full_memory_is_refused(LESS_MEMORY),
        reconstruction_bar(renderer.model.device) as progress,
        watch,
    ):
        state = renderer.model.reconstruct(photos["image"][None], *cameras, renderer.chunk_views, progress)
    total = renderer.context.total(photos["image"].sum(0))
    # The report keeps bytes; the floats are freed before targets are rendered.
    kept = [to_uint8(image) for image in photos.pop("image")]
    return Reconstruction(state, own.inputs, kept, total / count, watch.seconds)


def reconstruct_stream(renderer: Renderer, job: Job, dataset: SceneDataset) -> Reconstruction:
    """Reconstruct a scene from its inputs as they are read; every process of the context reads all of them. Collective."""
    model, streaming, context = renderer.model, renderer.streaming, renderer.context
    assert streaming.stream is not None
    passes, chunk = max(1, min(streaming.passes, len(model.mixing_layers))), streaming.stream
    order = list(range(len(job.inputs))) if streaming.stream_order == "given" else spread_order(len(job.inputs))
    source = InputsOfJob(job, dataset, chunk, order) if job.growing is None else job.growing
    # Of a capture in progress the first few cameras say little of where the others will look.
    focus = focus_of(job.input_c2w[None]) if job.growing is None or len(job.inputs) >= FIRST_VIEWS else None
    inputs = Watched(source, context)
    watch, bar_of_views = Stopwatch(model.device), reconstruction_bar(model.device, "view")
    ends, ignored = failing_ends_all(context, inputs), warnings.catch_warnings()
    with ends, full_memory_is_refused(LESS_MEMORY), ignored, bar_of_views as progress, watch:
        warnings.simplefilter("ignore", ViewsMissing)  # a line of the program's own says so below
        state = model.reconstruct_stream(
            inputs,
            chunk,
            passes,
            focus,
            chunk_views=renderer.chunk_views,
            progress=lambda done: progress(done, passes * len(source.views)),
        )
    if job.growing is None:
        state = model.reordered(state, sorted(range(len(order)), key=order.__getitem__))
    else:
        for note in filter(None, (job.growing.missing, drift_note(job.name, state))):
            print(f"inference.py: {note}", file=sys.stderr)
    views = source.views if context.rank == 0 else []
    photos = StoredPhotos(dataset, source.scene, views)
    return Reconstruction(state, views, photos, inputs.total / len(source.views), watch.seconds - inputs.waiting.seconds)


def drift_note(name: str, state: SceneState) -> str:
    """Return one line about a focus, set by the first views, that is far from where all views look; empty if it is not."""
    drift = 0.0 if state.focus_drift is None else state.focus_drift.max().item()
    if drift < FAR_DRIFT:
        return ""
    return f"{name}: the first views looked elsewhere ({drift:.1f} distances of the cameras away); read it again without --wait"


@contextlib.contextmanager
def failing_ends_all(context: ContextGroup, inputs: Watched | None = None) -> Iterator[None]:
    """Where other processes wait for this one inside the network, end the program on an error: nothing else unblocks them.

    An error of reading `inputs`, if they are read there, is raised: all processes have it.
    """
    try:
        yield
    except InputError as error:
        if context.size == 1 or (inputs is not None and inputs.failed):
            raise
        print(f"inference.py: {line_of(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def evaluate(
    renderer: Renderer,
    state: SceneState,
    dataset: SceneDataset,
    own: Job,
    report: SceneReport,
    metrics: Metrics,
    baselines: Baselines,
    rendering: Stopwatch,
) -> None:
    """Render this process's targets and add each, with its photo and scores, to the report."""
    with bar(total=len(own.targets), desc="evaluate", unit="view") as progress:
        for start in range(0, len(own.targets), TARGET_BATCH):
            batch = slice(start, start + TARGET_BATCH)
            # An object may stand on a transparent background.
            photos = dataset.load(own.scene, own.targets[batch], alpha=not state.normalised)
            photo_of = input_photos(dataset, own, report, set(baselines.nearest[batch]))
            cameras = photos["fxfycxcy"][None], own.target_c2w[None, batch]
            stream = renderer.model.render_stream(state, *cameras, state.image_size, renderer.chunk_views)
            rendered = (image for chunk in timed(stream, rendering) for image in chunk[0])
            views = zip(own.targets[batch], baselines.nearest[batch], photos["image"], rendered, strict=True)
            for i, (view, nearest, photo, image) in enumerate(views):
                pictures = torch.stack([photo_of[nearest], baselines.mean])
                scored = Scored(photo, image, pictures, photos["alpha"][i] if "alpha" in photos else None)
                report.add(view, photo, image, photo_of[nearest], scored.scores(metrics))
                progress.update()


def input_photos(dataset: SceneDataset, own: Job, report: SceneReport, views: Set[int]) -> dict[int, Tensor]:
    """Return the photos (3, h, w) of some inputs, in 8 bits as the report keeps them; those of other processes are read."""
    here = {view: i for i, view in enumerate(report.views) if view in views}
    photos = {view: torch.from_numpy(report.inputs[i]).movedim(-1, 0) / 255 for view, i in here.items()}
    others = sorted(views - photos.keys())
    return photos | dict(zip(others, dataset.load(own.scene, others)["image"], strict=True))
