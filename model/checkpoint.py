"""Weights on disk: find or fetch them, read them, tell the network that they belong to, load and save them.

Letters: n heads, k head width, m fast-weight hidden width, d width, p patch side.
"""

import functools
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from config import LayerConfig, ModelConfig, config_from_dict, did_you_mean, load_config, read_yaml
from data.files import replace_when_finished
from model.hub import WEIGHT_DIR, download
from model.hub import resolve_lpips as resolve_lpips

ROOT = Path(__file__).parent.parent

LAYER_KEYS = {
    *("ln.weight", "to_qkv.weight", "c_proj.weight", "c_fc.weight", "q_norm.weight", "k_norm.weight"),
    *("w0", "w1", "w2", "lr_fc.weight", "lr_fc.bias", "o_norm.weight"),
}
OUTER_KEYS = {
    "input_linear.weight", "input_layernorm.weight", "image_token_decoder.0.weight", "image_token_decoder.1.weight",
}
BLOCK_KEY = re.compile(r"blocks\.(\d+)\.module_list\.(\d+)\.(?:f\.)?(.+)")
# What a training snapshot calls itself, whatever its version.
SNAPSHOT_FORMAT = "lact_nvs training snapshot"
# What the published weights were trained with and shapes do not tell.
PUBLISHED_HEAD_DIM = 64
PUBLISHED_FAST_WEIGHT = {"base_lr": 0.01, "muon_update_steps": 5}


@dataclass(frozen=True)
class KnownWeights:
    """A row of weight/checkpoints.yaml.

    Attributes:
        file: name in weight/.
        config: the network's YAML, relative to the repository's root.
        resolution: (height, width) in pixels that the weights were trained at.
        kind: `object` or `scene`.
        num_input_views: how many input views they were trained with.
        repo: Hugging Face model repository that has the file; None for one that lies in weight/ since the clone.
    """

    file: str
    config: str
    resolution: tuple[int, int]
    kind: str
    num_input_views: int
    repo: str | None = None


@functools.cache
def known_weights() -> dict[str, KnownWeights]:
    """Return the rows of weight/checkpoints.yaml by file name."""
    groups = read_yaml(ROOT / "weight" / "checkpoints.yaml").values()
    rows = [row for group in groups for row in group.values()]
    return {row["file"]: KnownWeights(**{**row, "resolution": tuple(row["resolution"])}) for row in rows}


def published_weights() -> dict[str, KnownWeights]:
    """Return those of `known_weights` that can be downloaded."""
    return {file: row for file, row in known_weights().items() if row.repo is not None}


def resolve_weights(path: str | os.PathLike) -> Path:
    """Return the weight file that `path` means, downloading it when it is a known one that is not there.

    Args:
        path: a file; or one of the table's that need not be there yet. A bare name is looked for here, then in weight/.

    Raises:
        FileNotFoundError: the file is not there and not in the table; the message names the known ones.
        OSError: the file is in the table and could not be downloaded: see `model.hub.download`.
    """
    path = Path(path)
    if path.is_file():
        return path
    known = known_weights()
    if path.name not in known:
        raise FileNotFoundError(f"{path}: no such weight file; {did_you_mean(path.name, list(known))}")
    row = known[path.name]
    if row.repo is None:
        raise FileNotFoundError(f"{path}: not there; it comes with a clone of the project, in weight/: wanted that path")
    return download(row.repo, row.file, path if path != Path(path.name) else WEIGHT_DIR / path.name)


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a weight file into memory, with the names that the network gives them.

    Args:
        path: `.safetensors`, or `.pt`/`.pth` holding a state dict or `{"model": state_dict, …}`. Of the latter only the
            model's tensors are read. Prefixes that DistributedDataParallel and torch.compile add are taken off.

    Returns:
        tensors on the CPU in the file's types. They do not depend on the file any more.

    Raises:
        OSError: the file cannot be opened.
        ValueError: another suffix; a damaged file; a pickle that asks for more than tensors; no state dict in it.
    """
    path = Path(path)
    path.open("rb").close()  # what is wrong with the file's name or rights is told as such, and not as damage
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not iterable itself)
        except SafetensorError as error:
            raise _damaged(path, error) from error
    elif path.suffix in (".pt", ".pth"):
        state = _read_torch_file(path)
    else:
        raise ValueError(f"{path}: not a weight file by its name; wanted one that ends in .pt, .pth or .safetensors")
    state = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    # Both readers map the file: the copy lets go of it, so that it may be overwritten in place while a program runs.
    return {key: tensor.clone() for key, tensor in state.items()}


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    content = _load_torch_file(path)
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path}: holds {_kind(state)}; wanted a state dict, or {{'model': state dict}}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key!r} holds {_kind(value)}; wanted a state dict, or {{'model': state dict}}")
    return state


def _load_torch_file(path: Path) -> object:
    """Return what a torch file holds, its tensors mapped where the format allows it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises nearly anything, from IndexError to struct.error
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise ValueError(
                f"{path}: its pickle asks for {asked[1]}, which may run code and is refused; wanted tensors only, "
                "as torch.save(model.state_dict(), path) writes"
            ) from error
        raise _damaged(path, error) from error


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:120]
    return ValueError(
        f"{path}: cannot be read as weights ({type(error).__name__}: {reason}); it is damaged, cut short or of another "
        "kind: delete it and fetch it again"
    )


