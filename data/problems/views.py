"""Single views that do not fit the others: far away, looking elsewhere, rolled, or almost twice the same.

Few views of a capture can be told from the others, if those agree: a fifth of them at most. Letters: v views.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data.camera_geometry import common_point, meeting_point, roll_deg, up_direction
from data.problems.problem import Problem, mended_without

# Least number of views that can disagree with one, and the largest share of views that can be wrong.
LEAST_VIEWS, MOST_WRONG = 6, 0.2
# A view is far away if the distances from the middle leap by the first factor, and it is the second times the median away.
LEAP, FAR = 3.0, 5.0
# What all others look at is less than the first off their axes, and more than the second off those of views that look away.
AT_IT_DEG, AWAY_DEG = 45.0, 90.0
# Roll of all others at most, and of a rolled view at least. Nearer to the vertical than the last, a view has no roll.
UPRIGHT_DEG, ROLLED_DEG, STEEP = 40.0, 65.0, 0.85
# Almost the same pose: distance as a share of the capture's spread and of the usual distance to the next view, and angle.
# Photos of a handheld capture that were taken one after the other have 0.03, 0.3 and 0.2 degrees.
SAME_PLACE, SAME_OF_NEXT, SAME_DEG = 1e-3, 0.1, 0.05
# Views on either side, in order along a line, that a view is compared with.
_NEIGHBOURS = 8


def far_problems(c2w: np.ndarray) -> list[Problem]:
    """Return the problem of views far away from all others, whatever their axes.

    Args:
        c2w: (v, 4, 4).
    """
    return _problems((_far_away,), c2w, np.arange(len(c2w)))


def view_problems(c2w: np.ndarray, left: np.ndarray) -> list[Problem]:
    """Return the other problems of single views; a view that has one is left out of the search for the next.

    Args:
        c2w: (v, 4, 4) of all views.
        left: the numbers of those to compare.
    """
    return _problems((_looking_away, _rolled, _repeated), c2w, left)


def _problems(
    finders: Sequence[Callable[[np.ndarray, np.ndarray], Problem | None]], c2w: np.ndarray, left: np.ndarray
) -> list[Problem]:
    problems = []
    for find in finders:
        problem = find(c2w[left], left) if len(left) >= LEAST_VIEWS else None
        if problem is not None:
            problems.append(problem)
            left = np.setdiff1d(left, problem.views)
    return problems


def _few(wrong: np.ndarray) -> bool:
    return bool(0 < wrong.sum() <= max(1, MOST_WRONG * len(wrong)))


def _problem(views: np.ndarray, found: str, wanted: str) -> Problem:
    few = tuple(views.tolist())
    return mended_without(few, f"{'is' if len(few) == 1 else 'are'} {found}", wanted)


def _far_away(c2w: np.ndarray, number: np.ndarray) -> Problem | None:
    """Find views at the wrong place, as of a failed registration. A walk has distant views too, but leads to them in steps."""
    position = c2w[:, :3, 3]
    distance = np.linalg.norm(position - np.median(position, axis=0), axis=1)
    steps = np.sort(distance)
    first = len(steps) - max(1, int(MOST_WRONG * len(steps)))
    usual = steps[len(steps) // 2]
    leaps = (steps[first:] > LEAP * steps[first - 1 : -1]) & (steps[first:] > FAR * usual)
    if not leaps.any() or usual < 1e-6 * np.abs(position).max():
        return None
    far = distance >= steps[first + int(leaps.argmax())]
    found = (
        f"{distance[far].max() / usual:.3g} times as far from the middle of the cameras as half of the views, as after a failed "
        "registration, so that normalised poses make the scene that much smaller"
    )
    return _problem(number[far], found, "the others alone")


def _looking_away(c2w: np.ndarray, number: np.ndarray) -> Problem | None:
    """Find views that have behind them what all others look at."""
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    point, miss = meeting_point(position, forward)
    if point is None or miss > AT_IT_DEG:
        return None
    point = _without_the_worst(point, position, forward)
    towards = point - position
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(towards, forward), axis=1), (towards * forward).sum(1)))
    away = angle > AWAY_DEG
    if not _few(away) or angle[~away].max() > AT_IT_DEG:
        return None
    found = (
        f"turned away by {angle[away].max():.0f} degrees from what the other {(~away).sum()} views look at, as after a failed "
        "registration, so that what they show goes to the wrong place"
    )
    return _problem(number[away], found, "the others alone")


def _without_the_worst(point: np.ndarray, position: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Return the common point of the views that miss it least."""
    miss = np.linalg.norm(np.cross(point - position, forward), axis=1) / np.linalg.norm(point - position, axis=1)
    best = np.argsort(miss)[: max(3, int((1 - MOST_WRONG) * len(miss)))]
    refined = common_point(position[best], forward[best])
    return point if refined is None else refined


