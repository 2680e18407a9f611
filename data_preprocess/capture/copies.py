"""Photos that are copies of others: the same bytes, another size or format, recompressed, turned, or edited in tone.

A copy among the views of a scene puts a target among the inputs. Copies are recognised by content: each photo is reduced to
SIDE×SIDE pixels, and a pair is compared, in all four turns, by what is left of one after fitting tone curves of the other to it.
If that is little, it is compared at FINE×FINE: part by part, since a round object on white has one outline from all sides, and, if
both have the same size, by how far the content moved: neighbouring frames of a video move, copies do not.

Measured on the 50 frames of a walk around a fox (480×270) and the 64 renders of a figure on white (512×512); "left" is a share of
the variance, "moved" in 1/500 of the side:

                                                          left                    moved
    copies of the same size: JPEG of quality 30 to 95     0.000001 to 0.0003      0.00 to 0.09
        gamma 0.7, warmer, more colour, blurred           0.000001 to 0.0007      0.00 to 0.08
        steep tone curve, brighter and clipped (*)        0.0002 to 0.0052        0.08 to 0.14
        sharper (*)                                       0.0001 to 0.0021        0.01 to 0.15
    views moved by 0.3 to 1 pixel of 500                  0.0006 to 0.0038        0.35 to 1.5
    real neighbours                                       0.024 or more           not compared
    copies of 1/2 to 1/8 the size, at a side of 16        0.0000002 to 0.0012     not compared
    real neighbours, at a side of 16                      0.008 or more           not compared

    (*) of the fox. An edit that clips most of a photo, as it does of the figure, is not recognised.

Of the parts with detail, 0 to 0.05 are uncorrelated in copies, and 0.25 to 0.4 in views of a sphere, of a faint or fine texture,
that turned by 15° or more.

Letters: n photos, h w pixels.
"""

import enum
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.frame_path import split_frame
from data.images import open_image, read_orientation, read_pixels, to_8_bits, turn_upright
from data.stored_file import file_size, read_file
from data_preprocess.capture.stored_image import read_header

SIDE, FINE = 48, 240
# Photos of different sizes are compared at this fraction of SIDE: a small copy has no more detail.
_COARSER = 3
# Pairs less alike than this are not compared further.
_ALIKE = 0.98
# Limits of the table above, and grey levels of contrast below which a photo shows nothing to compare.
_LEFT, _MOVED, _LEAST_CONTRAST = 0.004, 0.25, 2.0
# The same for photos of one size that nearly repeat each other, and the parts with detail that such photos have at least: what
# is smooth and round looks alike from all sides.
_NEAR_LEFT, _NEAR_MOVED, _LEAST_DETAILED = 0.008, 0.75, 24
# Parts per side, and the least pixels of a part that can be compared. Detail is what a blur of the first width, in pixels, leaves
# and the second removes.
_PARTS, _LEAST_PART, _BLURS = 12, 4, (1.0, 4.0)
# Grey levels (root mean square) of detail; correlation; share of the parts that may have less. One part of clear detail that the
# other photo has less than a tenth of is no copy either.
_DETAIL, _CORRELATED, _UNCORRELATED, _CLEAR, _LOST = 1.0, 0.5, 0.1, 8.0, 0.1
_LUMA = np.array([0.299, 0.587, 0.114])
# Photos compared with all others at once.
_BLOCK = 256


class _Repeats(enum.Enum):
    COPY, NEAR = range(2)


@dataclass(frozen=True, eq=False)
class Reduced:
    """A photo to compare: upright size (h, w) in pixels, and colours (SIDE, SIDE, 3) in 0..255.

    Args:
        read_fine: returns the colours (FINE, FINE, 3) uint8, which few comparisons use.
    """

    size: tuple[int, int]
    colours: np.ndarray
    read_fine: Callable[[], np.ndarray]

    @property
    def grey(self) -> np.ndarray:
        """(SIDE, SIDE) luma, as formats without colour store it."""
        return self.colours @ _LUMA

    def turned(self, turns: int) -> "Reduced":
        """Return the photo turned counterclockwise by a number of right angles."""
        size = self.size[::-1] if turns % 2 else self.size
        return Reduced(size, np.rot90(self.colours, turns), lambda: np.rot90(self.read_fine(), turns))


def read_reduced(path: str | os.PathLike) -> Reduced:
    """Read a photo to compare, upright and on white; JPEGs are decoded at a reduced size.

    Raises:
        OSError, InputError: it cannot be read, is not an image, or is damaged: all of it is read.
    """
    (h, w), turned = read_header(path)
    image = _draft(path)
    if image is None:
        image = Image.fromarray(to_8_bits(read_pixels(path)))
    fine = _resized(image, FINE)
    return Reduced((w, h) if turned >= 5 else (h, w), _colours(image).astype(np.float64), lambda: fine)


