"""Chunks of scenes, the form in which pixelSplat and its successors store RealEstate10K, ACID and DL3DV: read and checked.

A chunk is a torch file with a list of scenes `{"key", "url", "timestamps", "cameras", "images"}`: `images` are whole JPEG files as
uint8 tensors; a row of `cameras` (v, 18) is fx, fy, cx, cy divided by the image's width and height, two terms of distortion, which
are zero, and the 3×4 camera from world, OpenCV axes. Letters: v views.
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config.errors import InputError, check_file
from config.messages import is_folder_name, shown, with_article, with_type
from data.images import FORMATS, read_orientation
from data.scene_format import MOST_VIEWS, View
from model.weights.torch_file import load_torch_file
from model.weights.values import check_kind

# Scenes of a chunk; pixelSplat's have up to a few dozen.
MOST_SCENES = 100_000
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_NUMBERS = 18
# Timestamps are in microseconds; twelve digits are eleven days.
_DIGITS = 12
_WANTED = "a chunk of scenes, as pixelSplat's scripts write it"


@dataclass(frozen=True, eq=False)
class StoredScene:
    """A scene of a chunk.

    Args:
        key: a valid folder name.
        views: with the paths of their images relative to the scene's folder.
        images: the content of each view's image, (bytes,) uint8.
        by_time: whether images are named after their timestamps, else after their position.
    """

    key: str
    views: list[View]
    images: list[Tensor]
    by_time: bool


def read_chunk(path: Path) -> list[object]:
    """Return the scenes of a chunk, not checked; images stay on disk where the file allows it.

    Raises:
        OSError: it cannot be opened.
        InputError: it is not a torch file of tensors and plain values, is damaged, or holds no list.

    Cost: the whole file is read once, to compare it with its checksums.
    """
    check_file(path, _WANTED)
    content = load_torch_file(path, path, _WANTED)
    if not isinstance(content, list):
        raise InputError(path, f"holds {with_article(type(content))}", f"a list of scenes: {_WANTED}")
    if len(content) > MOST_SCENES:
        raise InputError(path, f"holds {len(content)} scenes", f"{MOST_SCENES} at most")
    return content


def key_of(entry: object) -> str:
    """Return the key of a scene of a chunk.

    Raises:
        InputError: it has none that can be the name of a folder.
    """
    key = entry.get("key") if isinstance(entry, dict) else None
    if not is_folder_name(key):
        found = f"is {shown(key)}" if isinstance(entry, dict) else f"is missing: the scene is {with_article(type(entry))}"
        raise InputError("key", found, "a text that is a valid folder name")
    return key


def read_scene(entry: dict) -> StoredScene:
    """Check a scene of a chunk; of its images, only the headers are read.

    Args:
        entry: with a valid key.

    Raises:
        InputError: cameras, timestamps or images are not as described above, or do not fit each other; the rotations are checked
            where the scene is written.
    """
    cameras = _tensor(entry, "cameras", f"(views, {_NUMBERS}) floating-point numbers")
    if not (cameras.is_floating_point() and cameras.ndim == 2 and cameras.shape[1] == _NUMBERS and len(cameras)):
        raise InputError("cameras", _described(cameras), f"(views, {_NUMBERS}) floating-point numbers")
    rows = cameras.detach().to(torch.float64).numpy()
    if not np.isfinite(rows).all():
        raise InputError("cameras", "hold numbers that are not finite", "finite ones")
    if rows[:, 4:6].any():
        view = int(np.flatnonzero(rows[:, 4:6].any(1))[0])
        found = f"has the distortion {' '.join(f'{x:g}' for x in rows[view, 4:6])}"
        raise InputError(f"cameras, view {view}", found, "0 0: images are not undistorted")
    images = entry.get("images")
    if not isinstance(images, (list, tuple)) or len(images) != len(rows):
        found = f"are {len(images)}" if isinstance(images, (list, tuple)) else f"are {with_article(type(images))}"
        raise InputError("images", found, f"a list of {len(rows)}, as there are cameras")
    if len(images) > MOST_VIEWS:
        raise InputError("images", f"are {len(images)}", f"{MOST_VIEWS} at most")
    times = _times(entry, len(rows))
    names = [f"{time:0{_DIGITS}d}" for time in times] if times else [f"{i:05d}" for i in range(len(rows))]
    views = [_view(f"image {i}", *view) for i, view in enumerate(zip(images, names, rows, strict=True))]
    return StoredScene(entry["key"], views, list(images), bool(times))


def content_of(image: Tensor) -> bytes:
    """Return the bytes of a view's image."""
    return image.numpy().tobytes()


def _times(entry: dict, views: int) -> Sequence[int] | None:
    """Return the timestamps of a scene; None if it has none that increase, which alone sort like their views."""
    if "timestamps" not in entry:
        return None
    wanted = f"{views} whole numbers, one for each camera"
    times = _tensor(entry, "timestamps", wanted)
    if times.is_floating_point() or times.is_complex() or times.shape != (views,):
        raise InputError("timestamps", _described(times), wanted)
    found = times.tolist()
    increasing = all(before < after for before, after in itertools.pairwise(found))
    return found if increasing and found[0] >= 0 and found[-1] < 10**_DIGITS else None


def _view(where: str, image: object, name: str, row: np.ndarray) -> View:
    """Return a view; `row` is (18,)."""
    wanted = "the bytes of a file, uint8"
    if not isinstance(image, Tensor):
        raise InputError(where, f"is {with_article(type(image))}", wanted)
    check_kind(image, where)
    if image.dtype != torch.uint8 or image.ndim != 1:
        raise InputError(where, _described(image, "is"), wanted)
    (h, w), suffix = _header(where, image)
    w2c = np.eye(4)
    w2c[:3] = row[6:].reshape(3, 4)
    return View(Path("images", name + suffix), w, h, *(row[:4] * (w, h, w, h)).tolist(), w2c)


def _header(where: str, image: Tensor) -> tuple[tuple[int, int], str]:
    """Return the size (h, w) and the suffix of an image."""
    try:
        with Image.open(io.BytesIO(content_of(image)), formats=FORMATS) as opened:
            size, suffix, orientation = (opened.height, opened.width), _SUFFIXES[opened.format or ""], read_orientation(opened)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(where, "is not an image, or is damaged", ", ".join(FORMATS)) from None
    except Exception as error:  # decoders raise anything
        raise InputError(where, f"cannot be read ({with_type(error)})", ", ".join(FORMATS)) from error
    if orientation != 1:
        raise InputError(where, f"is stored turned (EXIF orientation {orientation})", "an upright image")
    return size, suffix


def _tensor(entry: dict, key: str, wanted: str) -> Tensor:
    value = entry.get(key)
    if not isinstance(value, Tensor):
        raise InputError(key, "are missing" if key not in entry else f"are {with_article(type(value))}", wanted)
    check_kind(value, key)
    return value


def _described(tensor: Tensor, verb: str = "are") -> str:
    return f"{verb} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
