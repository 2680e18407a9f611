"""Plan of a run's videos: which camera path, at which size and speed, under which name.

Letters: h w pixels.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from config.errors import InputError
from config.rendering import Video
from data.image_size import check_image_size
from model.camera_path import CameraPath, flight, orbit, published_turntable, turntable
from model.nerfstudio_path import read_camera_path, read_dataparser_transform
from model.scene_state import SceneState

# Pixels of a side of a video: H.264 takes no more.
MOST_SIDE = 16384


@dataclass(frozen=True)
class VideoPlan:
    """How the video of every scene of a run is made.

    Attributes:
        video: the settings.
        kind: `Video.video_path`, or its default for the run's scenes.
        given_path: the path of `--camera_path`, in the capture's frame; None for another kind.
        state_size: (h, w) of `--image_size` where it is that of the video alone; None for that of the scene's inputs.
    """

    video: Video
    kind: str
    given_path: CameraPath | None = None
    state_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, video: Video, normalised: bool, state_size: tuple[int, int] | None = None) -> "VideoPlan":
        """Plan the videos of scenes, or of objects, and read the file of a camera path.

        Args:
            video: the settings.
            normalised: whether the poses are those of scenes, normalised.
            state_size: of the videos, if `--image_size` is about them alone.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: a file holds something else.
        """
        if video.camera_path is None:
            return cls(video, video.kind(normalised), None, state_size)
        path = read_camera_path(video.camera_path)
        if video.camera_path_frame is not None:
            path = path.moved(torch.from_numpy(read_dataparser_transform(*video.camera_path_frame)).inverse())
        return cls(video, "camera_path", path)

    @property
    def wanted(self) -> bool:
        """Whether there are videos at all."""
        return self.video.video_format != "none"

    @property
    def file_name(self) -> str:
        """Name of the video in the scene's folder: video.mp4, video_x4.mp4, video_side_by_side.mp4, …"""
        beside = "_side_by_side" if self.video.side_by_side else ""
        scale = f"_x{self.video.video_scale}" if self.video.video_scale > 1 else ""
        return f"video{beside}{scale}.{self.video.video_format}"

    def image_size(self, inputs: tuple[int, int]) -> tuple[int, int]:
        """Return the size (h, w) of rendered frames of a scene whose inputs have the size `inputs`."""
        file_size = None if self.given_path is None else self.given_path.image_size
        return self.video.video_size or file_size or self.state_size or inputs

    def check_size(self, inputs: tuple[int, int], patch_size: int) -> None:
        """Check that frames split into whole patches, and that a video can be as large as its frames.

        Raises:
            InputError: otherwise.
        """
        if not self.wanted:
            return
        h, w = self.image_size(inputs)
        where = ("--image_size", "--image_size")
        if self.video.video_size is not None:
            where = ("--video_size", "--video_size")
        elif self.given_path is not None:
            where = (f"{self.video.camera_path}, render_height", f"{self.video.camera_path}, render_width")
        check_image_size((h, w), patch_size, where)
        columns = w + round(inputs[1] * h / inputs[0]) if self.video.side_by_side else w
        found = h * self.video.video_scale, columns * self.video.video_scale
        if max(found) > MOST_SIDE:
            place = "--video_scale" if self.video.video_scale > 1 else where[found[1] > found[0]]
            raise InputError(place, f"makes a video of {found[0]}×{found[1]} (h×w)", f"{MOST_SIDE} pixels a side at most")

    def path(self, state: SceneState) -> CameraPath:
        """Return the path around or through one scene, in the frame of its state.

        Raises:
            InputError: the scene allows no such path.
        """
        video, size, fps = self.video, self.image_size(state.image_size), self.video.video_fps
        if self.given_path is not None:
            path = self.given_path.resized(size).moved(capture_to_state(state))
            return path if fps is None else dataclasses.replace(path, fps=fps)
        frames, fps = video.video_frames, 30 if fps is None else fps
        if self.kind == "published":
            return published_turntable(frames, size, fps)
        if self.kind == "flight":
            return flight(state, frames, size, order=video.path_order, smoothing=video.path_smoothing, fps=fps)
        radius = video.video_radius
        if radius is not None:
            radius *= torch.linalg.det(capture_to_state(state)[:3, :3]).item() ** (1 / 3)
        circle = turntable if self.kind == "turntable" else orbit
        return circle(state, frames, size, radius=radius, elevation_deg=video.video_elevation, fov_deg=video.video_fov, fps=fps)


def capture_to_state(state: SceneState) -> Tensor:
    """Return the similarity (4, 4), float64, that moves points of the capture's frame into the state's, of one scene.

    Raises:
        InputError: the state does not say.
    """
    if state.from_capture is not None:
        return state.from_capture[0].double().cpu()
    if state.normalised:
        raise InputError("scene state, from_capture", "is missing", "a state saved again, by --save_state")
    return torch.eye(4, dtype=torch.float64)
