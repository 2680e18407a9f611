"""Intrinsics unlike those of the other views, or of another image size. Letters: v views."""

from dataclasses import replace

import pytest

from data.problems.scene import camera_problems
from tests.support.cameras import scene_of
from tests.support.scenes import ring_c2w

SCRIPT = "python data_preprocess/adjust_cameras.py /s/opencv_cameras.json"


@pytest.mark.parametrize(("focal", "degrees", "other"), [(290.0, "12.6", "larger"), (15.0, "130", "smaller")])
def test_focal_lengths_of_another_size_are_told_with_both_readings(focal, degrees, other):
    (problem,) = camera_problems(scene_of(ring_c2w((20,), 12), fx=focal, fy=focal))
    assert problem.startswith(
        f"/s/opencv_cameras.json: has fields of view of {degrees} degrees (longer side, median), as with focal lengths in pixels "
        f"of a {other} image; wanted those in pixels of w and h: {SCRIPT} --intrinsics_size H W, with height and width of that "
        "image; or "
    )
    # A crop may be as narrow: its principal point is anywhere.
    assert camera_problems(scene_of(ring_c2w((20,), 12), fx=290.0, fy=290.0, cx=11.0, cy=30.0)) == []


def test_a_view_with_another_focal_length():
    scene = scene_of(ring_c2w((20,), 12))
    views = tuple(replace(view, fx=480.0, fy=480.0) if i in (4, 9) else view for i, view in enumerate(scene.views))
    (problem,) = camera_problems(replace(scene, views=views))
    assert problem.startswith(
        "/s/opencv_cameras.json, views 4, 9: have a focal length 8 times that of the others of 64×48 (w×h), as in"
    )
    assert problem.endswith(f"; wanted one in pixels of w and h, or the others alone: {SCRIPT} --drop 4 9")
    # Lenses of one phone differ by less; views of another size have a focal length of their own.
    zoom = tuple(replace(view, fx=180.0, fy=180.0) if i in (4, 9) else view for i, view in enumerate(scene.views))
    assert camera_problems(replace(scene, views=zoom)) == []
    large = tuple(
        replace(view, w=512, h=384, fx=480.0, fy=480.0, cx=256.0, cy=192.0) if i in (4, 9) else view
        for i, view in enumerate(scene.views)
    )
    assert camera_problems(replace(scene, views=large)) == []


def test_the_size_is_in_the_command_where_the_principal_point_has_it():
    (problem,) = camera_problems(scene_of(ring_c2w((20,), 12), fx=120.0, fy=120.0, cx=64.0, cy=48.0))
    assert problem.endswith(f"; wanted intrinsics in pixels of w and h, not of about 128×96: {SCRIPT} --intrinsics_size 96 128")
