"""Lists of scenes: JSON and text, reading, writing, refusals."""

import json
import os
import re
import zipfile

import pytest

from config.errors import InputError
from data.scene_format import read_scene
from data.scene_list import read_data_path, write_data_path
from tests.support.scenes import write_random_data_path, write_random_scene


@pytest.fixture
def scene_json(tmp_path):
    return write_random_scene(tmp_path / "chair", n=3)


def test_data_path_survives_a_round_trip(tmp_path):
    path = write_random_data_path(tmp_path / "sets", scenes=2)
    assert json.loads(path.read_text()) == ["scene_0/opencv_cameras.json", "scene_1/opencv_cameras.json"]
    assert read_data_path(path) == [tmp_path / "sets" / f"scene_{i}" / "opencv_cameras.json" for i in (0, 1)]


def test_data_path_may_list_scenes_anywhere(tmp_path, scene_json):
    write_data_path(tmp_path / "lists" / "deep" / "l.json", [scene_json])
    assert json.loads((tmp_path / "lists/deep/l.json").read_text()) == ["../../chair/opencv_cameras.json"]
    assert read_data_path(tmp_path / "lists/deep/l.json") == [scene_json]
    (tmp_path / "absolute.json").write_text(json.dumps([str(scene_json)]))
    assert read_data_path(tmp_path / "absolute.json") == [scene_json]


def test_data_path_across_links(tmp_path, scene_json):
    (tmp_path / "disk" / "store").mkdir(parents=True)
    (tmp_path / "lists").symlink_to(tmp_path / "disk" / "store")
    (tmp_path / "sofa").symlink_to(scene_json.parent)
    write_data_path(tmp_path / "lists" / "l.json", [tmp_path / "sofa" / "opencv_cameras.json"])
    assert json.loads((tmp_path / "lists" / "l.json").read_text()) == ["../../sofa/opencv_cameras.json"]
    (found,) = read_data_path(tmp_path / "lists" / "l.json")
    assert read_scene(found).name == "sofa"
    # a list next to its scenes stays movable with them, by any path to the folder
    (tmp_path / "way").symlink_to(tmp_path)
    write_data_path(tmp_path / "way" / "l.json", [tmp_path / "way" / "sofa" / "opencv_cameras.json"])
    assert json.loads((tmp_path / "l.json").read_text()) == ["sofa/opencv_cameras.json"]


@pytest.mark.parametrize("long_lrm", [False, True])
def test_a_scene_stands_for_a_list_of_itself(tmp_path, monkeypatch, long_lrm):
    path = write_random_scene(tmp_path / "chair", n=1, long_lrm=long_lrm)
    monkeypatch.chdir(tmp_path)
    assert read_data_path("chair/opencv_cameras.json") == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "l.json: holds {}; wanted a list of paths to scenes"),
        ('"a.json"', "l.json: holds 'a.json'; wanted a list of paths to scenes"),
        ("[]", "l.json: holds no scenes; wanted at least one"),
        ('["chair/opencv_cameras.json", 3]', "l.json, entry 1: is 3; wanted the path of a scene's JSON"),
        ('["chair/opencv_cameras.json", {}]', "l.json, entry 1: is {}; wanted the path of a scene's JSON"),
        ('[""]', "l.json, entry 0: is ''; wanted the path of a scene's JSON"),
        ('["a\\u0000"]', "l.json, entry 0: is 'a\\x00'; wanted the path of a scene's JSON"),
        ("{", "l.json: is not JSON ("),
    ],
)
def test_data_path_of_wrong_content(tmp_path, scene_json, content, message):
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_data_path(tmp_path / "l.json")
    assert "\n" not in str(caught.value)


def write_lines(path, content, newline="\n", start=""):
    path.write_bytes((start + newline.join(content)).encode())
    return path


