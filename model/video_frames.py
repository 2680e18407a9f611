"""Frames of a video: rendered along a camera path, enlarged, and put beside the nearest input photo.

Letters: v inputs, f frames, h w pixels. Frames and photos are (h, w, 3) uint8, sRGB.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config.errors import InputError
from data.output.report import bar, check_rendered
from data.output.video import VideoWriter, to_uint8
from model.camera_path import CameraPath
from model.lact_lvsm import LaCTLVSM
from model.parallel.context import ContextGroup, own_targets
from model.scene_state import SceneState
from model.video_plan import VideoPlan


def render_video(
    model: LaCTLVSM,
    context: ContextGroup,
    chunk_views: int | None,
    state: SceneState,
    plan: VideoPlan,
    folder: Path,
    name: str,
    photos: Sequence[np.ndarray] = (),
) -> None:
    """Render a scene's video, each process of a context its part of the frames; the first writes the file. Collective.

    Args:
        model: that wrote `state`.
        context: of the processes.
        chunk_views: frames computed at a time; None chooses by free memory.
        state: of the scene.
        plan: of the video.
        folder: where the file goes.
        name: of the scene, for messages.
        photos: of the inputs, for `--side_by_side`; the first process has those of all.

    Raises:
        InputError: the scene allows no such path, or a frame is NaN.
    """
    with context.together():
        try:
            path = plan.path(state)
        except InputError as error:
            raise error.within(name) from error
        own = path.part(own_targets(len(path), context.rank, context.size))
        frames = rendered_frames(model, state, own, chunk_views, f"{name}, video")
    frames = context.in_rank_order(frames)  # with several processes, they are rendered here
    if context.rank != 0:
        return
    if plan.video.side_by_side:
        frames = beside_nearest(frames, path, state, photos)
    write_video(folder / plan.file_name, enlarged(frames, plan.video.video_scale), path)


def rendered_frames(
    model: LaCTLVSM, state: SceneState, path: CameraPath, chunk_views: int | None = None, name: str = "video"
) -> Iterator[np.ndarray]:
    """Render the frames of a path; nothing is kept: a video of any length needs the memory of one chunk.

    Args:
        model: that wrote `state`.
        state: of one scene.
        path: in the frame of `state`.
        chunk_views: frames computed at a time; None chooses by free memory.
        name: of the video, for messages.

    Returns:
        a stream of frames, rendered as they are taken from it. It raises InputError where they are NaN.

    Raises:
        ValueError, InputError: as `LaCTLVSM.render_stream`, before the first frame is taken.
    """
    stream = model.render_stream(state, path.fxfycxcy[None], path.c2w[None], path.image_size, chunk_views)
    return (frame for chunk in stream for frame in to_uint8(check_rendered(chunk[0], name)))


def enlarged(frames: Iterable[np.ndarray], scale: int) -> Iterator[np.ndarray]:
    """Enlarge frames: every pixel becomes scale × scale equal ones."""
    return (frame.repeat(scale, axis=0).repeat(scale, axis=1) for frame in frames)


def beside_nearest(frames: Iterable[np.ndarray], path: CameraPath, state: SceneState, photos: Sequence[np.ndarray]) -> Iterator:
    """Put the nearest input photo on the left of every frame, resized to its height.

    Args:
        frames: of the whole path.
        path: in the frame of `state`.
        state: of one scene.
        photos: of its inputs (v).
    """
    h, (photo_h, photo_w) = path.image_size[0], photos[0].shape[:2]
    size = max(1, round(photo_w * h / photo_h)), h
    last, photo = None, None
    for frame, i in zip(frames, nearest_inputs(path.c2w, state.c2w[0]).tolist(), strict=True):
        if i != last:
            last, photo = i, np.asarray(Image.fromarray(photos[i]).resize(size, Image.Resampling.LANCZOS))
        assert photo is not None
        yield np.concatenate([photo, frame], axis=1)


def nearest_inputs(c2w: Tensor, inputs: Tensor) -> Tensor:
    """Return the number (f) of the input camera (v, 4, 4) that is nearest to each camera (f, 4, 4).

    Distances count positions in half diagonals of the inputs' bounding box, and angles between viewing directions in radians.
    """
    c2w, inputs = c2w.double().cpu(), inputs.double().cpu()
    position = inputs[:, :3, 3]
    size = ((position.amax(0) - position.amin(0)) / 2).norm().clamp_min(1e-12)
    move = torch.cdist(c2w[:, :3, 3], position) / size
    turn = torch.acos((c2w[:, :3, 2] @ inputs[:, :3, 2].mT).clamp(-1, 1))
    return torch.hypot(move, turn).argmin(dim=1)


def write_video(file: Path, frames: Iterable[np.ndarray], path: CameraPath) -> None:
    """Write the frames of a path into a video file as they come, with a progress bar."""
    with VideoWriter(file, path.fps) as writer, bar(total=len(path), desc="video", unit="frame") as progress:
        for frame in frames:
            writer.write(frame)
            progress.update()