def reduce_pixels(pixels: np.ndarray, read_fine: Callable[[], np.ndarray]) -> Reduced:
    """Return a photo (h, w, 3) uint8 to compare, without its fine colours: `read_fine` returns them, as `fine_colours` does."""
    return Reduced(pixels.shape[:2], _colours(Image.fromarray(pixels)), read_fine)


def fine_colours(pixels: np.ndarray) -> np.ndarray:
    """Return the colours (FINE, FINE, 3) uint8 of a photo (h, w, 3) uint8."""
    return _resized(Image.fromarray(pixels), FINE)


def find_copies(files: Sequence[Path], photos: Sequence[Reduced]) -> dict[int, int]:
    """Find photos that are copies of others, also turned by right angles.

    The original is the largest, among equals the one with the shortest name.

    Args:
        files, photos: n photos.

    Returns:
        the number of each copy's original, by the number of the copy.

    Cost: n² · SIDE² multiplications, 0.1 s for 1000 photos, and 3 ms for each pair of photos that resemble each other.
    """
    return find_repeats(files, photos)[0]


def find_repeats(files: Sequence[Path], photos: Sequence[Reduced]) -> tuple[dict[int, int], dict[int, int]]:
    """Find copies as `find_copies` does, and photos that are none but taken from nearly the same place.

    Returns:
        the number of the original by that of the copy; and the number of the other photo, by that of the one it nearly repeats.
    """
    order = sorted(range(len(files)), key=lambda i: _rank(files[i], photos[i]))
    copies, near = _equal_bytes(files, order), {}
    unit = np.array([_normalised(photos[i].grey) for i in order], np.float32).reshape(-1, SIDE, SIDE)
    for turns in range(4):
        turned = np.rot90(unit, turns, (1, 2)).reshape(-1, SIDE * SIDE)
        for start in range(0, len(order), _BLOCK):
            alike = unit[start : start + _BLOCK].reshape(-1, SIDE * SIDE) @ turned.T > _ALIKE
            for place, j in np.argwhere(alike):
                first, other = order[start + place], order[j]
                untold = start + place < j and first not in copies and other not in copies
                repeats = untold and _repeats(photos[first], photos[other].turned(turns))
                if repeats is _Repeats.COPY:
                    copies[other] = first
                elif repeats is _Repeats.NEAR and turns == 0:
                    near.setdefault(other, first)
    return copies, {other: first for other, first in near.items() if other not in copies and first not in copies}


def _draft(path: str | os.PathLike) -> Image.Image | None:
    """Return a JPEG, upright and reduced while it is decoded; None for other formats."""
    with open_image(path) as image:
        if image.format in ("PNG", "WEBP"):
            return None
        orientation = read_orientation(image)
        image.draft("RGB", (FINE, FINE))
        return Image.fromarray(turn_upright(np.asarray(image.convert("RGB")), orientation))


def _colours(image: Image.Image) -> np.ndarray:
    """Return (SIDE, SIDE, 3) float32 in 0..255: rounded to 8 bits, smooth photos would differ."""
    return np.stack([_resized(band.convert("F"), SIDE) for band in image.split()], axis=2)


def _resized(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=4.0))


def _rank(file: Path, photo: Reduced) -> tuple:
    return -photo.size[0] * photo.size[1], len(file.stem), -file_size(file), str(file)


def _equal_bytes(files: Sequence[Path], order: Sequence[int]) -> dict[int, int]:
    by_size = defaultdict(list)
    for i in (i for i in order if split_frame(files[i]) is None):
        by_size[file_size(files[i])].append(i)
    copies, originals = {}, {}
    for some in by_size.values():
        for i in some if len(some) > 1 else ():
            digest = hashlib.sha256(read_file(files[i])).digest()
            if originals.setdefault(digest, i) != i:
                copies[i] = originals[digest]
    return copies


def _normalised(grey: np.ndarray) -> np.ndarray:
    """Return (SIDE, SIDE) float32 of mean 0 and length 1; of length 0 without contrast."""
    values = grey - grey.mean()
    return (values / max(np.linalg.norm(values), _LEAST_CONTRAST * SIDE) * (grey.std() >= _LEAST_CONTRAST)).astype(np.float32)


