"""Damaged and mutated files, read in one process per kind: refused in one line, or harmless. Letters: n copies."""

import itertools
import json
import random
import re
import shutil
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmark.attack_inputs import infer, train
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_stored import stored_readers, write_small_chunk, write_small_pack
from tests.benchmark.attack_verdict import LONGEST, Outcome, letters

SECONDS = 10  # for one file
ODD = ["null", "true", "-1", "0", "1e999", "-1e999", "NaN", "1e308", "5e-324", "9" * 400, '""', '"x"', "[]", "{}", "[[[]]]", "1.5",
       "2147483648", "18446744073709551616", "0x10", "1_000", "~", "!!int x", "*a", "&a [*a]", "\x00", "\ud7ff", "../x",
       "/dev/null"]  # fmt: skip


def damaged_files(arena: Arena) -> Iterator[Outcome]:
    """Flip bits, zero blocks and cut: the file is refused, or holds the true values."""
    folder = arena.place("train")
    arena.run(train(folder, steps=4), folder)
    place = arena.place("place")
    arena.run(infer("--save_state"), place)
    files = {
        "snapshot": folder / "outputs/run/snapshot/step_00000004.pt",
        "weights .safetensors": folder / "outputs/run/model.safetensors",
        "weights .pt": place / "weights.pt",
        "scene state": place / "output/scene_0/state.safetensors",
    }
    arena.prepare(write_pt, files["weights .safetensors"], files["weights .pt"])
    for kind, file in files.items():
        yield from _told(arena, f"damaged {kind}", read_damaged, kind.split(".")[0].strip(), file, arena.many(300))


def _told(arena: Arena, name: str, work: Callable, *arguments: object) -> Iterator[Outcome]:
    """Call a function that prints an outcome per line, as JSON, before and after each file; yield the outcomes."""
    run = arena.call(work, *arguments, seconds=300)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    for attack, problem in lines:
        yield Outcome(f"{name}, {attack}", problem)
    if run.status != 0:
        end = "hangs" if run.status is None else f"ended by {run.status}: {run.last_words()}"
        yield Outcome(f"{name}, file {len(lines)}", end)


def write_pt(weights: Path, target: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(weights), target)


def readers() -> dict[str, Callable[[Path], object]]:
    """Return the checkout's reading functions by kind of file."""
    from config import load_config
    from config.recipe import read_recipe
    from data import view_index
    from data.images import read_pixels
    from data.scene_format import read_scene
    from data.scene_list import read_data_path
    from data_preprocess.capture.stored_image import read_header, read_stored
    from data_preprocess.capture.transforms import read_transforms
    from data_preprocess.colmap.sparse_model import lens_of, read_model
    from model.scene_state import SceneState
    from model.training.log import read_rows
    from model.training.snapshot import read_snapshot
    from model.weights.file import read_weights
    from model.weights.load import read_config
    from model.weights.trained_with import trained_with

    def weights(path: Path) -> object:
        found = read_weights(path)
        return found, read_config(path, found), trained_with(path)

    def read_index(path: Path) -> object:
        view_index._content.cache_clear()  # copies within one tick of the file system's clock look the same
        return view_index.read_view_index(path, "scene_0", 5, [3])

    def transforms(path: Path) -> object:
        return [(frame.lens((60, 84), 1), frame.opencv_c2w()) for frame in read_transforms(path)]

    return {
        "snapshot": read_snapshot,
        "weights": lambda path: dict(read_weights(path)),
        "scene state": lambda path: vars(SceneState.load(path)),
        "list": read_data_path,
        "scene": read_scene,
        "view index": read_index,
        "transforms.json": transforms,
        "network config": load_config,
        "recipe": lambda path: read_recipe(["--recipe", str(path)]),
        "log": read_rows,
        "image": lambda path: (read_header(path), read_stored(path), read_pixels(path)),
        "model .bin": lambda path: [lens_of(image.camera) for image in read_model(path.parent, ".bin")],
        "model .txt": lambda path: [lens_of(image.camera) for image in read_model(path.parent, ".txt")],
        "weights and settings": weights,
        **stored_readers(),
    }


def read_damaged(kind: str, file: Path, count: int) -> None:
    """Print an outcome for each of `count` damaged copies of a tensor file."""
    read, whole, dice = readers()[kind], file.read_bytes(), random.Random(3)
    warnings.simplefilter("ignore")
    truth = _leaves(read(file))
    for i in range(count):
        how, copy = _damaged(whole, dice, i)
        file.write_bytes(copy)
        found: list = []
        problem = _reading(file, lambda path: found.append(_leaves(read(path))))  # noqa: B023 (called here)
        if not problem and found and not _same(found[0], truth):
            problem = "other values, silently"
        print(json.dumps([f"{how} {i}", problem]), flush=True)


