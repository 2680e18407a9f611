"""Photos that repeat others, or are brighter, darker, of other colours or blurred, are found; walks are left alone."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from data.problems.problem import Problem, mended_without
from data.scene_format import View, read_scene, write_scene
from data_preprocess.check.findings import FIRST_LINES, MOST_LINES, Finding, counts, finding_of, lines_of, with_command
from data_preprocess.check.looks import blurs
from data_preprocess.check.neighbours import nearest_views
from data_preprocess.check.photos import read_photo
from data_preprocess.check.tones import tone_jumps, tones
from data_preprocess.check_scenes import check_scene
from tests.support.scenes import look_at, write_random_scene
from tests.support.textured_room import render, walk, write_room

CAMERA, SIZE = (190.0, 191.9, 113.5, 81.5), (168, 224)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    # Slowly, so that neighbours show the same things.
    return write_room(tmp_path_factory.mktemp("room") / "room", walk(28)[8:22])


@pytest.fixture
def scene(room, tmp_path):
    """Return the JSON of a copy of the room."""
    shutil.copytree(room.parent, tmp_path / "room")
    return tmp_path / "room" / room.name


def findings(json_path) -> list[Finding]:
    with ThreadPoolExecutor(2) as pool:
        return check_scene(read_scene(json_path), pool, matching=False).findings


def edit(json_path, view, change):
    path = json_path.parent / "images" / f"{view:05d}.png"
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def light(pixels, gain):
    """Return pixels with more or less light, by sRGB's curve; `gain` is one number or three."""
    linear = np.where(pixels <= 10, pixels / 255 / 12.92, ((pixels / 255 + 0.055) / 1.055) ** 2.4) * gain
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def test_a_good_walk_has_no_findings(room):
    assert findings(room) == []


def smaller(pixels):
    return np.asarray(Image.fromarray(pixels).resize((112, 84), Image.Resampling.LANCZOS))


def jpeg(pixels):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("change", [lambda pixels: pixels, smaller, jpeg, lambda pixels: light(pixels, (1.1, 1, 0.9))])
def test_a_copy_is_found_by_content(scene, change):
    source = np.asarray(Image.open(scene.parent / "images" / "00009.png"))
    edit(scene, 4, lambda pixels: change(source))
    found = [finding for finding in findings(scene) if finding.kind == "set of copies"]
    (finding,) = found
    assert finding.views in ((4,), (9,))
    other = 13 - finding.views[0]
    assert re.search(
        rf"room/opencv_cameras.json, view {finding.views[0]}: has the photo of view {other} again, .*; wanted each photo once.*"
        rf": python data_preprocess/adjust_cameras.py /.*opencv_cameras.json --drop {finding.views[0]}$",
        finding.line,
    )


def test_a_pause_in_a_walk_is_a_near_duplicate(tmp_path):
    c2w = walk()
    # A hand that holds still: turned by a fifteenth of a degree, 0.2 pixels.
    turn = np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(np.radians([0.03, 0.06, 0.02]))[0]
    c2w[7] = c2w[6] @ turn
    (finding,) = findings(write_room(tmp_path / "pause", c2w))
    assert finding.kind == "set of near duplicates"
    assert re.search(r", view [67]: has nearly the photo of view [67]: .* --drop [67]$", finding.line)


def test_neighbouring_frames_are_no_near_duplicates(tmp_path):
    # The first steps are short: a pixel and more from photo to photo.
    assert findings(write_room(tmp_path / "slow", walk(60)[4:14])) == []


@pytest.mark.parametrize(
    ("gain", "kind", "message"),
    [
        (1.7, "exposure jump", r"view 5: has 1\.[5-8]\d* times the light"),
        (0.5, "exposure jump", r"view 5: has 0\.5\d* times the light"),
        ((1.4, 1.0, 1.0), "white balance jump", r"view 5: has 1\.[34]\d* times the red, "),
        ((1.0, 1.0, 0.6), "white balance jump", r"view 5: has 0\.6\d* times the blue, "),
    ],
)
def test_a_photo_of_another_exposure_or_white_balance(scene, gain, kind, message):
    edit(scene, 5, lambda pixels: light(pixels, gain))
    (finding,) = findings(scene)
    assert (finding.kind, finding.views) == (kind, (5,))
    assert re.search(message, finding.line)
    assert finding.line.endswith(" --drop 5")


def test_a_walk_from_dark_to_light_is_good(scene):
    for view in range(14):
        edit(scene, view, lambda pixels, view=view: light(pixels, 0.35 * 1.09**view))
    assert findings(scene) == []


def motion(pixels):
    return cv2.filter2D(pixels, -1, np.full((1, 9), 1 / 9))


@pytest.mark.parametrize("blur", [lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 1.5), motion])
def test_a_blurred_photo(scene, blur):
    edit(scene, 8, blur)
    (finding,) = findings(scene)
    assert (finding.kind, finding.views, finding.mark) == ("blurred photo", (8,), "blurred")
    assert re.search(r"view 8: has 0\.\d+ times the fine detail of the other photos; wanted sharp photos", finding.line)


def test_a_scene_that_is_smooth_everywhere_is_not_blurred(scene, tmp_path):
    for view in range(14):
        edit(scene, view, lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 3))
    assert [finding for finding in findings(scene) if finding.kind == "blurred photo"] == []
    assert findings(write_random_scene(tmp_path / "smooth", n=9, size=(90, 120))) == []


