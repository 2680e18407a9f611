"""Packs of scenes: what is in them, training on them against training on folders, continuation."""

import io
import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from config.errors import InputError
from config.recipe import TrainingRecipe
from data.folder_source import FolderSource
from data.images import read_photo
from data.pack_writer import PackWriter, write_pack
from data.scene_format import read_scene, write_scene
from data.scene_list import read_data_path, write_data_path
from data_preprocess import adjust_cameras, check_scenes, merge_lists, pack_scenes
from tests.support import training_run
from tests.support.scenes import contents, write_random_data_path, write_random_scene
from tests.support.training_run import SETTINGS, arguments, final, work_in

RECIPE = TrainingRecipe(
    data_path="", image_size=(8, 12), num_all_views=5, num_input_views=2, num_target_views=3, bs_per_gpu=2, workers=2, seed=7
)


@pytest.fixture
def folders(tmp_path) -> Path:
    """List of four scenes of 9 views, 20×28 pixels."""
    return write_random_data_path(tmp_path / "folders", scenes=4, n=9, size=(20, 28))


def run(data_path: Path, output: Path, *flags: object) -> int:
    return pack_scenes.main(["--data_path", str(data_path), "--output", str(output), "--workers", "2", *map(str, flags)])


def pack(data_path: Path, output: Path, *flags: object) -> Path:
    """Pack scenes; return the list."""
    assert run(data_path, output, *flags) == 0
    return output / data_path.name


def batches(data_path: Path, **changes) -> list[dict]:
    source = FolderSource(str(data_path), replace(RECIPE, **changes), patch_size=4)
    found = [source.batch(range(first, first + 3)) for first in (0, 3, 6)]
    return [*found, *(source.validation_batch(i) for i in range(source.count_validation_scenes()))]


def assert_same(found: list[dict], expect: list[dict]) -> None:
    for batch, other in zip(found, expect, strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[key], other[key]) for key in batch)


@pytest.mark.parametrize("image_size", [(8, 12), (12, 8), (20, 28)])
@pytest.mark.parametrize("changes", [{}, {"frame_window": 6, "scene_pose_normalize": True}])
def test_samples_of_png_packs_are_bitwise_those_of_folders(tmp_path, folders, image_size, changes):
    packed = pack(folders, tmp_path / "packs", "--image_size", *image_size, "--format", "png", "--views_per_file", 20)
    assert json.loads(packed.read_text()) == ["test_00000.zip", "test_00001.zip"]
    assert_same(batches(packed, image_size=image_size, **changes), batches(folders, image_size=image_size, **changes))


def test_samples_of_packs_with_a_margin_are_bitwise_those_of_folders(tmp_path, folders):
    margin = {"crop_margin": 0.3}
    packed = pack(folders, tmp_path / "packs", "--image_size", 8, 12, "--margin", 0.3, "--format", "png")
    assert [view.w for view in read_scene(read_data_path(packed)[0]).views] == [round(12 * 1.3)] * 9
    assert_same(batches(packed, **margin), batches(folders, **margin))
    assert not torch.equal(batches(folders, **margin)[0]["image"], batches(folders)[0]["image"])


def test_images_as_they_are(tmp_path, folders):
    packed = pack(folders, tmp_path / "packs")
    for path, other in zip(read_data_path(packed), read_data_path(folders), strict=True):
        scene, expect = read_scene(path), read_scene(other)
        assert scene.name == expect.name
        with zipfile.ZipFile(packed.parent / "test_00000.zip") as archive:
            for view, from_folder in zip(scene.views, expect.views, strict=True):
                name = f"{scene.name}/images/{view.file_path.name}"
                assert archive.getinfo(name).compress_type == zipfile.ZIP_STORED
                assert archive.read(name) == from_folder.file_path.read_bytes()
                np.testing.assert_array_equal(view.w2c, from_folder.w2c)
                assert (view.w, view.h, view.fx, view.cy) == (from_folder.w, from_folder.h, from_folder.fx, from_folder.cy)
    assert_same(batches(packed), batches(folders))


def test_images_as_they_are_must_fit_their_cameras_when_upright(tmp_path, capsys):
    path = write_random_scene(tmp_path / "chair", n=2, size=(20, 28))
    view = read_scene(path).views[1]
    exif = Image.Exif()
    exif[274] = 6
    for size, code in (((20, 28), 0), ((28, 20), 2)):  # as stored (w, h), to be turned by 90 degrees
        Image.new("RGB", size).save(view.file_path, format="JPEG", exif=exif)
        assert run(path, tmp_path / f"packs_{code}") == code
    assert f"{view.file_path}: is 20×28 (w×h) when upright; wanted the 28×20 of its camera" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "quality", "least"), [("jpeg", 95, 35), ("jpeg", 10, 15), ("webp", 90, 25)])
