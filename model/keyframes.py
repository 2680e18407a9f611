"""Keyframes of a camera path: cameras at times, and the spline through them.

Letters: n keys, k times, f frames, h w pixels. Axes are OpenCV's: x right, y down, z forward. `c2w` is world from camera.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.scene_format import LAST_ROW_TOLERANCE, ORTHONORMAL_TOLERANCE
from model.camera_path import CameraPath, moved_poses
from model.spline import LENS, POSITION, QUATERNION, align_signs, hermite, poses_of, rows_of, tangents

# Frames and seconds of the longest path: nearly an hour at 30 frames per second.
MOST_FRAMES, MOST_SECONDS = 100_000, 1e6
# Vertical fields of view in degrees; beyond these, focal lengths overflow float32.
LEAST_FOV_DEG, MOST_FOV_DEG = 0.001, 179.999
_PARTS = (POSITION, QUATERNION, LENS)


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A camera at a time of the path.

    Attributes:
        c2w: (4, 4) float64, read-only.
        fov_deg: vertical field of view.
        time_s: from the start of the path.

    Raises:
        ValueError: a pose that is not rigid, a field of view out of range, or a time beyond `MOST_SECONDS`.
    """

    c2w: np.ndarray
    fov_deg: float
    time_s: float

    def __post_init__(self) -> None:
        c2w = np.array(self.c2w, dtype=np.float64)
        if c2w.shape != (4, 4) or not np.isfinite(c2w).all() or np.abs(c2w[3] - (0, 0, 0, 1)).max() > LAST_ROW_TOLERANCE:
            raise ValueError("keyframe, c2w: is not a pose; wanted a finite (4, 4) matrix with the last row 0 0 0 1")
        rotation = c2w[:3, :3]
        if not np.abs(rotation @ rotation.T - np.eye(3)).max() <= ORTHONORMAL_TOLERANCE or np.linalg.det(rotation) < 0:
            raise ValueError("keyframe, c2w: is not rigid; wanted a rotation and a position")
        if not LEAST_FOV_DEG <= self.fov_deg <= MOST_FOV_DEG:
            raise ValueError(f"keyframe, field of view: is {self.fov_deg} degrees; wanted {LEAST_FOV_DEG} to {MOST_FOV_DEG}")
        if not abs(self.time_s) <= MOST_SECONDS:
            raise ValueError(f"keyframe, time: is {self.time_s} s; wanted {MOST_SECONDS:g} s at most")
        c2w[3] = 0, 0, 0, 1
        c2w.flags.writeable = False
        object.__setattr__(self, "c2w", c2w)


