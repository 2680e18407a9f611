"""Conversion of DL3DV scenes, as the published conversion does it. Letters: h w pixels."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import data_preprocess.dl3dv_format_converter as dl3dv
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.dl3dv_format_converter import main
from tests.support.captures import equidistant, found_dots, paint, perspective, project
from tests.support.networks import GOLDEN

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "dl3dv_format_converter.py"
TRANSFORMS = json.loads((GOLDEN / "fox_transforms.json").read_text())
PUBLISHED = json.loads((GOLDEN / "fox_opencv_cameras.json").read_text())


def fox(folder: Path, frames: int = 3, size=(27, 48), top: dict | None = None, nerfstudio: bool = True, noise: bool = True) -> Path:
    """Write the fox's cameras with noise, or black, instead of photos (h, w); return the transforms.json."""
    folder = folder / "nerfstudio" if nerfstudio else folder
    (folder / "images_4").mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {**TRANSFORMS, **(top or {}), "frames": TRANSFORMS["frames"][:frames]}
    content = {key: value for key, value in content.items() if value is not None}
    for frame in content["frames"]:
        photo = Image.fromarray(rng.integers(0, 256 if noise else 1, (*size, 3), dtype=np.uint8))
        photo.save(folder / "images_4" / Path(frame["file_path"]).name)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder / "transforms.json"


def convert(tmp_path: Path) -> list:
    """Convert tmp_path/in and return the views of its scene."""
    assert main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    (json_path,) = read_data_path(tmp_path / "out" / "dl3dv_data_path.json")
    return read_scene(json_path).views


def test_cameras_are_the_published_ones(tmp_path):
    fox(tmp_path / "in" / "fox", frames=50, size=(270, 480), noise=False)
    convert(tmp_path)
    found = json.loads((tmp_path / "out" / "fox" / "opencv_cameras.json").read_text())
    assert len(found) == len(PUBLISHED) == 50
    for view, expected in zip(found, PUBLISHED, strict=True):
        assert view.keys() == expected.keys()
        assert [view[key] for key in ("file_path", "w", "h")] == [expected[key] for key in ("file_path", "w", "h")]
        # The bound is the specification's: pixels for intrinsics; positions reach 6.4.
        for key in ("fx", "fy", "cx", "cy", "w2c"):
            np.testing.assert_allclose(view[key], expected[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(27, 48), (54, 96)])
def test_images_are_opencv_s_undistortion_at_their_real_size(tmp_path, size):
    json_path = fox(tmp_path / "in" / "fox", size=size)
    views = convert(tmp_path)
    h, w = size
    scale = w / TRANSFORMS["w"]
    fx, fy, cx, cy = (TRANSFORMS[key] * scale for key in ("fl_x", "fl_y", "cx", "cy"))
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    terms = np.array([TRANSFORMS[key] for key in ("k1", "k2", "p1", "p2")])
    new, _ = cv2.getOptimalNewCameraMatrix(matrix, terms, (w, h), 0, (w, h))
    for view in views:
        np.testing.assert_allclose((view.fx, view.fy, view.cx, view.cy), new[[0, 1, 0, 1], [0, 1, 2, 2]], rtol=1e-12)
        source = cv2.imread(str(json_path.parent / "images_4" / view.file_path.name))
        assert np.array_equal(cv2.imread(str(view.file_path)), cv2.undistort(source, matrix, terms, None, new))


def painted(tmp_path: Path, size: tuple[int, int], model, top: dict) -> tuple[np.ndarray, np.ndarray]:
    """Convert photos of dots; return where they are found and where the converted cameras see them, (n, 2) each."""
    json_path = fox(tmp_path / "in" / "fox", frames=1, size=size, top=top)
    x, y = np.meshgrid(np.linspace(-0.3, 0.3, 4), np.linspace(-0.3, 0.3, 4))
    local = np.stack([x.ravel(), y.ravel(), np.ones(16)], axis=1) * 3
    quarter = tuple(top[key] / 4 for key in ("fl_x", "fl_y", "cx", "cy"))
    terms = {key: value for key, value in top.items() if value is not None}
    photo = paint(project(local, np.eye(4), quarter, model, terms), size)
    Image.fromarray(photo).save(json_path.parent / "images_4" / "frame_00001.png")
    (view,) = convert(tmp_path)
    assert (view.h, view.w) == size
    expected = project(local, np.eye(4), (view.fx, view.fy, view.cx, view.cy))
    return found_dots(np.asarray(Image.open(view.file_path)), expected), expected


