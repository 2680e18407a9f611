"""Images of scenes in the form in which they are packed, and their cameras.

Letters: h w pixels.
"""

import io
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from config.errors import InputError
from data.frame_path import file_behind, refuse_frame
from data.images import open_image, read_orientation, read_photo, rescale_intrinsics, resize_and_crop, to_8_bits, with_margin
from data.scene_format import Scene, View, read_scene
from data.stored_file import file_size, read_file
from data_preprocess.packing.settings import Packing


class Packed(NamedTuple):
    """A scene as it goes into a pack, and the files it was read from: how many, and their bytes."""

    scene: Scene
    views: list[View]
    contents: list[bytes]
    files: int
    bytes: int


def pack_scene(packing: Packing, json_path: Path) -> Packed:
    """Read a scene and bring its images to the form in which they are packed; their paths are relative to its folder there.

    Raises:
        FileNotFoundError, InputError: the scene, or one of its images, cannot be read, or the format cannot hold an image.
    """
    scene = read_scene(json_path)
    views, contents = [], []
    sizes = {json_path: file_size(json_path)}
    for i, view in enumerate(scene.views):
        converted, content = _copied(view) if packing.format is None else _recoded(packing, view)
        sizes[file_behind(view.file_path)] = file_size(view.file_path)
        suffix = view.file_path.suffix if packing.format is None else f".{packing.format}"
        views.append(replace(converted, file_path=Path("images", f"{i:05d}{suffix.lower()}")))
        contents.append(content)
    return Packed(scene, views, contents, len(sizes), sum(sizes.values()))


def _copied(view: View) -> tuple[View, bytes]:
    """Return a view and its image as they are, once it is certain that they fit each other."""
    refuse_frame(view.file_path, "--format webp, jpeg or png, in which it is packed")
    with open_image(view.file_path) as image:
        size = image.size if read_orientation(image) >= 5 else image.size[::-1]
    rescale_intrinsics(np.zeros(4), (view.h, view.w), size, view.file_path)
    return view, read_file(view.file_path, "an image")


def _recoded(packing: Packing, view: View) -> tuple[View, bytes]:
    """Return a view at the size of the pack, and its image, encoded."""
    pixels = read_photo(view.file_path)[0]
    intrinsics = np.array([view.fx, view.fy, view.cx, view.cy])
    intrinsics = rescale_intrinsics(intrinsics, (view.h, view.w), pixels.shape[:2], view.file_path)
    if packing.image_size is not None:
        pixels, intrinsics = resize_and_crop(pixels, intrinsics, with_margin(packing.image_size, packing.margin))
    h, w = pixels.shape[:2]
    return replace(view, w=w, h=h, **dict(zip(("fx", "fy", "cx", "cy"), intrinsics.tolist(), strict=True))), encode(
        packing, pixels, view.file_path
    )


def encode(packing: Packing, pixels: np.ndarray, where: Path) -> bytes:
    """Return an image (h, w, 3), uint8 or float32 in 0..1, in the format of a pack; `where` names it in the message.

    Raises:
        InputError: the format cannot hold it.
    """
    pixels = np.ascontiguousarray(to_8_bits(pixels))
    try:
        return _jpeg(pixels, packing.quality) if packing.format == "jpeg" else _by_pillow(packing, pixels)
    except MemoryError:
        raise
    except Exception as error:  # encoders may raise anything
        raise InputError(where, f"cannot be written as {packing.format} ({error})", "another --format or --image_size") from error


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return a JPEG. Pillow's optimised ones fail where a photo of fine texture takes more bytes than it has foreseen."""
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_OPTIMIZE: 1,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,  # no colours at half size
    }
    encoded, content = cv2.imencode(".jpg", pixels[..., ::-1], list(chain.from_iterable(options.items())))
    if not encoded:
        raise ValueError("OpenCV cannot encode it")
    return content.tobytes()


def _by_pillow(packing: Packing, pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": packing.quality, "method": 4} if packing.format == "webp" else {}
    Image.fromarray(pixels).save(buffer, packing.format, **options)
    return buffer.getvalue()
