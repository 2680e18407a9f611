"""Writers of COLMAP sparse models for tests, from the documentation of the format. Letters: n images."""

import struct
from pathlib import Path

import numpy as np

# Number in binary files and count of parameters.
MODELS = {
    "SIMPLE_PINHOLE": (0, 3), "PINHOLE": (1, 4), "SIMPLE_RADIAL": (2, 4), "RADIAL": (3, 5), "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8), "FULL_OPENCV": (6, 12), "FOV": (7, 5), "SIMPLE_RADIAL_FISHEYE": (8, 4), "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12), "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16), "SIMPLE_DIVISION": (12, 4), "DIVISION": (13, 5),
    "SIMPLE_FISHEYE": (14, 3), "FISHEYE": (15, 4), "EUCM": (16, 6),
}  # fmt: skip


def quaternion(w2c: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (4), w first, of a pose's rotation: the eigenvector of Bar-Itzhack's matrix."""
    r = w2c[:3, :3]
    k = np.zeros((4, 4))
    k[:3, :3] = r + r.T - np.trace(r) * np.eye(3)
    k[3, :3] = k[:3, 3] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    k[3, 3] = np.trace(r)
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def rotated(q: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return q v q*, the vector (3) turned by a unit quaternion (4), w first."""
    w, u = q[0], q[1:]
    return vector + 2 * w * np.cross(u, vector) + 2 * np.cross(u, np.cross(u, vector))


def write_binary(folder: Path, cameras: dict, images: list[tuple], keypoints: int = 3) -> None:
    """Write cameras {id: (model, w, h, parameters)} and images [(id, quaternion, translation, camera id, name)], points, a rig."""
    folder.mkdir(parents=True, exist_ok=True)
    content = struct.pack("<Q", len(cameras))
    for camera_id, (model, w, h, parameters) in cameras.items():
        content += struct.pack(f"<IiQQ{len(parameters)}d", camera_id, MODELS[model][0], w, h, *parameters)
    (folder / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(images))
    for i, (image_id, q, t, camera_id, name) in enumerate(images):
        content += struct.pack("<I7dI", image_id, *q, *t, camera_id) + name.encode() + b"\0"
        # The last image has no keypoints.
        count = keypoints if i + 1 < len(images) else 0
        content += struct.pack("<Q", count) + struct.pack("<ddq", 3.5, 4.25, -1) * count
    (folder / "images.bin").write_bytes(content)
    point = struct.pack("<Q3d3BdQII", 5, 0.1, 0.2, 0.3, 1, 2, 3, 0.5, 1, images[0][0] if images else 0, 0)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)
    (folder / "rigs.bin").write_bytes(struct.pack("<QIIiI", 1, 1, 1, 0, 1))
    (folder / "frames.bin").write_bytes(struct.pack("<Q", 0))


def write_text(folder: Path, cameras: dict, images: list[tuple], keypoints: int = 3, newline: str = "\n") -> None:
    """Write the same model as text."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list with one line of data per camera:", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for camera_id, (model, w, h, parameters) in cameras.items():
        lines.append(f"{camera_id} {model} {w} {h} {' '.join(map(repr, map(float, parameters)))}")
    (folder / "cameras.txt").write_bytes(newline.join([*lines, ""]).encode())
    lines = ["# Image list with two lines of data per image:", f"# Number of images: {len(images)}, mean observations per image: 2"]
    for i, (image_id, q, t, camera_id, name) in enumerate(images):
        lines.append(f"{image_id} {' '.join(map(repr, map(float, (*q, *t))))} {camera_id} {name}")
        lines.append(" ".join(["3.5 4.25 -1"] * (keypoints if i + 1 < len(images) else 0)))
    (folder / "images.txt").write_bytes(newline.join([*lines, ""]).encode())
    (folder / "points3D.txt").write_text("# none\n5 0.1 0.2 0.3 1 2 3 0.5 1 0\n")
    (folder / "rigs.txt").write_text("1 1 CAMERA 1\n")
    (folder / "frames.txt").write_text("")


WRITERS = {"binary": write_binary, "text": write_text}