@pytest.mark.parametrize(("newline", "start"), [("\n", ""), ("\r\n", "\ufeff"), ("\n", "\ufeff\n\n")])
@pytest.mark.parametrize("name", ["train.txt", "T.TXT"])
def test_list_of_lines(tmp_path, newline, start, name):
    paths = [write_random_scene(tmp_path / folder, n=1) for folder in ("chair", "my sofa", "a#1 \u2028x")]
    lines = ["chair/opencv_cameras.json", "", "  ./my sofa/opencv_cameras.json\t", f"{paths[2]}", str(paths[0])]
    (tmp_path / "lists").mkdir()
    beside = write_lines(tmp_path / name, lines, newline, start)
    assert read_data_path(beside) == [*paths, paths[0]]
    elsewhere = write_lines(tmp_path / "lists" / name, ["../chair/opencv_cameras.json", ""], newline, start)
    assert read_data_path(elsewhere) == [paths[0]]


def test_list_of_lines_through_a_link(tmp_path):
    scene_json = write_random_scene(tmp_path / "store" / "chair", n=1)
    write_lines(tmp_path / "store" / "all.txt", ["chair/opencv_cameras.json"])
    (tmp_path / "list.txt").symlink_to("store/all.txt")
    assert read_data_path(tmp_path / "list.txt") == [scene_json]


def test_json_in_a_txt_is_read(tmp_path, scene_json):
    write_data_path(tmp_path / "l.txt", [scene_json])
    assert json.loads((tmp_path / "l.txt").read_text()) == ["chair/opencv_cameras.json"]
    assert read_data_path(tmp_path / "l.txt") == [scene_json]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "l.txt: holds no scenes; wanted at least one"),
        (b"\xef\xbb\xbf \r\n\n", "l.txt: holds no scenes; wanted at least one"),
        (b"chair/opencv_cameras.json\n\nchair\n", "l.txt, line 3, {0}/chair: is a folder; wanted the JSON in it"),
        (b"\nsofa/x.json", "l.txt, line 2, {0}/sofa/x.json: is not there; wanted a path relative to the list"),
        (b"Dear all,\nhere", "l.txt, line 1, {0}/Dear all,: is not there; wanted a path relative to the list"),
        (b"a\0.json", "l.txt, line 1: is 'a\\x00.json'; wanted the path of a scene's JSON"),
        (b"a/" * 3000, "l.txt, line 1: is 'a/a/a/"),
        ("chair/x.json".encode("utf-16"), "l.txt: is not text in UTF-8 ('utf-8' codec can't decode byte 0xff in position 0"),
        (b"[chair", "l.txt: is not JSON ("),
        (b"[]", "l.txt: holds no scenes; wanted at least one"),
    ],
)
def test_list_of_lines_of_wrong_content(tmp_path, scene_json, content, message):
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises((InputError, FileNotFoundError), match=re.escape(message.format(tmp_path))) as caught:
        read_data_path(tmp_path / "l.txt")
    assert "\n" not in str(caught.value)


def test_list_of_lines_that_is_no_file_or_too_long(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"l\.txt: is not there; wanted a list of scenes, a path on each line"):
        read_data_path(tmp_path / "l.txt")
    os.mkfifo(tmp_path / "f.txt")
    with pytest.raises(InputError, match=r"f\.txt: is not a regular file; wanted a list of scenes, a path on each line"):
        read_data_path(tmp_path / "f.txt")
    with (tmp_path / "l.txt").open("wb") as file:
        file.truncate(10**11)  # sparse
    with pytest.raises(InputError, match=r"l\.txt: has 100000000000 bytes; wanted a list of scenes, .*, 67108864 bytes at most"):
        read_data_path(tmp_path / "l.txt")


def test_data_path_to_nothing(tmp_path, scene_json):
    (tmp_path / "l.json").write_text('["chair/opencv_cameras.json", "sofa/opencv_cameras.json"]')
    message = f"l.json, entry 1, {tmp_path}/sofa/opencv_cameras.json: is not there; wanted a path relative to the list"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        read_data_path(tmp_path / "l.json")
    (tmp_path / "l.json").write_text('["chair"]')
    with pytest.raises(InputError, match=r"l.json, entry 0, .*/chair: is a folder; wanted the JSON in it"):
        read_data_path(tmp_path / "l.json")


def test_data_path_writer_refuses_what_the_reader_would(tmp_path, scene_json):
    with pytest.raises(ValueError, match=r"l.json: no scenes to write"):
        write_data_path(tmp_path / "l.json", [])
    with pytest.raises(FileNotFoundError, match=r"l.json, entry 1, .*/sofa/opencv_cameras.json: is not there"):
        write_data_path(tmp_path / "l.json", [scene_json, tmp_path / "sofa" / "opencv_cameras.json"])
    assert os.listdir(tmp_path) == ["chair"]


