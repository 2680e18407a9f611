"""Conversion of COLMAP captures to the unified format. Letters: v views, n points, h w pixels."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset import SceneDataset
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.colmap_format_converter import main, scene_name
from tests.support.captures import dots, equidistant, found_dots, orbit, paint, perspective, project
from tests.support.colmap_files import WRITERS, quaternion, write_binary
from tests.support.images import turned
from tests.support.scenes import look_at

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "colmap_format_converter.py"
MIDDLE = np.array([1.0, -2.0, 0.5])
# COLMAP's parameters; (fx, fy, cx, cy) and terms of the same lens for the tests' own models.
LENSES = {
    "SIMPLE_PINHOLE": ((150, 80.5, 62.25), (150, 150, 80.5, 62.25), {}),
    "PINHOLE": ((150, 154, 80.5, 62.25), (150, 154, 80.5, 62.25), {}),
    "SIMPLE_RADIAL": ((150, 80.5, 62.25, -0.2), (150, 150, 80.5, 62.25), {"k1": -0.2}),
    "RADIAL": ((150, 80.5, 62.25, 0.12, -0.02), (150, 150, 80.5, 62.25), {"k1": 0.12, "k2": -0.02}),
    "OPENCV": ((150, 154, 80.5, 62.25, -0.2, 0.03, 0.004, -0.006), (150, 154, 80.5, 62.25),
               {"k1": -0.2, "k2": 0.03, "p1": 0.004, "p2": -0.006}),
    "FULL_OPENCV": ((150, 154, 80.5, 62.25, -0.2, 0.03, 0.004, -0.006, 0.02, 0.05, -0.03, 0.01), (150, 154, 80.5, 62.25),
                    {"k1": -0.2, "k2": 0.03, "p1": 0.004, "p2": -0.006, "k3": 0.02, "k4": 0.05, "k5": -0.03, "k6": 0.01}),
    "OPENCV_FISHEYE": ((120, 118, 82.5, 61, 0.05, -0.01, 0.002, 0.001), (120, 118, 82.5, 61),
                       {"k1": 0.05, "k2": -0.01, "k3": 0.002, "k4": 0.001}),
    "SIMPLE_RADIAL_FISHEYE": ((120, 82.5, 61, 0.05), (120, 120, 82.5, 61), {"k1": 0.05}),
    "RADIAL_FISHEYE": ((120, 82.5, 61, 0.05, -0.01), (120, 120, 82.5, 61), {"k1": 0.05, "k2": -0.01}),
    "SIMPLE_FISHEYE": ((120, 82.5, 61), (120, 120, 82.5, 61), {}),
    "FISHEYE": ((120, 118, 82.5, 61), (120, 118, 82.5, 61), {}),
}  # fmt: skip
SIZE = (120, 168)


def photo(model: str, w2c: np.ndarray) -> np.ndarray:
    """Return the view of a camera at w2c of the dots around MIDDLE."""
    _, camera, terms = LENSES[model]
    return paint(project(dots() + MIDDLE, w2c, camera, equidistant if "FISHEYE" in model else perspective, terms), SIZE)


def capture(folder: Path, models: list[str], names: list[str], spelling: str = "binary", sparse: str = "sparse/0") -> np.ndarray:
    """Write photos of dots from an orbit, through each lens in turn, and their model; return w2c (v, 4, 4)."""
    w2c = np.linalg.inv(orbit(len(names), up=(0.2, -0.9, 0.3), centre=MIDDLE))
    images = []
    for i, (name, pose) in enumerate(zip(names, w2c, strict=True)):
        model = models[i % len(models)]
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(model, pose)).save(folder / "images" / name, quality=98)
        images.append((i + 5, quaternion(pose), pose[:3, 3], 3 + i % len(models), name))
    cameras = {3 + i: (model, SIZE[1], SIZE[0], LENSES[model][0]) for i, model in enumerate(models)}
    WRITERS[spelling](folder / sparse, cameras, images[::-1])
    return w2c


def convert(output: Path, *flags: object) -> list:
    """Convert one capture and return the views of its scene."""
    assert main([*map(str, flags), "--output", str(output), "--workers", "2"]) == 0
    (json_path,) = read_data_path(output / "colmap_data_path.json")
    return read_scene(json_path).views


def dot_errors(views: list, points: np.ndarray) -> np.ndarray:
    """Return the distances in pixels (n) of the dots in the views' images from the points' projections by their cameras."""
    errors = []
    for view in views:
        expected = project(points, view.w2c, (view.fx, view.fy, view.cx, view.cy))
        with Image.open(view.file_path) as image:
            assert image.size == (view.w, view.h)
            errors.append(np.linalg.norm(found_dots(np.asarray(image.convert("RGB")), expected) - expected, axis=1))
        near = np.linalg.norm(expected[:, None] - expected, axis=2) + 99 * np.eye(len(points))
        errors[-1][near.min(1) < 13] = np.nan  # two dots in one window
    errors = np.concatenate(errors)
    seen = ~np.isnan(errors)
    assert seen.mean() > 0.5
    return errors[seen]


def moved(points: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return points (n, 3), mapped by the similarity between two lists of cameras w2c (v, 4, 4)."""
    before, after = np.linalg.inv(before), np.linalg.inv(after)
    turn = after[0, :3, :3] @ before[0, :3, :3].T
    first, second = (np.linalg.norm(c2w[1:, :3, 3] - c2w[0, :3, 3], axis=1).sum() for c2w in (before, after))
    return (points - before[0, :3, 3]) @ turn.T * (second / first) + after[0, :3, 3]


