"""Conversion of captures with a poses_bounds.npy to the unified format. Letters: v views, h w pixels."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_preprocess.colmap_format_converter as colmap
from data.scene_format import View, read_scene
from data.scene_list import read_data_path
from data_preprocess.llff_format_converter import main
from tests.support.captures import orbit
from tests.support.colmap_files import quaternion, write_binary
from tests.support.images import turned

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "llff_format_converter.py"
SIZE, FOCAL = (36, 52), 41.5


def poses_bounds(c2w: np.ndarray, size: tuple[int, int] = SIZE, focal: float = FOCAL) -> np.ndarray:
    """Return the rows (v, 17) of cameras c2w (v, 4, 4) with OpenCV axes."""
    rows = []
    for pose in c2w:
        right, down, forward, position = pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3]
        backward = -forward
        matrix = [[down[k], right[k], backward[k], position[k], (*size, focal)[k]] for k in range(3)]
        rows.append([*matrix[0], *matrix[1], *matrix[2], 0.8, 20.0])
    return np.array(rows)


def capture(folder: Path, names: list[str], scale: int = 1, images: str = "images") -> np.ndarray:
    """Write photos and their cameras on an orbit; return c2w (v, 4, 4), OpenCV axes."""
    c2w = orbit(len(names), up=(0.2, -0.9, 0.3), centre=(1.0, -2.0, 0.5))
    (folder / images).mkdir(parents=True, exist_ok=True)
    h, w = SIZE
    for i, name in enumerate(names):
        Image.new("RGB", (w // scale, h // scale), (40 * i, 90, 120)).save(folder / images / name)
    np.save(folder / "poses_bounds.npy", poses_bounds(c2w))
    return c2w


def convert(output: Path, *flags: object) -> tuple[View, ...]:
    assert main([*map(str, flags), "--output", str(output), "--workers", "2"]) == 0
    (json_path,) = read_data_path(output / "llff_data_path.json")
    return read_scene(json_path).views


def test_poses_and_intrinsics(tmp_path):
    # Sorted by letter, image10 comes before image9; scenes are in natural order.
    names = ["a.png", "image10.png", "image9.png", "z.jpg"]
    c2w = capture(tmp_path / "fern", names)
    views = convert(tmp_path / "out", "--input", tmp_path / "fern", "--frame", "given")
    assert [view.file_path.name for view in views] == ["a.png", "image9.png", "image10.png", "z.jpg"]
    assert np.abs(np.stack([view.c2w for view in views]) - c2w[[0, 2, 1, 3]]).max() < 1e-12
    assert {(view.w, view.h, view.fx, view.fy, view.cx, view.cy) for view in views} == {(52, 36, 41.5, 41.5, 26.0, 18.0)}
    for view, name in zip(views, ["a.png", "image9.png", "image10.png", "z.jpg"], strict=True):
        assert view.file_path.read_bytes() == (tmp_path / "fern" / "images" / name).read_bytes()


def test_one_camera_by_hand(tmp_path):
    # At (1, 2, 3), it looks along the world's x, with the world's -z down in the picture, so that -y is on the right.
    row = [0, 0, -1, 1, 36, 0, -1, 0, 2, 52, -1, 0, 0, 3, 41.5, 0.5, 9]
    (tmp_path / "one" / "images").mkdir(parents=True)
    Image.new("RGB", (52, 36)).save(tmp_path / "one" / "images" / "0.png")
    np.save(tmp_path / "one" / "poses_bounds.npy", np.array([row], dtype=np.float32))
    (view,) = convert(tmp_path / "out", "--input", tmp_path / "one", "--frame", "given")
    # 10 ahead, 2 to the left (y + 2), 1 above (z + 1).
    x, y, z, _ = view.w2c @ [11, 4, 4, 1]
    assert np.allclose((x, y, z), (-2, -1, 10), atol=1e-12)
    assert np.allclose((view.fx * x / z + view.cx, view.fy * y / z + view.cy), (26 - 8.3, 18 - 4.15), atol=1e-12)


def test_smaller_photos_of_several_captures(tmp_path):
    before = {}
    for name in ("fern", "horns"):
        before[name] = capture(tmp_path / name, ["IMG_1.JPG", "IMG_2.JPG", "IMG_3.JPG"])
        capture(tmp_path / name, ["image000.png", "image001.png", "image002.png"], 4, "images_4")
    flags = ["--images", "images_4", "--frame", "given", "--long_lrm", "--data_path_json", "list.json"]
    command = [sys.executable, str(SCRIPT), "--input", "fern", "horns", "--output", "out", *flags]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("2 of 2 scenes in list.json\n")
    scenes = [read_scene(path) for path in read_data_path(tmp_path / "list.json")]
    assert [scene.name for scene in scenes] == ["fern", "horns"]
    for scene in scenes:
        assert {(view.w, view.h, view.fx, view.fy, view.cx, view.cy) for view in scene.views} == {(13, 9, 10.375, 10.375, 6.5, 4.5)}
        assert np.abs(np.stack([view.c2w for view in scene.views]) - before[scene.name]).max() < 1e-12


def test_shards_divide_the_captures(tmp_path):
    for name in ("fern", "horns", "room"):
        capture(tmp_path / name, ["0.png", "1.png", "2.png"])
    flags = ["--input", *(str(tmp_path / name) for name in ("fern", "horns", "room")), "--output", str(tmp_path / "out")]
    assert main([*flags, "--shard", "1/2"]) == 0
    (part,) = (tmp_path / "out").glob("*.json")
    assert [path.parent.name for path in read_data_path(part)] == ["horns", "room"]


def test_the_model_of_colmap_gives_the_same_and_is_named(tmp_path, capsys):
    folder = tmp_path / "fern"
    names = ["0.png", "1.png", "2.png", "3.png"]
    c2w = capture(folder, names)
    w2c = np.linalg.inv(c2w)
    images = [(i, quaternion(pose), pose[:3, 3], 1, name) for i, (name, pose) in enumerate(zip(names, w2c, strict=True))]
    write_binary(folder / "sparse" / "0", {1: ("SIMPLE_PINHOLE", SIZE[1], SIZE[0], (FOCAL, 26, 18))}, images)
    for frame in ("given", "auto"):
        views = convert(tmp_path / f"llff_{frame}", "--input", folder, "--frame", frame)
        line = capsys.readouterr().out.splitlines()[0]
        command = f"python data_preprocess/colmap_format_converter.py --input {folder} --output {tmp_path}/llff_{frame}"
        assert line == f"fern: has a COLMAP model, which is better, since it knows the distortion: {command}"
        assert colmap.main(["--input", str(folder), "--output", str(tmp_path / f"colmap_{frame}"), "--frame", frame]) == 0
        capsys.readouterr()
        others = read_scene(tmp_path / f"colmap_{frame}" / "fern" / "opencv_cameras.json").views
        for view, other in zip(views, others, strict=True):
            assert np.abs(view.w2c - other.w2c).max() < 1e-6
            assert (view.file_path.name, view.fx, view.fy, view.cx, view.cy) == (
                other.file_path.name,
                other.fx,
                other.fy,
                other.cx,
                other.cy,
            )


def test_captures_are_turned_upright_and_centred(tmp_path):
    capture(tmp_path / "fern", [f"{i}.png" for i in range(6)])
    c2w = np.stack([view.c2w for view in convert(tmp_path / "out", "--input", tmp_path / "fern")])
    assert (c2w[:, 2, 1] < -0.5).all()  # down in the picture is down in the world
    assert np.median(np.linalg.norm(c2w[:, :3, 3], axis=1)) == pytest.approx(2.7, abs=1e-6)


def test_a_photo_stored_sideways_is_turned_with_its_camera(tmp_path):
    c2w = capture(tmp_path / "fern", ["0.jpg", "1.jpg", "2.jpg"])
    pixels = np.zeros((36, 52, 3), np.uint8)
    pixels[:18, :26] = 255
    Image.fromarray(pixels).save(tmp_path / "fern" / "images" / "1.jpg", quality=100, exif=turned(6))
    views = convert(tmp_path / "out", "--input", tmp_path / "fern", "--frame", "given")
    assert [(view.w, view.h) for view in views] == [(52, 36), (36, 52), (52, 36)]
    # Clockwise, the left side becomes the top: right in the picture is the stored picture's up.
    assert np.abs(views[1].c2w[:3, 0] + c2w[1][:3, 1]).max() < 1e-12
    with Image.open(views[1].file_path) as image:
        assert np.asarray(image)[:26, 18:].mean() > 250
        assert np.asarray(image)[26:].mean() < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :16], r"poses_bounds.npy: holds \(3, 16\) float64; wanted an array \(views, 17\) of numbers"),
        (lambda rows: rows[:0], r"poses_bounds.npy: holds 0 rows; wanted one for each photo"),
        (lambda rows: rows[:2], r"images: holds 3 photos; wanted one for each of the 2 rows of \S+poses_bounds.npy"),
        (lambda rows: rows.astype(str), r"poses_bounds.npy: holds \(3, 17\) <U32; wanted"),
        (lambda rows: np.where(np.arange(17) == 3, np.nan, rows), r"row 0: holds a number that is not finite, or too large"),
        (lambda rows: rows * np.where(np.arange(17) == 4, 1.01, 1), r"row 0: has the size 52×36.36 \(w×h\); wanted whole pixels"),
        (lambda rows: rows * np.where(np.arange(17) == 9, 2, 1), r"0.png: is an image of 52×36 \(w×h\); wanted the 104×36 of its "),
        (lambda rows: rows * np.where(np.arange(17) == 14, -1, 1), r"row 0, lens: has the focal lengths -41.5 and -41.5"),
        (lambda rows: rows * np.where(np.arange(17) % 5 == 1, 2, 1), r"row 0: has a 3×3 part \S+ away from orthonormal"),
        (lambda rows: rows * np.where(np.arange(17) % 5 == 0, -1, 1), r"row 0: is a mirrored pose .*; wanted columns that point "),
    ],
)  # fmt: skip
def test_wrong_cameras_are_one_line(tmp_path, capsys, change, message):
    capture(tmp_path / "fern", ["0.png", "1.png", "2.png"])
    path = tmp_path / "fern" / "poses_bounds.npy"
    np.save(path, change(np.load(path)))
    assert problem(capsys, tmp_path, message)


class Opens:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "npz", "huge", "folder", "gone"])
def test_damaged_files_are_one_line(tmp_path, capsys, damage):
    capture(tmp_path / "fern", ["0.png", "1.png", "2.png"])
    path = tmp_path / "fern" / "poses_bounds.npy"
    content = path.read_bytes()
    if damage == "pickle":
        np.save(path, np.array([Opens(str(tmp_path / "ran"))], dtype=object), allow_pickle=True)
    elif damage == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros((3, 17)))
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "gone":
            huge = content.replace(b"(3, 17)", b"(9999999999, 17)").replace(b"17), }         ", b"17), }")
            path.write_bytes({"cut": content[:-9], "text": b"hello", "huge": huge}[damage])
    message = {"folder": "is a folder", "gone": "is not there", "npz": "holds several arrays"}.get(damage, "cannot be read \\(")
    assert problem(capsys, tmp_path, rf"poses_bounds\.npy: {message}.*; wanted an array \(views, 17\) of numbers")
    assert not (tmp_path / "ran").exists()


def test_wrong_folders_are_one_line(tmp_path, capsys):
    capture(tmp_path / "fern", ["0.png", "1.png", "2.png"])
    assert problem(
        capsys, tmp_path, "fern/images_8: is not there; wanted the photos of the capture, there or in ", "--images", "images_8"
    )
    again = "is a second input for the scene 'fern'; wanted a different name for each"
    assert problem(capsys, tmp_path, again, "--input", str(tmp_path / "fern"))
    path = "--images: is one path for 2 captures; wanted the name of a folder in each, such as images_4"
    assert problem(capsys, tmp_path, path, "--input", str(tmp_path), "--images", str(tmp_path))
    (tmp_path / "fern" / "images" / "1.heic").touch()
    (tmp_path / "fern" / "images" / "1.png").unlink()
    assert problem(capsys, tmp_path, "images: holds 2 photos; wanted one for each of the 3 rows")


def problem(capsys, tmp_path: Path, message: str, *flags: str) -> bool:
    """Return whether the conversion ends with this line and writes nothing."""
    code = main(["--input", str(tmp_path / "fern"), "--output", str(tmp_path / "out"), *flags])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llff_format_converter.py: ")]
    return code == 2 and len(lines) == 1 and bool(re.search(message, lines[0])) and not (tmp_path / "out").exists()
