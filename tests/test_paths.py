"""Paths that are found from any folder: the working folder first, then that of a recipe, then the project's."""

import os
from pathlib import Path

import pytest

import inference
from config import load_config
from config.errors import InputError
from config.flags import read_command_line
from config.paths import ROOT, find_path
from config.recipe import read_recipe
from config.rendering import Scenes
from data.scene_format import read_scene
from data.scene_list import read_data_path
from model.weights.hub import resolve_weights
from tests.support.inference_run import metrics
from tests.support.processes import run_processes
from tests.support.scenes import write_random_data_path

CONFIG = "config/lact_l4_d256_foot.yaml"


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


def test_recipe_that_is_a_link(elsewhere):
    own = elsewhere / "own"
    own.mkdir()
    for name in ("net.yaml", "data.json", "step_00000004.pt", "beside.yaml"):
        (own / name).write_text("[]")
    (own / "run.yaml").write_text("config: net.yaml\ndata_path: data.json\nresume: step_00000004.pt\n")
    (elsewhere / "link.yaml").symlink_to(own / "run.yaml")
    recipe = read_recipe(["--recipe", "link.yaml"])
    assert [Path(path) for path in (recipe.config, recipe.data_path, recipe.resume)] == [
        own / name for name in ("net.yaml", "data.json", "step_00000004.pt")
    ]
    (elsewhere / "folder").mkdir()
    (elsewhere / "folder" / "run.yaml").symlink_to(own / "run.yaml")
    (elsewhere / "folder" / "net.yaml").write_text("")
    assert read_recipe(["--recipe", "folder/run.yaml"]).config == "folder/net.yaml"  # beside the link comes first


def test_home_folder_where_a_shell_leaves_it_out(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    (elsewhere / "run.yaml").write_text("data_path: ~/data.json\nconfig: ~/net.yaml\n")
    recipe = read_recipe(["--recipe", "run.yaml", "--load=~/w.pt", "--expname", "~tilde"])
    home = elsewhere / "home"
    assert (recipe.data_path, recipe.config, recipe.load) == (str(home / "data.json"), str(home / "net.yaml"), str(home / "w.pt"))
    assert recipe.expname == "~tilde"
    assert read_command_line("x", "x", [Scenes], ["--output_dir=~/out"]) == {"output_dir": str(home / "out")}


def test_lists_and_scenes_that_are_links(elsewhere):
    json_path = write_random_data_path(elsewhere / "set", scenes=1)
    Path("list.json").symlink_to(json_path)
    (scene,) = read_data_path("list.json")
    assert scene.samefile(elsewhere / "set" / "scene_0" / "opencv_cameras.json")
    Path("cameras.json").symlink_to(scene)
    assert all(view.file_path.is_file() for view in read_scene("cameras.json").views)
    # In a cache of downloads, links stand beside each other and what they lead to does not.
    blob = elsewhere / "blob"
    scene.rename(blob)
    scene.symlink_to(blob)
    assert all(view.file_path.is_file() for view in read_scene(scene).views)


def test_inference_through_a_link(elsewhere):
    Path("inference.py").symlink_to(ROOT / "inference.py")
    argv = "--num_target_views 1 --num_input_views 2 --video_format none --no_lpips --output_dir out"
    run_processes(1, ["inference.py", *argv.split()], elsewhere, WORLD_SIZE=1)
    assert metrics(elsewhere / "out")["mean"]["views"] == 3


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
