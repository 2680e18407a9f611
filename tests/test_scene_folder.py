"""Output folders of scenes. Letters: v views, h w pixels."""

import json
import os
import time

import numpy as np
import pytest

from config.errors import InputError
from data.scene_format import read_scene
from data_preprocess.scene_folder import SceneFolder, refuse_linked_folders, rendered_views
from tests.support.scenes import random_c2w

SIZE = (20, 28)


def scene(tmp_path, seed: int = 0, v: int = 3) -> SceneFolder:
    c2w, fxfycxcy = random_c2w(v, seed), np.tile([31.0, 32.0, 13.0, 11.0], (v, 1))
    return SceneFolder(tmp_path / "toy", rendered_views(tmp_path / "toy", c2w, fxfycxcy, SIZE))


def write(folder: SceneFolder, *numbers: int) -> None:
    for i in numbers:
        folder.views[i].file_path.parent.mkdir(exist_ok=True)
        folder.views[i].file_path.write_text(f"picture {i}")


def test_rendered_views_have_numbered_pictures_and_rigid_poses(tmp_path):
    c2w = random_c2w(2)
    views = rendered_views(tmp_path, c2w, np.array([[31.0, 32, 13, 11], [41, 42, 12, 10]]), SIZE)
    assert [view.file_path for view in views] == [tmp_path / "images" / "00000.png", tmp_path / "images" / "00001.png"]
    assert [(view.w, view.h) for view in views] == [(28, 20)] * 2
    assert [(view.fx, view.fy, view.cx, view.cy) for view in views] == [(31, 32, 13, 11), (41, 42, 12, 10)]
    for view, pose in zip(views, c2w, strict=True):
        assert np.allclose(view.w2c @ pose, np.eye(4), atol=1e-12)
        assert view.w2c[3].tolist() == [0, 0, 0, 1]


def test_a_scene_is_continued_where_it_stopped_and_finished_once(tmp_path):
    folder = scene(tmp_path)
    assert not folder.finished()
    assert folder.begin("a") == [0, 1, 2]
    write(folder, 0, 2)
    again = scene(tmp_path)
    assert again.begin("a") == [1]
    assert not again.finished()
    write(again, 1)
    again.finish()
    assert again.finished()
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["images", "opencv_cameras.json"]
    assert len(read_scene(again.json_path).views) == 3
    # Its origin no longer matters.
    assert scene(tmp_path).begin("b") == []
    os.remove(again.views[2].file_path)
    assert not scene(tmp_path).finished()
    assert scene(tmp_path).begin("b") == [2]


def test_half_a_scene_of_something_else_is_deleted(tmp_path):
    folder = scene(tmp_path)
    folder.begin("a")
    write(folder, 0, 2)
    assert scene(tmp_path).begin("b") == [0, 1, 2]
    assert list((tmp_path / "toy" / "images").iterdir()) == []
    write(folder, 1)
    assert scene(tmp_path).begin("b") == [0, 2]


def test_images_of_no_scene_and_scenes_of_other_cameras_are_left_alone(tmp_path):
    folder = scene(tmp_path)
    (tmp_path / "toy").mkdir()
    write(folder, 1)
    with pytest.raises(InputError, match=r"00001.png: is an image of no finished scene; wanted another --output or the folder"):
        folder.begin("a")
    assert [path.name for path in (tmp_path / "toy" / "images").iterdir()] == ["00001.png"]
    assert not (tmp_path / "toy" / ".unfinished").exists()
    write(folder, 0, 2)
    folder.finish()
    for other in (scene(tmp_path, seed=1), scene(tmp_path, v=2)):
        for call in (other.finished, lambda other=other: other.begin("a")):
            with pytest.raises(InputError, match=r"opencv_cameras.json: holds other cameras than .* give; wanted the same ones"):
                call()
    assert folder.finished()


def test_the_json_is_written_again_only_for_another_spelling(tmp_path):
    folder = scene(tmp_path)
    folder.begin("a")
    write(folder, 0, 1, 2)
    folder.finish()
    before = folder.json_path.stat().st_mtime_ns
    folder.finish()
    assert folder.json_path.stat().st_mtime_ns == before
    folder.finish(long_lrm=True)
    assert list(json.loads(folder.json_path.read_text())) == ["scene_name", "frames"]


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("linked", ["toy", "toy/images"])
@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_written_through_a_linked_folder(tmp_path, linked, broken):
    if not broken:
        (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    (tmp_path / "out" / linked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / linked).symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"{linked}: is a link to {tmp_path}/elsewhere; wanted a folder"):
        scene(tmp_path / "out").begin("a")
    assert tree(tmp_path) == before


def test_deep_outputs_are_checked_at_once(tmp_path):
    output = tmp_path / ("x/" * 1500)
    start = time.monotonic()
    refuse_linked_folders(output, [output / "scene" / "images" / f"{i}.png" for i in range(20)])
    assert time.monotonic() - start < 5  # the square of the depth for each file would take minutes


def test_the_output_may_be_a_link_and_links_that_are_files_are_replaced(tmp_path):
    (tmp_path / "real" / "toy" / "images").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    (tmp_path / "mine.json").write_text("mine")
    folder = scene(tmp_path / "out")
    folder.json_path.symlink_to(tmp_path / "none.json")
    (tmp_path / "real" / "toy" / ".unfinished").symlink_to(tmp_path / "mine.json")
    for mark in ("a", "a", "b"):
        (folder.views[0].file_path.parent / "mine.png").write_text("mine")
        folder.views[0].file_path.symlink_to("mine.png")
        assert folder.begin(mark) == [0, 1, 2]
    write(folder, 0, 1, 2)
    folder.finish()
    assert (tmp_path / "mine.json").read_text() == (folder.views[0].file_path.parent / "mine.png").read_text() == "mine"
    assert not (tmp_path / "none.json").exists()
    assert folder.finished()
    # A finished scene is only read, wherever it is.
    (tmp_path / "real" / "toy").rename(tmp_path / "moved")
    (tmp_path / "real" / "toy").symlink_to(tmp_path / "moved")
    assert scene(tmp_path / "out").begin("a") == []
    folder.finish()
    with pytest.raises(InputError, match="toy: is a link to"):
        folder.finish(long_lrm=True)


def test_views_that_could_not_be_read_back_are_refused_before_anything_is_written(tmp_path):
    c2w = random_c2w(2, 0)
    c2w[1, 0, 3] = 1e13
    views = rendered_views(tmp_path / "toy", c2w, np.tile([31.0, 32, 13, 11], (2, 1)), SIZE)
    with pytest.raises(InputError, match=r"opencv_cameras.json, view 1, w2c: is .*; wanted a number between"):
        SceneFolder(tmp_path / "toy", views).begin("a")
    assert not (tmp_path / "toy").exists()
