"""Network config inferred from the names and shapes of LaCT weights.

Letters: n heads, k head width, m fast-weight hidden width, d width, p patch side.
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from config import LayerConfig, NetworkConfig
from config.errors import InputError

LAYER_KEYS = {
    *("ln.weight", "to_qkv.weight", "c_proj.weight", "c_fc.weight", "q_norm.weight", "k_norm.weight"),
    *("w0", "w1", "w2", "lr_fc.weight", "lr_fc.bias", "o_norm.weight"),
}
OUTER_KEYS = {
    "input_linear.weight",
    "input_layernorm.weight",
    "image_token_decoder.0.weight",
    "image_token_decoder.1.weight",
}
BLOCK_KEY = re.compile(r"blocks\.(\d+)\.module_list\.(\d+)\.(?:f\.)?(.+)")
# Published settings that shapes do not determine.
PUBLISHED_HEAD_DIM = 64
PUBLISHED_FAST_WEIGHT = {"base_lr": 0.01, "muon_update_steps": 5}


def infer_config(weights: Mapping[str, Tensor], where: str = "weights") -> NetworkConfig:
    """Infer a LaCT network's config from the names and shapes of its weights.

    Shapes do not determine base_lr, the Newton-Schulz steps and, without q_norm, the attention's head width: these take the
    published values. Nor do they show addresses, which published networks do not have, or tell attention within an image from
    attention over the scene, so only blocks with a fast-weight layer are accepted.

    Args:
        weights: as `read_weights` returns them; only names and shapes are read, `meta` tensors suffice.
        where: name in error messages, such as the file's.

    Raises:
        InputError: a name that no LaCT network has, a missing tensor, or a shape that fits no network.
    """
    layers: dict[int, set[str]] = {}
    blocks = set()
    for key in weights:
        match = BLOCK_KEY.fullmatch(key)
        if match and match[3] in LAYER_KEYS:
            blocks.add(int(match[1]))
            layers.setdefault(int(match[2]), set()).add(match[3])
        elif key not in OUTER_KEYS:
            raise InputError(f"{where}, {key}", "is in no LaCT network", "weights of one, or a file with its config")
    d, columns = _shape(weights, "input_linear.weight", 2, where)
    p = math.isqrt(columns // 12)
    if p < 1 or 12 * p * p != columns:
        raise InputError(f"{where}, input_linear.weight", f"is {(d, columns)}", "12·p² columns for patches of p × p")
    block = tuple(_infer_layer(weights, f"blocks.0.module_list.{j}.f.", layers[j], d, where) for j in sorted(layers))
    types = [layer.type for layer in block]
    if "fast_weight" not in types:
        found = f"has blocks of {', '.join(types) or 'nothing'}, which shapes do not tell apart"
        raise InputError(where, found, "a fast-weight layer, or a file with its config")
    return NetworkConfig(p, d, len(blocks), block)


def _infer_layer(weights: Mapping[str, Tensor], prefix: str, names: set[str], d: int, where: str) -> LayerConfig:
    if "w0" in names:
        n, k, m = _shape(weights, prefix + "w0", 3, where)
        params = {"head_dim": k, "inter_multi": _multiple(m, k), **PUBLISHED_FAST_WEIGHT}
        if _shape(weights, prefix + "lr_fc.bias", 1, where) == (n,):
            params["w1_only"] = True
        return LayerConfig("fast_weight", "vl", params)
    if "c_fc.weight" in names:
        hidden, _ = _shape(weights, prefix + "c_fc.weight", 2, where)
        return LayerConfig("mlp", "vl", {"inter_multi": _multiple(hidden, d)})
    _shape(weights, prefix + "to_qkv.weight", 2, where)
    normed = "q_norm.weight" in names
    head_dim = _shape(weights, prefix + "q_norm.weight", 1, where)[0] if normed else PUBLISHED_HEAD_DIM
    return LayerConfig("self_attention", "l", {"head_dim": head_dim, "use_qk_norm": normed})


def _shape(weights: Mapping[str, Tensor], key: str, dims: int, where: str) -> tuple[int, ...]:
    found = tuple(weights[key].shape) if key in weights else None
    if found is None or len(found) != dims or 0 in found:
        raise InputError(f"{where}, {key}", f"is {found or 'missing'}", f"a tensor of {dims} dimensions")
    return found


def _multiple(hidden: int, width: int) -> int | float:
    """Return a factor such that int(width · factor) is `hidden`, an integer where possible."""
    return hidden // width if hidden % width == 0 else (hidden + 0.5) / width
