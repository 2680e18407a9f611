"""COLMAP sparse models. Letters: n images."""

import importlib.util
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from config.errors import InputError
from data_preprocess.colmap.sparse_model import CAMERA_MODELS, OPENCV_MODELS, Camera, find_model, lens_of, read_model
from tests.support.colmap_files import MODELS, WRITERS, rotated, write_binary, write_text

PINHOLE = ("PINHOLE", 64, 48, (50.0, 51.0, 32.5, 23.0))
UPRIGHT = (1.0, 0.0, 0.0, 0.0)


def random_model(seed: int = 0) -> tuple[dict, list[tuple]]:
    """Return a camera of every model, with scattered ids, and their images in random order."""
    rng = np.random.default_rng(seed)
    cameras = {}
    for i, (name, (_, count)) in enumerate(MODELS.items()):
        cameras[7 * i + 3] = name, 60 + i, 40 + i, tuple(rng.uniform(0.1, 2, count))
    names = ["b/deep/10.jpg", "a b.png", "é.png", "b/2.jpg", *(f"{i}.png" for i in range(len(cameras)))]
    images = []
    for i, name in enumerate(names):
        q = rng.normal(size=4)
        images.append((100 - i, q / np.linalg.norm(q), rng.normal(size=3), list(cameras)[i % len(cameras)], name))
    return cameras, images


@pytest.mark.parametrize("spelling", WRITERS)
def test_every_camera_model_and_pose_is_read_as_written(tmp_path, spelling):
    cameras, images = random_model()
    WRITERS[spelling](tmp_path, cameras, images)
    found = read_model(tmp_path)
    assert [image.name for image in found] == sorted(image[4] for image in images)
    for image in found:
        _, q, t, camera_id, _ = next(entry for entry in images if entry[4] == image.name)
        camera = image.camera
        assert (camera.model, camera.w, camera.h, camera.parameters) == cameras[camera_id]
        expected = np.stack([rotated(q, axis) for axis in np.eye(3)], axis=1)
        assert np.abs(image.w2c[:3, :3] - expected).max() < 1e-12
        assert image.w2c[:3, 3].tolist() == list(t)
        assert image.w2c[3].tolist() == [0, 0, 0, 1]


def test_a_shared_camera_is_one(tmp_path):
    write_binary(tmp_path, {2: PINHOLE}, [(i, UPRIGHT, (i, 0, 0), 2, f"{i}.png") for i in range(3)])
    assert len({image.camera for image in read_model(tmp_path)}) == 1


def test_text_of_other_programs_is_read(tmp_path):
    cameras, images = random_model()
    write_text(tmp_path / "unix", cameras, images)
    write_text(tmp_path / "windows", cameras, images, newline="\r\n")
    path = tmp_path / "windows" / "images.txt"
    content = path.read_bytes().replace(b"# Number", b"\r\n  # Number").rstrip()  # no last line of keypoints, no newline
    path.write_bytes(b"\xef\xbb\xbf" + content)
    for a, b in zip(read_model(tmp_path / "unix"), read_model(tmp_path / "windows"), strict=True):
        assert (a.name, a.camera) == (b.name, b.camera)
        assert (a.w2c == b.w2c).all()


def test_binary_goes_before_text_and_the_deepest_folder_first(tmp_path):
    for folder, name in (("", "top"), ("sparse", "sparse"), ("sparse/0", "zero")):
        assert folder == "" or find_model(tmp_path) == (tmp_path / folder).parent
        write_text(tmp_path / folder, {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, f"{name}_text.png")])
        assert read_model(find_model(tmp_path))[0].name == f"{name}_text.png"
    write_binary(tmp_path / "sparse/0", {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, "binary.png")])
    assert read_model(find_model(tmp_path))[0].name == "binary.png"
    (tmp_path / "none").mkdir()
    for reader in (find_model, read_model):
        with pytest.raises(FileNotFoundError, match=r"none: has no cameras.bin and images.bin"):
            reader(tmp_path / "none")


