"""Images of scenes in the form in which they are packed, and their cameras.

Letters: h w pixels.
"""

import io
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.images import open_image, read_orientation, read_photo, rescale_intrinsics, resize_and_crop, to_8_bits, with_margin
from data.scene_format import Scene, View, read_scene
from data.stored_file import file_size, read_file
from data_preprocess.packing.settings import FORMATS, Packing


class Packed(NamedTuple):
    """A scene as it goes into a pack, and the files it was read from: how many, and their bytes."""

    scene: Scene
    views: list[View]
    contents: list[bytes]
    files: int
    bytes: int


def pack_scene(packing: Packing, json_path: Path) -> Packed:
    """Read a scene and bring its images to the form in which they are packed; their paths are set by `place`.

    Raises:
        FileNotFoundError, InputError: the scene, or one of its images, cannot be read.
    """
    scene = read_scene(json_path)
    views, contents = [], []
    sizes = {json_path: file_size(json_path)}
    for i, view in enumerate(scene.views):
        content = read_file(view.file_path, "an image")
        sizes[view.file_path] = len(content)
        converted, content = _copied(view, content) if packing.format is None else _recoded(packing, view)
        suffix = view.file_path.suffix if packing.format is None else f".{packing.format}"
        views.append(replace(converted, file_path=Path("images", f"{i:05d}{suffix.lower()}")))
        contents.append(content)
    return Packed(scene, views, contents, len(sizes), sum(sizes.values()))


def _copied(view: View, content: bytes) -> tuple[View, bytes]:
    """Return a view and its image as they are, once it is certain that they fit each other."""
    with open_image(view.file_path) as image:
        size = image.size if read_orientation(image) >= 5 else image.size[::-1]
    rescale_intrinsics(np.zeros(4), (view.h, view.w), size, view.file_path)
    return view, content


def _recoded(packing: Packing, view: View) -> tuple[View, bytes]:
    """Return a view at the size of the pack, and its image, encoded."""
    pixels = read_photo(view.file_path)[0]
    intrinsics = np.array([view.fx, view.fy, view.cx, view.cy])
    intrinsics = rescale_intrinsics(intrinsics, (view.h, view.w), pixels.shape[:2], view.file_path)
    if packing.image_size is not None:
        pixels, intrinsics = resize_and_crop(pixels, intrinsics, with_margin(packing.image_size, packing.margin))
    h, w = pixels.shape[:2]
    return replace(view, w=w, h=h, **dict(zip(("fx", "fy", "cx", "cy"), intrinsics.tolist(), strict=True))), encode(packing, pixels)


def encode(packing: Packing, pixels: np.ndarray) -> bytes:
    """Return an image (h, w, 3), uint8 or float32 in 0..1, in the format of a pack."""
    buffer = io.BytesIO()
    options = {
        "webp": {"quality": packing.quality, "method": 4},
        "jpeg": {"quality": packing.quality, "subsampling": 0, "optimize": True},  # no colours at half size
        "png": {},
    }[packing.format]
    Image.fromarray(np.ascontiguousarray(to_8_bits(pixels))).save(buffer, FORMATS[packing.format], **options)
    return buffer.getvalue()
