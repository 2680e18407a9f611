"""Arguments of the network in one form: scenes and camera paths, tensors and arrays, with or without a batch."""

import warnings

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError
from config.messages import with_article
from model.camera_path import CameraPath
from model.checks import check_cameras, check_size, check_views
from model.departure import TrainedWith, departure
from model.posed_images import PosedImages

Array = Tensor | np.ndarray


def given_views(
    image: Array | PosedImages, fxfycxcy: Array | None, c2w: Array | None, patch_size: int, where: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return checked images and cameras of a batch of scenes as a function, `where`, is given them."""
    if isinstance(image, PosedImages):
        if fxfycxcy is not None or c2w is not None:
            raise InputError(where, "is given a scene and cameras", "the scene alone, which has its cameras")
        image, fxfycxcy, c2w = image.image, image.fxfycxcy, image.c2w
    found = check_views(image, fxfycxcy, c2w, patch_size, where)
    return found if found[0].ndim == 5 else (found[0][None], found[1][None], found[2][None])


def warn_of_departure(scene: PosedImages, trained: TrainedWith) -> None:
    """Warn of a scene that departs from what the weights were trained with; for methods that record no gradients."""
    normalised = trained.scene_pose_normalize if scene.normalised is None else scene.normalised
    note = departure("the weights", trained, scene.image_size, len(scene), bool(normalised))
    if note:
        warnings.warn(note, stacklevel=4)  # the user's line, above the method and its decorator


def given_focus(focus: Array | None, b: int) -> Tensor | None:
    """Return the point that addresses refer to, (b, 3) float32, as it is given: one for all scenes, or one for each."""
    if focus is None:
        return None
    found = torch.as_tensor(focus) if isinstance(focus, (Tensor, np.ndarray)) else None
    if (
        found is None
        or tuple(found.shape) not in ((3,), (b, 3))
        or not found.is_floating_point()
        or not found.float().isfinite().all()
    ):
        is_ = with_article(type(focus)) if found is None else f"{tuple(found.shape)}, {str(found.dtype).removeprefix('torch.')}"
        raise InputError("focus", f"is {is_}", f"finite floating-point numbers, (3,) or ({b}, 3)")
    return found.float().expand(b, 3)


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
