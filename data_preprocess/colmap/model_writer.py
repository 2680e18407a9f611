"""Writer of COLMAP sparse models, as text and binary: cameras, images without keypoints, points without tracks.

Both, since gsplat's reader of text stops at the first image without keypoints, and text is what people read and edit. Source:
COLMAP's documentation, "Output Format". Letters: n images or points.
"""

import struct
from collections.abc import Sequence

import numpy as np

from data_preprocess.colmap.sparse_model import CAMERA_MODELS, Camera, Image

_NUMBERS = {name: number for number, (name, _) in CAMERA_MODELS.items()}
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (4), w first and not negative, of a rotation (3, 3), to rounding error for any angle.

    It is the eigenvector of the largest eigenvalue of a symmetric matrix, which is 3 where the other three are -1: no angle is a
    special case. Of a matrix that is only nearly a rotation it is the nearest rotation.

    Source: Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", 2000.
    """
    r = np.asarray(rotation, dtype=np.float64)
    trace = np.trace(r)
    matrix = np.empty((4, 4))
    matrix[0, 0] = trace
    matrix[1:, 1:] = r + r.T - trace * np.eye(3)
    matrix[0, 1:] = matrix[1:, 0] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    vector = np.linalg.eigh(matrix)[1][:, -1]
    return vector * (-1 if vector[0] < 0 else 1)


def model_files(images: Sequence[Image], points: np.ndarray, grey: int, note: str) -> dict[str, bytes]:
    """Return the files of a model, by their names, in the order in which to write them; ids count from 1.

    Args:
        images: with their cameras, each of which is written once.
        points: (n, 3).
        grey: their colour, 0 to 255.
        note: on the points, for the first line of points3D.txt.
    """
    ids = {camera: number for number, camera in enumerate(dict.fromkeys(image.camera for image in images), 1)}
    poses = [[*quaternion(image.w2c[:3, :3]), *image.w2c[:3, 3]] for image in images]
    return {
        "points3D.txt": _points_text(points, grey, note),
        "points3D.bin": _points_binary(points, grey),
        "cameras.txt": _cameras_text(ids),
        "cameras.bin": _cameras_binary(ids),
        "images.bin": _images_binary(images, poses, ids),
        "images.txt": _images_text(images, poses, ids),
    }


def _cameras_text(ids: dict[Camera, int]) -> bytes:
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", f"# Number of cameras: {len(ids)}"]
    lines += [f"{number} {camera.model} {camera.w} {camera.h} {_exact(camera.parameters)}" for camera, number in ids.items()]
    return _text(lines)


def _cameras_binary(ids: dict[Camera, int]) -> bytes:
    content = struct.pack("<Q", len(ids))
    for camera, number in ids.items():
        form = f"<IiQQ{len(camera.parameters)}d"
        content += struct.pack(form, number, _NUMBERS[camera.model], camera.w, camera.h, *camera.parameters)
    return content


def _images_text(images: Sequence[Image], poses: Sequence[Sequence[float]], ids: dict[Camera, int]) -> bytes:
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of keypoints, which is empty"]
    lines.append(f"# Number of images: {len(images)}, mean observations per image: 0")
    for number, (image, pose) in enumerate(zip(images, poses, strict=True), 1):
        lines += [f"{number} {_exact(pose)} {ids[image.camera]} {image.name}", ""]
    return _text(lines)


def _images_binary(images: Sequence[Image], poses: Sequence[Sequence[float]], ids: dict[Camera, int]) -> bytes:
    parts = [struct.pack("<Q", len(images))]
    for number, (image, pose) in enumerate(zip(images, poses, strict=True), 1):
        parts.append(struct.pack("<I7dI", number, *pose, ids[image.camera]) + image.name.encode() + bytes(1 + 8))
    return b"".join(parts)


def _points_text(points: np.ndarray, grey: int, note: str) -> bytes:
    lines = [f"# {note}", "# POINT3D_ID X Y Z R G B ERROR TRACK[]", f"# Number of points: {len(points)}, mean track length: 0"]
    lines += [f"{number} {_exact(point)} {grey} {grey} {grey} 0" for number, point in enumerate(points.tolist(), 1)]
    return _text(lines)


def _points_binary(points: np.ndarray, grey: int) -> bytes:
    table = np.zeros(len(points), _POINT)
    table["id"], table["xyz"], table["rgb"] = np.arange(1, len(points) + 1), points, grey
    return struct.pack("<Q", len(points)) + table.tobytes()


def _exact(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.17g}" for number in numbers)


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
