"""View selection: which views of a scene are inputs and which are targets.

Letters: n views of the scene, k views to choose, s starts. Cameras are world-from-camera, OpenCV axes. Every choice is
returned in ascending order: the order of the inputs does not change what the network computes.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config.errors import InputError

MAX_STARTS = 64
# scikit-learn's seeds have 32 bits.
MOST_KMEANS_SEED = 2**32 - 1
INSTALL = "pip install scikit-learn"


class Chance(NamedTuple):
    """Randomness of a choice: its seed, and the generator seeded with it, which goes on from pick to pick."""

    seed: int
    rng: np.random.Generator

    @classmethod
    def of(cls, seed: int) -> "Chance":
        return cls(seed, np.random.default_rng(seed))


Picker = Callable[[np.ndarray, list[int], int, Chance], list[int]]


@dataclass(frozen=True)
class ViewChoice:
    """Inputs and targets of a scene, as positions in its list of views.

    Args:
        inputs: one list for each number of inputs.
        targets: those of all these numbers.
    """

    inputs: tuple[list[int], ...]
    targets: list[int]


def default_method(normalised: bool) -> str:
    """Return how inputs are chosen unless one says: of scenes, whose poses are normalised, or of objects."""
    return "uniform" if normalised else "spread"


def select_views(
    c2w: np.ndarray,
    num_all_views: int | None = None,
    num_input_views: int | None = None,
    num_target_views: int | None = None,
    method: str | None = None,
    target_every: int | None = None,
    seed: int = 0,
) -> tuple[list[int], list[int]]:
    """Split the views of a scene into inputs and targets that do not overlap.

    Methods:
        uniform: evenly spaced along the list. For videos, where the list follows the camera's path.
        spread: far apart in camera position and viewing direction, at any place in the list. For objects, whose renders
            are listed ring after ring: even steps along that list fall on the same few azimuths.
        random: without replacement.
        kmeans: inputs are the views nearest to the k-means centres of [position, forward], positions in the unit of the
            file, as scikit-learn finds them; where two centres have the same nearest view, the second takes its next one, so
            that there are as many inputs as centres. All else is chosen as in uniform. With `target_every` 8 and seed 0 this is
            the protocol of DL3DV-140, and its published inputs.

    Args:
        c2w: (n, 4, 4) of all views of the scene.
        num_all_views: first thin the scene to this many views; None keeps all.
        num_input_views: how many inputs to choose.
        num_target_views: how many targets to choose among the remaining views; None takes all of them.
        method: "uniform", "spread", "random" or "kmeans".
        target_every: N: views 0, N, 2N, … are the targets instead, and inputs are chosen from all others.
        seed: for random and kmeans; the choice is a pure function of it and the cameras.

    Returns:
        inputs, targets: positions in the list of views, ascending.

    Raises:
        InputError: the scene has fewer views than requested, a count is below its minimum, or kmeans lacks scikit-learn or has a
            seed that scikit-learn does not take.
        ValueError: two arguments contradict each other, or one is missing.
    """
    if num_input_views is None:
        raise ValueError("view selection: num_input_views is None; wanted the number of inputs to choose")
    if method is None:
        raise ValueError(f"view selection: method is None; wanted one of {', '.join(PICKERS)}")
    choice = select_sweep(
        c2w, [num_input_views], num_all_views, num_target_views, method=method, target_every=target_every, seed=seed
    )
    return choice.inputs[0], choice.targets


def select_sweep(
    c2w: np.ndarray,
    counts: Sequence[int],
    num_all_views: int | None = None,
    num_target_views: int | None = None,
    *,
    method: str,
    target_every: int | None = None,
    seed: int = 0,
) -> ViewChoice:
    """Choose inputs for several numbers of them that share their targets, so that what the numbers give can be compared.

    With `target_every` the inputs of each number are those that `select_views` chooses for it alone. Without, the largest number's
    inputs and the targets are those of `select_views`, and the smaller numbers are chosen by the same method among these inputs.

    Args:
        c2w, num_all_views, num_target_views, method, target_every, seed: see `select_views`.
        counts: the numbers of inputs, at least one.

    Returns:
        the choice, its inputs in the order of `counts`. A single number gives exactly what `select_views` does.

    Raises:
        InputError: a number is there twice, or see `select_views`.
        ValueError: there are no numbers, or two arguments contradict each other.
    """
    check_counts(counts)
    others = {"num_all_views": num_all_views, "num_target_views": num_target_views}
    _check_arguments(counts, {**others, "target_every": target_every}, method, seed)
    if target_every is None:
        candidates, targets = _split(c2w, max(counts), num_all_views, num_target_views, PICKERS[method], Chance.of(seed))
    else:
        _refuse("target_every", others)
        n = len(c2w)
        targets = list(range(0, n, target_every))
        candidates = sorted(set(range(n)) - set(targets))
        _require(len(candidates), max(counts), f"inputs (target_every {target_every} takes {len(targets)} of {n})")
    pick_inputs, _ = PICKERS[method]
    picks = (candidates if k == len(candidates) else pick_inputs(c2w, candidates, k, Chance.of(seed)) for k in counts)
    return ViewChoice(tuple(list(views) for views in picks), targets)


def spread_order(n: int) -> list[int]:
    """Return the positions 0 to n − 1 so that the first of any number of them are spread evenly: by their reversed bits.

    Source: van der Corput, "Verteilungsfunktionen" (1935).
    """
    bits = (n - 1).bit_length()
    positions = (int(f"{i:0{bits}b}"[::-1], 2) if bits else i for i in range(1 << bits))
    return [position for position in positions if position < n]


def check_counts(counts: Sequence[int]) -> None:
    """Check several numbers of inputs.

    Raises:
        InputError: one is there twice.
        ValueError: there are none.
    """
    if not counts:
        raise ValueError("view selection: no number of inputs is given; wanted at least one")
    twice = first_repeated(counts)
    if twice is not None:
        raise InputError("--num_input_views", f"is {twice} twice", "each number once")


def first_repeated(values: Sequence[int]) -> int | None:
    """Return the first value that was there before; None if there is none."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _check_arguments(counts: Sequence[int], others: dict[str, int | None], method: str, seed: int) -> None:
    if method not in PICKERS:
        raise ValueError(f"view selection: method is {method!r}; wanted one of {', '.join(PICKERS)}")
    for name, count in [*(("num_input_views", count) for count in counts), *others.items()]:
        least = 0 if name == "num_target_views" else 1
        if count is not None and count < least:
            raise InputError(f"--{name}", f"is {count}", f"{least} or more")
    if method == "kmeans" and not 0 <= seed <= MOST_KMEANS_SEED:
        raise InputError("--seed", f"is {seed}", f"0 to {MOST_KMEANS_SEED} for kmeans")


