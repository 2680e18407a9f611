"""Visible part of a GLB, as an edited copy."""

import pytest

from data_preprocess.blender.shown_nodes import remove_hidden, without_hidden
from tests.support.glb import Cube, rewrite, unpack


def test_a_file_that_shows_all_it_has_is_not_copied(tmp_path):
    path = tmp_path / "a.glb"
    path.write_bytes(Cube().glb())
    assert without_hidden(path, tmp_path) == path


@pytest.mark.parametrize("content", [b"", b"glTF", b"no GLB at all, but long enough", Cube().glb()[:60]])
def test_a_damaged_file_is_left_to_the_importer(tmp_path, content):
    path = tmp_path / "a.glb"
    path.write_bytes(content)
    assert without_hidden(path, tmp_path) == path


@pytest.mark.parametrize(
    "damage",
    [{"scenes": [3]}, {"scene": 7}, {"scenes": [{"nodes": [9]}]}, {"nodes": [{"children": "x"}]}, {"images": [{"uri": 3}]}],
)
def test_bad_references_are_left_to_the_importer(tmp_path, damage):
    cube = Cube()
    cube.tree |= {"animations": [], **damage}
    path = tmp_path / "a.glb"
    path.write_bytes(rewrite(cube.glb(), lambda tree, offset: tree.update(animations=[{}])))
    assert without_hidden(path, tmp_path) == path


def test_a_copy_keeps_the_buffer_and_finds_its_files(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.glb"
    cube = Cube()
    cube.tree["animations"] = [{"channels": [], "samplers": []}]
    cube.tree["images"] = [{"uri": "my%20oak.png"}, {"uri": "..\\b.png"}, {"uri": "data:image/png;base64,AA=="}, {"bufferView": 0}]
    path.write_bytes(cube.glb())
    copy = without_hidden(path, tmp_path)
    assert copy != path
    tree, buffer = unpack(copy.read_bytes())
    assert "animations" not in tree
    assert [image.get("uri") for image in tree["images"]] == [
        f"{tmp_path}/in/my%20oak.png", f"{tmp_path}/b.png", "data:image/png;base64,AA==", None,
    ]  # fmt: skip
    assert buffer == unpack(path.read_bytes())[1]
    assert len(copy.read_bytes()) == int.from_bytes(copy.read_bytes()[8:12], "little")


def test_nodes_of_no_scene_are_shown_where_there_is_no_scene():
    tree = {"nodes": [{"mesh": 0}, {"mesh": 1, "children": [0]}]}
    assert not remove_hidden(tree)
    assert [node.get("mesh") for node in tree["nodes"]] == [0, 1]


def test_a_circle_of_nodes_ends():
    tree = {"scenes": [{"nodes": [0]}], "nodes": [{"children": [1]}, {"children": [0]}, {"mesh": 0}]}
    assert remove_hidden(tree)
    assert "mesh" not in tree["nodes"][2]
