"""Cameras and images of a COLMAP sparse model, read from its binary or text files.

The other files of a model (points, and in newer versions rigs and frames) are not read: cameras and images suffice for photos,
even where several cameras form one rig. Keypoints are skipped. Source: COLMAP's documentation, "Output Format" and
"Camera Models"; numbers and parameters of the camera models as in its list of models.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from config.errors import InputError
from config.messages import counted, is_plain, shown, some
from data_preprocess.capture.lens import Lens
from data_preprocess.capture.photo_names import natural_key
from data_preprocess.colmap.binary_file import BinaryFile
from data_preprocess.colmap.text_model import CameraEntry, ImageEntry, stated_count, text_cameras, text_images

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
# Folders of models below a capture, those that COLMAP and other programs write.
# Others are looked for this many folders deep.
_DEEPEST = 4
MODEL_FOLDERS = ("sparse", "colmap_sparse", "colmap/sparse", "dense/sparse", "dense/*/sparse", ".")


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


@dataclass(frozen=True, eq=False)
class Model:
    """A sparse model that was found.

    Args:
        path: its folder.
        images: the registered ones, none if it cannot be read.
        problem: why it cannot be read.
        unused: the other spelling of its files, where that cannot be read or has another number of images.
    """

    path: Path
    images: list[Image]
    problem: InputError | OSError | None = None
    unused: str | None = None

    def __str__(self) -> str:
        found = counted(len(self.images), "photo") if self.problem is None else _unreadable(self.problem)
        return f"{self.path} ({found})"


def find_models(folder: str | os.PathLike) -> list[Model]:
    """Find the models of a capture in its `sparse` and its numbered subfolders, in other usual places, and in the folder itself.

    Returns:
        at least one that can be read, the one with the most images first; among equals, that with the lowest number, then the
            deepest. Those that cannot be read come last.

    Raises:
        FileNotFoundError: there is none.
        InputError, OSError: none can be read.
    """
    folder = Path(folder)
    models = sorted((_read(path) for path in _usual_places(folder)), key=lambda model: -len(model.images))
    if not models:
        found = "has no cameras.bin and images.bin (or .txt), nor have sparse and sparse/0 in it"
        others = _elsewhere(folder)
        advice = f", such as --input {others[0]}" if others else ""
        raise FileNotFoundError(f"{folder}: {found}; wanted a COLMAP sparse model{advice}")
    if models[0].problem is not None:
        raise models[0].problem
    return models


def has_model(folder: str | os.PathLike) -> bool:
    """Return whether a capture has a model in a usual place; it is not read."""
    return bool(_usual_places(Path(folder)))


def unused_models(folder: str | os.PathLike, models: Sequence[Model]) -> list[str]:
    """Return what is not used of a capture's models: all but the first, other spellings, and those in unusual places.

    Args:
        folder: of the capture.
        models: of `find_models`.
    """
    unused = [model.unused for model in models if model.unused is not None]
    return [*map(str, models[1:]), *unused, *(str(_read(path)) for path in _elsewhere(Path(folder)))]


def read_model(folder: str | os.PathLike, suffix: str | None = None) -> list[Image]:
    """Read the model in a folder.

    Args:
        folder: of the model.
        suffix: .bin or .txt; None for the binary spelling, as COLMAP takes it, and for text if there is no other.

    Returns:
        its images, at least one, sorted by name.

    Raises:
        FileNotFoundError: there is no model.
        InputError: a file is cut short or breaks the format; the message names file and entry.
    """
    folder = Path(folder)
    if suffix is None:
        suffix = next(iter(_suffixes(folder)), None)
    if suffix is None:
        raise FileNotFoundError(f"{folder}: has no cameras.bin and images.bin (or .txt); wanted a COLMAP sparse model")
    cameras_path, images_path = folder / f"cameras{suffix}", folder / f"images{suffix}"
    if suffix == ".bin":
        cameras = _cameras(_binary_cameras(cameras_path))
        return _images(images_path, _binary_images(images_path), cameras)
    cameras = _cameras(text_cameras(cameras_path))
    return _images(images_path, text_images(images_path, cameras), cameras)


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


def _read(path: Path) -> Model:
    """Read a model; where its binary files cannot be read, those in text."""
    binary, *text = _suffixes(path)
    try:
        images = read_model(path, binary)
    except (InputError, OSError) as error:
        try:
            return (
                Model(path, read_model(path, *text), unused=f"{path / 'images.bin'} ({_unreadable(error)})")
                if text
                else Model(path, [], error)
            )
        except (InputError, OSError):
            return Model(path, [], error)
    stated = stated_count(path / "images.txt") if text else 0
    return Model(
        path, images, unused=f"{path / 'images.txt'} ({counted(stated, 'photo')})" if stated not in (0, len(images)) else None
    )


def _unreadable(problem: Exception) -> str:
    return f"cannot be read: {problem}"


def _usual_places(folder: Path) -> list[Path]:
    """Return the folders of a capture's models, in order of preference."""
    parents = [path for place in MODEL_FOLDERS for path in ([folder] if place == "." else sorted(folder.glob(place)))]
    return [path for parent in parents for path in (*_numbered(parent), parent) if _suffixes(path)]


