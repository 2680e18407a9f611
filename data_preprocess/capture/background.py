"""Background of one colour, found along the border of a photo and cut away with soft edges.

A background is white paper, a green screen or a grey sweep, whose light may fall off smoothly. What has its colour and is connected
to the border goes; what has it inside an object stays, since nothing tells a white label from a hole through which white paper is
seen. Shadows that differ from the background by more than its noise stay, too.

Letters: h w pixels, n pixels. Photos are (h, w, 3) uint8. The distance of two colours is the largest of their three differences, in
levels of 255.
"""

from typing import NamedTuple

import cv2
import numpy as np

# Width of the border, as a share of the shorter side, and its pixels that are looked at.
_BORDER, _MOST_PIXELS = 0.015, 20_000
# Distance within which a pixel has the colour of the background, the share of the border that must, and how much the light may
# differ between two places of the border.
_SAME, _LEAST_SHARE, _MOST_FALL = 20.0, 0.6, 80.0
# Rounds of the fit, by the distance of the pixels that count.
_ROUNDS = (60.0, 40.0, _SAME, _SAME)
# Pull of slopes and bends towards zero, for where an object hides a part of the border.
_PULL = 1e-3
# Distance at which an object begins, in standard deviations of the background's noise, and its range.
_DEVIATIONS, _NEAREST, _FARTHEST = 4.0, 8.0, 24.0
# Least level of white, and least share of the border that has it in photos of objects on white: close-ups reach the border, too.
_WHITE, _LEAST_WHITE = 250, 0.25
# Photos of which less remains show no object; smaller specks, as shares of the photo and of the largest part, are no part of it.
_LEAST_OBJECT, _SPECK, _SPECK_OF_LARGEST = 1e-3, 2e-4, 0.01
# Half of the width of a soft edge: a pixel for each of the first, of the shorter side, up to the second.
_SIDE_OF_EDGE, _WIDEST_EDGE = 400, 4
# Width of an object's rim, in those halves, and the least colourfulness of what is taken out of it.
_RIM, _TINTED = 3, 20.0
# Share of the distance between object and background up to which a rim is halo.
_HALO = 0.2
# Rows that are worked on at once.
_ROWS = 512
# Distance between object and background, in that at which objects begin, below which edges are hard.
_CLEAR = 2.0


class Background(NamedTuple):
    """Colour of a background: a polynomial of the second degree in the place.

    Attributes:
        weights: (6, 3).
        share: of the border that has it.
        fall: largest difference between two places of the border.
        noise: standard deviation.
    """

    weights: np.ndarray
    share: float
    fall: float
    noise: float

    @property
    def begin(self) -> float:
        """Distance at which an object begins."""
        return float(np.clip(_DEVIATIONS * self.noise, _NEAREST, _FARTHEST))


def fit_background(pixels: np.ndarray) -> Background:
    """Fit a background to the border of a photo; what is not like most of the border does not count."""
    places = _border(*pixels.shape[:2])
    colours, terms = pixels[tuple(places)].astype(np.float64), _terms(places, pixels.shape[:2])
    weights = np.zeros((6, 3))
    weights[0] = np.median(colours, axis=0)
    pull = np.diag([0.0, *[_PULL] * 5])
    for most in _ROUNDS:
        near = _distance(colours, terms @ weights) <= most
        if near.any():
            a, b = terms[near], colours[near]
            weights = np.linalg.solve(a.T @ a / len(a) + pull + 1e-9 * np.eye(6), a.T @ b / len(a))
    distance = _distance(colours, terms @ weights)
    same = distance <= _SAME
    noise = 1.4826 * np.median(distance[same]) if same.any() else 0.0
    return Background(weights, float(same.mean()), float(np.ptp(terms @ weights, axis=0).max()), float(noise))


def what_is_wrong(pixels: np.ndarray) -> str | None:
    """Return why a photo has no background of one colour, or no object on it, with what was measured; None if it has both."""
    background = fit_background(pixels)
    if background.share < _LEAST_SHARE:
        return f"{100 * background.share:.0f} % of the border has one colour, to {_SAME:.0f} of 255 levels"
    if background.fall > _MOST_FALL:
        return f"the border's colour changes by {background.fall:.0f} of 255 levels"
    share = _object(_distance_image(pixels, background), background.begin).mean()
    return None if share > _LEAST_OBJECT else f"all but {100 * share:.2g} % has the colour of the border"


