"""Photos in a folder with cameras that structure from motion found, which takes photos as stored. Letters: v views, h w pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from config.errors import InputError
from data_preprocess.capture.conversion import Photo
from data_preprocess.capture.lens import Lens
from data_preprocess.capture.photo_names import natural_key, photo_names
from data_preprocess.capture.stored_image import read_header
from data_preprocess.capture.world_frame import orient

# A turn by 90° clockwise (EXIF orientation 6) or counterclockwise (8), of camera axes.
_TURNS = {6: np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), 8: np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])}


def posed_photos(
    folder: Path, names: Sequence[str], lenses: Sequence[Lens], w2c: Sequence[np.ndarray], frame: str, where: Path
) -> list[Photo]:
    """Return photos to write, in natural order of their names, upright and oriented.

    Args:
        folder: of the photos.
        names: relative to it, with forward slashes.
        lenses, w2c: of each photo as stored; (4, 4) camera from world, OpenCV axes.
        frame: as in `world_frame.orient`.
        where: what the cameras come from, for messages.

    Raises:
        FileNotFoundError, InputError: a photo cannot be read, or the frame is impossible.
    """
    order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    names = [names[i] for i in order]
    sources = [folder / name for name in names]
    upright = [make_upright(lenses[i], w2c[i], *read_header(source)) for i, source in zip(order, sources, strict=True)]
    try:
        poses = orient(np.stack([pose for _, pose in upright]), frame)
    except InputError as error:
        raise error.within(where) from error
    posed = zip(sources, photo_names(names), [lens for lens, _ in upright], poses, names, strict=True)
    return [Photo(*photo, relative=name) for *photo, name in posed]


def make_upright(lens: Lens, w2c: np.ndarray, stored: tuple[int, int], orientation: int) -> tuple[Lens, np.ndarray]:
    """Turn the camera of a photo that is stored sideways; structure from motion takes photos as stored.

    Args:
        lens, w2c: of the photo as structure from motion saw it.
        stored: (h, w) of the file.
        orientation: its EXIF orientation.

    Returns:
        lens and pose of the upright photo; `conversion.convert` then turns the pixels. Unchanged if the photo is upright, or
        nearly square, or was seen upright.
    """
    h, w = stored
    sideways = orientation in _TURNS and (w > h) == (lens.w > lens.h) and max(h, w) > 1.05 * min(h, w)
    if not sideways:
        return lens, w2c
    cx, cy = (lens.h - lens.cy, lens.cx) if orientation == 6 else (lens.cy, lens.w - lens.cx)
    terms = list(lens.distortion)
    if not lens.fisheye and len(terms) > 3:
        p1, p2 = terms[2:4]
        terms[2:4] = (p2, -p1) if orientation == 6 else (-p2, p1)
    turn = np.eye(4)
    turn[:3, :3] = _TURNS[orientation]
    turned = replace(lens, w=lens.h, h=lens.w, fx=lens.fy, fy=lens.fx, cx=cx, cy=cy, distortion=tuple(terms))
    return turned, turn @ w2c
