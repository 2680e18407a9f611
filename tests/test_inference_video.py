"""inference.py's videos: their camera paths, sizes and file names by flags, from photos and from saved reconstructions."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inference
from data.images import read_pixels
from data.output.video import VideoWriter
from data.scene_format import read_scene
from model import LaCTLVSM, SceneState
from model.camera_path import CameraPath, flight, orbit, published_turntable, turntable
from model.keyframes import Keyframe, KeyframePath
from model.nerfstudio_path import write_camera_path
from model.video_frames import nearest_inputs
from tests.support.inference_run import EXACT, SIZE, files, metrics, told

FLIP = np.diag([1.0, -1, -1, 1])
ONE = "scene_0/opencv_cameras.json"


@pytest.fixture
def cameras(monkeypatch) -> list[CameraPath]:
    """Catch the cameras of every video that is rendered; its frames are noise."""
    caught = []

    def render(self, state, fxfycxcy, c2w, size, chunk_views):
        caught.append(CameraPath(fxfycxcy[0], c2w[0], size))
        return iter([torch.rand(1, c2w.shape[1], 3, *size)])

    monkeypatch.setattr(LaCTLVSM, "render_stream", render)
    return caught


def assert_same(found: CameraPath, wanted: CameraPath) -> None:
    assert found.image_size == wanted.image_size
    torch.testing.assert_close(found.c2w, wanted.c2w, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.fxfycxcy, wanted.fxfycxcy, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ("", lambda state: turntable(state, 5)),
        ("--video_path published", lambda state: published_turntable(5, SIZE)),
        ("--video_path published --video_size 40 24", lambda state: published_turntable(5, (40, 24))),
        (
            "--video_size 40 24 --video_elevation -10 --video_fov 30",
            lambda s: turntable(s, 5, (40, 24), elevation_deg=-10, fov_deg=30),
        ),
        ("--video_path flight --path_order nearest --path_smoothing 0", lambda s: flight(s, 5, order="nearest", smoothing=0)),
        ("--video_radius 3", lambda s: turntable(s, 5, radius=3)),
    ],
)
def test_videos_of_objects_follow_the_path_asked_for(infer, cameras, flags, path):
    folder = infer(f"--num_input_views 3 --num_target_views 0 --video_frames 5 --save_state {flags}", data=ONE)
    state = SceneState.load(folder / "scene_0" / "state.safetensors")
    assert state.from_capture is None
    assert_same(cameras[0], path(state))


def ring_scene(place: Path, folder: Path, centre: tuple[float, ...], scale: float) -> Path:
    """Write a scene whose seven cameras are on half a circle around a point."""
    views = json.loads((place / ONE).read_text())
    for i, view in enumerate(views):
        a = i / 2
        outward = np.array([np.cos(a), np.sin(a), 0.4])
        z = -outward / np.linalg.norm(outward)
        x = np.cross(z, [0, 0, 1]) / np.linalg.norm(np.cross(z, [0, 0, 1]))
        c2w = np.eye(4)
        c2w[:3] = np.stack([x, np.cross(z, x), z, np.array(centre) + scale * outward], axis=1)
        view["w2c"] = np.linalg.inv(c2w).tolist()
        view["file_path"] = str(Path("images") / Path(view["file_path"]).name)
    (folder / "ring").mkdir()
    (folder / "ring" / "images").symlink_to(place / "scene_0" / "images")
    (folder / "ring" / "opencv_cameras.json").write_text(json.dumps(views))
    return folder / "ring" / "opencv_cameras.json"


def test_a_radius_is_in_units_of_the_cameras_file(infer, place, tmp_path, cameras):
    scene = ring_scene(place, tmp_path, (30, -20, 10), 7.0)
    flags = "--scene_inference --num_input_views 4 --num_target_views 0 --video_frames 6 --video_path orbit"
    folder = infer(f"{flags} --save_state", data=str(scene))
    state = SceneState.load(folder / "ring" / "state.safetensors")
    assert_same(cameras[0], orbit(state, 6))
    assert state.from_capture is not None
    unit = torch.linalg.det(state.from_capture[0, :3, :3]).item() ** (1 / 3)
    assert unit < 0.2
    # By default the inputs' own distance: 7 times the length of (1, 0.4).
    infer(f"{flags} --video_radius 7.5392", "again", data=str(scene))
    torch.testing.assert_close(cameras[1].c2w, cameras[0].c2w, atol=0.02, rtol=0)


def nerfstudio_file(file: Path, poses: list[np.ndarray], size: tuple[int, int] = (12, 16), **change: Any) -> None:
    """Write frames as nerfstudio's viewer does, by hand: 50 degrees high, 12 frames per second."""
    frames = [{"camera_to_world": (pose @ FLIP).flatten().tolist(), "fov": 50, "aspect": 1.3} for pose in poses]
    content = {"render_height": size[0], "render_width": size[1], "fps": 12, "camera_path": frames, **change}
    file.write_text(json.dumps(content))


