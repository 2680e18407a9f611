"""From a weight file to a network that is ready to render."""

import os

import torch

from config import ModelConfig, load_config
from model.checkpoint import config_for, load_weights, read_weights, resolve_weights
from model.lact_lvsm import LaCTLVSM
from model.runtime import PRECISIONS, pick_device, pick_dtype


def load_model(
    weights: str | os.PathLike,
    config: str | os.PathLike | ModelConfig | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    newton_schulz_dtype: str = "bfloat16",
) -> LaCTLVSM:
    """Load a network for inference.

    Args:
        weights: `.pt` or `.safetensors`; a file of the table in `weight/` that is not there is downloaded.
        config: a YAML file or a recipe; None takes the table's, the file's own, or what the shapes tell, in this order.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:N`.
        precision: of the layers, `float32`, `bfloat16` or `auto` (bfloat16 where the hardware multiplies it in silicon).
        newton_schulz_dtype: `bfloat16`, which published weights were trained with, or `float32`.

    Returns:
        the network in eval mode, without gradients, its linear weights stored in what they compute in.

    Raises:
        FileNotFoundError, OSError: the weights are not there and cannot be downloaded.
        ValueError: weights that cannot be read or do not fit the config, or an unknown device, precision or dtype.
    """
    if newton_schulz_dtype not in PRECISIONS:
        raise ValueError(f"newton_schulz_dtype is {newton_schulz_dtype!r}; wanted {' or '.join(PRECISIONS)}")
    picked = pick_device(device)
    dtype = pick_dtype(precision, picked)
    path = resolve_weights(weights)
    tensors = read_weights(path)
    if config is None:
        config = config_for(path, tensors)
    elif not isinstance(config, ModelConfig):
        config = load_config(config)
    with torch.device("meta"):
        model = LaCTLVSM(config)
    model.set_compute_dtype(dtype, store=True).set_fast_weight(PRECISIONS[newton_schulz_dtype])
    model.to_empty(device=picked)
    load_weights(model, tensors, str(path))
    return model.eval().requires_grad_(False)
