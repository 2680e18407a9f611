"""Pictures for a browser's window: the cameras to render them, and how they are fitted into the window.

Letters: h w pixels, p patch side. Axes are OpenCV's: x right, y down, z forward. An aspect is a width over a height.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

# Pictures are enlarged to this many rows at least, so that JPEG, which halves the resolution of colours, does not blur them.
_SMOOTH_ROWS = 256
_SURROUND = {False: 255, True: 24}


@dataclass(frozen=True, eq=False)
class Pose:
    """What a browser looks at.

    Attributes:
        c2w: (4, 4) float64, in the frame of the scene state.
        fov: vertical field of view of the window, in radians.
        aspect: of the window.
    """

    c2w: np.ndarray
    fov: float
    aspect: float


def picture_fov(window_fov: float, window_aspect: float, aspect: float) -> float:
    """Return the vertical field of view, in radians, of the largest picture of an aspect in the middle of a window."""
    return 2 * math.atan(math.tan(window_fov / 2) * min(1.0, window_aspect / aspect))


def window_fov(picture_fov: float, window_aspect: float, aspect: float) -> float:
    """Return the vertical field of view of the window in which that picture has a given one."""
    return 2 * math.atan(math.tan(picture_fov / 2) / min(1.0, window_aspect / aspect))


def picture_camera(pose: Pose, rows: int, aspect: float, patch: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return the camera of the largest picture of a given aspect in the middle of the window.

    Args:
        pose: of the window.
        rows: height of the picture, rounded to whole patches.
        aspect: of the picture.
        patch: p.

    Returns:
        fxfycxcy (4), c2w (4, 4), float32, and the image size (h, w). Its pixels may differ from squares by the rounding of w.
    """
    h = max(1, round(rows / patch)) * patch
    w = max(1, round(rows * aspect / patch)) * patch
    # Half the picture's height and width on the plane at distance 1.
    half_h = math.tan(picture_fov(pose.fov, pose.aspect, aspect) / 2)
    half_w = half_h * aspect
    fxfycxcy = torch.tensor([w / (2 * half_w), h / (2 * half_h), w / 2, h / 2])
    return fxfycxcy, torch.from_numpy(pose.c2w).float(), (h, w)


def fit_into_window(picture: np.ndarray, aspect: float, window_aspect: float, dark: bool) -> np.ndarray:
    """Return a picture, smoothly enlarged, in the middle of an image with the window's aspect.

    Args:
        picture: (h, w, 3) uint8.
        aspect: of the picture on the screen.
        window_aspect: of the window.
        dark: fill what is left with a dark grey, else with white, the background of objects.

    Returns:
        (…, …, 3) uint8.
    """
    rows = max(picture.shape[0], _SMOOTH_ROWS)
    picture = cv2.resize(picture, (max(1, round(rows * aspect)), rows), interpolation=cv2.INTER_CUBIC)
    h, w = picture.shape[:2]
    full_h, full_w = max(h, round(w / window_aspect)), max(w, round(h * window_aspect))
    top, left = (full_h - h) // 2, (full_w - w) // 2
    window = np.full((full_h, full_w, 3), _SURROUND[dark], np.uint8)
    window[top : top + h, left : left + w] = picture
    return window
