"""Photos as upright RGB on white; images and their intrinsics resized.

Letters: h w pixels, c channels. Pixels are (h, w, c) arrays: uint8 for files with 8 bits per channel, float32 in 0..1
for 16. Intrinsics are float64 (fx, fy, cx, cy) in pixels.
"""

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image

from config.errors import InputError
from data.frame_path import split_frame
from data.stored_file import open_file, read_file

FORMATS = ("PNG", "JPEG", "WEBP")
# Phones take photos of 200 megapixels. Pillow warns of larger ones, and refuses those of twice as many.
Image.MAX_IMAGE_PIXELS = 1 << 28
# Pixels of a scaled image before it is cropped.
MOST_SCALED_PIXELS = 2 * 89_478_485

# EXIF: the start of a block, and its types for whole numbers of 8, 16 and 32 bits.
_EXIF, _WHOLE = b"Exif\0\0", {1: "B", 3: "H", 4: "I"}
# JPEG: its start, the marker of the pixels, and those of metadata: the application segments other than JFIF's (0) and Adobe's
# (14), which say how colours are stored.
_JPEG, _START_OF_SCAN, _METADATA = b"\xff\xd8", b"\xda", {*range(0xE1, 0xEE), 0xEF}

# Images decoded at a part of their size are still reduced by this at least: with less, the picture differs 13 dB more.
_LEAST_REDUCTION = 2.0

# PNG: place of the bits per channel. Pillow silently reduces 16 to 8.
_BIT_DEPTH = 24

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
        InputError: it is not a regular file, not an image, or damaged.
    """
    with open_file(path, "an image") as file, _decoding(file, path) as image:
        yield image


@contextlib.contextmanager
def _decoding(file: BinaryIO, path: str | os.PathLike) -> Iterator[Image.Image]:
    """Yield the image in an open file; `path` names it in messages. As `open_image`."""
    wanted = ", ".join(FORMATS)
    try:
        with _open(file) as image:
            yield image
    except Image.UnidentifiedImageError:
        raise InputError(path, "is not an image, or is damaged", wanted) from None
    except (MemoryError, InputError):
        raise
    except Exception as error:  # decoders may raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(path, f"cannot be decoded ({error})", f"a whole {wanted}") from error


def read_pixels(path: str | os.PathLike) -> np.ndarray:
    """Read an image at its stored bit depth, upright and composited on white: the first of the two that `read_photo` returns."""
    return read_photo(path)[0]


def read_photo(path: str | os.PathLike, reduced_to: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read an image at its stored bit depth, upright and composited on white, and its alpha channel.

    PNG, JPEG and WebP in all their modes: grey, palette, transparent, CMYK. Colour profiles are not applied.

    Args:
        path: the image, or a frame of a video, see `data.frame_path`.
        reduced_to: (h, w) of an image that will be made of it by `resize_and_crop`: then a JPEG may be decoded at 1/2, 1/4 or 1/8
            of its size, where that is whole pixels and still covers twice that size. Photos of 960×540, brought to 128×128, then
            take a third of the time, and differ by 0.6 of 255 levels (root mean square).

    Returns:
        pixels: (h, w, 3) uint8, or float32 in 0..1 for a file with 16 bits per channel.
        alpha: (h, w) uint8, or None for an image without transparency.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not an image, or is damaged; the video has no such frame, or PyAV, which frames need, is not installed.
    """
    frame = split_frame(path)
    if frame is not None:
        return _read_frame(*frame), None
    with open_file(path, "an image") as file:
        start = file.read(_BIT_DEPTH + 1)
        file.seek(0)
        with _decoding(file, path) as image:
            orientation = read_orientation(image)
            if reduced_to is not None:
                _reduce(image, (reduced_to[1], reduced_to[0]) if orientation >= 5 else reduced_to)
            deep = image.format == "PNG" and start[_BIT_DEPTH] == 16
            pixels, alpha = _deep_on_white(read_file(path), image) if deep else _on_white(image)
    return turn_upright(pixels, orientation), None if alpha is None else turn_upright(alpha, orientation)


