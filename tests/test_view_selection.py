"""View selection: methods, counts, and view index files. Letters: n views."""

import itertools
import json
import re

import numpy as np
import pytest

from config.errors import InputError
from data.view_selection import read_view_index, select_views
from tests.support.scenes import random_c2w, ring_c2w

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


@pytest.mark.parametrize("method", METHODS)
def test_targets_at_every_8th_frame(method):
    c2w = random_c2w(50)
    inputs, targets = select_views(c2w, None, 16, None, method, target_every=8)
    assert targets == [0, 8, 16, 24, 32, 40, 48]
    assert len(set(inputs)) == 16
    assert not set(inputs) & set(targets)
    inputs, _ = select_views(c2w, None, 43, None, method, target_every=8)
    assert sorted(inputs + targets) == list(range(50))


def test_view_index_is_taken_as_given():
    assert select_views(random_c2w(9), view_index={"inputs": [7, 0], "targets": [8, 3]}) == ([7, 0], [8, 3])
    assert select_views(random_c2w(9), view_index={"inputs": [7], "targets": []}) == ([7], [])


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
        (
            {"method": "uniform", "num_input_views": 2, "view_index": {"inputs": [1], "targets": [2]}},
            "view_index is given together with num_input_views, method, which it determines",
        ),
    ],
)
def test_calls_that_make_no_sense_are_no_input_of_a_user(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        select_views(random_c2w(10), **arguments)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ([1, 10], [2], "--view_index, inputs: names view 10; wanted 0 to 9"),
        ([1], [-1], "--view_index, targets: names view -1; wanted 0 to 9"),
        ([1, 4, 1], [2], "--view_index, inputs: names view 1 twice; wanted each view once"),
        ([1], [5, 5], "--view_index, targets: names view 5 twice; wanted each view once"),
        ([1, 7, 3], [2, 3, 7], "--view_index: names view 3 in inputs and targets; wanted it in one of them"),
        ([], [2], "--view_index, inputs: names no view; wanted at least one"),
        ([1, "2"], [3], "--view_index, inputs: is [1, '2']; wanted a list of view numbers"),
    ],
)
def test_view_index_that_does_not_fit(inputs, targets, message):
    with pytest.raises(InputError, match=re.escape(message)):
        select_views(random_c2w(10), view_index={"inputs": inputs, "targets": targets})


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": [3, 1], "targets": [2]},
        {"context": [3, 1], "target": [2]},
        {"chair": {"inputs": [3, 1], "targets": [2]}, "sofa": {"inputs": [0], "targets": [5]}},
        {"chair": {"context": [3, 1], "target": [2]}, "sofa": None},
    ],
)
def test_view_index_files(tmp_path, content):
    (tmp_path / "i.json").write_text(json.dumps(content))
    assert read_view_index(tmp_path / "i.json", "chair") == {"inputs": [3, 1], "targets": [2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "i.json: holds a list; wanted an object with inputs and targets"),
        ({"sofa": {}}, "i.json, scene 'chair': has no entry among 1; wanted its inputs and targets"),
        ({"chair": None}, "i.json, scene 'chair': has no entry among 1; wanted its inputs and targets"),
        ({"chair": {"inputs": [1]}}, "i.json, scene 'chair', targets: is None; wanted a list of view numbers"),
        ({"chair": {"inputs": 1}}, "i.json, scene 'chair', inputs: is 1; wanted a list of view numbers"),
        ({"inputs": [1, 2.5], "targets": []}, "i.json, inputs: is [1, 2.5]; wanted a list of view numbers"),
        ({"inputs": [True], "targets": []}, "i.json, inputs: is [True]; wanted a list of view numbers"),
    ],
)
def test_view_index_files_of_wrong_content(tmp_path, content, message):
    (tmp_path / "i.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(message)):
        read_view_index(tmp_path / "i.json", "chair")


def test_view_index_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"i\.json: is not there; wanted a JSON file"):
        read_view_index(tmp_path / "i.json", "chair")
    (tmp_path / "i.json").write_text("{")
    with pytest.raises(InputError, match=r"i\.json: is not JSON"):
        read_view_index(tmp_path / "i.json", "chair")
