"""Camera paths as nerfstudio's viewer writes and reads them: JSON with the keyframes and the cameras of all frames.

    {"render_height", "render_width", "fps", "seconds", "camera_type": "perspective", "default_fov", "default_transition_sec",
     "is_cycle", "smoothness_value",
     "keyframes": [{"matrix", "fov", "aspect", "override_transition_enabled", "override_transition_sec"}],
     "camera_path": [{"camera_to_world", "fov", "aspect"}]}

`matrix` and `camera_to_world` are the 16 numbers of a 4×4 pose, row after row, with OpenGL axes (x right, y up, z back); older
versions write `matrix` as a text of 16 numbers, column after column. Fields of view are vertical, in degrees. The seconds of a
keyframe are those of the way to it from the one before, of the first keyframe those of the way back from the last (`is_cycle`).

Files may come from anyone: whatever is wrong in one is an InputError that names the place. Letters: n keys, f frames, h w pixels.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import InputError, check_file
from config.messages import shown
from data.files import write_json
from data.scene_format import finite_number, parse_json, read_json, required, rigid
from model.camera_path import CameraPath
from model.keyframes import LEAST_FOV_DEG, MOST_FOV_DEG, MOST_FRAMES, MOST_SECONDS, Keyframe, KeyframePath, path_of
from model.spline import poses_of, rows_of

MOST_PIXELS = 1 << 15
# Keyframes made of a file that has frames alone.
MOST_SAMPLED = 12
# Seconds between keyframes of a file that states none, and the fewest.
TRANSITION_S, LEAST_S = 2.0, 1e-3
LEAST_SCALE = 1e-9
# Our camera axes in those of OpenGL.
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_WANTED = "a camera path of nerfstudio"


def read_camera_path(path: str | os.PathLike) -> CameraPath:
    """Read the cameras of a video: the file's frames as they are, or where it has none, those of the spline through its keyframes.

    Returns:
        the path, in the frame of the file.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a camera path.
    """
    return parse_camera_path(_content(path), path)


def read_keyframes(path: str | os.PathLike) -> KeyframePath:
    """Read keyframes to edit: the file's, or where it has none, frames at equal distances, `MOST_SAMPLED` at most.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a camera path.
    """
    return parse_keyframes(_content(path), path)


def parse_camera_path(content: str | bytes, where: str | os.PathLike) -> CameraPath:
    """Read the content of a file like `read_camera_path`; `where` names it in messages."""
    file = _File(content, where)
    if not file.list_of("camera_path"):
        return file.keyframe_path().frames()
    c2w, fov_deg = file.frames()
    return path_of(c2w, fov_deg, file.image_size, file.fps)


def parse_keyframes(content: str | bytes, where: str | os.PathLike) -> KeyframePath:
    """Read the content of a file like `read_keyframes`; `where` names it in messages."""
    file = _File(content, where)
    return file.keyframe_path() if file.list_of("keyframes") else file.sampled_path()


def write_camera_path(path: str | os.PathLike, keyframes: KeyframePath) -> None:
    """Write a path, its keyframes and its frames, atomically."""
    write_json(path, camera_path_dict(keyframes))


def camera_path_dict(path: KeyframePath) -> dict[str, Any]:
    """Return a path as nerfstudio's file holds it.

    Raises:
        ValueError: it has more frames than `MOST_FRAMES`.
    """
    h, w = path.image_size
    c2w, fov_deg = path.at(path.frame_times())
    times = [key.time_s for key in path.keyframes]
    seconds = [path.closing_s, *(after - before for before, after in itertools.pairwise(times))]
    keys = [
        {
            "matrix": _opengl(key.c2w),
            "fov": key.fov_deg,
            "aspect": w / h,
            "override_transition_enabled": True,
            "override_transition_sec": transition,
        }
        for key, transition in zip(path.keyframes, seconds, strict=True)
    ]
    return {
        "default_fov": path.keyframes[0].fov_deg,
        "default_transition_sec": TRANSITION_S,
        "keyframes": keys,
        "camera_type": "perspective",
        "render_height": h,
        "render_width": w,
        "fps": path.fps,
        "seconds": path.seconds,
        "is_cycle": path.loop,
        "smoothness_value": path.tension,
        "camera_path": [
            {"camera_to_world": _opengl(pose), "fov": fov, "aspect": w / h} for pose, fov in zip(c2w, fov_deg.tolist(), strict=True)
        ],
    }


def read_dataparser_transform(path: str | os.PathLike, transforms: str | os.PathLike | None = None) -> np.ndarray:
    """Read how nerfstudio moved a capture into the frame of its viewer: `dataparser_transforms.json`, beside its checkpoints.

    Args:
        path: the file: `transform`, a 3×4 matrix, and `scale`. A point X goes to scale · (transform applied to X).
        transforms: transforms.json of the capture. The data parser states its move from the frame before that file's
            `applied_transform` and `applied_scale`, if it has any, while a capture converted from it is in the frame after them.

    Returns:
        the similarity (4, 4) float64 from the capture's frame into nerfstudio's.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it holds something else.
    """
    content = _object(path, read_json(path), "transform and scale")
    transform = _affine(f"{path}, transform", required(f"{path}", content, "transform"))
    scale = _ranged(f"{path}, scale", required(f"{path}", content, "scale"), LEAST_SCALE, 1 / LEAST_SCALE)
    if transforms is not None:
        about = _object(transforms, read_json(transforms), "the transforms.json of a capture")
        if "applied_transform" in about:
            transform = transform @ np.linalg.inv(_affine(f"{transforms}, applied_transform", about["applied_transform"]))
        if "applied_scale" in about:
            scale /= _ranged(f"{transforms}, applied_scale", about["applied_scale"], LEAST_SCALE, 1 / LEAST_SCALE)
    transform[:3] *= scale
    return transform


class _File:
    """The content of a file, checked where it is used."""

    def __init__(self, content: str | bytes, where: str | os.PathLike) -> None:
        self.where = os.fspath(where)
        self.content = _object(self.where, parse_json(content, where), _WANTED)
        kind = self.content.get("camera_type", "perspective")
        if not isinstance(kind, str) or kind.lower() != "perspective":
            raise InputError(f"{self.where}, camera_type", f"is {shown(kind)}", "perspective")
        if not self.list_of("camera_path") and not self.list_of("keyframes"):
            raise InputError(self.where, "holds neither camera_path nor keyframes", _WANTED)
        h, w = (self._whole(key) for key in ("render_height", "render_width"))
        self.image_size = h, w
        self.fps = _ranged(f"{self.where}, fps", required(self.where, self.content, "fps"), 0.1, 240)

    def list_of(self, key: str) -> list:
        """Return a list of the file; an empty one if it has none."""
        value = self.content.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InputError(f"{self.where}, {key}", f"is {shown(value)}", "a list")
        if len(value) > MOST_FRAMES:
            raise InputError(f"{self.where}, {key}", f"holds {len(value)} cameras", f"{MOST_FRAMES} at most")
        return value

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the poses (f, 4, 4) and fields of view (f) of the file's frames."""
        return self._cameras("camera_path", "camera_to_world")

    def keyframe_path(self) -> KeyframePath:
        """Return the path through the file's keyframes."""
        c2w, fov_deg = self._cameras("keyframes", "matrix")
        loop = self._switch(self.where, self.content, "is_cycle")
        closing_s, *ways = self._transitions(loop)
        tension = _ranged(f"{self.where}, smoothness_value", self.content.get("smoothness_value", 0), 0, 1)
        return self._path(c2w, fov_deg, np.cumsum([0.0, *ways]), tension=tension, loop=loop, closing_s=closing_s)

    def sampled_path(self) -> KeyframePath:
        """Return the path through some of the file's frames, the first and the last among them."""
        c2w, fov_deg = self.frames()
        chosen = np.linspace(0, len(c2w) - 1, min(len(c2w), MOST_SAMPLED)).round().astype(int)
        # The path's last frame is that at the last key.
        return self._path(c2w[chosen], fov_deg[chosen], chosen / max(1, len(c2w) - 1) * (len(c2w) / self.fps))

    def _path(self, c2w: np.ndarray, fov_deg: np.ndarray, times: np.ndarray, **options: Any) -> KeyframePath:
        seconds = times[-1] + options.get("closing_s", 0.0)
        if seconds * self.fps > MOST_FRAMES:
            raise InputError(self.where, f"lasts {seconds:g} s at {self.fps:g} frames per second", f"{MOST_FRAMES} frames at most")
        keys = (Keyframe(*camera) for camera in zip(c2w, fov_deg.tolist(), times.tolist(), strict=True))
        return KeyframePath(tuple(keys), self.image_size, self.fps, **options)

    def _transitions(self, loop: bool) -> list[float]:
        """Return the seconds of the way to each keyframe from the one before."""
        entries, where = self.list_of("keyframes"), self.where
        default = self.content.get("default_transition_sec")
        own = [self._switch(f"{where}, keyframes {i}", entry, "override_transition_enabled") for i, entry in enumerate(entries)]
        if default is None and not any(own) and "seconds" in self.content:  # of older versions: all ways take the same time
            ways = len(entries) if loop else max(1, len(entries) - 1)
            default = finite_number(f"{where}, seconds", self.content["seconds"]) / ways
        default = TRANSITION_S if default is None else default
        return [
            _ranged(f"{where}, keyframes {i}, override_transition_sec", entry.get("override_transition_sec"), LEAST_S, MOST_SECONDS)
            if given
            else _ranged(f"{where}, default_transition_sec", default, LEAST_S, MOST_SECONDS)
            for i, (entry, given) in enumerate(zip(entries, own, strict=True))
        ]

    def _cameras(self, key: str, pose_key: str) -> tuple[np.ndarray, np.ndarray]:
        poses, fields = [], []
        for i, entry in enumerate(self.list_of(key)):
            where = f"{self.where}, {key} {i}"
            entry = _object(where, entry, f"an object with {pose_key} and fov")
            poses.append(_pose(f"{where}, {pose_key}", required(where, entry, pose_key)))
            fields.append(_field_of_view(f"{where}, fov", entry.get("fov", self.content.get("default_fov"))))
        c2w = torch.from_numpy(np.stack(poses))
        return poses_of(rows_of(c2w, c2w[:, 0, :0])).numpy(), np.array(fields)

    def _whole(self, key: str) -> int:
        where = f"{self.where}, {key}"
        number = finite_number(where, required(self.where, self.content, key))
        if number != round(number) or not 1 <= number <= MOST_PIXELS:
            raise InputError(where, f"is {shown(self.content[key])}", f"a whole number of pixels, 1 to {MOST_PIXELS}")
        return int(number)

    def _switch(self, where: str, entry: object, key: str) -> bool:
        value = _object(where, entry, "an object").get(key, False)
        if not isinstance(value, bool):
            raise InputError(f"{where}, {key}", f"is {shown(value)}", "true or false")
        return value