def test_lossy_formats(tmp_path, folders, form, quality, least):
    packed = pack(folders, tmp_path / "packs", "--image_size", 16, 20, "--format", form, "--quality", quality)
    exact = pack(folders, tmp_path / "exact", "--image_size", 16, 20, "--format", "png")
    scene, expect = (read_scene(read_data_path(path)[2]) for path in (packed, exact))
    for view, other in zip(scene.views, expect.views, strict=True):
        with zipfile.ZipFile(packed.parent / "test_00000.zip") as archive:
            stored = archive.read(f"scene_2/images/{view.file_path.name}")
        assert Image.open(io.BytesIO(stored)).format.lower() == form
        error = read_photo(view.file_path)[0].astype(float) - read_photo(other.file_path)[0]
        assert 10 * np.log10(255**2 / (error**2).mean()) > least
        assert (view.fx, view.fy, view.cx, view.cy) == (other.fx, other.fy, other.cx, other.cy)


@pytest.mark.parametrize("quality", [90, 100])
def test_jpegs_of_the_finest_texture(tmp_path, quality):
    path = write_random_scene(tmp_path / "grass", n=1, size=(300, 280))
    exact = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    Image.fromarray(exact).save(read_scene(path).views[0].file_path)
    assert run(path, tmp_path / "packs", "--format", "jpeg", "--quality", quality) == 0
    scene = read_scene(read_data_path(tmp_path / "packs" / "opencv_cameras_00000.zip")[0])
    error = read_photo(scene.views[0].file_path)[0].astype(float) - exact
    assert np.sqrt((error**2).mean()) < {90: 9, 100: 1.5}[quality]  # the quantisation of white noise


def test_image_that_a_format_cannot_hold(tmp_path, capsys):
    path = write_random_scene(tmp_path / "strip", n=1, size=(30, 20))
    view = read_scene(path).views[0]
    write_scene(path, [replace(view, w=2, h=20_000, fx=9e3, fy=9e3, cx=1, cy=1e4)])
    Image.new("RGB", (2, 20_000)).save(view.file_path)
    assert run(path, tmp_path / "packs", "--format", "webp") == 2
    line = f"pack_scenes.py: {view.file_path}: cannot be written as webp ("
    assert line in capsys.readouterr().err
    assert not list((tmp_path / "packs").glob("*"))


def test_transparency_is_composited_on_white(tmp_path):
    path = write_random_scene(tmp_path / "chair", n=2, size=(20, 28))
    view = read_scene(path).views[0]
    image = Image.open(view.file_path)
    image.putalpha(Image.fromarray(np.arange(20 * 28, dtype=np.uint8).reshape(20, 28)))
    image.save(view.file_path)
    write_data_path(tmp_path / "test_data_path.json", [path])
    packed = pack(tmp_path / "test_data_path.json", tmp_path / "packs", "--image_size", 20, 28, "--format", "png")
    found, alpha = read_photo(read_scene(read_data_path(packed)[0]).views[0].file_path)
    np.testing.assert_array_equal(found, read_photo(view.file_path)[0])
    assert alpha is None


def test_unzipped_pack_is_a_data_set(tmp_path, folders):
    packed = pack(folders, tmp_path / "packs", "--image_size", 8, 12, "--format", "png")
    with zipfile.ZipFile(tmp_path / "packs" / "test_00000.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unzipped")
    assert_same(batches(tmp_path / "unzipped" / "pack_data_path.json"), batches(packed))


def test_packs_can_be_packed_anew(tmp_path, folders, capsys):
    large = pack(folders, tmp_path / "large", "--image_size", 16, 24, "--format", "png", "--views_per_file", 1)
    assert len(json.loads(large.read_text())) == 4  # a scene is never divided
    small = pack(large, tmp_path / "small", "--image_size", 8, 12, "--format", "png")
    assert_same(batches(small), batches(large))
    before = contents(tmp_path / "large")
    for source in (large, tmp_path / "large" / "test_00000.zip"):
        assert run(source, tmp_path / "large", "--name", "test", "--image_size", 8, 12) == 2
        assert f"{source}: is the input, and would be replaced; wanted another --output or --name" in capsys.readouterr().err
    assert contents(tmp_path / "large") == before


def test_packs_are_filled_up_to_the_views_that_they_may_have(tmp_path, folders):
    for views, packs in ((8, 4), (17, 4), (18, 2), (26, 2), (27, 2), (36, 1)):
        pack(folders, tmp_path / str(views), "--views_per_file", views)
        assert len(list((tmp_path / str(views)).glob("*.zip"))) == packs  # of 4 scenes of 9 views