@pytest.mark.parametrize("model", LENSES)
def test_dots_land_where_the_cameras_say(tmp_path, model):
    spelling = "text" if "RADIAL" in model else "binary"
    w2c = capture(tmp_path / "box", [model], [f"{i}.png" for i in range(3)], spelling)
    views = convert(tmp_path / "out", "--input", tmp_path / "box", "--frame", "given")
    assert [view.file_path for view in views] == [tmp_path / "out" / "box" / "images" / f"{i}.png" for i in range(3)]
    assert np.abs(np.stack([view.w2c for view in views]) - w2c).max() < 1e-12
    # 8 bits, dots bent by the lens within their width, maps rounded to 1/32 pixel: 0.086 is the worst of all. Half a pixel between
    # the conventions would be 0.7.
    assert dot_errors(views, dots() + MIDDLE).max() < 0.12


def test_several_cameras_and_folders_become_one_upright_centred_scene(tmp_path):
    names = ["left/2.jpg", "right/2.jpg", "left/10.jpg", "right/10.jpg", "left/10.png", "x.webp"]
    before = capture(tmp_path / "box", ["OPENCV", "OPENCV_FISHEYE", "PINHOLE"], names)
    views = convert(tmp_path / "out", "--input", tmp_path / "box")
    folder = tmp_path / "out" / "box" / "images"
    # In natural order; two with the same name each get their suffix. Without distortion, a photo is copied unchanged.
    expected = ["left/2.png", "left/10_jpg.jpg", "left/10_png.png", "right/2.png", "right/10.png", "x.webp"]
    order = [names.index(name) for name in ("left/2.jpg", "left/10.jpg", "left/10.png", "right/2.jpg", "right/10.jpg", "x.webp")]
    copied = [order.index(i) for i in range(6) if i % 3 == 2]
    for i, (view, source) in enumerate(zip(views, order, strict=True)):
        found = view.file_path.relative_to(folder).as_posix()
        assert found == (expected[i] if i in copied else str(Path(expected[i]).with_suffix(".png")))
        if i in copied:
            assert view.file_path.read_bytes() == (tmp_path / "box" / "images" / names[source]).read_bytes()
    after = np.stack([view.w2c for view in views])
    assert dot_errors(views, moved(dots() + MIDDLE, before[order], after)).max() < 0.12
    c2w = np.linalg.inv(after)
    assert np.abs(c2w[:, 2, 0]).max() < 0.01
    assert (c2w[:, 2, 1] < -0.5).all()
    assert np.median(np.linalg.norm(c2w[:, :3, 3], axis=1)) == pytest.approx(2.7, abs=1e-6)
    assert SceneDataset(tmp_path / "out" / "colmap_data_path.json", (64, 64))[0].name == "box"


