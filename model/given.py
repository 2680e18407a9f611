"""Arguments of the network in one form: scenes and camera paths, tensors and arrays, with or without a batch."""

import warnings

import numpy as np
from torch import Tensor

from config.errors import InputError
from model.camera_path import CameraPath
from model.checks import check_cameras, check_size, check_views
from model.departure import TrainedWith, departure
from model.posed_images import PosedImages

Array = Tensor | np.ndarray


def given_views(
    image: Array | PosedImages, fxfycxcy: Array | None, c2w: Array | None, patch_size: int, trained: TrainedWith
) -> tuple[Tensor, Tensor, Tensor]:
    """Return checked images and cameras as `reconstruct` is given them, of a batch of scenes; warn of an unusual scene."""
    if isinstance(image, PosedImages):
        if fxfycxcy is not None or c2w is not None:
            raise InputError("reconstruct", "is given a scene and cameras", "the scene alone, which has its cameras")
        normalised = trained.scene_pose_normalize if image.normalised is None else image.normalised
        note = departure("the weights", trained, image.image_size, len(image), bool(normalised))
        if note:
            warnings.warn(note, stacklevel=4)
        image, fxfycxcy, c2w = image.image, image.fxfycxcy, image.c2w
    found = check_views(image, fxfycxcy, c2w, patch_size, "reconstruct")
    return found if found[0].ndim == 5 else (found[0][None], found[1][None], found[2][None])


def given_cameras(
    fxfycxcy: Array | CameraPath | PosedImages, c2w: Array | None, image_size: tuple[int, int] | None, patch_size: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return checked cameras, and the size of their images, as `render` is given them."""
    if isinstance(fxfycxcy, (CameraPath, PosedImages)):
        if c2w is not None or image_size is not None:
            found = "is given cameras with a size of their own, and c2w or image_size"
            raise InputError("render", found, "the cameras alone")
        fxfycxcy, c2w, image_size = fxfycxcy.fxfycxcy, fxfycxcy.c2w, fxfycxcy.image_size
    intrinsics, poses = check_cameras(fxfycxcy, c2w, "render")
    return intrinsics, poses, check_size(image_size, patch_size, "render, image_size")