@dataclass(frozen=True, eq=False)
class KeyframePath:
    """A path through keyframes.

    Attributes:
        keyframes: at ascending times, the first at 0.
        image_size: (h, w) of the frames.
        fps: frames per second.
        tension: 0 for a Catmull-Rom spline, 1 for a path that comes to rest at every key.
        loop: whether the path returns from its last key to its first.
        closing_s: seconds that the return takes.

    Raises:
        ValueError: no key, times that do not ascend from 0, an empty image, an fps outside 0.1 to 240, a tension outside 0 to 1, or
            a return that takes no time.
    """

    keyframes: tuple[Keyframe, ...]
    image_size: tuple[int, int]
    fps: float = 30.0
    tension: float = 0.0
    loop: bool = False
    closing_s: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "keyframes", tuple(self.keyframes))
        times = [key.time_s for key in self.keyframes]
        if not times or times[0] != 0 or not all(a < b for a, b in itertools.pairwise(times)):
            raise ValueError(f"keyframes, times: are {times}; wanted one or more, ascending from 0")
        if min(self.image_size) < 1:
            raise ValueError(f"keyframes, image size: is {self.image_size}; wanted a height and a width of 1 or more")
        if not 0.1 <= self.fps <= 240:
            raise ValueError(f"keyframes, fps: is {self.fps}; wanted 0.1 to 240")
        if not 0 <= self.tension <= 1:
            raise ValueError(f"keyframes, tension: is {self.tension}; wanted 0 to 1")
        if not 0 < self.closing_s <= MOST_SECONDS:
            raise ValueError(f"keyframes, closing_s: is {self.closing_s}; wanted a number above 0, {MOST_SECONDS:g} at most")

    @property
    def seconds(self) -> float:
        """Duration of the path, with the return to the first key where it loops."""
        return self.keyframes[-1].time_s + (self.closing_s if self.loop else 0.0)

    @property
    def num_frames(self) -> int:
        """Number of frames: at least 1."""
        return max(1, round(self.seconds * self.fps))

    def at(self, times: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the cameras at some times.

        Positions, unit quaternions, and logarithms of the focal length follow cubic Hermite pieces between keys, with common
        tangents at the keys: no corners, and no change of speed in an instant.

        Args:
            times: (k) seconds; they wrap around where the path loops, and stop at its ends where it does not.

        Returns:
            c2w: (k, 4, 4) float64; rotations are orthonormal.
            fov_deg: (k) vertical fields of view.
        """
        at = torch.as_tensor(np.asarray(times, dtype=np.float64))
        at = at.remainder(self.seconds) if self.loop else at.clamp(0, self.seconds)
        rows, knots = self._rows_and_knots()
        if len(rows) == 1:
            points = rows.expand(len(at), -1)
        else:
            span = knots.diff()[:, None]
            tangent = torch.cat([tangents(rows[:, part], span) for part in _PARTS], dim=-1) * (1 - self.tension)
            knots = knots[1:-1]
            piece = torch.searchsorted(knots, at, right=True).sub(1).clamp(0, len(knots) - 2)
            length = (knots[piece + 1] - knots[piece])[:, None]
            start, end = (rows[1:-1][piece + i] for i in (0, 1))
            leaving, arriving = (length * tangent[piece + i] for i in (0, 1))
            points = hermite(start, end, leaving, arriving, (at - knots[piece])[:, None] / length)
        fov_deg = 2 * torch.rad2deg(torch.atan(torch.exp(-points[:, 7])))
        return poses_of(points).numpy(), fov_deg.numpy()

    def _rows_and_knots(self) -> tuple[Tensor, Tensor]:
        """Return keys as rows, with one more before and after them, and their times; a single key alone.

        Where the path loops, the others are the last key, the first one again and the second; else mirror images of the second key
        and the last but one, which make the path leave and arrive in a straight line.
        """
        c2w = torch.from_numpy(np.stack([key.c2w for key in self.keyframes]))
        fov = torch.tensor([key.fov_deg for key in self.keyframes], dtype=torch.float64)
        rows = rows_of(c2w, -torch.log(torch.tan(torch.deg2rad(fov) / 2))[:, None])
        knots = torch.tensor([key.time_s for key in self.keyframes], dtype=torch.float64)
        if len(rows) == 1:
            return rows, knots
        if self.loop:
            rows = align_signs(torch.cat([rows[-1:], rows, rows[:2]]))
            return rows, torch.cat([knots[-1:] - self.seconds, knots, knots[:2] + self.seconds])
        rows = align_signs(rows)
        rows = torch.cat([2 * rows[:1] - rows[1:2], rows, 2 * rows[-1:] - rows[-2:-1]])
        return rows, torch.cat([-knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])

    def frames(self) -> CameraPath:
        """Return the cameras of all frames: square pixels, the principal point in the middle; see `frame_times`."""
        return path_of(*self.at(self.frame_times()), self.image_size, self.fps)

    def frame_times(self) -> np.ndarray:
        """Return the times (f) of all frames in seconds.

        The first frame shows the first key and the last frame the last one; where the path loops, the last frame is a step before
        the first.

        Raises:
            ValueError: there are more than `MOST_FRAMES`.
        """
        f = self.num_frames
        if f > MOST_FRAMES:
            raise ValueError(f"keyframes, frames: are {f}; wanted {MOST_FRAMES} at most")
        return np.linspace(0, self.seconds, f, endpoint=not self.loop)

    def moved(self, similarity: np.ndarray | Tensor) -> "KeyframePath":
        """Return the path in another frame, into which `similarity` (4, 4) moves points; see `camera_path.moved_poses`."""
        c2w = torch.from_numpy(np.stack([key.c2w for key in self.keyframes]))
        moved = moved_poses(c2w, torch.as_tensor(similarity)).numpy()
        keys = (dataclasses.replace(key, c2w=pose) for key, pose in zip(self.keyframes, moved, strict=True))
        return dataclasses.replace(self, keyframes=tuple(keys))

    def with_duration(self, seconds: float) -> "KeyframePath":
        """Return the path with all its times scaled, so that it takes `seconds`.

        Raises:
            ValueError: `seconds` is not above 0, or the path is a single key, which takes no time.
        """
        if not 0 < seconds < math.inf or self.seconds == 0:
            raise ValueError(f"keyframes, duration: is {seconds} s for {self.seconds} s; wanted numbers above 0")
        scale = seconds / self.seconds
        keys = tuple(dataclasses.replace(key, time_s=key.time_s * scale) for key in self.keyframes)
        return dataclasses.replace(self, keyframes=keys, closing_s=self.closing_s * scale)

    def inserted(self, keyframe: Keyframe, after: int) -> "KeyframePath":
        """Return the path with one more key, after key number `after`; -1 puts it before all others, at a time below 0.

        Raises:
            ValueError: there is no such key, or the time is not between those of the key's neighbours.
        """
        if after != -1:
            self._check_index(after)
        return self._with((*self.keyframes[: after + 1], keyframe, *self.keyframes[after + 1 :]))

    def replaced(self, i: int, keyframe: Keyframe) -> "KeyframePath":
        """Return the path with another key number `i`.

        Raises:
            ValueError: there is no such key, or the time is not between those of the key's neighbours.
        """
        self._check_index(i)
        return self._with((*self.keyframes[:i], keyframe, *self.keyframes[i + 1 :]))

    def deleted(self, i: int) -> "KeyframePath":
        """Return the path without key number `i`; the others keep their times, counted from the first that is left.

        Raises:
            ValueError: there is no such key, or no other.
        """
        self._check_index(i)
        return self._with((*self.keyframes[:i], *self.keyframes[i + 1 :]))

    def _with(self, keyframes: tuple[Keyframe, ...]) -> "KeyframePath":
        start = keyframes[0].time_s if keyframes else 0.0
        keys = tuple(dataclasses.replace(key, time_s=key.time_s - start) for key in keyframes)
        return dataclasses.replace(self, keyframes=keys)

    def _check_index(self, i: int) -> None:
        if not 0 <= i < len(self.keyframes):
            raise ValueError(f"keyframes, key {i}: is not there; wanted 0 to {len(self.keyframes) - 1}")


def path_of(c2w: np.ndarray, fov_deg: np.ndarray, image_size: tuple[int, int], fps: float) -> CameraPath:
    """Return the path of cameras (f, 4, 4) with vertical fields of view (f): square pixels, the principal point in the middle."""
    h, w = image_size
    focal = 0.5 * h / np.tan(np.radians(fov_deg) / 2)
    middle = np.broadcast_to((w / 2, h / 2), (len(focal), 2))
    fxfycxcy = np.concatenate([np.stack([focal, focal], axis=-1), middle], axis=-1)
    return CameraPath(torch.from_numpy(fxfycxcy).float(), torch.from_numpy(np.array(c2w)).float(), image_size, fps)
