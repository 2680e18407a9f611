"""Objects cut out of their photos, as networks of objects are trained on them: by masks, or from a background of one colour.

Letters: h w pixels.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from config.errors import InputError
from config.flags import flag
from config.messages import counted, some
from data.images import read_photo
from data.problems.scene import kind_of
from data.scene_format import Scene
from data_preprocess.capture.background import cut_from_background, shows_background, what_is_wrong
from data_preprocess.capture.masks import WHITE, check_mask, find_masks, fitted, mask_folder, read_mask
from data_preprocess.capture.stored_image import read_header, read_stored
from data_preprocess.command import say, say_left_out

# Longer side at which backgrounds are measured, and photos of a scene that are looked at for `background_note`.
_MEASURED, _LOOKED_AT = 512, 8


@dataclass(frozen=True)
class CutOutSettings:
    """Flags of the converters that cut objects out."""

    mask: Path | None = flag(
        None,
        "folder of masks, in the capture or the working folder: NAME.png or NAME.jpg.png for NAME.jpg, white is the object; photos "
        "become transparent around it",
        group="objects on white",
        metavar="DIR",
    )
    white_background: bool = flag(
        False,
        "make a background of one colour, as white paper or a green screen, transparent as far as it is connected to the border",
    )


@dataclass(frozen=True)
class Cut:
    """How a photo is cut out: by its mask or, if that is None, from its background; `orientation` of the photo, by EXIF."""

    mask: Path | None
    orientation: int


class CutOut:
    """Cutting out of the objects in all scenes of a run.

    Raises:
        InputError: both ways are chosen.
    """

    def __init__(self, chosen: CutOutSettings) -> None:
        if chosen.mask is not None and chosen.white_background:
            raise InputError("--mask, --white_background", "are both given", "one of them")
        self._chosen = chosen
        self._photo_of: dict[Path, Path] = {}

    def plan(self, scene: str, photos: Sequence[tuple[Path, str]], pool: Executor) -> dict[int, Cut | None]:
        """Return how photos are cut out, by number; None where they stay as they are. Prints those that are left out.

        Args:
            scene: its name.
            photos: their files, and their names relative to their folder, which is that of the capture or `images` in it.
            pool: threads.

        Raises:
            FileNotFoundError, InputError: there is no such folder of masks, a mask has another shape than its photo or belongs to
                two, or all photos would be left out.
        """
        if self._chosen.mask is not None:
            return self._by_masks(self._chosen.mask, scene, photos, pool)
        if self._chosen.white_background:
            return _by_background(scene, photos, pool)
        return dict.fromkeys(range(len(photos)))

    def _by_masks(self, given: Path, scene: str, photos: Sequence[tuple[Path, str]], pool: Executor) -> dict[int, Cut | None]:
        folder = mask_folder(given, _root(*photos[0]))
        masks = find_masks({name: source for source, name in photos}, folder, scene)
        for source, name in photos:
            first = self._photo_of.setdefault(masks[name].resolve(), source) if name in masks else source
            if first != source:
                several = f"one for each: NAME.jpg.png and NAME.png.png, and {folder}/SCENE for each of several captures"
                raise InputError(masks[name], f"is the mask of {first} and of {source}", several)
        there = [i for i, (_, name) in enumerate(photos) if name in masks]
        suspicions = pool.map(lambda i: check_mask(masks[photos[i][1]], photos[i][0]), there)
        found = dict(zip(there, suspicions, strict=True))
        kinds: dict[str | None, list[str]] = defaultdict(list)
        for i, (_, name) in enumerate(photos):
            kinds[found.get(i, "photos without a mask")].append(name)
        kinds.pop(None, None)
        white = kinds.pop(WHITE, [])
        if white:
            say(f"{scene}: {WHITE}, so that nothing is cut out ({len(white)} of {len(photos)}): {some(white)}")
        wanted = "NAME.png or NAME.jpg.png for the photo NAME.jpg, white for the object and black around it"
        _leave_out(scene, kinds, len(photos), folder, wanted)
        kept = [i for i in there if found[i] in (None, WHITE)]
        return {i: Cut(masks[photos[i][1]], read_header(photos[i][0])[1]) for i in kept}


def _by_background(scene: str, photos: Sequence[tuple[Path, str]], pool: Executor) -> dict[int, Cut | None]:
    found = list(pool.map(lambda photo: _measure(photo[0]), photos))
    wrong = [f"{name} ({what})" for (_, name), what in zip(photos, found, strict=True) if what]
    wanted = "white paper, a green screen or the like behind the object, or --mask"
    _leave_out(scene, {"photos without a background of one colour": wrong}, len(photos), "--white_background", wanted)
    return {i: None if what is None else Cut(None, 1) for i, what in enumerate(found) if not what}


def _measure(source: Path) -> str | None:
    """Return what is wrong with a photo's background, an empty string if nothing is, or None if it is transparent."""
    pixels = read_stored(source)
    if pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
        return None
    h, w = pixels.shape[:2]
    scale = min(1.0, _MEASURED / max(h, w))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    return what_is_wrong(cv2.resize(pixels[..., :3], size, interpolation=cv2.INTER_AREA)) or ""


def _leave_out(scene: str, left_out: Mapping[str | None, list[str]], of: int, where: str | os.PathLike, wanted: str) -> None:
    """Print the photos that are left out, by kind.

    Raises:
        InputError: they are all of them.
    """
    kinds = {str(kind): names for kind, names in left_out.items() if names}
    if sum(map(len, kinds.values())) == of:
        found = "; ".join(f"{kind} ({len(names)} of {of}): {some(names, 2)}" for kind, names in kinds.items())
        raise InputError(where, f"leaves no photo of {scene}: {found}", wanted)
    for kind, names in kinds.items():
        say_left_out(scene, kind, names, of=of)


def _root(source: Path, name: str) -> Path:
    """Return the folder that a photo's name is relative to."""
    parts = PurePosixPath(name).parts
    return source.parents[len(parts) - 1] if source.parts[-len(parts) :] == parts else source.parent


def apply_cut(pixels: np.ndarray, cut: Cut, upright: bool) -> np.ndarray:
    """Return a photo, (h, w, 3) or (h, w, 4), with the transparency of a cut, (h, w, 4).

    The transparency that it has is multiplied by that of a mask.

    Args:
        pixels: as stored, or turned by EXIF if `upright`.
        cut: how.
        upright: see `pixels`.
    """
    if cut.mask is None:
        return cut_from_background(pixels[..., :3])
    alpha = fitted(read_mask(cut.mask), pixels.shape[:2], cut.orientation, upright)
    if pixels.shape[2] == 4:
        alpha = np.rint(alpha * (pixels[..., 3] / 255)).astype(np.uint8)
    return np.concatenate([pixels[..., :3], alpha[..., None]], axis=2)


def background_note(scene: Scene) -> str | None:
    """Return a line for the user if the photos of an object are not cut out; a few photos are looked at."""
    if kind_of(scene) != "object":
        return None
    views = [scene.views[i] for i in np.unique(np.linspace(0, len(scene.views) - 1, _LOOKED_AT).round().astype(int))]
    shown = sum(shows_background(*read_photo(view.file_path)) for view in views)
    if 2 * shown <= len(views):
        return None
    return (
        f"{scene.name}: {shown} of {counted(len(views), 'photo')} looked at have a background, and networks of objects are trained "
        "on objects on white: --mask DIR or --white_background cuts them out; networks of scenes need neither"
    )
