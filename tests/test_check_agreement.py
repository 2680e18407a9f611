"""Cameras that contradict the photos are found by matching, and the mistake is named. Letters: v views, h w pixels."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from data.scene_format import Scene, read_scene
from data_preprocess.check import agreement as agreement_module
from data_preprocess.check.agreement import Agreement, compare, pair_errors
from data_preprocess.check.findings import with_command
from data_preprocess.check.matches import Matched, sampson
from data_preprocess.check.mistakes import Cameras
from data_preprocess.check.photos import read_photo
from data_preprocess.check_scenes import main
from tests.support.scenes import write_random_scene
from tests.support.textured_room import render, walk, write_room

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room") / "room")


def broken(room, folder, change):
    """Copy the room and change the list of its views, or its photos; return its JSON."""
    shutil.copytree(room.parent, folder)
    json_path = folder / room.name
    views = json.loads(json_path.read_text())
    json_path.write_text(json.dumps(change(views, folder) or views))
    return json_path


def agreement(json_path) -> Agreement:
    scene = read_scene(json_path)
    with ThreadPoolExecutor(2) as pool:
        return compare(scene, photos_of(scene), pool)


def photos_of(scene: Scene) -> dict:
    return {i: read_photo(view)[0] for i, view in enumerate(scene.views)}


def poses(change):
    def changed(views, folder):
        for view in views:
            view["w2c"] = change(np.array(view["w2c"])).tolist()

    return changed


def intrinsics(focal=1.0, centre=1.0):
    def changed(views, folder):
        for view in views:
            for key, factor in (("fx", focal), ("fy", focal), ("cx", centre), ("cy", centre)):
                view[key] *= factor

    return changed


def cameras_of(order):
    """Give each photo the camera of another view."""

    def changed(views, folder):
        files = [view["file_path"] for view in views]
        return [{**views[j], "file_path": files[i]} for i, j in enumerate(order)]

    return changed


def photos(change):
    def changed(views, folder):
        for view in views:
            path = folder / view["file_path"]
            Image.fromarray(np.ascontiguousarray(change(np.asarray(Image.open(path))))).save(path)

    return changed


def transposed(w2c):
    return np.block([[w2c[:3, :3].T, w2c[:3, 3:]], [w2c[3:]]])


def swapped(views, folder):
    for view in views:
        view["fx"], view["fy"], view["cx"], view["cy"] = view["fy"], view["fx"], view["cy"], view["cx"]


MISTAKES = {
    "opengl": (poses(lambda w2c: OPENGL @ w2c), r"y up and z backward \(OpenGL\): .* python data_preprocess/.*\.json --axes RUB$"),
    "inverse": (poses(np.linalg.inv), r"has c2w in the place of w2c: .* --invert$"),
    "opengl_inverse": (
        poses(lambda w2c: np.linalg.inv(OPENGL @ w2c)),
        r"has c2w in the place of w2c, with y up and z backward .* --invert --axes RUB$",
    ),
    "transposed": (poses(transposed), "has w2c with transposed rotations: "),
    "negated": (poses(lambda w2c: w2c * ([[1, 1, 1, -1]] * 3 + [[1] * 4])), "has w2c with negated translations: "),
    "next": (cameras_of(np.roll(range(14), 1)), r"has photos with other photos' cameras \(their own are those of the next view\)"),
    "before": (cameras_of(np.roll(range(14), -1)), r"other photos' cameras \(their own are those of the view before\)"),
    "reverse": (cameras_of(range(13, -1, -1)), r"other photos' cameras \(their own are those of the list in reverse\)"),
    "by_letter": (
        cameras_of([0, 1, 10, 11, 12, 13, 2, 3, 4, 5, 6, 7, 8, 9]),
        r"other photos' cameras \(their own are those of the list sorted by",
    ),
    "shuffled": (cameras_of(np.random.default_rng(0).permutation(14)), "has photos that contradict the cameras: .* own; wanted"),
    "half": (
        intrinsics(focal=0.5),
        r"has focal lengths about 2 times too short: .* about 190 in view 0: .* --intrinsics_size 8\d 11\d$",
    ),
    "fourfold": (intrinsics(focal=4), r"has focal lengths about (3\.9|4|4\.1) times too long"),
    "double_size": (intrinsics(2, 2), r"has intrinsics of images of about 44\d×33\d \(w×h\): .* --intrinsics_size 33\d 44\d$"),
    "half_size": (intrinsics(0.5, 0.5), r"has intrinsics of images of about 11\d×8\d \(w×h\)"),
    "swapped": (swapped, "has fx and cx in the place of fy and cy: "),
    "mirrored": (photos(lambda pixels: pixels[:, ::-1]), "has mirrored photos: "),
    "upside_down": (photos(lambda pixels: pixels[::-1, ::-1]), "has photos upside down: "),
    "top_to_bottom": (photos(lambda pixels: pixels[::-1]), "has photos mirrored top to bottom: "),
}


def test_good_photos_and_cameras_agree(room):
    found = agreement(room)
    assert found.findings == []
    error, pairs = re.search(r"agree, matching points (\S+) pixels \(median of (\d+) pairs, photos at 224\)", found.note).groups()
    # The room is rendered exactly; what is left is the precision of SIFT's points.
    assert float(error) < 0.1
    assert int(pairs) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named(room, tmp_path, name):
    change, message = MISTAKES[name]
    json_path = broken(room, tmp_path / name, change)
    (finding,) = with_command(json_path, agreement(json_path).findings)
    assert re.search(message, finding.line)
    assert finding.line.startswith(f"{tmp_path / name}")
    assert finding.line.count("; wanted ") == 1


def test_a_mistake_in_all_cameras_is_one_problem_of_the_scene(room, tmp_path, capsys):
    json_path = broken(room, tmp_path / "half", MISTAKES["half"][0])
    assert main([str(json_path), "--no_pictures"]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("check_scenes.py: ")]
    assert "has focal lengths about 2 times too short" in line
    assert "photos and cameras disagree, matching points " in out.splitlines()[0]
    assert main([str(json_path), "--no_pictures", "--no_matching"]) == 0
    assert "photos and cameras not compared (--no_matching)" in capsys.readouterr().out


def test_what_the_cameras_alone_show_is_not_said_again(room, tmp_path, capsys):
    json_path = broken(room, tmp_path / "gl", MISTAKES["opengl"][0])
    assert main([str(json_path), "--no_pictures"]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("check_scenes.py: ")]
    assert "OpenGL" in line
    assert "matching points" not in line
    assert "photos and cameras not compared (the cameras have another convention)" in out


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 3])
def test_square_photos_on_their_side(tmp_path, turns):
    room = write_room(tmp_path / "square", size=(192, 192))
    assert agreement(room).findings == []
    (finding,) = agreement(broken(room, tmp_path / "turned", photos(lambda pixels: np.rot90(pixels, turns)))).findings
    assert f"has photos turned to the {'left' if turns == 1 else 'right'} by 90°" in finding.line


def test_two_photos_with_each_others_cameras_are_named(room, tmp_path):
    order = list(range(14))
    order[5], order[12] = 12, 5
    (finding,) = agreement(broken(room, tmp_path / "two", cameras_of(order))).findings
    assert set(finding.views) <= {5, 12}
    assert finding.views
    assert re.search(r", views? .*: has a photo that contradicts its camera: ", finding.line)
    assert finding.flags == {"drop": finding.views}


def test_a_view_that_agrees_with_one_other_is_not_named(monkeypatch):
    # Views 0 and 4 have photos of other cameras: 1 and 2 contradict both, and agree with 3, which is matched later.
    def pairs(*numbers: tuple[int, int]) -> list[Matched]:
        return [Matched(pair, np.zeros((1, 2)), np.zeros((1, 2)), 0.0) for pair in numbers]

    more = pairs((1, 3), (2, 3), (0, 3), (3, 4))
    monkeypatch.setattr(agreement_module, "match", lambda scene, chosen, pool: more)
    monkeypatch.setattr(agreement_module, "most_alike", lambda *_: [3])
    monkeypatch.setattr(
        agreement_module, "pair_errors", lambda matched, _: np.array([9.0 if {0, 4} & {*pair.views} else 0.1 for pair in matched])
    )
    first = pairs((0, 1), (0, 2), (1, 4), (2, 4))
    assert agreement_module.odd_views(None, {}, first, None, 1.0, None) == [0, 4]


def test_slightly_imprecise_cameras_agree(room, tmp_path):
    rng = np.random.default_rng(1)

    def tilt(w2c):
        turn = np.eye(4)
        turn[:3, :3] = cv2.Rodrigues(rng.normal(size=3) * np.radians(0.2))[0]
        return turn @ w2c

    assert agreement(broken(room, tmp_path / "tilted", poses(tilt))).findings == []


def test_photos_without_matches_are_not_compared(tmp_path):
    found = agreement(write_random_scene(tmp_path / "smooth", n=6, size=(150, 200)))
    assert found.findings == []
    assert re.fullmatch(r"photos and cameras not compared \(0 of \d+ pairs match\)", found.note)
    assert agreement(write_random_scene(tmp_path / "single", n=1)).note.endswith("(0 of 0 pairs match)")


def test_cameras_that_only_turn_have_no_epipolar_lines(room, tmp_path):
    size, camera = (168, 224), (190.0, 191.9, 113.5, 81.5)
    c2w = walk(8)
    c2w[:, :3, 3] = (0.1, -0.8, 1.2)
    json_path = write_room(tmp_path / "tripod", c2w, size)
    assert read_scene(json_path).views[0].fx == camera[0]
    # The same note as for the walk, from the places of points instead of lines.
    found = agreement(json_path)
    assert found.findings == []
    assert re.match(r"photos and cameras agree, matching points 0\.\d+ pixels", found.note)
    # Photos of the walk, with the cameras of the tripod.
    for view, pose in zip(read_scene(json_path).views, walk(8), strict=True):
        Image.fromarray(render(pose, camera, size)).save(view.file_path)
    (finding,) = agreement(json_path).findings
    assert "has photos that contradict the cameras" in finding.line


def test_without_parallax_the_error_is_the_distance_from_the_place():
    intrinsics = np.tile(np.array([[100.0, 0, 60], [0, 100, 40], [0, 0, 1]]), (2, 1, 1))
    w2c = np.tile(np.eye(4), (2, 1, 1))
    w2c[1, :3, :3] = cv2.Rodrigues(np.radians([0.0, 5, 0]))[0]
    cameras = Cameras(intrinsics, w2c, np.array([[80, 120], [80, 120]]))
    still = np.array([[60.0, 40.0]] * 3)
    # The middle of the image moves by f · tan(5°) where the camera turns; the matches did not.
    assert pair_errors([Matched((0, 1), still, still, 0.0)], cameras) == pytest.approx([100 * np.tan(np.radians(5))])
    moved = still + (100 * np.tan(np.radians(5)), 0)
    assert pair_errors([Matched((0, 1), still, moved, 0.0)], cameras) == pytest.approx([0], abs=1e-9)


def test_sampson_is_the_distance_from_the_line_to_first_order():
    # A camera that moves to the right: the epipolar lines are the rows, and the two points share the difference of rows.
    fundamental = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    distance = sampson(fundamental, np.array([[3.0, 7.0], [1.0, 2.0]]), np.array([[9.0, 7.5], [4.0, 2.0]]))
    np.testing.assert_allclose(distance, [0.5 / np.sqrt(2), 0], atol=1e-12)
