"""Weight files: read whatever spelling they come in, tensors only; write safetensors with the network config."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from config import ModelConfig
from data.files import replace_when_finished

# What a training snapshot calls itself, whatever its version.
SNAPSHOT_FORMAT = "lact_nvs training snapshot"


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
    content = load_torch_file(path)
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path}: holds {_kind(state)}; wanted a state dict, or {{'model': state dict}}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key!r} holds {_kind(value)}; wanted a state dict, or {{'model': state dict}}")
    return state


def load_torch_file(path: Path) -> object:
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
