"""Benchmark of the loader: images per second and CPU seconds per image, from folders and from packs.

    python tests/benchmark/loader.py --data_path data_example/scenes_data_path.json --seconds 3
    python tests/benchmark/loader.py --data_path packs/train_data_path.json --watch --sizes 64 --seconds 60

The photos of a list, brought to 960×540 and 512×512, are written as folders of PNG and JPEG, and packed by pack_scenes.py at each
training size in each format. Then samples are drawn as training draws them, from one thread up to one per core, and from as many
processes of one thread. The data sets take turns; the best of the repeats counts, and files are in the system's cache.

With --watch the list itself is read, with one thread: seconds to the first sample, images per second and memory as it goes on.

Letters: h w pixels.
"""

import argparse
import contextlib
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from PIL import Image

from config.recipe import TrainingRecipe
from data.folder_source import FolderSource
from data.images import read_pixels, resize_and_crop, to_8_bits
from data.output.tables import markdown_table
from data.scene_format import CAMERAS, read_scene, write_scene
from data.scene_list import read_data_path, write_data_path
from data_preprocess import pack_scenes
from tests.benchmark.measure import resident

# Kinds of folders: size, format, whether with an alpha channel.
FOLDERS = {
    "folder, PNG 960×540": ((540, 960), "png", False),
    "folder, JPEG 960×540": ((540, 960), "jpeg", False),
    "folder, PNG 512×512, RGBA": ((512, 512), "png", True),
}
PACKED = "folder, PNG 960×540"
FORMATS = (("png", ()), ("webp", ("--quality", "90")), ("jpeg", ("--quality", "95")))
VIEWS, INPUTS, TARGETS = 32, 8, 8
# Images that a GPU takes per second: 8 scenes of 16 views.
PER_GPU = 128


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True, help="list of scenes with photos")
    parser.add_argument("--sizes", nargs="+", type=int, default=(128, 256), help="sides of the images to train on")
    parser.add_argument("--threads", nargs="+", type=int, help="numbers of threads; 1, 2, 4, … and the number of cores by default")
    parser.add_argument("--scenes", type=int, default=16, help="scenes of each data set")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--watch", action="store_true", help="read --data_path itself for --seconds, and watch memory")
    parser.add_argument("--measure", nargs=3, metavar=("LIST", "SIDE", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(*measure(Path(args.measure[0]), int(args.measure[1]), int(args.measure[2]), args.seconds))
        return
    if args.watch:
        watch(args.data_path, args.sizes[0], args.seconds)
        return
    cores = len(os.sched_getaffinity(0))
    threads = args.threads or sorted({*(1 << i for i in range(cores.bit_length()) if 1 << i <= cores), cores})
    with tempfile.TemporaryDirectory() as temporary:
        for side in args.sizes:
            print(f"\n{side}×{side}, {cores} cores, load {os.getloadavg()[0]:.1f}\n")
            print(compare(data_sets(args.data_path, Path(temporary), side, args.scenes), side, threads, args), flush=True)


def watch(path: Path, side: int, seconds: float) -> None:
    """Read samples of a list; print seconds to the first one, then ten times images per second and the process's memory."""
    begin = time.perf_counter()
    source = open_folders(path, side, 1)
    source.batch([0])
    print(f"{len(source.dataset)} scenes, first sample after {time.perf_counter() - begin:.2f} s, {_megabytes()} MB")
    number = 0
    for _ in range(10):
        begin, first = time.perf_counter(), number
        while time.perf_counter() < begin + seconds / 10:
            number += 1
            source.batch([number])
        rate = (number - first) * (INPUTS + TARGETS) / (time.perf_counter() - begin)
        print(f"{number} samples, {rate:.0f} images/s, {_megabytes()} MB", flush=True)
    source.close()


def _megabytes() -> int:
    return resident("VmRSS") >> 20


def data_sets(photos: Path, folder: Path, side: int, scenes: int) -> dict[str, Path]:
    """Return the lists of all data sets by their description, written where they are missing."""
    lists = {kind: write_folders(photos, folder / f"{i}", scenes, *form) for i, (kind, form) in enumerate(FOLDERS.items())}
    for name, quality in FORMATS:
        output = folder / f"{name}_{side}"
        flags = ["--image_size", str(side), str(side), "--format", name, *quality, "--views_per_file", str(4 * VIEWS)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert pack_scenes.main(["--data_path", str(lists[PACKED]), "--output", str(output), "--name", "packed", *flags]) == 0
        said = f" {quality[1]}" if quality else ""
        lists[f"packs, {name}{said}"] = output / "packed_data_path.json"
    return lists


def write_folders(photos: Path, folder: Path, scenes: int, size: tuple[int, int], form: str, alpha: bool) -> Path:
    """Write scenes of `VIEWS` views of one size; return the list of them."""
    list_path = folder / "folders_data_path.json"
    if list_path.exists():
        return list_path
    views = [view for path in read_data_path(photos) for view in read_scene(path).views]
    paths = []
    for i in range(scenes):
        own = []
        for k in range(VIEWS):
            view = views[(i * VIEWS + k) % len(views)]
            pixels = to_8_bits(read_pixels(view.file_path))
            stated = np.array([view.fx * pixels.shape[1] / view.w, view.fy * pixels.shape[0] / view.h, view.cx, view.cy])
            pixels, (fx, fy, _, _) = resize_and_crop(pixels, stated, size)
            image = Image.fromarray(np.ascontiguousarray(pixels))
            if alpha:
                image.putalpha(image.convert("L").point([255 * (value < 250) for value in range(256)]))
            file_path = folder / f"scene_{i:03d}" / "images" / f"{k:05d}.{form}"
            file_path.parent.mkdir(parents=True, exist_ok=True)
            image.save(file_path, **({"quality": 95} if form == "jpeg" else {}))
            (h, w), camera = size, (float(fx), float(fy))
            own.append(replace(view, file_path=file_path, w=w, h=h, fx=camera[0], fy=camera[1], cx=w / 2, cy=h / 2))
        paths.append(folder / f"scene_{i:03d}" / CAMERAS)
        write_scene(paths[-1], own)
    write_data_path(list_path, paths)
    return list_path


def compare(lists: dict[str, Path], side: int, threads: Sequence[int], args: argparse.Namespace) -> str:
    """Measure all data sets in turn; return the table."""
    settings = [(count, "threads") for count in threads] + [(count, "processes") for count in threads if count > 1]
    best: dict[tuple[str, int, str], tuple[float, ...]] = {}
    for _ in range(args.repeats):
        for kind, path in lists.items():
            for count, of in settings:
                threads_each, processes = (count, 1) if of == "threads" else (1, count)
                found = measured(path, side, threads_each, processes, args.seconds)
                best[kind, count, of] = max(best.get((kind, count, of), (0.0, 0.0)), found)
    first = best[PACKED, 1, "threads"][0]
    rows = []
    for kind in lists:
        rate, cpu = best[kind, 1, "threads"]
        others = [f"{best[kind, count, of][0]:.0f}" for count, of in settings[1:]]
        gpus = f"{rate / PER_GPU:.1f}"
        rows.append(
            (kind, f"{rate:.0f}", f"{rate / first:.1f}", f"{1e3 * cpu:.2f}", f"{rate / (INPUTS + TARGETS):.0f}", gpus, *others)
        )
    heads = ("data", "images/s", "ratio", "CPU ms per image", "scenes/s", f"GPUs at {PER_GPU} images/s")
    return markdown_table((*heads, *(f"images/s, {count} {of}" for count, of in settings[1:])), rows)


def measured(path: Path, side: int, threads: int, processes: int, seconds: float) -> tuple[float, float]:
    """Return images per second of new processes together, and CPU seconds per image."""
    flags = ["--data_path", path, "--seconds", seconds, "--measure", path, side, threads]
    command, environment = [sys.executable, __file__, *map(str, flags)], os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(processes)]
    results = [tuple(map(float, process.communicate()[0].split())) for process in started]
    return sum(rate for rate, _ in results), max(cpu for _, cpu in results)


def open_folders(path: Path, side: int, threads: int) -> FolderSource:
    """Return the source of a training run on square images."""
    recipe = TrainingRecipe(
        data_path=str(path), image_size=(side, side), num_input_views=INPUTS, num_target_views=TARGETS,
        num_all_views=INPUTS + TARGETS, workers=threads, scene_pose_normalize=True,
    )  # fmt: skip
    return FolderSource(str(path), recipe, patch_size=8)


def measure(path: Path, side: int, threads: int, seconds: float) -> tuple[float, float]:
    """Draw batches for some seconds; return images per second and CPU seconds per image."""
    source = open_folders(path, side, threads)
    samples = max(4 * threads, len(source.dataset))
    source.batch(range(samples))  # an epoch: cameras are checked when a scene is first seen
    images, cpu, begin = 0, time.process_time(), time.perf_counter()
    for first in itertools.count(samples, samples):
        source.batch(range(first, first + samples))
        images += samples * (INPUTS + TARGETS)
        if time.perf_counter() > begin + seconds:
            break
    result = images / (time.perf_counter() - begin), (time.process_time() - cpu) / images
    source.close()
    return result


if __name__ == "__main__":
    main()