def test_portrait_captures_are_converted(tmp_path):
    terms = {"k1": -0.05, "k2": 0.02, "p1": 0.001, "p2": -0.002}
    top = {"w": 540, "h": 960, "fl_x": 600.0, "fl_y": 604.0, "cx": 262.0, "cy": 490.0, **terms}
    found, expected = painted(tmp_path, (240, 135), perspective, top)
    assert np.isfinite(found).sum() >= 24
    # The published conversion omits half a pixel on both sides, which nearly cancels: 0.028 px remains.
    assert np.nanmax(np.abs(found - expected)) < 0.1


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (equidistant, {"camera_model": "OPENCV_FISHEYE", "k1": 0.04, "k2": -0.01, "k3": 0.002, "p1": None, "p2": None}),
        (perspective, {"k1": None, "k2": None, "p1": None, "p2": None}),
    ],
)
def test_other_lenses_are_converted_too(tmp_path, model, terms):
    top = {"w": 960, "h": 540, "fl_x": 600.0, "fl_y": 604.0, "cx": 470.0, "cy": 280.0, **terms}
    found, expected = painted(tmp_path, (135, 240), model, top)
    assert np.isfinite(found).sum() >= 24
    assert np.nanmax(np.abs(found - expected)) < 0.1


def test_scenes_are_found_at_any_depth_and_named_by_their_hash(tmp_path, monkeypatch):
    fox(tmp_path / "dl3dv_benchmark" / "b")
    fox(tmp_path / "dl3dv_benchmark" / "1K" / "a", nerfstudio=False)
    fox(tmp_path / "dl3dv_benchmark" / ".download" / "c")  # incomplete
    monkeypatch.setattr(dl3dv, "EXAMPLES", tmp_path)
    assert main([]) == 0
    listed = json.loads((tmp_path / "dl3dv_sample_data_path.json").read_text())
    assert listed == ["dl3dv_processed/a/opencv_cameras.json", "dl3dv_processed/b/opencv_cameras.json"]
    scene = read_scene(tmp_path / "dl3dv_processed" / "a" / "opencv_cameras.json")
    assert scene.views[2].file_path == tmp_path / "dl3dv_processed" / "a" / "images_undistort" / "frame_00003.png"


def test_a_scene_is_named_after_its_folder_however_that_is_given(tmp_path, monkeypatch):
    fox(tmp_path / "fox")
    monkeypatch.chdir(tmp_path / "fox" / "nerfstudio" / "images_4")
    assert main(["--input", "..", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "fox" / "opencv_cameras.json").exists()


def test_long_lrm_s_spelling_and_a_chosen_list(tmp_path):
    fox(tmp_path / "in" / "fox")
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--long_lrm", "--workers", "1"]
    assert main([*flags, "--data_path_json", str(tmp_path / "list" / "fox.json")]) == 0
    assert json.loads((tmp_path / "list" / "fox.json").read_text()) == ["../out/fox/opencv_cameras.json"]
    assert json.loads((tmp_path / "out" / "fox" / "opencv_cameras.json").read_text())["scene_name"] == "fox"


def test_frames_without_their_image_and_images_without_a_frame_are_listed(tmp_path, capsys):
    images = fox(tmp_path / "in" / "fox").parent / "images_4"
    (images / "frame_00002.png").rename(images / "frame_00009.png")
    assert [view.file_path.name for view in convert(tmp_path)] == ["frame_00001.png", "frame_00003.png"]
    out = capsys.readouterr().out
    assert "fox: left out, frames without their photo (1 of 3): images_4/frame_00002.png\n" in out
    assert "fox: left out, photos without a frame in transforms.json (1 of 3): images_4/frame_00009.png\n" in out


@pytest.mark.parametrize("part", ["nerfstudio", "gaussian_splat", "."])
def test_scenes_without_cameras_are_listed(tmp_path, capsys, part):
    fox(tmp_path / "in" / "1K" / "good")
    # What is beside the nerfstudio of a whole scene is not a scene.
    (tmp_path / "in" / "1K" / "good" / "gaussian_splat" / "images_4").mkdir(parents=True)
    for name in ("__MACOSX/1K/good/images_4", "@eaDir/images_4", "half/good/images_4"):
        (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / "half" / "good" / ".unfinished").touch()
    bad = tmp_path / "in" / "2K" / "good" / part
    for name in ("images_8", "images", "images_4"):
        (bad / name).mkdir(parents=True)
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "in" / "out")]
    for _ in range(2):
        assert main(flags) == 2
        said = capsys.readouterr()
        assert f"{bad}: has images, images_4, images_8 and no transforms.json; wanted it beside them\n" in said.err
        assert "1 of 2 scenes in" in said.out


