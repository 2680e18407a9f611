"""Network configs inferred from shapes."""

import json
from pathlib import Path

import pytest
import safetensors.torch

from config import config_from_dict, load_config
from config.errors import InputError
from model.weights.infer import infer_config
from tests.support.weights import fails, lact_shapes, meta, recipe

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "layers", "inter_multi", "millions"),
    [
        ("lact_l14_d768_ttt2x", 14, 2, 182.48),
        ("lact_l24_d768_ttt2x", 24, 2, 312.30),
        ("lact_l24_d768_ttt4x", 24, 4, 397.23),
    ],
)
def test_published_networks_are_told_from_their_shapes(name, layers, inter_multi, millions):
    weights = meta(lact_shapes(layers, 768, inter_multi))
    count = sum(tensor.numel() for tensor in weights.values())
    assert round(count / 1e6, 2) == millions  # the published sizes: the shapes above are the right ones
    assert infer_config(weights) == recipe(layers, 768, inter_multi, k=768)
    assert infer_config(weights) == load_config(ROOT / "config" / f"{name}.yaml")


def test_odd_networks_are_told_from_their_shapes():
    weights = meta(lact_shapes(layers=3, d=30, inter_multi=5, heads=2, attention_k=6, p=3))
    assert infer_config(weights) == recipe(3, 30, 5, k=15, attention_k=6, p=3)
    bare = {key: tensor for key, tensor in weights.items() if not key.endswith(("q_norm.weight", "k_norm.weight"))}
    assert infer_config(bare).block[0].params == {"head_dim": 64, "use_qk_norm": False}


@pytest.mark.parametrize("name", ["one_head", "two_heads"])
def test_golden_networks_are_told_from_their_shapes(name):
    """The files carry the config from which the published code built these weights."""
    with safetensors.safe_open(ROOT / "tests" / "golden" / f"{name}.safetensors", framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith("model.")]  # noqa: SIM118 (not iterable itself)
        weights = {key.removeprefix("model."): file.get_tensor(key) for key in keys}
        told = config_from_dict(json.loads(file.metadata()["config"]))
    assert infer_config(weights) == told


@pytest.mark.parametrize("m", range(1, 400, 7))
def test_a_broken_multiple_gives_the_width_back(m):
    weights = meta(lact_shapes(layers=1, d=49, inter_multi=1)) | meta({"blocks.0.module_list.1.f.w0": (1, 49, m)})
    factor = infer_config(weights).block[1].params["inter_multi"]
    assert int(49 * factor) == m
    assert isinstance(factor, int) == (m % 49 == 0)


def test_weights_that_tell_no_network():
    shapes = lact_shapes(layers=2, d=12, inter_multi=2, p=2)
    q = "blocks.0.module_list.0.f.q_norm.weight"
    for changed, match in [
        ({"blocks.0.module_list.1.f.w3": (1, 2, 3)}, r"x\.pt, blocks\.0\.module_list\.1\.f\.w3: is in no LaCT network"),
        ({"head.weight": (3, 12)}, r"x\.pt, head\.weight: is in no LaCT network; wanted"),
        ({"input_linear.weight": (12, 47)}, r"x\.pt, input_linear\.weight: is \(12, 47\); wanted 12·p² columns"),
        ({"input_linear.weight": (12,)}, r"input_linear\.weight: is \(12,\); wanted a tensor of 2 dimensions"),
        ({q: (3, 4)}, r"q_norm\.weight: is \(3, 4\); wanted a tensor of 1 dimensions"),
    ]:
        fails(InputError, match, infer_config, meta(shapes | changed), "x.pt")
    without = {key: shape for key, shape in shapes.items() if ".module_list.1." not in key}
    fails(InputError, "weights: has blocks of self_attention, mlp, which shapes do not tell apart", infer_config, meta(without))
    without = {key: shape for key, shape in shapes.items() if key != "input_linear.weight"}
    fails(InputError, r"input_linear\.weight: is missing; wanted", infer_config, meta(without))
    fails(InputError, r"input_linear\.weight: is missing; wanted", infer_config, {})
