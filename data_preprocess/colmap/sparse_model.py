"""Cameras and images of a COLMAP sparse model, read from its binary or text files.

The other files of a model (points, and in newer versions rigs and frames) are not read: cameras and images suffice for photos,
even where several cameras form one rig. Keypoints are skipped. Source: COLMAP's documentation, "Output Format" and
"Camera Models"; numbers and parameters of the camera models as in its list of models.
"""

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from config.errors import InputError
from data_preprocess.capture.lens import Lens

# Number in binary files: name, parameters.
CAMERA_MODELS = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k1"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    7: ("FOV", "fx fy cx cy omega"),
    8: ("SIMPLE_RADIAL_FISHEYE", "f cx cy k1"),
    9: ("RADIAL_FISHEYE", "f cx cy k1 k2"),
    10: ("THIN_PRISM_FISHEYE", "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    12: ("SIMPLE_DIVISION", "f cx cy k"),
    13: ("DIVISION", "fx fy cx cy k"),
    14: ("SIMPLE_FISHEYE", "f cx cy"),
    15: ("FISHEYE", "fx fy cx cy"),
    16: ("EUCM", "fx fy cx cy alpha beta"),
    17: ("EQUIRECTANGULAR", "w h"),
}
# Fisheyes are functions of the angle from the axis; all terms of each are among those of OpenCV's two models.
OPENCV_MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV",
    "OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE",
)  # fmt: skip
PARAMETERS = {name: tuple(parameters.split()) for name, parameters in CAMERA_MODELS.values()}
_LARGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class Camera:
    """Intrinsics that any number of images share.

    Args:
        model: a key of PARAMETERS.
        w, h: pixels.
        parameters: in the order of PARAMETERS; focal lengths and centre in pixels, the first pixel's centre at (0.5, 0.5).
    """

    model: str
    w: int
    h: int
    parameters: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Image:
    """One registered image.

    Args:
        name: path relative to the folder of images, with forward slashes.
        camera: its intrinsics.
        w2c: (4, 4) float64, camera from world, OpenCV axes.
    """

    name: str
    camera: Camera
    w2c: np.ndarray


def find_model(folder: str | os.PathLike) -> Path:
    """Return the folder of a capture's model: `folder/sparse/0`, `folder/sparse` or `folder`, the first that holds one.

    Raises:
        FileNotFoundError: none of them holds one.
    """
    for candidate in (Path(folder, "sparse", "0"), Path(folder, "sparse"), Path(folder)):
        if _suffix(candidate):
            return candidate
    found = "has no cameras.bin and images.bin (or .txt), nor have sparse and sparse/0 in it"
    raise FileNotFoundError(f"{folder}: {found}; wanted a COLMAP sparse model")


def read_model(folder: str | os.PathLike) -> list[Image]:
    """Read the model in a folder; if there are both spellings, the binary one, as COLMAP does.

    Returns:
        its images, at least one, sorted by name.

    Raises:
        FileNotFoundError: there is no model.
        InputError: a file is cut short or breaks the format; the message names file and entry.
    """
    folder = Path(folder)
    suffix = _suffix(folder)
    if suffix is None:
        raise FileNotFoundError(f"{folder}: has no cameras.bin and images.bin (or .txt); wanted a COLMAP sparse model")
    cameras_path, images_path = folder / f"cameras{suffix}", folder / f"images{suffix}"
    if suffix == ".bin":
        images = _binary_images(images_path, _binary_cameras(cameras_path))
    else:
        images = _text_images(images_path, _text_cameras(cameras_path))
    if not images:
        raise InputError(images_path, "holds no images", "the registered ones of a reconstruction")
    names = set()
    for image in images:
        if image.name in names:
            raise InputError(images_path, f"holds the image {image.name!r} twice", "each once")
        names.add(image.name)
    return sorted(images, key=lambda image: image.name)


def lens_of(camera: Camera) -> Lens:
    """Return a camera as OpenCV models it; both put the first pixel's centre at (0.5, 0.5).

    Raises:
        InputError: OpenCV has no such model.
    """
    if camera.model not in OPENCV_MODELS:
        advice = "undistort with COLMAP's image_undistorter and convert its output"
        found = f"is of the model {camera.model}, which OpenCV cannot undistort"
        raise InputError("camera", found, f"one of {', '.join(OPENCV_MODELS)}: {advice}")
    parameters = dict(zip(PARAMETERS[camera.model], camera.parameters, strict=True))
    fx, fy = (parameters.get(name, parameters.get("f")) for name in ("fx", "fy"))
    fisheye = "FISHEYE" in camera.model
    terms = "k1 k2 k3 k4" if fisheye else "k1 k2 p1 p2 k3 k4 k5 k6"
    distortion = tuple(parameters.get(term, 0.0) for term in terms.split())
    return Lens(camera.w, camera.h, fx, fy, parameters["cx"], parameters["cy"], distortion, fisheye)


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
            return suffix
    return None