def infer_config(weights: Mapping[str, Tensor], where: str = "weights") -> ModelConfig:
    """Work a LaCT network's recipe out from the names and shapes of its weights.

    Shapes do not tell base_lr, the Newton-Schulz steps and, without q_norm, the attention's head width: these take the
    published values. Nor do they tell addresses, which published networks do not have, nor attention within an image from
    attention over the scene, so that only blocks with a fast-weight layer are accepted.

    Args:
        weights: as `read_weights` returns them; only names and shapes are looked at, `meta` tensors will do.
        where: what error messages call them, such as the file's name.

    Raises:
        ValueError: a name that no LaCT network has, a missing tensor, or a shape that fits no network.
    """
    layers: dict[int, set[str]] = {}
    blocks = set()
    for key in weights:
        match = BLOCK_KEY.fullmatch(key)
        if match and match[3] in LAYER_KEYS:
            blocks.add(int(match[1]))
            layers.setdefault(int(match[2]), set()).add(match[3])
        elif key not in OUTER_KEYS:
            raise ValueError(f"{where}: {key} is in no LaCT network; wanted weights of one, or a file with its config")
    d, columns = _shape(weights, "input_linear.weight", 2, where)
    p = math.isqrt(columns // 12)
    if p < 1 or 12 * p * p != columns:
        raise ValueError(f"{where}: input_linear.weight is {(d, columns)}; wanted 12·p² columns for patches of p × p")
    block = tuple(_infer_layer(weights, f"blocks.0.module_list.{j}.f.", layers[j], d, where) for j in sorted(layers))
    types = [layer.type for layer in block]
    if "fast_weight" not in types:
        raise ValueError(
            f"{where}: blocks of {', '.join(types) or 'nothing'}, which shapes do not tell apart; "
            "wanted a fast-weight layer, or a file with its config"
        )
    return ModelConfig(p, d, len(blocks), block)


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
        raise ValueError(f"{where}: {key} is {found or 'missing'}; wanted a tensor of {dims} dimensions")
    return found


def _multiple(hidden: int, width: int) -> int | float:
    """Return a factor such that int(width · factor) is `hidden`, whole where it can be."""
    return hidden // width if hidden % width == 0 else (hidden + 0.5) / width


def read_config(path: str | os.PathLike, weights: Mapping[str, Tensor]) -> ModelConfig:
    """Return the recipe that a file carries, `.safetensors` in its metadata and training snapshots, or the one that shapes tell.

    Raises:
        ValueError: the config is not JSON or no recipe; or see `infer_config`.
    """
    if Path(path).suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("config")
        if text is not None:
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                value = None
            if not isinstance(value, dict):
                raise ValueError(f"{path}: metadata 'config' is {text[:40]!r}; wanted a network's recipe in JSON")
            return config_from_dict(value, where=f"{path}: metadata 'config'")
    elif zipfile.is_zipfile(path):
        content = _load_torch_file(Path(path))
        if isinstance(content, dict) and str(content.get("format")).startswith(SNAPSHOT_FORMAT):
            return config_from_dict(content["config"], where=f"{path}: config")
    return infer_config(weights, where=str(path))


def config_for(path: str | os.PathLike, weights: Mapping[str, Tensor]) -> ModelConfig:
    """Return the recipe of a weight file: its YAML where weight/checkpoints.yaml knows its name, else `read_config`."""
    row = known_weights().get(Path(path).name)
    return read_config(path, weights) if row is None else load_config(ROOT / row.config)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy `weights` into `model`: all of them, into all of it.

    Args:
        model: the network, on any device and of any type.
        weights: as `read_weights` returns them.
        where: what error messages call them, such as the file's name.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown: the message names the first, counts the others.
    """
    own = model.state_dict()
    problems = []
    for key, tensor in own.items():
        if key not in weights:
            problems.append(f"no {key}, which is {tuple(tensor.shape)} in this network")
        elif weights[key].shape != tensor.shape:
            problems.append(f"{key} is {tuple(weights[key].shape)}, and {tuple(tensor.shape)} in this network")
    problems += [f"{key} is unknown to this network" for key in weights if key not in own]
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{where}: {problems[0]}{others}; wanted the weights of the network that the config describes")
    model.load_state_dict(weights)


def save_weights(
    path: str | os.PathLike, state_dict: Mapping[str, Tensor], config: ModelConfig, dtype: torch.dtype | None = None
) -> None:
    """Write weights and their network's recipe to one `.safetensors` file, whole or not at all.

    Args:
        path: the file; replaced when it exists.
        state_dict: of the bare network.
        config: goes into the metadata under `config`, as JSON.
        dtype: convert floating tensors to it; None keeps their types.

    Raises:
        ValueError: `path` has another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are saved as safetensors; wanted a name that ends in .safetensors")
    tensors = {
        key: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for key, tensor in state_dict.items()
    }
    with replace_when_finished(path) as temporary:
        save_file(tensors, temporary, metadata={"config": json.dumps(config.to_dict())})
