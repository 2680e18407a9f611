"""Network configs: checks on reading."""

import pickle
from pathlib import Path

import pytest
import yaml

from config import config_from_dict, load_config
from config.errors import InputError, missing_file

GOOD = {"patch_size": 8, "dim": 64, "layers": 2, "block": [{"type": "mlp", "length_dim": "l", "params": {"inter_multi": 4}}]}


def test_a_recipe_survives_yaml(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load_config(path).to_dict() == GOOD


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patchsize": 8}, r"^x, patchsize: is unknown; wanted a known key; did you mean 'patch_size'\? known: "),
        ({"dim": None}, r"^x, dim: is None; wanted a whole number"),
        ({"dim": True}, r"^x, dim: is True; wanted a whole number"),
        ({"layers": 0}, r"^x, layers: is 0; wanted a whole number of at least 1"),
        ({"block": []}, r"^x, block: is \[\]; wanted a list of layers"),
        ({"block": ["mlp"]}, r"^x, block\[0\]: is 'mlp'; wanted a mapping"),
        ({"block": [{"type": "mlp"}]}, r"^x, block\[0\], length_dim: is missing; wanted type, length_dim, params"),
        ({"block": [{"type": ["mlp"], "length_dim": "l"}]}, r"^x, block\[0\], type: is \['mlp'\]; wanted the name of a layer"),
        ({"block": [{"type": "mlp", "length_dim": "v"}]}, r"^x, block\[0\], length_dim: is 'v'; wanted l \(one image\) or vl"),
        ({"block": [{"type": "mlp", "length_dim": "l", "params": [4]}]}, r"^x, block\[0\], params: is \[4\]; wanted a mapping"),
        (
            {"block": [{"type": "fast_weight", "length_dim": "vl", "params": {"base_lr": "1e-2"}}]},
            r"^x, block\[0\], params, base_lr: is '1e-2'; wanted a number \(YAML reads 1e-4 as text: write 1.0e-4\)",
        ),
    ],
)
def test_bad_recipes_are_refused(change: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        config_from_dict(GOOD | change, "x")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"^x, layers: is missing; wanted patch_size, dim, layers, block"):
        config_from_dict({key: value for key, value in GOOD.items() if key != "layers"}, "x")


def test_a_missing_file_names_the_recipes_that_there_are() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"config/debgu.yaml: is not there; wanted a YAML file; did you mean 'config/debug.yaml'\?"
    ):
        load_config("config/debgu.yaml")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a: [", r"x.yaml: is not YAML \(.*\); wanted a YAML file with a mapping of settings$"),
        (b"dim: 2020-13-45", r"x.yaml: is not YAML \(month must be in 1..12\)"),  # a ValueError of datetime's
        (b"dim: \xff", r"x.yaml: is not YAML \('utf-8' codec can't decode"),
        (b"- 1", r"x.yaml: holds a list; wanted a YAML file with a mapping"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r": is a folder; wanted a YAML file with a mapping of settings"):
        load_config(tmp_path)


def test_what_a_user_can_put_right_is_told_in_three_parts() -> None:
    error = InputError(Path("a.json"), "cannot be decoded (bad\n   byte)", "an image")
    assert str(error) == "a.json: cannot be decoded (bad byte); wanted an image"
    assert str(error.within("sample 3")) == "sample 3, a.json: cannot be decoded (bad byte); wanted an image"
    assert str(missing_file("a.json", "a JSON file")) == "a.json: is not there; wanted a JSON file"


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("a", "is 1", "2")))
    assert (type(error), error.where, error.found, error.wanted, str(error)) == (InputError, "a", "is 1", "2", "a: is 1; wanted 2")
