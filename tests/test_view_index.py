"""Index files of inputs and targets: the forms that are read, what is refused, and what is written."""

import json
import re

import pytest

from config.errors import InputError
from data import view_index
from data.view_index import read_view_index, write_view_index
from data.view_selection import ViewChoice, select_sweep
from tests.support.scenes import random_c2w

SEVERAL = {"chair": {"targets": [0, 8], "inputs": {"4": [9, 3, 1, 7], "2": [3, 9]}}}
LONG_LRM = [
    {"scene_name": "sofa", "fold_8_kmeans_2_input": [1, 2]},
    {"scene_name": "chair", "fold_8_kmeans_4_input": [9, 3, 1, 17], "fold_8_kmeans_2_input": [3, 9], "url": "x"},
]


@pytest.fixture
def index(tmp_path):
    """Write a value as an index file, and return its path."""

    def write(content):
        (tmp_path / "i.json").write_text(json.dumps(content))
        return tmp_path / "i.json"

    return write


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": [3, 1], "targets": [2]},
        {"context": [3, 1], "target": [2]},
        {"chair": {"inputs": [3, 1], "targets": [2]}, "sofa": {"inputs": [0], "targets": [5]}},
        {"chair": {"context": [3, 1], "target": [2]}, "sofa": None},
        {"chair": {"inputs": {"2": [3, 1]}, "targets": [2]}},
        {"chair": {"context": {"2": [3, 1], "1": [1]}, "target": [2], "method": "kmeans"}},
        {"inputs": {"2": [3, 1], "3": [8]}, "targets": [2]},
        [{"scene_name": "chair", "inputs": [3, 1], "targets": [2]}],
    ],
)
def test_forms_of_the_file(index, content):
    assert read_view_index(index(content), "chair", 9, [2]) == ViewChoice(([3, 1],), [2])


@pytest.mark.parametrize(
    ("content", "expect"),
    [
        ({"inputs": [3, 1], "targets": [2]}, ViewChoice(([3, 1],), [2])),
        ({"chair": {"inputs": {"2": [3, 1]}, "targets": []}}, ViewChoice(([3, 1],), [])),
        ([{"scene_name": "chair", "fold_3_kmeans_2_input": [4, 1]}], ViewChoice(([4, 1],), [0, 3, 6])),
    ],
)
def test_the_only_list_needs_no_number(index, content, expect):
    assert read_view_index(index(content), "chair", 9) == expect


def test_several_numbers_in_the_order_asked_for(index):
    path = index(SEVERAL)
    assert read_view_index(path, "chair", 10, [2, 4]) == ViewChoice(([3, 9], [9, 3, 1, 7]), [0, 8])
    assert read_view_index(path, "chair", 10, (4,)) == ViewChoice(([9, 3, 1, 7],), [0, 8])


def test_the_published_index_of_dl3dv_140(index):
    path = index(LONG_LRM)
    assert read_view_index(path, "chair", 18, [4, 2]) == ViewChoice(([9, 3, 1, 17], [3, 9]), [0, 8, 16])
    # the targets are those of the scene's own length
    assert read_view_index(path, "sofa", 8, [2]) == ViewChoice(([1, 2],), [0])
    assert read_view_index(path, "sofa", 9) == ViewChoice(([1, 2],), [0, 8])