def _elsewhere(folder: Path) -> list[Path]:
    """Return the folders of models in unusual places below a capture."""
    usual, found = set(_usual_places(folder)), []
    for root, folders, files in os.walk(folder):
        at = Path(root)
        deep = len(at.relative_to(folder).parts) >= _DEEPEST
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        if any(name in files for name in ("images.bin", "images.txt")) and at not in usual and _suffixes(at):
            found.append(at)
    return found


def _numbered(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: natural_key(path.name))


def _suffixes(folder: Path) -> list[str]:
    """Return the spellings of the model in a folder."""
    return [suffix for suffix in (".bin", ".txt") if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images"))]


def _binary_cameras(path: Path) -> Iterator[CameraEntry]:
    file = BinaryFile(path)
    for where in file.entries("camera"):
        camera_id, number, w, h = file.take("IiQQ")
        if number not in CAMERA_MODELS:
            raise InputError(where, f"is of camera model {number}", f"0 to {max(CAMERA_MODELS)}")
        model = CAMERA_MODELS[number][0]
        yield CameraEntry(where, camera_id, model, [w, h, *file.take(f"{len(PARAMETERS[model])}d")])


def _binary_images(path: Path) -> Iterator[ImageEntry]:
    file = BinaryFile(path)
    for where in file.entries("image"):
        image_id, *pose, camera_id = file.take("I7dI")
        name = file.name()
        file.skip(24 * file.take("Q")[0])
        yield ImageEntry(where, image_id, pose, camera_id, name)


def _cameras(entries: Iterable[CameraEntry]) -> dict[int, Camera]:
    cameras = {}
    for where, camera_id, model, numbers in entries:
        if model not in PARAMETERS:
            raise InputError(where, f"has the camera model {shown(model)}", f"one of {', '.join(PARAMETERS)}")
        if len(numbers) != 2 + len(PARAMETERS[model]):
            wanted = f"CAMERA_ID MODEL WIDTH HEIGHT and {len(PARAMETERS[model])} of {model}: {' '.join(PARAMETERS[model])}"
            raise InputError(where, f"has {counted(max(0, len(numbers) - 2), 'parameter')}", wanted)
        if camera_id in cameras:
            raise InputError(where, f"has the id {camera_id} of a camera above it", "an id of its own")
        cameras[camera_id] = _camera(where, model, numbers[:2], numbers[2:])
    return cameras


def _images(path: Path, entries: Iterable[ImageEntry], cameras: dict[int, Camera]) -> list[Image]:
    images, ids = {}, set()
    for where, image_id, pose, camera_id, name in entries:
        image = _image(where, name, camera_id, pose, cameras)
        if image.name in images:
            raise InputError(path, f"holds the image {shown(image.name, 200)} twice", "each once")
        if image_id in ids:
            raise InputError(where, f"has the id {image_id} of an image above it", "an id of its own")
        images[image.name] = image
        ids.add(image_id)
    if not images:
        raise InputError(path, "holds no images", "the registered ones of a reconstruction")
    return [images[name] for name in sorted(images)]


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
        raise InputError(
            f"{where}, {name}",
            f"is of camera {camera_id}",
            f"one of the file's: {some([str(i) for i in sorted(cameras)], 8) or 'it has none'}",
        )
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or not is_plain(name):
        raise InputError(where, f"has the name {shown(name, 200)}", "a printable path inside the folder of images")
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
