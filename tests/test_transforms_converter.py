"""Conversion of captures with a transforms.json. Letters: v views, n points, h w pixels."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset import SceneDataset
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.capture.photo_names import natural_key
from data_preprocess.capture.transforms import read_transforms
from data_preprocess.merge_lists import main as merge
from data_preprocess.transforms_format_converter import main
from tests.support.captures import dots, equidistant, found_dots, orbit, paint, perspective, project, write_transforms
from tests.support.images import turned
from tests.support.scenes import contents, ring_c2w

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "transforms_format_converter.py"
MIDDLE = np.array([1.0, -2.0, 0.5])
KEYS = ("fl_x", "fl_y", "cx", "cy")
# Two cameras with different sizes, intrinsics and distortion.
LENSES = [((120, 168), (150.0, 154.0, 80.5, 62.25), {"k1": -0.2, "k2": 0.03, "p1": 0.004, "p2": -0.006}),
          ((140, 110), (118.0, 117.0, 57.0, 66.5), {"k1": 0.12, "k2": -0.02, "k3": 0.01})]  # fmt: skip
FISHEYES = [((120, 168), (120.0, 118.0, 82.5, 61.0), {"k1": 0.05, "k2": -0.01, "k3": 0.002, "k4": 0.001}),
            ((140, 110), (105.0, 105.0, 57.0, 66.5), {})]  # fmt: skip


def capture(folder, lenses, model, top=None, v=4, up=(0.2, -0.9, 0.3)):
    """Write photos of dots from an orbit, alternating two lenses; return c2w (v, 4, 4)."""
    c2w = orbit(v, up=up, centre=MIDDLE)
    images, each = [], []
    for i in range(v):
        size, camera, terms = lenses[i % 2]
        images.append(paint(project(dots() + MIDDLE, np.linalg.inv(c2w[i]), camera, model, terms), size))
        each.append({"h": size[0], "w": size[1], **dict(zip(KEYS, camera, strict=True)), **terms})
    top = {"aabb_scale": 4, "applied_scale": 2.0, "ply_file_path": "x.ply", **(top or {})}
    write_transforms(folder, images, c2w, top, each)
    return c2w


def convert(folder: Path, output: Path, *flags: str) -> list:
    """Convert a capture and return the views of its scene."""
    assert main(["--input", str(folder), "--output", str(output), *flags]) == 0
    (json_path,) = read_data_path(output / "transforms_data_path.json")
    return read_scene(json_path).views


def moved(points: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return points (n, 3), mapped by the similarity between two lists of cameras (v, 4, 4)."""
    turn = after[0, :3, :3] @ before[0, :3, :3].T
    distances = [np.linalg.norm(c2w[1:, :3, 3] - c2w[0, :3, 3], axis=1).sum() for c2w in (before, after)]
    return (points - before[0, :3, 3]) @ turn.T * (distances[1] / distances[0]) + after[0, :3, 3]


@pytest.mark.parametrize("frame", ["given", "object", "scene"])
@pytest.mark.parametrize(("lenses", "model", "top"), [(LENSES, perspective, {"camera_model": "OPENCV"}),
                                                      (FISHEYES, equidistant, {"camera_model": "OPENCV_FISHEYE"}),
                                                      (FISHEYES, equidistant, {"is_fisheye": True})])  # fmt: skip
def test_known_points_are_where_the_converted_cameras_see_them(tmp_path, lenses, model, top, frame):
    given = capture(tmp_path / "in" / "toy", lenses, model, top)
    views = convert(tmp_path / "in" / "toy", tmp_path / "out", "--frame", frame)
    c2w = np.stack([view.c2w for view in views])
    points = moved(dots() + MIDDLE, given, c2w)
    if frame == "given":
        np.testing.assert_allclose(c2w, given, atol=1e-9)
    seen = 0
    for i, view in enumerate(views):
        assert (view.h, view.w) == lenses[i % 2][0]
        expected = project(points, view.w2c, (view.fx, view.fy, view.cx, view.cy))
        found = found_dots(np.asarray(Image.open(view.file_path)), expected)
        near = np.linalg.norm(expected[:, None] - expected, axis=2) + 99 * np.eye(len(points))
        alone = ~np.isnan(found[:, 0]) & (near.min(1) > 13)
        # 8 bits, dots bent by the lens within their width, maps rounded to 1/32 pixel: 0.077 is the worst of all.
        assert np.abs(found - expected)[alone].max() < 0.12
        seen += alone.sum()
    assert seen >= 20


