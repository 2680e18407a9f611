"""The page of data_example: its JSON and its code work as printed, its commands are accepted, its example scenes are there."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inference
import train
from config.flags import read_command_line, settings
from config.recipe import read_recipe
from config.rendering import SETTINGS
from config.rendering_checks import check_flags
from data.dataset import load_views
from data.scene_format import CAMERAS, read_scene
from data.scene_list import read_data_path
from data_preprocess import colmap_format_converter, synthetic_export
from tests.support.scenes import ring_c2w, write_random_scene

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "data_example" / "README.md").read_text(encoding="utf-8")


def read_colmap_flags(argv: list[str]) -> None:
    given = read_command_line("colmap_format_converter.py", "", colmap_format_converter.SETTINGS, argv)
    colmap_format_converter.check(settings(colmap_format_converter.Captures, given), given)


def read_inference_flags(argv: list[str]) -> None:
    check_flags(read_command_line("inference.py", "", SETTINGS, argv), 1)


READERS = {
    "data_preprocess/synthetic_export.py": synthetic_export.read_export,
    "data_preprocess/colmap_format_converter.py": read_colmap_flags,
    "inference.py": read_inference_flags,
    "train.py": read_recipe,
}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    """Return the arguments of every command of the page that runs a program of this project."""
    lines = re.findall(r"^    python ([^\\\n]*(?:\\\n[^\\\n]*)*)", PAGE, re.MULTILINE)
    words = [shlex.split(line.replace("\\\n", " ")) for line in lines]
    return [arguments for name, *arguments in words if name == program]


def test_documented_scene_is_read(tmp_path):
    scene_block, _ = blocks("json")
    folder = tmp_path / "desk"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for entry in json.loads(scene_block):
        pixels = rng.integers(0, 256, (entry["h"], entry["w"], 4), np.uint8)
        Image.fromarray(pixels).save(folder / entry["file_path"])
    (folder / CAMERAS).write_text(scene_block, encoding="utf-8")

    scene = read_scene(folder / CAMERAS)
    assert scene.name == "desk"
    for view, position in zip(scene.views, ((0, -2.7, 0), (2.7, 0, 0)), strict=True):
        assert view.c2w[:3, 3].tolist() == pytest.approx(position)
        # The origin is straight ahead, and the world's z is up in the image.
        x, y, depth = (view.w2c @ (0, 0, 0, 1))[:3]
        assert (x, y, depth) == pytest.approx((0, 0, 2.7))
        assert (view.w2c @ (0, 0, 1, 0)).tolist() == pytest.approx((0, -1, 0, 0))
        # The focal length is given to five digits.
        assert 2 * math.degrees(math.atan(view.w / 2 / view.fx)) == pytest.approx(50, abs=1e-3)
    loaded = load_views(scene, [0, 1], (64, 64))
    assert loaded["image"].shape == (2, 3, 64, 64)
    # 640×480 is scaled by 64/480 to 85 columns, of which (85 − 64) // 2 = 10 are cut on the left.
    scaled = np.array([686.24, 686.24, 320, 240]) * 64 / 480 - (0, 0, 10, 0)
    np.testing.assert_allclose(loaded["fxfycxcy"], [scaled] * 2, rtol=1e-6)


def test_every_field_is_documented():
    scene_block, _ = blocks("json")
    fields = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.split("| field |")[1], re.MULTILINE)[:5]))
    assert set(json.loads(scene_block)[0]) == set(fields)


def test_documented_list_is_read(tmp_path):
    _, list_block = blocks("json")
    (tmp_path / "my_data_path.json").write_text(list_block, encoding="utf-8")
    paths = [write_random_scene(tmp_path / path.split("/")[0], n=2) for path in json.loads(list_block)]
    assert read_data_path(tmp_path / "my_data_path.json") == paths


@pytest.mark.parametrize("program", READERS)
def test_documented_commands_are_accepted(program, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(program)
    assert found
    for arguments in found:
        READERS[program](arguments)


@pytest.mark.parametrize("name", ["objects_data_path.json", "scene_data_path.json"])
def test_documented_example_scenes_are_there(name):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    scenes = [read_scene(path) for path in read_data_path(ROOT / "data_example" / name)]
    assert [scene.name for scene in scenes] == re.findall(r"`(\w+_\d+_\d+)`", row)


@pytest.mark.slow
def test_fine_tuning_as_documented(tmp_path, monkeypatch):
    """Views held out, the bundled model fine-tuned on the others, both measured: the page's steps 5 to 7, on a tiny capture."""
    for name in ("config", "weight"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    write_random_scene(Path("data_example/captures/fox").absolute(), n=24, c2w=ring_c2w(per_ring=6))
    (code,) = blocks("python")
    exec(code, {})
    assert len(read_scene("data_example/captures/fox/train_cameras.json").views) == 21
    (tuning,) = commands("train.py")
    assert train.main([*tuning, "--steps", "2", "--warmup", "1", "--device", "cpu"]) == 0
    *_, before, after = commands("inference.py")
    for arguments in (before, after):
        assert inference.main([*arguments, "--video_format", "none", "--device", "cpu"]) == 0
    for folder in ("output_before", "output_after"):
        report = json.loads((tmp_path / folder / "metrics.json").read_text())
        assert report["mean"]["views"] == 3
        assert report["about"]["image_size"] == [64, 64]
