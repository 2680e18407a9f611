"""Photos that look different from the others of their scene: brighter or darker, of another white balance, or blurred.

Brightness and colours are compared with those of the nearest views by their cameras, at the same places of the image where both
photos show something that is neither clipped nor white background. The median over places is the jump: contents that move cancel.
Neighbours that show something else are not compared; all of the others, or all but one of five or more, must agree, so that light
that changes along a walk is no jump. Sharpness is the change of fine detail over that of coarse detail, in the direction of the
greatest loss; it depends neither on contrast nor on the amount of detail.

The most of any view, in natural logarithms, of a walk around a fox (50 views), a figure on white (64), the scenes of `data_example`
(4), and procedural rooms and objects of 64×64 (190); and the least of eight views of the walk, changed one at a time:

                                                          good    limit    changed
    brightness: half, twice the light                     0.21    0.30     0.57, 0.28 (clipped)
    white balance: red 1.4 times as strong; warmer        0.11    0.18     0.31; 0.22
    sharpness: blurred by 1 pixel of 480; motion of 9     0.74    1.00     1.78; 1.51

Letters: v views, k neighbours, n places.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.scene_format import Scene
from data_preprocess.check.findings import Finding, drop, where
from data_preprocess.check.neighbours import nearest_views
from data_preprocess.check.photos import Photo

# Neighbours that are compared, the least that must show the same things, and the least of which one may contradict the others.
_NEIGHBOURS, _LEAST_NEIGHBOURS, _ONE_MAY_DIFFER = 6, 3, 5
# Limits of the table above; a jump is also this many times the median of its scene.
_BRIGHTNESS, _WHITE_BALANCE, _BLUR, _TIMES = 0.3, 0.18, 1.0, 5.0
# Places that two photos must have in common, of 256, and their least correlation: if less, they show different things.
_LEAST_PLACES, _LEAST_CORRELATION = 96, 0.5


@dataclass(frozen=True)
class Look:
    """Words for a difference.

    Args:
        kind, mark: as in `Finding`.
        found: what follows the factor.
        wanted: with `wanted`.
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
    if len(numbers) <= _LEAST_NEIGHBOURS:
        return []
    nearest = nearest_views([scene.views[i] for i in numbers], _NEIGHBOURS)
    kept = [photos[i] for i in numbers]
    return [*_jumps(scene, numbers, nearest, kept), *_blurred(scene, numbers, nearest, kept)]


def tone_jumps(nearest: np.ndarray, tones: np.ndarray) -> np.ndarray:
    """Return how far each photo's tones are above those of its neighbours.

    Args:
        nearest: (v, k) numbers.
        tones: (v, n, 3) logarithms, NaN where there is nothing to compare.

    Returns:
        (v, 3): brightness, red over green, blue over green, in logarithms; NaN for photos without neighbours that show the same.
    """
    jumps = np.full((len(tones), 3), np.nan)
    for i, others in enumerate(nearest):
        found = [jump for j in others if (jump := _jump(tones[i], tones[j])) is not None]
        if len(found) >= _LEAST_NEIGHBOURS:
            sign = np.sign(np.median(found, axis=0))
            least = np.sort(found * sign, axis=0)[1 if len(found) >= _ONE_MAY_DIFFER else 0]
            jumps[i] = sign * least.clip(min=0)
    return jumps


def _jump(tones: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    both = np.isfinite(tones).all(1) & np.isfinite(other).all(1)
    if both.sum() < _LEAST_PLACES:
        return None
    first, second = (x[both].mean(1) - x[both].mean() for x in (tones, other))
    if first @ second <= _LEAST_CORRELATION * np.sqrt((first @ first) * (second @ second)):
        return None
    apart = (tones - other)[both]
    return np.median(np.stack([apart.mean(1), apart[:, 0] - apart[:, 1], apart[:, 2] - apart[:, 1]]), axis=1)


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
    jumps = tone_jumps(nearest, np.stack([photo.tones for photo in photos]))
    brightness, colours = jumps[:, 0], np.abs(jumps[:, 1:]).max(1)
    one = "wanted one {}, as its change looks like a change of the scene: lock it in the camera, or leave the views out"
    exposure, balance = one.format("exposure"), one.format("white balance")
    light = "times the light of the nearest views at the same places"
    red = "times the red or blue, relative to green, of the nearest views (or as much less)"
    return [
        *_finding(scene, numbers, brightness, _BRIGHTNESS, Look("exposure jump", "brighter", light, exposure)),
        *_finding(scene, numbers, -brightness, _BRIGHTNESS, Look("exposure jump", "darker", light, exposure, inverse=True)),
        *_finding(scene, numbers, colours, _WHITE_BALANCE, Look("white balance jump", "white balance", red, balance)),
    ]


def _blurred(scene: Scene, numbers: np.ndarray, nearest: np.ndarray, photos: list[Photo]) -> list[Finding]:
    wanted = "wanted sharp photos, as blurred ones teach blur and score it as right: leave them out"
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
    line = f"{where(scene.json_path, views)}: {found}; {look.wanted}, {drop(scene.json_path, views)}"
    return [Finding(look.kind, line, tuple(views), look.mark)]