def test_the_given_cameras_come_back_upright_and_in_the_middle(tmp_path):
    capture(tmp_path / "toy", LENSES, perspective, v=6)
    views = convert(tmp_path / "toy", tmp_path / "out")
    c2w, upright = np.stack([view.c2w for view in views]), orbit(6)
    # Orbit cameras are not rolled: their tilt against z shows that z is up again.
    np.testing.assert_allclose(c2w[:, 2, :3], upright[:, 2, :3], atol=1e-9)
    position = c2w[:, :3, 3]
    np.testing.assert_allclose(np.median(np.linalg.norm(position, axis=1)), 2.7, atol=1e-9)
    np.testing.assert_allclose(np.cross(position, c2w[:, :3, 2]), 0, atol=1e-9)


def blender(folder: Path, c2w: np.ndarray) -> list[np.ndarray]:
    """Write a synthetic scene as the NeRF paper's: RGBA, one angle for all, names without suffix."""
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (24, 36, 4), dtype=np.uint8) for _ in c2w]
    top = {"camera_angle_x": 0.6911112070083618}
    json_path = write_transforms(folder, images, c2w, top, name="train/r_{}.png")
    content = json.loads(json_path.read_text())
    for i, frame in enumerate(content["frames"]):
        frame |= {"file_path": f"./train/r_{i}", "rotation": 0.0125}
    (folder / "transforms_train.json").write_text(json.dumps(content))
    json_path.unlink()
    return images


def test_synthetic_scenes_keep_their_pixels_and_alpha(tmp_path):
    c2w = ring_c2w((10, 50), 6)
    far = c2w.copy()
    far[:, :3, 3] *= 4.03 / 2.7
    images = blender(tmp_path / "lego", far)
    views = convert(tmp_path / "lego" / "transforms_train.json", tmp_path / "out")
    # r_10 comes after r_2; the object's cameras move from 4.03 to 2.7 without rotation, since the world was upright.
    assert [view.file_path.name for view in views] == [f"r_{i}.png" for i in range(12)]
    assert views[0].file_path.parent == tmp_path / "out" / "lego_train" / "images" / "train"
    np.testing.assert_allclose(np.stack([view.c2w for view in views]), c2w, atol=1e-9)
    for image, view in zip(images, views, strict=True):
        source = tmp_path / "lego" / "train" / view.file_path.name
        assert view.file_path.read_bytes() == source.read_bytes()
        assert np.array_equal(np.asarray(Image.open(view.file_path)), image)
        # The field of view is across the width; 36 / 2 / tan(0.6911112 / 2) by hand.
        assert (view.fx, view.fy, view.cx, view.cy) == pytest.approx((49.99998, 49.99998, 18, 12), abs=1e-4)
    loaded = SceneDataset(tmp_path / "out" / "transforms_data_path.json", (24, 36), patch_size=4)
    assert loaded.load(loaded[0], [3])["image"].shape == (1, 3, 24, 36)


def simple(folder: Path, v: int = 3, size=(20, 28), top: dict | None = None, each: list[dict] | None = None, name="images/{}.png"):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(v)]
    return write_transforms(folder, images, orbit(v), {"fl_x": 30.0} if top is None else top, each, name)


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({"fl_x": 30, "w": 28, "h": 20}, (30, 30, 14, 10)),
        ({"fl_y": 31, "cx": 13.5}, (31, 31, 13.5, 10)),
        ({"fl_x": 60, "fl_y": 62, "cx": 27, "cy": 21, "w": 56, "h": 40}, (30, 31, 13.5, 10.5)),
        ({"camera_angle_x": np.pi / 2}, (14, 14, 14, 10)),
        ({"camera_angle_x": np.pi / 2, "camera_angle_y": np.pi / 2}, (14, 10, 14, 10)),
        ({"x_fov": 90, "y_fov": 90.0}, (14, 10, 14, 10)),
        ({"camera_angle_x": np.pi / 2, "fl_x": 30, "w": None}, (30, 30, 14, 10)),
        ({"fl_x": 30, "camera_model": "SIMPLE_PINHOLE", "k1": 0.0, "is_fisheye": False}, (30, 30, 14, 10)),
    ],
)
def test_intrinsics_in_every_spelling(tmp_path, top, expected):
    top = {key: value for key, value in top.items() if value is not None}
    simple(tmp_path / "toy", top=top)
    view = convert(tmp_path / "toy", tmp_path / "out")[1]
    assert (view.fx, view.fy, view.cx, view.cy) == pytest.approx(expected)


