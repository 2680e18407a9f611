"""Cameras of objects: scale, centre, direction up, and views that do not show the object. Letters: v views."""

from dataclasses import replace

import numpy as np
import pytest

from data.problems.scene import camera_problems
from tests.support.cameras import scene_of, turn
from tests.support.scenes import look_at, random_c2w, ring_c2w

COMMAND = "python data_preprocess/adjust_cameras.py /s/opencv_cameras.json"
SCENE = "normalised poses (--scene_inference, --scene_pose_normalize) for a scene"


def told(c2w: np.ndarray, **changes: float) -> str:
    """Return the only problem of an object, which is none of a scene."""
    assert camera_problems(scene_of(c2w, **changes), "scene") == []
    (problem,) = camera_problems(scene_of(c2w, **changes), "object")
    return problem


def moved(c2w: np.ndarray, scale: float = 1.0, shift: tuple = (0, 0, 0)) -> np.ndarray:
    moved = c2w.copy()
    moved[:, :3, 3] = scale * c2w[:, :3, 3] + shift
    return moved


def test_scale():
    for factor in (0.6, 0.8, 1.3, 1.6):
        assert camera_problems(scene_of(moved(ring_c2w(), factor)), "object") == []
    for factor, share in ((0.1, "0.1"), (0.5, "0.5"), (2, "2"), (10, "10"), (1e6, "1e+06")):
        problem = told(moved(ring_c2w(), factor))
        found = (
            f"has cameras at a distance of {2.7 * factor:.3g} (median) from what they look at, {share} times as far as in training"
        )
        assert found in problem
        assert f"; wanted about 2.7 for an object, or {SCENE}: {COMMAND} --scale {1 / factor:g}" in problem
    # The distance from the object counts, not that from the origin.
    assert camera_problems(scene_of(moved(ring_c2w(), 1, (0.5, 0, 0))), "object") == []


@pytest.mark.parametrize("shift", [(0.9, 0, 0), (0, -0.7, 1.0), (5, 5, 0)])
def test_centre(shift):
    problem = told(moved(ring_c2w(), 1, shift))
    place = ", ".join(f"{x:g}" for x in shift)
    away = np.linalg.norm(shift) / 2.7
    assert f"has cameras that look at ({place}), {away:.2g} of their distance from the origin, where an object's network" in problem
    assert problem.endswith(f"; wanted the object at the origin, or {SCENE}: {COMMAND} --frame object")


def test_direction_up():
    for c2w in (ring_c2w(), random_c2w(24)):
        assert camera_problems(scene_of(turn("x", 10) @ c2w), "object") == []
        problem = told(turn("x", 25) @ c2w)
        assert "has cameras whose direction up is 25 degrees off z, which is up in training" in problem
        assert problem.endswith(f"; wanted z up for an object, or {SCENE}: {COMMAND} --frame object")
        assert "whose direction up, which is about y, is 90 degrees off z" in told(turn("x", -90) @ c2w)
        assert "whose direction up, which is about -z, is 180 degrees off z" in told(turn("y", 180) @ c2w)


def test_what_cameras_do_not_reveal_is_not_told():
    # Renders of one side from above: their own direction up is 60 degrees off, and z may well be right.
    level, height = np.cos(np.radians(60)), np.sin(np.radians(60))
    near = np.stack([look_at((2.5 * level * np.cos(a), 2.5 * level * np.sin(a), 2.5 * height)) for a in (0, 0.05, 0.1, 0.15)])
    assert camera_problems(scene_of(near), "object") == []
    assert camera_problems(scene_of(ring_c2w((20,), 3)), "object") == []


def test_all_of_it_is_mended_by_one_command():
    problems = camera_problems(scene_of(turn("x", 90) @ moved(ring_c2w(), 10, (9, 0, 0)) * [1, -1, -1, 1]), "object")
    assert [problem.split(": has cameras ")[-1][:17] for problem in problems[1:]] == [
        "at a distance of ",
        "that look at (9, ",
        "whose direction u",
    ]
    assert all(problem.endswith(f"{COMMAND} --axes RUB --frame object") for problem in problems)


def test_a_view_that_does_not_show_the_object():
    c2w = random_c2w(30)
    c2w[12] = c2w[12] @ turn("y", 45)
    (problem,) = camera_problems(scene_of(c2w), "object")
    assert problem.startswith("/s/opencv_cameras.json, view 12: does not show (")
    assert "which the other 29 views show, as with a wrong pose or principal point; wanted it in the picture" in problem
    assert problem.endswith(f"{COMMAND} --drop 12")


def test_photos_by_hand_may_just_miss_it():
    c2w = np.stack([pose @ turn("y", angle) for pose, angle in zip(ring_c2w(), np.linspace(-33, 33, 64), strict=True)])
    assert camera_problems(scene_of(c2w), "object") == []  # half of the field of view is 28 degrees


def test_views_that_do_not_show_the_object_where_most_do_not():
    c2w = ring_c2w() @ turn("y", 14)  # 14 degrees aside, where half of the field of view is 9
    (problem,) = camera_problems(scene_of(c2w, fx=200.0, fy=200.0), "object")
    assert "has 64 of 64 views that do not show (" in problem
    assert "where the object is expected; wanted it in the picture: other poses, or intrinsics in pixels of w and h" in problem
    assert camera_problems(scene_of(c2w), "object") == []


def test_where_intrinsics_are_wrong_what_views_show_is_unknown():
    scene = scene_of(ring_c2w())
    views = tuple(replace(view, cx=-50.0) if i == 3 else view for i, view in enumerate(scene.views))
    (problem,) = camera_problems(replace(scene, views=views), "object")
    assert "view 3: has the principal point (-50, 24) outside 64×48 (w×h)" in problem
