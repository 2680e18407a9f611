"""Paths that are found from any folder: the working folder first, then that of a recipe, then the project's."""

import os
from pathlib import Path

import pytest

import inference
from config import load_config
from config.errors import InputError
from config.paths import ROOT, find_path
from config.recipe import read_recipe
from data.scene_format import read_data_path
from model.weights.hub import resolve_weights
from tests.support.inference_run import metrics

CONFIG = "config/lact_l4_d256.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_working_folder_comes_first(elsewhere):
    assert find_path("README.md") == ROOT / "README.md"
    assert find_path("gone.md") == Path("gone.md")
    Path("README.md").symlink_to(elsewhere / "nowhere")  # a broken link is told as one
    assert find_path("README.md") == Path("README.md")
    assert find_path(ROOT / "train.py") == ROOT / "train.py"


def test_files_of_the_project(elsewhere):
    assert load_config(CONFIG) == load_config(ROOT / CONFIG)
    assert read_recipe(["--recipe", "config/train/debug.yaml"]).config == "config/debug.yaml"
    assert read_data_path("data_example/objects_data_path.json") == read_data_path(ROOT / "data_example/objects_data_path.json")
    bundled = ROOT / "weight" / "lact_objects_64.safetensors"
    assert resolve_weights("weight/lact_objects_64.safetensors") == resolve_weights("lact_objects_64.safetensors") == bundled
    with pytest.raises(FileNotFoundError, match=r"config/gone\.yaml: is not there; wanted a YAML file"):
        load_config("config/gone.yaml")


def test_recipe_with_files_beside_it(elsewhere, monkeypatch):
    """What a recipe names is found from any folder; what the working folder has comes first, and flags mean the working folder."""
    own = elsewhere / "own"
    own.mkdir()
    (own / "net.yaml").write_text((ROOT / CONFIG).read_text())
    (own / "data.json").write_text("[]")
    (own / "run.yaml").write_text(
        f"config: net.yaml\ndata_path: data.json\nval_data_path: synthetic:objects:3\nnum_all_views: 16\nload: {own / 'w.pt'}\n"
    )
    recipe = read_recipe(["--recipe", "own/run.yaml"])
    assert (recipe.config, recipe.data_path, recipe.load) == ("own/net.yaml", "own/data.json", str(own / "w.pt"))
    assert recipe.val_data_path == "synthetic:objects:3"
    assert read_recipe(["--recipe", str(own / "run.yaml")]).config == str(own / "net.yaml")
    assert read_recipe(["--recipe", "own/run.yaml", "--config", "net.yaml"]).config == "net.yaml"
    monkeypatch.chdir(own)
    assert read_recipe(["--recipe", "run.yaml"]).config == "net.yaml"


def test_programs_run_from_elsewhere(elsewhere):
    argv = ["--config", CONFIG, "--data_path", "data_example/objects_data_path.json", "--num_target_views", "1", "--device", "cpu"]
    assert inference.main([*argv, "--video_format", "none", "--no_lpips", "--output_dir", "out"]) == 0
    assert metrics(elsewhere / "out")["mean"]["views"] == 3
    assert not os.path.lexists(elsewhere / "config")


def test_weights_that_are_nowhere(elsewhere):
    with pytest.raises(FileNotFoundError, match=r"weight/gone\.pt: is not there; wanted a weight file, or a known name"):
        resolve_weights("weight/gone.pt")
    with pytest.raises(InputError, match=r"--data_path: is missing"):
        read_recipe([])