RIGHT = np.pi / 2
OWN = {
    "nothing": ({"fl_x": 30, "fl_y": 32, "cx": 13, "cy": 9}, {}, (30, 32, 13, 9)),
    "focal length in x": ({"fl_x": 30, "fl_y": 32}, {"fl_x": 40}, (40, 40, 14, 10)),
    "focal length in y": ({"fl_x": 30, "fl_y": 32}, {"fl_y": 40}, (40, 40, 14, 10)),
    "angle in x": ({"fl_x": 30, "fl_y": 32}, {"camera_angle_x": RIGHT}, (14, 14, 14, 10)),
    "angle in y": ({"fl_x": 30, "fl_y": 32, "x_fov": 80}, {"camera_angle_y": RIGHT}, (10, 10, 14, 10)),
    "degrees": ({"fl_x": 30, "camera_angle_x": 1.0}, {"x_fov": 90, "y_fov": 90}, (14, 10, 14, 10)),
    "two spellings": ({"camera_angle_x": 1.0, "y_fov": 60}, {"fl_x": 12, "camera_angle_y": RIGHT}, (12, 10, 14, 10)),
    "focal length over an angle": ({"camera_angle_x": 1.0, "camera_angle_y": 1.0}, {"fl_x": 40}, (40, 40, 14, 10)),
    "null": ({"fl_x": 30, "fl_y": 32, "cx": 13, "w": 28, "h": 20}, dict.fromkeys(["fl_x", "fl_y", "cx", "w"]), (30, 32, 13, 10)),
    "one null": ({"fl_x": 30, "fl_y": 32}, {"fl_x": 40, "fl_y": None}, (40, 40, 14, 10)),
    "middle": ({"fl_x": 30, "cx": 13, "cy": 9}, {"cx": 15}, (30, 30, 15, 9)),
    "size": ({"fl_x": 30, "w": 28, "h": 20}, {"w": 56, "h": 40, "fl_x": 60}, (30, 30, 14, 10)),
    "size, and the file's pixels": ({"fl_x": 30, "cx": 13, "cy": 9, "w": 28, "h": 20}, {"w": 56, "h": 40}, (30, 30, 13, 9)),
    "size, and the file's middle": ({"fl_x": 30, "cx": 13, "w": 28, "h": 20}, {"w": 56, "h": 40, "fl_y": 64}, (32, 32, 13, 10)),
    "size with the file's angle": ({"x_fov": 90, "w": 28, "h": 20}, {"w": 56, "h": 40}, (14, 14, 14, 10)),
}


@pytest.mark.parametrize("case", OWN)
def test_a_frame_s_intrinsics_count_before_the_file_s(tmp_path, case):
    top, own, expected = OWN[case]
    simple(tmp_path / "toy", top=top, each=[{}, own, {}])
    view = convert(tmp_path / "toy", tmp_path / "out")[1]
    assert (view.fx, view.fy, view.cx, view.cy) == pytest.approx(expected)


def test_a_frame_s_distortion_and_camera_model_replace_the_file_s(tmp_path):
    top = {"fl_x": 30, "camera_model": "OPENCV", "k1": 0.1, "k2": 0.02}
    each = [{}, {"k1": 0.05}, {"k1": None, "is_fisheye": True}, {"camera_model": "OPENCV_FISHEYE", "k4": 0.01}, {"k1": 0}]
    json_path = simple(tmp_path / "toy", v=5, top=top, each=each)
    lenses = [frame.lens((20, 28)) for frame in read_transforms(json_path)]
    assert [lens.distortion for lens in lenses] == [
        (0.1, 0.02, 0, 0, 0), (0.05, 0, 0, 0, 0), (0.1, 0.02, 0, 0), (0, 0, 0, 0.01), (0,) * 5]  # fmt: skip
    assert [lens.fisheye for lens in lenses] == [False, False, True, True, False]


