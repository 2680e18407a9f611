"""Splines through cameras: smooth paths rigid, through their keys, without jumps or corners; short tours."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from model.spline import short_tour, smooth_path


def rotation_about(axis: list[float], degrees: float) -> Tensor:
    x, y, z = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(cross * np.deg2rad(degrees))


def pose(position: list[float], axis: list[float], degrees: float) -> Tensor:
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation_about(axis, degrees)
    c2w[:3, 3] = torch.tensor(position, dtype=torch.float64)
    return c2w


def random_keys(views: int, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    draw = [(generator.normal(size=3) * 3, generator.normal(size=3), generator.uniform(20, 170)) for _ in range(views)]
    return torch.stack([pose(position.tolist(), axis.tolist(), degrees) for position, axis, degrees in draw])


def intrinsics(views: int) -> Tensor:
    return torch.linspace(100, 200, views)[:, None] + torch.tensor([0.0, 5.0, -60.0, -70.0])


def angles(c2w: Tensor, other: Tensor) -> Tensor:
    """Angles in radians between rotations; the sine form is exact for small ones."""
    difference = (c2w[..., :3, :3] - other[..., :3, :3]).flatten(-2).norm(dim=-1)
    return 2 * torch.asin((difference / 8**0.5).clamp(max=1))


def assert_rigid(c2w: Tensor) -> None:
    rotation = c2w[:, :3, :3].double()
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(rotation), atol=1e-6, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    assert torch.equal(c2w[:, 3].double(), torch.tensor([0.0, 0, 0, 1]).double().expand(len(c2w), 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
@pytest.mark.parametrize("views", [2, 3, 7])
def test_a_path_is_rigid_and_without_a_jump(views: int, smoothing: float) -> None:
    keys = random_keys(views, seed=views)
    fxfycxcy, c2w = smooth_path(keys, intrinsics(views), 400, smoothing=smoothing)
    assert c2w.shape == (400, 4, 4)
    assert fxfycxcy.shape == (400, 4)
    assert c2w.dtype == torch.float64
    assert fxfycxcy.dtype == torch.float32
    assert_rigid(c2w)
    size = (keys[:, :3, 3].amax(0) - keys[:, :3, 3].amin(0)).norm() / 2
    step = torch.hypot((c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1) / size, angles(c2w[1:], c2w[:-1]))
    # Equal arcs; a chord is shorter than its arc only where the path bends within a frame.
    assert step.max() < 1.01 * step.median()
    # Intrinsics stay between those of the keys.
    assert fxfycxcy.amin() > 29.99
    assert fxfycxcy.amax() < 205.01


def test_a_path_passes_every_key_in_order() -> None:
    keys, given = random_keys(6, seed=1), intrinsics(6)
    fxfycxcy, c2w = smooth_path(keys, given, 3000)
    distance = (c2w[:, None, :3, 3] - keys[:, :3, 3]).norm(dim=-1) + angles(c2w[:, None], keys)
    nearest, frame = distance.min(0)
    step = (c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1).max() + angles(c2w[1:], c2w[:-1]).max()
    assert (nearest < step).all()
    assert (frame.diff() > 0).all()
    assert torch.equal(frame[[0, -1]], torch.tensor([0, 2999]))
    # A frame next to a key shows the key's intrinsics: up to 100 px per piece of several hundred frames.
    assert (fxfycxcy[frame] - given).abs().max() < 0.3


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_a_path_has_no_corner(smoothing: float) -> None:
    keys = random_keys(6, seed=2)
    bends = []
    for frames in (2000, 8000):
        _, c2w = smooth_path(keys, intrinsics(6), frames, smoothing=smoothing)
        velocity = (c2w[1:, :3, 3] - c2w[:-1, :3, 3]) * frames
        turn = (c2w[:-1, :3, :3].mT @ c2w[1:, :3, :3] - torch.eye(3)) * frames
        bends.append([part.diff(dim=0).flatten(1).norm(dim=-1).max() for part in (velocity, turn)])
    # Four times the frames bend a fourth as much each; at a corner the velocity changes as much however many there are.
    assert bends[1][0] < 0.3 * bends[0][0]
    assert bends[1][1] < 0.3 * bends[0][1]


def test_two_cameras_give_a_straight_line_and_the_shorter_turn() -> None:
    keys = torch.stack([pose([1, 2, 3], [1, 2, 0], 10), pose([3, -2, 3], [1, 2, 0], 290)])
    _, c2w = smooth_path(keys, intrinsics(2), 5)
    part = (c2w[:, 0, 3] - 1) / 2
    # 2 %: the quaternion moves on its chord, which position, on the same clock, evens out only in part.
    torch.testing.assert_close(part, torch.linspace(0, 1, 5).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(c2w[:, :3, 3], torch.lerp(keys[0, :3, 3], keys[1, :3, 3], part[:, None]))
    # From 10 to 290 degrees is 80 degrees back, so the middle frame is at -30.
    torch.testing.assert_close(c2w[2, :3, :3], rotation_about([1, 2, 0], -30))
    torch.testing.assert_close(c2w[[0, -1]], keys[[0, -1]], atol=1e-12, rtol=0)


def test_one_camera_and_repeated_cameras_stand_still_or_count_once() -> None:
    key = random_keys(1, seed=3)
    fxfycxcy, c2w = smooth_path(key, intrinsics(1), 4)
    torch.testing.assert_close(c2w, key.expand(4, 4, 4), atol=1e-12, rtol=0)
    assert torch.equal(fxfycxcy, intrinsics(1).expand(4, 4))
    still = smooth_path(key.repeat(3, 1, 1), intrinsics(1).repeat(3, 1), 5, smoothing=1.0)[1]
    torch.testing.assert_close(still, key.expand(5, 4, 4), atol=1e-12, rtol=0)
    keys = random_keys(3, seed=4)
    once = smooth_path(keys, intrinsics(3), 9)
    doubled = [0, 0, 1, 1, 1, 2, 2]
    twice = smooth_path(keys[doubled], intrinsics(3)[doubled], 9)
    torch.testing.assert_close(twice[1], once[1], atol=1e-9, rtol=0)
    assert len(smooth_path(keys, intrinsics(3), 1)[1]) == 1


def test_cameras_that_only_turn_give_a_steady_turn() -> None:
    keys = torch.stack([pose([50.1, -3, 7], [0.2, 1, 0], 70.0 * view) for view in range(4)]).float()
    _, c2w = smooth_path(keys, intrinsics(4), 22)
    expected = torch.stack([pose([50.1, -3, 7], [0.2, 1, 0], 10.0 * frame) for frame in range(22)])
    # 210 degrees pass 180, where the quaternion of a matrix changes its sign.
    assert angles(c2w, expected).max() < 5e-3
    torch.testing.assert_close(c2w[:, :3, 3].double(), expected[:, :3, 3], atol=1e-5, rtol=0)


def test_smoothing_takes_out_shake_and_keeps_the_ends() -> None:
    keys = torch.stack([pose([view, 0.3 * (-1) ** view, 0], [0, 0, 1], 5.0 * (-1) ** view) for view in range(12)])
    plain = smooth_path(keys, intrinsics(12), 200)[1]
    smooth = smooth_path(keys, intrinsics(12), 200, smoothing=1.0)[1]
    assert plain[30:-30, 1, 3].abs().max() > 0.29
    assert smooth[30:-30, 1, 3].abs().max() < 0.03
    torch.testing.assert_close(smooth[[0, -1]], keys[[0, -1]], atol=1e-9, rtol=0)


def test_a_turn_in_place_before_a_long_flight_stays_in_place() -> None:
    turns = [([0, 0, 0], 0), ([0.1, 0, 0], 60), ([30, 0, 0], 65)]
    keys = torch.stack([pose(position, [0, 1, 0], degrees) for position, degrees in turns])
    _, c2w = smooth_path(keys, intrinsics(3), 500)
    # Measured 0.14 of a flight of 30, and 1.26 with a tangent that is not cut.
    assert (c2w[:, 0, 3] > -0.3).all()
    assert (angles(c2w, keys[0]) < np.deg2rad(66)).all()


def test_nearest_order_flies_along_a_shuffled_row() -> None:
    row = torch.stack([pose([view**1.2, 0.2, 0], [0, 1, 0], 3.0 * view) for view in range(9)])
    shuffled = torch.tensor([3, 0, 7, 1, 8, 2, 6, 4, 5])
    got = smooth_path(row[shuffled], intrinsics(9)[shuffled], 80, order="nearest")
    expected = smooth_path(row.flip(0), intrinsics(9).flip(0), 80)
    # Of the two directions the one that starts at the lower index: key 8 is the fifth, key 0 the second.
    expected = [value.flip(0) for value in expected]
    torch.testing.assert_close(got[1], expected[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(got[0], expected[0], atol=1e-3, rtol=0)


def test_the_short_tour_is_close_to_the_shortest() -> None:
    orders = np.array(list(itertools.permutations(range(8))))
    found, shortest = 0.0, 0.0
    for cloud in np.random.default_rng(0).normal(size=(8, 8, 3)):
        distance = np.linalg.norm(cloud[:, None] - cloud, axis=-1)
        tour = short_tour(torch.from_numpy(distance)).numpy()
        assert sorted(tour) == list(range(8))
        legs = [(order, np.roll(order, -1, axis=-1)) for order in (tour, orders)]
        mine, all_of_them = (distance[a, b][..., :-1].sum(-1) for a, b in legs)
        found += mine
        shortest += all_of_them.min()
    # Against all 40320 orders: measured 1.01, and 1.09 for the nearest neighbour alone.
    assert found < 1.03 * shortest


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"c2w": torch.eye(4)}, r"c2w is \(4, 4\) and fxfycxcy \(2, 4\); wanted"),
        ({"fxfycxcy": torch.ones(3, 4)}, r"fxfycxcy \(3, 4\); wanted"),
        ({"c2w": torch.ones(0, 4, 4), "fxfycxcy": torch.ones(0, 4)}, "one camera or more"),
        ({"num_frames": 0}, "num_frames: is 0; wanted 1"),
        ({"order": "shuffled"}, "order: is 'shuffled'; wanted given or nearest"),
        ({"smoothing": -1.0}, "smoothing: is -1.0; wanted"),
        ({"fxfycxcy": torch.tensor([[1.0, 1, 1, 1], [1, float("inf"), 1, 1]])}, "camera 1: holds a value that is not"),
        ({"c2w": torch.full((2, 4, 4), float("nan"))}, "camera 0: holds a value that is not finite; wanted"),
    ],
)
def test_smooth_path_refuses_what_gives_no_path(change: dict, match: str) -> None:
    arguments = {"c2w": random_keys(2), "fxfycxcy": intrinsics(2), "num_frames": 3} | change
    with pytest.raises(ValueError, match=match):
        smooth_path(**arguments)
