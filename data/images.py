"""Photos as upright RGB on white; images and their intrinsics resized.

Letters: h w pixels, c channels. Pixels are (h, w, c) arrays: uint8 for files with 8 bits per channel, float32 in 0..1
for 16. Intrinsics are float64 (fx, fy, cx, cy) in pixels.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from config.errors import InputError, missing_file

FORMATS = ("PNG", "JPEG", "WEBP")

# EXIF orientation: (swap rows and columns, then flip rows, then flip columns) makes the image upright.
UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@contextlib.contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Open an image without decoding its pixels.

    Any exception in the `with` block is reported as a damaged image, except errors of the operating system, out-of-memory and
    `InputError`: put nothing but decoding into it.

    Args:
        path: PNG, JPEG or WebP.

    Yields:
        the image, its header read; pixels are decoded on first access.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not an image, or is damaged.
    """
    wanted = ", ".join(FORMATS)
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except Image.UnidentifiedImageError:
        raise InputError(path, "is not an image, or is damaged", wanted) from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", "an image") from None
    except FileNotFoundError:
        raise missing_file(path, "an image") from None
    except (MemoryError, InputError):
        raise
    except Exception as error:  # decoders may raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(path, f"cannot be decoded ({error})", f"a whole {wanted}") from error


def read_pixels(path: str | os.PathLike) -> np.ndarray:
    """Read an image at its stored bit depth, upright and composited on white.

    PNG, JPEG and WebP in all their modes: grey, palette, transparent, CMYK. Colour profiles are not applied.

    Returns:
        (h, w, 3) uint8, or float32 in 0..1 for a file with 16 bits per channel.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not an image, or is damaged.
    """
    with open_image(path) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        deep = image.format == "PNG" and _bit_depth(path) == 16
        pixels = _deep_on_white(path, image) if deep else _on_white(image)
    return _upright(pixels, orientation)


def resize_and_crop(image: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image to cover (H, W), then crop the centre.

    The scale is max(W/w, H/h), the new size is rounded, the filter is Lanczos. Intrinsics are multiplied by the scale itself,
    not by the ratio of the rounded sizes, as in the published pipeline: the two differ by half a pixel at most, at the border.

    Args:
        image: (h, w, 3) uint8, or float32 in 0..1.
        intrinsics: (4,) of the image.
        size: (H, W).

    Returns:
        (H, W, 3) of the same dtype, and its intrinsics (4,) float64.
    """
    h, w = image.shape[:2]
    scale = max(size[1] / w, size[0] / h)
    scaled = round(h * scale), round(w * scale)
    if scaled != (h, w):
        image = _lanczos(image, scaled)
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    intrinsics = np.asarray(intrinsics, dtype=np.float64) * scale - (0, 0, left, top)
    return image[top : top + size[0], left : left + size[1]], intrinsics


def rescale_intrinsics(
    intrinsics: np.ndarray, stated: tuple[int, int], real: tuple[int, int], where: str | os.PathLike
) -> np.ndarray:
    """Rescale intrinsics stated for one size to the actual size of the stored image.

    Args:
        intrinsics: (4,) for the stated size.
        stated, real: (h, w).
        where: the file, for the error.

    Returns:
        (4,) float64 for the real size.

    Raises:
        InputError: the aspect ratios differ by more than one pixel of rounding: neither is a scaled copy of the other.
    """
    small, large = sorted((stated, real))
    long = 0 if small[0] > small[1] else 1
    short = 1 - long
    if abs(large[short] * small[long] / large[long] - small[short]) > 1:
        raise InputError(
            where,
            f"is {real[1]}×{real[0]} (w×h) when upright",
            f"the {stated[1]}×{stated[0]} of its camera, or the same shape at another scale",
        )
    scale_x, scale_y = real[1] / stated[1], real[0] / stated[0]
    return np.asarray(intrinsics, dtype=np.float64) * (scale_x, scale_y, scale_x, scale_y)


def _on_white(image: Image.Image) -> np.ndarray:
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return np.asarray(white)


def _bit_depth(path: str | os.PathLike) -> int:
    """Return the bits per channel of a PNG; Pillow silently reduces 16 to 8."""
    with Path(path).open("rb") as file:
        return file.read(25)[24]


def _deep_on_white(path: str | os.PathLike, image: Image.Image) -> np.ndarray:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    if pixels.ndim == 2:
        alpha = None
        if "transparency" in image.info:
            alpha = (pixels != image.info["transparency"]).astype(np.float32)[..., None]
        colours = np.repeat(pixels[..., None], 3, axis=2)
    else:
        alpha = pixels[..., 3:].astype(np.float32) / 65535 if pixels.shape[2] == 4 else None
        colours = pixels[..., 2::-1]
    colours = colours.astype(np.float32) / 65535
    return colours if alpha is None else colours * alpha + (1 - alpha)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in UPRIGHT:
        return pixels
    swap, flip_rows, flip_columns = UPRIGHT[orientation]
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _lanczos(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    h, w = size
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.LANCZOS))
    colours = [Image.fromarray(np.ascontiguousarray(image[..., c])).resize((w, h), Image.Resampling.LANCZOS) for c in range(3)]
    return np.stack([np.asarray(colour) for colour in colours], axis=2).clip(0, 1)
