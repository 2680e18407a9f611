"""Structure from motion by COLMAP. Letters: v views, h w pixels."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from config.errors import InputError
from config.signals import SIGNALS
from data.output.video import VideoWriter
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.colmap import structure_from_motion
from data_preprocess.colmap.structure_from_motion import find_cameras
from data_preprocess.colmap_format_converter import CameraSearch, main, search_cameras
from tests.support.scenes import look_at

with_pycolmap = pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is not installed")
FOCAL, SIZE = 300.0, (240, 320)


def corner_of_a_room(v: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return photos (h, w, 3) of a textured floor and two walls of 3×3 units, and their c2w (v, 4, 4)."""
    rng = np.random.default_rng(seed)
    h, w = SIZE
    fine = np.array([[2 * FOCAL, 0, w - 0.5], [0, 2 * FOCAL, h - 0.5], [0, 0, 1]])  # twice the size, OpenCV's pixels
    boards = []
    for u, across in (((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, 1)), ((0, 1, 0), (0, 0, 1))):
        noise = [cv2.resize(rng.uniform(0, 1, (n, n, 3)), (600, 600), interpolation=cv2.INTER_CUBIC) for n in (9, 40, 150)]
        texture = (sum(noise) / 3 * 1.6 - 0.3).clip(0.02, 1) * 255
        boards.append((texture.astype(np.uint8), np.stack([np.array(u) / 200, np.array(across) / 200, np.zeros(3)], axis=1)))
    photos, poses = [], []
    for angle in np.linspace(0.15, 1.4, v):
        position = np.array([6.5 * np.cos(angle), 6.5 * np.sin(angle), 2.2 + 0.5 * np.sin(5 * angle)])
        c2w = look_at(position, np.array([0.8, 0.8, 0.9 + 0.2 * np.cos(7 * angle)]))
        w2c = np.linalg.inv(c2w)
        image = np.zeros((2 * h, 2 * w, 3), np.uint8)
        for texture, plane in boards:
            # A texture's pixel (u, v) is at plane @ (u, v, 1) in the world.
            place = w2c[:3, :3] @ plane
            place[:, 2] += w2c[:3, 3]
            seen = cv2.warpPerspective(texture, fine @ place, (2 * w, 2 * h))
            image = np.where(seen.any(-1, keepdims=True), seen, image)
        photos.append(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA))
        poses.append(c2w)
    return photos, np.stack(poses)