def test_empty_folders_of_scenes_are_listed(tmp_path, capsys):
    scenes = [tmp_path / "in" / f"{i:064x}" for i in range(4)]
    fox(scenes[0])
    fox(scenes[1] / scenes[1].name)  # as some programs unpack a zip
    scenes[2].mkdir()
    (scenes[3] / "nerfstudio").mkdir(parents=True)
    (tmp_path / "in" / "notes").mkdir()
    assert main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "in" / "out")]) == 2
    said = capsys.readouterr()
    assert "2 of 4 scenes in" in said.out
    for scene in scenes[2:]:
        assert f"{scene}: has no transforms.json; wanted it and images_4\n" in said.err


def test_links_that_lead_back_are_not_followed(tmp_path):
    fox(tmp_path / "disk" / "a")
    (tmp_path / "in" / "b" / "c").mkdir(parents=True)
    (tmp_path / "in" / "a").symlink_to(tmp_path / "disk" / "a")
    (tmp_path / "in" / "b" / "up").symlink_to("..")
    (tmp_path / "in" / "b" / "c" / "self").symlink_to(".")
    assert len(convert(tmp_path)) == 3


ERRORS = {
    "all images gone": (
        lambda folder: [image.unlink() for image in (folder / "images_4").iterdir()],
        "nerfstudio.*ame_00001.png: is not there; wanted it there",  # a long path is shown in part
    ),
    "no small images": (lambda folder: (folder / "images_4").rename(folder / "images_8"), "images_4: is not there; wanted the"),
    "no JSON": (lambda folder: (folder / "transforms.json").write_text("{"), "transforms.json: is not JSON"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_scenes_that_cannot_be_converted_are_named(tmp_path, capsys, case):
    spoil, message = ERRORS[case]
    fox(tmp_path / "in" / "good")
    spoil(fox(tmp_path / "in" / "bad").parent)
    assert main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dl3dv_format_converter.py: ")]
    assert re.search(message, line)
    assert read_data_path(tmp_path / "out" / "dl3dv_data_path.json") == [tmp_path / "out" / "good" / "opencv_cameras.json"]


def test_inputs_without_scenes(tmp_path, capsys):
    def says(folder: Path) -> str:
        assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "none: is not there; wanted a folder with DL3DV scenes" in says(tmp_path / "none")
    assert "has no transforms.json below it; wanted scenes as HASH/nerfstudio/transforms.json" in says(tmp_path)
    fox(tmp_path / "in" / "1K" / "a")
    fox(tmp_path / "in" / "2K" / "a")
    assert "2K/a/nerfstudio: is the same scene as" in says(tmp_path / "in")


def test_as_a_user_runs_it(tmp_path):
    json_path = fox(tmp_path / "in" / "fox")
    before = json_path.read_bytes()
    command = [sys.executable, str(SCRIPT), "--input", "in", "--output", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "1 of 1 scene in out/dl3dv_data_path.json" in done.stdout
    assert "Traceback" not in done.stderr
    assert json_path.read_bytes() == before


def test_scenes_that_another_shard_begins_in_an_output_folder_below_the_input_are_not_taken_for_input(tmp_path, capsys):
    for name in ("fox", "owl", "yak"):
        fox(tmp_path / "in" / name)
    begun = tmp_path / "in" / "done" / ("0" * 64)
    begun.mkdir(parents=True)
    path = tmp_path / "in" / "done" / "dl3dv_data_path.json"
    for index in range(2):
        assert main(["--input", str(tmp_path / "in"), "--output", str(path.parent), "--shard", f"{index}/2"]) == 0
    parts = [path.with_name(f"dl3dv_data_path.part-000{index}-of-0002.json") for index in range(2)]
    assert [[scene.parent.name for scene in read_data_path(part)] for part in parts] == [["fox"], ["owl", "yak"]]
    assert main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 2  # else it is a scene without a file
    assert f"{begun}: has no transforms.json" in capsys.readouterr().err
