"""Reader of transforms.json, the cameras of nerfstudio, instant-ngp, Blender's synthetic NeRF scenes and DL3DV.

Intrinsics may be at the top level, in a frame, or both. A frame's own value takes precedence over the file's; its own focal length,
in any spelling, over the file's in every spelling, and its own distortion over all of the file's: where it omits a part of these,
pixels are square and distortion is zero. A null counts as absent. All are in pixels; the first pixel's centre is at (0.5, 0.5).
What a frame of another size takes from the file is in pixels of the file's w and h.

Ignored: `applied_transform` and `applied_scale` (the poses already include them), `ply_file_path`, `aabb_scale`, `scale` and
`offset` (placement of the scene in a tool's own volume), masks and depth.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from config.errors import InputError
from config.messages import is_plain, shown
from data.scene_format import LARGEST_NUMBER, read_json
from data_preprocess.capture.lens import Lens

PERSPECTIVE = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_TERMS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
# Keys that belong together. A frame that has one of them hides all of the file's: a mixture would be the lens of neither.
_TOGETHER = (
    ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov"),
    _TERMS,
    ("camera_model", "is_fisheye"),
)
# Poses that were rounded, or multiplied in float32, are made rigid again; larger deviations are not rotations.
_BENT = 1e-2
# In pixels along w and along h.
_ALONG = {"w": ("fl_x", "cx"), "h": ("fl_y", "cy")}
# Smaller fields of view are damaged numbers, and their tangent may be 0.
_LEAST_DEG = 1e-4


@dataclass(frozen=True, eq=False)
class Frame:
    """One entry of a transforms.json.

    Args:
        where: file and number of the frame, for errors.
        file_path: relative to the folder of the file, with forward slashes.
        values: the entry's and the top level's that it does not override; none is None.
        c2w: (4, 4) float64 as in the file: OpenGL axes (x right, y up, z backward), not necessarily rigid.
    """

    where: str
    file_path: PurePosixPath
    values: dict
    c2w: np.ndarray

    def opencv_c2w(self) -> np.ndarray:
        """Return (4, 4) world from camera with OpenCV axes, with the nearest rotation.

        Raises:
            InputError: it is mirrored, scaled or sheared.
        """
        # No entry of a rotation is larger, and for arbitrary numbers the decomposition may not converge.
        small = np.abs(self.c2w[:3, :3]).max() <= 1 + _BENT and np.abs(self.c2w[3] - (0, 0, 0, 1)).max() <= 1e-6
        u, scale, v = np.linalg.svd(self.c2w[:3, :3] if small else np.zeros((3, 3)))
        if np.abs(scale - 1).max() > _BENT or np.linalg.det(u @ v) < 0:
            raise InputError(f"{self.where}, transform_matrix", "has scale, shear or a mirror in it", "a rotation and a position")
        c2w = np.eye(4)
        c2w[:3, :3] = (u @ v) * (1, -1, -1)
        c2w[:3, 3] = self.c2w[:3, 3]
        return c2w

    def lens(self, image_size: tuple[int, int], orientation: int = 1) -> Lens:
        """Return the lens. By default the principal point is the middle, and pixels are square and undistorted.

        Args:
            image_size: (h, w) of the stored image, used if the file gives no w and h.
            orientation: EXIF orientation of the image: it is upright in the file's view where the file's principal point is nearer
                to the middle of the upright image than of the stored one.

        Raises:
            InputError: no focal length or field of view, a camera that is not a lens, or an invalid number.
        """
        if {"h", "w"} <= self.values.keys():
            h, w = self._size("h"), self._size("w")
        else:
            turned = orientation >= 5 and self._off_middle(*image_size[::-1]) < self._off_middle(*image_size)
            h, w = image_size[::-1] if turned else image_size
        fx, fy = self._focal("x", w), self._focal("y", h)
        fx, fy = fy if fx is None else fx, fx if fy is None else fy
        if fx is None or fy is None:
            raise InputError(self.where, "has no focal length", "fl_x, camera_angle_x or x_fov")
        distortion, fisheye = self._distortion()
        centre = self._number("cx", w / 2), self._number("cy", h / 2)
        try:
            return Lens(w, h, fx, fy, *centre, distortion, fisheye)
        except InputError as error:
            raise error.within(self.where) from error

    def _distortion(self) -> tuple[tuple[float, ...], bool]:
        model = self.values.get("camera_model")
        known = ", ".join(PERSPECTIVE + FISHEYE)
        if not (model is None or model in PERSPECTIVE + FISHEYE):
            raise InputError(f"{self.where}, camera_model", f"is {shown(model)}", f"one of {known}")
        for key in ("equirectangular", "latlong", "ftheta_p0", "lens_mode"):
            if self.values.get(key):
                raise InputError(f"{self.where}, {key}", "stands for a camera that is not a lens", f"one of {known}")
        params = self.values.get("distortion_params")
        if params and not (isinstance(params, list) and not any(params)):
            raise InputError(f"{self.where}, distortion_params", f"is {shown(params)}", f"terms by name: {', '.join(_TERMS)}")
        terms = {key: self._number(key, 0.0) for key in _TERMS}
        fisheye = model in FISHEYE or (model is None and bool(self.values.get("is_fisheye")))
        used = ("k1", "k2", "k3", "k4") if fisheye else _TERMS if model == "FULL_OPENCV" else _TERMS[:5]
        for key in _TERMS:
            if terms[key] and key not in used:
                wanted = f"0: {model or 'this model'} has {', '.join(used)}"
                raise InputError(f"{self.where}, {key}", f"is {terms[key]:g}", wanted)
        return tuple(terms[key] for key in used), fisheye

    def _focal(self, axis: str, side: int) -> float | None:
        focal = self._number(f"fl_{axis}", None)
        if focal is not None:
            return focal
        angle = self._number(f"camera_angle_{axis}", None)
        degrees = self._number(f"{axis}_fov", None)
        if angle is None and degrees is None:
            return None
        angle = math.radians(degrees) if angle is None else angle
        if not math.radians(_LEAST_DEG) <= angle < math.pi:
            found = f"has a field of view of {math.degrees(angle):g} degrees in {axis}"
            raise InputError(self.where, found, f"{_LEAST_DEG:g} or more, less than 180")
        return 0.5 * side / math.tan(0.5 * angle)

    def _off_middle(self, h: int, w: int) -> float:
        """Return how far the principal point is from the middle of an image."""
        return math.hypot(self._number("cx", w / 2) - w / 2, self._number("cy", h / 2) - h / 2)

    def _size(self, key: str) -> int:
        number = self._number(key, None)
        if number is None or number < 1 or number != int(number):
            raise InputError(f"{self.where}, {key}", f"is {shown(self.values[key])}", "a whole number of pixels")
        return int(number)

    def _number(self, key: str, default: float | None) -> float | None:
        value = self.values.get(key)
        if value is None:
            return default
        if not _is_usable(value):
            raise InputError(f"{self.where}, {key}", f"is {shown(value)}", f"a finite number, {LARGEST_NUMBER:g} at most")
        return float(value)


def read_transforms(json_path: str | os.PathLike) -> list[Frame]:
    """Read the frames of a transforms.json in the order of the file; images are not checked.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a transforms.json; the message names frame and key.
    """
    content = read_json(json_path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(json_path, "holds no list of frames", "a transforms.json of nerfstudio or instant-ngp")
    top = {key: value for key, value in content.items() if key != "frames"}
    return [_frame(f"{json_path}, frame {i}", top, entry) for i, entry in enumerate(frames)]


def _frame(where: str, top: dict, entry: object) -> Frame:
    if not isinstance(entry, dict):
        raise InputError(where, f"is {shown(entry)}", "an object with file_path and transform_matrix")
    file_path, matrix = entry.get("file_path"), entry.get("transform_matrix")
    if not isinstance(file_path, str) or not file_path or not is_plain(file_path):
        raise InputError(f"{where}, file_path", f"is {shown(file_path, 200)}", "a path relative to the JSON")
    path = PurePosixPath(file_path.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or re.match("[a-zA-Z]:", file_path):
        raise InputError(f"{where}, file_path", f"is {shown(file_path, 200)}", "a file in the folder of the JSON")
    rows = matrix if isinstance(matrix, list) else []
    numbers = [number for row in rows if isinstance(row, list) and len(row) == 4 for number in row]
    if len(rows) not in (3, 4) or len(numbers) != 4 * len(rows):
        raise InputError(f"{where}, transform_matrix", f"is {shown(matrix)}", "4 rows of 4 numbers")
    for number in numbers:
        if not _is_usable(number):
            raise InputError(f"{where}, transform_matrix", f"holds {shown(number)}", f"finite numbers, {LARGEST_NUMBER:g} at most")
    c2w = np.eye(4)
    c2w[: len(rows)] = np.array(numbers, dtype=np.float64).reshape(-1, 4)
    return Frame(where, path, _merge(where, top, entry), c2w)


def _merge(where: str, top: dict, entry: dict) -> dict:
    """Return the values of a frame: its own, and those of the file that it does not override."""
    own = {key: value for key, value in entry.items() if value is not None}
    hidden = {key for keys in _TOGETHER if own.keys() & set(keys) for key in keys}
    inherited = {key: value for key, value in top.items() if key not in hidden and value is not None}
    return inherited | _scaled(where, inherited, own) | own


def _scaled(where: str, inherited: dict, own: dict) -> dict:
    """Return those of the file's values that are in pixels, for a frame that states another size than the file.

    Raises:
        InputError: the frame has another shape, and not its own principal point.
    """
    sizes = [(inherited.get(key), own.get(key, inherited.get(key))) for key in _ALONG]
    if not all(_is_usable(side) and side > 0 for pair in sizes for side in pair):
        return {}  # checked in `Frame.lens`
    (file_w, w), (file_h, h) = sizes
    if abs(w * file_h - h * file_w) <= max(w, h, file_w, file_h):  # but for rounding
        pixels = [(key, own_side / side) for keys, (side, own_side) in zip(_ALONG.values(), sizes, strict=True) for key in keys]
        return {key: inherited[key] * scale for key, scale in pixels if scale != 1 and _is_usable(inherited.get(key))}
    if {"cx", "cy"} & (inherited.keys() - own.keys()):
        found = f"are {w:g}×{h:g}, and cx, cy are the file's, for {file_w:g}×{file_h:g}"
        raise InputError(f"{where}, w, h", found, "its own cx and cy, since the shapes differ")
    return {}


def _is_usable(value: object) -> bool:
    # Compared, not converted: JSON may have integers too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
