"""Points that two photos have in common, found by their looks alone, without cameras.

Letters: v views, n points, k matches.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from data.scene_format import Scene, View
from data_preprocess.capture.copies import Reduced
from data_preprocess.check.neighbours import pose_distances
from data_preprocess.check.photos import read_thumbnail

# Most points found in a photo.
_MOST_POINTS = 1500
# Views from which pairs are chosen: the nearest by its camera, and the one that looks most alike, for each.
_ANCHORS = 10
# Cameras nearer to each other than this share of their extent show no parallax.
_LEAST_APART = 0.005
# A match is this much nearer than the second nearest; squared distances of unit vectors.
_SECOND = 0.64
# Pixels from the epipolar line of the fundamental matrix found; the least matches that agree on it, also as a share of all.
_OFF, LEAST_AGREEING, _LEAST_SHARE = 1.0, 20, 0.6


@dataclass(frozen=True, eq=False)
class Matched:
    """Matches between two photos that agree on a fundamental matrix.

    Args:
        views: numbers of the two.
        first, second: (k, 2) pixels of the thumbnails.
        own_error: median distance in pixels from the epipolar lines of that matrix: the precision of the matches.
    """

    views: tuple[int, int]
    first: np.ndarray
    second: np.ndarray
    own_error: float


def choose_pairs(scene: Scene, photos: Mapping[int, Reduced]) -> list[tuple[int, int]]:
    """Choose pairs of views that are likely to see the same things: by their cameras, and, should these be wrong, by their looks.

    Args:
        scene: with its views.
        photos: by the number of their view.

    Returns:
        at most 20 pairs of numbers.
    """
    numbers = np.array(sorted(photos))
    if len(numbers) < 2:
        return []
    c2w = np.stack([scene.views[i].c2w for i in numbers])
    distances, position = pose_distances(c2w), c2w[:, :3, 3]
    extent = 2 * np.linalg.norm(position - position.mean(0), axis=1).max()
    pairs: dict[tuple[int, int], None] = {}
    for row in sorted({round(i) for i in np.linspace(0, len(numbers) - 1, min(len(numbers), _ANCHORS))}):
        far = distances(np.array([row]))[0]
        no_parallax = np.linalg.norm(position - position[row], axis=1) <= _LEAST_APART * extent
        anchor, by_pose = int(numbers[row]), int(numbers[np.where(no_parallax, far + 100, far).argmin()])
        for other in (by_pose, *most_alike(photos, anchor, {by_pose}, 1)):
            pairs[min(anchor, other), max(anchor, other)] = None
    return list(pairs)


def most_alike(photos: Mapping[int, Reduced], view: int, without: Collection[int], count: int) -> list[int]:
    """Return at most `count` views whose photos look most like that of a view, best first; none of those in `without`."""
    own = _normalised(photos[view])
    alike = {i: float(_normalised(photo) @ own) for i, photo in photos.items() if i != view and i not in without}
    return sorted(alike, key=lambda i: -alike[i])[:count]


def match(scene: Scene, pairs: Sequence[tuple[int, int]], pool: ThreadPoolExecutor) -> list[Matched]:
    """Match the photos of pairs of views; pairs with too few sound matches are left out."""
    views = sorted({i for pair in pairs for i in pair})
    points = dict(zip(views, pool.map(_points, [scene.views[i] for i in views]), strict=True))
    results = pool.map(lambda pair: _matched(pair, points[pair[0]], points[pair[1]]), pairs)
    return [found for found in results if found is not None]


def sampson(fundamental: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the distances (k) in pixels of matches (k, 2) from epipolar geometry, to first order.

    Args:
        fundamental: (3, 3): second · fundamental · first is 0.
        first, second: pixels of the two photos.

    Source: Sampson 1982; Hartley and Zisserman, Multiple View Geometry, equation 11.9.
    """
    x, y = (np.column_stack([points, np.ones(len(points))]) for points in (first, second))
    lines, others = x @ fundamental.T, y @ fundamental
    slope = (lines[:, :2] ** 2).sum(1) + (others[:, :2] ** 2).sum(1)
    return np.abs((y * lines).sum(1)) / np.sqrt(np.maximum(slope, 1e-30))


def _normalised(photo: Reduced) -> np.ndarray:
    grey = photo.grey.ravel() - photo.grey.mean()
    return (grey / max(np.linalg.norm(grey), 1e-9)).astype(np.float32)


def _points(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) of a view's reduced photo in pixels, pixel centres at half-integers, and unit vectors (n, 128)."""
    grey = cv2.cvtColor(read_thumbnail(view), cv2.COLOR_RGB2GRAY)
    keypoints, descriptors = cv2.SIFT_create(_MOST_POINTS).detectAndCompute(grey, None)
    if descriptors is None:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    places = np.array([keypoint.pt for keypoint in keypoints]) + 0.5
    return places, descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-9)


def _matched(views: tuple[int, int], first: tuple, second: tuple) -> Matched | None:
    (places, vectors), (others, other_vectors) = first, second
    if min(len(places), len(others)) < LEAST_AGREEING:
        return None
    alike = vectors @ other_vectors.T
    best = alike.argmax(1)
    rows = np.arange(len(alike))
    nearest = alike[rows, best].copy()
    mutual = alike.argmax(0)[best] == rows
    alike[rows, best] = -1
    sound = mutual & (1 - nearest < _SECOND * (1 - alike.max(1)))
    x, y = places[sound], others[best[sound]]
    if len(x) < LEAST_AGREEING:
        return None
    try:
        # The random draws of OpenCV's estimator start from the same number in each call.
        fundamental, agree = cv2.findFundamentalMat(x, y, cv2.USAC_MAGSAC, _OFF, 0.999, 5000)
    except cv2.error:  # where it finds no matrix at all
        return None
    if fundamental is None or fundamental.shape != (3, 3):
        return None
    agree = agree.ravel() > 0
    if agree.sum() < max(LEAST_AGREEING, _LEAST_SHARE * len(x)):
        return None
    x, y = x[agree], y[agree]
    return Matched(views, x, y, float(np.median(sampson(fundamental, x, y))))