def test_pack_of_a_scene_that_has_changed_is_refused(tmp_path, folders, capsys):
    pack(folders, tmp_path / "packs")
    scene = read_data_path(folders)[2]
    scene.write_text(f"{scene.read_text()} ")
    assert run(folders, tmp_path / "packs") == 2
    assert "test_00000.zip: holds 4 scenes; images as they are; " in capsys.readouterr().err


def test_finished_packs_are_kept_and_missing_ones_written_again(tmp_path, folders, capsys):
    flags = ("--image_size", 8, 12, "--format", "jpeg", "--views_per_file", 9)
    pack(folders, tmp_path / "packs", *flags)
    before = contents(tmp_path / "packs")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "packs").glob("*.zip")}
    (tmp_path / "packs" / "test_00002.zip").unlink()
    capsys.readouterr()
    pack(folders, tmp_path / "packs", *flags)
    assert contents(tmp_path / "packs") == before
    assert [path.name for path, time in times.items() if path.stat().st_mtime_ns != time] == ["test_00002.zip"]
    said = capsys.readouterr().out
    assert said.startswith("1 scene, 9 views: 10 files, ")
    assert said.endswith(f"4 packs in {tmp_path / 'packs' / 'test_data_path.json'}; 3 from earlier runs\n")


def test_other_settings_do_not_replace_packs(tmp_path, folders, capsys):
    pack(folders, tmp_path / "packs", "--image_size", 8, 12, "--format", "png")
    for flags in (
        ("--image_size", 8, 16, "--format", "png"),
        ("--image_size", 8, 12),
        (),
        ("--image_size", 8, 12, "--margin", 0.5),
    ):
        assert run(folders, tmp_path / "packs", *flags) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "test_00000.zip: holds 4 scenes; png, 8×12 (h×w); " in line
        assert line.endswith("another --output or --name, or delete it")
    (tmp_path / "packs" / "test_00000.zip").write_bytes(b"something else")
    assert run(folders, tmp_path / "packs", "--image_size", 8, 12, "--format", "png") == 2
    assert "test_00000.zip: is not a zip file, or is cut short" in capsys.readouterr().err


def test_scene_that_cannot_be_read_is_left_out_until_it_can(tmp_path, folders, capsys):
    view = read_scene(read_data_path(folders)[1]).views[4]
    whole = view.file_path.read_bytes()
    view.file_path.write_bytes(whole[:60])
    flags = ("--image_size", 8, 12, "--format", "png")
    assert run(folders, tmp_path / "packs", *flags) == 2
    error = capsys.readouterr().err
    assert f"pack_scenes.py: {view.file_path}: cannot be decoded" in error
    packed = tmp_path / "packs" / folders.name
    assert [path.parent.name for path in read_data_path(packed)] == ["scene_0", "scene_2", "scene_3"]
    assert run(folders, tmp_path / "packs", *flags) == 2  # again, with the same line
    assert error.splitlines()[-1] in capsys.readouterr().err
    view.file_path.write_bytes(whole)
    assert_same(batches(pack(folders, tmp_path / "packs", *flags)), batches(folders))


def test_pack_that_is_not_read_back_as_written_is_not_kept(tmp_path, folders, monkeypatch, capsys):
    finish = PackWriter.finish

    def finish_on_a_bad_disk(writer: PackWriter, note: str) -> None:
        writer._archive.fp.flush()
        with open(writer._archive.filename, "r+b") as file:
            file.seek(100)
            file.write(b"\0")
        finish(writer, note)

    monkeypatch.setattr(PackWriter, "finish", finish_on_a_bad_disk)
    assert run(folders, tmp_path / "packs") == 2
    assert "scene_0/opencv_cameras.json: is damaged: its checksum is another; wanted a whole pack" in capsys.readouterr().err
    assert not list((tmp_path / "packs").iterdir())


def test_a_scene_is_added_to_a_pack_once(tmp_path, folders):
    scene = read_scene(read_data_path(folders)[0])
    path = tmp_path / "a.zip"
    views = [replace(view, file_path=path / "chair" / "images" / view.file_path.name) for view in scene.views]
    images = [view.file_path.read_bytes() for view in scene.views]

    def add_twice() -> None:
        with write_pack(path, "twice the same") as pack:
            for _ in range(2):
                pack.add("chair", views, images)

    with pytest.raises(InputError, match=r"a\.zip/chair/opencv_cameras\.json: is in the pack already; wanted each scene once"):
        add_twice()
    assert not path.exists()


def test_pack_of_no_readable_scene_is_not_written(tmp_path, folders):
    for path in read_data_path(folders):
        path.write_text("{")
    assert run(folders, tmp_path / "packs", "--image_size", 8, 12) == 2
    assert not list((tmp_path / "packs").glob("*"))