def _damaged(whole: bytes, dice: random.Random, i: int) -> tuple[str, bytes]:
    copy = bytearray(whole)
    if i % 4 == 0:
        copy[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
    elif i % 4 == 1:
        near_the_ends = dice.choice([dice.randrange(min(700, len(copy))), -1 - dice.randrange(min(2000, len(copy)))])
        copy[near_the_ends] ^= 1 << dice.randrange(8)
    elif i % 4 == 2:
        start, size = dice.randrange(len(copy)), dice.choice([8, 64, 512, 4096])
        copy[start : start + size] = bytes(len(copy[start : start + size]))
    else:
        del copy[dice.randrange(len(copy)) :]
    return ("bit", "bit near an end", "zero block", "cut")[i % 4], bytes(copy)


def _leaves(value: object, name: str = "") -> dict[str, object]:
    """Return the leaves of nested dicts and lists by their path; tensors are copied, for they may be mapped from the file."""
    import torch

    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        return {name: value.clone() if isinstance(value, torch.Tensor) else value}
    return {k: v for key, item in items for k, v in _leaves(item, f"{name}/{key}").items()}


def _same(one: dict[str, object], other: dict[str, object]) -> bool:
    import torch

    def bits(x: object) -> object:
        if not isinstance(x, torch.Tensor):
            return x
        return x.dtype, x.shape, bytes(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy())

    return one.keys() == other.keys() and all(bits(one[key]) == bits(other[key]) for key in one)


class Late(BaseException):
    """A file takes too long. No `Exception`, which a reader might turn into its own."""


def _reading(file: Path, read: Callable[[Path], object]) -> str:
    """Return what is wrong with how a file is read: nothing if it is read, or refused in one line within `SECONDS`.

    The folder of the file does not count as part of the line.
    """
    from config.errors import InputError

    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(file)
    except (InputError, OSError) as error:
        text = str(error).replace(f"{file.parent}/", "")
        if "\n" in text:
            return f"{len(text.splitlines())} lines: {text:.120}"
        return f"{letters(text)} letters: {text:.120}" if letters(text) > LONGEST else ""
    except Late:
        return f"takes more than {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def mutated_files(arena: Arena) -> Iterator[Outcome]:
    """Change files of every kind at random; the readers raise nothing but InputError and OSError."""
    place, folder, made = arena.place("place"), arena.place("train"), arena.place()
    shutil.copytree(arena.scratch / "inputs" / "colmap", made / "colmap")
    shutil.copytree(arena.scratch / "inputs" / "capture" / "capture", made / "capture")
    arena.run(infer("--save_state"), place)
    arena.run(train(folder, steps=4), folder)
    arena.prepare(make_originals, arena.project, place, made)
    sparse, text = made / "colmap/capture/sparse/0", made / "colmap/text"
    for kind, file, count in (
        ("list", place / "scenes/test_data_path.json", 500),
        ("scene", place / "scenes/scene_0/opencv_cameras.json", 1000),
        ("list", made / "list.txt", 300),
        ("view index", made / "index.json", 300),
        ("view index", made / "several.json", 300),
        ("view index", made / "long_lrm.json", 300),
        ("transforms.json", made / "capture/transforms.json", 1000),
        ("network config", made / "network.yaml", 500),
        ("recipe", made / "recipe.yaml", 500),
        ("log", folder / "outputs/run/log.jsonl", 500),
        ("image", made / "photo.png", 700),
        ("image", made / "photo.jpg", 700),
        ("image", made / "photo.webp", 700),
        ("model .bin", sparse / "cameras.bin", 500),
        ("model .bin", sparse / "images.bin", 500),
        ("model .txt", text / "cameras.txt", 500),
        ("model .txt", text / "images.txt", 500),
        ("pack", made / "pack.zip", 1500),
        ("chunk", made / "chunk.torch", 500),
        ("poses_bounds.npy", place.parent / "inputs/llff/capture/poses_bounds.npy", 1000),
        ("mask", made / "mask.png", 500),
        ("weights and settings", made / "plain.safetensors", 300),
        ("scene state", made / "plain_state.safetensors", 300),
        ("snapshot", folder / "outputs/run/snapshot/step_00000004.pt", 200),
    ):
        yield from _told(arena, f"mutated {file.name}", read_mutated, kind, file, arena.many(count))
    yield from _told(arena, "zip of a scene", read_zip_bombs, made)


def make_originals(project: Path, place: Path, made: Path) -> None:
    """Write the files that are mutated: pictures with metadata, and tensors without the checksum that would guard them."""
    from PIL import Image
    from safetensors import safe_open
    from safetensors.torch import save_file

    photo, exif = Image.open(made / "capture/images/00000.png"), Image.Exif()
    exif[274] = 6
    photo.convert("P").save(made / "photo.png", exif=exif, transparency=0)
    photo.save(made / "photo.jpg", exif=exif)
    photo.save(made / "photo.webp", exif=exif)
    for name, source in (("plain", "tiny.safetensors"), ("plain_state", "output/scene_0/state.safetensors")):
        with safe_open(place / source, framework="pt") as file:
            about = {key: text for key, text in file.metadata().items() if "sum" not in key and "sha" not in key}
            save_file({key: file.get_tensor(key) for key in file.keys()}, made / f"{name}.safetensors", about)  # noqa: SIM118
    write_small_pack(made / "pack.zip", made / "photo.jpg")
    write_small_chunk(made / "chunk.torch")
    shutil.copy(place.parent / "inputs/masks/masks/00000.png", made / "mask.png")
    (made / "list.txt").write_text(f"{place}/scenes/scene_0/opencv_cameras.json\n\n{place}/scenes/scene_1/opencv_cameras.json\n")
    for name, index in {
        "index": {"scene_0": {"inputs": [0, 1, 2], "targets": [3, 4]}},
        "several": {"scene_0": {"inputs": {"3": [0, 1, 2], "2": [0, 2]}, "targets": [3, 4]}},
        "long_lrm": [{"scene_name": "scene_0", "fold_4_kmeans_3_input": [1, 2, 3], "fold_4_kmeans_2_input": [1, 3]}],
    }.items():
        (made / f"{name}.json").write_text(json.dumps(index))
    shutil.copy(project / "config/lact_l4_d256_foot.yaml", made / "network.yaml")
    shutil.copy(project / "config/train/debug.yaml", made / "recipe.yaml")


def read_mutated(kind: str, file: Path, count: int) -> None:
    """Print an outcome for each of `count` mutations of a file."""
    read, whole = readers()[kind], file.read_bytes()
    warnings.simplefilter("ignore")
    if problem := _reading(file, read):
        print(json.dumps(["whole", problem]))
    for seed in range(count):
        file.write_bytes(mutated(whole, random.Random(seed)))
        print(json.dumps([f"seed {seed}", _reading(file, read)]), flush=True)
    file.write_bytes(whole)


def mutated(whole: bytes, dice: random.Random) -> bytes:
    """Return a file after one to three random changes, of bytes or of the numbers and words in it."""
    copy = bytearray(whole)
    for _ in range(dice.randrange(1, 4)):
        start = dice.choice([dice.randrange(len(copy) or 1), dice.randrange(min(len(copy), 200) or 1)])
        part = copy[start : start + dice.choice([1, 2, 4, 8, 40])]
        words = list(itertools.islice(re.finditer(rb'-?\d+(\.\d+)?(e[-+]?\d+)?|"[^"]*"|\w+', copy, re.ASCII), 400))
        kind = dice.randrange(8)
        if kind < 4 and words:
            word = dice.choice(words)
            copy[word.start() : word.end()] = dice.choice(ODD).encode("utf-8", "surrogatepass")
        elif kind == 4:
            copy[start : start + len(part)] = dice.randbytes(len(part))
        elif kind == 5:
            del copy[start : start + len(part)]
        elif kind == 6:
            copy[start:start] = bytes(part) * dice.choice([1, 2, 300])
        else:
            del copy[start + dice.randrange(300) :]
    return bytes(copy)


def read_zip_bombs(folder: Path) -> None:
    """Print outcomes for archives of DL3DV whose members unpack to far more than they hold."""
    from config.errors import InputError
    from data_preprocess.dl3dv_train_download import unpack

    for megabytes in (300, 1000):
        archive, scene = folder / "bomb.zip", "a" * 64
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{scene}/transforms.json", "{}")
            with file.open(f"{scene}/images_4/frame_00001.png", "w", force_zip64=True) as member:
                for _ in range(megabytes):
                    member.write(bytes(1 << 20))
        problem = "unpacked whole"
        try:
            unpack(archive, scene, folder / "unpacked")
        except (InputError, OSError):
            written = sum(path.stat().st_size for path in (folder / "unpacked").rglob("*") if path.is_file())
            problem = "" if written < 100 << 20 else f"{written >> 20} MiB were written"
        print(json.dumps([f"{megabytes} MB of zeros", problem]), flush=True)
        shutil.rmtree(folder / "unpacked", ignore_errors=True)
