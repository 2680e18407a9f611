"""Export of scenes as COLMAP models. Letters: v views, n points, h w pixels."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.files import remove_leftovers
from data.images import read_pixels
from data.scene_format import View, read_scene, write_scene
from data.scene_list import read_data_path, write_data_path
from data_preprocess.colmap.model_writer import quaternion
from data_preprocess.colmap.random_points import farthest, object_cube
from data_preprocess.colmap.sparse_model import read_model
from data_preprocess.colmap_format_converter import main as convert
from data_preprocess.export_colmap import NOTE, main
from tests.support.cameras import CAPTURES, scene_of
from tests.support.captures import project
from tests.support.colmap_files import quaternion as reference_quaternion
from tests.support.colmap_files import rotated, write_text
from tests.support.images import turned
from tests.support.scenes import contents, random_c2w, ring_c2w, write_random_data_path, write_random_scene

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "export_colmap.py"


def export(data_path: Path, output: Path, *flags: object) -> None:
    assert main([str(data_path), "--output", str(output), "--points", "50", *map(str, flags)]) == 0


def points_of(folder: Path) -> np.ndarray:
    """Return the points (n, 3) of points3D.txt, whose other columns say grey, no error, no track."""
    table = np.loadtxt(folder / "sparse" / "0" / "points3D.txt", ndmin=2)
    assert (table[:, 0] == np.arange(1, len(table) + 1)).all()
    assert (table[:, 4:] == (128, 128, 128, 0)).all()
    return table[:, 1:4]


def refused(capsys, data_path: Path, output: Path, *flags: object) -> str:
    before = contents(output) if output.is_dir() else None
    assert main([str(data_path), "--output", str(output), "--points", "50", *map(str, flags)]) == 2
    assert (contents(output) if output.is_dir() else None) == before
    return capsys.readouterr().err


def test_quaternions_are_exact_for_every_rotation():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(10_000, 4))
    # A third of them are turns by almost, or exactly, 180 degrees, where w vanishes.
    q[::3, 0] *= 10.0 ** -rng.uniform(1, 20, len(q[::3]))
    q[::30, 0] = 0
    q[1::30, 1:] *= 1e-9
    q = np.concatenate([q, np.eye(4), [[0, 1, 1, 0], [0, 0, 1, -1], [0, 1, 1, 1]]])
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    for expected in q:
        rotation = np.stack([rotated(expected, axis) for axis in np.eye(3)], axis=1)
        found = quaternion(rotation)
        assert found[0] >= 0
        # 8e-16 is the worst of all.
        assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1.5e-15


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_the_model_has_the_cameras_of_the_scene(tmp_path, suffix):
    json_path = write_random_scene(tmp_path / "toy", n=7)
    export(json_path, tmp_path / "out")
    views = read_scene(json_path).views
    images = read_model(tmp_path / "out" / "sparse" / "0", suffix)
    assert len({image.camera for image in images}) == 7
    for view, image in zip(views, images, strict=True):
        assert image.name == view.file_path.name
        assert (tmp_path / "out" / "images" / image.name).read_bytes() == view.file_path.read_bytes()
        assert (image.camera.model, image.camera.w, image.camera.h) == ("PINHOLE", view.w, view.h)
        assert image.camera.parameters == (view.fx, view.fy, view.cx, view.cy)
        assert (image.w2c[:3, 3] == view.w2c[:3, 3]).all()
        assert np.abs(image.w2c - view.w2c).max() < 4e-15


@pytest.mark.parametrize("suffix", ["text", "binary"])
def test_pycolmap_projects_points_to_the_same_pixels(tmp_path, suffix):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    json_path = write_random_scene(tmp_path / "toy", n=7)
    export(json_path, tmp_path / "out")
    model = pycolmap.Reconstruction()
    getattr(model, f"read_{suffix}")(str(tmp_path / "out" / "sparse" / "0"))
    assert (model.num_reg_images(), model.num_points3D()) == (7, 50)
    by_name = {image.name: image for image in model.images.values()}
    points = np.random.default_rng(1).uniform(-0.8, 0.8, (20, 3))
    for view in read_scene(json_path).views:
        image = by_name[view.file_path.name]
        found = np.stack([image.project_point(point) for point in points])
        assert np.abs(found - project(points, view.w2c, (view.fx, view.fy, view.cx, view.cy))).max() < 1e-6
    found = np.stack([model.points3D[number].xyz for number in range(1, 51)])
    assert np.abs(found - points_of(tmp_path / "out")).max() == 0


def test_colmap_to_scene_to_colmap_gives_the_same_cameras(tmp_path):
    w2c = np.linalg.inv(random_c2w(6, seed=3))
    cameras = {4: ("PINHOLE", 28, 20, (30.1, 31.2, 14.3, 9.7)), 9: ("PINHOLE", 20, 28, (25.0 / 3, 8.1, 11.0, 14.9))}
    images = []
    (tmp_path / "box" / "images").mkdir(parents=True)
    for i, pose in enumerate(w2c):
        size = (28, 20) if i % 2 else (20, 28)
        Image.new("RGB", size[::-1], (i, 0, 0)).save(tmp_path / "box" / "images" / f"{i}.png")
        images.append((i + 3, reference_quaternion(pose), pose[:3, 3], 9 if i % 2 else 4, f"{i}.png"))
    write_text(tmp_path / "box" / "sparse" / "0", cameras, images)
    assert convert(["--input", str(tmp_path / "box"), "--output", str(tmp_path / "scenes"), "--frame", "given"]) == 0
    export(tmp_path / "scenes" / "box" / "opencv_cameras.json", tmp_path / "out")
    before, after = (read_model(folder / "sparse" / "0", ".txt") for folder in (tmp_path / "box", tmp_path / "out"))
    for first, second in zip(before, after, strict=True):
        assert (first.name, first.camera.w, first.camera.h) == (second.name, second.camera.w, second.camera.h)
        assert np.abs(np.subtract(first.camera.parameters, second.camera.parameters)).max() < 1e-9
        assert np.abs(first.w2c - second.w2c).max() < 1e-9
    assert len({image.camera for image in after}) == 2


def test_intrinsics_are_those_of_the_stored_size(tmp_path):
    json_path = write_random_scene(tmp_path / "toy", n=2)
    view = read_scene(json_path).views[1]
    Image.new("RGB", (56, 41)).save(view.file_path)
    export(json_path, tmp_path / "out")
    camera = read_model(tmp_path / "out" / "sparse" / "0")[1].camera
    assert (camera.w, camera.h) == (56, 41)
    np.testing.assert_allclose(camera.parameters, (2 * view.fx, 2.05 * view.fy, 2 * view.cx, 2.05 * view.cy), rtol=1e-15)


def test_photos_that_exif_turns_are_written_upright(tmp_path, capsys):
    json_path = write_random_scene(tmp_path / "toy", n=2, size=(28, 20))
    path = read_scene(json_path).views[0].file_path
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=turned(6))
    export(json_path, tmp_path / "out")
    assert (
        ": 2 photos (1 turned upright, put on white or drawn from a video, as PNG), 2 cameras, 50 random points in "
        in capsys.readouterr().out
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "images" / "00000.png")), np.rot90(pixels, -1))
    assert read_model(tmp_path / "out" / "sparse" / "0")[0].camera.h == 28
    export(json_path, tmp_path / "white", "--on_white")
    written = np.asarray(Image.open(tmp_path / "white" / "images" / "00000.png"))
    assert written.shape == (28, 20, 3)
    assert np.array_equal(written, read_pixels(path))
    assert (tmp_path / "white" / "images" / "00001.png").read_bytes() == (json_path.parent / "images" / "00001.png").read_bytes()


def test_names_have_no_folders_and_no_spaces_and_stay_distinct(tmp_path):
    files = [
        "images/left/a 1.png",
        "images/left_a 1.png",
        "images/left_a_1.jpg",
        "images/LEFT/a\u202f1.png",
        "b.webp",
        "images/" + 60 * "ä" + "/" + 120 * "ö" + ".png",
    ]
    views = []
    for i, (name, pose) in enumerate(zip(files, random_c2w(len(files)), strict=True)):
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 20), (i, 0, 0)).save(path, lossless=True)
        views.append(View(path, 28, 20, 30.0, 31.0, 14.0, 10.0, np.linalg.inv(pose)))
    write_scene(tmp_path / "toy" / "opencv_cameras.json", views)
    export(tmp_path / "toy" / "opencv_cameras.json", tmp_path / "out")
    lines = (tmp_path / "out" / "sparse" / "0" / "images.txt").read_text().splitlines()[2:]
    assert lines[1::2] == [""] * len(files)
    names = [line.split()[9] for line in lines[::2]]
    assert [len(line.split()) for line in lines[::2]] == [10] * len(files)
    assert len({name.casefold() for name in names}) == len(files)
    for name, view in zip(names, views, strict=True):
        assert "/" not in name
        assert (tmp_path / "out" / "images" / name).read_bytes() == view.file_path.read_bytes()


def test_points_of_an_object_fill_the_cube_that_its_pictures_show():
    scene = scene_of(ring_c2w() + np.array([[0, 0, 0, 3.0], [0] * 4, [0] * 4, [0] * 4]))
    centre, half = object_cube(scene)
    np.testing.assert_allclose(centre, (3, 0, 0), atol=1e-9)
    assert half == pytest.approx(2.7 * 24 / 60)


@pytest.mark.parametrize(
    ("kind", "capture"), [("object", "object"), ("scene", "walk"), ("scene", "outwards"), ("scene", "one view")]
)
def test_points_are_where_the_cameras_look(tmp_path, kind, capture):
    json_path = write_random_scene(tmp_path / "toy", n=len(CAPTURES[capture]), c2w=CAPTURES[capture])
    export(json_path, tmp_path / "out", "--kind", kind, "--points", "400")
    points, scene = points_of(tmp_path / "out"), read_scene(json_path)
    assert len(points) == 400
    seen = np.zeros(400, bool)
    for view in scene.views:
        x, y, z = view.w2c[:3, :3] @ points.T + view.w2c[:3, 3:]
        inside = (np.abs(view.fx * x / z + view.cx - view.w / 2) <= view.w / 2 + 1e-9) & (z > 0)
        seen |= inside & (np.abs(view.fy * y / z + view.cy - view.h / 2) <= view.h / 2 + 1e-9) & (z <= 1.0001 * farthest(scene))
    assert seen.mean() == 1 if kind == "scene" else seen.mean() > 0.95
    # They fill it: the middle of each half has some.
    assert (np.abs(np.median(points, axis=0) - points.mean(0)) < 0.25 * np.ptp(points, axis=0)).all()
    export(json_path, tmp_path / "again", "--kind", kind, "--points", "400")
    assert np.array_equal(points_of(tmp_path / "again"), points)
    export(json_path, tmp_path / "other", "--kind", kind, "--points", "400", "--seed", "1")
    assert not np.isclose(points_of(tmp_path / "other"), points).any()


def test_points_of_a_single_picture_have_all_depths(tmp_path):
    json_path = write_random_scene(tmp_path / "toy", n=1)
    export(json_path, tmp_path / "out", "--kind", "scene", "--points", "400")
    (view,) = read_scene(json_path).views
    z = (view.w2c[:3, :3] @ points_of(tmp_path / "out").T + view.w2c[:3, 3:])[2]
    # The scale of one camera is unknown: a unit.
    np.testing.assert_allclose(np.quantile(z, [0, 0.25, 0.5, 0.75, 1]), [0.02, 0.265, 0.51, 0.755, 1], atol=0.06)


def test_no_points_are_written_when_none_are_wanted(tmp_path):
    json_path = write_random_scene(tmp_path / "toy")
    export(json_path, tmp_path / "out", "--points", "0")
    lines = (tmp_path / "out" / "sparse" / "0" / "points3D.txt").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    assert (tmp_path / "out" / "sparse" / "0" / "points3D.bin").read_bytes() == bytes(8)


def test_a_list_gets_a_folder_per_scene_and_the_input_stays(tmp_path):
    data_path = write_random_data_path(tmp_path / "in", scenes=3)
    before = contents(tmp_path / "in")
    export(data_path, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scene_0", "scene_1", "scene_2"]
    export(read_data_path(data_path)[0], tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "out" / "scene_0")
    assert contents(tmp_path / "in") == before


def test_a_second_run_writes_only_what_is_missing(tmp_path):
    json_path = write_random_scene(tmp_path / "toy")
    export(json_path, tmp_path / "out")
    before = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out" / "sparse" / "0" / "images.txt").unlink()
    (tmp_path / "out" / "images" / "00003.png").unlink()
    (tmp_path / "out" / "images" / ".00003.abcdefgh.tmp.png").write_bytes(b"half")
    remove_leftovers.cache_clear()
    export(json_path, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path.name for path in times if after[path] != times[path]} == {"images.txt", "00003.png"}


def test_points_can_be_drawn_again_but_a_reconstruction_stays(tmp_path, capsys):
    json_path = write_random_scene(tmp_path / "toy")
    export(json_path, tmp_path / "out")
    # What other programs add to a finished model does not matter.
    (tmp_path / "out" / "sparse" / "0" / "points3D.ply").write_text("ply")
    (tmp_path / "out" / "results").mkdir()
    export(json_path, tmp_path / "out", "--points", "7")
    assert len(points_of(tmp_path / "out")) == 7
    points = tmp_path / "out" / "sparse" / "0" / "points3D.txt"
    assert points.read_text().startswith(f"# {NOTE}\n")
    points.write_text("# 3D point list\n1 0 0 0 1 2 3 0.5 1 0\n")
    assert "points3D.txt: is not what this scene and these flags give; wanted the same: choose" in refused(
        capsys, json_path, tmp_path / "out"
    )


@pytest.mark.parametrize("name", ["notes.txt", "images/x.png", "sparse/1", "sparse/0/rigs.bin"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, capsys, name):
    json_path = write_random_scene(tmp_path / "toy")
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    assert f"out: holds {name}; wanted an empty folder, a new one, or an export" in refused(capsys, json_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["images/00001.png", "sparse/0/images.txt", "sparse/0/cameras.bin"])
def test_another_model_or_photo_is_not_replaced(tmp_path, capsys, name):
    json_path = write_random_scene(tmp_path / "toy")
    export(json_path, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"mine")
    (tmp_path / "out" / "images" / "00000.png").unlink()
    assert f"{name}: is not what this scene and these flags give; wanted the same" in refused(capsys, json_path, tmp_path / "out")


def test_nothing_goes_into_the_input(tmp_path, capsys):
    data_path = write_random_data_path(tmp_path / "in", scenes=1)
    (json_path,) = read_data_path(data_path)
    (tmp_path / "link").symlink_to(json_path.parent / "images")
    before = contents(tmp_path / "in")
    for output, found in [
        (json_path.parent, "holds"),
        (json_path.parent / "images", "holds"),
        (json_path.parent / "images" / "x", "is in the folder of"),
        (tmp_path / "link" / "x", "is in the folder of"),
    ]:
        assert f"{output}: {found} {json_path.parent}/images/00000.png; wanted an --output separate" in refused(
            capsys, json_path, output
        )
    assert f"scene_0: holds {json_path.parent}/images/00000.png; wanted" in refused(capsys, data_path, tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(tmp_path / "in")
    assert "out/images: is a link to " in refused(capsys, json_path, tmp_path / "out")
    assert contents(tmp_path / "in") == before


def test_a_place_that_takes_no_folder_is_told_once(tmp_path, capsys):
    listed = write_random_data_path(tmp_path / "sets", scenes=3, n=2)
    (tmp_path / "file").touch()
    for place, problem in (("file", "is not a folder; wanted a folder, or none yet"), ("/proc/x", "is in a folder of the system")):
        error = refused(capsys, listed, tmp_path / place)
        assert error.count("\n") == 1
        assert f"{tmp_path / place}: {problem}" in error
    assert main([str(listed), "--output", str(tmp_path / ("x/" * 3000))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "File name too long" in error


def test_a_photo_that_links_to_itself_is_one_line(tmp_path, capsys):
    scene = write_random_scene(tmp_path / "chair", n=3)
    photo = read_scene(scene).views[1].file_path
    photo.unlink()
    photo.symlink_to(photo.name)
    error = refused(capsys, scene, tmp_path / "out")
    assert error.count("\n") == 1
    assert photo.name in error


def test_a_scene_that_cannot_be_exported_does_not_stop_the_others(tmp_path, capsys):
    data_path = write_random_data_path(tmp_path / "in", scenes=3)
    paths = read_data_path(data_path)
    (paths[0].parent / "images" / "00002.png").unlink()
    views = read_scene(paths[1]).views
    write_scene(paths[1], [dataclasses.replace(views[0], w=20, h=28), *views[1:]])
    twin = write_random_scene(tmp_path / "in" / "other" / "scene_2", seed=9)
    write_data_path(data_path, [*paths, twin])
    assert main([str(data_path), "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "1 of 4 scenes in " in captured.out
    first, second, third = captured.err.splitlines()[-3:]
    assert "00002.png: is not there; wanted an image" in first
    assert "00000.png: is 28×20 (w×h) when upright; wanted the 20×28 of its camera" in second
    assert f"{twin}: has the name scene_2 of {paths[2]}; wanted a name of its own for each scene" in third
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene_2"]


def test_as_a_user_runs_it(tmp_path):
    json_path = write_random_scene(tmp_path / "toy")
    command = [sys.executable, str(SCRIPT), str(json_path), "--output", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("toy: 5 photos, 5 cameras, 100000 random points in out\n1 of 1 scene in out")
    assert len(read_model(tmp_path / "out" / "sparse" / "0")) == 5
