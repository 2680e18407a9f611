"""Poses of another convention: which is told, by which capture, and what stays open. Letters: v views."""

import numpy as np
import pytest

from data.camera_geometry import CONVENTIONS, DIRECTIONS, OPENCV, axes_in_words, to_opencv
from data.problems.poses import WHOSE, convention_problem, mended
from data.problems.problem import NORMALISED
from data.problems.scene import camera_problems
from tests.support.cameras import CAPTURES, scene_of, turn, walk
from tests.support.scenes import look_at, random_c2w, ring_c2w

OPENGL = [1, -1, -1, 1]
COMMAND = ": python data_preprocess/adjust_cameras.py /s/opencv_cameras.json "


def as_given_in(c2w: np.ndarray, convention: str) -> np.ndarray:
    """Return poses (v, 4, 4) whose columns are the named directions of cameras with OpenCV axes."""
    columns = {"R": c2w[:, :3, 0], "D": c2w[:, :3, 1], "F": c2w[:, :3, 2]}
    columns |= {"L": -columns["R"], "U": -columns["D"], "B": -columns["F"]}
    given = c2w.copy()
    given[:, :3, :3] = np.stack([columns[letter] for letter in convention], axis=2)
    return given


def arc(degrees: float, elevation: float = 25.0, v: int = 14) -> np.ndarray:
    """Return c2w (v, 4, 4) on a part of a ring around the origin."""
    level, height = np.cos(np.radians(elevation)), np.sin(np.radians(elevation))
    angles = np.radians(np.linspace(0, degrees, v))
    return np.stack([look_at((2.5 * level * np.cos(a), 2.5 * level * np.sin(a), 2.5 * height)) for a in angles])


def test_all_right_handed_conventions_come_back():
    assert len(CONVENTIONS) == 24
    assert {"RDF", "RUB", "DRB", "FLU", "FRD"} < set(CONVENTIONS)
    assert "RUF" not in CONVENTIONS  # left-handed: Unity's
    c2w = random_c2w(5)
    for convention in CONVENTIONS:
        given = as_given_in(c2w, convention)
        np.testing.assert_allclose(np.linalg.det(given[:, :3, :3]), 1)
        np.testing.assert_allclose(to_opencv(given, convention), c2w, atol=1e-12)
    assert axes_in_words("RUB") == "x right, y up, z backward"
    assert DIRECTIONS["U"] == (0, -1, 0)


@pytest.mark.parametrize(
    "c2w",
    [ring_c2w(), ring_c2w((20,), 12), ring_c2w((0,), 9), random_c2w(40), arc(180), arc(60), arc(20, 30)],
    ids=["rings", "ring", "level ring", "random", "half ring", "arc", "short arc from above"],
)
@pytest.mark.parametrize("kind", ["object", "scene"])
def test_axes_of_opengl_in_a_world_with_z_up(c2w, kind):
    (problem,) = camera_problems(scene_of(c2w * OPENGL), kind)
    or_scene = f", or {NORMALISED}" if kind == "object" else ""
    what = "have behind them what they surround" if kind == "object" else "are upside down and look away from each other"
    assert problem == (
        f"/s/opencv_cameras.json: has {len(c2w)} cameras that {what}, as with OpenGL's and Blender's axes x right, y up, z "
        f"backward, so that new views are blurs; wanted the axes x right, y down, z forward (OpenCV){or_scene}{COMMAND}--axes RUB"
    )


@pytest.mark.parametrize("world", [turn("x", 90), turn("x", -90), turn("y", 130) @ turn("x", 50)], ids=["y down", "y up", "any"])
def test_axes_of_opengl_in_any_world(world):
    # Of an object, always; of a scene, where a dome of cameras is turned over.
    (problem, _) = camera_problems(scene_of(world @ ring_c2w() * OPENGL), "object")
    assert "have behind them what they surround" in problem
    assert problem.endswith("--axes RUB --frame object")
    (problem,) = camera_problems(scene_of(world @ ring_c2w() * OPENGL), "scene")
    assert "all look down and away from one point behind them, from several heights" in problem
    assert problem.endswith("--axes RUB")
    # Turned over, a level ring of cameras that look inwards is one that looks outwards, and so is a forward-facing arc.
    for open_question in (ring_c2w((10,), 12), arc(90)):
        assert camera_problems(scene_of(world @ open_question * OPENGL), "scene") == []


