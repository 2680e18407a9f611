"""View selection: methods, counts, and several numbers of inputs. Letters: n views, k inputs."""

import builtins
import itertools
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from config.errors import InputError
from data.view_selection import ViewChoice, select_sweep, select_views
from tests.support.scenes import look_at, random_c2w, ring_c2w

METHODS = ["uniform", "spread", "random", "kmeans"]


def angles_deg(c2w):
    """Angles (n, n) between the viewing directions."""
    forward = c2w[:, :3, 2]
    return np.degrees(np.arccos(np.clip(forward @ forward.T, -1, 1)))


def least_angle_deg(c2w, views):
    return min(angles_deg(c2w)[a, b] for a, b in itertools.combinations(views, 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("num_all", "num_inputs", "num_targets"),
    [(None, 8, None), (32, 20, 12), (32, 8, None), (None, 1, 1), (64, 63, 1), (7, 3, 0), (None, 64, None), (2, 1, 1)],
)
def test_every_split_is_distinct_and_complete(method, num_all, num_inputs, num_targets):
    c2w = ring_c2w()
    inputs, targets = select_views(c2w, num_all, num_inputs, num_targets, method)
    assert len(inputs) == num_inputs
    assert len(targets) == ((num_all or 64) - num_inputs if num_targets is None else num_targets)
    both = inputs + targets
    assert len(set(both)) == len(both)
    assert set(both) <= set(range(64))
    assert inputs == sorted(inputs)
    assert targets == sorted(targets)
    assert all(type(i) is int for i in both)


def test_uniform_takes_the_middles_of_equal_stretches():
    c2w = random_c2w(24)
    # stretches of 24 / 3 = 8 views: middles at 4, 12, 20
    inputs, targets = select_views(c2w, None, 3, None, "uniform")
    assert inputs == [4, 12, 20]
    assert targets == [i for i in range(24) if i not in (4, 12, 20)]
    # 6 of 24: 2, 6, 10, 14, 18, 22; of these the middles of 3 pairs, then 2 of the 3 left (2, 10, 18)
    assert select_views(c2w, 6, 3, 2, "uniform") == ([6, 14, 22], [2, 18])
    # 2.5 views per stretch: middles at 1.25, 3.75, 6.25, 8.75
    assert select_views(random_c2w(10), None, 4, 0, "uniform") == ([1, 3, 6, 8], [])


def test_spread_views_of_rings_look_from_everywhere():
    c2w = ring_c2w()
    inputs, _ = select_views(c2w, None, 8, None, "spread")
    # 56.2° is the best that exhaustive exchange from 20 random choices found for 8 of these 64 directions
    assert least_angle_deg(c2w, inputs) > 56
    # every view then has an input within 45°; steps along the list leave some 90° away
    assert angles_deg(c2w)[:, inputs].min(axis=1).max() < 45.1
    uniform, _ = select_views(c2w, None, 8, None, "uniform")
    assert least_angle_deg(c2w, uniform) < 20.1
    assert len({i % 16 for i in uniform}) == 2


def test_spread_targets_are_spread_too():
    c2w = ring_c2w()
    _, targets = select_views(c2w, None, 8, 8, "spread")
    assert least_angle_deg(c2w, targets) > 40


@pytest.mark.parametrize("num_inputs", [2, 4, 12, 20])
def test_spread_covers_better_than_chance(num_inputs):
    c2w = ring_c2w()
    nearest = {
        method: angles_deg(c2w)[:, select_views(c2w, None, num_inputs, 0, method)[0]].min(axis=1).mean()
        for method in ("spread", "random", "uniform")
    }
    assert nearest["spread"] < nearest["random"]
    assert nearest["spread"] < nearest["uniform"]


def test_spread_does_not_depend_on_unit_place_or_rounding():
    c2w = random_c2w(40, seed=3)
    moved = c2w.copy()
    moved[:, :3, 3] = 250 * c2w[:, :3, 3] + (1000, -300, 20)
    expect = select_views(c2w, 30, 7, 5, "spread")
    assert select_views(moved, 30, 7, 5, "spread") == expect
    ring = ring_c2w()
    noise = np.random.default_rng(0).normal(size=ring.shape) * 1e-12
    assert select_views(ring + noise, 32, 8, 8, "spread") == select_views(ring, 32, 8, 8, "spread")


@pytest.mark.parametrize("method", METHODS)
def test_views_of_one_pose_stay_distinct(method):
    c2w = np.repeat(random_c2w(2), 5, axis=0)
    inputs, targets = select_views(c2w, None, 6, None, method)
    assert sorted(inputs + targets) == list(range(10))
    assert len(inputs) == 6


@pytest.mark.parametrize("method", METHODS)
def test_choice_is_a_function_of_the_seed(method):
    c2w = random_c2w(40)
    first = select_views(c2w, 30, 8, 4, method, seed=5)
    assert select_views(c2w, 30, 8, 4, method, seed=5) == first
    others = [select_views(c2w, 30, 8, 4, method, seed=seed) for seed in range(6, 12)]
    if method in ("uniform", "spread"):
        assert all(other == first for other in others)
    if method == "random":
        assert all(other != first for other in others)


def test_random_takes_every_view_equally_often():
    c2w = random_c2w(6)
    counts = np.zeros((2, 6))
    for seed in range(600):
        for row, views in zip(counts, select_views(c2w, 5, 2, 2, "random", seed=seed), strict=True):
            row[views] += 1
    # 600 draws of probability 1/3: standard deviation 11.5
    assert np.abs(counts - 200).max() < 50


def test_kmeans_finds_the_middle_of_each_group():
    rng = np.random.default_rng(1)
    centres = random_c2w(5, seed=2)
    c2w = np.repeat(centres, 9, axis=0)
    # A group is its middle and 4 pairs on opposite sides of it, so that the middle is the mean.
    c2w[:, :3, 3] *= 10
    for group in range(5):
        for pair in range(4):
            offset = rng.normal(size=3)
            c2w[group * 9 + 1 + pair, :3, 3] += offset
            c2w[group * 9 + 5 + pair, :3, 3] -= offset
    inputs, targets = select_views(c2w, None, 5, None, "kmeans")
    assert inputs == [0, 9, 18, 27, 36]
    assert len(targets) == 40
    # also far from the origin
    c2w[:, :3, 3] += 1e7
    assert select_views(c2w, None, 5, None, "kmeans")[0] == inputs


def test_kmeans_sees_directions_too():
    c2w = np.repeat(random_c2w(3, seed=6), 4, axis=0)
    c2w[:, :3, 3] = (1.0, 2.0, 3.0)
    inputs, _ = select_views(c2w, None, 3, 0, "kmeans")
    assert [i // 4 for i in inputs] == [0, 1, 2]


def published_inputs(c2w, candidates, k, seed=0):
    """Long-LRM's inputs: scikit-learn's k-means of [position, forward]; of two centres at one view only one counts."""
    points = np.array([[*pose[:3, 3], *pose[:3, 2]] for pose in c2w])[candidates]
    centres = KMeans(n_clusters=k, random_state=seed, n_init="auto").fit(points).cluster_centers_
    return sorted({candidates[int(((points - centre) ** 2).sum(axis=1).argmin())] for centre in centres})


def walk_c2w(n, seed=0):
    """Return c2w (n, 4, 4) of a camera that walks far from the origin and looks around."""
    rng = np.random.default_rng(seed)
    position = np.cumsum(rng.normal(size=(n, 3)), axis=0) * 0.3 + (40, -7, 3)
    gaze = np.cumsum(rng.normal(size=(n, 3)) * 0.3, axis=0) + (1, 0, 0)
    return np.stack([look_at(p, p + g) for p, g in zip(position, gaze, strict=True)])


@pytest.mark.parametrize("n", [59, 498])
@pytest.mark.parametrize(("k", "seed"), [(1, 0), (4, 0), (16, 0), (32, 0), (32, 5)])
def test_kmeans_is_that_of_the_published_protocol(n, k, seed):
    c2w = walk_c2w(n, seed=n)
    others = [i for i in range(n) if i % 8]
    inputs, targets = select_views(c2w, None, k, None, "kmeans", target_every=8, seed=seed)
    published = published_inputs(c2w, others, k, seed)
    assert targets == list(range(0, n, 8))
    assert len(inputs) == k
    # no two centres of these share their nearest view
    assert inputs == published
    assert select_views(c2w, None, k, 0, "kmeans", seed=seed)[0] == published_inputs(c2w, list(range(n)), k, seed)


def test_kmeans_fills_up_where_centres_share_their_nearest_view():
    # Seven views at three poses: two groups of three, and one alone.
    c2w = np.repeat(random_c2w(3, seed=8), (3, 3, 1), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn warns of fewer distinct poses than centres
        inputs, _ = select_views(c2w, None, 5, 0, "kmeans")
        same, _ = select_views(np.repeat(c2w[:1], 6, axis=0), None, 4, 0, "kmeans")
    assert len(set(inputs)) == 5
    assert {min(2, i // 3) for i in inputs} == {0, 1, 2}
    assert len(set(same)) == 4


def test_kmeans_of_thousands_of_views():
    c2w = walk_c2w(4000)
    inputs, targets = select_views(c2w, None, 512, None, "kmeans", target_every=8)
    assert len(set(inputs)) == 512
    assert len(targets) == 500
    assert not set(inputs) & set(targets)


def test_kmeans_without_scikit_learn_is_one_line(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError("No module named 'sklearn'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    message = "--view_selection kmeans: needs scikit-learn (No module named 'sklearn'); wanted pip install scikit-learn"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        select_views(random_c2w(9), None, 3, 0, "kmeans")
    assert select_views(random_c2w(9), None, 3, 0, "uniform") == ([1, 4, 7], [])


def test_kmeans_is_silent_and_scikit_learn_is_loaded_only_then(tmp_path):
    script = (
        "import sys; from data.view_selection import select_views; from tests.support.scenes import random_c2w; "
        "import data.view_index, data.dataset; assert 'sklearn' not in sys.modules; "
        "print(select_views(random_c2w(40), None, 3, 0, 'kmeans')[0])"
    )
    # Without lscpu on the path joblib prints a traceback; with OMP_NUM_THREADS it does not ask for it.
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{published_inputs(random_c2w(40), list(range(40)), 3)}\n"


@pytest.mark.parametrize("method", METHODS)
def test_targets_at_every_8th_frame(method):
    c2w = random_c2w(50)
    inputs, targets = select_views(c2w, None, 16, None, method, target_every=8)
    assert targets == [0, 8, 16, 24, 32, 40, 48]
    assert len(set(inputs)) == 16
    assert not set(inputs) & set(targets)
    inputs, _ = select_views(c2w, None, 43, None, method, target_every=8)
    assert sorted(inputs + targets) == list(range(50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_input_views": 11}, "views: are 10; wanted 11 (11 inputs, 0 targets): ask for fewer"),
        (
            {"num_input_views": 6, "num_target_views": 5},
            "views: are 10; wanted 11 (6 inputs, 5 targets): ask for fewer",
        ),
        ({"num_all_views": 12, "num_input_views": 3}, "views: are 10; wanted 12 for num_all_views: ask for fewer"),
        ({"num_all_views": 4, "num_input_views": 5}, "views: are 4; wanted 5 (5 inputs, 0 targets): ask for fewer"),
        (
            {"num_input_views": 8, "target_every": 3},
            "views: are 6; wanted 8 inputs (target_every 3 takes 4 of 10): ask for fewer",
        ),
        ({"num_input_views": 1, "target_every": 1}, "views: are 0; wanted 1 inputs (target_every 1 takes 10 of 10)"),
        ({"num_input_views": 0}, "--num_input_views: is 0; wanted 1 or more"),
        ({"num_all_views": 0, "num_input_views": 1}, "--num_all_views: is 0; wanted 1 or more"),
        ({"num_target_views": -1, "num_input_views": 1}, "--num_target_views: is -1; wanted 0 or more"),
        ({"target_every": 0, "num_input_views": 1}, "--target_every: is 0; wanted 1 or more"),
        (
            {"method": "kmeans", "num_input_views": 2, "seed": 2**32},
            "--seed: is 4294967296; wanted 0 to 4294967295 for kmeans",
        ),
    ],
)
def test_requests_that_cannot_be_met(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        select_views(random_c2w(10), **{"method": "uniform", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "uniform"}, "num_input_views is None; wanted the number of inputs to choose"),
        ({"num_input_views": 2, "method": "even"}, "method is 'even'; wanted one of uniform, spread, random, kmeans"),
        ({"num_input_views": 2}, "method is None; wanted one of uniform, spread, random, kmeans"),
        (
            {"method": "uniform", "num_input_views": 2, "num_all_views": 5, "num_target_views": 1, "target_every": 3},
            "target_every is given together with num_all_views, num_target_views, which it determines",
        ),
    ],
)
def test_calls_that_make_no_sense_are_no_input_of_a_user(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        select_views(random_c2w(10), **arguments)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "arguments", [{}, {"num_target_views": 3}, {"num_all_views": 24, "num_target_views": 5}, {"target_every": 5}]
)
def test_one_number_of_a_sweep_is_select_views(method, arguments):
    c2w = random_c2w(40, seed=2)
    inputs, targets = select_views(c2w, num_input_views=7, method=method, seed=3, **arguments)
    assert select_sweep(c2w, [7], method=method, seed=3, **arguments) == ViewChoice((inputs,), targets)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_of_a_sweep_with_fixed_targets_are_chosen_alone(method):
    c2w = random_c2w(40, seed=2)
    choice = select_sweep(c2w, (8, 2, 35), method=method, target_every=8, seed=1)
    assert choice.targets == [0, 8, 16, 24, 32]
    alone = [select_views(c2w, num_input_views=k, method=method, target_every=8, seed=1)[0] for k in (8, 2, 35)]
    assert list(choice.inputs) == alone


@pytest.mark.parametrize("method", METHODS)
def test_numbers_of_a_sweep_share_the_targets_of_the_largest(method):
    c2w = random_c2w(40, seed=2)
    largest, targets = select_views(c2w, 30, 16, 6, method, seed=1)
    choice = select_sweep(c2w, [4, 16, 8], 30, 6, method=method, seed=1)
    assert choice.targets == targets
    assert choice.inputs[1] == largest
    assert [len(views) for views in choice.inputs] == [4, 16, 8]
    for k, views in zip((4, 8), choice.inputs[::2], strict=True):
        among = select_views(c2w[largest], num_input_views=k, num_target_views=0, method=method, seed=1)[0]
        assert views == [largest[i] for i in among]


def test_smaller_numbers_of_a_sweep_by_hand():
    # 8 of 24: the middles of stretches of three, 1, 4, …, 22; 2 of these 8: the third and the seventh
    choice = select_sweep(random_c2w(24), [2, 8], method="uniform", num_target_views=0)
    assert choice == ViewChoice(([7, 19], [1, 4, 7, 10, 13, 16, 19, 22]), [])


@pytest.mark.parametrize(
    ("counts", "arguments", "message"),
    [
        ([4, 2, 4], {}, "--num_input_views: is 4 twice; wanted each number once"),
        ([4, 0], {}, "--num_input_views: is 0; wanted 1 or more"),
        ([2, 11, 3], {}, "views: are 10; wanted 11 (11 inputs, 0 targets): ask for fewer"),
        ([2, 6], {"num_target_views": 5}, "views: are 10; wanted 11 (6 inputs, 5 targets): ask for fewer"),
        ([7, 2], {"target_every": 3}, "views: are 6; wanted 7 inputs (target_every 3 takes 4 of 10): ask for fewer"),
    ],
)
def test_sweeps_that_cannot_be_met(counts, arguments, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        select_sweep(random_c2w(10), counts, method="uniform", **arguments)


def test_a_sweep_over_nothing_is_no_input_of_a_user():
    with pytest.raises(ValueError, match="no number of inputs is given; wanted at least one") as caught:
        select_sweep(random_c2w(10), [], method="uniform")
    assert not isinstance(caught.value, InputError)