def test_scenes_of_one_name_keep_it_in_folders_of_their_own(tmp_path):
    paths = [write_random_scene(tmp_path / place / "chair", n=3, seed=i) for i, place in enumerate("abc")]
    write_data_path(tmp_path / "test_data_path.json", paths)
    packed = pack(tmp_path / "test_data_path.json", tmp_path / "packs", "--image_size", 8, 12, "--format", "png")
    found = read_data_path(packed)
    assert [path.parent.name for path in found] == ["chair", "chair_2", "chair_3"]
    assert [read_scene(path).name for path in found] == ["chair"] * 3
    assert_same(
        batches(packed, num_all_views=3, num_target_views=1),
        batches(tmp_path / "test_data_path.json", num_all_views=3, num_target_views=1),
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--margin", 0.1), "--margin: has no effect without --image_size"),
        (("--quality", 50), "--quality: has no effect without --image_size and --format, where images are copied"),
        (("--image_size", 8, 8, "--format", "png", "--quality", 50), "--quality: has no effect with --format png"),
        (("--name", "a/b"), "--name: is 'a/b'; wanted"),
    ],
)
def test_flags_without_effect(tmp_path, folders, capsys, flags, message):
    assert run(folders, tmp_path / "packs", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "packs").exists()


def test_damaged_member_names_pack_and_member(tmp_path, folders, capsys):
    packed = pack(folders, tmp_path / "packs", "--image_size", 8, 12, "--format", "png")
    path = tmp_path / "packs" / "test_00000.zip"
    assert check_scenes.main([str(packed), "--no_pictures", "--kind", "scene"]) == 0
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("scene_1/images/00003.png").header_offset + 100
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert check_scenes.main([str(packed), "--no_pictures", "--kind", "scene"]) == 2
    place = f"{path}/scene_1/images/00003.png: is damaged: its checksum is another; wanted a whole pack"
    assert f"{path}/scene_1/opencv_cameras.json, view 3: {place}" in capsys.readouterr().err
    with pytest.raises(InputError, match=re.escape(place)):
        FolderSource(str(packed), RECIPE, patch_size=4).batch(range(50))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_what_is_no_pack_in_the_place_of_one_is_neither_read_nor_replaced(tmp_path, folders, capsys):
    (tmp_path / "packs").mkdir()
    place = tmp_path / "packs" / "test_00000.zip"
    for make, problem in (
        (os.mkfifo, "is not a regular file; wanted a pack of scenes"),  # reading it would never end
        (os.mkdir, "is a folder; wanted a pack of scenes"),
        (lambda path: os.symlink("nothing", path), "is a link to nothing, which is not there; wanted a pack of scenes"),
    ):
        make(place)
        assert run(folders, tmp_path / "packs") == 2
        assert capsys.readouterr().err.endswith(f"\rpack_scenes.py: {place}: {problem}\n")
        place.rmdir() if place.is_dir() else place.unlink()
    place.symlink_to(place.name)
    assert run(folders, tmp_path / "packs") == 2
    assert re.search(r"\rpack_scenes\.py: .*Too many levels of symbolic links: '.*test_00000\.zip'\n$", capsys.readouterr().err)


def test_cameras_in_a_pack_are_not_adjusted(tmp_path, folders, capsys):
    packed = pack(folders, tmp_path / "packs")
    assert adjust_cameras.main([str(packed), "--scale", "2"]) == 2
    assert "adjusted_cameras.json: would be written into a pack; wanted a scene in a folder: unzip" in capsys.readouterr().err


def test_training_on_packs_gives_bitwise_the_weights_of_folders(tmp_path, monkeypatch):
    folder = work_in(tmp_path, monkeypatch)
    packed = pack(
        folder / "scenes" / "test_data_path.json", folder / "packs", "--image_size", *SETTINGS["image_size"], "--format", "png"
    )
    assert train.main(arguments("folders")) == 0
    assert train.main(arguments("packs", data_path=str(packed))) == 0
    training_run.assert_same(final("folders"), final("packs"))


def test_shards_write_the_packs_and_the_list_of_one_run(tmp_path, folders):
    flags = ("--image_size", 8, 12, "--format", "png", "--views_per_file", 9)
    whole = pack(folders, tmp_path / "whole", *flags)
    for index in (2, 0, 1):
        assert run(folders, tmp_path / "parts", *flags, "--shard", f"{index}/3") == 0
    assert merge_lists.main([str(tmp_path / "parts" / folders.name)]) == 0
    expect = contents(tmp_path / "whole")
    found = contents(tmp_path / "parts")
    assert {path: found[path] for path in expect} == expect
    assert {str(path) for path in found.keys() - expect.keys()} == {f"test_data_path.part-000{i}-of-0003.json" for i in range(3)}
    assert whole.name == folders.name
