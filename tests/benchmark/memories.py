"""Comparison of networks with different memories of their inputs: PSNR and speed for few and many inputs, a table and a plot.

    python tests/benchmark/memories.py --data_path outputs/test/objects_data_path.json --image_size 32 32 \
        LaCT=outputs/bundled_32/model.safetensors \
        "full attention=outputs/lvsm_32/snapshot/step_00002500.pt@config/lvsm_l4_d256.yaml"

A script, not a test: machines differ and are noisy. Targets are every fourth view of each scene, the same ones for any number of
inputs; inputs are spread over the others. With `--target_every 0` all views that are not inputs are targets, as in inference.py.
Renderings at the inputs' own cameras tell detail that is lost in the memory from geometry that is not understood.
Seconds are medians over the scenes. Letters: v inputs, u targets.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from config.console import forgiving_console
from data.dataset import SceneDataset
from data.output.curves import Panel, draw_panels
from data.output.tables import markdown_table
from data.poses import normalise_poses
from data.view_selection import select_views
from model import LaCTLVSM, load_model
from model.machine import in_words
from model.metric import psnr
from model.runtime import synchronise
from model.video_frames import nearest_inputs
from tests.benchmark.measure import machine

COLOURS = ("#3b6ea8", "#c2502e", "#4f8f4a", "#7a5aa6")


@forgiving_console()
def main(argv: list[str] | None = None) -> None:
    """Run the comparison; print a table in Markdown and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="+", metavar="NAME=FILE[@CONFIG]")
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--image_size", nargs=2, type=int, default=[64, 64], metavar=("H", "W"))
    parser.add_argument("--num_input_views", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--target_every", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--scenes", action="store_true", help="poses normalised, inputs even along the list")
    parser.add_argument("--picture", default="outputs/memories.png")
    args = parser.parse_args(argv)
    dataset = SceneDataset(args.data_path, tuple(args.image_size), 8)
    rows, selection = {}, "uniform" if args.scenes else "spread"
    for word in args.weights:
        name, _, place = word.partition("=")
        file, _, config = place.partition("@")
        model = load_model(file, config or None, args.device, args.precision)
        for count in args.num_input_views:
            rows[name, count] = measure(model, dataset, count, args.target_every, f"{name}, {count}", args.scenes, selection)
    print_table(rows, model.device)
    draw(args.picture, rows)
    print(f"\n{args.picture}: the same as a plot")


def measure(
    model: LaCTLVSM,
    dataset: SceneDataset,
    count: int,
    target_every: int,
    what: str,
    normalise: bool = False,
    selection: str = "spread",
) -> dict[str, float]:
    """Return means over scenes of PSNR, and medians of seconds and frames/s.

    PSNR is of the targets, of the inputs as the network renders them (own), and of the inputs' mean and the nearest input.

    Args:
        model: the network.
        dataset: scenes of one image size.
        count: inputs per scene.
        target_every: targets are the views 0, k, 2k, …; 0 takes all that are not inputs.
        what: label of the progress bar.
        normalise: normalise poses to the frame and scale of the mean camera of inputs and targets (scenes).
        selection: of inputs.
    """
    scores, own, floors, nearest, taken, rendered = [], [], [], [], [], []
    for i in tqdm(range(len(dataset)), desc=what, unit="scene", leave=False, disable=None):
        scene = dataset[i]
        poses = np.stack([view.c2w for view in scene.views])
        num_targets = None if target_every else len(poses) - count
        inputs, targets = select_views(poses, None, count, num_targets, selection, target_every=target_every or None)
        given, wanted = (
            {key: value[None].to(model.device) for key, value in dataset.load(scene, views).items()} for views in (inputs, targets)
        )
        if normalise:
            normalised = normalise_poses(torch.cat([given["c2w"], wanted["c2w"]], dim=1))
            given["c2w"], wanted["c2w"] = normalised.split([len(inputs), len(targets)], dim=1)
        synchronise(model.device)
        start = time.perf_counter()
        state = model.reconstruct(**given)
        synchronise(model.device)
        middle = time.perf_counter()
        images = model.render(state, wanted["fxfycxcy"], wanted["c2w"], dataset.image_size)
        synchronise(model.device)
        taken.append(middle - start)
        rendered.append(len(targets) / (time.perf_counter() - middle))
        scores.append(psnr(images, wanted["image"]).mean().item())
        again = model.render(state, given["fxfycxcy"], given["c2w"], dataset.image_size)
        own.append(psnr(again, given["image"]).mean().item())
        mean = given["image"].mean(1, keepdim=True).expand_as(wanted["image"])
        floors.append(psnr(mean, wanted["image"]).mean().item())
        near = given["image"][:, nearest_inputs(wanted["c2w"][0], given["c2w"][0]).to(model.device)]
        nearest.append(psnr(near, wanted["image"]).mean().item())
    return {
        "psnr": statistics.mean(scores),
        "own": statistics.mean(own),
        "floor": statistics.mean(floors),
        "nearest": statistics.mean(nearest),
        "reconstruct": statistics.median(taken),
        "frames_per_second": statistics.median(rendered),
    }


def draw(path: str | os.PathLike, rows: dict[tuple[str, int], dict[str, float]], trained: tuple[int, int] | None = None) -> None:
    """Draw PSNR and speeds over the number of inputs, a curve per network; shade the range used in training."""
    names = list(dict.fromkeys(name for name, _ in rows))
    panels = [
        Panel(title, [(name, COLOURS[i % 4], [(v, row[key]) for (n, v), row in rows.items() if n == name])
                      for i, name in enumerate(names)], log, trained)
        for title, key, log in (
            ("PSNR of new views in dB, over inputs", "psnr", False),
            ("frames rendered per second, over inputs", "frames_per_second", True),
            ("seconds to reconstruct, over inputs", "reconstruct", True),
        )
    ]  # fmt: skip
    draw_panels(path, panels)


def print_table(rows: dict[tuple[str, int], dict[str, float]], device: torch.device) -> None:
    """Print PSNR and speeds, one line per network and number of inputs."""
    print(in_words(machine(device)), end="\n\n")
    lines = []
    for (name, count), row in rows.items():
        speeds = [f"{row['reconstruct']:.4f}", f"{row['frames_per_second']:.0f}"]
        lines.append([name, str(count), *(f"{row[key]:.2f}" for key in ("psnr", "own", "floor", "nearest")), *speeds])
    head = ["network", "inputs", "PSNR, dB", "inputs rendered, dB", "mean of the inputs, dB", "nearest input, dB",
            "seconds to reconstruct", "frames/s"]  # fmt: skip
    print(markdown_table(head, lines))


if __name__ == "__main__":
    main()