@pytest.mark.parametrize("convention", ["FLU", "FRD", "DRB", "RFU", "LUF"])
def test_other_axes_of_an_object(convention):
    for c2w in (ring_c2w(), arc(300), ring_c2w((-20, 10, 50), 7)):
        given = as_given_in(c2w, convention)
        (problem,) = camera_problems(scene_of(given), "object")
        assert f"as with {WHOSE[convention]} axes {axes_in_words(convention)}, so that" in problem
        assert problem.endswith(f"--axes {convention}")
        np.testing.assert_allclose(mended(given, convention_problem(given, is_object=True)), c2w, atol=1e-12)


def test_photos_on_their_side_are_the_other_reading():
    (problem,) = camera_problems(scene_of(as_given_in(ring_c2w(), "DRB")), "object")
    assert "(OpenCV), or RUB (OpenGL) instead of DRB if the photos lie on their side or upside down, or normalised" in problem
    (problem,) = camera_problems(scene_of(as_given_in(ring_c2w(), "LUF")), "object")
    assert "has 64 cameras that are upside down, and yet above what they look at, as with PyTorch3D's axes" in problem
    # In a world with another direction up, OpenGL's axes are likelier than rare ones.
    (problem, _) = camera_problems(scene_of(turn("x", 60) @ as_given_in(ring_c2w(), "RUB")), "object")
    assert problem.endswith("--axes RUB --frame object")


@pytest.mark.parametrize("convention", [OPENCV, "RUB"])
def test_poses_the_wrong_way_round(convention):
    flags = "--invert" if convention == OPENCV else "--invert --axes RUB"
    for kind in ("scene", "object"):
        same = scene_of(np.linalg.inv(as_given_in(ring_c2w(), convention)))
        (problem,) = camera_problems(same, kind)
        assert "has all 64 cameras in one place; wanted different positions: w2c, camera from world" in problem
        assert problem.endswith(COMMAND + flags)
        near = ring_c2w(radius=2.7)
        near[:, :3, 3] *= np.random.default_rng(0).uniform(0.9, 1.1, (64, 1))
        (problem,) = camera_problems(scene_of(np.linalg.inv(as_given_in(near, convention))), kind)
        assert "has 64 poses whose inverses look at one point" in problem
        assert problem.endswith(flags)
    # Views that miss the origin widely are told of an object alone.
    wide = random_c2w(40)
    wide[:, :3, 3] += (0.4, 0.3, 0)
    (problem,) = camera_problems(scene_of(np.linalg.inv(as_given_in(wide, convention))), "object")
    assert problem.endswith(flags)


def test_cameras_that_look_at_nothing_in_common_are_no_object():
    for name in ("walk", "outwards", "panorama", "walk looking around", "forward-facing, diverging"):
        problems = camera_problems(scene_of(CAPTURES[name]), "object")
        assert problems, name
    (problem,) = camera_problems(scene_of(CAPTURES["walk"] + [[0, 0, 0, 5], [0] * 4, [0] * 4, [0] * 4]), "object")
    assert " (median) from the origin that look at no common point and past it, where an object's network" in problem
    assert (
        "; wanted cameras around an object at the origin, or normalised poses (--scene_inference, --scene_pose_normalize)"
        in problem
    )


def test_few_views_leave_the_convention_open():
    flipped = scene_of(ring_c2w((20,), 3) * OPENGL)
    assert camera_problems(flipped, "scene") == []
    (problem,) = camera_problems(flipped, "object")
    assert "has 3 of 3 views that do not show (0, 0, 0), where the object is expected" in problem


def test_cameras_in_one_place_without_another_reading():
    tripod = walk(lambda t: (1, 2, 3), lambda t: (np.cos(t), np.sin(t), 0.1), v=7)
    (problem,) = camera_problems(scene_of(tripod))
    assert problem == "/s/opencv_cameras.json: has all 7 cameras in one place; wanted different positions"