def write_zip(path, names, files=("opencv_cameras.json", "images/00000.png"), **extra):
    """Write files into a zip, in folders of these names, and more members by name; return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            for file in files:
                archive.writestr(f"{name}/{file}", "[{}]")
        for member, content in extra.items():
            archive.writestr(f"{member}.json", content)
    return path


def test_pack_in_a_list_stands_for_its_scenes(tmp_path, scene_json):
    # without a list of its own, all its scenes, as they come; at any depth
    loose = write_zip(tmp_path / "packs" / "loose.zip", ["b", "a", "deep/c"])
    listed = write_zip(tmp_path / "packs" / "LISTED.zip", ["b", "a"], pack_data_path='["a/opencv_cameras.json"]')
    write_data_path(tmp_path / "l.json", [loose, scene_json, listed])
    assert json.loads((tmp_path / "l.json").read_text()) == ["packs/loose.zip", "chair/opencv_cameras.json", "packs/LISTED.zip"]
    expect = [loose / name / "opencv_cameras.json" for name in ("b", "a", "deep/c")]
    expect += [scene_json, listed / "a" / "opencv_cameras.json"]
    assert read_data_path(tmp_path / "l.json") == expect
    (tmp_path / "l.txt").write_text("packs/loose.zip\npacks/LISTED.zip/b/opencv_cameras.json\n")
    assert read_data_path(tmp_path / "l.txt") == [*expect[:3], listed / "b" / "opencv_cameras.json"]
    assert read_data_path(loose) == expect[:3]
    assert read_data_path(loose / "b" / "opencv_cameras.json") == expect[:1]


def test_list_of_a_pack_that_is_not_its_last_member(tmp_path):
    path = write_zip(tmp_path / "a.zip", ["b"], pack_data_path='["b/opencv_cameras.json"]')
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c/opencv_cameras.json", "")
    assert read_data_path(path) == [path / "b" / "opencv_cameras.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "pack_data_path.json: is not JSON"),
        ("[]", "pack_data_path.json: holds []; wanted scenes of the format"),
        ('{"a": 1}', "pack_data_path.json: holds {'a': 1}; wanted scenes"),
        ("[3]", "pack_data_path.json, entry 0: is 3; wanted the path of a scene's JSON in the pack"),
        ('["b/opencv_cameras.json", "/etc/passwd"]', "pack_data_path.json, entry 1: is '/etc/passwd'; wanted the path"),
        (json.dumps(["b", f"{'x' * 256}/b"]), f"pack_data_path.json, entry 1: is '{'x' * 59}…; wanted the path"),
        ('["b/../../c/opencv_cameras.json"]', "pack_data_path.json, entry 0: is 'b/../../c/opencv_cameras.json'; wanted the path"),
    ],
)
def test_list_of_a_pack_that_is_none(tmp_path, content, message):
    path = write_zip(tmp_path / "a.zip", ["b"], pack_data_path=content)
    with pytest.raises(InputError, match=re.escape(f"a.zip/{message}")):
        read_data_path(path)


def test_packs_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=re.escape("a.zip: holds no scenes; wanted scenes of the format")):
        read_data_path(write_zip(tmp_path / "a.zip", ["b"], files=("images/0.png",)))
    with pytest.raises(InputError, match=re.escape("is '../x/opencv_cameras.json'; wanted the path of a scene's JSON in the pack")):
        read_data_path(write_zip(tmp_path / "b.zip", ["../x"]))
    (tmp_path / "c.zip").write_bytes(b"PK")
    (tmp_path / "l.json").write_text('["c.zip"]')
    with pytest.raises(InputError, match=re.escape("c.zip: is not a zip file, or is cut short; wanted a zip file with scenes")):
        read_data_path(tmp_path / "l.json")
    (tmp_path / "l.json").write_text('["b.zip/none/opencv_cameras.json"]')
    with pytest.raises(FileNotFoundError, match=re.escape("l.json, entry 0, ") + ".*b.zip/none/opencv_cameras.json: is not there"):
        read_data_path(tmp_path / "l.json")