def test_a_camera_path_is_in_the_frame_of_the_cameras_file(infer, place, tmp_path, cameras):
    views = read_scene(place / ONE).views
    poses = [view.c2w for view in views]
    nerfstudio_file(tmp_path / "path.json", poses)
    flags = f"--scene_inference --camera_path {tmp_path / 'path.json'}"
    folder = infer(f"{flags} --num_input_views 7 --num_target_views 0 --save_state", data=ONE)
    state = SceneState.load(folder / "scene_0" / "state.safetensors")
    (path,) = cameras
    # Its frames are the inputs: seven views of seven.
    torch.testing.assert_close(path.c2w, state.c2w[0], atol=1e-5, rtol=0)
    focal = 6 / np.tan(np.deg2rad(25))
    np.testing.assert_allclose(path.fxfycxcy, np.tile([focal, focal, 8, 6], (7, 1)), rtol=1e-6)
    assert path.image_size == (12, 16)
    # Later, from the saved reconstruction, and at another size: the vertical field of view stays.
    infer(f"{flags} --load_state {folder}/scene_0/state.safetensors --video_size 24 20 --video_fps 60", "again", data=None)
    torch.testing.assert_close(cameras[1].c2w, path.c2w)
    np.testing.assert_allclose(cameras[1].fxfycxcy[0], [2 * focal, 2 * focal, 10, 12], rtol=1e-6)


def test_a_camera_path_in_the_frame_of_nerfstudio_s_viewer(infer, place, tmp_path, cameras):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    transform = np.c_[turn, [1, -2, 3]]
    (tmp_path / "dataparser.json").write_text(json.dumps({"transform": transform.tolist(), "scale": 0.3}))
    moved = []
    for view in read_scene(place / ONE).views[:4]:
        pose = np.eye(4)
        pose[:3] = transform @ view.c2w
        pose[:3, 3] *= 0.3
        moved.append(pose)
    nerfstudio_file(tmp_path / "path.json", moved)
    nerfstudio_file(tmp_path / "same.json", [view.c2w for view in read_scene(place / ONE).views[:4]])
    flags = "--num_input_views 3 --num_target_views 0"
    infer(f"{flags} --camera_path {tmp_path}/same.json", data=ONE)
    infer(f"{flags} --camera_path {tmp_path}/path.json --camera_path_frame {tmp_path}/dataparser.json", "moved", data=ONE)
    torch.testing.assert_close(cameras[1].c2w, cameras[0].c2w, atol=1e-5, rtol=0)


