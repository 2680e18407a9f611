"""Checks of what callers give the network: images, cameras and sizes that cannot be meant are refused in one line each.

Values on a GPU are not looked at: the host would have to wait for them.
Letters: b scenes, v views, h w pixels. Axes are OpenCV's: x right, y down, z forward. `c2w` is world from camera.
"""

import operator

import numpy as np
import torch
from torch import Tensor

from config.errors import InputError
from config.messages import shown, with_article
from data.image_size import check_image_size
from data.rigid import pose_problem

# Resampled images overshoot 0..1, by tenths at most; other ranges, such as -1..1, exceed it by more.
OVERSHOOT = 0.5
# Errors of poses in bfloat16.
POSE_ROUNDING = 1e-2
IMAGES, INTRINSICS, POSES = "(views, 3, height, width)", "(views, 4): fx, fy, cx, cy in pixels", "(views, 4, 4)"
SIZE = "(height, width), two whole numbers"
# What the largest integer of a type stands for.
WHITE = {torch.uint8: " / 255", torch.uint16: " / 65535", torch.int16: " / 32767"}


def check_images(image: object, where: str) -> Tensor:
    """Return images as a tensor, once they have the shape and the range that networks read.

    Args:
        image: ([b,] v, 3, h, w) in 0..1, a floating-point tensor or array.
        where: what they are, in the errors.

    Raises:
        InputError: something else.
    """
    found = _tensor(image, where, f"a tensor or an array {IMAGES}, such as torch.stack(images)")
    shape = tuple(found.shape)
    last = found.ndim in (3, 4, 5) and shape[-1] == 3 and shape[-3] != 3
    if not found.is_floating_point() or last or found.ndim not in (4, 5) or shape[-3] != 3:
        remedy = (".movedim(-1, -3)" if last else "") + WHITE.get(found.dtype, "") + ("[None]" if found.ndim == 3 else "")
        wanted = f"float32 {IMAGES} in 0..1" + (f": image{remedy}" if remedy else "")
        raise InputError(where, f"is {_dtype(found)} {shape}", wanted)
    if _on_host(found) and found.numel():
        low, high = (x.item() for x in found.detach().aminmax())
        if not np.isfinite((low, high)).all():
            raise InputError(where, "holds numbers that are not finite", "numbers in 0..1")
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            raise InputError(where, f"reaches from {low:.4g} to {high:.4g}", f"numbers in 0..1{_rescaling(low, high)}")
    return found


def check_cameras(fxfycxcy: object, c2w: object, where: str) -> tuple[Tensor, Tensor]:
    """Return cameras as tensors, once they have the shapes and values of pinhole cameras.

    Args:
        fxfycxcy: ([b,] v, 4) in pixels, a tensor or an array.
        c2w: ([b,] v, 4, 4), likewise.
        where: what they are, in the errors.

    Raises:
        InputError: other shapes, numbers that are not finite, focal lengths that are not above 0, or poses that are not rigid.
    """
    intrinsics = _tensor(fxfycxcy, f"{where}, fxfycxcy", f"a tensor or an array {INTRINSICS}")
    poses = _tensor(c2w, f"{where}, c2w", f"a tensor or an array {POSES}")
    shape, pose_shape = tuple(intrinsics.shape), tuple(poses.shape)
    if shape[-2:] == (3, 3):
        raise InputError(f"{where}, fxfycxcy", f"is {shape}", f"{INTRINSICS}: K[..., [0, 1, 0, 1], [0, 1, 2, 2]]")
    if len(shape) not in (2, 3) or shape[-1] != 4:
        raise InputError(f"{where}, fxfycxcy", f"is {shape}", INTRINSICS)
    if len(pose_shape) not in (3, 4) or pose_shape[-2:] != (4, 4):
        row = " with a last row of 0 0 0 1" if pose_shape[-2:] == (3, 4) else ""
        raise InputError(f"{where}, c2w", f"is {pose_shape}", f"{POSES}{row}")
    if shape[:-1] != pose_shape[:-2]:
        raise InputError(f"{where}, cameras", f"have fxfycxcy {shape} and c2w {pose_shape}", "both of the same views")
    if _on_host(intrinsics):
        _check_intrinsics(intrinsics.detach().double().numpy(), f"{where}, fxfycxcy")
    if _on_host(poses):
        _check_poses(poses.detach().double().numpy(), f"{where}, c2w")
    return intrinsics, poses


