"""Network configs: checks on reading."""

import os
import pickle
from pathlib import Path

import pytest
import yaml

from config import config_from_dict, load_config
from config.errors import InputError, missing_file

GOOD = {"patch_size": 8, "dim": 64, "layers": 2, "block": [{"type": "mlp", "length_dim": "l", "params": {"inter_multi": 4}}]}

# Nine lists of ten items, each of them the list before: 10⁹ words when written out.
BILLION_LAUGHS = "\n".join(
    ["block: []", "layers: 1", "patch_size: 1", "dim:", "- &a0 [x, x]"]
    + [f"- &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]
).encode()


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
        ({"layers": 10**9}, r"^x, layers: is 1000000000; wanted a whole number of at least 1, 4096 at most"),
        ({"dim": 2**40}, r"^x, dim: is 1099511627776; wanted a whole number of at least 1, 65536 at most"),
        ({"patch_size": 10**400}, r"^x, patch_size: is 10{50,60}…; wanted"),
        ({"patch_size": 7.5}, r"^x, patch_size: is 7.5; wanted a whole number"),
        ({"dim": 1 << 70_000}, r"^x, dim: is <a whole number of 70001 bits>; wanted"),
        ({"layers": 4096, "block": GOOD["block"] * 2}, r"^x, block: has 2 layers, in 4096 blocks; wanted 4096 layers in all"),
        ({"x" * 9999: 1}, r"^x, x{60}…: is unknown; wanted a known key; known: patch_size"),
        ({"block": [{"type": "mlp", "length_dim": "l", "params": 0}]}, r"^x, block\[0\], params: is 0; wanted a mapping"),
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
        (b"dim: [\0]", r"x.yaml: is not YAML"),
        (b'dim: !!int ""', r"x.yaml: is not YAML"),
        (b"dim: " + b"[" * 20000, r"x.yaml: is not YAML"),
        (b"dim: 1\ndim: 2", r"x.yaml: is not YAML \(the key 'dim' is there twice in .* line 1"),
        (b"block: [{type: mlp, type: mlp}]", r"x.yaml: is not YAML \(the key 'type' is there twice"),
        (b"a: 1\n---\nb: 2", r"x.yaml: is not YAML \(expected a single document"),
        (b"dim: 1\n" * 20000, r"x.yaml: has 140000 bytes; wanted a YAML file with a mapping of settings, 131072 bytes at most"),
        (BILLION_LAUGHS, r"x.yaml, dim: is \[\['x', 'x'\], .*…; wanted a whole number"),
        (b"- 1", r"x.yaml: holds a list; wanted a YAML file with a mapping"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert len(caught.value.found) < 310


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(InputError, match=r"x.yaml: is not a regular file; wanted a YAML file"):
        load_config(tmp_path / "x.yaml")


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
