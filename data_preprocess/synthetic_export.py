"""Export of random objects or scenes to folders of the unified format.

    python data_preprocess/synthetic_export.py --kind objects --count 100 --output output_objects

A scene is named after its kind, seed and index, and rendered alone: the same command gives the same bytes on the same
machine. An interrupted export continues where it stopped. Letters: v views, h w pixels.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError
from data.files import replace_when_finished
from data.scene_format import write_data_path
from data.synthetic.batch import KINDS, describe
from data.synthetic.cameras import LAYOUTS
from data.synthetic.render import render
from data.synthetic.tables import pack
from data_preprocess.command import at_least, run_script
from data_preprocess.scene_folder import SceneFolder, rendered_views
from model.runtime import full_memory_is_refused, pick_device


@dataclass(frozen=True)
class Export:
    """How to write scenes: flags, letter for letter."""

    kind: str
    seed: int
    num_views: int
    image_size: tuple[int, int]
    samples: int
    output: Path
    layout: str | None
    device: str


def export_scene(export: Export, index: int) -> Path:
    """Render and write one scene, unless it is there already.

    Args:
        export: the settings.
        index: which scene.

    Returns:
        its JSON, written after the images: a folder that has it is finished.

    Raises:
        InputError: the folder holds a scene made with other settings, or memory is full.
    """
    folder = export.output / f"{export.kind}_{export.seed}_{index:06d}"
    scene, c2w, fxfycxcy = describe(export.kind, export.seed, index, export.num_views, export.image_size, export.layout)
    output = SceneFolder(folder, rendered_views(folder, c2w, fxfycxcy, export.image_size))
    left = output.begin(repr((export.num_views, export.image_size, export.layout, export.samples)))
    batch = pack([scene], device=export.device) if left else None
    for i in left:
        pose, camera = torch.from_numpy(c2w[None, i : i + 1]), torch.from_numpy(fxfycxcy[None, i : i + 1])
        with full_memory_is_refused("smaller images, or fewer --workers"):
            view = render(batch, pose, camera, export.image_size, export.samples)
        pixels = _pixels(view["image"][0, 0], view["alpha"][0, 0] if export.kind == "objects" else None, export.samples)
        with replace_when_finished(output.views[i].file_path) as temporary:
            Image.fromarray(pixels).save(temporary, optimize=True)
    output.finish()
    return output.json_path


def _pixels(image: Tensor, alpha: Tensor | None, samples: int) -> np.ndarray:
    """Return (h, w, 3) or, where the colours on white (3, h, w) have an alpha (1, h, w), (h, w, 4), uint8."""
    if alpha is not None:
        colour = torch.where(alpha > 0, (image - (1 - alpha)) / alpha.clamp_min(0.5 / samples), 1)
        image = torch.cat([colour, alpha])
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _export_all(export: Export, indices: Sequence[int], workers: int) -> Iterator[Path]:
    if workers == 0:
        for index in indices:
            yield export_scene(export, index)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(export_scene, [export] * len(indices), indices)
        except BrokenProcessPool as error:
            # The system ends a process without a word when memory is short.
            raise MemoryError("a process was ended") from error


def _chosen(count: int | None, first_index: int | None, indices: Sequence[int] | None) -> Sequence[int]:
    if indices is None:
        first = at_least("--first_index", first_index, 0) or 0
        return range(first, first + (at_least("--count", count, 1) or 1))
    if count is not None or first_index is not None:
        raise InputError("--indices", "is given with --count or --first_index", "one or the other")
    at_least("--indices", min(indices), 0)
    if len(set(indices)) < len(indices):
        raise InputError("--indices", f"is {' '.join(map(str, indices))}", "each index once")
    return indices


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `indices` are those to export, however they were given.

    Raises:
        InputError: a flag is out of its range or contradicts another.
    """
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, help="number of scenes, 1 by default")
    parser.add_argument("--seed", type=int, default=0, help="below 1000000 for training, above for examples and tests")
    parser.add_argument("--first_index", type=int, help="index of the first one, 0 by default")
    parser.add_argument("--indices", type=int, nargs="+", help="these scenes, in place of --count and --first_index")
    parser.add_argument("--num_views", type=int, default=32)
    parser.add_argument("--image_size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--samples", type=int, default=16, help="rays a pixel, a power of two")
    parser.add_argument("--output", type=Path, required=True, help="folder for the scenes and the list of them")
    parser.add_argument("--name", help="NAME in NAME_data_path.json; the kind by default")
    parser.add_argument("--layout", choices=LAYOUTS, help="how the cameras of objects stand; drawn for each by default")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 renders in this one")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: cpu)")
    args = parser.parse_args(argv)
    args.indices = _chosen(args.count, args.first_index, args.indices)
    at_least("--seed", args.seed, 0)
    at_least("--num_views", args.num_views, 1)
    at_least("--image_size", min(args.image_size), 1)
    at_least("--workers", args.workers, 0)
    if args.samples < 1 or args.samples & (args.samples - 1):
        raise InputError("--samples", f"is {args.samples}", "a power of two")
    if args.layout is not None and args.kind != "objects":
        raise InputError("--layout", f"has no effect with --kind {args.kind}", "it left out")
    return args


def work(argv: Sequence[str] | None) -> None:
    """Write the scenes that the command line says, and the list of them."""
    args = parse(argv)
    device = str(pick_device(args.device))
    export = Export(args.kind, args.seed, args.num_views, tuple(args.image_size), args.samples, args.output, args.layout, device)
    scenes = list(tqdm(_export_all(export, args.indices, args.workers), total=len(args.indices), unit="scene"))
    json_path = args.output / f"{args.name or args.kind}_data_path.json"
    write_data_path(json_path, scenes)
    print(f"{len(scenes)} scenes in {json_path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("synthetic_export.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
