"""Settings that weights were trained with: stored, read, used as defaults, and compared with a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from config.errors import InputError
from config.recipe import TrainingRecipe
from config.rendering import Views
from model.departure import TrainedWith, departure
from model.evaluation.plan import default_inputs
from model.training.snapshot import FORMAT
from model.weights.file import read_weights, save_weights
from model.weights.infer import infer_config
from model.weights.load import config_for
from model.weights.trained_with import defaults_of, of_run, trained_with
from tests.support.inference_run import metrics
from tests.support.weights import fails, small_weights

OBJECTS = TrainedWith((16, 24), 5, "object", False, 400)


@pytest.mark.parametrize(
    ("settings", "kind", "normalised"),
    [
        ({"data_path": "x.json"}, "object", False),
        ({"data_path": "synthetic:objects:9"}, "object", False),
        ({"data_path": "synthetic:scenes"}, "scene", False),
        ({"data_path": "x.json", "scene_pose_normalize": True}, "scene", True),
        ({"data_path": "x.json", "frame_window": 30}, "scene", False),
    ],
)
def test_run_states_what_it_trains_with(settings, kind, normalised):
    recipe = TrainingRecipe(**settings, image_size=(16, 24), num_input_views=5)
    assert of_run(recipe, 400) == TrainedWith((16, 24), 5, kind, normalised, 400)


def test_read_from_weights_snapshots_and_the_table(tmp_path):
    weights, path = small_weights(), tmp_path / "w.safetensors"
    save_weights(path, weights, infer_config(weights), trained_with=OBJECTS.to_dict())
    assert trained_with(path) == OBJECTS
    save_weights(path, weights, infer_config(weights), trained_with={"image_size": [16, 24], "num_input_views": 5, "later": 1})
    assert trained_with(path) == TrainedWith((16, 24), 5)
    save_file(weights, tmp_path / "bare.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    assert trained_with(tmp_path / "bare.safetensors") == trained_with(tmp_path / "w.pt") == TrainedWith()
    recipe = dataclasses.asdict(TrainingRecipe(data_path="d", image_size=(16, 24), num_input_views=5)) | {"renamed since": 1}
    torch.save({"format": FORMAT, "recipe": recipe, "step": 400}, tmp_path / "step.pt")
    assert trained_with(tmp_path / "step.pt") == OBJECTS
    assert trained_with("weight/obj_res512.pt") == TrainedWith((512, 512), 8, "object", False)  # nothing is downloaded
    assert trained_with("scene_res72x128.pt") == TrainedWith((72, 128), 64, "scene", True)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", r"metadata trained_with: is '\[\]'; wanted settings of training in JSON"),
        ('{"image_size": [8]}', r"trained_with, image_size: is \[8\]; wanted two whole numbers, height and width"),
        ('{"num_input_views": 0}', r"trained_with, num_input_views: is 0; wanted a whole number above 0"),
        ('{"steps": "many"}', r"trained_with, steps: is 'many'; wanted a whole number above 0"),
        ('{"kind": "person"}', r"trained_with, kind: is 'person'; wanted object or scene"),
        ('{"scene_pose_normalize": 1}', r"trained_with, scene_pose_normalize: is 1; wanted true or false"),
    ],
)
def test_settings_that_are_not_understood(tmp_path, text, match):
    save_file(small_weights(), tmp_path / "w.safetensors", metadata={"trained_with": text})
    fails(InputError, rf"w\.safetensors, {match}", trained_with, tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [{"step": 3}, {"recipe": {}}, {"recipe": {}, "step": "3"}, {"recipe": [], "step": 3}])
def test_snapshot_without_its_settings(tmp_path, content):
    torch.save({"format": FORMAT, **content}, tmp_path / "step.pt")
    fails(
        InputError,
        r"step\.pt: holds no recipe, or no number of steps; wanted a training snapshot",
        trained_with,
        tmp_path / "step.pt",
    )


def test_defaults_of_a_recipe(tmp_path):
    weights, path = small_weights(), tmp_path / "w.safetensors"
    save_weights(path, weights, infer_config(weights), trained_with=OBJECTS.to_dict())
    assert defaults_of(str(path)) == {"image_size": (16, 24), "num_input_views": 5, "scene_pose_normalize": False}
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors: is not there"):
        defaults_of(str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize(
    ("size", "inputs", "normalised", "said"),
    [
        ((16, 24), 5, False, ""),
        ((16, 24), 1, False, ""),
        ((16, 24), 20, False, ""),
        ((24, 16), 5, False, "at 16×24, here 24×16 (h×w)"),
        ((16, 24), 21, False, "with 5 inputs, here 21"),
        ((16, 24), 5, True, "on objects, poses as given, here scenes, poses normalised"),
        ((8, 8), 99, False, "at 16×24, here 8×8 (h×w); with 5 inputs, here 99"),
    ],
)
def test_departure(size, inputs, normalised, said):
    note = departure("w.pt", OBJECTS, size, inputs, normalised)
    assert note == (f"w.pt: trained {said}; pictures may be worse than the weights allow" if said else "")
    assert departure("w.pt", TrainedWith(), size, inputs, normalised) == ""


def with_settings(place: Path, **settings) -> str:
    """Write the network of the tests once more, with what it was trained with; return the file."""
    weights = read_weights(place / "tiny.safetensors")
    config = config_for(place / "tiny.safetensors", weights)
    save_weights(place / "known.safetensors", weights, config, trained_with=settings)
    return str(place / "known.safetensors")


def test_inference_follows_the_weights(infer, place, capsys):
    known = with_settings(place, image_size=[20, 28], num_input_views=2, scene_pose_normalize=True)
    data = f"--data_path {place / 'test_data_path.json'}"
    folder = infer(f"--load {known} {data} --video_format none --no_lpips --num_target_views 1", data=None)
    about = metrics(folder)["about"]
    assert (about["image_size"], about["scene_inference"], about["warnings"]) == ([20, 28], True, [])
    assert about["trained_with"] == {"image_size": [20, 28], "num_input_views": 2, "scene_pose_normalize": True}
    assert {len(inputs) for inputs in about["input_views"].values()} == {2}
    assert "trained at" not in capsys.readouterr().err


def test_weights_of_more_inputs_than_a_scene_has_views(infer, place):
    known = with_settings(place, image_size=[20, 28], num_input_views=64)
    data = f"--load {known} --data_path {place / 'test_data_path.json'} --video_format none --no_lpips"
    folder = infer(data, data=None)
    assert {len(inputs) for inputs in metrics(folder)["about"]["input_views"].values()} == {6}
    assert metrics(folder)["mean"]["views"] == 3


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, 6),
        ({"num_target_views": 0}, 7),
        ({"num_target_views": 4}, 3),
        ({"num_target_views": 9}, 1),
        ({"num_all_views": 5}, 4),
        ({"num_all_views": 9}, 6),
        ({"target_every": 3}, 4),
    ],
)
def test_default_number_of_inputs(settings, found):
    assert default_inputs(7, Views(**settings), 64) == found
    assert default_inputs(7, Views(**settings), 1) == 1


def test_inference_says_where_it_leaves_what_the_weights_were_trained_with(infer, place, capsys):
    known = with_settings(place, image_size=[20, 28], num_input_views=1, scene_pose_normalize=True)
    common = f"--load {known} --video_format none --no_lpips --num_target_views 1"
    within = infer(f"{common} --num_input_views 3", "within")
    assert "trained at" not in capsys.readouterr().err
    left = infer(f"{common} --no-scene_inference --num_input_views 5 --image_size 12 16", "left")
    wanted = (
        "known.safetensors: trained at 20×28, here 12×16 (h×w); with 1 input, here 5; on scenes, poses normalised, here objects, "
        "poses as given; pictures may be worse than the weights allow"
    )
    assert capsys.readouterr().err.count(wanted) == 1
    assert metrics(left)["about"]["warnings"] == [wanted]
    # The note takes a line of its own in the picture, in the colour of warnings.
    red = [
        (np.asarray(Image.open(folder / "scene_0" / "comparison.png")) == (176, 48, 24)).all(-1).any() for folder in (within, left)
    ]
    assert red == [False, True]
