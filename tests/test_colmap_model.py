"""COLMAP sparse models. Letters: n images."""

import importlib.util
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from config.errors import InputError
from data_preprocess.colmap.sparse_model import CAMERA_MODELS, OPENCV_MODELS, Camera, find_models, lens_of, read_model
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
        assert folder == "" or find_models(tmp_path)[0].path == (tmp_path / folder).parent
        write_text(tmp_path / folder, {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, f"{name}_text.png")])
        assert find_models(tmp_path)[0].images[0].name == f"{name}_text.png"
    write_binary(tmp_path / "sparse/0", {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, "binary.png")])
    assert find_models(tmp_path)[0].images[0].name == "binary.png"
    (tmp_path / "none").mkdir()
    for reader in (find_models, read_model):
        with pytest.raises(FileNotFoundError, match=r"none: has no cameras.bin and images.bin"):
            reader(tmp_path / "none")


def test_the_model_with_the_most_images_is_found_and_the_others_are_counted(tmp_path):
    counts = {"sparse/0": 2, "sparse/1": 4, "sparse/2": 4, "sparse/10": 1, "colmap_sparse/0": 3, "dense/sparse": 4, ".": 3}
    for i, (folder, count) in enumerate(counts.items()):
        writer = write_text if i % 2 else write_binary
        writer(tmp_path / folder, {1: PINHOLE}, [(k, UPRIGHT, (0, 0, 0), 1, f"{k}.png") for k in range(count)])
    (tmp_path / "sparse/3").mkdir()
    write_binary(tmp_path / "sparse/4", {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, "a.png")])
    (tmp_path / "sparse/4/images.bin").write_bytes(b"\0")
    found = [(model.path.relative_to(tmp_path).as_posix(), len(model.images)) for model in find_models(tmp_path)]
    assert found == [
        ("sparse/1", 4), ("sparse/2", 4), ("dense/sparse", 4), ("colmap_sparse/0", 3), (".", 3), ("sparse/0", 2), ("sparse/10", 1),
        ("sparse/4", 0),
    ]  # fmt: skip
    assert "ends after 1 byte " in str(find_models(tmp_path)[-1].problem)
    assert find_models(tmp_path)[0].path == tmp_path / "sparse/1"
    # A folder that the user names is taken, though there are larger ones beside it; `sparse` stands for those in it.
    assert find_models(tmp_path / "sparse/0")[0].path == tmp_path / "sparse/0"
    assert find_models(tmp_path / "sparse")[0].path == tmp_path / "sparse/1"
    with pytest.raises(InputError, match=r"sparse/4/images.bin: ends after 1 byte "):
        find_models(tmp_path / "sparse/4")


def lines_of(*lines: str, newline: str = "\n") -> bytes:
    return newline.join(lines).encode()


