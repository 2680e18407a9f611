"""Weight files: torch and safetensors files read, tensors only; safetensors written with the network config."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from config import NetworkConfig
from config.errors import InputError
from data.files import replace_when_finished

# Prefix of the format tag in training snapshots of every version.
SNAPSHOT_FORMAT = "lact_nvs training snapshot"
STATE_DICT = "a state dict, or {'model': state dict}"
WANTED = "a complete weight file: delete this one and fetch it again"


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a weight file into memory, with the names that the network gives them.

    Args:
        path: `.safetensors`, or `.pt`/`.pth` holding a state dict or `{"model": state_dict, …}`. Of the latter only the
            model's tensors are read. Prefixes added by DistributedDataParallel and torch.compile are removed.

    Returns:
        tensors on the CPU, in the file's dtypes and independent of the file.

    Raises:
        OSError: the file cannot be opened.
        InputError: another suffix; a damaged file; a pickle that needs more than tensors; no state dict in it.
    """
    path = Path(path)
    path.open("rb").close()  # a wrong name or missing permission is reported as such, not as damage
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not iterable itself)
        except SafetensorError as error:
            raise _damaged(path, error, WANTED) from error
    elif path.suffix in (".pt", ".pth"):
        state = _read_torch_file(path)
    else:
        raise InputError(path, "is not a weight file by its name", "one that ends in .pt, .pth or .safetensors")
    state = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    # Both readers memory-map the file: with copies it may be overwritten in place while a program runs.
    return {key: tensor.clone() for key, tensor in state.items()}


def read_metadata(path: str | os.PathLike, key: str, wanted: str) -> dict | None:
    """Return the JSON object that a `.safetensors` file has in its metadata under `key`; None if there is none.

    Args:
        path: the file.
        key: `config` or `trained_with`.
        wanted: what the object should be, for the error message.

    Raises:
        InputError: a damaged file, or no JSON object.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(key)
    except SafetensorError as error:
        raise _damaged(path, error, WANTED) from error
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}, metadata {key}", f"is {text[:40]!r}", wanted)
    return value


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    content = load_torch_file(path, path, WANTED)
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise InputError(path, f"holds {_kind(state)}", STATE_DICT)
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}, {key!r}", f"is {_kind(value)}", STATE_DICT)
    return state


def is_zip(path: str | os.PathLike) -> bool:
    """Return whether a file is a zip: torch's current format, which can be memory-mapped."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it looks like one but is damaged
        return False


def load_torch_file(source: Path | IO[bytes], where: str | os.PathLike, wanted: str) -> object:
    """Read a torch file, tensors and plain values only; tensors are memory-mapped where the format allows it.

    Args:
        source: the file, or its content.
        where, wanted: parts of the error message.

    Raises:
        InputError: it cannot be read, or its pickle needs more.
    """
    mapped = isinstance(source, Path) and is_zip(source)
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises nearly anything, from IndexError to struct.error
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed:
            found = f"needs {needed[1]} to unpickle, which may run code and is refused"
            raise InputError(where, found, "tensors only, as torch.save(model.state_dict(), path) writes") from error
        raise _damaged(where, error, wanted) from error


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"


def _damaged(where: str | os.PathLike, error: Exception, wanted: str) -> InputError:
    reason = " ".join(str(error).split())[:120]
    return InputError(where, f"cannot be read ({type(error).__name__}: {reason})", wanted)


def save_tensors(tensors: dict[str, Tensor], path: str | os.PathLike, metadata: dict[str, str]) -> None:
    """Write a `.safetensors` file, atomically.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    with replace_when_finished(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its own type, for the system's errors too
            raise OSError(f"{path}: cannot be written ({error})") from error


def save_weights(
    path: str | os.PathLike,
    state_dict: Mapping[str, Tensor],
    config: NetworkConfig,
    dtype: torch.dtype | None = None,
    trained_with: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and their network's config to one `.safetensors` file, atomically.

    Args:
        path: the file; replaced if it exists.
        state_dict: of the network, unwrapped.
        config: stored in the metadata under `config`, as JSON.
        dtype: convert floating tensors to it; None keeps their dtypes.
        trained_with: settings of their training, stored likewise; see `model.weights.trained_with`.

    Raises:
        InputError: `path` has another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(path, "is not a name for weights, which are saved as safetensors", "one that ends in .safetensors")
    tensors = {
        key: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for key, tensor in state_dict.items()
    }
    metadata = {"config": json.dumps(config.to_dict())}
    if trained_with is not None:
        metadata["trained_with"] = json.dumps(trained_with)
    save_tensors(tensors, path, metadata)
