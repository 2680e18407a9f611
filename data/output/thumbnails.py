"""Encoded pictures for a page: lossless while small, otherwise as large and as fine as a number of bytes allows.

Letters: h w pixels. Images are (h, w, 3) uint8, sRGB.
"""

import bisect
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from data.output.picture import error_map, heat_map

# Images up to this side are stored without loss where the bytes allow it.
SMALL = 256
# (longest side, JPEG quality), from the finest; the last is as coarse as a picture gets.
STEPS = ((1280, 92), (960, 90), (768, 88), (640, 86), (512, 85), (384, 82), (320, 80), (256, 78), (192, 75), (160, 72), (128, 70))
LOSSLESS = (SMALL, 100)
# Quality from which colours are stored at full resolution.
_FULL_COLOUR = 85

Step = tuple[int, int]


def encode(image: np.ndarray, step: Step) -> bytes:
    """Return a picture as PNG, or as JPEG with a longest side and a quality; smaller images keep their size."""
    return _encode(shrunk(image, step[0]), step)


def encode_error(photo: np.ndarray, rendering: np.ndarray, step: Step) -> bytes:
    """Return the error of a rendering in colours; where the picture is smaller, a pixel's is the mean over its area."""
    return _encode(heat_map(_resized(error_map(photo, rendering), step[0], Image.Resampling.BOX)), step)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image with a longest side of at most `side` pixels."""
    return _resized(image, side, Image.Resampling.LANCZOS)


def steps_for(images: Sequence[np.ndarray]) -> list[Step]:
    """Return the ways to store images of this size, from the finest."""
    small = all(max(image.shape[:2]) <= SMALL for image in images)
    return [LOSSLESS, *STEPS] if small else list(STEPS)


def finest(steps: Sequence[Step], fits: Callable[[Step], bool]) -> int:
    """Return the position of the finest step that fits; of the last if none does. Finer steps are assumed to take more bytes."""
    return min(bisect.bisect_left(steps, True, key=fits), len(steps) - 1)


def size_of(picture: bytes) -> tuple[int, int]:
    """Return (h, w) of an encoded picture."""
    with Image.open(io.BytesIO(picture)) as image:
        return image.height, image.width


def is_lossless(picture: bytes) -> bool:
    """Return whether an encoded picture is a PNG."""
    return picture.startswith(b"\x89PNG")


def same_photo(one: bytes, other: bytes) -> bool:
    """Return whether two encoded pictures show the same, though their sizes and their quality may differ."""
    if one == other:
        return True
    samples = []
    for picture in (one, other):
        with Image.open(io.BytesIO(picture)) as image:
            small = image.convert("RGB").resize((16, 16), Image.Resampling.BOX)
            samples.append((image.width / image.height, np.asarray(small, np.float32)))
    (ratio, first), (other_ratio, second) = samples
    # Rounding of short sides changes the ratio by a few percent, JPEG and resizing a mean of many pixels by few levels.
    return abs(ratio / other_ratio - 1) < 0.1 and float(np.abs(first - second).mean()) < 4


def _resized(image: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    h, w = image.shape[:2]
    if max(h, w) <= side:
        return image
    scale = side / max(h, w)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    return np.asarray(Image.fromarray(image).resize(size, how, reducing_gap=3 if image.ndim == 3 else None))


def _encode(image: np.ndarray, step: Step) -> bytes:
    file = io.BytesIO()
    if step == LOSSLESS:
        Image.fromarray(image).save(file, format="PNG")
    else:
        colour = 0 if step[1] >= _FULL_COLOUR else 2
        Image.fromarray(image).save(file, format="JPEG", quality=step[1], subsampling=colour)
    return file.getvalue()
