"""Merge of the lists of shards: the list of an undivided run, or one line on what is missing or wrong and nothing written."""

import json
from pathlib import Path

import pytest

from data.scene_list import read_data_path, write_data_path
from data_preprocess.merge_lists import main
from data_preprocess.shards import Shard
from tests.support.scenes import contents


def scenes(folder: Path, count: int) -> list[Path]:
    """Write scene files, empty ones: a list does not look into them."""
    paths = [folder / f"scene_{i}" / "opencv_cameras.json" for i in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("[]")
    return paths


def write_parts(path: Path, items: list[Path], count: int, indices=None) -> None:
    for index in range(count) if indices is None else indices:
        shard = Shard(index, count)
        shard.write_list(path, shard.part(items))


def refused(capsys, path: Path, *flags: str) -> str:
    """Return the one line of a refused merge; nothing has changed on disk."""
    before = contents(path.parent)
    capsys.readouterr()
    assert main([str(path), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert contents(path.parent) == before
    return error


@pytest.mark.parametrize("count", [1, 3, 7, 16])
@pytest.mark.parametrize("place", ["out/toy_data_path.json", "lists/toy.json", "link/list.txt"])
def test_merged_parts_are_the_list_of_an_undivided_run(tmp_path, capsys, count, place):
    items = scenes(tmp_path / "out", 7)
    (tmp_path / "lists" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "lists" / "deep")
    path = tmp_path / place
    write_data_path(path, items)
    whole = path.read_bytes()
    path.unlink()
    write_parts(path, items, count)
    parts = contents(path.parent)
    for _ in range(2):
        assert main([str(path)]) == 0
        assert capsys.readouterr().out == f"7 scenes of {count} part{'s' * (count > 1)} in {path}\n"
        assert path.read_bytes() == whole
    assert {name: text for name, text in contents(path.parent).items() if ".part-" in name.name} == {
        name: text for name, text in parts.items() if ".part-" in name.name
    }
    assert read_data_path(Shard(count - 1, count).list_path(path))[-1] == items[-1]


def test_missing_parts_are_named_and_left_out_only_where_that_is_asked_for(tmp_path, capsys):
    path = tmp_path / "toy_data_path.json"
    items = scenes(tmp_path, 9)
    write_parts(path, items, 9, [1, 8])
    names = ", ".join(f"toy_data_path.part-000{i}-of-0009.json" for i in (0, 2, 3, 4, 5))
    assert refused(capsys, path) == (
        f"merge_lists.py: {path}: lacks 7 of 9 parts: {names} and 2 more; wanted all: those shards run again, or --partial\n"
    )
    assert main([str(path), "--partial"]) == 0
    assert capsys.readouterr().out.startswith(
        f"{path}: left out, parts that are missing (7 of 9): {names}, toy_data_path.part-0006"
    )
    assert read_data_path(path) == [items[1], items[8]]


def test_what_cannot_be_merged_is_one_line_and_nothing_is_written(tmp_path, capsys):
    path = tmp_path / "toy_data_path.json"
    items = scenes(tmp_path, 4)
    wanted = f"merge_lists.py: {tmp_path}, toy_data_path.part-0000-of-0004.json: is not there; wanted the parts"
    assert refused(capsys, path).startswith(wanted)
    write_parts(path, items, 2)
    write_parts(path, items, 3, [2])
    assert "has parts of 2 (2 parts) and of 3 (1 part) shards beside it; wanted those of one run" in refused(
        capsys, path, "--partial"
    )
    Shard(2, 3).list_path(path).unlink()
    first, second = (Shard(index, 2).list_path(path) for index in range(2))
    write_data_path(second, items[1:])
    assert f"{second}: has {items[1]}, and so does {first.name}; wanted each scene once" in refused(capsys, path)
    second.write_text(json.dumps([f"scene_3/{items[0].name}"] * 2))
    assert f"{second}: has {items[3]}, twice; wanted each scene once" in refused(capsys, path)
    for content, found in (
        ("{}", "holds {}; wanted a list"),
        ("[", "is not JSON"),
        ('["nowhere/a.json"]', "nowhere/a.json: is not there"),
        ("[3]", "holds [3]; wanted a list of paths"),
        ('[{"w": 3}]', "wanted a list of paths to scenes"),
    ):
        second.write_text(content)
        assert found in refused(capsys, path)
    first.write_text("[]\n")
    second.write_text("[]\n")
    assert "would be empty: its 2 parts hold no scene; wanted at least one" in refused(capsys, path)
    path.mkdir()
    assert f"{path}: is a folder" in refused(capsys, path)
    assert main([]) == 2
    assert "NAME_data_path.json: is missing" in capsys.readouterr().err


def test_a_part_of_a_billion_shards_is_none(tmp_path, capsys):
    path = tmp_path / "toy_data_path.json"
    (tmp_path / "toy_data_path.part-0000-of-999999999.json").write_text("[]")
    assert "toy_data_path.part-0000-of-0004.json: is not there" in refused(capsys, path, "--partial")


def test_failed_objects_are_merged_in_order_and_an_earlier_list_of_them_goes_with_the_failures(tmp_path, capsys):
    path, failed = tmp_path / "toy_data_path.json", tmp_path / "toy_failed.json"
    write_parts(path, scenes(tmp_path, 3), 3)
    for index, problems in ((2, {"a": "a.glb: is bad"}), (0, {"z": "z.glb: is worse", "b": "b.glb: is bad"})):
        Shard(index, 3).list_path(failed).write_text(json.dumps(problems))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == f"3 scenes of 3 parts in {path}; 3 failed, see {failed}\n"
    assert list(json.loads(failed.read_text()).items()) == [
        ("z", "z.glb: is worse"), ("b", "b.glb: is bad"), ("a", "a.glb: is bad"),
    ]  # fmt: skip
    middle = Shard(1, 3).list_path(failed)
    for text, found in (
        ('{"a": "again"}', "toy_failed.part-0002-of-0003.json: has a, and so does toy_failed.part-0001-of-0003.json; wanted each"),
        ("[]", "holds []; wanted problems of objects, by their names"),
        ('{"c": 3}', "wanted problems of objects"),
    ):
        middle.write_text(text)
        assert found in refused(capsys, path)
    middle.unlink()
    for index in (0, 2):
        Shard(index, 3).list_path(failed).unlink()
    other = Shard(1, 4).list_path(failed)
    other.write_text("{}")
    assert f"{other}: is of 4 shards, unlike the 3 of the list; wanted it deleted" in refused(capsys, path)
    other.unlink()
    assert main([str(path)]) == 0
    assert not failed.exists()