def test_a_turned_bowl_looks_the_same_from_all_sides_and_is_no_duplicate(tmp_path):
    y, x = np.mgrid[:64, :64] - 31.5
    (tmp_path / "bowl").mkdir()
    views = []
    for i in range(8):
        pose = look_at((2.7 * np.cos(i), 2.7 * np.sin(i), 0.5))
        # Rings that each camera, a little higher than the last, sees a little lower.
        rings = 130 + 80 * np.sin(1.1 * (y - 0.06 * i) + 0.02 * y**2)
        pixels = np.where(x**2 + y**2 < 800, rings, 255)[..., None].repeat(3, -1)
        path = tmp_path / "bowl" / f"{i}.png"
        Image.fromarray(pixels.round().astype(np.uint8)).save(path)
        views.append(View(path, 64, 64, 60.0, 60.0, 32.0, 32.0, np.linalg.inv(pose)))
    write_scene(tmp_path / "bowl" / "opencv_cameras.json", views)
    assert "set of near duplicates" not in {finding.kind for finding in findings(tmp_path / "bowl" / "opencv_cameras.json")}


def test_jumps_and_blurs_are_those_that_were_made(room):
    scene = read_scene(room)
    photos = [read_photo(view)[0] for view in scene.views]
    nearest = nearest_views(scene.views, 6)
    light = tones([photo.reduced.colours for photo in photos])
    good = tone_jumps(nearest, light)
    assert np.nanmax(np.abs(good)) < 0.1
    light[3, ..., :3] += np.log([1.3, 1.3, 1.3])
    jump = tone_jumps(nearest, light)[3]
    assert jump[0] == pytest.approx(np.log(1.3), abs=0.1)
    assert np.abs(jump[1:]).max() < 0.1
    # Two in a row that are alike; a single neighbour that contradicts the others for no such reason is a change of the scene.
    light[4, ..., :3] += np.log([1.3, 1.3, 1.3])
    assert tone_jumps(nearest, light)[3:5, 0] == pytest.approx(np.log(1.3), abs=0.12)
    sharpness = np.stack([photo.sharpness for photo in photos])
    assert np.nanmax(blurs(nearest, sharpness)) < 0.5
    sharpness[3, 1] -= 2.0
    assert blurs(nearest, sharpness)[3] == pytest.approx(2.0, abs=0.5)
    sharpness[4] = np.nan
    assert np.isnan(blurs(nearest, sharpness)[4])


def test_the_nearest_views_are_those_beside_on_a_walk(room):
    nearest = nearest_views(read_scene(room).views, 2)
    assert nearest.shape == (14, 2)
    assert all(abs(row - i).max() <= 2 for i, row in enumerate(nearest))
    assert nearest_views(read_scene(room).views[:2], 6).tolist() == [[1], [0]]


def test_a_room_is_rendered_by_its_cameras():
    c2w = walk()
    h, w = SIZE
    assert render(c2w[0], CAMERA, SIZE).shape == (h, w, 3)
    # A camera that turns by 90° about its axis sees the same, turned.
    turned = c2w[2].copy()
    turned[:3, 0], turned[:3, 1] = c2w[2][:3, 1], -c2w[2][:3, 0]
    first = render(c2w[2], (100.0, 100.0, 40.0, 40.0), (80, 80)).astype(int)
    second = render(turned, (100.0, 100.0, 40.0, 40.0), (80, 80)).astype(int)
    np.testing.assert_allclose(np.rot90(second, -1), first, atol=1)


def test_many_findings_are_counted_and_the_first_of_each_kind_shown():
    many = [finding_of("camera problem", "a.json", Problem("is odd", "even", (i,)), "camera") for i in range(30)]
    other = [Finding("blurred photo", "a.json, view 2: has blur; wanted none", (2,), "blurred")]
    lines = lines_of([*many, *other], "list.json")
    assert lines[:FIRST_LINES] == [finding.line for finding in many[:FIRST_LINES]]
    assert lines[FIRST_LINES:] == [f"list.json: has {30 - FIRST_LINES} more camera problems, 30 in all; wanted none", other[0].line]
    assert lines_of(many[:MOST_LINES], "list.json") == [finding.line for finding in many[:MOST_LINES]]
    assert counts([*many, *other]) == "31 problems (30 camera problems, 1 blurred photo)"
    assert counts(many[:1]) == "1 problem"


def test_one_command_mends_all_findings_of_a_scene():
    problems = [
        Problem("has a", "b"),
        mended_without((7, 2), "have c", "d"),
        Problem("has e", "f", flags={"axes": "RUB"}),
        mended_without((3,), "has g", "h"),
    ]
    findings = with_command("a.json", [finding_of("camera problem", "a.json", problem, "camera") for problem in problems])
    command = "python data_preprocess/adjust_cameras.py a.json --axes RUB --drop 2 3 7"
    assert [finding.line for finding in findings] == [
        "a.json: has a; wanted b", f"a.json, views 7, 2: have c; wanted d: {command}", f"a.json: has e; wanted f: {command}",
        f"a.json, view 3: has g; wanted h: {command}",
    ]  # fmt: skip
    assert [(finding.views, finding.mark) for finding in findings] == [((), ""), ((7, 2), "camera"), ((), ""), ((3,), "camera")]