# In OpenCV's order: k1 k2 p1 p2 k3 k4 k5 k6, for a fisheye k1 k2 k3 k4.
LENSES = {
    "SIMPLE_PINHOLE": ((9, 30, 20), (9, 9, 30, 20), ()),
    "PINHOLE": ((9, 8, 30, 20), (9, 8, 30, 20), ()),
    "SIMPLE_RADIAL": ((9, 30, 20, 1), (9, 9, 30, 20), (1,)),
    "RADIAL": ((9, 30, 20, 1, 2), (9, 9, 30, 20), (1, 2)),
    "OPENCV": ((9, 8, 30, 20, 1, 2, 3, 4), (9, 8, 30, 20), (1, 2, 3, 4)),
    "FULL_OPENCV": ((9, 8, 30, 20, 1, 2, 3, 4, 5, 6, 7, 8), (9, 8, 30, 20), (1, 2, 3, 4, 5, 6, 7, 8)),
    "OPENCV_FISHEYE": ((9, 8, 30, 20, 1, 2, 3, 4), (9, 8, 30, 20), (1, 2, 3, 4)),
    "SIMPLE_RADIAL_FISHEYE": ((9, 30, 20, 1), (9, 9, 30, 20), (1,)),
    "RADIAL_FISHEYE": ((9, 30, 20, 1, 2), (9, 9, 30, 20), (1, 2)),
    "SIMPLE_FISHEYE": ((9, 30, 20), (9, 9, 30, 20), ()),
    "FISHEYE": ((9, 8, 30, 20), (9, 8, 30, 20), ()),
}


@pytest.mark.parametrize("model", LENSES)
def test_lenses_are_those_of_opencv(model):
    parameters, camera, terms = LENSES[model]
    lens = lens_of(Camera(model, 60, 40, parameters))
    assert (lens.w, lens.h, lens.fx, lens.fy, lens.cx, lens.cy) == (60, 40, *camera)
    assert lens.fisheye == ("FISHEYE" in model)
    assert lens.distortion[: len(terms)] == terms
    assert not any(lens.distortion[len(terms) :])


def test_lenses_beyond_opencv_are_refused_by_name():
    assert set(LENSES) == set(OPENCV_MODELS)
    for name, parameters in CAMERA_MODELS.values():
        if name not in OPENCV_MODELS:
            with pytest.raises(InputError, match=f"camera: is of the model {name}, which OpenCV cannot undistort; wanted one of S"):
                lens_of(Camera(name, 60, 40, (1.0,) * len(parameters.split())))


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    write_binary(tmp_path, {1: PINHOLE, 2: PINHOLE}, [(i, UPRIGHT, (0, 0, 0), 1, f"{i}.png") for i in range(2)])
    content = (tmp_path / name).read_bytes()
    for length in range(len(content)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"{name}: ends after {length} bytes in .*; wanted a complete model"):
            read_model(tmp_path)
    (tmp_path / name).write_bytes(content + b"\0\0")
    with pytest.raises(InputError, match=rf"{name}: has 2 bytes after the last of 2 .*s; wanted a file that ends there"):
        read_model(tmp_path)


def image(q=UPRIGHT, t=(0, 0, 0), camera_id=1, name="a.png"):
    return (1, q, t, camera_id, name)


WRONG = [
    (("PINHOLE", 0, 48, PINHOLE[3]), [image()], "camera.*: has a size of 0.*×48.*; wanted 1 to .* whole pixels"),
    (("PINHOLE", 64, 48, (50, -1, 32, 24)), [image()], "has a focal length of -1.0; wanted one above 0"),
    (("PINHOLE", 64, 48, (50, 50, float("nan"), 24)), [image()], "holds .*nan.*; wanted .*finite number"),
    (PINHOLE, [image(camera_id=4)], "a.png: is of camera 4; wanted one of 1"),
    (PINHOLE, [image(q=(0, 0, 0, 0))], "a.png: has a quaternion of length 0; wanted one of length 1"),
    (PINHOLE, [image(t=(0, float("inf"), 0))], "holds .*inf.*; wanted .*finite number"),
    (PINHOLE, [image(name="../a.png")], "has the name '../a.png'; wanted a printable path inside the folder of images"),
    (PINHOLE, [image(name="/a.png")], "has the name '/a.png'; wanted a printable path inside"),
    (PINHOLE, [image(name="..\\a.png")], "has the name .*; wanted a printable path inside"),
    (PINHOLE, [image(), image()], "holds the image 'a.png' twice; wanted each once"),
    (PINHOLE, [], "images....: holds no images; wanted the registered ones of a reconstruction"),
]


