"""Stored images, read without EXIF rotation and written as PNG. Letters: h w pixels, c colours; pixels are (h, w, c) uint8."""

import os

import cv2
import numpy as np

from config.errors import InputError
from data.files import replace_when_finished
from data.images import open_image, read_orientation, rescale_intrinsics, turn_upright

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_header(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """Return an image's stored size (h, w) and EXIF orientation, 1 to 8, without reading its pixels.

    Raises:
        FileNotFoundError, InputError: there is no such file, or it is not an image.
    """
    with open_image(path) as image:
        return (image.height, image.width), read_orientation(image)


def read_stored(path: str | os.PathLike, upright: bool = False) -> np.ndarray:
    """Read an image as stored, including alpha, with 8 bits per channel.

    Args:
        path: PNG, JPEG or WebP.
        upright: apply its EXIF orientation.

    Returns:
        (h, w, 3), or (h, w, 4) if it has transparency.

    Raises:
        FileNotFoundError, InputError: there is no such file, or it is not an image or is damaged.
    """
    with open_image(path) as image:
        orientation = read_orientation(image) if upright else 1
        image.load()
        if image.mode.startswith("I"):
            grey = (np.asarray(image, np.uint32) // 257).astype(np.uint8)
            pixels = np.repeat(grey[..., None], 3, axis=2)
        else:
            pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    return turn_upright(pixels, orientation)


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether images of two sizes (h, w) have the same shape, up to scale and a pixel of rounding."""
    try:
        rescale_intrinsics(np.zeros(4), size, other, "")
    except InputError:
        return False
    return True


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return (h, w, 3) or (h, w, 4) pixels as the content of a PNG.

    Cost: OpenCV's own defaults (runs only, one filter) take half the time of zlib's level 1 and give smaller files.
    """
    _, content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA))
    return content.tobytes()


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Write (h, w, 3) or (h, w, 4) pixels as PNG, completely or not at all."""
    content = png_bytes(pixels)
    with replace_when_finished(path) as temporary:
        temporary.write_bytes(content)
