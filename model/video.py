"""Videos of scene states, rendered as they are encoded. Letters: f frames, h w pixels."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from config.errors import InputError
from config.messages import with_article
from data.output.report import bar, check_rendered
from data.output.video import VideoWriter, to_uint8
from model.camera_path import CameraPath, flight, turntable
from model.lact_lvsm import LaCTLVSM
from model.scene_state import SceneState


def render_video(
    state: SceneState,
    path: str | os.PathLike,
    cameras: CameraPath | None = None,
    *,
    model: LaCTLVSM | None = None,
    chunk_views: int | None = None,
) -> Path:
    """Render a scene state along a camera path into a video file.

    Args:
        state: from `LaCTLVSM.reconstruct`, or loaded.
        path: the file, MP4 or GIF by its suffix; its folder is created.
        cameras: of the frames, with their size and speed; None for a turntable, or a flight past the inputs where poses are
            normalised, as for scenes.
        model: the network that wrote the state; needed for a state from a file.
        chunk_views: frames computed at a time; None chooses by free memory.

    Returns:
        `path`.

    Raises:
        InputError: another suffix, MP4 without PyAV, arguments that are something else, or see `LaCTLVSM.render_stream`.

    Example:
        >>> from model import load_model, load_scene, render_video, turntable
        >>> model = load_model(device="cpu")
        >>> state = model.reconstruct(load_scene("data_example/objects_1000003_000060", views=12, model=model))
        >>> render_video(state, "turntable.gif", turntable(state, num_frames=6, fps=10)).name
        'turntable.gif'
    """
    network = network_of(state, model, "render_video")
    if cameras is None:
        normalised = network.trained_with.scene_pose_normalize if state.normalised is None else state.normalised
        cameras = flight(state) if normalised else turntable(state)
    if not isinstance(cameras, CameraPath):
        wanted = "a CameraPath, as turntable(state), orbit(state) and flight(state) return"
        raise InputError("render_video, cameras", f"is {with_article(type(cameras))}", wanted)
    if not isinstance(path, (str, os.PathLike)):
        raise InputError("render_video, path", f"is {with_article(type(path))}", "a file, such as x.mp4")
    write_video(frames_of(network, state, cameras, chunk_views, f"{path}"), path, cameras.fps, len(cameras))
    return Path(path)


def network_of(state: SceneState, model: LaCTLVSM | None, where: str) -> LaCTLVSM:
    """Return the network that a state is rendered with: `model` if it is given, else the one that wrote it in this process.

    Args:
        state: the state.
        model: the network, if it is given.
        where: the function that is called, in the errors.

    Raises:
        InputError: either is something else, or the state is from a file and no model is given.
    """
    if not isinstance(state, SceneState):
        raise InputError(f"{where}, state", f"is {with_article(type(state))}", "what reconstruct or SceneState.load returns")
    network = state.network if model is None else model
    if network is None:
        raise InputError(
            f"{where}, model", "is not given, and the state is from a file", "the model that wrote it: model=load_model()"
        )
    if not isinstance(network, LaCTLVSM):
        raise InputError(f"{where}, model", f"is {with_article(type(network))}", "what load_model returns")
    return network


def frames_of(
    network: LaCTLVSM, state: SceneState, cameras: CameraPath, chunk_views: int | None, what: str
) -> Iterator[np.ndarray]:
    """Return a stream of frames (h, w, 3) uint8, rendered as they are taken from it.

    Args:
        network: that wrote the state.
        state: of one scene.
        cameras: of the frames.
        chunk_views: frames computed at a time; None chooses by free memory.
        what: the video, in the error.

    Raises:
        InputError: see `LaCTLVSM.render_stream`; from the stream, frames that are NaN.
    """
    stream = network.render_stream(state, cameras, chunk_views=chunk_views)
    return (frame for chunk in stream for frame in to_uint8(check_rendered(chunk, what)))


def write_video(frames: Iterable[np.ndarray], path: str | os.PathLike, fps: float, count: int) -> None:
    """Write `count` frames into a video file as they come, with a progress bar."""
    with VideoWriter(path, fps) as writer, bar(total=count, desc="video", unit="frame") as progress:
        for frame in frames:
            writer.write(frame)
            progress.update()