def test_a_path_of_keyframes_makes_a_video_of_its_own_length_and_speed(infer, tmp_path, place, monkeypatch):
    seen = []
    write = VideoWriter.write
    monkeypatch.setattr(VideoWriter, "write", lambda self, frame: (seen.append((self.path.name, frame)), write(self, frame))[1])
    keys = [Keyframe(view.c2w, 50, 0.5 * i) for i, view in enumerate(read_scene(place / ONE).views[:3])]
    write_camera_path(tmp_path / "path.json", KeyframePath(tuple(keys), (12, 16), 10.0))
    folder = infer(f"--num_input_views 3 --num_target_views 0 --camera_path {tmp_path}/path.json --video_format gif", data=ONE)
    assert [(name, frame.shape) for name, frame in seen] == [("video.gif", (12, 16, 3))] * 10
    with Image.open(folder / "scene_0" / "video.gif") as video:
        assert video.info["duration"] == 100
    infer(
        f"--num_input_views 3 --num_target_views 0 --camera_path {tmp_path}/path.json --video_format gif --video_fps 20", data=ONE
    )
    with Image.open(folder / "scene_0" / "video.gif") as video:
        assert video.info["duration"] == 50


def test_frames_are_enlarged_by_whole_pixels_and_set_beside_the_nearest_photo(infer, place, monkeypatch):
    frames: dict[str, list[np.ndarray]] = {}
    write = VideoWriter.write

    def keep(self, frame):
        frames.setdefault(self.path.name, []).append(frame)
        write(self, frame)

    monkeypatch.setattr(VideoWriter, "write", keep)
    flags = "--num_input_views 3 --num_target_views 1 --no_lpips --video_frames 4 --video_size 40 24"
    for more in ("", "--video_scale 3", "--side_by_side", "--side_by_side --video_scale 2"):
        folder = infer(f"{flags} {more} --save_state", data=ONE)
    names = ["video.mp4", "video_side_by_side.mp4", "video_side_by_side_x2.mp4", "video_x3.mp4"]
    assert [name for name in files(folder / "scene_0") if name.endswith(".mp4")] == names
    assert metrics(folder)["about"]["video_scale"] == 2
    assert metrics(folder)["about"]["side_by_side"] is True
    assert metrics(folder)["about"]["video_size"] == [40, 24]
    plain = np.stack(frames["video.mp4"])
    assert plain.shape == (4, 40, 24, 3)
    large = np.stack(frames["video_x3.mp4"])
    assert large.shape == (4, 120, 72, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(large[:, i::3, j::3], plain)
    beside = np.stack(frames["video_side_by_side.mp4"])
    # Photos of 20×28, twice as high.
    assert beside.shape == (4, 40, 56 + 24, 3)
    np.testing.assert_array_equal(beside[:, :, 56:], plain)
    np.testing.assert_array_equal(np.stack(frames["video_side_by_side_x2.mp4"])[:, 1::2, ::2], beside)
    state = SceneState.load(folder / "scene_0" / "state.safetensors")
    inputs = metrics(folder)["about"]["input_views"]["scene_0"]
    nearest = nearest_inputs(turntable(state, 4, (40, 24)).c2w, state.c2w[0])
    for frame, i in zip(beside, nearest, strict=True):
        photo = read_pixels(read_scene(place / ONE).views[inputs[i]].file_path)
        # Of the whole photo, 25×34, resized twice: its mean colour stays.
        np.testing.assert_allclose(frame[:, :56].mean((0, 1)), np.asarray(photo, dtype=float).mean((0, 1)), atol=8)


def test_the_nearest_input_is_near_in_position_and_in_direction():
    inputs = torch.eye(4).repeat(3, 1, 1)
    inputs[1, :3, 3] = torch.tensor([2.0, 0, 0])
    inputs[2, :3, :3] = torch.diag(torch.tensor([-1.0, 1, -1]))  # at the place of the first, the other way round
    asked = torch.eye(4).repeat(4, 1, 1)
    asked[:, 0, 3] = torch.tensor([0.4, 1.6, 0.4, -9.0])
    asked[2, :3, :3] = inputs[2, :3, :3]
    assert nearest_inputs(asked, inputs).tolist() == [0, 1, 2, 0]
    assert nearest_inputs(asked, inputs[:1]).tolist() == [0, 0, 0, 0]


BAD = [
    ("--camera_path nowhere.json", "nowhere.json: is not there; wanted a camera path of nerfstudio"),
    ("--camera_path bad.json", "bad.json: is not JSON .*; wanted a JSON file"),
    ("--camera_path odd.json", r"odd.json, render_width: has the width 18; wanted a multiple of the patch 4: 16 or 20"),
    ("--camera_path good.json --camera_path_frame nowhere.json", "nowhere.json: is not there; wanted a JSON file"),
    ("--camera_path good.json --camera_path_frame good.json", "good.json, transform: is missing; wanted .*"),
    (
        "--camera_path good.json --camera_path_frame a b c",
        "--camera_path_frame: names 3 files; wanted dataparser_transforms.json, .*",
    ),
    ("--video_size 22 28", "--video_size: has the height 22; wanted a multiple of the patch 4: 20 or 24"),
    (
        "--video_size 4000 4000 --video_scale 5",
        "--video_scale: makes a video of 20000×20000 .*; wanted 16384 pixels a side at most",
    ),
    ("--video_size 20 20000", "--video_size: makes a video of 20×20000 .*; wanted 16384 pixels a side at most"),
    ("--camera_path huge.json", "huge.json, render_width: makes a video of 16×16400 .*; wanted 16384 pixels a side at most"),
    ("--video_size 4000 8000 --side_by_side --video_scale 2", "--video_scale: makes a video of 8000×27200 .*; wanted 16384 .*"),
    ("--scene_inference --video_path turntable", "--video_path: is turntable with --scene_inference, .*; wanted orbit or flight"),
    ("--video_elevation 91", "--video_elevation: is 91.0; wanted -90 to 90"),
    ("--video_radius 0", "--video_radius: is 0.0; wanted above 0"),
    ("--video_fov 180", "--video_fov: is 180.0; wanted 1 to 179"),
    ("--video_path flight --path_smoothing -1", "--path_smoothing: is -1.0; wanted 0 to 1000"),
    ("--video_scale 0", "--video_scale: is 0; wanted 1 to 64"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[flags for flags, _ in BAD])
def test_bad_videos_are_told_in_one_line_and_nothing_is_written(place, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("[1")
    nerfstudio_file(tmp_path / "good.json", [np.eye(4)])
    nerfstudio_file(tmp_path / "odd.json", [np.eye(4)], size=(16, 18))
    nerfstudio_file(tmp_path / "huge.json", [np.eye(4)], size=(16, 16400))
    before = files(tmp_path)
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", str(place / ONE), "--num_input_views", "2", *EXACT]
    assert inference.main([*words, "--image_size", "20", "28", "--no_lpips", *shlex.split(flags)]) == 2
    output = capsys.readouterr()
    assert re.fullmatch(f"inference.py: {message}\n", output.err)
    assert output.out == ""
    assert files(tmp_path) == before


def test_what_a_scene_does_not_allow_is_told_in_one_line(infer, place, tmp_path, capsys):
    words = ["--load", str(place / "tiny.safetensors"), "--output_dir", str(tmp_path / "no"), *EXACT, "--video_format", "gif"]
    photos = ["--data_path", str(place / ONE), "--num_input_views", "1", "--num_target_views", "0", "--image_size", "20", "28"]
    assert inference.main([*words, *photos, "--video_path", "orbit"]) == 2
    line = "inference.py: scene_0, cameras: look at no common point; wanted photos taken around an object"
    assert told(capsys.readouterr().err)[-1] == line
    # A reconstruction saved without its move from the capture's frame.
    folder = infer("--scene_inference --num_input_views 3 --num_target_views 0 --video_format none --save_state", data=ONE)
    state = SceneState.load(folder / "scene_0" / "state.safetensors")
    state.from_capture = None
    state.save(tmp_path / "old.safetensors")
    nerfstudio_file(tmp_path / "path.json", [np.eye(4)])
    assert inference.main([*words, "--load_state", f"{tmp_path}/old.safetensors", "--camera_path", f"{tmp_path}/path.json"]) == 2
    found = told(capsys.readouterr().err)[-1]
    assert found.endswith("scene state, from_capture: is missing; wanted a state saved again, by --save_state")