def _repeats(first: Reduced, other: Reduced) -> _Repeats | None:
    same_size = first.size == other.size
    tones, grey = _tones(first.colours), other.grey
    if not same_size:
        tones, grey = _tones(_coarse(first.colours)), _coarse(other.grey[..., None])
    curves = np.linalg.lstsq(tones, grey.ravel(), rcond=1e-9)[0]
    rest = grey.ravel() - tones @ curves
    left = (rest**2).sum() / max(((grey - grey.mean()) ** 2).sum(), 1e-12)
    if left >= (_NEAR_LEFT if same_size else _LEFT):
        return None
    # The first in the tones of the other, by a table of each colour's levels.
    first_fine, other_fine = first.read_fine(), other.read_fine()
    levels = np.arange(256) / 128 - 1
    tables = [levels * curves[1 + c] + levels**2 * curves[4 + c] + levels**3 * curves[7 + c] for c in range(3)]
    toned = sum(table.astype(np.float32)[first_fine[..., c]] for c, table in enumerate(tables))
    own, fine = (pixels @ _LUMA.astype(np.float32) for pixels in (first_fine, other_fine))
    side = min(FINE, *first.size, *other.size)
    if _lacks_detail(own, fine, side) or not _same_detail(toned, fine, side):
        return None
    moved = _moved(toned.astype(np.float64), fine.astype(np.float64)) if same_size else 0.0
    if left < _LEFT and moved < _MOVED:
        return _Repeats.COPY
    detailed = (_details(toned, fine, side)[0] > _DETAIL).sum()
    return _Repeats.NEAR if moved < _NEAR_MOVED and detailed >= _LEAST_DETAILED else None


def _coarse(colours: np.ndarray) -> np.ndarray:
    side = SIDE // _COARSER
    return colours.reshape(side, _COARSER, side, _COARSER, -1).mean((1, 3))


def _tones(colours: np.ndarray) -> np.ndarray:
    """Return (pixels, 1 + 3 c): tone curves of the c colours are combinations of powers of their values."""
    values = colours.reshape(-1, colours.shape[-1]) / 128 - 1
    return np.hstack([np.ones((len(values), 1)), values, values**2, values**3])


def _moved(first: np.ndarray, other: np.ndarray) -> float:
    """Return how far content moved between two photos: root mean square in 1/500 of the side, weighted with the gradient.

    Each quarter moves by itself, so that parallax, zoom and roll count. Source: Lucas and Kanade 1981; the tone curve is fitted
    at the same time.

    Args:
        first, other: (FINE, FINE) grey levels.
    """
    first, other = (cv2.GaussianBlur(grey, (0, 0), _BLURS[0]) for grey in (first, other))
    half = FINE // 2
    gradients = np.gradient(first)
    moves = np.zeros((2, 2, 2, FINE, FINE))
    for axis, gradient in enumerate(gradients):
        for i in range(2):
            for j in range(2):
                quarter = slice(i * half, (i + 1) * half), slice(j * half, (j + 1) * half)
                moves[axis, i, j][quarter] = gradient[quarter]
    moves = moves.reshape(8, -1).T
    terms = np.hstack([_tones(first[..., None]), moves])
    fitted = np.linalg.lstsq(terms.T @ terms, terms.T @ other.ravel(), rcond=1e-12)[0]
    change = ((moves @ fitted[-8:]) ** 2).sum() / (np.square(gradients).sum() / 2)
    return float(np.sqrt(change) * first.std() / other.std() * 500 / FINE)


def _same_detail(first: np.ndarray, other: np.ndarray, side: int) -> bool:
    """Return whether the parts of two photos that are alike as a whole have the same detail, however strong it is in each.

    Args:
        first, other: (FINE, FINE) grey levels.
        side: of the smaller photo in pixels, at which they are compared.
    """
    less, more, product = _details(first, other, side)
    compared = less > _DETAIL
    return bool((product < _CORRELATED * less * more)[compared].sum() <= _UNCORRELATED * compared.sum())


def _lacks_detail(first: np.ndarray, other: np.ndarray, side: int) -> bool:
    """Return whether a part of one photo has clear detail and in the other hardly any; arguments as of `_same_detail`.

    Grey levels are the photos' own: tone curves can remove a label of another colour.
    """
    less, more, _ = _details(first, other, side)
    return bool(((more > _CLEAR) & (less < _LOST * more)).any())


def _details(first: np.ndarray, other: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the detail of each part, (parts, parts): root mean squares, the smaller and the larger, and the mean product."""
    part = side // _PARTS
    if part < _LEAST_PART:
        return (np.zeros((1, 1)),) * 3
    side, details = part * _PARTS, []
    for grey in (first, other):
        values = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
        details.append(cv2.GaussianBlur(values, (0, 0), _BLURS[0]) - cv2.GaussianBlur(values, (0, 0), _BLURS[1]))
    a, b = details
    aa, bb, ab = (both.reshape(_PARTS, part, _PARTS, part).mean((1, 3)) for both in (a * a, b * b, a * b))
    return np.sqrt(np.minimum(aa, bb)), np.sqrt(np.maximum(aa, bb)), ab
