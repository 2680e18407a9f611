"""Cameras of a `poses_bounds.npy`, as LLFF's scripts write it. Letters: v views, h w pixels."""

from pathlib import Path

import numpy as np

from config.errors import InputError, check_file
from config.messages import with_type
from data.scene_format import LARGEST_NUMBER, MOST_VIEWS, rigid
from data_preprocess.capture.lens import Lens

# Numbers of a row: a matrix of 3×5 by rows, then the nearest and the farthest depth.
_NUMBERS, _MATRIX = 17, 15
_LARGEST_SIDE = 1 << 20
_WANTED = f"an array (views, {_NUMBERS}) of numbers, as LLFF's scripts write it"


def read_poses_bounds(path: Path) -> tuple[list[Lens], np.ndarray]:
    """Read the cameras of a capture; the two depths are not used.

    The columns of a row's matrix are the directions down, right and backward of the camera in the world, its position, and height,
    width and focal length in pixels of the full size. The principal point is the middle.

    Returns:
        the lens of each photo, and (v, 4, 4) float64 camera from world, OpenCV axes: in the order of the photos' names.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is no such array, or a row is no camera.
    """
    rows = _read_rows(path)
    lenses, w2c = [], []
    for i, row in enumerate(rows):
        down, right, backward, position, size = row[:_MATRIX].reshape(3, 5).T
        where = f"{path}, row {i}"
        lenses.append(_lens(where, *size.tolist()))
        c2w = np.eye(4)
        c2w[:3] = np.stack([right, down, -backward, position], axis=1)
        w2c.append(np.linalg.inv(rigid(where, c2w.tolist(), "columns that point down, right, backward")))
    return lenses, np.stack(w2c)


def _read_rows(path: Path) -> np.ndarray:
    check_file(path, _WANTED)
    try:
        # Mapped, since a header may state any size; what is no array would have to be unpickled.
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise InputError(path, f"cannot be read ({with_type(error)})", _WANTED) from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] != _NUMBERS:
        found = f"holds {rows.shape} {rows.dtype}" if isinstance(rows, np.ndarray) else "holds several arrays"
        raise InputError(path, found, _WANTED)
    if not 1 <= len(rows) <= MOST_VIEWS:
        raise InputError(path, f"holds {len(rows)} rows", f"one for each photo, {MOST_VIEWS} at most")
    rows = np.array(rows, dtype=np.float64)
    usable = (np.abs(rows[:, :_MATRIX]) <= LARGEST_NUMBER).all(1)
    if not usable.all():
        raise InputError(
            f"{path}, row {int(np.argmin(usable))}", "holds a number that is not finite, or too large", "finite numbers"
        )
    return rows


def _lens(where: str, h: float, w: float, focal: float) -> Lens:
    if not all(1 <= side <= _LARGEST_SIDE and side == int(side) for side in (h, w)):
        raise InputError(where, f"has the size {w:g}×{h:g} (w×h)", f"whole pixels, 1 to {_LARGEST_SIDE}")
    try:
        return Lens(int(w), int(h), focal, focal, w / 2, h / 2)
    except InputError as error:
        raise error.within(where) from error
