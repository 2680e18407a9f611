"""Render new views from posed photos: metrics on held-out views, comparison pictures, and a video per scene.

    python inference.py --load weight/obj_res256.pt --image_size 256 256 --data_path data_example/gso_sample_data_path.json

`torchrun --nproc_per_node=N inference.py …` shares the scenes among N processes and writes one table.

Letters: v input views, u target views, h w pixels.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data.dataset import SceneDataset, check_image_size
from data.files import replace_when_finished
from data.picture import comparison
from data.report import table, write_report
from data.scene_format import Scene
from data.video import VideoWriter, to_uint8
from data.view_selection import PICKERS, read_view_index, select_views
from model import LaCTLVSM, SceneState, load_model
from model.camera import normalise_poses
from model.camera_path import smooth_path, turntable
from model.checkpoint import published_weights
from model.hub import resolve_lpips
from model.metric import LPIPS, psnr, ssim
from model.runtime import PRECISIONS

DEFAULT_IMAGE_SIZE = (256, 256)
DEFAULT_INPUT_VIEWS = 8
# Targets whose photos are in memory at a time, and how many of a scene its picture shows.
TARGET_BATCH = 16
PICTURE_TARGETS = 6


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit code: 0, or 2 after one line on standard error about what was wrong."""
    args = parse(argv)
    try:
        check_flags(args)
        run(args)
    except (ValueError, OSError) as error:
        print(f"inference.py: {error}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--load", help="weights: a file, or a published name such as weight/obj_res256.pt, downloaded if it is not there")
    add("--config", help="network recipe (default: the one that belongs to the weights)")
    add("--data_path", help="JSON list of scenes, or one scene's opencv_cameras.json")
    add("--output_dir", default="output", help="where results go (default: output)")
    add("--image_size", nargs=2, type=int, metavar=("H", "W"), help="height and width (default: what the weights were trained at)")
    add("--scene_inference", action="store_true", help="scenes: normalised poses, video along the input cameras")

    views = parser.add_argument_group("views")
    add = views.add_argument
    add("--num_all_views", type=int, help="thin the scene to so many views first (default: all)")
    add("--num_input_views", type=int, help="inputs (default: what the weights were trained with)")
    add("--num_target_views", type=int, help="targets (default: all views that are not inputs)")
    add("--view_selection", choices=list(PICKERS), help="default: spread for objects, uniform for scenes")
    add("--target_every", type=int, metavar="N", help="targets are views 0, N, 2N, …; inputs are chosen from the others")
    add("--view_index", metavar="FILE", help="JSON with the inputs and targets of each scene")
    add("--seed", type=int, default=0, help="of random and kmeans selection")
    add("--pose_reference", choices=["all", "inputs"], help="scenes: views that set frame and scale (default: all)")
    add("--scene_scale", type=float, help="scenes: 1.0 for LaCT weights (default), 1.35 for LVSM and Long-LRM weights")

    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--video_format", choices=["mp4", "gif", "none"], default="mp4")
    add("--video_frames", type=int, default=120)
    add("--video_fps", type=int, default=30)
    add("--path_order", choices=["given", "nearest"], help="scenes: fly by the inputs as listed (default), or by a short tour")
    add("--save_images", action="store_true", help="write every rendered target as PNG")
    add("--no_lpips", action="store_true", help="do not compute LPIPS, which needs 550 MB of weights")
    add("--save_state", action="store_true", help="keep the reconstruction: state.safetensors beside the video")
    add("--load_state", metavar="FILE", help="render the video of a reconstruction that was kept, without its photos")

    machine = parser.add_argument_group("machine")
    add = machine.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--precision", choices=["auto", *PRECISIONS], default="auto", help="auto: bfloat16 where the hardware has it")
    add("--newton_schulz_dtype", choices=list(PRECISIONS), default="bfloat16")
    add("--chunk_views", type=int, help="views worked on at a time (default: by free memory)")
    add("--num_workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that read images")
    add("--compile", action="store_true", help="compile every layer with torch.compile")
    add("--fast_weight_ops", choices=["auto", "naive", "compiled"], default="auto", help="auto: compiled on CUDA")
    return parser.parse_args(argv)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect, and values that cannot work, before anything is loaded."""
    if args.load is None:
        raise ValueError("--load: not given; wanted weights, such as weight/obj_res256.pt")
    if args.load_state is None and args.data_path is None:
        raise ValueError("--data_path: not given; wanted a JSON list of scenes")
    without_effect: dict[str, list[str]] = {
        "--load_state": ["data_path", "num_all_views", "num_input_views", "num_target_views", "view_selection", "target_every",
                         "view_index", "pose_reference", "scene_scale", "save_images", "no_lpips", "save_state"],
        "--view_index": ["num_all_views", "num_input_views", "num_target_views", "view_selection", "target_every"],
        "--target_every": ["num_all_views", "num_target_views"],
    }  # fmt: skip
    for flag, others in without_effect.items():
        if getattr(args, flag[2:]) is not None:
            for other in others:
                if getattr(args, other) not in (None, False):
                    raise ValueError(f"--{other}: has no effect with {flag}; leave one of them out")
    if not args.scene_inference:
        for name in ("pose_reference", "scene_scale", "path_order"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name}: has no effect on objects; wanted --scene_inference with it")
    if args.load_state is not None and args.video_format == "none":
        raise ValueError("--video_format none: leaves nothing to do with --load_state; wanted mp4 or gif")
    for name in ("video_frames", "video_fps", "chunk_views"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name}: is {getattr(args, name)}; wanted at least 1")
    if args.num_workers < 0:
        raise ValueError(f"--num_workers: is {args.num_workers}; wanted 0 or more")


def run(args: argparse.Namespace) -> None:
    rank, world = join_processes(args)
    row = published_weights().get(Path(args.load).name)
    if args.load_state is not None:
        state = SceneState.load(args.load_state)
        image_size = tuple(args.image_size or state.image_size)
        model = prepare_model(args)
        write_video(model, state.to(model.device), image_size, Path(args.output_dir), args)
        return

    image_size = tuple(args.image_size or (row.resolution if row else DEFAULT_IMAGE_SIZE))
    dataset = SceneDataset(args.data_path, image_size, workers=args.num_workers)
    scenes = [dataset[i] for i in range(len(dataset))]
    views = [choose_views(scene, args, row.num_input_views if row else DEFAULT_INPUT_VIEWS) for scene in scenes]
    folders = [Path(args.output_dir) / name for name in distinct_names(scenes)]
    model = prepare_model(args)
    check_image_size(image_size, model.config.patch_size)
    lpips, notes = prepare_lpips(args, model.device, any(targets for _, targets in views))
    rows = []
    for i in tqdm(range(rank, len(scenes), world), desc="scenes", disable=rank > 0, unit="scene"):
        rows += process_scene(model, dataset, scenes[i], *views[i], folders[i], lpips, args)
    rows = gather(rows, [folder.name for folder in folders], world)
    if rank == 0:
        about = {key: value for key, value in vars(args).items() if key != "output_dir"}
        write_report(args.output_dir, rows, {**about, "image_size": list(image_size), "not_computed": notes})
        print(table(rows, notes) if rows else "no target views: no metrics")
        print(f"results in {args.output_dir}")


def join_processes(args: argparse.Namespace) -> tuple[int, int]:
    """Join the processes that torchrun started, if it did; return (rank, how many)."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    dist.init_process_group("gloo")
    if args.device == "auto" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return dist.get_rank(), dist.get_world_size()