@pytest.mark.parametrize(
    ("content", "counts", "message"),
    [
        ([1, 2], None, "i.json, entry 0: is 1; wanted an object with scene_name and its inputs"),
        ("x", None, "i.json: holds 'x'; wanted an object or a list with the inputs of each scene"),
        ([{"inputs": [1]}], None, "i.json, entry 0, scene_name: is missing; wanted it along with ['inputs']"),
        ([{"scene_name": 5}], None, "i.json, entry 0, scene_name: is 5; wanted a name that no entry before it has"),
        (LONG_LRM[:1] * 2, None, "i.json, entry 1, scene_name: is 'sofa'; wanted a name that no entry before it has"),
        (LONG_LRM[:1], None, "i.json, scene 'chair': has no entry among 1; wanted its inputs and targets"),
        ({"sofa": {}}, None, "i.json, scene 'chair': has no entry among 1; wanted its inputs and targets"),
        ({"chair": None}, None, "i.json, scene 'chair': has no entry among 1; wanted its inputs and targets"),
        ({"chair": {"targets": [1]}}, None, "scene 'chair': has ['targets']; wanted inputs and targets, or fold_N_kmeans_K_input"),
        ([{"scene_name": "chair", "fold_0_kmeans_2_input": []}], None, "wanted inputs and targets, or fold_N_kmeans_K_input"),
        ({"chair": {"inputs": [1]}}, None, "i.json, scene 'chair', targets: is None; wanted a list of view numbers"),
        ({"chair": {"inputs": 1}}, None, "i.json, scene 'chair', inputs: is 1; wanted a list of view numbers"),
        ({"inputs": [1, 2.5], "targets": []}, None, "i.json, scene 'chair', inputs: is [1, 2.5]; wanted a list of view numbers"),
        ({"inputs": [True], "targets": []}, None, "i.json, scene 'chair', inputs: is [True]; wanted a list of view numbers"),
        ({"chair": {"inputs": {}, "targets": []}}, None, "inputs: is empty; wanted numbers of inputs, each with a list"),
        ({"chair": {"inputs": {"04": []}, "targets": []}}, None, "inputs: has the key '04'; wanted numbers of inputs, each"),
        ({"chair": {"inputs": {"9" * 5000: []}, "targets": []}}, None, "inputs: has the key '9999"),
        (SEVERAL, None, "i.json, scene 'chair': has 2, 4 inputs; wanted one of these as --num_input_views, or several"),
        (SEVERAL, [4, 4], "--num_input_views: is 4 twice; wanted each number once"),
        (SEVERAL, [4, 3], "i.json, scene 'chair': has no list of 3 inputs; wanted --num_input_views of 2, 4"),
        (LONG_LRM, [16], "i.json, scene 'chair': has no list of 16 inputs; wanted --num_input_views of 2, 4"),
        ({"inputs": [1, 2], "targets": []}, [3], "i.json, scene 'chair', inputs: names 2 views; wanted 3, the number of inputs"),
        ({"inputs": [1, 2], "targets": []}, [2, 1], "scene 'chair': has a single list of inputs; wanted lists of 2, 1"),
        ({"chair": {"inputs": {"3": [1, 2]}, "targets": []}}, None, "'chair', inputs, 3: names 2 views; wanted 3, the number"),
        (
            [{"scene_name": "chair", "fold_8_kmeans_3_input": [1, 2]}],
            [3],
            "scene 'chair', fold_8_kmeans_3_input: names 2 views; wanted 3, the number of inputs",
        ),
        (
            [{"scene_name": "chair", "fold_8_kmeans_1_input": [2], "fold_4_kmeans_2_input": [1, 2]}],
            None,
            "scene 'chair': has targets at every 4, 8; wanted fold_N_kmeans_K_input of one N",
        ),
        (
            [{"scene_name": "chair", "fold_8_kmeans_2_input": [1, 8]}],
            None,
            "scene 'chair', fold_8_kmeans_2_input: names view 8, which is a target; wanted no view in both",
        ),
        ({"inputs": [1, 10], "targets": [2]}, None, "i.json, scene 'chair', inputs: names view 10; wanted 0 to 9"),
        ({"inputs": [1], "targets": [-1]}, None, "i.json, scene 'chair', targets: names view -1; wanted 0 to 9"),
        ({"inputs": [1, 4, 1], "targets": [2]}, None, "inputs: names view 1 twice; wanted each view once"),
        ({"inputs": [1], "targets": [5, 5]}, None, "targets: names view 5 twice; wanted each view once"),
        ({"inputs": [1, 7, 3], "targets": [2, 3, 7]}, None, "inputs: names view 3, which is a target; wanted no view in both"),
        ({"inputs": [], "targets": [2]}, None, "inputs: names no view; wanted at least one"),
    ],
)
def test_files_that_are_refused(index, content, counts, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_view_index(index(content), "chair", 10, counts)
    assert "\n" not in str(caught.value)


def test_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"i\.json: is not there; wanted a JSON file"):
        read_view_index(tmp_path / "i.json", "chair", 9)
    (tmp_path / "i.json").write_text("{")
    with pytest.raises(InputError, match=r"i\.json: is not JSON"):
        read_view_index(tmp_path / "i.json", "chair", 9)
    with pytest.raises(InputError, match=r"is a folder; wanted a JSON file"):
        read_view_index(tmp_path, "chair", 9)


def test_a_file_of_many_scenes_is_read_once(index, monkeypatch):
    read = []
    monkeypatch.setattr(view_index, "read_json", lambda path: read.append(path) or json.loads(path.read_text()))
    path = index([{"scene_name": f"scene {i}", "fold_8_kmeans_2_input": [1, 2 + i % 5]} for i in range(3000)])
    choices = [read_view_index(path, f"scene {i}", 9, [2]) for i in range(3000)]
    assert [choice.inputs[0][1] for choice in choices] == [2 + i % 5 for i in range(3000)]
    assert read == [path]
    # what a caller does to its lists stays with it
    choices[0].inputs[0].append(4)
    assert read_view_index(path, "scene 0", 9) == ViewChoice(([1, 2],), [0, 8])
    index([{"scene_name": "scene 0", "fold_4_kmeans_2_input": [1, 2]}])
    assert read_view_index(path, "scene 0", 9).targets == [0, 4, 8]
    assert len(read) == 2


@pytest.mark.parametrize("counts", [(6,), (2, 6, 4)])
def test_what_is_written_is_read_back(tmp_path, counts):
    names = ["chair", "targets", "inputs", "7", "Türe 'a'"]
    choices = {name: select_sweep(random_c2w(20, i), counts, method="random", seed=i) for i, name in enumerate(names)}
    path = tmp_path / "new" / "index.json"
    write_view_index(path, choices)
    assert {name: read_view_index(path, name, 20, counts) for name in names} == choices
    assert [file.name for file in path.parent.iterdir()] == ["index.json"]
    content = json.loads(path.read_text())
    inputs = choices["chair"].inputs
    by_count = {str(k): views for k, views in zip(counts, inputs, strict=True)}
    assert content["chair"] == {"inputs": inputs[0] if len(counts) == 1 else by_count, "targets": choices["chair"].targets}
    if len(counts) == 1:
        assert read_view_index(path, "chair", 20) == choices["chair"]


def test_files_of_long_lrm_in_a_run(infer, place, tmp_path, index):
    path = index([{"scene_name": f"scene_{i}", "fold_3_kmeans_2_input": inputs} for i, inputs in enumerate([[4, 1], [2, 5]])])
    (tmp_path / "test.txt").write_text("\r\n".join(f"{place}/scene_{i}/opencv_cameras.json" for i in (1, 0)))
    folder = infer(f"--view_index {path} --no_lpips --video_format none", data=str(tmp_path / "test.txt"))
    found = json.loads((folder / "metrics.json").read_text())
    assert found["about"]["input_views"] == {"scene_1": [2, 5], "scene_0": [4, 1]}
    assert [row["view"] for row in found["views"] if row["scene"] == "scene_0"] == [0, 3, 6]
