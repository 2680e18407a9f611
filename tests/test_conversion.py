"""Conversion: finished scenes are skipped, unfinished ones completed, nothing else is touched. Letters: h w pixels."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import data_preprocess.capture.conversion as conversion
from config.errors import InputError
from data.images import read_pixels
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.capture.conversion import Photo, convert
from data_preprocess.capture.lens import Lens
from data_preprocess.capture.stored_image import read_header, read_stored, write_png
from data_preprocess.merge_lists import main as merge
from data_preprocess.shards import Shard
from tests.support.captures import breaking_down
from tests.support.images import turned
from tests.support.scenes import contents, random_c2w

CLEAR = Lens(28, 20, 30.0, 31.0, 14.0, 10.0)
BENT = Lens(28, 20, 30.0, 31.0, 14.0, 10.0, (0.1,))


def photos(folder, n=4, lens=BENT, seed=0, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    rng, c2w = np.random.default_rng(seed), random_c2w(n, seed)
    found = []
    for i in range(n):
        source = folder / f"{i}{suffix}"
        Image.fromarray(rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)).save(source)
        found.append(Photo(source, f"images/{i}", lens, np.linalg.inv(c2w[i])))
    return found


def run(tmp_path, found, name="toy", **options):
    return convert({name: lambda: found}, tmp_path / "out", tmp_path / "out" / "list.json", 2, **options)


def test_a_finished_scene_is_not_done_again(tmp_path, monkeypatch):
    found = photos(tmp_path / "in")
    before = contents(tmp_path / "in")
    assert run(tmp_path, found) == []
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "toy").rglob("*")}
    monkeypatch.setattr(conversion, "read_stored", None)
    assert run(tmp_path, found) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "toy").rglob("*")} == first
    assert contents(tmp_path / "in") == before
    assert sorted(path.name for path in (tmp_path / "out" / "toy").iterdir()) == ["images", "opencv_cameras.json"]


def test_cameras_that_no_photo_has_are_refused_before_anything_is_written(tmp_path):
    shares = Lens(28, 20, 0.8, 0.8, 0.5, 0.5)
    (problem,) = run(tmp_path, photos(tmp_path / "in", lens=shares))
    start = f"{tmp_path}/in/0.png: has a field of view of 173.5×170.9 degrees (w×h); wanted 170 at most: focal lengths in pixels"
    assert problem.startswith(start)
    # Undistortion as published would choose another camera, that a photo can have.
    distorted = [
        dataclasses.replace(photo, as_published=True)
        for photo in photos(tmp_path / "in2", lens=dataclasses.replace(shares, distortion=(0.01,)))
    ]
    (problem,) = run(tmp_path, distorted)
    assert problem.startswith(start.replace("/in/", "/in2/"))
    assert not (tmp_path / "out").exists()


def test_a_copied_photo_reads_as_its_camera_was_fitted(tmp_path):
    found = photos(tmp_path / "in", lens=CLEAR, suffix=".webp") + photos(tmp_path / "in2", lens=CLEAR, suffix=".jpg", seed=1)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for photo in found:
        with Image.open(photo.source) as image:
            Image.fromarray(np.asarray(image)).save(photo.source, xmp=xmp, exif=b"Exif\0\0MM\0*\0\0", lossless=True)
    found = [dataclasses.replace(photo, name=f"images/{i}") for i, photo in enumerate(found)]
    assert run(tmp_path, found) == []
    (json_path,) = read_data_path(tmp_path / "out" / "list.json")
    for photo, view in zip(found, read_scene(json_path).views, strict=True):
        assert view.file_path.read_bytes() == photo.source.read_bytes()
        assert np.array_equal(read_pixels(view.file_path), read_stored(photo.source))


def test_a_half_done_scene_is_completed(tmp_path, monkeypatch):
    found = photos(tmp_path / "in", n=6)
    run(tmp_path / "whole", found)
    monkeypatch.setattr(conversion, "write_png", breaking_down(write_png, 3))
    (problem,) = run(tmp_path, found)
    assert problem == "disk full"
    scene = tmp_path / "out" / "toy"
    done = contents(scene / "images")
    assert len(done) == 3
    assert not (scene / "opencv_cameras.json").exists()
    assert not (tmp_path / "out" / "list.json").exists()
    monkeypatch.undo()
    written = []
    monkeypatch.setattr(conversion, "write_png", lambda path, pixels: (written.append(path), write_png(path, pixels)))
    assert run(tmp_path, found) == []
    assert len(written) == 3
    assert contents(scene) == contents(tmp_path / "whole" / "out" / "toy")


def test_half_done_images_of_other_photos_are_done_again(tmp_path):
    found = photos(tmp_path / "in")
    bad = tmp_path / "in" / "2.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    (problem,) = run(tmp_path, found)
    assert "2.png: cannot be decoded" in problem
    found = photos(tmp_path / "in", seed=5)
    assert run(tmp_path, found) == []
    run(tmp_path / "alone", found)
    assert contents(tmp_path / "out" / "toy") == contents(tmp_path / "alone" / "out" / "toy")


def test_a_finished_scene_can_be_put_in_the_other_spelling(tmp_path):
    found = photos(tmp_path / "in")
    json_path = tmp_path / "out" / "toy" / "opencv_cameras.json"
    run(tmp_path, found)
    plain = json_path.read_bytes()
    assert run(tmp_path, found, long_lrm=True) == []
    assert json.loads(json_path.read_bytes()) == {"scene_name": "toy", "frames": json.loads(plain)}
    assert run(tmp_path, found) == []
    assert json_path.read_bytes() == plain


def test_a_lost_image_is_made_again(tmp_path):
    found = photos(tmp_path / "in")
    run(tmp_path, found)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "toy" / "images" / "1.png").unlink()
    assert run(tmp_path, found) == []
    assert contents(tmp_path / "out") == before


def test_one_scene_that_fails_does_not_stop_the_others(tmp_path, capsys):
    good, bad = photos(tmp_path / "a"), photos(tmp_path / "b")
    (tmp_path / "b" / "1.png").unlink()
    scenes = {"b": lambda: bad, "a": lambda: good, "c": lambda: []}
    problems = convert(scenes, tmp_path / "out", tmp_path / "list.json", 3)
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        "is not there; wanted an image", "has no photos; wanted at least one"]  # fmt: skip
    assert read_data_path(tmp_path / "list.json") == [tmp_path / "out" / "a" / "opencv_cameras.json"]
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("a: 4 views, 28×20 (w×h)")
    assert out[1] == f"1 of 3 scenes in {tmp_path / 'list.json'}"


def test_photos_that_need_no_change_are_copied(tmp_path):
    found = photos(tmp_path / "in", lens=CLEAR, suffix=".JPG")
    run(tmp_path, found)
    for photo, view in zip(found, read_scene(tmp_path / "out" / "toy" / "opencv_cameras.json").views, strict=True):
        assert view.file_path.name == photo.source.name
        assert view.file_path.read_bytes() == photo.source.read_bytes()


def test_the_folder_s_own_content_is_not_touched(tmp_path):
    found = photos(tmp_path / "in")

    def says(found, name="toy", output=tmp_path / "out"):
        before = contents(tmp_path)
        (problem,) = convert({name: lambda: found}, output, tmp_path / "list.json")
        assert contents(tmp_path) == before
        return problem

    assert "wanted an --output separate from the input" in says(found, name="in", output=tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "images").symlink_to(tmp_path / "in")
    linked = [Photo(tmp_path / "linked" / "images" / photo.source.name, photo.name, BENT, photo.w2c) for photo in found]
    assert "wanted an --output separate from the input" in says(linked, name="linked", output=tmp_path)
    mine = tmp_path / "out" / "toy" / "images" / "3.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert "3.png: is an image of no finished scene; wanted another --output" in says(found)
    mine.unlink()
    run(tmp_path, found)
    other = photos(tmp_path / "other", seed=9)
    assert "holds other cameras than this input and these flags give" in says(other)
    assert "holds other cameras" in says(found[:3])
    for name in ("../x", "/tmp/x", "a/../../x", ""):
        assert "wanted a name in the scene's folder" in says([Photo(found[0].source, name, BENT, np.eye(4))])
    twice = [found[0], Photo(found[1].source, "images/0", BENT, np.eye(4))]
    assert "1.png: would be written to the same file as" in says(twice, name="new")


def test_photos_of_another_shape_than_their_camera_s_are_refused(tmp_path):
    (problem,) = run(tmp_path, photos(tmp_path / "in", lens=Lens(20, 28, 30, 30, 10, 14)))
    assert problem.startswith(f"{tmp_path / 'in' / '0.png'}: is an image of 28×20 (w×h); wanted the 20×28 of its camera or ")


def test_cameras_at_one_place_are_reported(tmp_path):
    found = [Photo(p.source, p.name, p.lens, np.eye(4)) for p in photos(tmp_path / "in", n=2)]
    problems = run(tmp_path, found)
    assert "view 1: has the pose of view 0" in problems[0]
    assert "has all 2 cameras in one place" in problems[1]


def test_images_are_read_as_they_are_stored(tmp_path):
    rng = np.random.default_rng(2)
    colours = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    for name, image, expected in (
        ("rgb.png", Image.fromarray(colours), colours),
        ("rgba.png", Image.fromarray(alpha), alpha),
        ("rgba.webp", Image.fromarray(alpha), alpha),
        ("grey.png", Image.fromarray(colours[..., 0]), np.repeat(colours[..., :1], 3, 2)),
        ("deep.png", Image.fromarray(colours[..., 0].astype(np.uint16) * 257), np.repeat(colours[..., :1], 3, 2)),
    ):
        image.save(tmp_path / name, lossless=True)
        read = read_stored(tmp_path / name)
        assert np.array_equal(read[..., :3][read[..., -1] > 0], expected[..., :3][read[..., -1] > 0])
        assert read.shape == expected.shape
    Image.fromarray(colours).save(tmp_path / "turned.png", exif=turned(8))
    assert read_header(tmp_path / "turned.png") == ((6, 9), 8)
    assert np.array_equal(read_stored(tmp_path / "turned.png"), colours)
    assert np.array_equal(read_stored(tmp_path / "turned.png", upright=True), np.rot90(colours))
    assert read_header(tmp_path / "rgb.png") == ((6, 9), 1)
    write_png(tmp_path / "written.png", alpha)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "written.png")), alpha)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    write_png(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(FileNotFoundError, match=r"none.png: is not there; wanted an image"):
        read_header(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"text.png: is not an image, or is damaged"):
        read_header(tmp_path / "text.png")
    with pytest.raises(InputError, match=r": is a folder; wanted an image"):
        read_stored(tmp_path)
    with pytest.raises(InputError, match=r"cut.png: cannot be decoded"):
        read_stored(tmp_path / "cut.png")


def test_shards_divide_the_scenes_and_their_merged_lists_are_that_of_an_undivided_run(tmp_path, capsys):
    found = {name: photos(tmp_path / "in" / name, n=2, seed=seed) for seed, name in enumerate("dbeac")}
    (tmp_path / "in" / "e" / "1.png").write_bytes(b"no photo")
    scenes = {name: (lambda name=name: found[name]) for name in found}
    whole, output = tmp_path / "whole", tmp_path / "out"
    problems = convert(scenes, whole, whole / "toy_data_path.json", 2)
    capsys.readouterr()
    path, divided = output / "toy_data_path.json", []
    for index in (5, 0, 1, 4, 3, 2, 6):  # seven, of which two have nothing to do
        divided += convert(scenes, output, path, 2, shard=Shard(index, 7))
    said = [line.partition(" in ")[0] for line in capsys.readouterr().out.splitlines() if " in " in line and ".part-" in line]
    assert [line[0] + line[5] for line in said] == ["11", "00", "11", "01", "00", "11", "11"]
    assert len(problems) == 1
    assert divided == problems
    assert merge([str(path)]) == 0
    left = contents(output)
    assert {name: text for name, text in left.items() if ".part-" not in name.name} == contents(whole)
