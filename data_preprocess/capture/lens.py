"""Lenses: removal of their distortion from photos, and the pinhole camera of the result.

Letters: h w pixels, c colours. The centre of the first pixel is at (0.5, 0.5), as in COLMAP, nerfstudio and the unified
format; OpenCV puts it at (0, 0), and this file converts between the two.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from config.errors import InputError
from data.scene_format import LARGEST_NUMBER, LEAST_FOCAL

# A fisheye sees 180 degrees and more; a pinhole camera shows at most this much each way from the middle.
WIDEST_DEG = 60.0
# Range of zoom, relative to the lens's own focal lengths, within which no pixel may look past the photo.
_LEAST_ZOOM, _MOST_ZOOM = 0.2, 4.0
# The largest angle from the axis, in radians, that a fisheye without distortion may have at the nearest sides: behind itself.
_WIDEST_FISHEYE = math.pi
_TERMS = {False: 8, True: 4}
# OpenCV's maps have 16-bit coordinates.
_LARGEST_SIDE = 32766


@dataclass(frozen=True)
class Lens:
    """Projection of a camera.

    Args:
        w, h: size of the photo in pixels.
        fx, fy, cx, cy: pixels; the centre of the first pixel is at (0.5, 0.5).
        distortion: the known leading terms of OpenCV's k1, k2, p1, p2, k3, k4, k5, k6, or of a fisheye's k1, k2, k3, k4.
        fisheye: OpenCV's (and COLMAP's) equidistant fisheye instead of its rational polynomial.

    Raises:
        InputError: a number is not finite or is beyond the scene format's limits, a size is not positive, or there are too many
            terms.
    """

    w: int
    h: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    def __post_init__(self):
        if not (self.w >= 1 and self.h >= 1):
            raise InputError("lens", f"has a photo of {self.w}×{self.h} (w×h)", "1 or more pixels each")
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not all(abs(number) <= LARGEST_NUMBER for number in numbers):
            raise InputError("lens", f"has the numbers {numbers}", f"finite ones, {LARGEST_NUMBER:g} at most")
        if not (self.fx >= LEAST_FOCAL and self.fy >= LEAST_FOCAL):
            raise InputError("lens", f"has the focal lengths {self.fx} and {self.fy}", f"numbers above 0, {LEAST_FOCAL:g} at least")
        if len(self.distortion) > _TERMS[self.fisheye]:
            raise InputError("lens", f"has {len(self.distortion)} terms of distortion", f"{_TERMS[self.fisheye]} at most")

    @property
    def is_pinhole(self) -> bool:
        """Whether there is no distortion to remove."""
        return not self.fisheye and not any(self.distortion)

    def scaled(self, w: int, h: int) -> "Lens":
        """Return the lens of the same photo at another size."""
        x, y = w / self.w, h / self.h
        return replace(self, w=w, h=h, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y)


def undistort(image: np.ndarray, lens: Lens, as_published: bool = False) -> np.ndarray:
    """Return the photo as seen by the pinhole camera of `undistortion`, of the same size and type.

    Args:
        image: (h, w, c) uint8 of the lens's size, or (h, w, 4) with alpha last, by which colours are weighted.
        lens, as_published: as in `undistortion`.

    Raises:
        InputError: as `undistortion`.
    """
    maps, _ = undistortion(lens, as_published)
    if maps is None:
        return image
    with _opencv(lens):
        if as_published:
            return cv2.remap(image, *maps, cv2.INTER_LINEAR)
        if image.shape[2] != 4:
            return cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        weighted = image.astype(np.float32)
        weighted[..., :3] *= weighted[..., 3:] / 255
        weighted = cv2.remap(weighted, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weighted[..., :3] *= 255 / np.maximum(weighted[..., 3:], 1)
    return np.rint(weighted.clip(0, 255)).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def undistortion(
    lens: Lens, as_published: bool = False
) -> tuple[tuple[np.ndarray, np.ndarray] | None, tuple[float, float, float, float]]:
    """Compute the source of every pixel of the undistorted photo.

    Args:
        lens: of the photo.
        as_published: see `pinhole_camera`.

    Returns:
        `maps` for `cv2.remap`, or None if there is no distortion, and fx, fy, cx, cy of the undistorted photo in pixels. Its
        size is the photo's.

    Raises:
        InputError: no pinhole camera sees this photo.
    """
    camera = pinhole_camera(lens, as_published)
    if lens.is_pinhole and not as_published:
        return None, camera
    # As published, OpenCV gets both cameras unchanged: each is half a pixel off, and the two nearly cancel.
    shift = 0.0 if as_published else 0.5
    old, new = _matrix((lens.fx, lens.fy, lens.cx, lens.cy), shift), _matrix(camera, shift)
    build = cv2.fisheye.initUndistortRectifyMap if lens.fisheye else cv2.initUndistortRectifyMap
    with _opencv(lens):
        return build(old, _terms(lens), np.eye(3), new, (lens.w, lens.h), cv2.CV_16SC2), camera


@functools.lru_cache(maxsize=4096)
def pinhole_camera(lens: Lens, as_published: bool = False) -> tuple[float, float, float, float]:
    """Choose the pinhole camera of an undistorted photo.

    It is the lens's own with both focal lengths multiplied by one number, the smallest for which no pixel looks past the
    photo's outer pixel centres or more than `WIDEST_DEG` from the axis: the pixels' aspect ratio is unchanged.

    Args:
        lens: of the photo.
        as_published: choose as DL3DV's published conversion does: OpenCV's `getOptimalNewCameraMatrix` with alpha 0 and the
            intrinsics unchanged, without the half pixel between the conventions. Not for a fisheye.

    Returns:
        fx, fy, cx, cy in pixels of an image of the photo's size; the photo's own if there is no distortion.

    Raises:
        InputError: the distortion folds the image inside the photo, the centre is outside the photo, a side is too long, or a
            fisheye would see more than there is.
    """
    own = (lens.fx, lens.fy, lens.cx, lens.cy)
    if lens.is_pinhole and not as_published:
        return own
    if max(lens.w, lens.h) > _LARGEST_SIDE:
        wanted = f"a side of {_LARGEST_SIDE} pixels at most, which OpenCV can undistort"
        raise InputError("lens", f"distorts a photo of {lens.w}×{lens.h} (w×h)", wanted)
    if as_published:
        assert not lens.fisheye, "no fisheye was published"
        size = (lens.w, lens.h)
        with _opencv(lens):
            matrix, _ = cv2.getOptimalNewCameraMatrix(_matrix(own, 0.0), _terms(lens), size, 0, size)
        return float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])
    if lens.fisheye and min(lens.w / lens.fx, lens.h / lens.fy) / 2 > _WIDEST_FISHEYE:
        found = f"is a fisheye of the focal lengths {lens.fx:g} and {lens.fy:g}, which would see more than there is"
        raise InputError("lens", found, f"focal lengths in pixels of {lens.w}×{lens.h} (w×h)")
    border = _border(lens)
    low = max(_LEAST_ZOOM, float(np.abs(border).max()) / math.tan(math.radians(WIDEST_DEG)))
    high = _MOST_ZOOM
    if _sees_only_photo(lens, border / low):
        return lens.fx * low, lens.fy * low, lens.cx, lens.cy
    if not _sees_only_photo(lens, border / high):
        found = f"has the distortion {lens.distortion} around ({lens.cx:g}, {lens.cy:g}) in a photo of {lens.w}×{lens.h} (w×h)"
        raise InputError("lens", found, "one that keeps the photo's middle unfolded")
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if _sees_only_photo(lens, border / middle) else (middle, high)
    return lens.fx * high, lens.fy * high, lens.cx, lens.cy


def _border(lens: Lens) -> np.ndarray:
    """Return (n, 2) directions x/z, y/z of the outer pixel centres, seen by a pinhole camera with these intrinsics."""
    x, y = np.linspace(0.5, lens.w - 0.5, 17), np.linspace(0.5, lens.h - 0.5, 17)
    left, right, top, bottom = (np.full(17, at) for at in (0.5, lens.w - 0.5, 0.5, lens.h - 0.5))
    pixels = np.stack([np.concatenate([x, x, left, right]), np.concatenate([top, bottom, y, y])], axis=1)
    return (pixels - (lens.cx, lens.cy)) / (lens.fx, lens.fy)


def _sees_only_photo(lens: Lens, border: np.ndarray) -> bool:
    """Return whether the lens maps all directions within a border (n, 2) into the photo, monotonically outwards."""
    steps = np.linspace(0, 1, 13)[:, None, None]
    along = (steps * border).reshape(-1, 2)
    pixels = _project(lens, along).reshape(len(steps), -1, 2)
    if not np.isfinite(pixels).all():
        return False
    # Half a thousandth of a pixel is rounding error.
    inside = (pixels >= 0.4995) & (pixels <= np.array((lens.w, lens.h)) - 0.4995)
    outwards = (np.diff(pixels, axis=0) * border * (lens.fx, lens.fy)).sum(-1)
    return bool(inside.all() and (outwards > 0).all())


def _project(lens: Lens, directions: np.ndarray) -> np.ndarray:
    """Return the pixels (n, 2) of directions (n, 2), x/z and y/z, through the lens."""
    own = _matrix((lens.fx, lens.fy, lens.cx, lens.cy), 0.0)
    points = np.concatenate([directions, np.ones((len(directions), 1))], axis=1)
    with _opencv(lens):
        if lens.fisheye:
            return cv2.fisheye.distortPoints(directions[:, None], own, _terms(lens))[:, 0]
        return cv2.projectPoints(points, np.zeros(3), np.zeros(3), own, _terms(lens))[0][:, 0]


@contextlib.contextmanager
def _opencv(lens: Lens) -> Iterator[None]:
    """Turn whatever OpenCV raises into an InputError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        found = f"has the distortion {lens.distortion}, with which OpenCV fails ({error})"
        raise InputError("lens", found, "a lens that it can undistort") from error


def _matrix(camera: tuple[float, float, float, float], shift: float) -> np.ndarray:
    fx, fy, cx, cy = camera
    return np.array([[fx, 0, cx - shift], [0, fy, cy - shift], [0, 0, 1]])


def _terms(lens: Lens) -> np.ndarray:
    terms = np.zeros(_TERMS[lens.fisheye])
    terms[: len(lens.distortion)] = lens.distortion
    return terms
