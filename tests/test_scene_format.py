"""Unified format of scenes: reading, writing, validation."""

import copy
import json
import math
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from config.errors import InputError
from data import scene_format
from data.images import read_pixels
from data.scene_format import View, read_json, read_scene, same_views, write_scene
from data.scene_list import read_data_path
from tests.support.scenes import random_c2w, write_random_scene


@pytest.fixture
def scene_json(tmp_path):
    return write_random_scene(tmp_path / "chair", n=3)


def change(json_path, view, key, value):
    content = json.loads(json_path.read_text())
    content[view][key] = value
    json_path.write_text(json.dumps(content))


def refuses(json_path, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_scene(json_path)
    assert "\n" not in str(caught.value)
    assert str(json_path) in str(caught.value)


@pytest.mark.parametrize("long_lrm", [False, True])
def test_scene_survives_a_round_trip(tmp_path, long_lrm):
    c2w = random_c2w(3, seed=4)
    views = [
        View(tmp_path / "s" / f"a/{i}.png", 28 + i, 20, 31.25, 100 / 3, -0.5, 9.0 + i, np.linalg.inv(c2w[i])) for i in range(3)
    ]
    write_scene(tmp_path / "s" / "cams.json", views, long_lrm=long_lrm)
    scene = read_scene(tmp_path / "s" / "cams.json")
    assert (scene.name, scene.json_path) == ("s", tmp_path / "s" / "cams.json")
    for i, (wrote, read) in enumerate(zip(views, scene.views, strict=True)):
        for key in ("file_path", "w", "h", "fx", "fy", "cx", "cy"):
            assert getattr(read, key) == getattr(wrote, key)
        assert np.array_equal(read.w2c, wrote.w2c)
        assert read.w2c.dtype == np.float64
        # inverse of an inverse in float64, coordinates up to 3.5
        np.testing.assert_allclose(read.c2w, c2w[i], atol=1e-13)


def test_same_views(scene_json, monkeypatch):
    views = read_scene(scene_json).views
    monkeypatch.chdir(scene_json.parent)
    relative = [replace(view, file_path=view.file_path.relative_to(scene_json.parent)) for view in views]
    assert same_views(views, relative)
    assert same_views(views, [replace(view, fx=view.fx + 1e-7) for view in views])
    turned = views[1].w2c.copy()
    turned[0, 3] += 1e-3
    changes = [{"w": 9}, {"h": 9}, {"fx": 1.5}, {"fy": 1.5}, {"cx": 0.5}, {"cy": 0.5}, {"w2c": turned}, {"file_path": scene_json}]
    for change in changes:
        assert not same_views(views, [views[0], replace(views[1], **change), views[2]]), change
    assert not same_views(views, views[:2])


def test_written_spellings(tmp_path):
    view = View(tmp_path / "i.png", 7, 5, np.float32(6.5), 6.0, 3.5, 2.5, np.eye(4))
    keys = {"w": 7, "h": 5, "fx": 6.5, "fy": 6.0, "cx": 3.5, "cy": 2.5, "w2c": np.eye(4).tolist(), "file_path": "i.png"}
    write_scene(tmp_path / "list.json", [view])
    assert json.loads((tmp_path / "list.json").read_text()) == [keys]
    write_scene(tmp_path / "frames.json", [view], long_lrm=True)
    assert json.loads((tmp_path / "frames.json").read_text()) == {"scene_name": tmp_path.name, "frames": [keys]}
    assert read_scene(tmp_path / "frames.json").name == tmp_path.name


def test_frames_without_a_name_take_that_of_the_folder(tmp_path):
    path = write_random_scene(tmp_path / "chair", n=1, long_lrm=True, name="other")
    content = json.loads(path.read_text())
    del content["scene_name"]
    path.write_text(json.dumps(content))
    assert read_scene(path).name == "chair"


def test_relative_json_path_is_made_absolute(scene_json, monkeypatch):
    monkeypatch.chdir(scene_json.parent)
    scene = read_scene("opencv_cameras.json")
    assert scene.name == "chair"
    assert scene.views[2].file_path == scene_json.parent / "images" / "00002.png"


def test_reading_opens_no_image(scene_json):
    (scene_json.parent / "images" / "00001.png").unlink()
    assert len(read_scene(scene_json).views) == 3


def test_w2c_rounded_to_float32_is_rigid(scene_json):
    w2c = read_scene(scene_json).views[1].w2c.astype(np.float32)
    change(scene_json, 1, "w2c", w2c.tolist())
    assert np.array_equal(read_scene(scene_json).views[1].w2c, w2c.astype(np.float64))


def test_poses_cannot_be_changed_by_accident(scene_json):
    with pytest.raises(ValueError, match="read-only"):
        read_scene(scene_json).views[0].w2c[0, 0] = 2


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/no\.json: is not there; wanted a JSON file"):
        read_scene(tmp_path / "no.json")


def test_folder_for_a_file(tmp_path):
    refuses(tmp_path, f"{tmp_path}: is a folder; wanted a JSON file")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\xff", b"[" * 100_000])
def test_no_json(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    refuses(tmp_path / "x.json", "x.json: is not JSON (")


def test_byte_order_mark_is_read(scene_json):
    scene_json.write_bytes(b"\xef\xbb\xbf" + scene_json.read_bytes())
    assert len(read_scene(scene_json).views) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("12", "x.json: holds 12; wanted a list of views"),
        ('{"frames": {}}', "x.json: holds {}; wanted a list of views"),
        ('{"scene_name": "a"}', "x.json, frames: is missing; wanted it along with ['scene_name']"),
        ("[]", "x.json: holds no views; wanted at least one"),
        ('{"frames": []}', "x.json: holds no views; wanted at least one"),
        ('["a.json"]', "x.json, view 0: is 'a.json'; wanted an object with w, h, fx, fy, cx, cy, w2c, file_path"),
    ],
)
def test_wrong_content(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    refuses(tmp_path / "x.json", message)


@pytest.mark.parametrize("key", ["w", "h", "fx", "fy", "cx", "cy", "w2c", "file_path"])
def test_missing_key(scene_json, key):
    content = json.loads(scene_json.read_text())
    del content[1][key]
    scene_json.write_text(json.dumps(content))
    refuses(scene_json, f"view 1, {key}: is missing; wanted it along with [")


@pytest.mark.parametrize("key", ["w", "h", "fx", "fy", "cx", "cy"])
@pytest.mark.parametrize("value", [True, "12", None, [3]])
def test_value_that_is_no_number(scene_json, key, value):
    change(scene_json, 2, key, value)
    refuses(scene_json, f"view 2, {key}: is {value!r}; wanted a number")


@pytest.mark.parametrize("key", ["w", "h", "fx", "fy", "cx", "cy"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_value_that_is_not_finite(scene_json, key, value):
    change(scene_json, 0, key, value)
    refuses(scene_json, f"view 0, {key}: is {repr(value)[:60]}")
    refuses(scene_json, "wanted a finite number")


@pytest.mark.parametrize("key", ["w", "h"])
@pytest.mark.parametrize("value", [0, -4, 12.5])
def test_size_that_is_none(scene_json, key, value):
    change(scene_json, 0, key, value)
    refuses(scene_json, f"view 0, {key}: is {value}; wanted a whole number of pixels, 1 or more")


def test_whole_number_written_as_float(scene_json):
    change(scene_json, 0, "w", 28.0)
    assert repr(read_scene(scene_json).views[0].w) == "28"


@pytest.mark.parametrize("key", ["fx", "fy"])
@pytest.mark.parametrize("value", [0, -31.5, 5e-324])
def test_focal_length_that_is_none(scene_json, key, value):
    change(scene_json, 0, key, value)
    refuses(scene_json, f"view 0, {key}: is {value}; wanted a focal length above 0")


NO_PHOTO = [
    # 2 atan(14 / 0.8) and 2 atan(10 / 0.8) of 28×20 pixels
    ({"fx": 0.8, "fy": 0.8, "cx": 0.5, "cy": 0.5}, "a field of view of 173.5×170.9 degrees (w×h); wanted 170 at most: focal "
     "lengths in pixels of 28×20 (w×h), not shares of it"),
    ({"fy": 0.8}, "degrees (w×h); wanted 170 at most: focal lengths in pixels of 28×20 (w×h)"),
    # a field of view below 170 degrees, but shares all the same
    ({"fx": 1.5, "fy": 2.1, "cx": 0.5, "cy": 0.5}, "the focal lengths 1.5 and 2.1 and the principal point (0.5, 0.5); wanted "
     "principal point and focal lengths in pixels of 28×20 (w×h), not shares of it"),
    ({"fx": 9.0, "fy": 9.0, "cx": 0, "cy": 0}, "the focal lengths 9 and 9 and the principal point (0, 0); wanted"),
    ({"w": 2800, "h": 2000, "fx": 4.2, "fy": 4.2}, "a field of view of 179.7×179.5 degrees"),
    # atan(1000 / 28)
    ({"fx": 28.0, "cx": 1000.0, "cy": 10.0}, "the principal point (1000, 10), so that pixels are up to 88.4 degrees from the axis; "
     "wanted 85 at most"),
    ({"fy": 28.0, "cy": -1e12}, "so that pixels are up to 90 degrees from the axis; wanted 85"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), NO_PHOTO)
def test_intrinsics_that_no_photo_has(scene_json, changes, message):
    for key, value in changes.items():
        change(scene_json, 1, key, value)
    refuses(scene_json, "view 1: has ")
    refuses(scene_json, message)


@pytest.mark.parametrize(
    "changes",
    [
        {"fx": 8.1, "fy": 8.1},  # 120 degrees
        {"fx": 320.0, "fy": 320.0},  # 5 degrees
        {"fx": 14.0, "fy": 14.0, "cx": -20.0, "cy": 30.0},  # a crop beside the centre
        {"fx": 28.0, "fy": 28.0, "cx": 0.5, "cy": 0.5},  # only suspicious
        {"w": 4, "h": 3, "fx": 4.0, "fy": 4.0, "cx": 1.0, "cy": 1.0},
    ],
)
def test_intrinsics_that_a_photo_can_have(scene_json, changes):
    for key, value in changes.items():
        change(scene_json, 1, key, value)
    assert read_scene(scene_json).views[1].fx == changes["fx"]


@pytest.mark.parametrize("value", [3, [], [[1, 0, 0, 0]] * 3, [[1, 0, 0]] * 4, np.arange(16).tolist(), [[[1]] * 3] * 4, "eye"])
def test_w2c_of_another_shape(scene_json, value):
    change(scene_json, 1, "w2c", value)
    refuses(scene_json, f"view 1, w2c: is {repr(value)[:60]}")
    refuses(scene_json, "wanted 4 rows of 4 numbers")


@pytest.mark.parametrize(
    ("value", "wanted"), [(True, "a number"), ("0", "a number"), (float("nan"), "a finite number"), (-1e20, "a number between")]
)
def test_w2c_with_something_else_than_a_number(scene_json, value, wanted):
    w2c = np.eye(4).tolist()
    w2c[1][3] = value
    change(scene_json, 1, "w2c", w2c)
    refuses(scene_json, f"view 1, w2c: is {value!r}; wanted {wanted}")


def test_w2c_that_is_scaled(scene_json):
    w2c = read_scene(scene_json).views[1].w2c.copy()
    w2c[:3, :3] *= 2
    change(scene_json, 1, "w2c", w2c.tolist())
    # 2R (2R)ᵀ − 1 = 3
    refuses(scene_json, "view 1, w2c: has a 3×3 part 3 away from orthonormal; wanted a rotation (no scale, no shear)")


@pytest.mark.parametrize(("shear", "accepted"), [(0.9e-3, True), (1.2e-3, False)])
def test_w2c_may_be_sheared_by_rounding_only(scene_json, shear, accepted):
    w2c = np.eye(4)
    # (1 s 0)·(0 1 0) = s, and 1 + s² − 1 is far below
    w2c[0, 1] = shear
    change(scene_json, 1, "w2c", w2c.tolist())
    if accepted:
        assert read_scene(scene_json).views[1].w2c[0, 1] == shear
    else:
        refuses(scene_json, "view 1, w2c: has a 3×3 part 0.0012 away from orthonormal")


def test_w2c_that_is_mirrored(scene_json):
    w2c = read_scene(scene_json).views[0].w2c.copy()
    w2c[0] *= -1
    change(scene_json, 0, "w2c", w2c.tolist())
    refuses(scene_json, "view 0, w2c: is a mirrored pose (determinant -1); wanted x right, y down, z forward")


def test_w2c_that_is_transposed(scene_json):
    w2c = read_scene(scene_json).views[0].w2c.T
    change(scene_json, 0, "w2c", w2c.tolist())
    refuses(scene_json, "view 0, w2c: has the last row [")
    refuses(scene_json, "wanted 0 0 0 1")


@pytest.mark.parametrize("value", ["../a.png", "images/../../a.png", "/etc/a.png", ".", "images/../a.png"])
def test_image_outside_the_folder(scene_json, value):
    change(scene_json, 1, "file_path", value)
    refuses(scene_json, f"view 1, file_path: is '{value}'; wanted a file in the folder of the JSON")


def test_absolute_image_path_is_refused_even_within_the_folder(scene_json):
    change(scene_json, 1, "file_path", str(scene_json.parent / "images" / "00001.png"))
    refuses(scene_json, "view 1, file_path: is '/")
    refuses(scene_json, "wanted a file in the folder of the JSON")


def test_links_may_lead_anywhere(scene_json, tmp_path):
    folder = scene_json.parent
    (folder / "images").rename(tmp_path / "disk")
    (folder / "images").symlink_to(tmp_path / "disk")
    (folder / "a.png").symlink_to("../disk/00001.png")
    change(scene_json, 1, "file_path", "a.png")
    views = read_scene(scene_json).views
    assert [view.file_path for view in views] == [folder / name for name in ("images/00000.png", "a.png", "images/00002.png")]
    assert read_pixels(views[0].file_path).shape == read_pixels(views[1].file_path).shape == (20, 28, 3)


def test_a_scene_of_links_into_a_store(scene_json, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "chair"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate([scene_json, *sorted((scene_json.parent / "images").iterdir())]):
        path.rename(blobs / str(i))
        link = snapshot / path.relative_to(scene_json.parent)
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    scene = read_scene(snapshot / scene_json.name)
    assert (scene.name, scene.views[2].file_path) == ("chair", snapshot / "images" / "00002.png")
    assert read_pixels(scene.views[2].file_path).shape == (20, 28, 3)


@pytest.mark.parametrize("value", ["link/../a.png", "link/../../a.png", "images/./../a.png", "./", "//a.png", "/"])
def test_a_path_is_judged_as_it_is_written(scene_json, value):
    (scene_json.parent / "link").symlink_to("images")
    change(scene_json, 1, "file_path", value)
    refuses(scene_json, f"view 1, file_path: is '{value}'; wanted a file in the folder of the JSON")


def test_links_that_lead_nowhere_are_named(scene_json, tmp_path):
    path = read_scene(scene_json).views[1].file_path
    path.unlink()
    path.symlink_to("../gone/a.png")
    with pytest.raises(FileNotFoundError) as caught:
        read_pixels(path)
    assert str(caught.value) == f"{path}: is a link to ../gone/a.png, which is not there; wanted an image"
    (tmp_path / "far").symlink_to("/no/disk")
    (tmp_path / "l.json").write_text('["far/chair/opencv_cameras.json"]')
    with pytest.raises(FileNotFoundError) as caught:
        read_data_path(tmp_path / "l.json")
    found = f"{tmp_path}/far/chair/opencv_cameras.json: is not there: {tmp_path}/far is a link to /no/disk"
    assert str(caught.value) == f"{tmp_path}/l.json, entry 0, {found}; wanted a path relative to the list"
    (tmp_path / "x.json").symlink_to("y.json")
    with pytest.raises(FileNotFoundError, match=r"x\.json: is a link to y\.json, which is not there; wanted a JSON file"):
        read_scene(tmp_path / "x.json")


def test_writing_replaces_a_link_and_leaves_its_target(scene_json, tmp_path):
    views, content = read_scene(scene_json).views, scene_json.read_bytes()
    scene_json.rename(tmp_path / "kept")
    scene_json.symlink_to(tmp_path / "kept")
    write_scene(scene_json, views[:2])
    assert not scene_json.is_symlink()
    assert len(read_scene(scene_json).views) == 2
    assert (tmp_path / "kept").read_bytes() == content


@pytest.mark.parametrize("read", [read_json, read_scene, read_data_path])
def test_a_fifo_is_no_file(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "x.json").symlink_to("fifo")
    with pytest.raises(InputError, match=r"x\.json: is not a regular file; wanted a JSON file"):
        read(tmp_path / "x.json")


def test_scene_in_a_linked_folder(scene_json, tmp_path):
    (tmp_path / "link").symlink_to(scene_json.parent)
    assert read_scene(tmp_path / "link" / "opencv_cameras.json").name == "link"


@pytest.mark.parametrize("value", [3, None, "", "a\0.png", "\ud800.png", ["a.png"]])
def test_file_path_that_is_no_path(scene_json, value):
    change(scene_json, 0, "file_path", value)
    refuses(scene_json, f"view 0, file_path: is {value!r}; wanted a path relative to the JSON")


def test_names_that_no_disk_takes(scene_json):
    long = "x" * 256
    change(scene_json, 0, "file_path", f"images/{long}")
    refuses(scene_json, f"view 0, file_path: is 'images/{'x' * 52}…; wanted a path relative to the JSON")
    path = write_random_scene(scene_json.parent / "chair", n=1, long_lrm=True)
    path.write_text(json.dumps({**json.loads(path.read_text()), "scene_name": long}))
    refuses(path, f"scene_name: is '{'x' * 59}…; wanted a valid folder name")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", 5, "a\nb"])
def test_name_that_no_folder_can_have(tmp_path, name):
    path = write_random_scene(tmp_path / "chair", n=1, long_lrm=True)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "scene_name": name}))
    refuses(path, f"scene_name: is {name!r}; wanted a valid folder name")


def test_writer_refuses_what_the_reader_would(scene_json):
    view = read_scene(scene_json).views[0]
    target = scene_json.parent / "new.json"
    for changed, message in [
        ({"fx": float("nan")}, "view 1, fx: is nan; wanted a finite number"),
        ({"w": 12.5}, "view 1, w: is 12.5; wanted a whole number"),
        ({"w2c": view.w2c * 2}, "view 1, w2c: has the last row"),
        ({"w2c": np.eye(3)}, "view 1, w2c: is .*; wanted 4 rows of 4 numbers"),
        ({"file_path": scene_json.parent.parent / "b.png"}, r"view 1, file_path: is '\.\./b.png'; wanted a file in"),
    ]:
        with pytest.raises(InputError, match=message):
            write_scene(target, [view, replace(view, **changed)])
    with pytest.raises(ValueError, match=r"new.json: no views to write"):
        write_scene(target, [])
    assert not target.exists()


def test_a_scene_has_a_bound_of_views(scene_json, monkeypatch):
    monkeypatch.setattr(scene_format, "MOST_VIEWS", 1)
    refuses(
        scene_json, f"opencv_cameras.json: holds {len(json.loads(scene_json.read_text()))} views; wanted at least one, 1 at most"
    )


def damaged(entries: list, rng: np.random.Generator) -> list:
    """Return a copy of a scene's entries with one thing changed, to something wrong or only unusual."""
    entries = copy.deepcopy(entries)
    entry = entries[rng.integers(len(entries))]
    values = [None, True, "1.5", "a.png", -3, 0, 2.5, 1e-9, 1e13, 10**400, math.nan, math.inf, [], {}, [[1, 0, 0, 0]] * 4, 7, 7.0]
    value = values[rng.integers(len(values))]
    key = list(entry)[rng.integers(len(entry))]
    kind = rng.integers(6)
    if kind == 0:
        entry[key] = value
    elif kind == 1:
        del entry[key]
    elif kind == 2:
        entry["w2c"][rng.integers(4)][rng.integers(4)] = value
    elif kind == 3:
        entry["w2c"] = entry["w2c"][: rng.integers(4)] + [[0, 0, 0, 1]] * int(rng.integers(3))
    elif kind == 4:
        entry["file_path"] = ["./a.png", "a/../b", "", ".", "/a", "a//b.png", "a:b", "\0", "\ud800", "..a", "images/ü.png"][
            rng.integers(11)
        ]
    else:
        entries[rng.integers(len(entries))] = value
    return entries


def test_views_that_are_checked_at_once_are_those_that_are_checked_one_by_one(tmp_path):
    path = write_random_scene(tmp_path / "chair", n=3)
    whole = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    at_once = 0
    for entries in [whole] + [damaged(whole, rng) for _ in range(600)]:
        views = scene_format._regular_views(path, entries)
        if views is None:
            continue
        at_once += 1
        expect = [scene_format._view(path, i, entry) for i, entry in enumerate(entries)]  # raises what `read_scene` should
        for view, other in zip(views, expect, strict=True):
            assert (view.file_path, view.w, view.h, view.fx, view.fy, view.cx, view.cy) == (
                other.file_path, other.w, other.h, other.fx, other.fy, other.cx, other.cy,
            )  # fmt: skip
            assert type(view.w) is int
            np.testing.assert_array_equal(view.w2c, other.w2c)
    assert 20 < at_once < 200  # among them the whole one, which must not be slow
    assert scene_format._regular_views(path, whole) is not None


def test_rows_of_a_pose_are_those_of_its_view(scene_json):
    whole = json.loads(scene_json.read_text())
    rows = [row for entry in whole[:2] for row in entry["w2c"]]
    change(scene_json, 0, "w2c", rows[:3])
    change(scene_json, 1, "w2c", rows[3:])  # as many rows as two views have
    refuses(scene_json, "view 0, w2c: is ")
