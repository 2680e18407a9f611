"""Single views that do not fit the others. Letters: v views."""

import numpy as np
import pytest

from data.problems.problem import named
from data.problems.scene import camera_problems
from tests.support.cameras import CAPTURES, scene_of, turn
from tests.support.scenes import look_at, ring_c2w

COMMAND = "python data_preprocess/adjust_cameras.py /s/opencv_cameras.json --drop"


def capture(seed: int = 0, v: int = 30) -> np.ndarray:
    """Return c2w (v, 4, 4) of a round walk with something in its middle, held by hand, in a world of its own."""
    rng = np.random.default_rng(seed)
    poses = []
    for t in np.arange(v) * 5 / v:
        target = rng.normal(0, 0.2, 3)
        pose = look_at((3 * np.cos(t), 2.5 * np.sin(t), 1.2 + 0.3 * np.sin(2 * t)), target)
        poses.append(pose @ turn("z", rng.normal(0, 4)))
    return turn("x", 75) @ np.stack(poses)


def told(c2w: np.ndarray) -> str:
    """Return the only problem of a scene, from the views on."""
    (problem,) = camera_problems(scene_of(c2w))
    return problem.removeprefix("/s/opencv_cameras.json, ")


def test_the_capture_itself_is_no_problem():
    for seed in range(5):
        assert camera_problems(scene_of(capture(seed))) == []


@pytest.mark.parametrize("factor", [12, 400])
def test_a_view_far_away(factor):
    c2w = capture()
    c2w[11, :3, 3] *= factor
    problem = told(c2w)
    assert problem.startswith("view 11: is ")
    assert "times as far from the middle of the cameras as half of the views, as after a failed registration" in problem
    assert problem.endswith(f"; wanted the others alone: {COMMAND} 11")
    c2w[[3, 4], :3, 3] *= factor
    assert told(c2w).startswith("views 3, 4, 11: are ")
    # A walk has distant views too.
    assert camera_problems(scene_of(CAPTURES["far after a detail"])) == []


def test_views_that_look_away_from_what_all_others_look_at():
    c2w = capture()
    c2w[[2, 9]] = c2w[[2, 9]] @ turn("y", 160)
    problem = told(c2w)
    assert problem.startswith("views 2, 9: are turned away by ")
    assert "degrees from what the other 28 views look at" in problem
    assert problem.endswith(f"{COMMAND} 2 9")
    # Where others look aside as well, or many away, it is a walk.
    aside = c2w.copy()
    aside[17] = aside[17] @ turn("y", 65)
    assert camera_problems(scene_of(aside)) == []
    c2w[::3] = c2w[::3] @ turn("y", 160)
    assert camera_problems(scene_of(c2w)) == []


@pytest.mark.parametrize(("angle", "seen"), [(90, "90"), (-90, "90"), (180, "1[78][0-9]")])
def test_rolled_views(angle, seen):
    c2w = capture()
    c2w[7] = c2w[7] @ turn("z", angle)
    problem = told(c2w)
    assert problem.startswith("view 7: is rolled by ")
    assert abs(float(problem.split("rolled by ")[1].split()[0]) - abs(angle)) < 20
    assert "degrees against the other 29 upright views, as where a photo's orientation was misread; wanted the others" in problem
    assert problem.endswith(f"{COMMAND} 7")
    # A tilted horizon is none.
    c2w[7] = c2w[7] @ turn("z", 30 - angle)
    assert camera_problems(scene_of(c2w)) == []


def test_almost_the_same_pose():
    c2w = capture()
    c2w[20] = c2w[5] @ turn("x", 0.01)
    c2w[20, :3, 3] += 3e-4
    problem = told(c2w)
    assert problem.startswith("view 20: has almost the pose of another, view 20 that of view 5 (0.0")
    assert "and 0.01 degrees away), so that it shows nothing new" in problem
    assert problem.endswith(f"; wanted different poses: {COMMAND} 20")
    # The same place with another direction, as of the faces of a panorama, or a place nearby, as of a video's next frame.
    for other in (c2w[5] @ turn("x", 5), c2w[5] + [[0, 0, 0, 0.03], [0] * 4, [0] * 4, [0] * 4]):
        c2w[20] = other
        assert camera_problems(scene_of(c2w)) == []


def test_the_frames_of_a_slow_video_are_no_repetitions():
    # 1500 frames on a round of 9 steps: neighbours are 0.2 % of the spread away from each other.
    angles = np.linspace(0, 5, 1500)
    video = np.stack([look_at((3 * np.cos(t), 3 * np.sin(t), 1.5), (0.3 * np.sin(3 * t), 0, 0)) for t in angles])
    assert camera_problems(scene_of(video)) == []
    video[700] = video[699] @ turn("y", 0.001)
    assert told(video).startswith("view 700: has almost the pose of another")


def test_a_camera_that_mostly_stands_still_repeats_nothing():
    rng = np.random.default_rng(1)
    still = np.repeat(capture()[:1], 40, axis=0)
    still[:, :3, 3] += rng.normal(0, 1e-4, (40, 3))
    assert camera_problems(scene_of(np.concatenate([still, capture()]))) == []


def test_rounding_sets_no_view_apart():
    inverse = np.linalg.inv(ring_c2w())  # all in one place
    inverse[:, :3, 3] += np.random.default_rng(0).normal(0, 1e-8, (64, 3))
    inverse[5, 0, 3] += 1e-6
    assert "has 64 poses whose inverses look at one point" in told(inverse)


def test_the_same_pose_is_told_once():
    c2w = capture()
    c2w[8] = c2w[3]
    assert told(c2w) == f"view 8: has the pose of view 3; wanted a different pose: {COMMAND} 8"


def test_one_command_mends_all():
    c2w = capture()
    c2w[11, :3, 3] *= 40
    c2w[7] = c2w[7] @ turn("z", 180)
    problems = camera_problems(scene_of(c2w))
    assert len(problems) == 2
    assert all(problem.endswith(f"{COMMAND} 7 11") for problem in problems)


def test_few_views_leave_it_open():
    c2w = ring_c2w((20,), 5)
    c2w[2] = c2w[2] @ turn("y", 160)
    assert camera_problems(scene_of(c2w)) == []


def test_many_views_are_counted():
    assert named([4]) == "view 4"
    assert named(list(range(9))) == "views 0, 1, 2, 3, 4, 5 and 3 more"