@pytest.mark.parametrize("orientation", [6, 8])
def test_photos_stored_sideways_come_out_upright(tmp_path, orientation):
    # As written by a phone on its side: the camera is rolled, and EXIF states how to turn the photo.
    roll = np.eye(4)
    roll[:2, :2] = [[0, 1], [-1, 0]] if orientation == 6 else [[0, -1], [1, 0]]
    upright = np.linalg.inv(orbit(4, centre=MIDDLE))
    images = []
    (tmp_path / "box" / "images").mkdir(parents=True)
    for i, pose in enumerate(roll @ upright):
        Image.fromarray(photo("OPENCV", pose)).save(tmp_path / "box" / "images" / f"{i}.jpg", quality=98, exif=turned(orientation))
        images.append((i, quaternion(pose), pose[:3, 3], 1, f"{i}.jpg"))
    write_binary(tmp_path / "box", {1: ("OPENCV", SIZE[1], SIZE[0], LENSES["OPENCV"][0])}, images)
    views = convert(tmp_path / "out", "--input", tmp_path / "box", "--frame", "given")
    assert {(view.h, view.w) for view in views} == {(SIZE[1], SIZE[0])}
    assert np.abs(np.stack([view.w2c for view in views]) - upright).max() < 1e-9
    assert dot_errors(views, dots() + MIDDLE).max() < 0.12


@pytest.mark.parametrize("sparse", ["sparse/0", "sparse", "."])
def test_a_model_is_found_and_photos_missing_from_it_are_listed(tmp_path, capsys, sparse):
    folder = tmp_path / "garden"
    capture(folder, ["RADIAL"], ["a.png", "b.png", "c.png"], sparse=sparse)
    (folder / "images" / "more").mkdir()
    for name in ("blurred.png", "more/10.jpg", "more/9.JPG", ".hidden.png"):
        Image.new("RGB", (8, 6)).save(folder / "images" / name)
    assert len(convert(tmp_path / "a", "--input", folder)) == 3
    assert (
        "garden: left out, photos that are not in the model (3 of 6): blurred.png, more/9.JPG, more/10.jpg\n"
        in capsys.readouterr().out
    )
    assert len(convert(tmp_path / "b", "--input", folder / sparse)) == 3
    # Photos elsewhere, at half the size.
    half = tmp_path / "half"
    half.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        with Image.open(folder / "images" / name) as image:
            image.resize((84, 60), Image.Resampling.BOX).save(half / name)
    shutil.rmtree(folder / "images")
    views = convert(tmp_path / "c", "--input", folder, "--images", half, "--frame", "given")
    assert {(view.w, view.h) for view in views} == {(84, 60)}
    assert dot_errors(views, dots() + MIDDLE).max() < 0.12


