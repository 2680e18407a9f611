"""Whether a scene's photos and cameras agree: matching points of two photos lie where the cameras allow them to.

Up to 20 pairs of photos, reduced to 480 pixels, are matched by SIFT. A pair counts if 20 matches or more agree on some epipolar
geometry, whatever it is. Their median distance (Sampson's) from the epipolar lines of the stated cameras is the pair's error;
that of the scene is the median over pairs. The usual mistakes of `mistakes.py` are then tried, and the one under which photos and
cameras agree is named. Epipolar lines show neither the scale of a scene nor on which side of the cameras the points are; whether
these are in front is found by intersecting rays. A ring of cameras in equal steps may be turned: photos shifted by one in it agree.

Errors in pixels; with a mistake, of the walk around a fox / a figure on white / the procedural room of `data_example`:

                                      fox (480 pixels)    figure (480)    room (128)
    good captures                     0.12                0.16            0.10
    OpenGL axes                       8.7                 behind          0.87
    c2w in the place of w2c           8.2                 178             1.7
    transposed rotations              5.7                 14              1.8
    negated translations              behind              behind          behind
    cameras of the next view          5.3                 0.17 (a ring)   0.14 (last view found)
    in reverse; sorted by letters     10; 15              3.5; 9          0.86; 0.5
    shuffled                          26                  36              7.3
    focal lengths × 1/4; 1/2          4.6; 3.1            3.2; 1.2        0.97; 0.40
    focal lengths × 2; 4              6.6; 19             0.61; 0.88      0.36; 0.90
    intrinsics of 1/2; twice the size 5.0; 6.9            18; 13          1.5; 1.3
    fx, cx in the place of fy, cy     3.4                 the same        the same
    every camera turned by about 1°   1.4                 1.1             0.75
    limits: mistake known; unknown    0.4; 2.4            0.4; 2.4        0.2; 1.0

Every mistake above its limit was named as what it was. Of 147 procedural scenes of 64×64, 16 had enough matches: 0.21 at most.

Letters: v views, k matches.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from config.messages import counted
from data.problems.problem import Problem, mended_without
from data.scene_format import Scene
from data_preprocess.capture.copies import Reduced
from data_preprocess.check.findings import Finding, finding_of
from data_preprocess.check.matches import Matched, choose_pairs, match, most_alike, sampson
from data_preprocess.check.mistakes import (
    Cameras,
    Mistake,
    intrinsics_mistakes,
    mistakes,
    scaled_focal,
    scaled_intrinsics,
    stated_cameras,
)
from data_preprocess.check.photos import THUMBNAIL, Photo

_KIND = "contradiction of photos and cameras"
# Pairs without which photos and cameras are not compared; and pairs, and the share of them above the limit, without which a mistake
# that is none of the usual ones is not reported.
LEAST_PAIRS, _LEAST_UNKNOWN, _LEAST_SHARE = 3, 6, 0.6
# Limit of the error as a share of the longer side, and in pixels of small photos, if no usual mistake explains it; and the same if
# one does, without which the error is so many times smaller.
_LIMIT, _LIMIT_EXPLAINED, _TIMES = (1 / 200, 1.0), (1 / 1200, 0.2), 3.0
# Errors of single pairs count up to this many pixels where mistakes are compared; a later mistake has to be that much better than a
# simpler one.
_MOST_OF_PAIR, _BETTER = 10.0, 0.7
# Factors by which focal lengths are tried, evenly spaced in their logarithm, and steps by which the best one is then refined.
_FACTORS, _REFINED = np.exp(np.linspace(np.log(0.18), np.log(5.5), 33)), np.exp(np.linspace(-0.1, 0.1, 21))
# Pixels of parallax that show whether a point is in front of the cameras, and the least points that do.
_PARALLAX, _LEAST_POINTS = 2.0, 8
# Views suspected of a photo that is not theirs, pairs that each of them is matched in besides, and the least that show it.
_MOST_SUSPECTS, _MORE_PAIRS, _LEAST_BAD = 6, 4, 2


@dataclass(frozen=True)
class Agreement:
    """What was found.

    Args:
        findings: of photos that contradict the cameras.
        note: for the line of the scene.
    """

    findings: list[Finding]
    note: str


def compare(scene: Scene, photos: Mapping[int, Photo], pool: ThreadPoolExecutor) -> Agreement:
    """Compare a scene's photos with its cameras.

    Args:
        scene: with its views.
        photos: by the number of their view; views without a readable photo are absent.
        pool: threads that read and match photos.

    Cost: about 40 ms of one core per photo matched, of at most 30, and 0.1 s per mistake tried.
    """
    reduced = {i: photo.reduced for i, photo in photos.items()}
    pairs = choose_pairs(scene, reduced)
    matched = match(scene, pairs, pool)
    not_compared = Agreement([], f"photos and cameras not compared ({len(matched)} of {counted(len(pairs), 'pair')} match)")
    if len(matched) < LEAST_PAIRS:
        return not_compared
    sizes = [reduced[i].size if i in reduced else (view.h, view.w) for i, view in enumerate(scene.views)]
    stated = stated_cameras(scene, sizes, THUMBNAIL)
    side = int(np.median(stated.sizes.max(1)))
    limit, limit_explained = (max(share * side, least) for share, least in (_LIMIT, _LIMIT_EXPLAINED))
    errors, front = pair_errors(matched, stated), in_front(matched, stated)
    error = float(np.median(errors))
    figure = f"matching points {_pixels(error)} (median of {counted(len(matched), 'pair')}, photos at {side})"
    finding = None
    if error > limit_explained or front < 0.5:
        # Without a mistake that is named, no more than half of what is allowed without one is left.
        most = min(error / _TIMES if front >= 0.5 else max(error, limit_explained), limit / 2)
        finding = _explained(scene, matched, stated, most, figure)
    if finding is None and (errors > limit).mean() >= _LEAST_SHARE and len(matched) >= _LEAST_UNKNOWN:
        finding = _unexplained(scene, matched, figure)
    if finding is not None:
        return Agreement([finding], f"photos and cameras disagree, {figure} from the epipolar lines")
    if error > limit and len(matched) < _LEAST_UNKNOWN:
        return not_compared
    odd = odd_views(scene, reduced, matched, stated, 2 * limit, pool)
    agree = "agree" if error <= limit else "agree in part"
    return Agreement(_odd(scene, odd), f"photos and cameras {agree}, {figure} from the epipolar lines")


def pair_errors(matched: Sequence[Matched], cameras: Cameras) -> np.ndarray:
    """Return each pair's median distance in pixels from where the cameras allow its matches to be."""
    errors = []
    for pair in matched:
        first, second = (cameras.intrinsics[i] for i in pair.views)
        motion = _motion(pair, cameras)
        rotated = second @ motion[:3, :3] @ np.linalg.inv(first)
        direction, length = motion[:3, 3], np.linalg.norm(motion[:3, 3])
        if length <= 1e-6 * max(np.linalg.norm(cameras.w2c[i][:3, 3]) for i in pair.views):
            # Without parallax each point has one place in the other photo, not a line.
            x = np.column_stack([pair.first, np.ones(len(pair.first))]) @ rotated.T
            errors.append(float(np.median(np.linalg.norm(x[:, :2] / x[:, 2:] - pair.second, axis=1))))
            continue
        x, y, z = second @ direction / length
        epipole = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        errors.append(float(np.median(sampson(epipole @ rotated, pair.first, pair.second))))
    return np.array(errors)


