"""Chunks as pixelSplat's conversion script writes them, for tests. Letters: v views, h w pixels."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.support.scenes import random_c2w


def encoded(rng: np.random.Generator, size: tuple[int, int], suffix: str = "jpeg", **options) -> bytes:
    """Return the bytes of a random image (h, w)."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, suffix, **options)
    return file.getvalue()


def stored_scene(key: str, v: int = 3, size: tuple[int, int] = (18, 32), seed: int = 0, **changes) -> dict:
    """Return a scene of a chunk; `changes` replace entries, those that are None are left out."""
    rng = np.random.default_rng(seed)
    cameras = np.zeros((v, 18))
    cameras[:, :4] = (0.5, 0.9, 0.5, 0.48)
    cameras[:, 6:] = np.linalg.inv(random_c2w(v, seed))[:, :3].reshape(v, 12)
    images = [torch.tensor(np.frombuffer(encoded(rng, size), np.uint8).copy()) for _ in range(v)]
    scene = {
        "url": f"https://www.youtube.com/watch?v={key}",
        "timestamps": torch.arange(v, dtype=torch.int64) * 33_367 + 52_553_000,
        "cameras": torch.tensor(cameras, dtype=torch.float32),
        "images": images,
        "key": key,
    }
    return {name: value for name, value in {**scene, **changes}.items() if value is not None}


def write_chunk(path: Path, scenes: list, **options) -> Path:
    """Write a chunk, and its keys into the folder's index.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(scenes, path, **options)
    index = path.parent / "index.json"
    content = json.loads(index.read_text()) if index.exists() else {}
    index.write_text(json.dumps({**content, **{scene["key"]: path.name for scene in scenes}}))
    return path