def shrunk(folder: Path, to: str, names: dict[str, str], by: int = 2) -> None:
    """Write photos of a capture at a smaller size into another folder of it, under other names."""
    for name, written in names.items():
        (folder / to / written).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(folder / "images" / name) as image:
            w, h = image.size
            image.resize((w // by, h // by), Image.Resampling.BOX).save(folder / to / written)


def test_several_captures_with_photos_at_half_the_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["a.png", "sub/b.png", "c.png"]
    for name in ("garden", "room"):
        capture(tmp_path / "360" / name, ["RADIAL"], names)
        shrunk(tmp_path / "360" / name, "images_2", {name: name for name in names})
    (tmp_path / "images_2").mkdir()  # not meant
    flags = ["--input", "360/garden", "360/room/sparse/0", "--images", "images_2", "--output", "out", "--frame", "given"]
    assert main(flags) == 0
    scenes = [read_scene(path) for path in read_data_path("out/colmap_data_path.json")]
    assert [scene.name for scene in scenes] == ["garden", "room"]
    for scene in scenes:
        assert {(view.w, view.h) for view in scene.views} == {(84, 60)}
        assert dot_errors(scene.views, dots() + MIDDLE).max() < 0.12
    assert "other names" not in capsys.readouterr().out
    shutil.rmtree("360/room/images_2")
    assert main([*flags[:-3], "again"]) == 2
    assert "360/room/images_2: is not there; wanted the photos of the capture\n" in capsys.readouterr().err
    assert len(read_data_path("again/colmap_data_path.json")) == 1


def test_photos_with_another_suffix_are_found(tmp_path, capsys):
    folder = tmp_path / "fern"
    capture(folder, ["RADIAL"], ["IMG_1.JPG", "IMG_2.JPG", "IMG_10.png", "IMG_11.JPG"])
    # There is no telling which of two files the last one is.
    shrunk(folder, "images_2", {"IMG_1.JPG": "IMG_1.png", "IMG_2.JPG": "IMG_2.webp", "IMG_10.png": "IMG_10.png"})
    shrunk(folder, "images_2", {"IMG_11.JPG": "IMG_11.png"})
    shrunk(folder, "images_2", {"IMG_11.JPG": "IMG_11.webp"})
    views = convert(tmp_path / "out", "--input", folder, "--images", "images_2", "--frame", "given")
    assert [view.file_path.stem for view in views] == ["IMG_1", "IMG_2", "IMG_10"]
    assert dot_errors(views, dots() + MIDDLE).max() < 0.2  # compressed twice
    out = capsys.readouterr().out
    assert "fern: photos with another suffix (2 of 4): IMG_1.JPG is IMG_1.png, IMG_2.JPG is IMG_2.webp\n" in out
    assert f"fern: left out, photos of the model that are not in {folder}/images_2 (1 of 4): IMG_11.JPG\n" in out


@pytest.mark.parametrize("originals", [True, False])
def test_photos_of_other_names_are_paired_in_sorted_order(tmp_path, capsys, originals):
    folder = tmp_path / "fern"
    names = ["IMG_4026.JPG", "IMG_4027.JPG", "IMG_4029.JPG", "IMG_4030.JPG"]
    capture(folder, ["RADIAL"], names)
    if originals:  # one that the model lacks has its place in the order
        shutil.copy(folder / "images" / names[0], folder / "images" / "IMG_4028.JPG")
        names.insert(2, "IMG_4028.JPG")
    shrunk(folder, "images_2", {name: f"image{i:03d}.png" for i, name in enumerate(names)})
    if not originals:
        shutil.rmtree(folder / "images")
    views = convert(tmp_path / "out", "--input", folder, "--images", "images_2", "--frame", "given")
    numbers = (0, 1, 3, 4) if originals else (0, 1, 2, 3)
    assert [view.file_path.name for view in views] == [f"image{i:03d}.png" for i in numbers]
    assert dot_errors(views, dots() + MIDDLE).max() < 0.2
    out = capsys.readouterr().out
    pairs = f"IMG_4026.JPG is image000.png, IMG_4027.JPG is image001.png, IMG_4029.JPG is image00{numbers[2]}.png, "
    assert f"fern: photos of other names, in sorted order (4 of 4): {pairs}" in out
    assert ("fern: left out, photos that are not in the model (1 of 5): image002.png\n" in out) == originals


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        (
            ["a0.png", "a1.png"],
            (60, 84),
            "images_2: holds 2 photos of other names than the 3 of the cameras; wanted the same names, up to ",
        ),
        (
            ["a1.png", "a10.png", "a9.png"],
            (60, 84),
            "holds photos of other names, a10.png or a9.png for 1.png, sorted by letter or by number",
        ),
        (["a0.png", "a1.png", "a2.png"], (84, 60), "a0.png: is an image of 60×84 (w×h); wanted the 168×120 of its camera or "),
    ],
)
def test_photos_that_cannot_be_paired_are_refused(tmp_path, capsys, names, size, message):
    capture(tmp_path / "fern", ["PINHOLE"], ["0.png", "1.png", "2.png"])
    (tmp_path / "fern" / "images_2").mkdir()
    for name in names:
        Image.new("RGB", size[::-1]).save(tmp_path / "fern" / "images_2" / name)
    assert main(["--input", str(tmp_path / "fern"), "--images", "images_2", "--output", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("colmap_format_converter.py: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_larger_of_two_models_is_converted_and_the_other_is_named(tmp_path, capsys):
    folder = tmp_path / "garden"
    capture(folder, ["PINHOLE"], ["a.png", "b.png", "c.png"], sparse="sparse/0")
    capture(folder, ["PINHOLE"], ["d.png", "e.png", "f.png", "g.png"], "text", sparse="sparse/1")
    shutil.copytree(folder / "sparse" / "0", folder / "sparse" / "2")
    (folder / "sparse" / "2" / "cameras.bin").write_bytes(b"\1")
    views = convert(tmp_path / "a", "--input", folder)
    assert [view.file_path.stem for view in views] == ["d", "e", "f", "g"]
    output = capsys.readouterr().out
    others = r"\S+sparse/0 \(3 photos\), \S+sparse/2 \(cannot be read: .*\)\n"
    assert re.search(rf"garden: left out, models other than \S+sparse/1 with 4 photos \(2\): {others}", output)
    assert "garden: left out, photos that are not in the model (3 of 7): a.png, b.png, c.png\n" in output
    assert len(convert(tmp_path / "b", "--input", folder / "sparse" / "0")) == 3


def test_models_in_unusual_places_are_named(tmp_path, capsys):
    folder = tmp_path / "garden"
    capture(folder, ["PINHOLE"], ["a.png", "b.png", "c.png", "d.png"], "text", sparse="sparse/aligned")
    shutil.copytree(folder / "sparse" / "aligned", folder / "export" / "text")
    assert main(["--input", str(folder), "--output", str(tmp_path / "none")]) == 2
    assert f"wanted a COLMAP sparse model, such as --input {folder}/export/text\n" in capsys.readouterr().err
    capture(folder, ["PINHOLE"], ["a.png", "b.png"], sparse="sparse/0")
    shutil.copy(folder / "export" / "text" / "images.txt", folder / "sparse" / "0")
    shutil.copy(folder / "export" / "text" / "cameras.txt", folder / "sparse" / "0")
    assert len(convert(tmp_path / "a", "--input", folder)) == 2
    unused = [f"{folder}/{place} (4 photos)" for place in ("sparse/0/images.txt", "export/text", "sparse/aligned")]
    line = f"garden: left out, models other than {folder}/sparse/0 with 2 photos (3): {', '.join(unused)}\n"
    assert line in capsys.readouterr().out
    (folder / "sparse" / "0" / "images.bin").write_bytes(b"\1")
    assert len(convert(tmp_path / "b", "--input", folder)) == 4
    line = (
        f"garden: left out, models other than {folder}/sparse/0 with 4 photos (3): {folder}/sparse/0/images.bin (cannot be read: "
    )
    assert line in capsys.readouterr().out


def test_an_undistorted_model_goes_with_its_own_photos(tmp_path):
    folder = tmp_path / "garden"
    capture(folder / "dense", ["PINHOLE"], ["a.png", "b.png", "c.png"], sparse="sparse")
    shutil.copytree(folder / "dense" / "images", folder / "images")
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (9, 9)).save(folder / "images" / name)
    assert {(view.h, view.w) for view in convert(tmp_path / "out", "--input", folder)} == {SIZE}


@pytest.mark.usefixtures("exact_names")
def test_photos_are_found_under_another_spelling_and_behind_links(tmp_path, capsys):
    folder = tmp_path / "garden"
    names = ["caf\u00e9.png", "IMG_1.JPG", "shot 4\u202fPM.png", "sub/d.png"]
    capture(folder, ["PINHOLE"], names)
    images = folder / "images"
    (images / names[0]).rename(images / "cafe\u0301.png")
    (images / names[1]).rename(images / "IMG_1.jpg")
    (images / "sub").rename(tmp_path / "elsewhere")
    (images / "sub").symlink_to(tmp_path / "elsewhere")
    views = convert(tmp_path / "out", "--input", folder)
    assert [view.file_path.stem for view in views] == ["IMG_1", "cafe\u0301", "shot 4\u202fPM", "d"]
    line = "garden: photos spelled differently on disk, in case or accents (2 of 4): IMG_1.JPG is IMG_1.jpg, "
    assert f"{line}caf\u00e9.png is cafe\u0301.png\n" in capsys.readouterr().out


def test_files_beside_the_photos_are_listed(tmp_path, capsys):
    folder = tmp_path / "garden"
    capture(folder, ["PINHOLE"], ["a.png", "thumbs/b.png", "c.png"])
    for name in ("thumbs/d.png", "IMG_1.HEIC", "IMG_1.MOV"):
        (folder / "images" / name).touch()
    assert len(convert(tmp_path / "out", "--input", folder)) == 3
    output = capsys.readouterr().out
    assert "garden: left out, files in folders thumbs (1): thumbs/d.png\n" in output
    assert "garden: left out, files in formats that are not read (1): IMG_1.HEIC\n" in output
    assert "garden: left out, videos (1): IMG_1.MOV\n" in output
    assert "not in the model" not in output


def test_a_second_run_does_nothing_again_and_the_command_works_from_anywhere(tmp_path):
    capture(tmp_path / "box", ["OPENCV"], ["a.png", "b.png", "c.png"])
    before = {path: path.read_bytes() for path in (tmp_path / "box").rglob("*") if path.is_file()}
    flags = ["--input", "box", "--output", "out", "--data_path_json", "lists/mine.json", "--long_lrm"]
    for _ in range(2):
        run = subprocess.run([sys.executable, str(SCRIPT), *flags], cwd=tmp_path, capture_output=True, text=True, check=True)
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "box").rglob("*.png")}
    assert "1 of 1 scene in lists/mine.json" in run.stdout
    (json_path,) = read_data_path(tmp_path / "lists" / "mine.json")
    assert "scene_name" in json_path.read_text()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/toy/sparse/0", "toy"),
        ("toy/sparse", "toy"),
        ("toy", "toy"),
        ("toy/sparse/aligned", "toy"),
        ("toy/distorted/sparse/0", "toy"),
        ("toy/sparse/images", "toy"),
        ("fox/nerfstudio/images_4", "fox"),
        ("0", "0"),
    ],
)
def test_scenes_are_named_after_the_capture(tmp_path, path, name):
    assert scene_name(tmp_path / path) == name
    (tmp_path / "walk.2.mp4").touch()
    assert scene_name(tmp_path / "walk.2.mp4") == "walk.2"