def _rolled(c2w: np.ndarray, number: np.ndarray) -> Problem | None:
    """Find photos that lie on their side or upside down among upright ones: their orientation was misread."""
    up = up_direction(c2w)
    if up is None:
        return None
    level = np.abs(c2w[:, :3, 2] @ up) < STEEP
    c2w, number = c2w[level], number[level]
    roll = np.abs(roll_deg(c2w, up))
    rolled = roll > ROLLED_DEG
    if len(roll) < LEAST_VIEWS or not _few(rolled) or roll[~rolled].max() > UPRIGHT_DEG:
        return None
    found = (
        f"rolled by {_range(roll[rolled])} degrees against the other {(~rolled).sum()} upright views, as where a photo's "
        "orientation was misread"
    )
    return _problem(number[rolled], found, "the others alone, or these converted again from upright photos")


def _repeated(c2w: np.ndarray, number: np.ndarray) -> Problem | None:
    """Find views with almost the pose of another; those with the same pose are told one by one elsewhere.

    Views are compared with those near them along a line, in which few other views are as near as a repeated one.
    """
    position = c2w[:, :3, 3]
    spread = float(np.median(np.linalg.norm(position - position.mean(0), axis=1)))
    order = np.argsort(position @ np.array([0.742, 0.529, 0.412]), kind="stable")
    nearest = np.full(len(c2w), np.inf)
    pairs: dict[int, tuple[int, float, float]] = {}
    for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        a, b = order[:-step], order[step:]
        distance = np.linalg.norm(position[a] - position[b], axis=1)
        np.minimum.at(nearest, a, distance)
        np.minimum.at(nearest, b, distance)
        for k in np.flatnonzero(distance < SAME_PLACE * spread):
            first, second = sorted((int(a[k]), int(b[k])))
            turned = _angle_deg(c2w[first, :3, :3], c2w[second, :3, :3])
            same = (c2w[first].round(9) + 0.0 == c2w[second].round(9) + 0.0).all()
            if turned < SAME_DEG and not same:
                pairs.setdefault(second, (first, float(distance[k]), turned))
    pairs = {second: pair for second, pair in pairs.items() if pair[1] < SAME_OF_NEXT * np.median(nearest)}
    if not pairs:
        return None
    few = tuple(int(number[second]) for second in sorted(pairs))
    first, distance, turned = pairs[min(pairs)]
    have = "has" if len(few) == 1 else "have"
    found = (
        f"{have} almost the pose of another, view {few[0]} that of view {number[first]} ({100 * distance / spread:.2g} % of the "
        f"cameras' spread and {turned:.2g} degrees away), so that it shows nothing new as an input and is too easy as a target"
    )
    return mended_without(few, found, "different poses")


def _angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle of the rotation between two (3, 3), also of tiny ones."""
    return float(np.degrees(2 * np.arcsin(min(1.0, np.linalg.norm(a - b) / np.sqrt(8)))))


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
