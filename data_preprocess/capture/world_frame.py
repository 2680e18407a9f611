"""World frame of a capture: cameras upright, around the origin, at the scale the networks were trained on.

Letters: v views. `w2c` is camera from world, OpenCV axes (x right, y down, z forward); positions are in world units.
"""

from dataclasses import dataclass

import numpy as np

from config.errors import InputError
from config.flags import flag
from data.camera_geometry import OBJECT_RADIUS, point_of_view, up_direction

FRAMES = ("auto", "object", "scene", "given")


@dataclass(frozen=True)
class FrameSettings:
    """Flag of the converters that move a capture into a new world."""

    frame: str = flag(
        "auto",
        "object: z up, origin at the point that the cameras look at, cameras 2.7 away; scene: z up, cameras within a cube of "
        "half-side 1; auto: object if they look at one point, else scene; given: leave the cameras as they are",
        choices=FRAMES,
        group="cameras",
    )


def orient(w2c: np.ndarray, frame: str = "auto") -> np.ndarray:
    """Rotate, move and scale a capture: z points up where the cameras reveal it, with the smallest possible rotation.

    Scenes may have any frame, since `--scene_inference` and `--scene_pose_normalize` use that of their mean camera; objects are
    rendered in the frame they are given in.

    Args:
        w2c: (v, 4, 4) rigid.
        frame: 'object': the origin is the point that the cameras look at, and their median distance to it is 2.7. 'scene': the
            origin is their mean position, and their largest coordinate 1. 'auto': 'object' if the cameras look at one point,
            else 'scene'. 'given': unchanged.

    Returns:
        (v, 4, 4) float64 rigid.

    Raises:
        InputError: frame is 'object' and the cameras do not look at a common point.
    """
    assert frame in FRAMES
    w2c = np.asarray(w2c, dtype=np.float64)
    if frame == "given":
        return w2c
    c2w = np.linalg.inv(w2c)
    centre = point_of_view(c2w)
    if frame == "object" and centre is None:
        raise InputError("cameras", "look at no common point", "cameras around an object, or another --frame")
    up = up_direction(c2w)
    turn = np.eye(3) if up is None else _to_z(up)
    is_object = centre is not None and frame != "scene"
    position = (c2w[:, :3, 3] - (centre if is_object else c2w[:, :3, 3].mean(0))) @ turn.T
    size = np.median(np.linalg.norm(position, axis=1)) / OBJECT_RADIUS if is_object else np.abs(position).max()
    moved = np.tile(np.eye(4), (len(c2w), 1, 1))
    rotation = w2c[:, :3, :3] @ turn.T
    moved[:, :3, :3] = rotation
    moved[:, :3, 3] = -np.einsum("vij,vj->vi", rotation, position) / (size if size > 0 else 1.0)
    return moved


def _to_z(up: np.ndarray) -> np.ndarray:
    """Return the smallest rotation (3, 3) that maps the unit vector `up` to z."""
    if up[2] < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    x, y, z = up
    # Rodrigues' formula for the axis up × z.
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)