def _read_frame(video: str, number: str) -> np.ndarray:
    try:
        from data.video_reader import read_frame
    except ImportError as error:
        found = "cannot be read: frames of videos need PyAV, which is not installed"
        raise InputError(f"{video}/{number}", found, "`pip install av`, or photos") from error
    return read_frame(video, number)


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, of an image that `open_image` has opened; 1 where it has none that is valid.

    EXIF counts where it stands before the pixels (in WebP: anywhere in the file), and its tag where it is a whole number. XMP, text
    chunks and EXIF after a PNG's pixels do not count, since programs for structure from motion, whose cameras must fit, ignore
    them. Pillow's `getexif` uses them, and decodes a whole PNG to find them.

    Args:
        image: with its pixels not yet decoded: decoding adds the tags after them.
    """
    block = image.info.get("exif")
    # A PNG's text chunk named "exif" has the same key, without this start.
    if not isinstance(block, bytes) or (image.format == "PNG" and not block.startswith(_EXIF)):
        return 1
    try:
        orientation = _orientation_in(block)
    except struct.error:  # it is cut short
        return 1
    return orientation if orientation in UPRIGHT else 1


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Return pixels of `read_pixels` as uint8."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels (h, w, …) by an EXIF orientation: (h, w, …), or (w, h, …) for 5 to 8."""
    if orientation not in UPRIGHT:
        return pixels
    swap, flip_rows, flip_columns = UPRIGHT[orientation]
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def resize_and_crop(image: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image to cover (H, W), then crop the centre.

    The scale is max(W/w, H/h), the new size is rounded, the filter is Lanczos. Intrinsics are multiplied by the scale itself,
    not by the ratio of the rounded sizes, as in the published pipeline: the two differ by half a pixel at most, at the border.

    Args:
        image: (h, w, 3) uint8, or float32 in 0..1; or (h, w) uint8.
        intrinsics: (4,) of the image.
        size: (H, W).

    Returns:
        (H, W, 3) or (H, W) of the same dtype, and its intrinsics (4,) float64.

    Cost: the scaled image, or only the crop where that would take more than `MOST_SCALED_PIXELS`, whatever the aspect ratios.
    """
    h, w = image.shape[:2]
    scaled, (top, left), intrinsics = scale_to_cover((h, w), intrinsics, size)
    if scaled == (h, w):
        return image[top : top + size[0], left : left + size[1]], intrinsics
    if scaled[0] * scaled[1] <= MOST_SCALED_PIXELS:
        image = _lanczos(image, scaled, (0, 0, w, h))
        return image[top : top + size[0], left : left + size[1]], intrinsics
    # Only the part that the crop shows. The filter also reads beyond it; the result differs by rounding alone.
    y, x = h / scaled[0], w / scaled[1]
    part = left * x, top * y, min((left + size[1]) * x, w), min((top + size[0]) * y, h)
    return _lanczos(image, size, part), intrinsics


def with_margin(size: tuple[int, int], margin: float) -> tuple[int, int]:
    """Return a size (h, w) with a margin, a share of it."""
    return round(size[0] * (1 + margin)), round(size[1] * (1 + margin))


def scale_to_cover(
    real: tuple[int, int], intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], np.ndarray]:
    """Return how `resize_and_crop` brings an image (h, w) to (H, W).

    Returns:
        the scaled size, the top left corner (row, column) of the crop in it, and the intrinsics (4,) float64 of the crop.
    """
    h, w = real
    scale = max(size[1] / w, size[0] / h)
    scaled = round(h * scale), round(w * scale)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return scaled, (top, left), np.asarray(intrinsics, dtype=np.float64) * scale - (0, 0, left, top)


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


def _open(file: BinaryIO) -> Image.Image:
    """Open an image; a JPEG whose metadata Pillow cannot read (it looks for the resolution in EXIF) is opened without it."""
    try:
        return Image.open(file, formats=FORMATS)
    except Exception:  # Pillow's parsers of metadata raise anything
        file.seek(0)
        content = file.read()
        if not content.startswith(_JPEG):
            raise
        bare, exif = _without_metadata(content)
        image = Image.open(io.BytesIO(bare), formats=FORMATS)
        image.info["exif"] = exif
        return image


def _without_metadata(content: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG without its metadata, and its EXIF."""
    kept, exif, at = [_JPEG], b"", len(_JPEG)
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"", _START_OF_SCAN):
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] not in _METADATA:
            kept.append(content[at:end])
        elif not exif and content[at + 4 : end].startswith(_EXIF):
            exif = content[at + 4 : end]
        at = end
    return b"".join([*kept, content[at:]]), exif


def _orientation_in(block: bytes) -> int | None:
    """Return the orientation in the first directory of an EXIF block; None unless it is a single whole number.

    Not by Pillow's parser, which raises all kinds of errors, warns, and takes the first of several numbers.
    """
    while block.startswith(_EXIF):
        block = block.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, numbers = struct.unpack_from(f"{order}HHI", block, at)
        if tag == ExifTags.Base.Orientation:
            return struct.unpack_from(order + _WHOLE[kind], block, at + 8)[0] if kind in _WHOLE and numbers == 1 else None
    return None


def _reduce(image: Image.Image, size: tuple[int, int]) -> None:
    """Have a JPEG decoded at a part of its size, where that covers twice a size (h, w); other formats are decoded whole.

    Only where the part is whole pixels: else intrinsics would be off by up to half of one.
    """
    scale = _LEAST_REDUCTION * max(size[0] / image.height, size[1] / image.width)
    for part in (8, 4, 2):
        if part * scale <= 1 and image.width % part == image.height % part == 0:
            image.draft(None, (image.width // part, image.height // part))
            return


def _on_white(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    image = image.convert("RGBA")
    white, alpha = Image.new("RGB", image.size, (255, 255, 255)), image.getchannel("A")
    white.paste(image, mask=alpha)
    return np.asarray(white), np.asarray(alpha)


def _deep_on_white(content: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
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
    return (colours, None) if alpha is None else (colours * alpha + (1 - alpha), to_8_bits(alpha[..., 0]))


def _lanczos(image: np.ndarray, size: tuple[int, int], part: tuple[float, float, float, float]) -> np.ndarray:
    """Return a part of an image (left, top, right, bottom) at another size (h, w)."""

    def scaled(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS, part))

    if image.dtype == np.uint8:
        return scaled(image)
    return np.stack([scaled(np.ascontiguousarray(image[..., c])) for c in range(3)], axis=2).clip(0, 1)
