"""Recipes are checked where they are read."""

from pathlib import Path

import pytest
import yaml

from config import config_from_dict, load_config

GOOD = {"patch_size": 8, "dim": 64, "layers": 2, "block": [{"type": "mlp", "length_dim": "l", "params": {"inter_multi": 4}}]}


def test_a_recipe_survives_yaml(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load_config(path).to_dict() == GOOD


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patchsize": 8}, r"^x: unknown key 'patchsize'; did you mean 'patch_size'\? known: "),
        ({"dim": None}, r"^x: dim is None; wanted a whole number"),
        ({"dim": True}, r"^x: dim is True; wanted a whole number"),
        ({"layers": 0}, r"^x: layers is 0; wanted a whole number of at least 1"),
        ({"block": []}, r"^x: block is \[\]; wanted a list of layers"),
        ({"block": ["mlp"]}, r"^x: block\[0\] is 'mlp'; wanted a mapping"),
        ({"block": [{"type": "mlp"}]}, r"^x: block\[0\]: no key 'length_dim'; wanted type, length_dim, params"),
        ({"block": [{"type": "mlp", "length_dim": "v"}]}, r"^x: block\[0\]: length_dim is 'v'; wanted l \(one image\) or vl"),
        ({"block": [{"type": "mlp", "length_dim": "l", "params": [4]}]}, r"^x: block\[0\]: params is \[4\]; wanted a mapping"),
        (
            {"block": [{"type": "fast_weight", "length_dim": "vl", "params": {"base_lr": "1e-2"}}]},
            r"^x: block\[0\]: base_lr is '1e-2'; wanted a number \(YAML reads 1e-4 as text: write 1.0e-4\)",
        ),
    ],
)
def test_bad_recipes_are_refused(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        config_from_dict(GOOD | change, "x")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"^x: no key 'layers'; wanted patch_size, dim, layers, block"):
        config_from_dict({key: value for key, value in GOOD.items() if key != "layers"}, "x")


def test_a_missing_file_names_the_recipes_that_there_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"config/debgu.yaml: no such config; did you mean 'config/debug.yaml'\?"):
        load_config("config/debgu.yaml")


@pytest.mark.parametrize(
    ("text", "match"), [("a: [", r"x.yaml: not YAML \(.*\); wanted"), ("- 1", r"x.yaml: holds a list; wanted a mapping")]
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        load_config(path)
