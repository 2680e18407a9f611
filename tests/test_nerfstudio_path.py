"""nerfstudio's camera paths: read as its viewer means them, written so that they read back, refused in one line where damaged."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import InputError
from model.keyframes import Keyframe, KeyframePath
from model.nerfstudio_path import (
    parse_camera_path,
    parse_keyframes,
    read_camera_path,
    read_dataparser_transform,
    read_keyframes,
    write_camera_path,
)

# A camera at (1, 2, 3) that looks along world +x, its top towards world +z, by its OpenGL axes: right -y, up z, back -x.
POSE = [0.0, 0, -1, 1, -1, 0, 0, 2, 0, 1, 0, 3, 0, 0, 0, 1]
OPENCV = [[0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]]


def moved(x: float) -> list[float]:
    return [*POSE[:3], x, *POSE[4:]]


def viewer_file(**change: Any) -> dict[str, Any]:
    """Return a file as the viewer writes it: 90 x 160 pixels, two keyframes 3 s apart."""
    keys = [
        {"matrix": moved(x), "fov": fov, "aspect": 16 / 9, "override_transition_enabled": own, "override_transition_sec": way}
        for x, fov, own, way in ((1.0, 60.0, False, None), (5.0, 90.0, True, 3.0))
    ]
    frames = [{"camera_to_world": moved(x), "fov": 60.0, "aspect": 16 / 9} for x in (1.0, 2.0, 4.0)]
    about = {"default_fov": 75.0, "default_transition_sec": 2.0, "camera_type": "perspective", "render_height": 90}
    about |= {"render_width": 160, "fps": 10.0, "seconds": 3.0, "is_cycle": False, "smoothness_value": 0.25}
    return {**about, "keyframes": keys, "camera_path": frames, "crop": None, **change}


def test_frames_are_rendered_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "path.json").write_text(json.dumps(viewer_file()))
    path = read_camera_path(tmp_path / "path.json")
    assert (path.image_size, path.fps, len(path)) == ((90, 160), 10.0, 3)
    np.testing.assert_allclose(path.c2w[0], OPENCV, atol=1e-7)
    np.testing.assert_allclose(path.c2w[:, 0, 3], [1, 2, 4])
    # 60 degrees over 90 pixels of height: 45 / tan 30 degrees.
    np.testing.assert_allclose(path.fxfycxcy[0], [77.9423, 77.9423, 80, 45], rtol=1e-6)


def test_without_frames_the_keyframes_make_them() -> None:
    for missing in ({"camera_path": []}, {"camera_path": None}):
        path = parse_camera_path(json.dumps(viewer_file(**missing)), "path.json")
        assert len(path) == 30
        np.testing.assert_allclose(path.c2w[[0, -1], 0, 3], [1, 5], atol=1e-6)
        np.testing.assert_allclose(path.fxfycxcy[-1], [45, 45, 80, 45], rtol=1e-6)


def test_keyframes_are_read_for_editing() -> None:
    path = parse_keyframes(json.dumps(viewer_file()).encode(), "path.json")
    assert (path.image_size, path.fps, path.tension, path.loop, path.seconds) == ((90, 160), 10.0, 0.25, False, 3.0)
    assert [(key.fov_deg, key.time_s, key.c2w[0, 3]) for key in path.keyframes] == [(60, 0, 1), (90, 3, 5)]
    # The first keyframe's seconds are those of the way back.
    cycle = parse_keyframes(json.dumps(viewer_file(is_cycle=True)), "path.json")
    assert (cycle.loop, cycle.closing_s, cycle.seconds) == (True, 2.0, 5.0)


def test_older_files_write_poses_as_text_of_columns_and_share_the_seconds() -> None:
    columns = [POSE[4 * row + column] for column in range(4) for row in range(4)]
    keys = [{"matrix": json.dumps(numbers), "fov": "50", "aspect": 1.7} for numbers in (columns, moved(2.0), columns)]
    content = {"keyframes": keys, "camera_path": [], "render_height": 90, "render_width": 160, "fps": 24, "seconds": 4}
    path = parse_keyframes(json.dumps(content), "path.json")
    assert [key.time_s for key in path.keyframes] == [0, 2, 4]
    for i, x in ((0, 1), (1, 2)):
        np.testing.assert_allclose(path.keyframes[i].c2w, [[0, 0, 1, x], *OPENCV[1:]], atol=1e-12)
        assert path.keyframes[i].fov_deg == 50


def test_frames_alone_become_a_dozen_keyframes_of_the_same_duration() -> None:
    frames = [{"camera_to_world": moved(0.1 * i), "fov": 50 + 0.1 * i} for i in range(100)]
    content = json.dumps(viewer_file(keyframes=[], camera_path=frames))
    path = parse_keyframes(content, "path.json")
    assert len(path.keyframes) == 12
    assert path.seconds == 10
    got, wanted = path.frames(), parse_camera_path(content, "path.json")
    np.testing.assert_allclose(got.c2w, wanted.c2w, atol=2e-3)
    np.testing.assert_allclose(got.fxfycxcy, wanted.fxfycxcy, rtol=1e-3)
    still = parse_keyframes(json.dumps(viewer_file(keyframes=[], camera_path=frames[:1])), "path.json")
    assert (len(still.keyframes), still.seconds) == (1, 0)


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


@pytest.mark.parametrize("loop", [False, True])
def test_a_path_reads_back_as_it_was_written(tmp_path: Path, loop: bool) -> None:
    keys = []
    for i, time in enumerate((0.0, 0.7, 2.0)):
        c2w = np.eye(4)
        c2w[:3, :3], c2w[:3, 3] = rotation(i), (i, -2 * i, 0.3)
        keys.append(Keyframe(c2w, 40.0 + i, time))
    path = KeyframePath(tuple(keys), (45, 80), 24.0, tension=0.3, loop=loop, closing_s=1.25)
    write_camera_path(tmp_path / "path.json", path)
    back = read_keyframes(tmp_path / "path.json")
    for name in ("image_size", "fps", "tension", "loop", "closing_s", "seconds"):
        assert getattr(back, name) == pytest.approx(getattr(path, name)), name
    for key, wanted in zip(back.keyframes, keys, strict=True):
        np.testing.assert_allclose(key.c2w, wanted.c2w, atol=1e-12)
        assert (key.fov_deg, key.time_s) == pytest.approx((wanted.fov_deg, wanted.time_s))
    frames, wanted = read_camera_path(tmp_path / "path.json"), path.frames()
    assert len(frames) == round(24 * (3.25 if loop else 2.0))
    np.testing.assert_allclose(frames.c2w, wanted.c2w, atol=1e-6)
    np.testing.assert_allclose(frames.fxfycxcy, wanted.fxfycxcy, rtol=1e-6)
    content = json.loads((tmp_path / "path.json").read_text())
    assert content["camera_type"] == "perspective"
    assert content["keyframes"][1]["aspect"] == pytest.approx(80 / 45)
    # OpenGL's y and z are the opposites of OpenCV's.
    np.testing.assert_allclose(np.reshape(content["keyframes"][1]["matrix"], (4, 4))[:3, 1:3], -keys[1].c2w[:3, 1:3])


def test_the_frame_of_nerfstudio_s_viewer(tmp_path: Path) -> None:
    turn, shift, scale = rotation(5), np.array([0.5, -1, 2.0]), 0.25
    about = {"transform": np.c_[turn, shift].tolist(), "scale": scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(about))
    similarity = read_dataparser_transform(tmp_path / "dataparser_transforms.json")
    point = np.array([3.0, 4, -5])
    np.testing.assert_allclose((similarity @ [*point, 1])[:3], scale * (turn @ point + shift))
    # Poses of a transforms.json are those that COLMAP found, moved by its applied_transform: nerfstudio composes the two.
    cycle = [[0, 1, 0, 7], [0, 0, 1, 8], [1, 0, 0, 9]]
    (tmp_path / "transforms.json").write_text(json.dumps({"applied_transform": cycle, "applied_scale": 0.5, "frames": []}))
    similarity = read_dataparser_transform(tmp_path / "dataparser_transforms.json", tmp_path / "transforms.json")
    colmap = (point - (7, 8, 9))[[2, 0, 1]]
    np.testing.assert_allclose((similarity @ [*point, 1])[:3], scale / 0.5 * (turn @ colmap + shift))


BAD = [
    ("[1, 2", r"is not JSON .+; wanted a JSON file"),
    ("[" * 100_000, r"is not JSON .+"),
    ([1], r"is \[1\]; wanted a camera path of nerfstudio"),
    ({"camera_path": [], "keyframes": None}, r"holds neither camera_path nor keyframes; wanted .+"),
    ({"camera_path": {}}, r", camera_path: is {}; wanted a list"),
    ({"camera_path": [7]}, r", camera_path 0: is 7; wanted an object with camera_to_world and fov"),
    ({"camera_path": [{"fov": 3}]}, r", camera_path 0, camera_to_world: is missing; .+"),
    ({"camera_path": [{"camera_to_world": POSE, "fov": 180}]}, r", camera_path 0, fov: is 180; wanted 0.001 to 179.999"),
    ({"camera_path": [{"camera_to_world": POSE, "fov": "wide"}]}, r", camera_path 0, fov: is 'wide'; wanted degrees"),
    ({"camera_path": [{"camera_to_world": POSE, "fov": True}]}, r", camera_path 0, fov: is True; wanted a number"),
    ({"camera_path": [{"camera_to_world": POSE[:15], "fov": 9}]}, r", camera_path 0, camera_to_world: is \[.+; wanted 16 numbers"),
    ({"camera_path": [{"camera_to_world": [*POSE[:15], True], "fov": 9}]}, r", .+, camera_to_world: is True; wanted a number"),
    ({"camera_path": [{"camera_to_world": [float("nan"), *POSE[1:]], "fov": 9}]}, r", .+: is nan; wanted a finite number"),
    ({"camera_path": [{"camera_to_world": [10**400, *POSE[1:]], "fov": 9}]}, r", .+: is 10+…; wanted a finite number"),
    ({"camera_path": [{"camera_to_world": [2 * x for x in POSE], "fov": 9}]}, r", .+: has the last row .+; wanted 0 0 0 1"),
    ({"camera_path": [{"camera_to_world": [0.5, *POSE[1:]], "fov": 9}]}, r", .+: has a 3×3 part .+; wanted a rotation .+"),
    ({"camera_path": [{"camera_to_world": [0.0, 0, 1, *POSE[3:]], "fov": 9}]}, r", .+: is a mirrored .+; wanted x right, y up, .+"),
    ({"camera_path": [], "keyframes": [{"matrix": "[1", "fov": 9}]}, r", keyframes 0, matrix: is not JSON .+"),
    ({"render_height": 0}, r", render_height: is 0; wanted a whole number of pixels, 1 to 32768"),
    ({"render_width": 160.5}, r", render_width: is 160.5; wanted a whole number .+"),
    ({"render_width": 32769}, r", render_width: is 32769; wanted a whole number .+"),
    ({"fps": 0}, r", fps: is 0; wanted 0.1 to 240"),
    ({"fps": None}, r", fps: is None; wanted a number"),
    ({"camera_type": "fisheye"}, r", camera_type: is 'fisheye'; wanted perspective"),
    ({"camera_path": [], "is_cycle": 1}, r", is_cycle: is 1; wanted true or false"),
    ({"camera_path": [], "smoothness_value": 2}, r", smoothness_value: is 2; wanted 0 to 1"),
    ({"camera_path": [], "default_transition_sec": 0}, r", default_transition_sec: is 0; wanted 0.001 to 1e\+06"),
    ({"camera_path": [], "default_transition_sec": 999_999, "is_cycle": True, "fps": 240},
     r": lasts 1e\+06 s at 240 frames per second; wanted 100000 frames at most"),
    ({"camera_path": [{}] * 100_001}, r", camera_path: holds 100001 cameras; wanted 100000 at most"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD, ids=range(len(BAD)))
def test_damaged_files_are_told_in_one_line(change: Any, message: str) -> None:
    content = change if isinstance(change, str) else json.dumps(viewer_file(**change) if isinstance(change, dict) else change)
    with pytest.raises(InputError) as caught:
        parse_camera_path(content, "path.json")
    assert re.fullmatch(f"path.json(: )?{message}", str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"is \[\]; wanted transform and scale"),
        ('{"scale": 1}', "transform: is missing"),
        ('{"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]], "scale": 1}', "transform: has a 3×3 part"),
        ('{"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": -1}', "scale: is -1; wanted"),
    ],
)
def test_damaged_frames_of_a_viewer_are_told_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_dataparser_transform(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: is not there; wanted a camera path of nerfstudio"):
        read_camera_path(tmp_path / "nowhere.json")


ODD = [None, True, -1, 0, 1e308, 10**400, float("nan"), float("-inf"), "", "x", "[", "[1]", [], [[]], {}, {"a": 1}, [None] * 16]


def spoil(value: Any, draw: random.Random) -> Any:
    """Return JSON with one value somewhere replaced, left out or repeated."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, value = draw.choice(list(keys)), value.copy()
        if draw.random() < 0.1:
            del value[key]
        else:
            value[key] = spoil(value[key], draw)
        return value
    return draw.choice(ODD)


def test_no_damage_raises_anything_else() -> None:
    draw, refused = random.Random(0), 0
    old = {"matrix": json.dumps(POSE), "fov": "50", "aspect": 1.7}
    whole = [viewer_file(), viewer_file(camera_path=[]), viewer_file(keyframes=[old, old], camera_path=None, is_cycle=True)]
    for _ in range(1500):
        content = json.dumps(spoil(draw.choice(whole), draw))
        for parse in (parse_camera_path, parse_keyframes):
            try:
                path = parse(content, "path.json")
            except InputError:
                refused += 1
                continue
            frames = path.frames() if isinstance(path, KeyframePath) else path
            assert frames.c2w.isfinite().all()
            assert frames.fxfycxcy.isfinite().all()
    assert 500 < refused < 2900