def prepare_model(args: argparse.Namespace) -> LaCTLVSM:
    if dist.is_initialized() and dist.get_rank() > 0:
        dist.barrier()  # the first process downloads what is missing
    model = load_model(args.load, args.config, args.device, args.precision, args.newton_schulz_dtype)
    if dist.is_initialized() and dist.get_rank() == 0:
        dist.barrier()
    model.set_fast_weight(PRECISIONS[args.newton_schulz_dtype], args.fast_weight_ops)
    return model.compile_layers() if args.compile else model


def prepare_lpips(args: argparse.Namespace, device: torch.device, wanted: bool) -> tuple[LPIPS | None, dict[str, str]]:
    """Return LPIPS, or None with the reason why it is not computed."""
    if not wanted or args.no_lpips:
        return None, {"lpips": "--no_lpips"} if args.no_lpips else {}
    try:
        return LPIPS.from_files(*resolve_lpips()).to(device), {}
    except OSError as error:
        return None, {"lpips": str(error)}


def choose_views(scene: Scene, args: argparse.Namespace, default_inputs: int) -> tuple[list[int], list[int]]:
    """Return the positions of inputs and targets among the scene's views."""
    c2w = torch.stack([torch.from_numpy(view.c2w) for view in scene.views]).numpy()
    try:
        if args.view_index is not None:
            return select_views(c2w, view_index=read_view_index(args.view_index, scene.name))
        return select_views(
            c2w,
            args.num_all_views,
            args.num_input_views or default_inputs,
            args.num_target_views,
            args.view_selection or ("uniform" if args.scene_inference else "spread"),
            args.target_every,
            seed=args.seed,
        )
    except ValueError as error:
        raise ValueError(f"{scene.json_path}: {error}") from error