def _split(
    c2w: np.ndarray,
    num_input_views: int,
    num_all_views: int | None,
    num_target_views: int | None,
    pickers: tuple[Picker, Picker],
    chance: Chance,
) -> tuple[list[int], list[int]]:
    pick_inputs, pick_others = pickers
    candidates = list(range(len(c2w)))
    if num_all_views is not None:
        _require(len(c2w), num_all_views, "for num_all_views")
        candidates = pick_others(c2w, candidates, num_all_views, chance)
    wanted = num_input_views + (num_target_views or 0)
    _require(len(candidates), wanted, f"({num_input_views} inputs, {num_target_views or 0} targets)")
    inputs = pick_inputs(c2w, candidates, num_input_views, chance)
    targets = sorted(set(candidates) - set(inputs))
    if num_target_views is not None:
        targets = pick_others(c2w, targets, num_target_views, chance)
    return inputs, targets


def _refuse(name: str, others: dict[str, int | None]) -> None:
    given = [other for other, value in others.items() if value is not None]
    if given:
        raise ValueError(f"view selection: {name} is given together with {', '.join(given)}, which it determines")


def _require(available: int, wanted: int, what: str) -> None:
    if wanted > available:
        raise InputError("views", f"are {available}", f"{wanted} {what}: ask for fewer")


