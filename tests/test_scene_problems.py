"""Suspicious cameras: what is told, what is not, and how often. Letters: n views."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.scene_format import Scene, View
from data.scene_problems import MOST_WARNINGS, CameraWarnings, camera_problems, scale_problems
from tests.support.scenes import look_at, random_c2w, ring_c2w, write_random_scene


def scene_of(c2w, name="s", **changes) -> Scene:
    """Return a scene of 64×48 (w×h) with a field of view of 56 degrees."""
    camera = {"w": 64, "h": 48, "fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0, **changes}
    views = [View(Path(f"/{name}/{i}.png"), **camera, w2c=np.linalg.inv(pose)) for i, pose in enumerate(c2w)]
    return Scene(name, Path(f"/{name}/opencv_cameras.json"), tuple(views))


def walk(position, forward, n=24) -> np.ndarray:
    """Return c2w (n, 4, 4) along functions of an angle in 0 to 2π."""
    angles = np.arange(n) * 2 * np.pi / n
    return np.stack([look_at(position(t), np.add(position(t), forward(t))) for t in angles])


def circle(t, radius=1.0, height=1.6):
    return radius * np.cos(t), radius * np.sin(t), height


CAPTURES = {
    "object": ring_c2w(),
    "object at random": random_c2w(40),
    "one view": random_c2w(1),
    "walk": walk(lambda t: (t, 0, 1.6), lambda t: (1, 0.3 * np.sin(3 * t), 0)),
    "walk looking around": walk(lambda t: (t, 0, 1.6), lambda t: circle(t, height=-0.1)),
    "round tour": walk(circle, lambda t: (-np.sin(t), np.cos(t), 0)),
    "outwards": walk(circle, lambda t: circle(t, height=0.1)),
    "panorama": walk(lambda t: circle(t, 0.2), lambda t: circle(t, height=0)),
    "faces of panoramas": np.stack(
        [
            look_at((0.1 * np.cos(i), 0.1 * np.sin(i), 1.6), np.add((0.1 * np.cos(i), 0.1 * np.sin(i), 1.6), face))
            for i in range(5)
            for face in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (1e-3, 0, 1), (1e-3, 0, -1))
        ]
    ),
    "forward-facing": walk(lambda t: (np.cos(t), 0, np.sin(t)), lambda t: (-0.1 * np.cos(t), 1, 0)),
    "forward-facing, diverging": walk(lambda t: (np.cos(t), 0, np.sin(t)), lambda t: (0.3 * np.cos(t), 1, 0)),
}


@pytest.mark.parametrize("c2w", CAPTURES.values(), ids=CAPTURES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"fx": 1100.0, "fy": 1100.0}, {"fx": 18.5, "fy": 18.5}, {"cx": 12.0, "cy": 40.0}],
    ids=["usual", "3.3 degrees", "120 degrees", "crop"],
)
def test_captures_of_all_kinds_are_no_problem(c2w, changes):
    assert camera_problems(scene_of(c2w, **changes)) == []
    # with y instead of z as the vertical axis, as in COLMAP's models
    tilted = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ c2w
    assert camera_problems(scene_of(tilted, **changes)) == []


AWAY = "has cameras upside down that look away from each other; wanted the axes x right, y down, z forward (OpenCV)"


@pytest.mark.parametrize("c2w", [ring_c2w(), ring_c2w((20,), 12), random_c2w(40)], ids=["rings", "ring", "random"])
def test_cameras_with_axes_of_opengl(c2w):
    assert camera_problems(scene_of(c2w * [1, -1, -1, 1])) == [f"/s/opencv_cameras.json: {AWAY}"]


def test_poses_the_wrong_way_round():
    (problem,) = camera_problems(scene_of(np.linalg.inv(ring_c2w())))
    assert problem.endswith("has all 64 cameras in one place; wanted different positions: w2c is camera from world")
    near = ring_c2w(radius=2.7)
    near[:, :3, 3] *= np.random.default_rng(0).uniform(0.9, 1.1, (64, 1))
    (problem,) = camera_problems(scene_of(np.linalg.inv(near)))
    assert problem.endswith("(0, 0, 2.7); wanted w2c, camera from world, not c2w")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"cx": 0.5, "cy": 0.5}, "view 3: has the principal point (0.5, 0.5) in the corner of 64×48 (w×h); wanted pixels from"),
        ({"cx": 0.0, "cy": 0.0}, "view 3: has the principal point (0, 0) in the corner of 64×48 (w×h); wanted pixels from"),
        (
            {"fx": 120.0, "fy": 120.0, "cx": 64.0, "cy": 48.0},
            "has principal points of another image size, in view 0 (64, 48) for 64×48 (w×h); wanted intrinsics in pixels "
            "of w and h, not of about 128×96",
        ),
        ({"fx": 30.0, "fy": 30.0, "cx": 16.0, "cy": 12.0}, "pixels of w and h, not of about 32×24"),
        ({"cx": 24.0, "cy": 32.0}, "(24, 32) for 64×48 (w×h); wanted w and h of the upright image, which look swapped"),
        ({"fy": 4.2}, "view 3: has a field of view of 56.1×160 degrees (w×h); wanted 3 to 160"),
    ],
)
def test_intrinsics_of_another_unit_or_size(changes, problem):
    assert any(problem in line for line in camera_problems(scene_of(ring_c2w((20,), 12), **changes)))


def test_one_principal_point_that_differs_is_a_problem():
    scene = scene_of(ring_c2w())
    views = (replace(scene.views[0], cx=70.0), *scene.views[1:])
    (problem,) = camera_problems(replace(scene, views=views))
    assert "view 0: has the principal point (70, 24) outside 64×48 (w×h)" in problem


def test_crops_of_different_places_are_no_problem():
    scene = scene_of(ring_c2w((20,), 12), fx=400.0, fy=400.0)
    crops = tuple(replace(view, cx=90.0 - 14 * i, cy=20.0 + 11 * i) for i, view in enumerate(scene.views))
    assert camera_problems(replace(scene, views=crops)) == []
    # Alike in all views, it is the principal point of another image.
    tile = scene_of(ring_c2w((20,), 12), cx=90.0, cy=20.0)
    assert "has the principal point (90, 20) outside 64×48 (w×h)" in camera_problems(tile)[0]


def test_scale_counts_where_poses_are_not_normalised():
    for factor, told in ((1, False), (0.2, False), (1e6, True), (1e-3, True)):
        c2w = ring_c2w()
        c2w[:, :3, 3] *= factor
        assert bool(scale_problems(scene_of(c2w))) == told
        assert camera_problems(scene_of(c2w)) == []
    assert "at a distance of 0.0027 (median) from the origin; wanted about 2.7" in scale_problems(scene_of(c2w))[0]


def test_a_scene_is_warned_of_once(capsys):
    warnings = CameraWarnings(normalised=True)
    scene = scene_of(ring_c2w(), cx=0.5, cy=0.5)
    for _ in range(3):
        warnings.check(scene)
        warnings.check(scene_of(ring_c2w(), "good"))
    start = "warning: /s/opencv_cameras.json, view 0: has the principal point (0.5, 0.5) in the corner"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(start)
    assert line.endswith(" (and 63 more, which check_scenes.py lists)")


def test_many_scenes_do_not_fill_the_screen(capsys):
    warnings = CameraWarnings(normalised=False)
    for i in range(MOST_WARNINGS + 5):
        c2w = ring_c2w()
        c2w[:, :3, 3] *= 1e6
        warnings.check(scene_of(c2w, f"s{i}"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MOST_WARNINGS + 1
    assert lines[-1] == "warning: more scenes have suspicious cameras; check_scenes.py lists them"
    assert "at a distance of 2.7e+06 (median) from the origin" in lines[0]


def test_only_the_first_process_warns(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    CameraWarnings(normalised=True).check(scene_of(ring_c2w(), cx=0.5, cy=0.5))
    assert capsys.readouterr().err == ""


def test_inference_warns_once_and_renders(place, infer, tmp_path, capsys):
    json_path = write_random_scene(tmp_path / "odd", n=7, size=(25, 34))
    views = json.loads(json_path.read_text())
    json_path.write_text(json.dumps([{**view, "cx": 0.5, "cy": 0.5} for view in views]))
    infer("--num_input_views 3 --num_target_views 2 --video_format none --no_lpips", data=str(json_path))
    told = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(told) == 1
    assert "odd/opencv_cameras.json, view 0: has the principal point (0.5, 0.5) in the corner of 34×25 (w×h); wanted" in told[0]
