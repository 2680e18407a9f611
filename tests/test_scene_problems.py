"""Suspicious cameras: what is told, what is not, and how often. Letters: n views."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.camera_geometry import point_of_view
from data.problems.scene import MOST_WARNINGS, CameraWarnings, camera_problems, kind_of
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data.synthetic.batch import describe
from data.synthetic.cameras import object_cameras
from data_preprocess.capture.world_frame import orient
from tests.support.cameras import CAPTURES, scene_of, turn
from tests.support.scenes import ring_c2w, write_random_scene

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize("c2w", CAPTURES.values(), ids=CAPTURES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"fx": 230.0, "fy": 230.0}, {"fx": 18.5, "fy": 18.5}, {"fx": 1100.0, "fy": 1100.0, "cx": 12.0, "cy": 40.0}],
    ids=["usual", "16 degrees", "120 degrees", "crop of 3.3 degrees"],
)
def test_captures_of_all_kinds_are_no_problem(c2w, changes):
    assert camera_problems(scene_of(c2w, **changes)) == []
    # with y instead of z as the vertical axis, as in COLMAP's models
    tilted = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ c2w
    assert camera_problems(scene_of(tilted, **changes)) == []


@pytest.mark.parametrize("name", CAPTURES)
def test_whether_a_capture_is_an_object_is_decided_by_where_it_looks(name):
    c2w = CAPTURES[name]
    assert kind_of(scene_of(c2w)) == ("object" if name == "object" else "scene")
    assert camera_problems(scene_of(c2w), "auto") == []
    # The converters' own frame decides, where all looks at one point.
    w2c = orient(np.linalg.inv(c2w), "auto")
    assert camera_problems(scene_of(np.linalg.inv(w2c)), "auto") == []


def test_copies_of_an_object_at_another_scale_or_with_other_axes_are_objects():
    c2w = ring_c2w()
    for factor in (0.1, 10):
        scaled = c2w.copy()
        scaled[:, :3, 3] *= factor
        assert kind_of(scene_of(scaled)) == kind_of(scene_of(scaled * [1, -1, -1, 1])) == "object"
    assert kind_of(scene_of(c2w[:1])) == "object"
    assert kind_of(scene_of(CAPTURES["outwards"] - [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.5], [0, 0, 0, 0]])) == "scene"


def test_examples_and_cameras_of_training_are_no_problem():
    for name, kind in (("objects", "object"), ("scene", "scene")):
        for path in read_data_path(REPOSITORY / "data_example" / f"{name}_data_path.json"):
            scene = read_scene(path)
            assert camera_problems(scene, kind) == camera_problems(scene, "auto") == []
            assert kind_of(scene) == kind
    fox = read_scene(REPOSITORY / "tests" / "golden" / "fox_opencv_cameras.json")
    assert camera_problems(fox, "auto") == camera_problems(fox, "scene") == []
    for seed in range(60):
        c2w, _ = object_cameras(np.random.default_rng(seed), (5, 8, 24, 48)[seed % 4], (48, 64))
        assert camera_problems(scene_of(c2w), "object") == []
    for index in range(4):
        _, c2w, _ = describe("scenes", 7, index, 24, (48, 64))
        assert camera_problems(scene_of(c2w), "auto") == []


def test_an_object_photographed_by_hand_is_no_problem_once_it_is_converted():
    rng = np.random.default_rng(3)
    c2w = ring_c2w((15, 45), 13) @ np.stack([turn("x", a) @ turn("y", b) @ turn("z", c) for a, b, c in rng.normal(0, 4, (26, 3))])
    assert point_of_view(c2w) is not None
    w2c = orient(np.linalg.inv(turn("x", 70) @ c2w), "object")
    assert camera_problems(scene_of(np.linalg.inv(w2c)), "object") == []
    assert camera_problems(scene_of(np.linalg.inv(w2c)), "auto") == []


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
    assert "at a distance of 2.7e+06 (median) from what they look at" in lines[0]


def test_warnings_know_the_kind_by_whether_poses_are_normalised(capsys):
    flipped = ring_c2w() * [1, -1, -1, 1]
    flipped[:, :3, 3] *= 10
    for normalised, more in ((True, ""), (False, " (and 1 more, which check_scenes.py lists)")):
        CameraWarnings(normalised).check(scene_of(flipped))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: /s/opencv_cameras.json: has 64 cameras that ")
        flags = "--axes RUB" if normalised else "--axes RUB --scale 0.1"
        assert line.endswith(f": python data_preprocess/adjust_cameras.py /s/opencv_cameras.json {flags}{more}")


def test_a_check_takes_milliseconds():
    scene = scene_of(ring_c2w((0, 20, 40, 60), 32))
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        assert camera_problems(scene, "object") == []
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.02  # 2 to 3 ms for 128 views on a Xeon's core


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
