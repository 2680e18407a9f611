"""Photos that look different from the others of their scene: brighter or darker, of another white balance, or blurred.

Brightness and colours are compared with those of the nearest views by their cameras (`tones.py`). The neighbours that show the
same must agree, so that light that changes along a walk is no jump. Sharpness is the change of fine detail over that of coarse
detail, in the direction of the greatest loss; it depends neither on contrast nor on the amount of detail.

The most of any view, in natural logarithms, of a walk around a fox (50 views), a figure on white (64), the scenes of `data_example`
(4), and procedural rooms and objects of 64×64 (147 to 190); and the least of eight to ten views of the walk, changed one at a time:

                                                          good    limit    changed
    brightness: half, 1.6 times, twice the light          0.20    0.30     0.63, 0.30, 0.42 (clipped)
    white balance: red 1.4 times as strong; warmer        0.08    0.18     0.31; 0.25
    sharpness: blurred by 1 pixel of 480; motion of 9     0.74    1.00     1.78; 1.51

Letters: v views, k neighbours.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.problems.problem import mended_without
from data.scene_format import Scene
from data_preprocess.check.findings import Finding, finding_of
from data_preprocess.check.neighbours import nearest_views
from data_preprocess.check.photos import Photo
from data_preprocess.check.tones import tone_jumps, tones

_NEIGHBOURS, _LEAST_PHOTOS = 6, 4
# Limits of the table above; a jump is also this many times the median of its scene.
_BRIGHTNESS, _WHITE_BALANCE, _BLUR, _TIMES = 0.3, 0.18, 1.0, 5.0


@dataclass(frozen=True)
class Look:
    """Words for a difference.

    Args:
        kind, mark: as in `Finding`.
        found: what follows the factor.
        wanted: what would be right.
        inverse: whether the factor is below 1.
    """

    kind: str
    mark: str
    found: str
    wanted: str
    inverse: bool = False


def look_findings(scene: Scene, photos: Mapping[int, Photo]) -> list[Finding]:
    """Find photos whose exposure, white balance or sharpness differs from that of their neighbours.

    Args:
        scene: with its views.
        photos: by the number of their view; views without a readable photo are absent.
    """
    numbers = np.array(sorted(photos))
    if len(numbers) < _LEAST_PHOTOS:
        return []
    nearest = nearest_views([scene.views[i] for i in numbers], _NEIGHBOURS)
    kept = [photos[i] for i in numbers]
    return [*_jumps(scene, numbers, nearest, kept), *_blurred(scene, numbers, nearest, kept)]


def blurs(nearest: np.ndarray, sharpness: np.ndarray) -> np.ndarray:
    """Return how far the sharpness (v, 4) of each photo is below that of its neighbours and of the scene, whichever is less.

    Returns:
        (v), the largest difference of all directions; NaN for smooth photos.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a median of smooth photos alone is NaN
        less = np.minimum(np.nanmedian(sharpness[nearest], axis=1), np.nanmedian(sharpness, axis=0)) - sharpness
        return np.nanmax(less, axis=1)


def _jumps(scene: Scene, numbers: np.ndarray, nearest: np.ndarray, photos: list[Photo]) -> list[Finding]:
    jumps = tone_jumps(nearest, tones([photo.reduced.colours for photo in photos]))
    brightness, colours = jumps[:, 0], np.abs(jumps[:, 1:]).max(1)
    # The channel that changed most, for the words.
    most = np.unravel_index(np.nan_to_num(np.abs(jumps[:, 1:])).argmax(), colours.shape + (2,))
    channel, less = ("red", "blue")[most[1]], bool(jumps[:, 1:][most] < 0)
    one = "one {}, as its change looks like a change of the scene; lock it in the camera, or leave the views out"
    exposure, balance = one.format("exposure"), one.format("white balance")
    light = "times the light of the nearest views at the same places"
    tint = f"times the {channel}, relative to green, of the nearest views"
    return [
        *_finding(scene, numbers, brightness, _BRIGHTNESS, Look("exposure jump", "brighter", light, exposure)),
        *_finding(scene, numbers, -brightness, _BRIGHTNESS, Look("exposure jump", "darker", light, exposure, inverse=True)),
        *_finding(scene, numbers, colours, _WHITE_BALANCE, Look("white balance jump", "white balance", tint, balance, less)),
    ]


def _blurred(scene: Scene, numbers: np.ndarray, nearest: np.ndarray, photos: list[Photo]) -> list[Finding]:
    wanted = "sharp photos, as blurred ones teach blur and score it as right; leave them out"
    found = "times the fine detail of the other photos"
    lost = blurs(nearest, np.stack([photo.sharpness for photo in photos]))
    return _finding(scene, numbers, lost, _BLUR, Look("blurred photo", "blurred", found, wanted, inverse=True))


def _finding(scene: Scene, numbers: np.ndarray, sizes: np.ndarray, limit: float, look: Look) -> list[Finding]:
    """Return the finding of the photos whose sizes (v), in logarithms, are above a limit and stand out of their scene."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        usual = np.nanmedian(np.abs(sizes))
    far = np.nan_to_num(sizes) > max(limit, _TIMES * np.nan_to_num(usual))
    if not far.any():
        return []
    views = numbers[far].tolist()
    size = float(np.exp(-sizes[far].max() if look.inverse else sizes[far].max()))
    found = f"has {'' if len(views) == 1 else 'down to ' if look.inverse else 'up to '}{size:.2g} {look.found}"
    return [finding_of(look.kind, scene.json_path, mended_without(views, found, look.wanted), look.mark)]