def test_several_captures_are_converted_and_a_bad_one_is_named(tmp_path, capsys):
    for name in ("a", "b", "c"):
        capture(tmp_path / name, ["PINHOLE"], ["0.png", "1.png", "2.png"])
    shutil.rmtree(tmp_path / "b" / "images")
    (tmp_path / "b" / "images").mkdir()
    (tmp_path / "c" / "sparse" / "0" / "images.bin").write_bytes(b"\1")
    inputs = [str(tmp_path / name) for name in ("a", "b", "c")]
    assert main(["--input", *inputs, "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if line.startswith("colmap_format_converter.py: ")]
    assert len(lines) == 2
    assert re.search(r"/b: lacks the photos of \S+b/sparse/0, such as 0.png; wanted them in \S+/b/images", lines[0])
    assert "images.bin: ends after 1 byte in the count" in lines[1]
    assert len(read_data_path(tmp_path / "out" / "colmap_data_path.json")) == 1


def test_photos_of_the_model_that_are_gone_are_listed(tmp_path, capsys):
    capture(tmp_path / "box", ["PINHOLE"], ["0.png", "1.png", "2.png", "sub/3.png"])
    for name in ("1.png", "sub/3.png"):
        (tmp_path / "box" / "images" / name).unlink()
    views = convert(tmp_path / "out", "--input", tmp_path / "box", "--frame", "given")
    assert [view.file_path.name for view in views] == ["0.png", "2.png"]
    assert dot_errors(views, dots() + MIDDLE).max() < 0.12
    line = f"box: left out, photos of the model that are not in {tmp_path}/box/images (2 of 4): 1.png, sub/3.png\n"
    assert line in capsys.readouterr().out


def test_a_lens_that_opencv_does_not_have_is_named(tmp_path, capsys):
    capture(tmp_path / "box", ["PINHOLE"], ["0.png", "1.png", "2.png"])
    pose = look_at(np.array([3.0, 0, 1]))
    write_binary(tmp_path / "box" / "sparse/0", {1: ("FOV", 168, 120, (150, 150, 84, 60, 0.9))},
                 [(1, quaternion(pose), pose[:3, 3], 1, "0.png")])  # fmt: skip
    assert main(["--input", str(tmp_path / "box"), "--output", str(tmp_path / "out")]) == 2
    assert "sparse/0, 0.png, camera: is of the model FOV, which OpenCV cannot undistort" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "none"], "none: has no cameras.bin and images.bin .*; wanted a COLMAP sparse model"),
        (["--input", "box", "--images", "empty"], "empty: lacks 3 of the 3 photos of box/sparse/0"),
        (["--input", "alone"], "alone: lacks the photos of alone, such as 0.png; wanted them in alone/images or in --images"),
        (["--input", "box", "box"], "box: is a second input for the scene 'box'; wanted a different name for each"),
        (
            ["--input", "box", "alone", "--images", "/box"],
            "--images: is one path for 2 captures; wanted the name of a folder in each",
        ),
        (
            ["--input", "box", "--images", "images_4"],
            "box/images_4: is not there; wanted the photos of the capture, there or in images_4",
        ),
        (["--input", "box", "--seed", "1"], "--seed: has no effect with --input; wanted it left out"),
        (["--from_images", "box", "--images", "box"], "--images: has no effect with --from_images; wanted it left out"),
        (["--input", "box", "--from_images", "box"], "--input, --from_images: are both given; wanted one of them"),
        ([], "--input, --from_images: are both missing; wanted one of them"),
        (["--input", "box", "--workers", "0"], "--workers: is 0; wanted 1 to 1024"),
        (["--from_images", "box", "--num_frames", "2"], "--num_frames: is 2; wanted 3 or more"),
        (["--from_images", "box", "--min_registered", "1.5"], "--min_registered: is 1.5; wanted above 0, up to 1"),
        (["--from_images", "box", "--seed", "9999999999"], "--seed: is 9999999999; wanted 0 to 2147483647"),
        (["--input", "box", "--frame", "object"], "box/sparse/0, cameras: look at no common point"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    away = [np.linalg.inv(look_at(np.array([x, 0.0, 0.0]), np.array([3 * x, 1.0, 0.0]))) for x in (-1.0, 0.3, 1.0)]
    images = [(i, quaternion(pose), pose[:3, 3], 1, f"{i}.png") for i, pose in enumerate(away)]
    for folder in ("box/sparse/0", "alone"):
        write_binary(Path(folder), {1: ("PINHOLE", 8, 6, (9, 9, 4, 3))}, images)
    for folder in ("box/images", "empty", "none"):
        Path(folder).mkdir()
    for i in range(3):
        Image.new("RGB", (8, 6)).save(f"box/images/{i}.png")
    assert main([*flags, "--output", "out"]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("colmap_format_converter.py: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in error
    assert not Path("out/colmap_data_path.json").exists()


def test_the_root_folder_as_output_shows_no_traceback(tmp_path, capsys):
    assert main(["--input", str(tmp_path), "--output", "/"]) == 2
    assert "has no cameras.bin and images.bin" in capsys.readouterr().err


def test_a_shard_converts_its_captures_alone(tmp_path, capsys):
    for name in "abc":
        capture(tmp_path / name, ["PINHOLE"], ["1.jpg", "2.jpg"])
    captures = [str(tmp_path / name) for name in "abc"]
    assert main(["--input", *captures, "--output", str(tmp_path / "out"), "--shard", "1/2"]) == 0
    part = tmp_path / "out" / "colmap_data_path.part-0001-of-0002.json"
    assert [path.parent.name for path in read_data_path(part)] == ["b", "c"]
    assert capsys.readouterr().out.endswith(f"2 of 2 scenes in {part}\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b", "c", part.name]
    assert main(["--input", *captures, "--output", str(tmp_path / "out"), "--shard", "2/2"]) == 2
    assert "--shard: is '2/2'; wanted I/N" in capsys.readouterr().err