def in_front(matched: Sequence[Matched], cameras: Cameras) -> float:
    """Return the share of matches that are in front of both cameras, median over the pairs with parallax; 1 without such pairs."""
    shares = []
    for pair in matched:
        motion = _motion(pair, cameras)
        first, second = (
            np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(cameras.intrinsics[i]).T
            for i, points in zip(pair.views, (pair.first, pair.second), strict=True)
        )
        first = first @ motion[:3, :3].T
        # second · depth - first · depth = t, by least squares.
        a, b, c = (second * second).sum(1), (second * first).sum(1), (first * first).sum(1)
        p, q = second @ motion[:3, 3], first @ motion[:3, 3]
        determinant = a * c - b * b
        depths = np.stack([c * p - b * q, b * p - a * q]) / np.maximum(determinant, 1e-15)
        sine = np.sqrt(np.maximum(determinant, 0) / (a * c))
        seen = sine * cameras.intrinsics[pair.views[1]][0, 0] > _PARALLAX
        if seen.sum() >= _LEAST_POINTS:
            shares.append(float((depths[:, seen] > 0).all(0).mean()))
    return float(np.median(shares)) if shares else 1.0


def _motion(pair: Matched, cameras: Cameras) -> np.ndarray:
    """Return (4, 4) the second camera from the first."""
    first, second = (cameras.w2c[i] for i in pair.views)
    return second @ np.linalg.inv(first)