def differences(found: np.ndarray, c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of cameras (v, 4, 4) after the best similarity to the true ones: degrees, and shares of the extent.

    Source: Umeyama 1991.
    """
    x, y = found[:, :3, 3], c2w[:, :3, 3]
    a, b = x - x.mean(0), y - y.mean(0)
    left, values, right = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = left @ np.diag(signs) @ right
    scale = (values * signs).sum() / (a**2).sum()
    away = np.linalg.norm(scale * a @ turn.T - b, axis=1) / np.linalg.norm(np.ptp(y, axis=0))
    cosine = (np.einsum("ij,vjk,vik->v", turn, found[:, :3, :3], c2w[:, :3, :3]) - 1) / 2
    return np.degrees(np.arccos(cosine.clip(-1, 1))), away


@pytest.mark.slow
@with_pycolmap
def test_photos_get_the_cameras_that_took_them(tmp_path, capsys):
    photos, c2w = corner_of_a_room(10)
    folder = tmp_path / "corner" / "images"
    folder.mkdir(parents=True)
    names = [f"{i}.png" for i in range(8)] + ["8 with a space.jpg", "9.webp"]
    for name, photo in zip(names, photos, strict=True):
        Image.fromarray(photo).save(folder / name, quality=98)
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(folder / "other.png")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    flags = ["--from_images", str(folder), "--output", str(tmp_path / "out"), "--frame", "scene"]
    assert main(flags) == 0
    output = capsys.readouterr().out
    assert "corner: 10 of 11 photos placed, 1 lens\n" in output
    assert "corner: left out, photos that could not be placed (1 of 11): other.png\n" in output
    (json_path,) = read_data_path(tmp_path / "out" / "colmap_data_path.json")
    views = read_scene(json_path).views
    assert [view.file_path.stem for view in views] == [Path(name).stem for name in names]
    degrees, away = differences(np.stack([view.c2w for view in views]), c2w)
    # Ten small photos and an unknown lens: 0.30 degrees and 0.0009 of the extent are the worst.
    assert degrees.max() < 0.6
    assert away.max() < 0.005
    assert all(abs(view.fx / FOCAL - 1) < 0.02 for view in views)
    # Finished work is skipped, and the input is unchanged.
    model = tmp_path / "out_colmap" / "corner" / "model" / "images.bin"
    state = model.stat().st_mtime_ns
    assert main(flags) == 0
    assert model.stat().st_mtime_ns == state
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
@with_pycolmap
def test_of_two_rooms_the_one_with_more_photos_is_taken(tmp_path):
    folder = tmp_path / "rooms"
    folder.mkdir()
    for name, seed, v in (("a", 1, 5), ("b", 0, 8)):
        for i, photo in enumerate(corner_of_a_room(v, seed)[0]):
            Image.fromarray(photo).save(folder / f"{name}{i}.png")
    names = sorted(path.name for path in folder.iterdir())
    images, others = find_cameras(folder, names, tmp_path / "work", 1)
    assert [image.name for image in images] == names[5:]
    assert others == [names[:5]]


CENTRES = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import pycolmap
from worker import refine_centres

def centre(count, roll_deg):
    # Points seen by cameras on a ring, in photos of 320x240 whose lens's centre is at (166, 113), not in the middle.
    rng = np.random.default_rng(0)
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(camera_id=1, model="RADIAL", width=320, height=240, params=[300, 166, 113, 0, 0])
    model.add_camera_with_trivial_rig(camera)
    points = rng.uniform(-1, 1, (60, 3))
    ids = [model.add_point3D(point, pycolmap.Track(), np.zeros(3, np.uint8)) for point in points]
    for i, angle in enumerate(np.linspace(0, 3, count)):
        forward = -np.array([np.cos(angle), np.sin(angle), 0.3])
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        turn, roll = np.stack([right, np.cross(forward, right), forward]), np.radians(roll_deg) * np.sin(2.5 * i)
        turn = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]]) @ turn
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(turn), turn @ forward * 4)
        local = points @ turn.T + pose.translation
        pixels = 300 * local[:, :2] / local[:, 2:] + (166, 113) + rng.normal(size=(60, 2)) * 0.1
        image = pycolmap.Image(name=str(i), camera_id=1, image_id=i + 1, keypoints=pixels)
        model.add_image_with_trivial_frame(image, pose)
        for k, point in enumerate(ids):
            model.add_observation(point, pycolmap.TrackElement(i + 1, k))
    model.cameras[1].params = [300, 160, 120, 0, 0]
    print(*refine_centres(model, 1).cameras[1].params[1:3])

centre(24, 20)
centre(24, 0)
centre(12, 20)
"""


@with_pycolmap
def test_the_centre_of_a_lens_is_refined_where_photos_determine_it():
    folder = Path(structure_from_motion.__file__).parent
    run = subprocess.run([sys.executable, "-c", CENTRES, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rolled, level, few = (np.array(line.split(), float) for line in run.stdout.splitlines())
    # It starts 7 pixels off; keypoints of a tenth of a pixel leave 0.38.
    assert np.abs(rolled - (166, 113)).max() < 0.6
    assert level.tolist() == few.tolist() == [160, 120]


@with_pycolmap
def test_pictures_of_nothing_are_refused_with_advice(tmp_path, capsys):
    folder = tmp_path / "fog"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 48), (90 + i, 100, 110)).save(folder / f"{i}.png")
    assert main(["--from_images", str(folder), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert (
        "fog: has 0 of 3 photos that COLMAP could place; wanted 50% (--min_registered) and at least 3: neighbouring photos" in error
    )


# Stand-in for COLMAP: places photos by their names in job.json, and reports progress like the real one.
WORKER = """
import json, os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from tests.support.colmap_files import write_binary
os.chdir(sys.argv[1])
job = json.loads(Path("job.json").read_text())
print(json.dumps({{"stage": "features", "done": 0, "total": len(job["photos"])}}), flush=True)
Path("runs").open("a").write(sys.argv[2] + "\\n")
mode = {mode!r}
if mode == "crash":
    print("Check failed: the last word", file=sys.stderr, flush=True)
    os._exit(3)
if mode == "error":
    print(json.dumps({{"error": "Cannot read photos/" + job["photos"][1] + "\\nreally"}}), flush=True)
    sys.exit()
placed = job["photos"][:4]
images = [(i + 1, (1, 0, 0, 0), (i, 0, 0), 1, name) for i, name in enumerate(placed)]
write_binary(Path("model"), {{1: ("PINHOLE", 8, 6, (9, 9, 4, 3))}}, images)
Path("model/others.json").write_text(json.dumps([job["photos"][3:6]]))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that replaces COLMAP's worker; pycolmap is not needed."""
    monkeypatch.setattr(structure_from_motion.importlib.util, "find_spec", lambda name: name)

    def put(mode: str) -> None:
        worker = tmp_path / "worker.py"
        worker.write_text(WORKER.format(path=[str(Path(__file__).parents[1])], mode=mode))
        monkeypatch.setattr(structure_from_motion, "_WORKER", worker)

    return put


def write_photos(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    names = [f"photo {i}.png" for i in range(count)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / name)
    return names


def test_the_largest_group_is_taken_and_the_others_are_named(tmp_path, capsys, stand_in):
    write_photos(tmp_path / "desk", 7)
    stand_in("good")
    flags = ["--from_images", str(tmp_path / "desk"), "--output", str(tmp_path / "out"), "--workers", "3"]
    assert main(flags) == 0
    output = capsys.readouterr().out
    assert "desk: 4 of 7 photos placed, 1 lens\n" in output
    assert "desk: left out, photos that fit only each other (2 of 7): photo 4.png, photo 5.png\n" in output
    assert "desk: left out, photos that could not be placed (1 of 7): photo 6.png\n" in output
    assert main([*flags, "--min_registered", "0.6"]) == 2
    assert "has 4 of 7 photos that COLMAP could place; wanted 60% (--min_registered)" in capsys.readouterr().err
    # One run for both: only other settings of COLMAP start it again.
    runs = tmp_path / "out_colmap" / "desk" / "runs"
    assert runs.read_text() == "3\n"
    assert main([*flags, "--seed", "1"]) == 0
    assert runs.read_text() == "3\n3\n"


def test_thumbnails_copies_and_unreadable_files_are_left_out_and_counted(tmp_path, capsys, stand_in):
    desk = tmp_path / "desk"
    photos = corner_of_a_room(6)[0]
    for i, photo in enumerate(photos):
        for name, size in ((f"{i}.png", (320, 240)), (f"@eaDir/{i}.png/XL.jpg", (80, 60)), (f"images_2/{i}.jpg", (160, 120))):
            (desk / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).resize(size, Image.Resampling.BOX).save(desk / name)
    (desk / "6.jpg").write_bytes(b"")
    (desk / "7.HEIC").write_bytes(b"heic")
    stand_in("good")
    assert main(["--from_images", str(desk), "--output", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "desk: left out, files in folders @eaDir (6): @eaDir/0.png/XL.jpg, " in output
    assert "desk: left out, files in formats that are not read (1): 7.HEIC\n" in output
    assert "desk: left out, photos that cannot be read (1): 6.jpg (is not an image, or is damaged)\n" in output
    assert "desk: left out, copies of other photos (6): images_2/0.jpg (of 0.png), " in output
    counts = (
        "files in folders @eaDir (6), files in formats that are not read (1), photos that cannot be read (1), "
        "copies of other photos (6)"
    )
    assert f"desk: 4 of 6 photos placed, 1 lens; left out: {counts}\n" in output


def test_photos_of_one_name_in_two_folders_get_a_file_each(tmp_path, stand_in):
    stand_in("good")
    for i in range(3):
        for place in ("", "images"):
            (tmp_path / "desk" / place).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (i, len(place), 0)).save(tmp_path / "desk" / place / f"{i}.png")
    assert main(["--from_images", str(tmp_path / "desk"), "--output", str(tmp_path / "out")]) == 0
    views = read_scene(tmp_path / "out" / "desk" / "opencv_cameras.json").views
    assert len({view.file_path for view in views}) == len(views) == 4


def test_colmap_gets_photos_by_their_real_format(tmp_path, stand_in):
    stand_in("good")
    desk = tmp_path / "desk"
    write_photos(desk, 4)
    Image.new("RGB", (8, 6)).save(desk / "photo 1.png", "WEBP")
    Image.new("RGB", (8, 6)).save(desk / "photo 2.png", "JPEG")
    Image.new("RGB", (8, 6)).save(tmp_path / "blob", "WEBP")
    (desk / "linked.webp").symlink_to(tmp_path / "blob")
    find_cameras(desk, [*(f"photo {i}.png" for i in range(4)), "linked.webp"], tmp_path / "work", 1)
    given = sorted((tmp_path / "work" / "photos").iterdir())
    assert [path.name for path in given] == ["000000.png", "000001.png", "000002.jpg", "000003.png", "000004.png"]
    for path in given:
        with Image.open(path) as image:
            assert image.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (
            "crash",
            r"made COLMAP fail \(exit code 3: Check failed: the last word\); wanted photos it can use: see .*colmap.log",
        ),
        ("error", r"made COLMAP fail \(Cannot read photo 1.png really\); wanted photos"),
    ],
)
def test_a_failure_of_colmap_is_reported(tmp_path, stand_in, mode, message):
    names = write_photos(tmp_path / "desk", 4)
    stand_in(mode)
    with pytest.raises(InputError, match=message):
        find_cameras(tmp_path / "desk", names, tmp_path / "work", 1)
    stand_in("good")
    assert len(find_cameras(tmp_path / "desk", names, tmp_path / "work", 1)[0]) == 4


def test_other_photos_of_the_same_names_are_not_taken_for_these(tmp_path, stand_in):
    names = write_photos(tmp_path / "desk", 4)
    stand_in("good")
    find_cameras(tmp_path / "desk", names, tmp_path / "work", 1)
    Image.new("RGB", (80, 60)).save(tmp_path / "desk" / names[0])
    find_cameras(tmp_path / "desk", names, tmp_path / "work", 1)
    assert (tmp_path / "work" / "runs").read_text() == "1\n1\n"


def test_frames_of_a_video_are_photos_too(tmp_path, capsys, stand_in):
    with VideoWriter(tmp_path / "walk.mp4") as video:
        for i in range(20):
            video.write(np.full((6, 8, 3), 10 * i, np.uint8))
    stand_in("good")
    assert main(["--from_images", str(tmp_path / "walk.mp4"), "--output", str(tmp_path / "out"), "--num_frames", "5"]) == 0
    output = capsys.readouterr().out
    assert "walk: left out, frames of the video (15 of 20): all but the sharpest of each segment\n" in output
    assert "walk: 4 of 5 photos placed" in output
    (json_path,) = read_data_path(tmp_path / "out" / "colmap_data_path.json")
    assert len(read_scene(json_path).views) == 4


def test_pairs_of_a_sequence_reach_far_with_few(tmp_path, stand_in):
    stand_in("good")
    folder, jobs = tmp_path / "walk", {}
    names = write_photos(folder, 200)
    for matching, count in (("all", 30), ("auto", 30), ("sequence", 200), ("auto", 200)):
        find_cameras(folder, names[:count], tmp_path / "work", 1, matching=matching, min_registered=0.01)
        jobs[matching, count] = json.loads((tmp_path / "work" / "job.json").read_text())["pairs"]
    assert len(jobs["all", 30]) == len(jobs["auto", 30]) == 435
    assert jobs["auto", 200] == jobs["sequence", 200]
    assert {j - i for i, j in jobs["sequence", 200]} == {*range(1, 13), 24, 48, 96, 192}


@pytest.mark.slow
@with_pycolmap
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_and_ends_colmap(tmp_path, number):
    script = Path(__file__).parent.parent / "data_preprocess" / "colmap_format_converter.py"
    (tmp_path / "room").mkdir()
    for i, photo in enumerate(corner_of_a_room(40)[0]):
        Image.fromarray(photo).save(tmp_path / "room" / f"{i}.png")
    command = [sys.executable, str(script), "--from_images", str(tmp_path / "room"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "out_colmap" / "room" / "database.db").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert re.split(r"[\r\n]+", error.strip())[-1] == "colmap_format_converter.py: interrupted; run again to complete"
    assert "Traceback" not in error + (tmp_path / "out_colmap" / "room" / "colmap.log").read_text()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: write_photos(folder, 2), "desk: has 2 photos; wanted 3 or more to find cameras"),
        (lambda folder: folder.mkdir(), "desk: holds no photos; wanted .png, .jpg"),
        (
            lambda folder: folder.mkdir() or [(folder / f"{i}.HEIC").touch() for i in range(3)],
            r"desk: holds no photos \(files in formats that are not read \(3\)\); wanted .png, .jpg",
        ),
        (lambda folder: None, "desk: is not there; wanted a video or a folder of photos"),
        (lambda folder: folder.write_text("no"), "desk: cannot be decoded .*; wanted a video"),
    ],
)
def test_too_little_is_refused(tmp_path, capsys, stand_in, make, message):
    stand_in("good")
    make(tmp_path / "desk")
    assert main(["--from_images", str(tmp_path / "desk"), "--output", str(tmp_path / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("colmap_format_converter.py")]
    assert len(error) == 1
    assert re.search(message, error[0]), error


def test_without_pycolmap_one_line_says_what_to_install(tmp_path):
    script = Path(__file__).parent.parent / "data_preprocess" / "colmap_format_converter.py"
    code = "import importlib.util, runpy, sys; importlib.util.find_spec = lambda name: None; sys.argv[:] = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    write_photos(tmp_path / "desk", 3)
    command = [sys.executable, "-c", code, str(script), "--from_images", "desk", "--output", "out"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == (
        "colmap_format_converter.py: --from_images: needs pycolmap, which is not installed; wanted pip install pycolmap\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("linked", ["toy", "toy/frames", "toy/database.db"])
def test_no_file_is_deleted_or_written_through_a_link_in_the_work_folder(tmp_path, linked):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0.png").write_text("mine")
    (tmp_path / "work" / linked).parent.mkdir(parents=True)
    (tmp_path / "work" / linked).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=rf"work/{linked}: is a link to {tmp_path}/mine; wanted a folder"):
        search_cameras(tmp_path / "toy.mp4", tmp_path / "work" / "toy", 1, "auto", CameraSearch())
    assert (tmp_path / "mine" / "0.png").read_text() == "mine"