POSE = "1 0 0 0 0 0 0 1"
GOOD = {
    "no empty line at the end": (lines_of(f"1 {POSE} a.png", "3.5 4 -1", f"2 {POSE} b.png"), ["a.png", "b.png"]),
    "comments and blank lines between": (
        lines_of(f"1 {POSE} a.png", "# points", "", "", "", "# image", f"2 {POSE} b.png", ""), ["a.png", "b.png"]),
    "Windows": (lines_of(f"1 {POSE} a.png", "", f"2 {POSE} b c.png", "1 2 3", newline="\r\n"), ["a.png", "b c.png"]),
    "a mark at the start": (b"\xef\xbb\xbf" + lines_of(f"1 {POSE} a.png", ""), ["a.png"]),
    "numbers for names": (lines_of(f"1 {POSE} 12.5", "", f"2 {POSE} 1 2 3", "", f"3 {POSE} 7", "1.5 2 -1"), ["1 2 3", "12.5", "7"]),
    "spaces other than ASCII's": (
        lines_of(f"1 {POSE} 4.42\u202fPM.png", "", f"2 {POSE} a\u3000b\u00a0c.png", "", f"3 {POSE} 👩\u200d🚀.png", ""),
        ["4.42\u202fPM.png", "a\u3000b\u00a0c.png", "👩\u200d🚀.png"]),
    "a table of floats": (
        lines_of(f"1 {POSE} a.png", "1.5e0 2.000000 -1.0", f"2 {POSE} b.png", "3 4 1.7e+01 5 6 -1.000000e+00"), ["a.png", "b.png"]),
    "a wide space first": (
        lines_of(f" 1 {POSE}\t \u3000b.png ", "", f"2 {POSE} \u00a0a.png\u00a0"), ["\u00a0a.png\u00a0", "\u3000b.png"]),
    "more than the header says": (lines_of("# Number of images: 1", f"1 {POSE} a.png", "", f"2 {POSE} b.png"), ["a.png", "b.png"]),
    "no number in the header": (lines_of("# Number of images: {}", f"1 {POSE} a.png"), ["a.png"]),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_images_in_text_are_read_whole(tmp_path, case):
    content, names = GOOD[case]
    write_text(tmp_path, {1: PINHOLE}, [image()])
    (tmp_path / "images.txt").write_bytes(content)
    assert [found.name for found in read_model(tmp_path)] == names


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
        with pytest.raises(InputError, match=rf"{name}: ends after {length} bytes? in .*; wanted a complete model"):
            read_model(tmp_path)
    (tmp_path / name).write_bytes(content + b"\0\0")
    with pytest.raises(InputError, match=rf"{name}: has 2 bytes after the last of 2 .*s; wanted a file that ends there"):
        read_model(tmp_path)


def test_ids_in_binary_files_are_unique_and_names_printable(tmp_path):
    write_binary(tmp_path, {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, "a.png"), (1, UPRIGHT, (0, 0, 0), 1, "b.png")])
    with pytest.raises(InputError, match=r"images.bin, image 1: has the id 1 of an image above it; wanted an id of its own"):
        read_model(tmp_path)
    write_binary(tmp_path, {1: PINHOLE}, [(1, UPRIGHT, (0, 0, 0), 1, "4.42\u202fPM.png")])
    assert read_model(tmp_path)[0].name == "4.42\u202fPM.png"
    content = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(content.replace("\u202f".encode(), b"\xe9\xe9\xe9"))
    with pytest.raises(InputError, match=r"image 0: has the name '4.42.*; wanted a printable path"):
        read_model(tmp_path)


def image(q=UPRIGHT, t=(0, 0, 0), camera_id=1, name="a.png"):
    return (1, q, t, camera_id, name)


WRONG = [
    (("PINHOLE", 0, 48, PINHOLE[3]), [image()], "camera.*: has a size of 0.*×48.*; wanted 1 to .* whole pixels"),
    (("PINHOLE", 64, 48, (50, -1, 32, 24)), [image()], "has a focal length of -1.0; wanted one above 0"),
    (("PINHOLE", 64, 48, (50, 50, float("nan"), 24)), [image()], "holds .*nan.*; wanted .*finite number"),
    (PINHOLE, [image(camera_id=4)], "a.png: is of camera 4; wanted one of the file's: 1"),
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
        # Names of three words: as many words as keypoints have. And of numbers only, so that both readings are possible.
        ("images", f"1 {POSE} blue shed 1.png\n2 {POSE} blue shed 2.png", "line 2: is '2 1 0 .*; wanted the keypoints of"),
        ("images", f"1 {POSE} 10 20 30\n2 {POSE} 10 20 31\n\n", "line 2: is '2 1 0 .*; wanted the keypoints of"),
        ("images", f"1 {POSE} a.png\n\n2 {POSE} b c d.png\n3 {POSE} e f g.png\n", "line 4: is '3 1 0 .*; wanted the keypoints"),
        ("images", f"1 {POSE} a.png\n1.5 2.5 0.5\n", "line 2: is '1.5 2.5 0.5'; wanted the keypoints of"),
        ("images", f"1 {POSE} a.png\n1.5 nan 1\n", "line 2: is '1.5 nan 1'; wanted the keypoints of"),
        ("images", f"# Number of images: 4\n1 {POSE} a.png\n\n", "images.txt: holds 1 of the 4 images of its header; wanted all"),
        ("images", f"1 {POSE} a.png\n\n1 {POSE} b.png\n", "line 3: has the id 1 of an image above it; wanted an id of its own"),
        ("images", f"1.5 {POSE} a.png\n", "line 1: has the id 1.5; wanted a whole number"),
        ("images", f"1 {POSE} bell\7.png\n", r"line 1: has the name 'bell\\x07.png'; wanted a printable path"),
        ("cameras", "1 PINHOLE 64 48 50 50 32 24 \n1 PINHOLE 64 48 50 50 32 24", "line 2: has the id 1 of a camera above it"),
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