class _Bytes:
    """A file's numbers and names, little-endian, read in sequence."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.position, self.entry = path, path.read_bytes(), 0, "the count"

    def take(self, form: str) -> tuple:
        form = f"<{form}"
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.content, self.position - struct.calcsize(form))

    def skip(self, size: int) -> None:
        if size > len(self.content) - self.position:
            raise self.too_short()
        self.position += size

    def name(self) -> str:
        end = self.content.find(b"\0", self.position)
        if end < 0:
            raise self.too_short()
        start, self.position = self.position, end + 1
        return self.content[start:end].decode("utf-8", "surrogateescape")

    def too_short(self) -> InputError:
        return InputError(self.path, f"ends after {len(self.content)} bytes in {self.entry}", "a complete model")

    def entries(self, what: str) -> Iterator[str]:
        (count,) = self.take("Q")
        for i in range(count):
            self.entry = f"{what} {i} of {count}"
            yield f"{self.path}, {what} {i}"
        if self.position < len(self.content):
            found = f"has {len(self.content) - self.position} bytes after the last of {count} {what}s"
            raise InputError(self.path, found, "a file that ends there")


def _binary_cameras(path: Path) -> dict[int, Camera]:
    file, cameras = _Bytes(path), {}
    for where in file.entries("camera"):
        camera_id, number, w, h = file.take("IiQQ")
        if number not in CAMERA_MODELS:
            raise InputError(where, f"is of camera model {number}", f"0 to {max(CAMERA_MODELS)}")
        model = CAMERA_MODELS[number][0]
        cameras[camera_id] = _camera(where, model, (w, h), file.take(f"{len(PARAMETERS[model])}d"))
    return cameras


def _binary_images(path: Path, cameras: dict[int, Camera]) -> list[Image]:
    file, images = _Bytes(path), []
    for where in file.entries("image"):
        _, *pose, camera_id = file.take("I7dI")
        name = file.name()
        file.skip(24 * file.take("Q")[0])
        images.append(_image(where, name, camera_id, pose, cameras))
    return images


def _text_cameras(path: Path) -> dict[int, Camera]:
    cameras = {}
    for where, line in _lines(path):
        words = line.split()
        model = words[1] if len(words) > 1 else ""
        if model not in PARAMETERS:
            raise InputError(where, f"has the camera model {model!r:.60}", f"one of {', '.join(PARAMETERS)}")
        numbers = _numbers(where, words[:1] + words[2:])
        if len(numbers) != 3 + len(PARAMETERS[model]):
            wanted = f"CAMERA_ID MODEL WIDTH HEIGHT and {len(PARAMETERS[model])} of {model}: {' '.join(PARAMETERS[model])}"
            raise InputError(where, f"has {max(0, len(numbers) - 3)} parameters", wanted)
        cameras[int(numbers[0])] = _camera(where, model, numbers[1:3], numbers[3:])
    return cameras


def _text_images(path: Path, cameras: dict[int, Camera]) -> list[Image]:
    images, lines = [], _lines(path, blank=True)
    for where, line in lines:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise InputError(where, f"has {len(words)} words", "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        _, *pose, camera_id = _numbers(where, words[:9])
        images.append(_image(where, words[9].strip(), int(camera_id), pose, cameras))
        where, keypoints = next(lines, (where, ""))
        if len(keypoints.split()) % 3:
            raise InputError(where, f"is {keypoints[:40]!r}", "the keypoints of the image above or an empty line")
    return images


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (where, line) for all lines except comments and, unless `blank`, blank ones."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.lstrip().startswith("#") and (blank or line.strip()):
            yield f"{path}, line {number}", line


def _numbers(where: str, words: list[str]) -> list[float]:
    wrong = next(filter(_no_number, words), None)
    if wrong is not None:
        raise InputError(where, f"holds {wrong[:40]!r}", "a finite number")
    return [float(word) for word in words]


def _no_number(word: str) -> bool:
    try:
        return not math.isfinite(float(word))
    except ValueError:
        return True


def _finite(where: str, numbers: Sequence[float]) -> tuple[float, ...]:
    if not all(map(math.isfinite, numbers)):
        raise InputError(where, f"holds {' '.join(map(str, numbers))}", "finite numbers")
    return tuple(numbers)


def _camera(where: str, model: str, size: Sequence[float], values: Sequence[float]) -> Camera:
    if not all(math.isfinite(side) and 1 <= side <= _LARGEST_SIDE and side == int(side) for side in size):
        raise InputError(where, f"has a size of {size[0]}×{size[1]}", f"1 to {_LARGEST_SIDE} whole pixels")
    for name, value in zip(PARAMETERS[model], _finite(where, values), strict=True):
        if name in ("f", "fx", "fy") and value <= 0:
            raise InputError(where, f"has a focal length of {value}", "one above 0")
    return Camera(model, int(size[0]), int(size[1]), tuple(values))


def _image(where: str, name: str, camera_id: int, pose: Sequence[float], cameras: dict[int, Camera]) -> Image:
    if camera_id not in cameras:
        raise InputError(f"{where}, {name}", f"is of camera {camera_id}", f"one of {_some(sorted(cameras))}")
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise InputError(where, f"has the name {name!r}", "a printable path inside the folder of images")
    w, x, y, z, *translation = _finite(f"{where}, {name}", pose)
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if not 0.5 < norm < 2:
        raise InputError(f"{where}, {name}", f"has a quaternion of length {norm:.3g}", "one of length 1")
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    w2c = np.eye(4)
    w2c[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    w2c[:3, 3] = translation
    return Image(str(path), cameras[camera_id], w2c)


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "") if values else "the file's cameras; it has none"
