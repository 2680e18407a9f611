"""World frame of captures: upright, centred, scaled. Letters: v views."""

import numpy as np
import pytest

from config.errors import InputError
from data.camera_geometry import OBJECT_RADIUS, point_of_view, up_direction
from data_preprocess.capture.world_frame import orient
from tests.support.captures import orbit
from tests.support.scenes import look_at, ring_c2w


def similarity(seed: int = 1) -> np.ndarray:
    """Return a random rotation, scale and shift (4, 4)."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = 3.7 * rotation
    matrix[:3, 3] = rng.normal(size=3) * 5
    return matrix


def seen_from(world: np.ndarray, c2w: np.ndarray) -> np.ndarray:
    """Return w2c (v, 4, 4) of cameras whose world was moved, turned and scaled."""
    moved = world @ c2w
    moved[:, :3, :3] /= np.cbrt(np.linalg.det(world[:3, :3]))
    return np.linalg.inv(moved)


def walk() -> np.ndarray:
    """Return c2w (v, 4, 4) of cameras that look outwards from a line, tilted up and down, as in a room."""
    poses = []
    for i, azimuth in enumerate(np.linspace(0, 5, 11)):
        position = np.array([0.4 * i, 0.1 * np.sin(i), 1.6])
        poses.append(look_at(position, position + (np.cos(azimuth), np.sin(azimuth), 0.5 * np.sin(3.0 * i))))
    return np.stack(poses)


@pytest.mark.parametrize("elevations", [(0, 20, 40, 60), (65,), (-50, -10, 30)])
def test_an_object_comes_back_to_where_objects_stand(elevations):
    given = ring_c2w(elevations, per_ring=7)[: 5 * len(elevations)]
    # A ring from above: the cameras' own up axes are 65 degrees from the true one.
    c2w = np.linalg.inv(orient(seen_from(similarity(), given)))
    position = c2w[:, :3, 3]
    # Heights, distances and relative angles are as given, so only a rotation around z is free.
    np.testing.assert_allclose(position[:, 2], given[:, 2, 3], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(position, axis=1), OBJECT_RADIUS, atol=1e-9)
    np.testing.assert_allclose(position @ position.T, given[:, :3, 3] @ given[:, :3, 3].T, atol=1e-9)
    np.testing.assert_allclose(c2w[:, 2, :3], given[:, 2, :3], atol=1e-9)


def test_what_stands_right_stays():
    given = ring_c2w()
    np.testing.assert_allclose(orient(np.linalg.inv(given)), np.linalg.inv(given), atol=1e-9)


def test_a_scene_keeps_its_shape_and_goes_into_the_cube():
    given, world = walk(), similarity(4)
    assert point_of_view(given) is None
    c2w = np.linalg.inv(orient(seen_from(world, given)))
    position, wanted = c2w[:, :3, 3], given[:, :3, 3] - given[:, :3, 3].mean(0)
    np.testing.assert_allclose(position.mean(0), 0, atol=1e-9)
    assert np.abs(position).max() == pytest.approx(1)
    size = np.linalg.norm(position) / np.linalg.norm(wanted)
    np.testing.assert_allclose(position @ position.T, size**2 * wanted @ wanted.T, atol=1e-9)
    # Upright: heights and tilts are those of the walk.
    np.testing.assert_allclose(position[:, 2], size * wanted[:, 2], atol=1e-9)
    np.testing.assert_allclose(c2w[:, 2, :3], given[:, 2, :3], atol=1e-9)


def test_relative_poses_are_kept_whatever_the_frame():
    given = np.linalg.inv(orbit(6, up=(0.3, -1, 0.4), centre=(5, 6, 7)))
    for frame in ("auto", "object", "scene", "given"):
        w2c = orient(given, frame)
        np.testing.assert_allclose(w2c[:, :3, :3] @ w2c[0, :3, :3].T, given[:, :3, :3] @ given[0, :3, :3].T, atol=1e-9)
        before, after = (given[1:] @ np.linalg.inv(given[0]))[:, :3, 3], (w2c[1:] @ np.linalg.inv(w2c[0]))[:, :3, 3]
        ratio = np.linalg.norm(after, axis=1) / np.linalg.norm(before, axis=1)
        np.testing.assert_allclose(after, before * ratio.mean(), atol=1e-9)
    assert np.array_equal(orient(given, "given"), given)


def test_cameras_that_hardly_turn_take_the_mean_of_their_own_up():
    c2w = np.stack([look_at((0.2 * i, -3, 0.5), (0.2 * i, 0, 0.5)) for i in range(4)])
    np.testing.assert_allclose(up_direction(c2w), (0, 0, 1), atol=1e-9)
    upside_down = c2w @ np.diag([-1.0, -1, 1, 1])
    np.testing.assert_allclose(up_direction(upside_down), (0, 0, -1), atol=1e-9)
    moved = np.linalg.inv(orient(np.linalg.inv(upside_down), "scene"))
    np.testing.assert_allclose(-moved[:, :3, 1], [(0, 0, 1)] * 4, atol=1e-9)


def test_an_unknown_up_direction_leaves_the_world_as_it_is():
    spun = [look_at((0, -3, 0.1 * i)) for i in range(6)]
    for i, pose in enumerate(spun):
        turn = np.pi * i / 3
        pose[:3, :2] = pose[:3, :2] @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    spun = np.stack(spun)
    assert up_direction(spun) is None
    np.testing.assert_allclose(orient(np.linalg.inv(spun), "scene")[:, :3, :3], np.linalg.inv(spun)[:, :3, :3], atol=1e-12)


def test_one_camera_has_no_scale():
    w2c = np.linalg.inv(look_at((1, 2, 3)))[None]
    np.testing.assert_allclose(np.linalg.inv(orient(w2c))[0, :3, 3], 0, atol=1e-12)


def test_an_object_needs_a_point_that_cameras_look_at():
    outwards = walk()
    with pytest.raises(InputError, match="cameras: look at no common point"):
        orient(np.linalg.inv(outwards), "object")
    backs = ring_c2w((20,), 6) @ np.diag([-1.0, 1, -1, 1])
    assert point_of_view(ring_c2w((20,), 6)) is not None
    assert point_of_view(backs) is None