def test_portrait_photos_among_others(tmp_path, capsys):
    top = {"fl_x": 30, "w": 28, "h": 20}
    json_path = simple(tmp_path / "toy", v=2, top=top, each=[{}, {"w": 20, "h": 28}])
    Image.new("RGB", (20, 28)).save(tmp_path / "toy" / "images" / "1.png")
    view = convert(tmp_path / "toy", tmp_path / "out")[1]
    assert (view.w, view.h, view.fx, view.fy, view.cx, view.cy) == (20, 28, 30, 30, 10, 14)
    content = json.loads(json_path.read_text()) | {"cx": 13, "cy": 9}
    json_path.write_text(json.dumps(content))
    assert main(["--input", str(tmp_path / "toy"), "--output", str(tmp_path / "other")]) == 2
    message = "frame 1, w, h: are 20×28, and cx, cy are the file's, for 28×20; wanted its own cx and cy, since the shapes differ"
    assert message in capsys.readouterr().err
    content["frames"][1] |= {"cx": 9, "cy": 15}
    json_path.write_text(json.dumps(content))
    views = convert(tmp_path / "toy", tmp_path / "other")
    assert [(view.w, view.h, view.cx, view.cy) for view in views] == [(28, 20, 13, 9), (20, 28, 9, 15)]


