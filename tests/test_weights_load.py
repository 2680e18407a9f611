"""Weights loaded into a network, and the config that belongs to them."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from config import LayerConfig, load_config
from config.errors import InputError
from model.lact_lvsm import LaCTLVSM
from model.weights.file import save_weights
from model.weights.infer import infer_config
from model.weights.load import config_for, load_model, load_weights, read_config
from tests.support.weights import equal, fails, small_weights

ROOT = Path(__file__).parent.parent


def test_metadata_wins_over_shapes_and_the_table_over_both(tmp_path):
    weights = small_weights()
    told = infer_config(weights)
    other = dataclasses.replace(told, block=(*told.block[:2], LayerConfig("mlp", "vl", {"inter_multi": 2})))
    save_weights(tmp_path / "w.safetensors", weights, other)
    assert read_config(tmp_path / "w.safetensors", weights) == other
    assert config_for(tmp_path / "w.safetensors", weights) == other
    save_file(weights, tmp_path / "bare.safetensors")
    assert config_for(tmp_path / "bare.safetensors", weights) == told
    assert config_for(tmp_path / "w.pt", weights) == told
    known = config_for(tmp_path / "scene_res144x256.pt", weights)
    assert known == load_config(ROOT / "config" / "lact_l24_d768_ttt4x.yaml")


def test_metadata_that_is_no_recipe(tmp_path):
    weights, path = {"x": torch.zeros(1)}, tmp_path / "w.safetensors"
    for text, match in [
        ("{", "metadata config: is '{'; wanted a network config in JSON"),
        ("[8]", r"metadata config: is '\[8\]'; wanted a network config in JSON"),
        ("{}", "metadata config, patch_size: is missing"),
    ]:
        save_file(weights, path, metadata={"config": text})
        fails(InputError, rf"w\.safetensors, {match}", read_config, path, weights)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 3)
        self.second = nn.Linear(3, 2, bias=False)


def test_weights_are_copied_into_the_network_in_its_type():
    weights = {key: torch.randn(tensor.shape) for key, tensor in Small().state_dict().items()}
    network = Small().to(torch.bfloat16)
    load_weights(network, weights, "w.pt")
    assert equal(network.state_dict(), {key: tensor.to(torch.bfloat16) for key, tensor in weights.items()})


def test_the_network_that_shapes_tell_takes_the_weights():
    weights = small_weights()
    network = LaCTLVSM(infer_config(weights))
    load_weights(network, weights, "w.pt")
    found = network.state_dict()
    assert equal({key: found[key] for key in weights}, weights)


def test_weights_of_another_network_name_the_first_difference():
    weights, network = Small().state_dict(), Small()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    for changed, match in [
        ({"second.weight": torch.zeros(3, 2)}, r"w\.pt, second\.weight: is \(3, 2\), and \(2, 3\) in this network; w"),
        (
            {"second.weight": torch.zeros(9), "first.weight": torch.zeros(3, 4)},
            r"first\.weight: is \(3, 4\), and \(3, 5\) in this network \(and 1 more\); wanted",
        ),
        ({"first.bias": None}, r"first\.bias: is missing, and \(3,\) in this network; wanted"),
        (
            {"first.bias": None, "second.weight": None, "third": torch.zeros(1)},
            r"first\.bias: is missing, and \(3,\) in this network \(and 2 more\); wanted",
        ),
        ({"third": torch.zeros(1)}, r"third: is unknown to this network; wanted"),
    ]:
        given = {key: tensor for key, tensor in {**changed, **weights, **changed}.items() if tensor is not None}
        fails(InputError, match, load_weights, network, given, "w.pt")
        assert equal(network.state_dict(), before)


def test_a_config_far_larger_than_its_weights_takes_no_memory(tmp_path):
    weights = small_weights()
    claimed = dataclasses.replace(infer_config(weights), dim=12 << 12, layers=1000)
    save_weights(tmp_path / "w.safetensors", weights, claimed)  # 40 TB
    with pytest.raises(InputError, match=r"w.safetensors, input_linear.weight: is .*, and \(49152, .*in this network"):
        load_model(tmp_path / "w.safetensors", device="cpu")


def test_parameters_of_layers_in_metadata_are_checked(tmp_path):
    weights = small_weights()
    told = infer_config(weights)
    layers = [dataclasses.replace(told.block[0], params={**told.block[0].params, "head_dim": 8.0}), *told.block[1:]]
    save_weights(tmp_path / "w.safetensors", weights, dataclasses.replace(told, block=tuple(layers)))
    with pytest.raises(InputError, match=r"w.safetensors, metadata config, block\[0\], .*, head_dim: is 8.0; wanted"):
        load_model(tmp_path / "w.safetensors", device="cpu")
