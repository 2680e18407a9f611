"""Parts of a script's work: which items a shard takes, where its list goes, what --shard accepts, what a job array says."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from config.errors import InputError
from data_preprocess import synthetic_export
from data_preprocess.shards import ALL, Shard, find_parts, read_shard
from tests.support.documentation import documented, write_python
from tests.support.scenes import contents


def array(task: int, least: int, most: int, count: int, step: int = 1) -> dict[str, str]:
    """Return the variables that SLURM gives a task of a job array."""
    values = {"ID": task, "MIN": least, "MAX": most, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(("items", "count"), [(0, 1), (1, 3), (7, 3), (7, 7), (10, 4), (5, 16)])
def test_parts_in_order_are_all_items_and_differ_by_one_at_most(items, count):
    work = [f"scene {i}" for i in range(items)]
    parts = [Shard(index, count).part(work) for index in range(count)]
    assert [item for part in parts for item in part] == work
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_of_ten_scenes_by_hand():
    assert [list(Shard(index, 4).part(range(10))) for index in range(4)] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert ALL.part(range(10)) == range(10)


def test_a_part_of_a_list_is_beside_it():
    assert Shard(3, 16).list_path("out/toy_data_path.json") == Path("out/toy_data_path.part-0003-of-0016.json")
    assert Shard(12345, 123456).list_path("a.b.txt") == Path("a.b.part-12345-of-123456.txt")
    assert ALL.list_path("out/toy_data_path.json") == Path("out/toy_data_path.json")


def test_parts_are_found_by_their_own_list_alone(tmp_path):
    path = tmp_path / "toy_data_path.json"
    big = "big_toy_data_path.part-0000-of-0002.json"
    others = ["toy_failed.part-0000-of-0002.json", big, *(f"toy_data_path{rest}" for rest in (
        ".part-0002-of-0002.json", ".part-0000-of-0002.txt", ".part-00000-of-0002.json", ".json"))]  # fmt: skip
    for name in others:
        (tmp_path / name).touch()
    assert find_parts(path) == {}
    for index, count in ((10, 11), (2, 11), (0, 2)):
        Shard(index, count).list_path(path).touch()
    assert [(count, list(parts)) for count, parts in find_parts(path).items()] == [(2, [0]), (11, [2, 10])]
    assert find_parts(tmp_path / "nowhere" / "toy.json") == {}


def test_shards_of_the_command_line():
    assert read_shard(None) is ALL
    assert read_shard("0/1") == Shard(0, 1)
    assert read_shard("15/16") == Shard(15, 16)
    for text in ("16/16", "1", "/2", "-1/2", "1/2/3", "0/0", "a/b", "", "SLURM", "1 /2", "¹/2"):
        with pytest.raises(InputError, match=r"--shard: is '.*'; wanted I/N, with I from 0 to N - 1, or slurm"):
            read_shard(text)
    assert read_shard("0/100000") == Shard(0, 100_000)
    for text in ("0/100001", "5/999999999"):
        with pytest.raises(InputError, match=f"--shard: is {text}; wanted 100000 shards at most"):
            read_shard(text)


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        (array(0, 0, 15, 16), Shard(0, 16)),
        (array(16, 1, 16, 16), Shard(15, 16)),
        (array(9, 3, 12, 4, 3), Shard(2, 4)),
    ],
)
def test_a_task_of_a_job_array_is_a_shard_where_that_is_asked_for(variables, shard, monkeypatch):
    assert read_shard("slurm", variables) == shard
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_shard("slurm") == shard
    assert read_shard(None) is ALL


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "SLURM_ARRAY_TASK_ID is not set; wanted a task of a job array"),
        ({**array(0, 0, 3, 4), "SLURM_ARRAY_TASK_STEP": ""}, "SLURM_ARRAY_TASK_STEP is ''; wanted a number, as SLURM sets it"),
        (array(7, 7, 7, 1), "in a job array of one task, 7; wanted several tasks"),
        # --array=1,3,7, whatever SLURM takes for its step
        (array(1, 1, 7, 3), "in task 1 of a job array of 3 from 1 to 7, step 1; wanted an array in equal steps"),
        (array(1, 1, 7, 3, 0), "in task 1 of a job array of 3 from 1 to 7, step 0; wanted an array in equal steps"),
        (array(3, 1, 7, 3, 3), "in task 3 of a job array of 3 from 1 to 7, step 3; wanted an array in equal steps"),
        (array(5, 0, 3, 4), "in task 5 of a job array of 4 from 0 to 3, step 1; wanted an array in equal steps"),
    ],
)
def test_a_job_array_that_is_no_range_is_refused_with_the_remedy(variables, found):
    with pytest.raises(InputError) as error:
        read_shard("slurm", variables)
    assert f"--shard: is slurm, {'' if found.startswith('in') else 'and '}{found}" in str(error.value)
    assert str(error.value).endswith("or --shard I/N, I from 0 to N - 1")


def test_a_list_is_written_as_a_part_even_without_a_scene(tmp_path):
    path = tmp_path / "toy.json"
    assert ALL.write_list(path, []) is None
    assert Shard(1, 2).write_list(path, []) == tmp_path / "toy.part-0001-of-0002.json"
    assert {str(name): text for name, text in contents(tmp_path).items()} == {"toy.part-0001-of-0002.json": b"[]\n"}


def test_an_earlier_part_of_the_shard_is_deleted_before_the_work(tmp_path):
    path = tmp_path / "toy.json"
    for index in range(2):
        Shard(index, 2).write_list(path, [])
    Shard(1, 2).begin(path)
    assert [*contents(tmp_path)] == [Path("toy.part-0000-of-0002.json")]
    ALL.begin(path)
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("toy.json", "toy.json: is a folder"),
        ("toy.part-0001-of-0002.json", "toy.part-0001-of-0002.json: is a folder"),
        (
            "toy.part-0002-of-0004.json",
            "toy.part-0002-of-0004.json: is of 4 shards, not of 2; wanted --shard I/4, or the parts of 4",
        ),
    ],
)
def test_a_place_that_no_part_can_take_is_refused_before_the_work(tmp_path, place, found):
    (tmp_path / place).mkdir()
    with pytest.raises(InputError, match=re.escape(found)):
        Shard(1, 2).begin(tmp_path / "toy.json")


def test_lists_of_the_root_folder_are_refused():
    for path in ("/", "."):
        with pytest.raises(InputError, match="is a folder"):
            Shard(1, 2).begin(path)


@pytest.mark.slow
def test_the_documented_loop_gives_the_list_of_an_undivided_run(tmp_path):
    tiny = ["--image_size", "6", "8", "--num_views", "1", "--samples", "1", "--count", "5", "--workers", "0"]
    write_python(tmp_path / "bin", synthetic_export=" ".join(tiny))
    known = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    loop = documented("data_preprocess/README.md", "Several machines", "for i in")
    done = subprocess.run(["bash", "-e", "-c", loop], cwd=tmp_path, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "train_objects" / "objects_data_path.json"
    assert f"5 scenes of 4 parts in {path.relative_to(tmp_path)}\n" in done.stdout
    assert synthetic_export.main(["--kind", "objects", *tiny, "--output", str(tmp_path / "whole")]) == 0
    found = contents(tmp_path / "train_objects")
    assert {name: found.pop(name) for name in [*found] if ".part-" not in name.name} == contents(tmp_path / "whole")
    assert [len(json.loads(found[name])) for name in sorted(found)] == [1, 1, 1, 2]
