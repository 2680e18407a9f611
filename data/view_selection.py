"""View selection: which views of a scene are inputs and which are targets.

Letters: n views of the scene, k views to choose, s starts. Cameras are world-from-camera, OpenCV axes. Every choice is
returned in ascending order: the order of the inputs does not change what the network computes.
"""

import os
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from config.errors import InputError
from config.messages import shown
from data.scene_format import read_json

MAX_STARTS = 64
KMEANS_ATTEMPTS = 10
INDEX_KEYS = {"inputs": ("inputs", "context"), "targets": ("targets", "target")}

Picker = Callable[[np.ndarray, list[int], int, np.random.Generator], list[int]]


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
    view_index: dict[str, list[int]] | None = None,
    seed: int = 0,
) -> tuple[list[int], list[int]]:
    """Split the views of a scene into inputs and targets that do not overlap.

    Methods:
        uniform: evenly spaced along the list. For videos, where the list follows the camera's path.
        spread: far apart in camera position and viewing direction, at any place in the list. For objects, whose renders
            are listed ring after ring: even steps along that list fall on the same few azimuths.
        random: without replacement.
        kmeans: inputs are the views nearest to the k-means centres of [position, forward], positions in the unit of the
            file. All else is chosen as in uniform. With `target_every` 8 this is the protocol of DL3DV-140.

    Args:
        c2w: (n, 4, 4) of all views of the scene.
        num_all_views: first thin the scene to this many views; None keeps all.
        num_input_views: how many inputs to choose.
        num_target_views: how many targets to choose among the remaining views; None takes all of them.
        method: "uniform", "spread", "random" or "kmeans".
        target_every: N: views 0, N, 2N, … are the targets instead, and inputs are chosen from all others.
        view_index: {"inputs": […], "targets": […]} as `read_view_index` returns it; excludes all arguments but `c2w` and `seed`.
        seed: for random and kmeans; the choice is a pure function of it and the cameras.

    Returns:
        inputs, targets: positions in the list of views, ascending (those of `view_index` as given).

    Raises:
        InputError: the scene has fewer views than requested or lacks those of `view_index`, or a count is below its minimum.
        ValueError: two arguments contradict each other, or one is missing.
    """
    n = len(c2w)
    counts = {"num_all_views": num_all_views, "num_input_views": num_input_views, "num_target_views": num_target_views}
    if view_index is not None:
        _refuse("view_index", {**counts, "method": method, "target_every": target_every})
        return _check_index(view_index, n)
    if method not in PICKERS:
        raise ValueError(f"select_views: method is {method!r}; wanted one of {', '.join(PICKERS)}")
    if num_input_views is None:
        raise ValueError("select_views: num_input_views is None; wanted the number of inputs to choose")
    for name, count in {**counts, "target_every": target_every}.items():
        least = 0 if name == "num_target_views" else 1
        if count is not None and count < least:
            raise InputError(f"--{name}", f"is {count}", f"{least} or more")
    pick_inputs, pick_others = PICKERS[method]
    rng = np.random.default_rng(seed)

    if target_every is not None:
        _refuse("target_every", {"num_all_views": num_all_views, "num_target_views": num_target_views})
        targets = list(range(0, n, target_every))
        candidates = sorted(set(range(n)) - set(targets))
        _require(len(candidates), num_input_views, f"inputs (target_every {target_every} takes {len(targets)} of {n})")
        return pick_inputs(c2w, candidates, num_input_views, rng), targets

    candidates = list(range(n))
    if num_all_views is not None:
        _require(n, num_all_views, "for num_all_views")
        candidates = pick_others(c2w, candidates, num_all_views, rng)
    wanted = num_input_views + (num_target_views or 0)
    _require(len(candidates), wanted, f"({num_input_views} inputs, {num_target_views or 0} targets)")
    inputs = pick_inputs(c2w, candidates, num_input_views, rng)
    targets = sorted(set(candidates) - set(inputs))
    if num_target_views is not None:
        targets = pick_others(c2w, targets, num_target_views, rng)
    return inputs, targets


