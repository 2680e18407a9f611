"""Render new views from posed photos: metrics on held-out views, comparison pictures, and a video per scene.

    python inference.py --load weight/obj_res256.pt --image_size 256 256 --data_path data_example/gso_sample_data_path.json

--output_dir gets metrics.json, metrics_views.csv, metrics_scenes.csv, and per scene a folder with comparison.png and video.mp4.
`torchrun --nproc_per_node=N inference.py …` shares the scenes among N processes and writes one table; with `--context_parallel M`
every M of them share the views of one scene, for scenes too long for one GPU.

Letters: v input views, u target views, h w pixels.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.command_line import Parser
from config.errors import InputError
from config.recipe import COMPILE_MODES
from data.dataset import SceneDataset, check_image_size
from data.output.report import SceneReport, bar, folder_names, layer_bar, open_folder, table, write_report
from data.output.video import VideoWriter, find_encoder, to_uint8
from data.poses import normalise_poses
from data.scene_format import Scene
from data.view_selection import PICKERS, read_view_index, select_views
from model import LaCTLVSM, SceneState, load_model
from model.camera_path import smooth_path, turntable
from model.metric import LPIPS, psnr, ssim
from model.ops.fast_weight import IMPLEMENTATIONS
from model.parallel.context import ContextGroup, join_context, own_inputs, own_targets
from model.parallel.processes import Processes, end_processes, start_processes
from model.runtime import PRECISIONS, full_memory_is_refused, pick_dtype
from model.weights.hub import resolve_lpips
from model.weights.table import known_weights

DEFAULT_IMAGE_SIZE, DEFAULT_INPUT_VIEWS = (256, 256), 8
DEFAULT_VIDEO_FRAMES, DEFAULT_VIDEO_FPS = 120, 30
# What runs without flags: the model and the examples that lie beside this file.
HERE = Path(__file__).parent
DEFAULT_WEIGHTS = HERE / "weight" / "lact_objects_64.safetensors"
DEFAULT_DATA = {False: HERE / "data_example" / "objects_data_path.json", True: HERE / "data_example" / "scene_data_path.json"}
# Targets whose photos are in memory at a time.
TARGET_BATCH = 16
LEAST = {"num_all_views": 1, "num_input_views": 1, "num_target_views": 0, "target_every": 1, "seed": 0, "video_frames": 1,
         "video_fps": 1, "chunk_views": 1, "num_workers": 0, "context_parallel": 1}  # fmt: skip
LESS_MEMORY = "fewer input views, smaller images or --chunk_views 1"
# What a user can put right. Anything else is a fault of the program and shows its traceback.
USER_ERRORS = (InputError, OSError)


@dataclass(frozen=True)
class Job:
    """A scene, which views are inputs and targets, their poses (v + u, 4, 4), and the folder of its results."""

    scene: Scene
    inputs: list[int]
    targets: list[int]
    c2w: Tensor
    folder: Path


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit code: 0, or 2 after one line on standard error about what was wrong."""
    try:
        args = parse(argv)
        check_flags(args)
        fill_in(args)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":  # all processes have the same flags
            print(f"inference.py: {error}", file=sys.stderr)
        return 2
    try:
        with full_memory_is_refused(LESS_MEMORY):
            run(args, start_processes(args.device, args.context_parallel or 1))
    except USER_ERRORS as error:
        print(f"inference.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("inference.py: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        end_processes()
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line. What could be without effect is None or False unless given, so that `check_flags` can tell."""
    parser = Parser(description="Render new views from posed photos.", allow_abbrev=False)
    add = parser.add_argument
    add("--load", help="weights: a file, or a published name such as weight/obj_res256.pt, fetched if not there "
        "(default: the small model in weight/)")  # fmt: skip
    add("--config", help="network recipe (default: the one that belongs to the weights)")
    add("--data_path", help="JSON list of scenes, or one scene's opencv_cameras.json (default: the examples in data_example/)")
    add("--output_dir", default="output", help="where results go (default: output)")
    add("--image_size", nargs=2, type=int, metavar=("H", "W"), help="height and width (default: what the weights were trained at)")
    add("--scene_inference", action="store_true", help="scenes: normalised poses, video along the input cameras")
    add = parser.add_argument_group("views").add_argument
    add("--num_all_views", type=int, help="thin the scene to so many views first (default: all)")
    add("--num_input_views", type=int, help="inputs (default: what the weights were trained with)")
    add("--num_target_views", type=int, help="targets (default: all views that are not inputs)")
    add("--view_selection", choices=list(PICKERS), help="default: spread for objects, uniform for scenes")
    add("--target_every", type=int, metavar="N", help="targets are views 0, N, 2N, …; inputs are chosen from the others")
    add("--view_index", metavar="FILE", help="JSON with the inputs and targets of each scene")
    add("--seed", type=int, help="of random and kmeans selection (default: 0)")
    add("--pose_reference", choices=["all", "inputs"], help="scenes: views that set frame and scale (default: all)")
    add("--scene_scale", type=float, help="scenes: 1.0 for LaCT weights (default), 1.35 for LVSM and Long-LRM weights")
    add = parser.add_argument_group("output").add_argument
    add("--video_format", choices=["mp4", "gif", "none"], default="mp4", help="default: mp4")
    add("--video_frames", type=int, help=f"default: {DEFAULT_VIDEO_FRAMES}")
    add("--video_fps", type=int, help=f"frames a second (default: {DEFAULT_VIDEO_FPS})")
    add("--path_order", choices=["given", "nearest"], help="scenes: fly by the inputs as listed (default), or by a short tour")
    add("--save_images", action="store_true", help="write every rendered target as PNG")
    add("--no_lpips", action="store_true", help="do not compute LPIPS, which needs 550 MB of weights")
    add("--save_state", action="store_true", help="keep the reconstruction: state.safetensors beside the video")
    add("--load_state", metavar="FILE", help="render the video of a reconstruction that was kept, without its photos")
    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--precision", choices=["auto", *PRECISIONS], default="auto", help="default: bfloat16 where the hardware has it")
    add("--newton_schulz_dtype", choices=list(PRECISIONS), help="default: bfloat16, which published weights were trained with")
    add("--chunk_views", type=int, help="views worked on at a time (default: by free memory)")
    add("--context_parallel", type=int, metavar="M", help="processes that share the views of each scene (default: 1)")
    add("--num_workers", type=int, help="threads that read images (default: one a core, 8 at most)")
    add("--compile", action="store_true", help="compile every layer with torch.compile")
    # The others replay CUDA graphs, whose results the next chunk of views would overwrite.
    add("--compile_mode", choices=[mode for mode in COMPILE_MODES if mode != "reduce-overhead"], help="default: default")
    add("--fast_weight_ops", choices=IMPLEMENTATIONS, default="auto", help="default: compiled on CUDA")
    return parser.parse_args(argv)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse values that cannot work and flags that would have no effect, before anything is loaded."""
    given = {name for name, value in vars(args).items() if value is not None and value is not False}
    for name, least in LEAST.items():
        if name in given and getattr(args, name) < least:
            raise InputError(f"--{name}", f"is {getattr(args, name)}", f"{least} or more")
    if "video_fps" in given and args.video_fps > 240:
        raise InputError("--video_fps", f"is {args.video_fps}", "240 or less")
    if "scene_scale" in given and not 0 < args.scene_scale < float("inf"):
        raise InputError("--scene_scale", f"is {args.scene_scale}", "a number above 0")
    world, context = int(os.environ.get("WORLD_SIZE", 1)), args.context_parallel or 1
    if world % context:
        raise InputError("--context_parallel", f"is {context} with {world} processes", "a divisor of their number")
    choice = ["num_all_views", "num_input_views", "num_target_views", "view_selection", "target_every", "seed"]
    photos = ["data_path", *choice, "view_index", "pose_reference", "scene_scale", "num_workers", "context_parallel"]
    for mode, applies, flags in (
        ("with --load_state", "load_state" in given, [*photos, "save_images", "no_lpips", "save_state", "newton_schulz_dtype"]),
        ("with --view_index", "view_index" in given, choice),
        ("with --target_every", "target_every" in given, ["num_all_views", "num_target_views"]),
        ("with --num_target_views 0", args.num_target_views == 0, ["save_images", "no_lpips"]),
        ("without --view_selection random or kmeans", args.view_selection not in ("random", "kmeans"), ["seed"]),
        ("without --scene_inference", not args.scene_inference, ["pose_reference", "scene_scale", "path_order"]),
        ("without --compile", not args.compile, ["compile_mode"]),
        ("with --video_format none", args.video_format == "none", ["load_state", "video_frames", "video_fps", "path_order"]),
        ("under torchrun: it is one video of one process", os.environ.get("WORLD_SIZE", "1") != "1", ["load_state"]),
    ):
        useless = [flag for flag in flags if flag in given]
        if applies and useless:
            raise InputError(f"--{useless[0]}", f"has no effect {mode}", "it left out")
    if args.num_target_views == 0 and args.video_format == "none" and not args.save_state:
        raise InputError(
            "--num_target_views", "is 0 with --video_format none, which leaves nothing to do", "a video, or --save_state"
        )


def fill_in(args: argparse.Namespace) -> None:
    """Put in the model and the data that are meant where none are given."""
    args.load = args.load or str(DEFAULT_WEIGHTS)
    if args.load_state is None:
        args.data_path = args.data_path or str(DEFAULT_DATA[args.scene_inference])


def run(args: argparse.Namespace, processes: Processes) -> None:
    """Work on all scenes and report on them, or render the video of one that was reconstructed before."""
    if args.video_format != "none":
        together(processes, partial(find_encoder, f"video.{args.video_format}"))
    together(processes, partial(open_folder, args.output_dir))
    if args.load_state is not None:
        state = SceneState.load(args.load_state)
        model = prepare_model(args, processes.device)
        h, w = args.image_size or state.image_size
        check_image_size((h, w), model.config.patch_size)
        frames = render_video(model, state, (h, w), args)
        write_video(frames, Path(args.output_dir), args)
        print(f"results in {args.output_dir}")
        return
    context = join_context(processes.context)
    jobs, process, about = together(processes, partial(prepare, args, processes, context))
    rows: list[dict] = []
    with bar(total=len(jobs), desc="scenes", unit="scene") as progress:
        for start in range(0, len(jobs), processes.data_ranks):
            turn = jobs[start : start + processes.data_ranks]
            step = partial(process, turn[processes.data_rank :][:1])
            mine = together(processes, step) if context is None else step()
            rows += [row for part in processes.gather(mine) or [] for row in part]
            progress.update(len(turn))
    if processes.first:
        if rows:
            write_report(args.output_dir, rows, about)
            print(table(rows, about["not_computed"]))
        print(f"results in {args.output_dir}")


def together(processes: Processes, step: Callable[[], Any]) -> Any:
    """Run `step` on every process. What goes wrong on one ends all: the first reports it, and none waits for another."""
    result, problem = None, None
    try:
        with full_memory_is_refused(LESS_MEMORY):
            result = step()
    except USER_ERRORS as error:
        problem = error
    if not processes.highest(int(problem is not None)):
        return result
    sent = problem if problem is None or isinstance(problem, InputError) else OSError(str(problem))
    problems = processes.gather(sent)
    if problems is None:
        raise SystemExit(2)
    raise problem or next(filter(None, problems))


def prepare(
    args: argparse.Namespace, processes: Processes, context: ContextGroup | None
) -> tuple[list[Job], Callable[[list[Job]], list[dict]], dict]:
    """Find out what is to be done and load what it takes; return the jobs, what does them, and the report's preface."""
    row, device = known_weights().get(Path(args.load).name), processes.device
    h, w = args.image_size or (row.resolution if row else DEFAULT_IMAGE_SIZE)
    image_size = (h, w)
    workers = min(8, os.cpu_count() or 1) if args.num_workers is None else args.num_workers
    dataset = SceneDataset(args.data_path, image_size, patch_size=1, workers=workers)
    scenes = [dataset[i] for i in range(len(dataset))]
    folders = [Path(args.output_dir) / name for name in folder_names([scene.name for scene in scenes])]
    num_inputs = args.num_input_views or (row.num_input_views if row else DEFAULT_INPUT_VIEWS)
    jobs = [plan(scene, folder, num_inputs, args) for scene, folder in zip(scenes, folders, strict=True)]
    model = prepare_model(args, device)
    model.context = context
    check_image_size(image_size, model.config.patch_size)
    metrics, missing = {"psnr": psnr, "ssim": ssim}, {}
    if args.no_lpips:
        missing = {"lpips": "--no_lpips"}
    elif any(job.targets for job in jobs):
        try:
            metrics["lpips"] = LPIPS.from_files(*resolve_lpips(fetch=args.load != str(DEFAULT_WEIGHTS))).to(device)
        except OSError as error:
            missing = {"lpips": str(error)}
    about = {name: value for name, value in vars(args).items() if value is not None and name != "output_dir"}
    about |= {"image_size": image_size, "device": str(device), "precision": str(pick_dtype(args.precision, device))}
    about |= {"not_computed": missing, "input_views": {job.folder.name: job.inputs for job in jobs}}
    process = process_scenes if context is None else partial(share_scene, processes, context)
    return jobs, partial(process, model, dataset, metrics, args), about


def plan(scene: Scene, folder: Path, num_inputs: int, args: argparse.Namespace) -> Job:
    """Choose a scene's views and bring their poses into the frame that the network sees."""
    c2w = np.stack([view.c2w for view in scene.views])
    method = args.view_selection or ("uniform" if args.scene_inference else "spread")
    numbers = (args.num_all_views, num_inputs, args.num_target_views)
    index = None if args.view_index is None else read_view_index(args.view_index, scene.name)
    try:
        if index is not None:
            inputs, targets = select_views(c2w, view_index=index)
        else:
            inputs, targets = select_views(c2w, *numbers, method, args.target_every, seed=args.seed or 0)
        poses = torch.from_numpy(c2w[inputs + targets])
        if args.scene_inference:
            reference = len(inputs) if args.pose_reference == "inputs" else None
            poses = normalise_poses(poses[None], reference, args.scene_scale or 1.0)[0]
    except InputError as error:
        raise error.within(scene.json_path) from error
    return Job(scene, inputs, targets, poses.float(), folder)


def prepare_model(args: argparse.Namespace, device: torch.device) -> LaCTLVSM:
    newton_schulz = args.newton_schulz_dtype or "bfloat16"
    model = load_model(args.load, args.config, device, args.precision, newton_schulz)
    model.set_fast_weight(PRECISIONS[newton_schulz], args.fast_weight_ops)
    return model.compile_layers(mode=args.compile_mode or "default") if args.compile else model


def process_scenes(
    model: LaCTLVSM, dataset: SceneDataset, metrics: dict[str, Callable], args: argparse.Namespace, jobs: list[Job]
) -> list[dict]:
    """Reconstruct scenes and write all that belongs to them; return a row of metrics per target view."""
    rows: list[dict] = []
    for job in jobs:
        photos = dataset.load(job.scene, job.inputs)
        state = reconstruct(model, job, photos, args)
        if args.save_state:
            state.save(job.folder / "state.safetensors")
        report = SceneReport(job.folder, photos.pop("image"), len(job.targets), metrics, args.save_images)
        evaluate(model, state, dataset, job, report, args)
        rows += report.finish()
        if args.video_format != "none":
            write_video(render_video(model, state, state.image_size, args), job.folder, args)
    return rows


def reconstruct(model: LaCTLVSM, job: Job, photos: dict[str, Tensor], args: argparse.Namespace) -> SceneState:
    cameras = photos["fxfycxcy"][None], job.c2w[None, : len(job.inputs)]
    with layer_bar(model.device) as progress:
        return model.reconstruct(photos["image"][None], *cameras, args.chunk_views, progress)


def evaluate(
    model: LaCTLVSM, state: SceneState, dataset: SceneDataset, job: Job, report: SceneReport, args: argparse.Namespace
) -> None:
    """Render the targets of a job, and hand them to its report."""
    with bar(total=len(job.targets), desc="evaluate", unit="view") as progress:
        for start in range(0, len(job.targets), TARGET_BATCH):
            views = job.targets[start : start + TARGET_BATCH]
            photos = dataset.load(job.scene, views)
            cameras = photos["fxfycxcy"][None], job.c2w[None, len(job.inputs) + start :][:, : len(views)]
            stream = model.render_stream(state, *cameras, state.image_size, args.chunk_views)
            rendered = (image for chunk in stream for image in chunk[0])
            for pair in zip(views, photos["image"], rendered, strict=True):
                report.add(*pair)
                progress.update()


def share_scene(
    processes: Processes,
    context: ContextGroup,
    model: LaCTLVSM,
    dataset: SceneDataset,
    metrics: dict[str, Callable],
    args: argparse.Namespace,
    jobs: list[Job],
) -> list[dict]:
    """Do with the others of a context what `process_scenes` does alone: one job or none. All take a part, the first writes it all.

    What can go wrong on one process alone is kept apart from what waits for the others.
    """
    if not jobs:
        for _ in range(3):  # the questions that contexts with a job ask all processes
            together(processes, lambda: None)
        return []
    part = own_part(jobs[0], context)
    photos = together(processes, lambda: dataset.load(part.scene, part.inputs))
    state = reconstruct(model, part, photos, args)
    report, frames = together(processes, lambda: work_on_part(context, model, dataset, metrics, args, jobs[0], part, photos, state))
    found = context.gather((report.content, frames))
    return together(processes, lambda: put_together(report, found, state, args) if found else [])


def own_part(job: Job, context: ContextGroup) -> Job:
    """Return what this process of a context does of a job."""
    v = len(job.inputs)
    inputs = own_inputs(v, context.rank, context.size)
    targets = own_targets(len(job.targets), context.rank, context.size)
    c2w = job.c2w[[*inputs, *(v + i for i in targets)]]
    return replace(job, inputs=[job.inputs[i] for i in inputs], targets=[job.targets[i] for i in targets], c2w=c2w)


def work_on_part(
    context: ContextGroup,
    model: LaCTLVSM,
    dataset: SceneDataset,
    metrics: dict[str, Callable],
    args: argparse.Namespace,
    job: Job,
    part: Job,
    photos: dict[str, Tensor],
    state: SceneState,
) -> tuple[SceneReport, list[np.ndarray]]:
    """Render this process's part of targets and video; return a report on the former, and the frames of the latter."""
    first = own_targets(len(job.targets), context.rank, context.size).start
    report = SceneReport(job.folder, photos["image"], len(job.targets), metrics, args.save_images, first)
    evaluate(model, state, dataset, part, report, args)
    if args.video_format == "none":
        return report, []
    own = own_targets(args.video_frames or DEFAULT_VIDEO_FRAMES, context.rank, context.size)
    return report, list(render_video(model, state, state.image_size, args, own))


def put_together(report: SceneReport, parts: list[tuple], state: SceneState, args: argparse.Namespace) -> list[dict]:
    """Write what all processes of a context found about a scene; `report` is that of the first. Return the scene's rows."""
    for content, _ in parts[1:]:
        report.take_in(content)
    if args.save_state:
        state.save(report.folder / "state.safetensors")
    rows = report.finish()
    if args.video_format != "none":
        write_video((frame for _, frames in parts for frame in frames), report.folder, args)
    return rows


def render_video(
    model: LaCTLVSM, state: SceneState, size: tuple[int, int], args: argparse.Namespace, own: range | None = None
) -> Iterator[np.ndarray]:
    """Render a turntable (objects) or a flight past the input cameras (scenes); return what yields its frames, or `own` of them."""
    frames = args.video_frames or DEFAULT_VIDEO_FRAMES
    if args.scene_inference:
        # As if the inputs were scaled until they cover the video's frame, and cropped to its middle.
        (h, w), scale = state.image_size, max(new / old for new, old in zip(size, state.image_size, strict=True))
        cut = torch.tensor([0, 0, (w * scale - size[1]) / 2, (h * scale - size[0]) / 2])
        fxfycxcy, c2w = smooth_path(state.c2w[0], state.fxfycxcy[0] * scale - cut, frames, order=args.path_order or "given")
    else:
        fxfycxcy, c2w = turntable(frames, size)
    if own is not None:
        fxfycxcy, c2w = fxfycxcy[own.start : own.stop], c2w[own.start : own.stop]
    stream = model.render_stream(state, fxfycxcy[None], c2w[None], size, args.chunk_views)
    return (frame for chunk in stream for frame in to_uint8(chunk[0]))


def write_video(frames: Iterator[np.ndarray], folder: Path, args: argparse.Namespace) -> None:
    """Write frames into the video file as they come."""
    file, total = folder / f"video.{args.video_format}", args.video_frames or DEFAULT_VIDEO_FRAMES
    with VideoWriter(file, args.video_fps or DEFAULT_VIDEO_FPS) as video, bar(total=total, desc="video", unit="frame") as progress:
        for frame in frames:
            video.write(frame)
            progress.update()


if __name__ == "__main__":
    # torchrun, when another process has failed, and schedulers send SIGTERM: leave in order, so that unfinished files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