def _explained(scene: Scene, matched: Sequence[Matched], stated: Cameras, most: float, figure: str) -> Finding | None:
    """Return the finding of the usual mistake under which photos and cameras agree to `most` pixels, if there is one."""
    best: tuple[float, float, Mistake] | None = None
    factors = (_best_factor(matched, stated, scaled) for scaled in (scaled_focal, scaled_intrinsics))
    for mistake in (*mistakes(scene, stated), *intrinsics_mistakes(scene, stated, *factors)):
        errors = pair_errors(matched, mistake.cameras)
        error, score = float(np.median(errors)), float(errors.clip(max=_MOST_OF_PAIR).mean())
        if error <= most and in_front(matched, mistake.cameras) >= 0.5 and (best is None or score < _BETTER * best[0]):
            best = score, error, mistake
    if best is None:
        return None
    _, error, mistake = best
    found = f"has {mistake.found}: {figure} from their epipolar lines, {_pixels(error)} without this mistake"
    return finding_of(_KIND, scene.json_path, Problem(found, mistake.wanted, flags=mistake.flags))


def _best_factor(matched: Sequence[Matched], stated: Cameras, scaled: Callable[[Cameras, float], Cameras]) -> float:
    factor = 1.0
    for factors in (_FACTORS, _REFINED):
        errors = [float(np.median(pair_errors(matched, scaled(stated, factor * by)))) for by in factors]
        factor *= float(factors[int(np.argmin(errors))])
    return factor


def _unexplained(scene: Scene, matched: Sequence[Matched], figure: str) -> Finding:
    own = float(np.median([pair.own_error for pair in matched]))
    found = f"has photos that contradict the cameras: {figure} from their epipolar lines, {_pixels(own)} from the photos' own"
    wanted = (
        "photos and cameras of one capture, each photo with its camera and lens: convert the capture again, or let "
        "colmap_format_converter.py --from_images find the cameras"
    )
    return finding_of(_KIND, scene.json_path, Problem(found, wanted))


def _pixels(number: float) -> str:
    return f"{number:.2g} pixels" if number < 10 else f"{number:.0f} pixels"


def odd_views(
    scene: Scene,
    photos: Mapping[int, Reduced],
    matched: Sequence[Matched],
    stated: Cameras,
    limit: float,
    pool: ThreadPoolExecutor,
) -> list[int]:
    """Return views that contradict every other view they match, where most views agree.

    Args:
        scene, photos, stated: of all views.
        matched: pairs matched so far; suspicious views are matched with more.
        limit: of a pair's error in pixels.
        pool: threads that read and match photos.
    """
    bad, good = _views_of(matched, pair_errors(matched, stated), limit)
    suspects = sorted(set(bad) - set(good))[:_MOST_SUSPECTS]
    tried = {pair.views for pair in matched}
    more = {(min(i, j), max(i, j)) for i in suspects for j in most_alike(photos, i, suspects, _MORE_PAIRS)}
    found = match(scene, sorted(more - tried), pool)
    again, proved = _views_of(found, pair_errors(found, stated), limit)
    bad, good = bad + again, {*good, *proved}
    return [i for i in suspects if i not in good and bad.count(i) >= _LEAST_BAD]


def _views_of(matched: Sequence[Matched], errors: np.ndarray, limit: float) -> tuple[list[int], list[int]]:
    """Return the views in pairs above the limit and in pairs below it, once for each pair."""
    sides: tuple[list[int], list[int]] = ([], [])
    for pair, error in zip(matched, errors, strict=True):
        sides[0 if error > limit else 1].extend(pair.views)
    return sides


def _odd(scene: Scene, views: list[int]) -> list[Finding]:
    if not views:
        return []
    found = "has a photo that contradicts its camera: what it shows matches photos of other views, but not where the cameras put it"
    wanted = "the photo of this camera; convert the capture again, or leave it out"
    return [finding_of(_KIND, scene.json_path, mended_without(views, found, wanted), "not of its camera")]