def check_views(image: object, fxfycxcy: object, c2w: object, patch_size: int, where: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return posed images as tensors: `check_images`, `check_cameras` and `check_size`, and as many images as cameras.

    Raises:
        InputError: something else.
    """
    images = check_images(image, f"{where}, image")
    intrinsics, poses = check_cameras(fxfycxcy, c2w, where)
    if images.shape[:-3] != intrinsics.shape[:-1]:
        found = f"is {tuple(images.shape)}, and fxfycxcy {tuple(intrinsics.shape)}"
        raise InputError(f"{where}, image", found, "as many images as cameras")
    check_size(images.shape[-2:], patch_size, f"{where}, image")
    return images, intrinsics, poses


def check_size(image_size: object, patch_size: int, where: str) -> tuple[int, int]:
    """Return an image size (h, w), once it is two whole numbers that a network's patch divides.

    Raises:
        InputError: something else.
    """
    h, w = sides_of(image_size, where)
    check_image_size((h, w), patch_size, (where, where))
    return h, w


def sides_of(image_size: object, where: str) -> tuple[int, int]:
    """Return an image size (h, w), once it is two whole numbers.

    Raises:
        InputError: something else.
    """
    if not isinstance(image_size, (tuple, list)):
        raise InputError(where, f"is {with_article(type(image_size))}", SIZE)
    try:
        h, w = (operator.index(side) for side in image_size)
    except (TypeError, ValueError):
        raise InputError(where, f"is {shown(image_size)}", SIZE) from None
    return h, w


def _tensor(value: object, where: str, wanted: str) -> Tensor:
    """Return a tensor or an array of numbers as a tensor; arrays of floating-point numbers in float32."""
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype is not torch.bool:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        dtype = np.float32 if value.dtype.kind == "f" else value.dtype.newbyteorder("=")
        with np.errstate(over="ignore"):  # infinity is refused
            return torch.from_numpy(np.require(value, dtype, ["C", "W"]))
    if isinstance(value, (Tensor, np.ndarray)):
        raise InputError(where, f"holds {value.dtype}", wanted)
    raise InputError(where, f"is {with_article(type(value))}", wanted)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _rescaling(low: float, high: float) -> str:
    """Return the way from a usual range to 0..1; nothing if it is none."""
    if low >= -OVERSHOOT and 1 + OVERSHOOT < high <= 256:
        return " (image / 255)"
    return " (image / 2 + 0.5)" if -1.1 < low < -OVERSHOOT and high < 1.1 else ""


def _view(view: int, shape: tuple[int, ...]) -> str:
    """Return which view the number of one stands for, counted over all scenes of a shape ([b,] v, …)."""
    return f"view {view}" if len(shape) == 1 or shape[0] == 1 else f"scene {view // shape[1]}, view {view % shape[1]}"


def _check_intrinsics(fxfycxcy: np.ndarray, where: str) -> None:
    shape, rows = fxfycxcy.shape[:-1], fxfycxcy.reshape(-1, 4)
    for view in np.flatnonzero(~np.isfinite(rows).all(-1) | ~(rows[:, :2] > 0).all(-1))[:1].tolist():
        found = ", ".join(f"{x:.6g}" for x in rows[view])
        raise InputError(f"{where}, {_view(view, shape)}", f"is {found}", "finite numbers, focal lengths above 0")


def _check_poses(c2w: np.ndarray, where: str) -> None:
    shape, poses = c2w.shape[:-2], c2w.reshape(-1, 4, 4)
    for view in np.flatnonzero(~np.isfinite(poses).all((-1, -2)))[:1].tolist():
        raise InputError(f"{where}, {_view(view, shape)}", "holds numbers that are not finite", "finite poses")
    problem = pose_problem(poses, POSE_ROUNDING, POSE_ROUNDING)
    if problem is not None:
        raise InputError(f"{where}, {_view(problem.view, shape)}", problem.found, problem.wanted)
