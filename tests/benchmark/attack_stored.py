"""Scenes in other forms than folders: packs, chunks, poses_bounds.npy, masks, parts of lists; command lines that take them."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmark.attack_inputs import convert

PACK = "data_preprocess/pack_scenes.py"
TO_COLMAP = "data_preprocess/export_colmap.py"
RE10K = "data_preprocess/re10k_format_converter.py"
LLFF = "data_preprocess/llff_format_converter.py"
MERGE = "data_preprocess/merge_lists.py"
ADJUST = "data_preprocess/adjust_cameras.py"
# The pack in the folder `place`, and in `train`.
SCENES = "scenes.zip"


def pack(*flags: object, data: str = "scenes/test_data_path.json") -> list[object]:
    words = [PACK, "--data_path", data, "--output", "out", "--name", "made", "--image_size", 20, 28, "--views_per_file", 6]
    return [*words, "--workers", 2, *flags]


def to_colmap(*flags: object, data: str = "scenes/test_data_path.json") -> list[object]:
    return [TO_COLMAP, data, "--output", "out", "--points", 500, "--workers", 2, *flags]


def chunks(*flags: object) -> list[object]:
    return [RE10K, "--input", "chunks", "--output", "out", "--workers", 2, *flags]


def llff(*flags: object) -> list[object]:
    return [LLFF, "--input", "capture", "--output", "out", "--workers", 2, *flags]


def masked(*flags: object) -> list[object]:
    return convert("--mask", "masks", *flags)


def make_stored(folder: Path) -> None:
    """Add packs to the folders `place` and `train`; make `chunks`, `llff`, `masks` and `parts`. Nothing of a checkout is used."""
    for name in ("place", "train"):
        make_pack(folder / name / "scenes", folder / name / SCENES)
    make_chunks(folder / "chunks" / "chunks")
    shutil.copytree(folder / "capture", folder / "llff")
    make_poses_bounds(folder / "llff" / "capture")
    make_masks(folder / "capture", folder / "masks")
    shutil.copytree(folder / "place" / "scenes", folder / "parts" / "scenes")
    for i in range(2):
        part = folder / "parts" / "scenes" / f"all_data_path.part-{i:04d}-of-0002.json"
        part.write_text(json.dumps([f"scene_{i}/opencv_cameras.json"]))


def members(scenes: Path) -> dict[str, bytes]:
    """Return what a pack of a folder of scenes holds: their files, and last the list."""
    files = sorted(path for path in scenes.glob("*/**/*") if path.is_file())
    found = {path.relative_to(scenes).as_posix(): path.read_bytes() for path in files}
    listed = [name for name in found if name.endswith("/opencv_cameras.json")]
    return {**found, "pack_data_path.json": json.dumps(listed).encode()}


def make_pack(scenes: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members(scenes).items():
            archive.writestr(name, content)


def make_chunks(folder: Path) -> None:
    """Make two chunks of two scenes, and their index."""
    import torch

    folder.mkdir(parents=True)
    index = {}
    for i in range(2):
        torch.save([chunk_scene(f"key{i}{j}", 10 * i + j) for j in range(2)], folder / f"{i:06d}.torch")
        index |= {f"key{i}{j}": f"{i:06d}.torch" for j in range(2)}
    (folder / "index.json").write_text(json.dumps(index))


def chunk_scene(key: str, seed: int = 0, views: int = 3) -> dict:
    import numpy as np
    import torch
    from PIL import Image

    from tests.support.scenes import random_c2w

    dice, images = np.random.default_rng(seed), []
    for _ in range(views):
        file = io.BytesIO()
        Image.fromarray(dice.integers(0, 256, (18, 32, 3), dtype=np.uint8)).save(file, "JPEG")
        images.append(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8))
    cameras = torch.zeros(views, 18)
    cameras[:, :4] = torch.tensor([0.5, 0.9, 0.5, 0.48])
    cameras[:, 6:] = torch.tensor(np.linalg.inv(random_c2w(views, seed))[:, :3].reshape(views, 12))
    return {"key": key, "url": "", "timestamps": torch.arange(views) * 33_367, "cameras": cameras, "images": images}


def make_poses_bounds(capture: Path) -> None:
    import numpy as np

    top = json.loads((capture / "transforms.json").read_text())
    rows = []
    for frame in top["frames"]:
        c2w = np.array(frame["transform_matrix"])[:3]  # OpenGL axes: right, up, backward
        matrix = np.column_stack([-c2w[:, 1], c2w[:, 0], c2w[:, 2], c2w[:, 3], [top["h"], top["w"], 80.0]])
        rows.append([*matrix.flat, 0.8, 20.0])
    np.save(capture / "poses_bounds.npy", np.array(rows))
    os.remove(capture / "transforms.json")


def make_masks(source: Path, folder: Path) -> None:
    from PIL import Image

    shutil.copytree(source, folder)
    (folder / "masks").mkdir()
    mask = Image.new("L", (84, 60))
    mask.paste(255, (20, 15, 60, 45))
    for photo in (folder / "capture" / "images").glob("*.png"):
        mask.save(folder / "masks" / photo.name)


def write_small_pack(path: Path, photo: Path) -> None:
    """Write a pack of a scene with two views of one photo of 84×60 pixels."""
    pose = [[1, 0, 0, 0.5], [0, 1, 0, -0.25], [0, 0, 1, 2], [0, 0, 0, 1]]
    view = {"w": 84, "h": 60, "fx": 80.0, "fy": 80.0, "cx": 42.0, "cy": 30.0, "w2c": pose}
    views = [{**view, "file_path": f"images/{i}.jpg"} for i in range(2)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scene/opencv_cameras.json", json.dumps(views))
        for i in range(2):
            archive.write(photo, f"scene/images/{i}.jpg")
        archive.writestr("pack_data_path.json", '["scene/opencv_cameras.json"]')


def write_small_chunk(path: Path) -> None:
    """Write a chunk of a scene with two views in torch's older format, which has no checksums."""
    import torch

    torch.save([chunk_scene("a", views=2)], path, _use_new_zipfile_serialization=False)


def stored_readers() -> dict[str, Callable[[Path], object]]:
    """Return the checkout's reading functions by kind of file; one that lacks them fails where they are called."""

    def pack_of_scenes(path: Path) -> object:
        from data import pack
        from data.images import read_pixels
        from data.scene_format import read_scene
        from data.scene_list import read_data_path

        pack._open_packs = pack._OpenPacks()  # copies within one tick of the file system's clock look the same
        return [read_pixels(view.file_path) for scene in read_data_path(path) for view in read_scene(scene).views]

    def chunk(path: Path) -> object:
        from data_preprocess.re10k.chunk import content_of, key_of, read_chunk, read_scene

        scenes = [read_scene(entry) for entry in read_chunk(path) if key_of(entry)]
        return [content_of(image) for scene in scenes for image in scene.images]

    def poses_bounds(path: Path) -> object:
        from data_preprocess.capture.poses_bounds import read_poses_bounds

        return read_poses_bounds(path)

    def mask(path: Path) -> object:
        from data_preprocess.capture.masks import check_mask, fitted, read_mask

        return fitted(read_mask(path), (60, 84), 1, False), check_mask(path, path)

    return {"pack": pack_of_scenes, "chunk": chunk, "poses_bounds.npy": poses_bounds, "mask": mask}
