"""Files of camera paths drawn in the viewer: names, frames, limits."""

import dataclasses
import json

import numpy as np
import pytest

from config.errors import InputError
from config.rendering import Video
from model.keyframes import Keyframe, KeyframePath
from model.nerfstudio_path import read_camera_path
from model.viewer.path_files import MOST_BYTES, PathFiles, file_name


def path() -> KeyframePath:
    c2w = np.eye(4)
    other = np.array([[0.0, 0, 1, 2], [0, 1, 0, 3], [-1, 0, 0, 4], [0, 0, 0, 1]])
    return KeyframePath((Keyframe(c2w, 40.0, 0.0), Keyframe(other, 60.0, 1.5)), (24, 36), 20.0, 0.25)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("flight 1", "flight_1.json"),
        ("../../etc/passwd", "etc_passwd.json"),
        ("/a\\b:c", "a_b_c.json"),
        ("", "camera_path.json"),
        ("...", "camera_path.json"),
        ("ä" * 300, "ä" * 100 + ".json"),
    ],
)
def test_what_is_typed_into_a_browser_becomes_a_plain_name(typed, name):
    assert file_name(typed) == name


def test_files_are_in_their_own_frame_and_read_back(tmp_path):
    moved = np.array([[0.0, -2, 0, 1], [2, 0, 0, 5], [0, 0, 2, 7], [0, 0, 0, 1]])  # a quarter turn about z, twice as large
    files = PathFiles(tmp_path, from_capture=moved)
    file = files.save(path(), "a b")
    assert file == tmp_path / "a_b.json"
    found = read_camera_path(file)
    assert found.image_size == (24, 36)
    assert len(found) == 30
    # The last camera is at (2, 3, 4) in the capture, at (1 - 2 · 3, 5 + 2 · 2, 7 + 2 · 4) in the file.
    np.testing.assert_allclose(found.c2w[-1, :3, 3].numpy(), (-5, 9, 15), atol=1e-6)
    # It looks along x there, so along y in the file.
    np.testing.assert_allclose(found.c2w[-1, :3, 2].numpy(), (0, 1, 0), atol=1e-6)
    again = files.read(file.read_bytes(), "a_b.json")
    for key, expected in zip(again.keyframes, path().keyframes, strict=True):
        np.testing.assert_allclose(key.c2w, expected.c2w, atol=1e-9)
        assert (key.time_s, key.fov_deg) == pytest.approx((expected.time_s, expected.fov_deg))
    assert again.tension == 0.25
    assert files.content(path()) == json.loads(file.read_text())


def test_the_first_path_is_read_in_the_frame_of_the_flags(tmp_path):
    scale = {"transform": [[0, -1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]], "scale": 0.5}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(scale))
    video = Video(camera_path_frame=(str(tmp_path / "dataparser_transforms.json"),))
    files = PathFiles.of(video, tmp_path)
    file = files.save(path(), "p")
    # (2, 3, 4) goes to half of (-3 + 1, 2, 4).
    np.testing.assert_allclose(read_camera_path(file).c2w[-1, :3, 3].numpy(), (-1, 1, 2), atol=1e-6)
    first = PathFiles.of(dataclasses.replace(video, camera_path=str(file)), tmp_path).first
    assert first is not None
    np.testing.assert_allclose(first.keyframes[-1].c2w, path().keyframes[-1].c2w, atol=1e-9)
    assert PathFiles.of(Video(), tmp_path).first is None


def test_uploads_that_are_no_camera_path_are_refused():
    with pytest.raises(InputError, match=r"x.json: is not JSON"):
        PathFiles().read(b"{", "x.json")
    with pytest.raises(InputError, match=r"x.json: has 64 MiB; wanted 64 MiB at most"):
        PathFiles().read(bytes(MOST_BYTES + 1), "x.json")
