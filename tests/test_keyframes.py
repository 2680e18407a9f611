"""Keyframes: their spline passes through them at their times without corners, loops, and is edited into new paths."""

from typing import Any

import numpy as np
import pytest
import torch

from model.keyframes import MOST_FRAMES, Keyframe, KeyframePath


def pose(x: float, y: float, z: float, turn_deg: float, axis: int = 1) -> np.ndarray:
    """Return a pose turned about one of the world's axes."""
    a, (i, j) = np.deg2rad(turn_deg), ((1, 2), (2, 0), (0, 1))[axis]
    c2w = np.eye(4)
    c2w[i, i] = c2w[j, j] = np.cos(a)
    c2w[i, j], c2w[j, i] = -np.sin(a), np.sin(a)
    c2w[:3, 3] = x, y, z
    return c2w


def path(**change: Any) -> KeyframePath:
    """Return a path of four unevenly spaced keys; its turns add up to more than 360 degrees."""
    cameras = [(0, 0, 1, 0), (1, 2, 0, 110), (4, 1, 0, 220), (4, -3, 2, 330)]
    keys = [
        Keyframe(pose(*camera), 40 + 10 * i, time) for i, (camera, time) in enumerate(zip(cameras, (0, 1, 1.5, 4), strict=True))
    ]
    return KeyframePath(**{"keyframes": tuple(keys), "image_size": (45, 80), "fps": 10.0, "closing_s": 2.5} | change)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle in degrees between two poses' rotations."""
    return np.rad2deg(np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1)))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("tension", [0.0, 0.4, 1.0])
def test_the_spline_passes_through_the_keys_at_their_times(loop: bool, tension: float) -> None:
    keys = path(loop=loop, tension=tension)
    c2w, fov_deg = keys.at([key.time_s for key in keys.keyframes])
    np.testing.assert_allclose(c2w, np.stack([key.c2w for key in keys.keyframes]), atol=1e-12)
    np.testing.assert_allclose(fov_deg, [40, 50, 60, 70], rtol=1e-12)
    c2w, fov_deg = keys.at(np.linspace(0, keys.seconds, 500))
    rotation = c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (500, 3, 3)), atol=1e-12)
    assert (np.linalg.det(rotation) > 0).all()
    assert fov_deg.min() > 39.5  # a Catmull-Rom spline overshoots, here by 0.3 and 1.3 degrees
    assert fov_deg.max() < 71.5


@pytest.mark.parametrize("loop", [False, True])
def test_velocity_is_continuous_at_the_keys_and_zero_under_full_tension(loop: bool) -> None:
    for tension in (0.0, 0.6, 1.0):
        keys, step = path(loop=loop, tension=tension), 1e-5
        inner = np.array([1, 1.5] + ([4, 6.5, 0] if loop else []))  # 6.5 is the first key again
        before, at, after = (
            np.concatenate([c.reshape(len(inner), -1), f[:, None]], 1) for c, f in map(keys.at, (inner - step, inner, inner + step))
        )
        arriving, leaving = (at - before) / step, (after - at) / step
        assert np.abs(arriving - leaving).max() < 0.02  # speeds of up to 100, of the field of view; their change in a step
        moves = np.abs(leaving).max(1)
        assert (moves < 0.02).all() if tension == 1 else (moves > 1).all()


def test_one_way_between_two_keys_is_straight_and_turns_the_shorter_way() -> None:
    keys = KeyframePath((Keyframe(pose(1, 2, 3, 10), 50, 0), Keyframe(pose(3, 2, -1, 290), 50, 2)), (45, 80))
    c2w, fov_deg = keys.at([0, 0.5, 1, 2])
    np.testing.assert_allclose(c2w[:, :3, 3], [[1, 2, 3], [1.5, 2, 2], [2, 2, 1], [3, 2, -1]], atol=1e-12)
    np.testing.assert_allclose(c2w[2, :3, :3], pose(0, 0, 0, -30)[:3, :3], atol=1e-12)
    np.testing.assert_allclose(fov_deg, 50)


def test_a_key_that_repeats_holds_the_camera_still() -> None:
    still = pose(1, 0, 0, 45)
    keys = (Keyframe(pose(0, 0, 0, 0), 50, 0), Keyframe(still, 50, 1), Keyframe(still, 50, 3), Keyframe(pose(9, 0, 0, 90), 50, 4))
    c2w, _ = KeyframePath(keys, (45, 80)).at(np.linspace(1, 3, 11))
    np.testing.assert_allclose(c2w, np.broadcast_to(still, c2w.shape), atol=1e-12)


def test_times_outside_stop_at_the_ends_or_wrap_around() -> None:
    np.testing.assert_allclose(path().at([-1, 9])[0], path().at([0, 4])[0])
    loop = path(loop=True)
    np.testing.assert_allclose(loop.at([-1.5, 6.5, 14.0])[0], loop.at([5.0, 0.0, 1.0])[0], atol=1e-12)
    # The way back is the shorter one: 30 degrees from 330 to 360.
    last, middle = loop.at([4.0, 5.25])[0]
    assert angle(last, middle) < 20
    assert angle(loop.at([6.5 - 1e-6])[0][0], loop.keyframes[0].c2w) < 1e-3