def _pick_uniform(c2w: np.ndarray, candidates: list[int], k: int, chance: Chance) -> list[int]:
    # The middles of k equal stretches of the list; distinct, since a stretch is one view or longer.
    return [candidates[(2 * j + 1) * len(candidates) // (2 * k)] for j in range(k)]


def _pick_random(c2w: np.ndarray, candidates: list[int], k: int, chance: Chance) -> list[int]:
    return sorted(chance.rng.choice(candidates, size=k, replace=False).tolist())


def _pick_spread(c2w: np.ndarray, candidates: list[int], k: int, chance: Chance) -> list[int]:
    """Run farthest point sampling from many starts; keep the choice that is nearest to all candidates on average.

    Positions are centred and divided by their root mean square distance from the mean, so that they weigh as much as
    the directions in any unit. Cost: O(s n k), s at most MAX_STARTS.
    """
    if k == 0:
        return []
    poses = c2w[candidates]
    position = poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0)
    radius = np.sqrt((position**2).sum(axis=1).mean())
    points = np.concatenate([position / max(radius, 1e-12), poses[:, :3, 2]], axis=1)
    n = len(candidates)
    starts = _pick_uniform(c2w, list(range(n)), min(n, MAX_STARTS), chance)
    chosen = [np.array(starts)]
    nearest = _distances(points, chosen[0])
    for _ in range(k - 1):
        chosen.append(nearest.argmax(axis=1))
        nearest = np.minimum(nearest, _distances(points, chosen[-1]))
    best = nearest.mean(axis=1).argmin()
    return sorted(candidates[picks[best]] for picks in chosen)


def _distances(points: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    # Rounded (s, n) distances: ties of a regular rig must not be broken by the last bit. A chosen view is at −1, so that
    # argmax never takes it again, even among views of one pose.
    distance = np.linalg.norm(points[None] - points[chosen][:, None], axis=2).round(6)
    distance[np.arange(len(chosen)), chosen] = -1
    return distance


def _pick_kmeans(c2w: np.ndarray, candidates: list[int], k: int, chance: Chance) -> list[int]:
    """Return the views nearest to scikit-learn's k-means centres of [position, forward], as they are in the file.

    Cost: O(n k) for each of a few dozen rounds.
    """
    poses = c2w[candidates].astype(np.float64)
    points = np.concatenate([poses[:, :3, 3], poses[:, :3, 2]], axis=1)
    taken = np.zeros(len(points), dtype=bool)
    for centre in _kmeans_centres(points, k, chance.seed):
        # Two centres can have the same nearest view; the second then takes its next one.
        distance = np.where(taken, np.inf, np.linalg.norm(points - centre, axis=1))
        taken[distance.argmin()] = True
    return [candidates[i] for i in np.flatnonzero(taken)]


def _kmeans_centres(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return the k centres (k, 6) of points (n, 6).

    What is silenced: warnings of fewer distinct points than centres, which is no fault here, and of the threads of other
    libraries, and the traceback that joblib prints where the machine does not tell its number of cores. One thread: several add up
    their sums in any order, so that processes could find centres that differ.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            from sklearn.cluster import KMeans
            from threadpoolctl import threadpool_limits
        except ImportError as error:
            raise InputError("--view_selection kmeans", f"needs scikit-learn ({error})", INSTALL) from error
        with threadpool_limits(1):
            return KMeans(n_clusters=k, random_state=seed, n_init="auto").fit(points).cluster_centers_


PICKERS: dict[str, tuple[Picker, Picker]] = {
    "uniform": (_pick_uniform, _pick_uniform),
    "spread": (_pick_spread, _pick_spread),
    "random": (_pick_random, _pick_random),
    "kmeans": (_pick_kmeans, _pick_uniform),
}