def read_view_index(path: str | os.PathLike, scene_name: str) -> dict[str, list[int]]:
    """Read which views of a scene are inputs and targets from a JSON file.

    Args:
        path: {"inputs": […], "targets": […]} for every scene, or {SCENE: {"inputs": […], "targets": […]}, …}. The keys
            "context" and "target" of other projects' files mean the same.
        scene_name: the scene's name.

    Returns:
        {"inputs": […], "targets": […]}; `select_views` checks it against the scene.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not of that form, or lacks the scene.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(path, f"holds a {type(content).__name__}", "an object with inputs and targets")
    where, entry = f"{path}", content
    if not any(isinstance(content.get(key), list) for keys in INDEX_KEYS.values() for key in keys):
        where, entry = f"{path}, scene {shown(scene_name, 200)}", content.get(scene_name)
        if not isinstance(entry, dict):
            raise InputError(where, f"has no entry among {len(content)}", "its inputs and targets")
    return {name: _index_list(where, entry, name) for name in INDEX_KEYS}


def _index_list(where: str, entry: dict, name: str) -> list[int]:
    values = next((entry[key] for key in INDEX_KEYS[name] if key in entry), None)
    if not isinstance(values, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in values):
        raise InputError(f"{where}, {name}", f"is {shown(values)}", "a list of view numbers")
    return values


def _check_index(view_index: dict[str, list[int]], n: int) -> tuple[list[int], list[int]]:
    inputs, targets = (_index_list("--view_index", view_index, name) for name in INDEX_KEYS)
    if not inputs:
        raise InputError("--view_index, inputs", "names no view", "at least one")
    for name, values in (("inputs", inputs), ("targets", targets)):
        outside = [i for i in values if not 0 <= i < n]
        if outside:
            raise InputError(f"--view_index, {name}", f"names view {outside[0]}", f"0 to {n - 1}")
        if len(set(values)) < len(values):
            raise InputError(f"--view_index, {name}", f"names view {_first_repeated(values)} twice", "each view once")
    both = sorted(set(inputs) & set(targets))
    if both:
        raise InputError("--view_index", f"names view {both[0]} in inputs and targets", "it in one of them")
    return inputs, targets


def _first_repeated(values: Sequence[int]) -> int:
    return next(value for i, value in enumerate(values) if value in values[:i])


def _refuse(name: str, others: dict[str, object]) -> None:
    given = [other for other, value in others.items() if value is not None]
    if given:
        raise ValueError(f"select_views: {name} is given together with {', '.join(given)}, which it determines")


def _require(available: int, wanted: int, what: str) -> None:
    if wanted > available:
        raise InputError("views", f"are {available}", f"{wanted} {what}: ask for fewer")


def _pick_uniform(c2w: np.ndarray, candidates: list[int], k: int, rng: np.random.Generator) -> list[int]:
    # The middles of k equal stretches of the list; distinct, since a stretch is one view or longer.
    return [candidates[(2 * j + 1) * len(candidates) // (2 * k)] for j in range(k)]


def _pick_random(c2w: np.ndarray, candidates: list[int], k: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.choice(candidates, size=k, replace=False).tolist())


def _pick_spread(c2w: np.ndarray, candidates: list[int], k: int, rng: np.random.Generator) -> list[int]:
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
    starts = _pick_uniform(c2w, list(range(n)), min(n, MAX_STARTS), rng)
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


def _pick_kmeans(c2w: np.ndarray, candidates: list[int], k: int, rng: np.random.Generator) -> list[int]:
    poses = c2w[candidates]
    # Centred, since cv2 computes in float32 and would lose digits far from the origin.
    position = poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0)
    points = np.concatenate([position, poses[:, :3, 2]], axis=1).astype(np.float32)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    labels = np.zeros((len(points), 1), np.int32)  # filled by kmeans
    _, _, centres = cv2.kmeans(points, k, labels, criteria, KMEANS_ATTEMPTS, cv2.KMEANS_PP_CENTERS)
    distance = np.linalg.norm(centres[:, None] - points[None], axis=2)
    picks = []
    for row in distance:
        # Two centres can have the same nearest view; the second then takes its next one.
        row[picks] = np.inf
        picks.append(int(row.argmin()))
    return sorted(candidates[i] for i in picks)


PICKERS: dict[str, tuple[Picker, Picker]] = {
    "uniform": (_pick_uniform, _pick_uniform),
    "spread": (_pick_spread, _pick_spread),
    "random": (_pick_random, _pick_random),
    "kmeans": (_pick_kmeans, _pick_uniform),
}
