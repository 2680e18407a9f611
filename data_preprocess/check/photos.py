"""Photos as the checks of a scene keep them: a few numbers and a reduced copy, about 30 kB whatever their size.

Letters: h w pixels.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data.images import read_photo as read_image
from data.images import read_pixels, rescale_intrinsics, to_8_bits
from data.scene_format import View
from data_preprocess.capture.background import shows_background
from data_preprocess.capture.copies import Reduced, fine_colours, reduce_pixels

# Photos are measured at this longer side, in pixels, if they are larger: networks render no more.
MEASURED = 960
# Longer side of a photo on a contact sheet, until that is drawn, and of one that is matched.
THUMBNAIL = 480
# Photos whose fine colours are kept when they were wanted, 170 kB each: those that resemble each other are compared several times.
_MOST_FINE = 512
# Standard deviations, in pixels, of the blurs that part fine detail from coarse.
_FINE, _COARSE = 1.0, 6.0
# Directions of change, (down, across): motion blurs along one.
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Grey levels (root mean square) of coarse detail below which a photo is smooth.
_SMOOTH = 0.5


@dataclass(frozen=True, eq=False)
class Photo:
    """What is kept of a photo.

    Args:
        digest: of its size and pixels: equal for equal pixels alone.
        reduced: to compare with others; its fine part is read again when it is wanted.
        sharpness: (4,) logarithm of the change of fine detail over that of coarse detail, across, down and along the diagonals; NaN
            where the photo is smooth.
        background: whether it shows more than an object on white.
    """

    digest: bytes
    reduced: Reduced
    sharpness: np.ndarray
    background: bool


def read_photo(view: View, thumbnail: bool = False) -> tuple[Photo, np.ndarray | None]:
    """Read and measure the photo of a view.

    Args:
        view: its camera gives the size.
        thumbnail: whether to return the photo reduced to `THUMBNAIL`, (h, w, 3) uint8, too.

    Raises:
        OSError, InputError: it cannot be read, is no image, or has another shape than its camera.
    """
    pixels, alpha = read_image(view.file_path)
    rescale_intrinsics(np.zeros(4), (view.h, view.w), pixels.shape[:2], view.file_path)
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
    pixels = to_8_bits(pixels)
    reduced = reduce_pixels(pixels, lambda: _fine(view.file_path, digest))
    photo = Photo(digest, reduced, _sharpness(shrunk(pixels, MEASURED)), shows_background(pixels, alpha))
    return photo, shrunk(pixels, THUMBNAIL) if thumbnail else None


def read_thumbnail(view: View) -> np.ndarray:
    """Return the photo of a view reduced to `THUMBNAIL`, (h, w, 3) uint8."""
    return shrunk(to_8_bits(read_pixels(view.file_path)), THUMBNAIL)


@functools.lru_cache(_MOST_FINE)
def _fine(path: Path, digest: bytes) -> np.ndarray:
    """Read fine colours again; the digest distinguishes a file from one that had its name before."""
    return fine_colours(to_8_bits(read_pixels(path)))


def shrunk_size(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Return an image's size (h, w) reduced so that the longer side has at most `most` pixels."""
    h, w = size
    scale = min(1.0, most / max(h, w))
    return max(1, round(h * scale)), max(1, round(w * scale))


def shrunk(pixels: np.ndarray, most: int) -> np.ndarray:
    """Return an image (h, w, 3) uint8 in its `shrunk_size`."""
    h, w = shrunk_size(pixels.shape[:2], most)
    return pixels if (h, w) == pixels.shape[:2] else cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA)


def _sharpness(pixels: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = cv2.GaussianBlur(grey, (0, 0), _FINE)
    fine, coarse = grey - blurred, blurred - cv2.GaussianBlur(grey, (0, 0), _COARSE)
    if min(grey.shape) <= _COARSE or coarse.std() < _SMOOTH:
        return np.full(len(_STEPS), np.nan)
    return np.array([np.log(_change(fine, *step) + 1e-6) - np.log(_change(coarse, *step) + 1e-6) for step in _STEPS])


def _change(grey: np.ndarray, down: int, across: int) -> float:
    """Return the mean square of the change from pixel to pixel in a direction."""
    h, w = grey.shape
    first = grey[max(0, -down) : h - max(0, down), max(0, -across) : w - max(0, across)]
    second = grey[max(0, down) : h + min(0, down), max(0, across) : w + min(0, across)]
    return float(((first - second) ** 2).mean())
