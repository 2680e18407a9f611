"""Requests of `load_scene` and `stream_scene`: a scene, views of it, their size and frame.

Letters: v views, n views of a scene, h w pixels.
"""

import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError, missing_file
from config.messages import shown, some, with_article
from config.paths import find_path
from config.rendering import DEFAULT_WEIGHTS
from data.growing_scene import wait_for_scene
from data.pack import split_path
from data.poses import SceneFrame, scene_frame
from data.scene_format import CAMERAS, Scene, read_scene
from data.scene_list import read_data_path
from data.view_selection import default_method, select_views
from model.checks import check_size
from model.lact_lvsm import LaCTLVSM
from model.weights.trained_with import trained_with

VIEWS = "a number of views, or their positions, such as [0, 5, 7]"


@dataclass(frozen=True)
class SceneRequest:
    """Size and frame in which views are wanted.

    Attributes:
        image_size: (h, w).
        normalise: move poses into the frame of the scene's mean camera.
        pose_reference: with `normalise`, `all` or `inputs`, the views that set the frame.
        scene_scale: with `normalise`, positions of these are scaled into [-1/S, 1/S].
    """

    image_size: tuple[int, int]
    normalise: bool
    pose_reference: str
    scene_scale: float

    @classmethod
    def of(
        cls,
        where: str,
        model: LaCTLVSM | None,
        image_size: tuple[int, int] | None,
        normalise: bool | None,
        pose_reference: str,
        scene_scale: float,
    ) -> "SceneRequest":
        """Return the request of a function's arguments; what is None is as the model, or the bundled one, was trained.

        Args:
            where: the function, in the errors.

        Raises:
            InputError: an argument cannot be used.
        """
        if model is not None and not isinstance(model, LaCTLVSM):
            raise InputError(f"{where}, model", f"is {with_article(type(model))}", "what load_model returns")
        trained = trained_with(DEFAULT_WEIGHTS) if model is None else model.trained_with
        image_size = trained.image_size if image_size is None else image_size
        if image_size is None:
            raise InputError(f"{where}, image_size", "is not given, and unknown of these weights", "(height, width)")
        image_size = check_size(image_size, 1 if model is None else model.config.patch_size, f"{where}, image_size")
        normalise = bool(trained.scene_pose_normalize) if normalise is None else normalise
        if pose_reference not in ("all", "inputs"):
            raise InputError(f"{where}, pose_reference", f"is {shown(pose_reference)}", "all or inputs")
        if not isinstance(scene_scale, (int, float)) or not 0 < scene_scale < math.inf:
            raise InputError(f"{where}, scene_scale", f"is {shown(scene_scale)}", "a number above 0")
        for name, given in (("pose_reference", pose_reference != "all"), ("scene_scale", scene_scale != 1)):
            if given and not normalise:
                raise InputError(f"{where}, {name}", "has no effect on poses that are not normalised", "normalise=True")
        return cls(image_size, normalise, pose_reference, scene_scale)

    def choose(self, scene: Scene, views: int | Sequence[int] | None) -> list[int]:
        """Return the positions of the views that are asked for: `views` of them, or those at these positions, or all.

        Raises:
            InputError: the scene has no such views.
        """
        try:
            return _choose(_c2w(scene, range(len(scene.views))), views, default_method(self.normalise))
        except InputError as error:
            raise error.within(scene.json_path) from error

    def frame(self, scene: Scene, chosen: Sequence[int]) -> SceneFrame | None:
        """Return the frame that poses are moved into; None where they are used as they are.

        Raises:
            InputError: the cameras that set it are all at one place.
        """
        if not self.normalise:
            return None
        reference = range(len(scene.views)) if self.pose_reference == "all" else chosen
        try:
            return scene_frame(torch.from_numpy(_c2w(scene, reference))[None], scene_scale=self.scene_scale)
        except InputError as error:
            raise error.within(scene.json_path) from error


def poses_in(frame: SceneFrame | None, scene: Scene, views: Sequence[int]) -> Tensor:
    """Return the poses (v, 4, 4) float32 of views of a scene, moved into a frame, if there is one."""
    c2w = torch.from_numpy(_c2w(scene, views))
    return (c2w if frame is None else frame.apply(c2w[None])[0]).float()


def _c2w(scene: Scene, views: Sequence[int]) -> np.ndarray:
    return np.stack([scene.views[view].c2w for view in views])


def read_one_scene(path: str | os.PathLike, where: str, wait_s: float = 0.0) -> Scene:
    """Return the one scene that a path leads to.

    Args:
        path: its folder, its JSON, or a list of it.
        where: the function, in the errors.
        wait_s: how long to wait for a JSON that is missing or half-written.

    Raises:
        FileNotFoundError: there is none.
        InputError: there are several, or the scene breaks the format.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{where}, path", f"is {with_article(type(path))}", "the path of a scene")
    if wait_s:
        wait_for_scene(path, wait_s)
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
    """Return the positions of the views, of n at poses (n, 4, 4), that are asked for."""
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