@pytest.mark.parametrize("spelling", WRITERS)
@pytest.mark.parametrize(("camera", "images", "message"), WRONG)
def test_what_cannot_be_is_refused(tmp_path, spelling, camera, images, message):
    WRITERS[spelling](tmp_path, {1: camera}, images)
    with pytest.raises(InputError, match=message) as error:
        read_model(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unknown_number_of_a_camera_model_is_refused(tmp_path):
    write_binary(tmp_path, {1: PINHOLE}, [image()])
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 1, 99, 64, 48, 1, 1, 1, 1))
    with pytest.raises(InputError, match=r"cameras.bin, camera 0: is of camera model 99; wanted 0 to 17"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("cameras", "1 PINHOLE 64 48 50 50 32", "line 1: has 3 parameters; wanted CAMERA_ID MODEL WIDTH HEIGHT and 4 of PINH"),
        ("cameras", "1 PINHOLE", "line 1: has 0 parameters; wanted CAMERA_ID"),
        ("cameras", "1 BOX 64 48 50", "line 1: has the camera model 'BOX'; wanted one of SIMPLE_PINHOLE"),
        ("cameras", "1 PINHOLE 64 48 50 50 32 x", "line 1: holds 'x'; wanted a finite number"),
        ("images", "1 1 0 0 0 0 0 0 1", "line 1: has 9 words; wanted IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"),
        ("images", "1 1 0 0 x 0 0 0 1 a.png", "line 1: holds 'x'; wanted a finite number"),
        # Without the line of keypoints, empty or not, half of the images would be lost.
        ("images", "1 1 0 0 0 0 0 0 1 a.png\n2 1 0 0 0 0 0 0 1 b.png", "line 2: is '2 1 0 .*; wanted the keypoints of"),
    ],
)  # fmt: skip
def test_lines_that_are_none_are_refused(tmp_path, name, line, message):
    write_text(tmp_path, {1: PINHOLE}, [image()])
    (tmp_path / f"{name}.txt").write_text(line)
    with pytest.raises(InputError, match=message):
        read_model(tmp_path)


# pycolmap in this process would break Pillow's PNGs.
PYCOLMAP = """
import json, sys
from pathlib import Path
import pycolmap
options = pycolmap.SyntheticDatasetOptions(num_rigs=2, num_cameras_per_rig=2, num_frames_per_rig=3, num_points3D=20)
model = pycolmap.synthesize_dataset(options)
for camera in model.cameras.values():
    camera.model = pycolmap.CameraModelId.OPENCV
    camera.params = [1280 + camera.camera_id, 1290, 512, 384, 0.1, 0.01, 0.001, 0.002]
Path("binary").mkdir()
Path("text").mkdir()
model.write_binary("binary")
model.write_text("text")
images = [model.images[i] for i in model.reg_image_ids()]
json.dump([[image.name, image.cam_from_world().matrix().tolist(), image.camera.params.tolist()] for image in images], sys.stdout)
"""


@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is not installed")
def test_what_pycolmap_writes_is_read_as_it_was(tmp_path):
    run = subprocess.run([sys.executable, "-c", PYCOLMAP], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = sorted(json.loads(run.stdout))
    assert (tmp_path / "binary" / "rigs.bin").exists()
    assert len(expected) == 12
    for folder in ("binary", "text"):
        found = read_model(tmp_path / folder)
        for image, (name, w2c, parameters) in zip(found, expected, strict=True):
            assert image.name == name
            assert np.abs(image.w2c[:3] - w2c).max() < 1e-9
            assert list(image.camera.parameters) == parameters