@pytest.mark.parametrize(("centre", "upright"), [((9, 15), True), ((13, 9), False), ((14, 10), False)])
def test_without_a_size_the_principal_point_says_which_way_a_photo_is_up(tmp_path, centre, upright):
    simple(tmp_path / "toy", v=2, top={"fl_x": 30.0, "cx": centre[0], "cy": centre[1]}, name="images/{}.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(2):
        Image.open(tmp_path / "toy" / "images" / f"{i}.jpg").save(tmp_path / "toy" / "images" / f"{i}.jpg", exif=exif)
    view = convert(tmp_path / "toy", tmp_path / "out")[0]
    assert (view.w, view.h, view.cx, view.cy) == (*((20, 28) if upright else (28, 20)), *centre)
    with Image.open(view.file_path) as image:
        assert image.size == (view.w, view.h)


@pytest.mark.parametrize(
    ("size", "stated", "shape"),
    [
        ((20, 28), (20, 28), (20, 28)),
        ((20, 28), (28, 20), (28, 20)),
        ((20, 28), (56, 40), (28, 20)),
        ((24, 24), (24, 24), "as stored"),
    ],
)
def test_orientation_tags_count_only_where_the_lens_says_so(tmp_path, size, stated, shape):
    as_stored = shape in ("as stored", size)
    shape = size if as_stored else shape
    top = {"fl_x": 30.0 * stated[0] / shape[0], "h": stated[0], "w": stated[1]}
    simple(tmp_path / "toy", v=2, size=size, top=top, name="images/{}.jpg")
    for i in range(2):
        file = tmp_path / "toy" / "images" / f"{i}.jpg"
        with Image.open(file) as image:
            image.save(file, exif=turned(6), quality=100, subsampling=0)
    view = convert(tmp_path / "toy", tmp_path / "out")[0]
    with Image.open(tmp_path / "toy" / "images" / "0.jpg") as image:
        stored = np.asarray(image)
    # Tag 6: the stored image must be turned by 90 degrees clockwise to be upright.
    expected = stored if as_stored else np.rot90(stored, -1)
    with Image.open(view.file_path) as image:
        assert image.getexif().get(0x0112) is None
        assert np.array_equal(np.asarray(image), expected)
    assert ((view.h, view.w), view.fx) == (shape, pytest.approx(30.0))


def test_small_bends_of_a_pose_are_straightened(tmp_path):
    json_path = simple(tmp_path / "toy")
    content = json.loads(json_path.read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * (1.004, 1.004, 1.004, 1)).round(3).tolist()[:3]
    json_path.write_text(json.dumps(content))
    views = convert(tmp_path / "toy", tmp_path / "out", "--frame", "given")
    # Three decimals move an entry by 0.0005.
    np.testing.assert_allclose(np.stack([view.c2w for view in views]), orbit(3), atol=2e-3)
    np.testing.assert_allclose(views[0].w2c[:3, :3] @ views[0].w2c[:3, :3].T, np.eye(3), atol=1e-12)


def test_a_folder_of_captures_and_long_lrm_s_spelling(tmp_path, capsys):
    for name in ("b", "a"):
        simple(tmp_path / "in" / name)
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--long_lrm", "--workers", "2"]
    assert main([*flags, "--data_path_json", str(tmp_path / "list.json")]) == 0
    assert json.loads((tmp_path / "list.json").read_text()) == ["out/a/opencv_cameras.json", "out/b/opencv_cameras.json"]
    content = json.loads((tmp_path / "out" / "a" / "opencv_cameras.json").read_text())
    assert (content["scene_name"], len(content["frames"])) == ("a", 3)
    assert "a: 3 views, 28×20 (w×h), field of view 50.0°" in capsys.readouterr().out


def test_windows_paths_and_upper_case_suffixes(tmp_path):
    json_path = simple(tmp_path / "toy", v=2, name="images/cam 1/{}.JPG")
    json_path.write_text(json_path.read_text().replace("images/cam 1/0.JPG", "images\\\\cam 1\\\\0").replace("/1.JPG", "/1"))
    views = convert(tmp_path / "toy", tmp_path / "out")
    assert [view.file_path for view in views] == [tmp_path / "out/toy/images/cam 1" / name for name in ("0.JPG", "1.JPG")]


def test_a_capture_is_named_after_its_folder_however_that_is_given(tmp_path, monkeypatch):
    simple(tmp_path / "toy")
    monkeypatch.chdir(tmp_path / "toy" / "images")
    assert main(["--input", "..", "--output", "../../out"]) == 0
    assert (tmp_path / "out" / "toy" / "opencv_cameras.json").exists()


def test_numbers_in_names_are_ordered_by_value():
    names = ["f10.png", "f9.png", "f9a.png", "10.png", "e.png"]
    assert sorted(names, key=natural_key) == ["10.png", "e.png", "f9.png", "f9a.png", "f10.png"]


MATRIX = orbit(1)[0].tolist()
SKEWED = np.eye(4) + np.eye(4, k=1) * 0.1
ERRORS = {
    "no frames": ({"frames": []}, None, "holds no list of frames; wanted a transforms.json"),
    "no list": ({"frames": 3}, None, "holds no list of frames"),
    "frame is no object": ({"frames": [3]}, None, "frame 0: is 3; wanted an object"),
    "no path": ({}, {"file_path": ""}, "frame 1, file_path: is ''; wanted a path relative"),
    "path leaves": ({}, {"file_path": "../x.png"}, "frame 1, file_path: is '../x.png'; wanted a file in the folder"),
    "absolute": ({}, {"file_path": "/etc/x.png"}, "frame 1, file_path: is '/etc/x.png'; wanted a file in the folder"),
    "drive": ({}, {"file_path": "C:\\x.png"}, "frame 1, file_path: is 'C:.*'; wanted a file in the folder"),
    "control character": ({}, {"file_path": "a\nb.png"}, "frame 1, file_path: is 'a.*nb.png'; wanted a path relative"),
    "half a surrogate pair": ({}, {"file_path": "a\ud800.png"}, "frame 1, file_path: is 'a.*ud800.png'; wanted a path relative"),
    "no matrix": ({}, {"transform_matrix": None}, "frame 1, transform_matrix: is None; wanted 4 rows of 4 numbers"),
    "short matrix": ({}, {"transform_matrix": MATRIX[:2]}, "frame 1, transform_matrix: is .*; wanted 4 rows of 4 numbers"),
    "no numbers": ({}, {"transform_matrix": [["a"] * 4] * 4}, "frame 1, transform_matrix: holds 'a'; wanted finite"),
    "skewed": ({}, {"transform_matrix": SKEWED.tolist()}, "frame 1, transform_matrix: has scale, shear or a mirror"),
    "mirrored": ({}, {"transform_matrix": np.diag([1.0, -1, 1, 1]).tolist()}, "transform_matrix: has scale, shear or a mirror"),
    "last row": ({}, {"transform_matrix": np.diag([1.0, 1, 1, 2]).tolist()}, "transform_matrix: has scale, shear or a mirror"),
    "no focal length": ({"fl_x": None}, None, "frame 0: has no focal length; wanted fl_x, camera_angle_x"),
    "focal length": ({"fl_x": -3}, None, "frame 0, lens: has the focal lengths -3.0"),
    "wide": ({"fl_x": None, "x_fov": 180}, None, "has a field of view of 180 degrees in x"),
    "text": ({}, {"cx": "12"}, "frame 1, cx: is '12'; wanted a finite number"),
    "no focal length across": ({"fl_x": 0, "fl_y": None}, None, "frame 0, lens: has the focal lengths 0.0 and 0.0; wanted"),
    "too large for a float": ({"fl_x": 10**400}, None, "frame 0, fl_x: is 10000.*; wanted a finite number"),
    "matrix too large for a float": (
        {},
        {"transform_matrix": [[10**400] * 4] * 4},
        "transform_matrix: holds 10.*; wanted finite",
    ),
    "matrix as large as can be": ({}, {"transform_matrix": [[1.7e308] * 4] * 4}, "transform_matrix: holds 1.7e.308; wanted finite"),
    "matrix of large numbers": ({}, {"transform_matrix": [[1e12] * 4] * 4}, "transform_matrix: has scale, shear or a mirror"),
    "least angle there is": (
        {"fl_x": None, "camera_angle_x": 5e-324},
        None,
        "field of view of 2.8.*e-322 degrees in x; wanted 0.0001 or more",
    ),
    "frame without an angle": (
        {},
        {"camera_angle_y": 0},
        "frame 1: has a field of view of 0 degrees in y; wanted 0.0001 or more, less",
    ),
    "frame without a focal length": ({}, {"fl_y": 0}, "frame 1, lens: has the focal lengths 0.0 and 0.0"),
    "not a number": ({}, {"cx": float("nan")}, "frame 1, cx: is nan; wanted a finite number"),
    "photo as wide as can be": ({"w": 10**308, "h": 1}, None, "frame 0, w: is 10000.*; wanted a finite number"),
    "strong distortion": ({"k1": 1e12}, None, "0.png, lens: has the distortion"),
    "terms in a list": ({"distortion_params": [0.1, 0, 0, 0, 0, 0]}, None, "distortion_params: is .0.1.*; wanted terms by name"),
    "size": ({"w": 28, "h": 19.5}, None, "frame 0, h: is 19.5; wanted a whole number of pixels"),
    "other shape": ({"w": 28, "h": 28}, None, "0.png: is an image of 28×20 .*; wanted the 28×28 of its camera"),
    "model": ({"camera_model": "THIN_PRISM_FISHEYE"}, None, "camera_model: is 'THIN_PRISM_FISHEYE'; wanted one of PINHOLE"),
    "panorama": ({"equirectangular": True}, None, "equirectangular: stands for a camera that is not a lens"),
    "fourth radial term": ({"k4": 0.01}, None, "k4: is 0.01; wanted 0: this model has k1, k2, p1, p2, k3"),
    "tangential fisheye": ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, None, "p1: is 0.1; wanted 0: OPENCV_FISHEYE has"),
    "folded": ({"k1": -60.0}, None, "0.png, lens: has the distortion"),
    "one photo with two cameras": (
        {},
        {"file_path": "images/0.png"},
        "frame 1, file_path: is images/0.png, which has another camera in .*frame 0; wanted each photo once",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_capture_is_one_line(tmp_path, capsys, case):
    top, frame, message = ERRORS[case]
    json_path = simple(tmp_path / "toy")
    content = json.loads(json_path.read_text()) | top
    content = {key: value for key, value in content.items() if value is not None}
    if frame is not None:
        content["frames"][1] |= frame
    json_path.write_text(json.dumps(content))
    assert main(["--input", str(tmp_path / "toy"), "--output", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("transforms_format_converter.py: ")]
    assert re.search(message, line)
    assert not list((tmp_path / "out").glob("**/*.json"))


def test_full_opencv_has_rational_terms(tmp_path):
    json_path = simple(tmp_path / "toy", top={"fl_x": 30, "camera_model": "FULL_OPENCV", "k1": 0.1, "k4": 0.02, "k6": 0.01})
    assert read_transforms(json_path)[0].lens((20, 28)).distortion == (0.1, 0, 0, 0, 0, 0.02, 0, 0.01)


def test_captures_that_are_not_there_or_have_one_name(tmp_path, capsys):
    simple(tmp_path / "a" / "toy")
    simple(tmp_path / "b" / "toy").rename(tmp_path / "b" / "toy" / "transforms_test.json")

    def says(*flags: str) -> str:
        assert main([*flags, "--output", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    toy = tmp_path / "a" / "toy"
    assert "for the scene 'toy'; wanted a different name for each" in says("--input", str(toy), str(toy))
    error = says("--input", str(tmp_path / "b" / "toy"))
    assert f"wanted one, or the file itself, if it is one of {tmp_path / 'b' / 'toy' / 'transforms_test.json'}" in error
    assert "has no transforms.json" in says("--input", str(tmp_path / "c"))
    assert "--workers: is 0; wanted 1 to 1024" in says("--input", str(toy), "--workers", "0")
    assert "--input: is missing; wanted captures" in says()


def test_a_byte_order_mark_is_read(tmp_path):
    json_path = simple(tmp_path / "toy")
    json_path.write_bytes(b"\xef\xbb\xbf" + json_path.read_bytes())
    assert len(convert(tmp_path / "toy", tmp_path / "out")) == 3


def test_cameras_that_look_nowhere_are_no_object(tmp_path, capsys):
    json_path = simple(tmp_path / "toy")
    content = json.loads(json_path.read_text())
    for i, frame in enumerate(content["frames"]):
        frame["transform_matrix"] = np.eye(4).tolist()
        frame["transform_matrix"][0][3] = float(i)
    json_path.write_text(json.dumps(content))
    flags = ["--input", str(tmp_path / "toy"), "--output", str(tmp_path / "out")]
    assert main([*flags, "--frame", "object"]) == 2
    assert "transforms.json, cameras: look at no common point" in capsys.readouterr().err
    assert main(flags) == 0


def test_as_a_user_runs_it(tmp_path):
    simple(tmp_path / "toy", top={"fl_x": 30, "k1": 0.05})
    command = [sys.executable, str(SCRIPT), "--input", "toy", "--output", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "1 of 1 scene in out/transforms_data_path.json" in done.stdout
    assert [view.w for view in read_scene(tmp_path / "out" / "toy" / "opencv_cameras.json").views] == [28] * 3
    again = subprocess.run([*command, "--workers", "-1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (2, "transforms_format_converter.py: --workers: is -1; wanted 1 to 1024\n")


def test_every_shard_refuses_captures_of_one_name(tmp_path, capsys):
    folders = [tmp_path / name for name in ("in/a", "in/b", "other/a")]
    for folder in folders:
        capture(folder, LENSES, perspective, v=2)
    for index in range(3):
        words = ["--input", *map(str, folders), "--output", str(tmp_path / "out"), "--shard", f"{index}/3"]
        assert main(words) == 2
        assert capsys.readouterr().err.count(" for the scene 'a'; wanted a different name for each") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_shards_at_once_in_one_folder_give_what_an_undivided_run_gives(tmp_path):
    for name in "abcde":
        capture(tmp_path / "in" / name, LENSES, perspective, v=3)
    words = [sys.executable, str(SCRIPT), "--input", str(tmp_path / "in"), "--workers", "1", "--output"]
    shards = [subprocess.Popen([*words, str(tmp_path / "out"), "--shard", f"{index}/2"]) for index in range(2)]
    assert [process.wait(120) for process in shards] == [0, 0]
    assert merge([str(tmp_path / "out" / "transforms_data_path.json")]) == 0
    assert main([*words[2:], str(tmp_path / "whole")]) == 0
    found = contents(tmp_path / "out")
    assert {name: text for name, text in found.items() if ".part-" not in name.name} == contents(tmp_path / "whole")
