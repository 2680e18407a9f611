"""Functions for notebooks and scripts: scenes from disk, videos, the viewer. Letters: v views, n views of a scene, h w pixels."""

import math
import operator
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from config.errors import InputError, missing_file
from config.messages import counted, shown, some, with_article
from config.paths import find_path
from config.rendering import DEFAULT_WEIGHTS, Video
from config.threads import cores
from data.dataset import load_views
from data.pack import split_path
from data.poses import in_scene_frame
from data.problems.scene import CameraWarnings
from data.scene_format import CAMERAS, Scene, read_scene
from data.scene_list import read_data_path
from data.view_selection import default_method, select_views
from model.camera_path import CameraPath
from model.checks import check_size
from model.lact_lvsm import LaCTLVSM
from model.posed_images import PosedImages
from model.scene_state import SceneState
from model.video_frames import rendered_frames, write_video
from model.video_plan import VideoPlan
from model.weights.trained_with import trained_with

if TYPE_CHECKING:
    from model.viewer.viewer import Viewer

VIEWS = "a number of views, or their positions, such as [0, 5, 7]"


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
    if model is not None and not isinstance(model, LaCTLVSM):
        raise InputError("load_scene, model", f"is {with_article(type(model))}", "what load_model returns")
    trained = trained_with(DEFAULT_WEIGHTS) if model is None else model.trained_with
    image_size = trained.image_size if image_size is None else image_size
    if image_size is None:
        raise InputError("load_scene, image_size", "is not given, and unknown of these weights", "(height, width)")
    image_size = check_size(image_size, 1 if model is None else model.config.patch_size, "load_scene, image_size")
    normalise = bool(trained.scene_pose_normalize) if normalise is None else normalise
    _check_reference(normalise, pose_reference, scene_scale)
    scene = _read(path)
    CameraWarnings(normalise).check(scene)
    c2w = np.stack([view.c2w for view in scene.views])
    from_capture = None
    try:
        chosen = _choose(c2w, views, default_method(normalise))
        poses = torch.from_numpy(c2w[chosen])
        if normalise:
            reference = torch.from_numpy(c2w) if pose_reference == "all" else poses
            poses, from_capture = in_scene_frame(poses, reference, scene_scale)
    except InputError as error:
        raise error.within(scene.json_path) from error
    loaded = load_views(scene, chosen, image_size, patch_size=1, workers=min(8, cores()))
    return PosedImages(loaded["image"], loaded["fxfycxcy"], poses.float(), scene.name, chosen, normalise, from_capture)


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


def _check_reference(normalise: bool, pose_reference: str, scene_scale: float) -> None:
    if pose_reference not in ("all", "inputs"):
        raise InputError("load_scene, pose_reference", f"is {shown(pose_reference)}", "all or inputs")
    if not isinstance(scene_scale, (int, float)) or not 0 < scene_scale < math.inf:
        raise InputError("load_scene, scene_scale", f"is {shown(scene_scale)}", "a number above 0")
    for name, given in (("pose_reference", pose_reference != "all"), ("scene_scale", scene_scale != 1)):
        if given and not normalise:
            raise InputError(f"load_scene, {name}", "has no effect on poses that are not normalised", "normalise=True")


def _read(path: str | os.PathLike) -> Scene:
    """Return the one scene that a path leads to."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError("load_scene, path", f"is {with_article(type(path))}", "the path of a scene")
    found = find_path(path)
    if split_path(found) is not None:
        found = found if found.name == CAMERAS else found / CAMERAS  # the folder of a scene in a pack
    elif not os.path.lexists(found):
        raise missing_file(found, f"a scene's folder, its {CAMERAS}, or a list of one scene")
    if os.path.isdir(found):
        if not os.path.exists(found / CAMERAS):
            wanted = "a scene; data_preprocess/colmap_format_converter.py makes one of photos"
            raise InputError(found, f"is a folder without {CAMERAS}", wanted)
        found /= CAMERAS
    listed = read_data_path(found)
    if len(listed) > 1:
        raise InputError(found, f"lists {len(listed)} scenes", f"one of them: {some([str(x.parent) for x in listed], 3)}")
    return read_scene(listed[0])


def _choose(c2w: np.ndarray, views: int | Sequence[int] | None, method: str) -> list[int]:
    """Return the positions of the views that `load_scene` is asked for."""
    n = len(c2w)
    if views is None:
        return list(range(n))
    if isinstance(views, (int, np.integer)) and not isinstance(views, bool):
        if not 1 <= views <= n:
            raise InputError("views", f"is {views} of {n}", VIEWS)
        return select_views(c2w, num_input_views=int(views), num_target_views=0, method=method)[0]
    try:
        chosen = [operator.index(view) for view in views]  # pyright: ignore[reportGeneralTypeIssues]
    except TypeError:
        raise InputError("views", f"is {shown(views)}", VIEWS) from None
    outside = [view for view in chosen if not 0 <= view < n]
    if outside:
        raise InputError("views", f"names view {outside[0]}", f"0 to {n - 1}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("views", "names a view twice" if chosen else "names no view", "each view once, at least one")
    return chosen
