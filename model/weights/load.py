"""Model loading: weight file, config, dtypes and device to a network ready to render."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from config import NetworkConfig, config_from_dict, load_config
from config.errors import InputError
from config.messages import shown, with_article
from config.rendering import DEFAULT_WEIGHTS
from model.lact_lvsm import LaCTLVSM
from model.layers.block import check_layers
from model.runtime import PRECISIONS, pick_device, pick_dtype
from model.weights.file import SNAPSHOT_FORMAT, WANTED, is_safetensors, read_metadata, read_weights
from model.weights.hub import resolve_weights
from model.weights.infer import infer_config
from model.weights.table import ROOT, known_weights
from model.weights.torch_file import is_zip, load_torch_file
from model.weights.trained_with import trained_with
from model.weights.values import check_kind, check_values


def load_model(
    weights: str | os.PathLike | None = None,
    config: str | os.PathLike | NetworkConfig | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    newton_schulz_dtype: str = "bfloat16",
) -> LaCTLVSM:
    """Load a network for inference.

    Args:
        weights: a file, or its bare name in `weight/`, from any folder; files of the table there are downloaded if missing. None
            for the bundled model of objects; that of scenes is `lact_scenes_64.safetensors`.
        config: a YAML file or a network config; None takes the table's, the file's, or the one inferred from shapes, in this order.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:N`.
        precision: of the layers, `float32`, `bfloat16` or `auto` (bfloat16 where the hardware multiplies it).
        newton_schulz_dtype: `bfloat16`, as published weights were trained, or `float32`.

    Returns:
        the network in eval mode, without gradients, its linear weights stored in the compute dtype. Its `trained_with` holds the
        settings of its training: image size, number of inputs, objects or scenes.

    Raises:
        FileNotFoundError, OSError: the weights are missing and cannot be downloaded.
        InputError: weights that cannot be read or do not fit the config, or an unknown device, precision or dtype.

    Example:
        >>> from model import load_model
        >>> model = load_model()  # the bundled model of objects
        >>> model.config.layers, model.config.dim, model.config.patch_size
        (4, 256, 4)
        >>> model.trained_with.image_size
        (64, 64)
        >>> model.input_linear.weight.shape
        torch.Size([256, 192])
    """
    if newton_schulz_dtype not in PRECISIONS:
        raise InputError("newton_schulz_dtype", f"is {shown(newton_schulz_dtype)}", " or ".join(PRECISIONS))
    picked = pick_device(device)
    dtype = pick_dtype(precision, picked)
    weights = DEFAULT_WEIGHTS if weights is None else weights
    if not isinstance(weights, (str, os.PathLike)):
        raise InputError("load_model, weights", f"is {with_article(type(weights))}", "a file, or its bare name in weight/")
    path = resolve_weights(weights)
    tensors = read_weights(path)
    if config is None:
        config = config_for(path, tensors)
    elif not isinstance(config, NetworkConfig):
        config = check_layers(load_config(config), str(config))
    with torch.device("meta"):
        model = LaCTLVSM(config)
    model.set_compute_dtype(dtype, store=True).set_fast_weight(PRECISIONS[newton_schulz_dtype])
    check_weights(model, tensors, str(path))  # before memory is taken for what the config claims
    model.to_empty(device=picked)
    load_weights(model, tensors, str(path))
    model.trained_with = trained_with(weights)
    return model.eval().requires_grad_(False)


def read_config(path: str | os.PathLike, weights: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the config stored in a `.safetensors` file's metadata or a training snapshot, else the one inferred from shapes.

    Raises:
        InputError: the config is not JSON or not a network config; or see `infer_config`.
    """
    if is_safetensors(path):
        config = read_metadata(path, "config", "a network config in JSON")
        if config is not None:
            where = f"{path}, metadata config"
            return check_layers(config_from_dict(config, where), where)
    elif is_zip(path):
        content = load_torch_file(Path(path), path, WANTED)
        if isinstance(content, dict) and str(content.get("format")).startswith(SNAPSHOT_FORMAT):
            if not isinstance(content.get("config"), dict):
                raise InputError(f"{path}, config", "is missing", "the network config that training writes into its snapshots")
            return check_layers(config_from_dict(content["config"], f"{path}, config"), f"{path}, config")
    return infer_config(weights, where=str(path))


def config_for(path: str | os.PathLike, weights: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the network config of a weight file: its YAML if weight/checkpoints.yaml lists its name, else `read_config`."""
    row = known_weights().get(Path(path).name)
    return read_config(path, weights) if row is None else load_config(ROOT / row.config)


def read_network_config(config: str | None, weights: str | None) -> NetworkConfig:
    """Return the network config in a YAML; without one, that of weights, which are downloaded if missing."""
    if config is not None:
        return check_layers(load_config(config), config)
    assert weights is not None, "neither a config nor weights"
    path = resolve_weights(weights)
    return config_for(path, read_weights(path))


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy `weights` into `model`.

    Args:
        model: the network, on any device and of any dtype.
        weights: as `read_weights` returns them.
        where: name in error messages, such as the file's.

    Raises:
        InputError: they do not fit the network, see `check_weights`.
    """
    check_weights(model, weights, where)
    model.load_state_dict(weights)


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Check that weights can be copied into `model`: names and shapes must match exactly, and the numbers be finite.

    Args:
        model: the network, on any device, also meta, and of any dtype.
        weights, where: as for `load_weights`.

    Raises:
        InputError: a tensor is missing, of another shape, or unknown: the message names the first and counts the others. Or a
            tensor holds other than finite floating-point numbers, or one that overflows in the model's dtype.
    """
    own = model.state_dict()
    problems = []
    for key, tensor in own.items():
        if key not in weights:
            problems.append((key, f"is missing, and {tuple(tensor.shape)} in this network"))
        elif weights[key].shape != tensor.shape:
            problems.append((key, f"is {tuple(weights[key].shape)}, and {tuple(tensor.shape)} in this network"))
    problems += [(key, "is unknown to this network") for key in weights if key not in own]
    if problems:
        key, found = problems[0]
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{where}, {key}", found + others, "the weights of the network that the config describes")
    for key, tensor in own.items():
        check_kind(weights[key], f"{where}, {key}")
        check_values(weights[key], f"{where}, {key}", tensor.dtype)