def _content(path: str | os.PathLike) -> bytes:
    check_file(path, _WANTED)
    return Path(path).read_bytes()


def _object(where: str | os.PathLike, value: object, wanted: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(where, f"is {shown(value)}", wanted)
    return value


def _ranged(where: str, value: object, least: float, most: float) -> float:
    number = finite_number(where, value)
    if not least <= number <= most:
        raise InputError(where, f"is {shown(value)}", f"{least:g} to {most:g}")
    return number


def _field_of_view(where: str, value: object) -> float:
    """Return a field of view, which may be written as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InputError(where, f"is {shown(value)}", "degrees") from None
    return _ranged(where, value, LEAST_FOV_DEG, MOST_FOV_DEG)


def _pose(where: str, value: object) -> np.ndarray:
    """Return the pose (4, 4), OpenCV axes, of 16 numbers in rows with OpenGL axes, or of their text, in columns or rows."""
    is_text = isinstance(value, str)
    if is_text:
        value = parse_json(value, where)
    if not isinstance(value, list) or len(value) != 16:
        raise InputError(where, f"is {shown(value)}", "16 numbers")
    in_columns = is_text and [value[i] for i in (3, 7, 11, 15)] == [0, 0, 0, 1]
    rows = [value[i::4] if in_columns else value[4 * i : 4 * i + 4] for i in range(4)]
    return rigid(where, rows, "x right, y up, z back") @ _FLIP


def _opengl(c2w: np.ndarray) -> list[float]:
    """Return a pose (4, 4), OpenCV axes, as 16 numbers in rows with OpenGL axes."""
    return (c2w @ _FLIP).flatten().tolist()


def _affine(where: str, value: object) -> np.ndarray:
    """Return a rotation and translation, given as 3 rows or 4, as (4, 4)."""
    if isinstance(value, list) and len(value) == 3:
        value = [*value, [0, 0, 0, 1]]
    return rigid(where, value, "a rotation").copy()
