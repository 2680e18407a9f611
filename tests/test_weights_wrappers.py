"""State dicts of other programs: found in what a file holds, and freed from wrappers."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from config.errors import InputError
from model.lact_lvsm import LaCTLVSM
from model.weights.file import read_weights
from model.weights.infer import infer_config
from model.weights.load import read_config
from tests.support.weights import equal, fails, small_weights

OTHER = {key: x + 1 for key, x in small_weights().items()}


def prefixed(prefix: str, weights: dict | None = None) -> dict:
    return {prefix + key: x for key, x in (weights or small_weights()).items()}


def inside(segment: str, after: str) -> dict:
    return {key.replace(after, f"{after}{segment}"): x for key, x in small_weights().items()}


def saved(content: dict, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize(
    "content",
    [
        prefixed("module._checkpoint_wrapped_module."),
        prefixed("_fsdp_wrapped_module."),
        inside("_checkpoint_wrapped_module.", "blocks.1."),
        inside("_fsdp_wrapped_module._orig_mod.", ".f."),
        inside("module.", "blocks."),
        inside("_fpw_module.", ".f."),
        prefixed("model."),
        prefixed("model._orig_mod."),
        prefixed("net."),
        prefixed("ema_model.module."),
        prefixed("ema."),
        prefixed("pipeline.generator.network."),
        {"state_dict": prefixed("model."), "epoch": 3, "pytorch-lightning_version": "2"},
        {"model_state_dict": small_weights(), "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        {"net": small_weights(), "acc": 3},
        {"params": small_weights()},
        {"ema": small_weights()},
        {"ema": {"decay": 0.9, "module": small_weights()}},
        {"model": {"state_dict": prefixed("module.")}},
        {"model": "lact", "state_dict": small_weights()},
        {"model": {"dim": 12}, "state_dict": small_weights()},
        {"generator": small_weights(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        {"EMA": small_weights()},
        prefixed("model-ema."),
    ],
)
def test_weights_are_found_and_get_the_names_of_the_network(tmp_path, capsys, content):
    assert equal(read_weights(saved(content, tmp_path)), small_weights())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (prefixed("module.") | {"n_averaged": torch.tensor(7)}, "left out, counters (1): n_averaged"),
        (small_weights() | {"steps": torch.tensor([3])}, "left out, counters (1): steps"),
        ({"model": small_weights(), "ema": OTHER}, "left out, averaged weights beside model (1): ema\n"),
        (
            {"ema_state_dict": OTHER, "state_dict": small_weights()},
            "left out, averaged weights beside state_dict (1): ema_state_dict\n",
        ),
        (
            prefixed("model.") | prefixed("ema_model.", OTHER),
            "left out, tensors outside of model (38): ema_model.input_linear.weight, ema_model.input_layernorm.weight, "
            "ema_model.blocks.0.module_list.0.ln.weight and 35 more\n",
        ),
        (small_weights() | prefixed("ema.", OTHER), "left out, tensors outside of the network (38): ema.input_linear.weight, "),
        (prefixed("net.") | prefixed("net.ema.", OTHER), "left out, tensors outside of net (38): net.ema.input_linear.weight, "),
        (
            prefixed("model.") | {"loss.vgg.features.0.weight": torch.zeros(2)},
            "left out, tensors outside of model (1): loss.vgg.features.0.weight\n",
        ),
        (
            prefixed("online_model.") | prefixed("ema_model.", OTHER) | {"initted": torch.tensor([True])},
            "left out, counters (1): initted\n",
        ),
        (
            prefixed("model.") | prefixed("modelEMA.", OTHER),
            "left out, tensors outside of model (38): modelEMA.input_linear.weight, ",
        ),
        (prefixed("net.") | prefixed("netEma.", OTHER), "left out, tensors outside of net (38): netEma.input_linear.weight, "),
        (prefixed("module.") | {"decay": torch.tensor(0.99)}, "left out, tensors outside of the network (1): decay"),
        (
            small_weights() | {"mean": torch.zeros(3), "std": torch.ones(3)},
            "left out, tensors outside of the network (2): mean, std",
        ),
        (
            small_weights() | {"step": 5, "blocks.0._extra_state": None},
            "left out, values between the tensors (2): step, blocks.0._extra_state",
        ),
        ({"model": small_weights(), "EMA": OTHER}, "left out, averaged weights beside model (1): EMA"),
        ({"model": small_weights(), "state_dict": OTHER}, "left out, other weights beside model (1): state_dict"),
        ({"g": small_weights(), "g_ema": OTHER}, "left out, averaged weights beside g (1): g_ema"),
        (
            # Lightning's WeightAveraging: the checkpoint's state dict is the average.
            {
                "state_dict": prefixed("model."),
                "current_model_state": prefixed("model.", OTHER),
                "averaging_state": {"n_averaged": torch.tensor(3)},
            },
            "left out, other weights beside state_dict (1): current_model_state",
        ),
    ],
)
def test_what_is_left_out_is_said(tmp_path, capsys, content, note):
    path = saved(content, tmp_path)
    assert equal(read_weights(path), small_weights())
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: ")
    assert note in error


def test_averaged_model_of_torch_as_safetensors(tmp_path):
    model = LaCTLVSM(infer_config(small_weights()))
    save_file(AveragedModel(nn.DataParallel(model)).state_dict(), tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], x) for key, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            small_weights() | {"module.input_layernorm.weight": torch.ones(12)},
            r"w.pt, input_layernorm.weight and module.input_layernorm.weight: are both input_layernorm.weight without wrappers",
        ),
        (prefixed("student.") | prefixed("teacher.", OTHER), r"w.pt: holds several networks, under student., teacher.; wanted"),
        (small_weights() | prefixed("teacher.", OTHER), r"w.pt: holds several networks, under no prefix, teacher.; wanted"),
        (prefixed("ema_a.") | prefixed("ema_b.", OTHER), r"w.pt: holds several networks, under ema_a., ema_b.; wanted"),
        ({"net": small_weights(), "params": OTHER}, r"w.pt: holds several state dicts: net, params; wanted"),
        ({"student": small_weights(), "teacher": OTHER}, r"w.pt: holds several state dicts: student, teacher; wanted"),
        ({"model": {"model": {"model": {"model": {"model": small_weights()}}}}}, r"is a dict; wanted a state dict"),
    ],
)
def test_what_nothing_decides_is_refused(tmp_path, content, message):
    fails(InputError, message, read_weights, saved(content, tmp_path))


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pth.tar", ".PT", ".safetensors", ".SafeTensors"])
def test_suffixes_of_other_programs(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(small_weights(), path) if "tensors" in suffix.lower() else torch.save({"state_dict": small_weights()}, path)
    assert equal(dict(sorted(read_weights(path).items())), dict(sorted(small_weights().items())))
    assert infer_config(read_weights(path)) == read_config(path, small_weights())


def test_what_a_file_that_is_no_pickle_holds_is_said_without_advice(tmp_path):
    (tmp_path / "w.pt").write_text("<!DOCTYPE html>")
    fails(InputError, r"cannot be read \(UnpicklingError: Unsupported operand 60\); wanted", read_weights, tmp_path / "w.pt")


def test_names_without_a_network_stay(tmp_path):
    content = {"lin0.model.1.weight": torch.zeros(2), "features.0.weight": torch.ones(3)}
    assert equal(read_weights(saved(content, tmp_path)), content)