def shows_background(pixels: np.ndarray, alpha: np.ndarray | None) -> bool:
    """Return whether a photo shows more than an object on white: it has no transparency, and its border is hardly white.

    Args:
        pixels: (h, w, 3) uint8, or float32 in 0 to 1, on white.
        alpha: (h, w) uint8, None for a photo without transparency.
    """
    if alpha is not None and alpha.min() < 128:
        return False
    white = pixels[tuple(outline(*pixels.shape[:2]))].min(1) >= (_WHITE if pixels.dtype == np.uint8 else _WHITE / 255)
    return bool(white.mean() < _LEAST_WHITE)


def cut_from_background(pixels: np.ndarray) -> np.ndarray:
    """Return a photo with transparency, (h, w, 4): the background is transparent, and edges are half so, without its colour.

    An edge pixel is a mixture of the background and of the object beside it: its alpha is where its colour is between the two, and
    its colour what remains when the background's share is taken away. JPEG spreads colours by some pixels more than brightness;
    there, the background's colour, but not its brightness, is taken out of the object's rim.

    Args:
        pixels: (h, w, 3), a photo for which `what_is_wrong` returns None.
    """
    background = fit_background(pixels)
    distance = _distance_image(pixels, background)
    mask = _object(distance, background.begin)
    reach = int(np.clip(round(min(mask.shape) / _SIDE_OF_EDGE), 1, _WIDEST_EDGE))
    result = np.dstack([pixels, np.where(mask, 255, 0).astype(np.uint8)])
    # A strip of rows at a time, to spare memory; its edges depend on no row farther than the margin.
    margin = 20 * reach
    for top in range(0, len(mask), _ROWS):
        rows = slice(max(0, top - margin), top + _ROWS + margin)
        if mask[rows].any() and not mask[rows].all():
            behind = _colour_image(background, mask.shape, (rows, slice(None)))
            trimmed = _without_halo(pixels[rows], behind, distance[rows], mask[rows], reach, background.begin)
            soft = _soft(pixels[rows].astype(np.float32), behind, distance[rows], trimmed, reach, background.begin)
            result[top : top + _ROWS] = soft[top - rows.start :][:_ROWS]
    result[result[..., 3] == 0] = 0
    return result


def _without_halo(
    pixels: np.ndarray, behind: np.ndarray, distance: np.ndarray, mask: np.ndarray, reach: int, begin: float
) -> np.ndarray:
    """Return a mask (h, w) without the rim of an object where that is much nearer to the background's colour than its inside."""
    inside = _eroded(mask, _RIM * reach)
    beside, known = _spread(pixels, inside, _RIM * reach)
    far = _distance(beside, behind)
    return mask & (inside | ~known | (far <= _CLEAR * begin) | (distance > _HALO * far))


def _soft(pixels: np.ndarray, behind: np.ndarray, distance: np.ndarray, mask: np.ndarray, reach: int, begin: float) -> np.ndarray:
    """Return a part of a photo with transparency; `behind` (h, w, 3) is its background, and edges are `reach` wide on each side."""
    edge = _dilated(mask, reach) & ~_eroded(mask, reach)
    beside, known = _spread(pixels, _eroded(mask, 2 * reach), 2 * reach)
    towards, mixed = beside - behind, pixels - behind
    size = _dot(towards, towards)
    # Where nothing beside is whole, as in a thin stick, the farthest colour nearby is that of the object.
    farthest = cv2.dilate(distance, _disc(reach))
    alpha = np.where(known, _dot(mixed, towards) / np.maximum(size, 1), distance / np.maximum(farthest, 1)).clip(0, 1)
    clear = np.where(known, np.sqrt(size / 3), farthest) > _CLEAR * begin
    alpha = np.where(edge & clear, alpha, mask).astype(np.float32)
    colours = behind + mixed / np.maximum(alpha, 1 / 255)[..., None]
    tint = behind - beside
    tint -= _dot(tint, np.full(3, 1 / 3, np.float32))[..., None]
    strength = _dot(tint, tint)
    spill = (_dot(colours - beside, tint) / np.maximum(strength, 1)).clip(0, 1)
    rim = known & ~_eroded(mask, _RIM * reach) & (strength > _TINTED**2)
    colours -= np.where(rim, spill, 0)[..., None] * tint
    return np.rint(np.concatenate([colours.clip(0, 255), 255 * alpha[..., None]], axis=2)).astype(np.uint8)