def distinct_names(scenes: list[Scene]) -> list[str]:
    """Return a folder name per scene: its name, with its position added where several share one."""
    names = [scene.name for scene in scenes]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def process_scene(
    model: LaCTLVSM,
    dataset: SceneDataset,
    scene: Scene,
    inputs: list[int],
    targets: list[int],
    folder: Path,
    lpips: LPIPS | None,
    args: argparse.Namespace,
) -> list[dict]:
    """Reconstruct one scene and write all that belongs to it; return its rows of metrics."""
    photos = dataset.load(scene, inputs)
    c2w = torch.stack([torch.from_numpy(scene.views[i].c2w) for i in inputs + targets])
    if args.scene_inference:
        reference = len(inputs) if args.pose_reference == "inputs" else None
        c2w = normalise_poses(c2w[None], reference, args.scene_scale or 1.0)[0]
    c2w = c2w.float()
    with tqdm(desc="  reconstruct", leave=False, disable=rank_of_process() > 0, unit="layer") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        state = model.reconstruct(
            photos["image"][None], photos["fxfycxcy"][None], c2w[None, : len(inputs)], args.chunk_views, progress
        )
    if args.save_state:
        state.save(folder / "state.safetensors")
    rows = evaluate(model, state, dataset, scene, photos["image"], targets, c2w[len(inputs) :], folder, lpips, args)
    if args.video_format != "none":
        write_video(model, state, tuple(photos["image"].shape[-2:]), folder, args)
    return rows


def evaluate(
    model: LaCTLVSM,
    state: SceneState,
    dataset: SceneDataset,
    scene: Scene,
    inputs: Tensor,
    targets: list[int],
    c2w: Tensor,
    folder: Path,
    lpips: LPIPS | None,
    args: argparse.Namespace,
) -> list[dict]:
    """Render the targets, write the scene's picture, and return a row of metrics per target.

    Args:
        inputs: (v, 3, h, w) photos, for the picture.
        targets: positions among the scene's views.
        c2w: (u, 4, 4) of the targets, in the frame of the state.
    """
    rows, shown = [], []
    every = max(1, -(-len(targets) // PICTURE_TARGETS))
    with tqdm(total=len(targets), desc="  evaluate", leave=False, disable=rank_of_process() > 0, unit="view") as bar:
        for start in range(0, len(targets), TARGET_BATCH):
            batch = targets[start : start + TARGET_BATCH]
            photos = dataset.load(scene, batch)
            size = tuple(photos["image"].shape[-2:])
            stream = model.render_stream(
                state, photos["fxfycxcy"][None], c2w[None, start : start + len(batch)], size, args.chunk_views
            )
            for position, target, rendered in zip(batch, photos["image"], views_of(stream), strict=True):
                rows.append({"scene": folder.name, "view": position, **score(rendered, target, lpips)})
                if (len(rows) - 1) % every == 0:
                    shown.append((target, rendered.cpu(), rows[-1]["psnr"]))
                if args.save_images:
                    write_image(folder / "images" / f"{position:05d}.png", rendered)
                bar.update()
    pictured, rendered, scores = zip(*shown, strict=True) if shown else ([], [], [])
    comparison(folder / "comparison.png", inputs, stack(pictured, inputs), stack(rendered, inputs), list(scores))
    return rows


def score(rendered: Tensor, target: Tensor, lpips: LPIPS | None) -> dict[str, float | None]:
    """Return the metrics of one view (3, h, w)."""
    target = target.to(rendered)
    with torch.no_grad():
        distance = None if lpips is None else lpips(rendered, target).item()
    return {"psnr": psnr(rendered, target).item(), "ssim": ssim(rendered, target).item(), "lpips": distance}


def views_of(stream: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the views (3, h, w) of a stream of chunks (1, chunk, 3, h, w)."""
    for chunk in stream:
        yield from chunk[0]


def stack(views: tuple[Tensor, ...] | list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(views)) if views else like[:0]


def write_image(path: Path, image: Tensor) -> None:
    with replace_when_finished(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary)


def write_video(model: LaCTLVSM, state: SceneState, size: tuple[int, int], folder: Path, args: argparse.Namespace) -> None:
    """Render a turntable (objects) or a flight past the input cameras (scenes), frame by frame into the file."""
    if args.scene_inference:
        scale = torch.tensor([size[1], size[0], size[1], size[0]]) / torch.tensor(state.image_size).flip(0).repeat(2)
        intrinsics, c2w = smooth_path(
            state.c2w[0], state.fxfycxcy[0] * scale, args.video_frames, order=args.path_order or "given"
        )
    else:
        intrinsics, c2w = turntable(args.video_frames, size)
    frames = views_of(model.render_stream(state, intrinsics[None], c2w[None], size, args.chunk_views))
    path = folder / f"video.{args.video_format}"
    with VideoWriter(path, args.video_fps, args.video_format) as video:
        for frame in tqdm(
            frames, total=args.video_frames, desc="  video", leave=False, disable=rank_of_process() > 0, unit="frame"
        ):
            video.write(to_uint8(frame))


def rank_of_process() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def gather(rows: list[dict], names: list[str], world: int) -> list[dict]:
    """Return the rows of all processes, in the order of the scenes."""
    parts: list[list[dict]] = [rows]
    if world > 1:
        parts = [[] for _ in range(world)]
        dist.all_gather_object(parts, rows)
    return sorted((row for part in parts for row in part), key=lambda row: names.index(row["scene"]))


if __name__ == "__main__":
    sys.exit(main())
