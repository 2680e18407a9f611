"""Masks of photos: found by name, read, fitted to their photo. Letters: h w pixels; masks are (h, w) uint8, 255 is the object."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from config.errors import InputError, missing_file
from data.images import turn_upright
from data_preprocess.capture.background import outline
from data_preprocess.capture.photo_folder import list_photos
from data_preprocess.capture.photo_names import SIZE_FOLDER, without_size_folder
from data_preprocess.capture.stored_image import SUFFIXES, read_header, read_stored, same_shape

# Share of the border that is white in the mask of a background.
_INVERTED = 0.95
# Orientations that undo those of EXIF; the others undo themselves.
_UNDONE = {6: 8, 8: 6}


def mask_folder(given: Path, photos: Path) -> Path:
    """Return the folder of a capture's masks.

    Args:
        given: by the user. A relative one is looked for in the capture, then in the working folder.
        photos: the folder that the photos' names are relative to, which may be `images` in the capture.

    Raises:
        FileNotFoundError, InputError: there is none.
    """
    above = [photos.parent / given] if SIZE_FOLDER.fullmatch(photos.name) else []
    places = [photos / given, *above, given]
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        return found
    wanted = f"a folder of masks, in {photos.parent if above else photos} or in the working folder"
    file = next((place for place in places if place.exists()), None)
    if file is not None:
        raise InputError(f"--mask, {file}", "is not a folder", wanted)
    raise missing_file(given, wanted, "--mask")


def find_masks(names: Mapping[str, Path], folder: Path, scene: str) -> dict[str, Path]:
    """Return the masks of photos by their names; photos without one are absent.

    The mask of left/a.jpg is left/a.jpg.png or left/a.png, or of another suffix, in the folder or in one of the scene's name in it.
    A first folder images may be missing; case and the spelling of accents do not matter.

    Args:
        names: the photos' files, by their names, which are relative with forward slashes.
        folder: of the masks.
        scene: its name.
    """
    photos = {path.resolve() for path in names.values()}
    masks: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for name in list_photos(folder).names:
            path = PurePosixPath(name)
            if path.suffix.lower() == suffix and (folder / name).resolve() not in photos:
                masks.setdefault(_spelled(path.with_suffix("")), folder / name)
    found = {}
    for name in names:
        short = dict.fromkeys((PurePosixPath(name), without_size_folder(PurePosixPath(name))))
        tried = [each for path in short for each in (path, path.with_suffix(""))]
        keys = [_spelled(place / path) for place in (PurePosixPath(scene), PurePosixPath()) for path in tried]
        mask = next((masks[key] for key in keys if key in masks), None)
        if mask is not None:
            found[name] = mask
    return found


def read_mask(path: Path) -> np.ndarray:
    """Read a mask: its transparency if it has any, else its largest colour, scaled so that the largest number is 255, not 1.

    Returns:
        (h, w) uint8, as stored.
    """
    pixels = read_stored(path)
    mask = pixels[..., 3] if pixels.shape[2] == 4 and pixels[..., 3].min() < 255 else pixels[..., :3].max(2)
    return np.rint(mask * (255 / max(int(mask.max()), 1))).astype(np.uint8)


def check_mask(path: Path, photo: Path) -> str | None:
    """Return what is suspicious in a mask, as a kind of photos in the plural, or None.

    Raises:
        FileNotFoundError, InputError: mask or photo cannot be read, or they have different shapes.
    """
    mask, ((h, w), orientation) = read_mask(path), read_header(photo)
    if not same_shape(mask.shape, (h, w)) and not (orientation >= 5 and same_shape(mask.shape, (w, h))):
        wanted = f"the {w}×{h} of {photo}, or the same shape at another scale"
        raise InputError(path, f"is a mask of {mask.shape[1]}×{mask.shape[0]} (w×h)", wanted)
    if not mask.any():
        return BLACK
    white = mask > 127
    if white.all():
        return WHITE
    return INVERTED if white[tuple(outline(*mask.shape))].mean() > _INVERTED else None


BLACK = "photos whose mask is black everywhere"
WHITE = "photos whose mask is white everywhere"
INVERTED = "photos whose mask is white along the border and black inside: white is the object, black the background"


def fitted(mask: np.ndarray, size: tuple[int, int], orientation: int, upright: bool) -> np.ndarray:
    """Return a mask as its photo is: of its size (h, w), and turned as it is.

    Args:
        mask: of the photo as stored or, if EXIF turns that by 90 degrees, upright.
        size: (h, w) of the photo.
        orientation: of the photo, by EXIF.
        upright: whether the photo has been turned by it.
    """
    stored = size[::-1] if upright and orientation >= 5 else size
    if same_shape(mask.shape, stored):
        mask = turn_upright(mask, orientation) if upright else mask
    elif not upright:
        mask = turn_upright(mask, _UNDONE.get(orientation, orientation))
    if mask.shape == size:
        return mask
    smaller = mask.shape[0] > size[0]
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _spelled(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
