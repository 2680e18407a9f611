"""Chosen views of a scene as tensors.

Letters: v views, h w pixels. Images are (v, 3, h, w), intrinsics (v, 4) as fx, fy, cx, cy in pixels of those images.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.image_size import check_image_size
from data.images import read_photo, rescale_intrinsics, resize_and_crop, scale_to_cover, with_margin
from data.scene_format import Scene, View, read_scene
from data.scene_list import read_data_path
from data.stored_file import file_state

# Scenes cached after their JSON was read and checked, about 1 kB per view.
KEPT_SCENES = 256


class Windows(NamedTuple):
    """The part of each image that is loaded: a window into the image at the wanted size with a margin.

    Args:
        margin: share by which that image is larger.
        corners: (v, 2) in [0, 1), how far down and to the right the window is moved, as a share of the way it has.
    """

    margin: float
    corners: np.ndarray


class SceneDataset(Dataset):
    """The scenes of a data path file, in its order: `dataset[i]` is a scene without its images; `load` reads the images.

    Args:
        data_path: a list of scenes, or a single scene's JSON: see `read_data_path`.
        image_size: (h, w) of every image.
        patch_size: h and w must be multiples of it.
        workers: decoding threads; 0 decodes in the calling thread.
        reduced: decode JPEGs at a part of their size where that suffices, see `read_photo`.

    Raises:
        FileNotFoundError, InputError: the list is unusable, or the patch does not divide the image size.
    """

    def __init__(
        self,
        data_path: str | os.PathLike,
        image_size: tuple[int, int],
        patch_size: int = 8,
        workers: int = 0,
        reduced: bool = False,
    ) -> None:
        check_image_size(image_size, patch_size)
        self.scene_paths = read_data_path(data_path)
        self.image_size = image_size
        self.patch_size = patch_size
        self.workers = workers
        self.reduced = reduced

    def __len__(self) -> int:
        return len(self.scene_paths)

    def __getitem__(self, i: int) -> Scene:
        path = self.scene_paths[i]
        return _scene(path, file_state(path, "a scene's JSON"))

    def load(self, scene: Scene, indices: Sequence[int], alpha: bool = False, windows: Windows | None = None) -> dict[str, Tensor]:
        """Load views of one of the scenes: `load_views` with the settings of this dataset."""
        return load_views(scene, indices, self.image_size, self.patch_size, self.workers, alpha, windows, self.reduced)


@functools.lru_cache(maxsize=KEPT_SCENES)
def _scene(path: Path, state: tuple[int, int]) -> Scene:
    """Read a scene, cached; the state of its file is part of the key, so that a changed file is read again."""
    return read_scene(path)


def load_views(
    scene: Scene,
    indices: Sequence[int],
    image_size: tuple[int, int],
    patch_size: int = 8,
    workers: int = 0,
    alpha: bool = False,
    windows: Windows | None = None,
    reduced: bool = False,
) -> dict[str, Tensor]:
    """Read the chosen views of a scene, composited on white, at one size by `resize_and_crop`.

    Args:
        scene: the scene.
        indices: positions in `scene.views`, in the order wanted; may be empty.
        image_size: (h, w).
        patch_size: h and w must be multiples of it.
        workers: decoding threads; 0 decodes in the calling thread.
        alpha: return the images' alpha channels too.
        windows: the part of each image to load; None for the centre of one that just covers the size.
        reduced: decode JPEGs at a part of their size where that suffices, see `read_photo`.

    Returns:
        `image` (v, 3, h, w) float32 in 0..1, `fxfycxcy` (v, 4) float32 in pixels of it, `c2w` (v, 4, 4) float32 in the
        file's world frame, and where asked for `alpha` (v, h, w) uint8, 255 for an image without transparency.

    Raises:
        FileNotFoundError: an image does not exist.
        InputError: an image is damaged or contradicts its camera, or the patch does not divide the size.
        ValueError: an index is out of range.
    """
    n = len(scene.views)
    for i in indices:
        if not 0 <= i < n:
            raise ValueError(f"{scene.json_path}: view {i} is requested; wanted 0 to {n - 1}")
    check_image_size(image_size, patch_size)

    views = [scene.views[i] for i in indices]
    image = torch.empty(len(views), 3, *image_size)
    # numpy fills the tensor's memory: torch would start its own threads inside each of these.
    slots = list(image.numpy())
    opaque = torch.full((len(views), *image_size), 255, dtype=torch.uint8) if alpha else None
    masks: Sequence[np.ndarray | None] = [None] * len(views) if opaque is None else list(opaque.numpy())
    margin, corners = (0.0, np.zeros((len(views), 2))) if windows is None else windows
    whole = with_margin(image_size, margin)
    crops = [functools.partial(_crop, size=image_size, whole=whole, corner=corner) for corner in corners]
    places = (slots, masks, views, crops, [whole if reduced else None] * len(views))
    if workers > 0:
        with ThreadPoolExecutor(workers) as pool:
            intrinsics = list(pool.map(_load_into, *places))
    else:
        intrinsics = [_load_into(*place) for place in zip(*places, strict=True)]
    c2w = np.linalg.inv(np.array([view.w2c for view in views]).reshape(-1, 4, 4)).astype(np.float32)
    loaded = {
        "image": image,
        "fxfycxcy": torch.from_numpy(np.array(intrinsics, dtype=np.float32).reshape(-1, 4)),
        "c2w": torch.from_numpy(c2w),
    }
    return loaded if opaque is None else {**loaded, "alpha": opaque}


def cameras_at(scene: Scene, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cameras of all views at one size, without opening an image.

    They are those of `load_views`, up to a pixel of rounding where an image has another size than its camera states.

    Args:
        scene: the scene, of n views.
        image_size: (h, w).

    Returns:
        fxfycxcy (n, 4) float32, in pixels, and c2w (n, 4, 4) float64, in the file's world frame.
    """
    fxfycxcy = [scale_to_cover((v.h, v.w), np.array([v.fx, v.fy, v.cx, v.cy]), image_size)[2] for v in scene.views]
    return np.array(fxfycxcy, dtype=np.float32), np.stack([view.c2w for view in scene.views])


def _load_into(
    slot: np.ndarray, mask: np.ndarray | None, view: View, crop: Callable, reduced_to: tuple[int, int] | None
) -> np.ndarray:
    """Read a view into arrays (3, h, w) and, where there is a mask to fill, (h, w); return its intrinsics at that size."""
    pixels, alpha = read_photo(view.file_path, reduced_to)
    intrinsics = np.array([view.fx, view.fy, view.cx, view.cy])
    intrinsics = rescale_intrinsics(intrinsics, (view.h, view.w), pixels.shape[:2], view.file_path)
    if mask is not None and alpha is not None:
        mask[...] = crop(alpha, intrinsics)[0]
    pixels, intrinsics = crop(pixels, intrinsics)
    pixels = pixels.transpose(2, 0, 1)
    if pixels.dtype == np.uint8:
        np.divide(pixels, 255, out=slot, dtype=np.float32)
    else:
        slot[...] = pixels
    return intrinsics


def _crop(
    pixels: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], whole: tuple[int, int], corner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bring an image (h, w, …) to the size `whole`, and return what a window of it shows, and its intrinsics; see `Windows`."""
    h, w = size
    pixels, intrinsics = resize_and_crop(pixels, intrinsics, whole)
    top, left = int(corner[0] * (whole[0] - h + 1)), int(corner[1] * (whole[1] - w + 1))
    return pixels[top : top + h, left : left + w], intrinsics - (0, 0, left, top)
