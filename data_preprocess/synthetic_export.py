"""Write random objects or scenes as folders of the unified format.

    python data_preprocess/synthetic_export.py --kind objects --count 100 --output output_objects

A scene is named after its kind, seed and index, and rendered alone: the same command gives the same bytes on the same
machine. An interrupted export continues where it stopped. Letters: v views, h w pixels.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.files import replace_when_finished
from data.scene_format import View, read_scene, same_views, write_data_path, write_scene
from data.synthetic.batch import KINDS, describe
from data.synthetic.cameras import LAYOUTS
from data.synthetic.render import render
from data.synthetic.tables import pack


@dataclass(frozen=True)
class Export:
    """How to write scenes: the flags of `main`, letter for letter."""

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
        ValueError: the folder holds a scene made with other settings.
    """
    h, w = export.image_size
    folder = export.output / f"{export.kind}_{export.seed}_{index:06d}"
    json_path = folder / "opencv_cameras.json"
    scene, c2w, fxfycxcy = describe(export.kind, export.seed, index, export.num_views, export.image_size, export.layout)
    files = [folder / "images" / f"{i:05d}.png" for i in range(export.num_views)]
    w2c = np.linalg.inv(c2w)
    w2c[:, 3] = (0, 0, 0, 1)
    cameras = [View(file, w, h, *camera.tolist(), pose) for file, camera, pose in zip(files, fxfycxcy, w2c, strict=True)]
    if json_path.exists():
        if not same_views(read_scene(json_path).views, cameras):
            raise ValueError(
                f"{json_path}: found a scene with other views than these flags give, wanted the same ones: "
                "choose another --output or delete the folder"
            )
        if all(file.exists() for file in files):
            return json_path
    batch = pack([scene], device=export.device)
    for i, file in enumerate(files):
        pose, camera = torch.from_numpy(c2w[None, i : i + 1]), torch.from_numpy(fxfycxcy[None, i : i + 1])
        view = render(batch, pose, camera, export.image_size, export.samples)
        pixels = _pixels(view["image"][0, 0], view["alpha"][0, 0] if export.kind == "objects" else None, export.samples)
        with replace_when_finished(file) as temporary:
            Image.fromarray(pixels).save(temporary, optimize=True)
    write_scene(json_path, cameras)
    return json_path


def _pixels(image: torch.Tensor, alpha: torch.Tensor | None, samples: int) -> np.ndarray:
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
        yield from pool.map(export_scene, [export] * len(indices), indices)


def _chosen(count: int | None, first_index: int | None, indices: Sequence[int] | None) -> Sequence[int]:
    if indices is None:
        count = 1 if count is None else count
        if count < 1:
            raise ValueError(f"--count: found {count}, wanted 1 or more")
        return range(first_index or 0, (first_index or 0) + count)
    if count is not None or first_index is not None:
        raise ValueError("--indices: found --count or --first_index beside it, wanted one or the other")
    if len(set(indices)) < len(indices):
        raise ValueError(f"--indices: found {' '.join(map(str, indices))}, wanted each index once")
    return indices


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the scenes and `NAME_data_path.json`; return the latter.

    Raises:
        ValueError: a flag is out of its range, or the output holds the same scenes made with other flags.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--device", default="cpu")
    flags = vars(parser.parse_args(argv))
    name, workers = flags.pop("name"), flags.pop("workers")
    indices = _chosen(flags.pop("count"), flags.pop("first_index"), flags.pop("indices"))
    flags["image_size"] = tuple(flags["image_size"])
    export = Export(**flags)
    for flag, value, least in (("workers", workers, 0), ("image_size", min(export.image_size), 1)):
        if value < least:
            raise ValueError(f"--{flag}: found {value}, wanted {least} or more")
    scenes = list(tqdm(_export_all(export, indices, workers), total=len(indices), unit="scene"))
    json_path = export.output / f"{name or export.kind}_data_path.json"
    write_data_path(json_path, scenes)
    return json_path


if __name__ == "__main__":
    main()