def test_frames_are_those_of_the_spline_with_square_pixels() -> None:
    frames = path().frames()
    assert (len(frames), frames.image_size, frames.fps) == (40, (45, 80), 10.0)
    c2w, fov_deg = path().at(np.linspace(0, 4, 40))
    np.testing.assert_allclose(frames.c2w, c2w, atol=1e-6)
    np.testing.assert_allclose(frames.fxfycxcy[:, 1], 22.5 / np.tan(np.deg2rad(fov_deg / 2)), rtol=1e-6)
    np.testing.assert_allclose(frames.fxfycxcy[:, 0], frames.fxfycxcy[:, 1])
    assert torch.equal(frames.fxfycxcy[:, 2:], torch.tensor([40.0, 22.5]).expand(40, 2))
    # A loop of 65 frames: one step on from the last frame is the first.
    loop = path(loop=True)
    assert len(loop.frames()) == 65
    np.testing.assert_allclose(loop.frames().c2w, loop.at(np.arange(65) / 10)[0], atol=1e-6)


@pytest.mark.parametrize("loop", [False, True])
def test_a_single_key_stands_still(loop: bool) -> None:
    keys = path(keyframes=path().keyframes[:1], loop=loop)
    assert len(keys.frames()) == (25 if loop else 1)
    np.testing.assert_allclose(keys.at([-1, 0.3, 7])[0], np.broadcast_to(keys.keyframes[0].c2w, (3, 4, 4)), atol=1e-12)


def test_moved_paths_show_moved_points_alike() -> None:
    similarity = 2.5 * pose(0, 0, 0, 70, axis=0)
    similarity[:, 3] = 1, -2, 0.5, 1
    moved, point = path().moved(similarity), np.array([0.3, 4, -2, 1])
    for times in (0.0, 0.7, 3.3):
        (old,), (new,) = path().at([times])[0], moved.at([times])[0]
        np.testing.assert_allclose(new[:3, :3].T @ new[:3, :3], np.eye(3), atol=1e-9)
        seen = [np.linalg.inv(c2w) @ x for c2w, x in ((old, point), (new, similarity @ point))]
        np.testing.assert_allclose(seen[1][:3], 2.5 * seen[0][:3], atol=0.05)  # the spline of moved keys, to rounding
    np.testing.assert_allclose(moved.frames().c2w, path().frames().moved(torch.from_numpy(similarity)).c2w, atol=1e-5)
    for bad in (np.eye(4)[:3], np.diag([1.0, 1, 2, 1]), np.diag([1.0, 1, -1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="similarity: is not a rotation times a scale"):
            path().moved(bad)


def test_editing_returns_new_paths() -> None:
    keys = path()
    new = Keyframe(pose(7, 7, 7, 5), 33, 1.2)
    assert [key.time_s for key in keys.inserted(new, 1).keyframes] == [0, 1, 1.2, 1.5, 4]
    assert [key.time_s for key in keys.inserted(Keyframe(new.c2w, 33, 5.0), 3).keyframes] == [0, 1, 1.5, 4, 5]
    first = keys.inserted(Keyframe(new.c2w, 33, -2.0), -1)
    assert [key.time_s for key in first.keyframes] == [0, 2, 3, 3.5, 6]
    assert first.keyframes[0].fov_deg == 33
    assert keys.replaced(1, new).keyframes[1].fov_deg == 33
    assert [key.time_s for key in keys.deleted(0).keyframes] == [0, 0.5, 3]
    assert [key.time_s for key in keys.deleted(2).keyframes] == [0, 1, 4]
    slow = path(loop=True).with_duration(13)
    assert ([key.time_s for key in slow.keyframes], slow.closing_s, slow.seconds) == ([0, 2, 3, 8], 5, 13)
    assert [key.time_s for key in keys.keyframes] == [0, 1, 1.5, 4]


KEYS = path().keyframes


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: path(keyframes=()), r"times: are \[\]; wanted one or more"),
        (lambda: path(keyframes=KEYS[1:]), "times: are .*; wanted one or more, ascending from 0"),
        (lambda: path(keyframes=(KEYS[0], KEYS[2], KEYS[1])), "ascending from 0"),
        (lambda: path(image_size=(0, 3)), "image size: is"),
        (lambda: path(fps=float("nan")), "fps: is nan; wanted 0.1 to 240"),
        (lambda: path(tension=1.1), "tension: is 1.1; wanted 0 to 1"),
        (lambda: path(closing_s=0), "closing_s: is 0; wanted a number above 0"),
        (lambda: path().with_duration(0), "duration: is 0 s"),
        (lambda: path(keyframes=KEYS[:1]).with_duration(2), "duration: is 2 s for 0"),
        (lambda: path().with_duration(1e5).frames(), f"frames: are 1000000; wanted {MOST_FRAMES} at most"),
        (lambda: path().deleted(4), "key 4: is not there; wanted 0 to 3"),
        (lambda: path().replaced(-1, KEYS[0]), "key -1: is not there"),
        (lambda: path().inserted(KEYS[1], 3), "ascending from 0"),
        (lambda: path(keyframes=KEYS[:1]).deleted(0), "wanted one or more"),
        (lambda: Keyframe(np.eye(3), 50, 0), "c2w: is not a pose"),
        (lambda: Keyframe(np.full((4, 4), np.nan), 50, 0), "c2w: is not a pose"),
        (lambda: Keyframe(np.diag([1.0, 1, -1, 1]), 50, 0), "c2w: is not rigid"),
        (lambda: Keyframe(np.diag([2.0, 2, 2, 1]), 50, 0), "c2w: is not rigid"),
        (lambda: Keyframe(np.eye(4), 180, 0), "field of view: is 180 degrees"),
        (lambda: Keyframe(np.eye(4), 50, float("inf")), "time: is inf s"),
    ],
)
def test_impossible_paths_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