def _spread(pixels: np.ndarray, inside: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours (h, w, 3) of the pixels inside a mask, spread around it, and where they reach (h, w)."""
    h, w = inside.shape
    weighted = np.dstack([pixels * inside[..., None].astype(np.float32), inside.astype(np.float32)])
    step = min(max(1, reach // 3), h, w)
    small = cv2.resize(weighted, (w // step, h // step), interpolation=cv2.INTER_AREA) if step > 1 else weighted
    small = cv2.GaussianBlur(small, (0, 0), reach / step)
    spread = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR) if step > 1 else small
    weight = spread[..., 3]
    return spread[..., :3] / np.maximum(weight, 1e-6)[..., None], weight > 1e-3


def _disc(reach: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))


def _eroded(mask: np.ndarray, reach: int) -> np.ndarray:
    return cv2.erode(mask.astype(np.uint8), _disc(reach), borderType=cv2.BORDER_REPLICATE).astype(bool)


def _dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), _disc(reach)).astype(bool)


def _object(distance: np.ndarray, begin: float) -> np.ndarray:
    """Return which pixels (h, w) are no background: those that are far from its colour, or not connected to the border."""
    h, w = distance.shape
    _, labels, _, _ = cv2.connectedComponentsWithStats((distance <= begin).astype(np.uint8), connectivity=4)
    outer = np.unique(labels[tuple(outline(h, w))])
    behind = np.zeros(labels.max() + 1, bool)
    behind[outer] = True
    behind[0] = False
    mask = ~behind[labels]
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA].astype(float)
    sizes[0] = 0
    kept = sizes > min(max(_SPECK * h * w, 4), _SPECK_OF_LARGEST * sizes.max())
    return kept[parts]


def _border(h: int, w: int) -> np.ndarray:
    """Return the rows and columns (2, n) of an even choice of pixels along the border."""
    wide = max(1, round(_BORDER * min(h, w)))
    rings = [outline(h - 2 * i, w - 2 * i) + i for i in range(wide) if min(h, w) > 2 * i]
    places = np.concatenate(rings, axis=1)
    return places[:, np.linspace(0, places.shape[1] - 1, min(places.shape[1], _MOST_PIXELS)).round().astype(int)]


def outline(h: int, w: int) -> np.ndarray:
    """Return the rows and columns (2, n) of the outermost pixels; those in corners may be there twice."""
    y, x = np.arange(h), np.arange(w)
    rows = np.concatenate([np.zeros(w, int), np.full(w, h - 1), y, y])
    columns = np.concatenate([x, x, np.zeros(h, int), np.full(h, w - 1)])
    return np.stack([rows, columns])


def _terms(places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the terms (n, 6) of the polynomial at rows and columns (2, n)."""
    v, u = (2 * (places[axis] + 0.5) / size[axis] - 1 for axis in range(2))
    return np.stack([np.ones(len(u)), u, v, u * u, u * v, v * v], axis=1)


def _distance(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances (…) of colours (…, 3). NumPy's reductions are slow along axes as short as that."""
    r, g, b = np.moveaxis(np.abs(colours - others), -1, 0)
    return np.maximum(np.maximum(r, g), b)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("...c,...c->...", first, second)


def _colour_image(background: Background, size: tuple[int, int], part: tuple[slice, slice]) -> np.ndarray:
    """Return the background (h, w, 3) float32 of a part of a photo."""
    h, w = size
    v = (2 * (np.arange(h, dtype=np.float32)[part[0]] + 0.5) / h - 1)[:, None, None]
    u = (2 * (np.arange(w, dtype=np.float32)[part[1]] + 0.5) / w - 1)[None, :, None]
    constant, x, y, xx, xy, yy = background.weights.astype(np.float32)
    return constant + u * (x + u * xx + v * xy) + v * (y + v * yy)


def _distance_image(pixels: np.ndarray, background: Background) -> np.ndarray:
    """Return the distance (h, w) float32 of each pixel from the background, a strip of rows at a time to spare memory."""
    h, w = pixels.shape[:2]
    strips = [(slice(top, top + _ROWS), slice(None)) for top in range(0, h, _ROWS)]
    return np.concatenate([_distance(pixels[strip], _colour_image(background, (h, w), strip)) for strip in strips])
