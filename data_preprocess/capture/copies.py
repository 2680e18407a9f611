"""Photos that are copies of others: the same bytes, another size or format, recompressed, or edited in tone.

A copy among the views of a scene puts a target among the inputs. Copies are recognised by content: each photo is reduced to
SIDE×SIDE pixels, and a pair is compared by what is left of one after fitting tone curves of the other to it and, if both have the
same size, by how far the content moved between them: neighbouring frames of a video move, copies do not.

Measured on the 50 frames of a walk around a fox (480×270) and the 64 renders of a figure on white (512×512); "left" is a share of
the variance, "moved" in 1/500 of the side:

                                                          left                    moved
    copies of the same size: JPEG of quality 50 to 95     0.000001 to 0.00014     0.00 to 0.23
        gamma 0.7 and 1.4, warmer, more colour, sharper   0.000001 to 0.0007      0.00 to 0.43
        steep tone curve, brighter and clipped (*)        0.0002 to 0.0010        0.11 to 0.40
    views moved by 1 pixel of 500, with or without
        parallax, or 1.008 times as near                  0.0006 to 0.0038        1.05 to 2.24
    real neighbours                                       0.024 or more           2.8 or more
    copies of 1/2 to 1/8 the size, at a side of 16        0.0000002 to 0.0012     not compared
    real neighbours, at a side of 16                      0.008 or more           not compared

    (*) of the fox. An edit that clips most of a photo, as it does of the figure, is not recognised.

Letters: n photos, h w pixels.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import open_image, read_orientation, read_pixels, to_8_bits, turn_upright
from data_preprocess.capture.stored_image import read_header

SIDE = 48
# Photos of different sizes are compared at this fraction of SIDE: a small copy has no more detail.
_COARSER = 3
# Pairs less alike than this are not compared further.
_ALIKE = 0.98
# Limits of the table above, and grey levels of contrast below which a photo shows nothing to compare.
_LEFT, _MOVED, _LEAST_CONTRAST = 0.004, 0.6, 2.0
# Photos compared with all others at once.
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Reduced:
    """A photo to compare: its upright size (h, w) in pixels, and (SIDE, SIDE, 3) colours, float64 in 0..255."""

    size: tuple[int, int]
    colours: np.ndarray

    @property
    def grey(self) -> np.ndarray:
        """(SIDE, SIDE) luma, as formats without colour store it."""
        return self.colours @ (0.299, 0.587, 0.114)


def read_reduced(path: str | os.PathLike) -> Reduced:
    """Read a photo to compare, upright and on white; JPEGs are decoded at a reduced size.

    Raises:
        OSError, InputError: it cannot be read, is not an image, or is damaged: all of it is read.
    """
    (h, w), turned = read_header(path)
    image = _draft(path)
    if image is None:
        image = Image.fromarray(to_8_bits(read_pixels(path)))
    # As floats: rounded to 8 bits, smooth photos would differ.
    bands = [band.convert("F").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=4.0) for band in image.split()]
    return Reduced((w, h) if turned >= 5 else (h, w), np.stack([np.asarray(band, np.float64) for band in bands], axis=2))


def find_copies(files: Sequence[Path], photos: Sequence[Reduced]) -> dict[int, int]:
    """Find photos that are copies of others. The original is the largest, among equals the one with the shortest name.

    Args:
        files, photos: n photos.

    Returns:
        the number of each copy's original, by the number of the copy.

    Cost: n² · SIDE² multiplications, 0.1 s for 1000 photos, and 2 ms for each pair of photos that resemble each other.
    """
    order = sorted(range(len(files)), key=lambda i: _rank(files[i], photos[i]))
    copies = _equal_bytes(files, order)
    unit = np.stack([_normalised(photos[i].grey) for i in order]) if order else np.zeros((0, SIDE * SIDE), np.float32)
    for start in range(0, len(order), _BLOCK):
        alike = unit[start : start + _BLOCK] @ unit.T > _ALIKE
        for place, j in np.argwhere(alike):
            first, other = order[start + place], order[j]
            if start + place < j and first not in copies and other not in copies and _is_copy(photos[first], photos[other]):
                copies[other] = first
    return copies


def _draft(path: str | os.PathLike) -> Image.Image | None:
    """Return a JPEG, upright and reduced while it is decoded; None for other formats."""
    with open_image(path) as image:
        if image.format in ("PNG", "WEBP"):
            return None
        orientation = read_orientation(image)
        image.draft("RGB", (4 * SIDE, 4 * SIDE))
        return Image.fromarray(turn_upright(np.asarray(image.convert("RGB")), orientation))


def _rank(file: Path, photo: Reduced) -> tuple:
    return -photo.size[0] * photo.size[1], len(file.stem), -file.stat().st_size, str(file)


def _equal_bytes(files: Sequence[Path], order: Sequence[int]) -> dict[int, int]:
    by_size = defaultdict(list)
    for i in order:
        by_size[files[i].stat().st_size].append(i)
    copies, originals = {}, {}
    for some in by_size.values():
        for i in some if len(some) > 1 else ():
            digest = hashlib.sha256(files[i].read_bytes()).digest()
            if originals.setdefault(digest, i) != i:
                copies[i] = originals[digest]
    return copies


def _normalised(grey: np.ndarray) -> np.ndarray:
    """Return (SIDE²) float32 of mean 0 and length 1; of length 0 without contrast."""
    values = (grey - grey.mean()).ravel()
    return (values / max(np.linalg.norm(values), _LEAST_CONTRAST * SIDE) * (grey.std() >= _LEAST_CONTRAST)).astype(np.float32)


def _is_copy(first: Reduced, other: Reduced) -> bool:
    if first.size != other.size:
        return _left(_tones(_coarse(first.colours)), _coarse(other.grey[..., None])) < _LEFT
    tones = _tones(first.colours)
    return _left(tones, other.grey) < _LEFT and _moved(first.grey, tones, other.grey) < _MOVED


def _coarse(colours: np.ndarray) -> np.ndarray:
    side = SIDE // _COARSER
    return colours.reshape(side, _COARSER, side, _COARSER, -1).mean((1, 3))


def _tones(colours: np.ndarray) -> np.ndarray:
    """Return (pixels, 10): tone curves of the three colours are combinations of powers of their values."""
    values = colours.reshape(-1, 3) / 128 - 1
    return np.hstack([np.ones((len(values), 1)), values, values**2, values**3])


def _left(tones: np.ndarray, grey: np.ndarray) -> float:
    """Return the share of the variance of the grey values that no combination of the tones gives."""
    rest = grey.ravel() - tones @ np.linalg.lstsq(tones, grey.ravel(), rcond=1e-9)[0]
    return float((rest**2).sum() / ((grey - grey.mean()) ** 2).sum())


def _moved(first: np.ndarray, tones: np.ndarray, other: np.ndarray) -> float:
    """Return how far content moved between two photos: root mean square in 1/500 of the side, weighted with the gradient.

    Each quarter moves by itself, so that parallax, zoom and roll count. Source: Lucas and Kanade 1981; the tone curve is fitted
    at the same time.
    """
    half = SIDE // 2
    gradients = np.gradient(first)
    moves = np.zeros((2, 2, 2, SIDE, SIDE))
    for axis, gradient in enumerate(gradients):
        for i in range(2):
            for j in range(2):
                quarter = slice(i * half, (i + 1) * half), slice(j * half, (j + 1) * half)
                moves[axis, i, j][quarter] = gradient[quarter]
    moves = moves.reshape(8, -1).T
    fitted = np.linalg.lstsq(np.hstack([tones, moves]), other.ravel(), rcond=1e-9)[0]
    change = ((moves @ fitted[-8:]) ** 2).sum() / (np.square(gradients).sum() / 2)
    return float(np.sqrt(change) * first.std() / other.std() * 500 / SIDE)
