"""Functions for notebooks and scripts: scenes from disk, videos, the viewer. Letters: v views, n views of a scene, h w pixels."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import InputError
from config.messages import counted, shown, with_article
from config.rendering import Video
from config.threads import cores
from data.dataset import load_views
from data.problems.scene import CameraWarnings
from model.camera_path import CameraPath
from model.lact_lvsm import LaCTLVSM
from model.posed_images import PosedImages
from model.scene_request import SceneRequest, poses_in, read_one_scene
from model.scene_state import SceneState
from model.scene_stream import SceneStream
from model.video_frames import rendered_frames, write_video
from model.video_plan import VideoPlan

if TYPE_CHECKING:
    from model.viewer.viewer import Viewer


def load_scene(
    path: str | os.PathLike,
    views: int | Sequence[int] | None = None,
    *,
    model: LaCTLVSM | None = None,
    image_size: tuple[int, int] | None = None,
    normalise: bool | None = None,
    pose_reference: str = "all",
    scene_scale: float = 1.0,
) -> PosedImages:
    """Read photos and cameras of an object or a scene, for `LaCTLVSM.reconstruct`.

    Args:
        path: the scene's folder, its opencv_cameras.json, or a NAME_data_path.json of one scene; relative to the working folder or
            to the project's.
        views: how many, chosen as by inference.py (far apart for objects, evenly along the list where poses are normalised); or
            positions in the scene, in any order; None for all.
        model: the network that will read them. Its training decides image size and normalisation where these are not given.
        image_size: (h, w); by default what the model was trained at, without a model 64×64, as the bundled ones.
        normalise: move poses into the frame of the scene's mean camera, as for scenes; False for objects, used as they are. By
            default as the model was trained, without a model False.
        pose_reference: with `normalise`, the views that define frame and scale: `all` n of the scene, so that any choice of views
            is in the same frame, or `inputs`, these views alone.
        scene_scale: with `normalise`, S: camera positions are scaled into [-1/S, 1/S]; 1.35 for LVSM and Long-LRM weights.

    Returns:
        the views, on the CPU.

    Raises:
        FileNotFoundError: the scene or a photo does not exist.
        InputError: the scene breaks the format, a photo is damaged, or an argument cannot be used.

    Example:
        >>> from model import load_model, load_scene
        >>> model = load_model(device="cpu", precision="float32")
        >>> inputs = load_scene("data_example/objects_1000003_000060", views=12, model=model)
        >>> inputs
        PosedImages(objects_1000003_000060: 12 views of 64×64, object)
        >>> state = model.reconstruct(inputs)
        >>> state
        SceneState(12 views of 64×64, object, 3.1 MB)
        >>> others = load_scene("data_example/objects_1000003_000060", views=[3, 7], model=model)
        >>> model.render(state, others).shape
        torch.Size([2, 3, 64, 64])
    """
    request = SceneRequest.of("load_scene", model, image_size, normalise, pose_reference, scene_scale)
    scene = read_one_scene(path, "load_scene")
    CameraWarnings(request.normalise).check(scene)
    chosen = request.choose(scene, views)
    frame = request.frame(scene, chosen)
    loaded = load_views(scene, chosen, request.image_size, patch_size=1, workers=min(8, cores()))
    c2w, from_capture = poses_in(frame, scene, chosen), None if frame is None else frame.matrix[0]
    return PosedImages(loaded["image"], loaded["fxfycxcy"], c2w, scene.name, chosen, request.normalise, from_capture)


def stream_scene(
    path: str | os.PathLike,
    views: int | Sequence[int] | None = None,
    *,
    model: LaCTLVSM | None = None,
    image_size: tuple[int, int] | None = None,
    normalise: bool | None = None,
    pose_reference: str = "all",
    scene_scale: float = 1.0,
    wait_s: float = 0.0,
) -> SceneStream:
    """Read photos and cameras of an object or a scene one by one, also while it is still being captured.

    Each photo is read when it is asked for, so that memory does not grow with the number of views.

    Args:
        path, model, image_size, normalise, scene_scale: as for `load_scene`.
        views: as for `load_scene`, of those that are listed when this is called; None for all, with `wait_s` also those that are
            listed later.
        pose_reference: with `normalise`, the views that define frame and scale, `all` or `inputs`, of those that are listed when
            this is called. Views that come later do not change the frame.
        wait_s: 0 if the scene is complete. Else how many seconds, of nothing new, end the stream: until then it waits for photos
            that are missing or not yet completely written, and for views that are added to the end of the JSON, which may be
            rewritten in place. This call waits as long for a JSON that is missing or half-written.

    Returns:
        the views, in the order of the list or of the positions; see `SceneStream` for how the stream ends.

    Raises:
        FileNotFoundError: the scene does not exist.
        InputError: the scene breaks the format, or an argument cannot be used.

    Example:
        >>> from model import load_model, stream_scene
        >>> model = load_model(device="cpu", precision="float32")
        >>> stream = stream_scene("data_example/objects_1000003_000060", views=[3, 7], model=model)
        >>> len(stream)
        2
        >>> next(iter(stream))
        PosedImages(objects_1000003_000060: 1 view of 64×64, object)
    """
    request = SceneRequest.of("stream_scene", model, image_size, normalise, pose_reference, scene_scale)
    if not isinstance(wait_s, (int, float)) or not 0 <= wait_s <= sys.float_info.max:
        raise InputError("stream_scene, wait_s", f"is {shown(wait_s)}", "a number of seconds, 0 or more")
    scene = read_one_scene(path, "stream_scene", wait_s)
    CameraWarnings(request.normalise).check(scene)
    return SceneStream(scene, request, views, wait_s)


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
        cameras = VideoPlan.of(Video(), bool(normalised)).path(state)
    if not isinstance(cameras, CameraPath):
        wanted = "a CameraPath, as turntable(state), orbit(state) and flight(state) return"
        raise InputError("render_video, cameras", f"is {with_article(type(cameras))}", wanted)
    if not isinstance(path, (str, os.PathLike)):
        raise InputError("render_video, path", f"is {with_article(type(path))}", "a file, such as x.mp4")
    frames = rendered_frames(network, state, cameras, chunk_views, os.fspath(path))
    write_video(Path(path), frames, cameras)
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


def show(state: SceneState, *, model: LaCTLVSM | None = None, host: str = "127.0.0.1", port: int = 8080) -> "Viewer":
    """Open the viewer of a reconstruction, without its photos; `inference.py --viewer` shows these too.

    Args:
        state: of one scene.
        model: the network that wrote it; needed for a state from a file.
        host: address to listen at.
        port: of it; the next free one is taken if it is in use.

    Returns:
        the running viewer: a notebook displays it in a frame, `url` is for a browser, `wait()` keeps a script alive, and `close()`
        ends it.

    Raises:
        InputError: viser is not installed, the state is of several scenes, or the address cannot be listened at.
    """
    from model.viewer import ViewedScene, start_viewer

    network = network_of(state, model, "show")
    if len(state.c2w) != 1:
        raise InputError("show, state", f"holds {counted(len(state.c2w), 'scene')}", "one scene")
    name = "scene" if state.normalised else "object"
    size = network.trained_with.image_size or state.image_size
    return start_viewer({name: partial(ViewedScene.of_state, state, network, name)}, size, None, host, port)
