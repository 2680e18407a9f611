"""Weight files: torch and safetensors files read, tensors only; safetensors written with network config and checksum."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from config import NetworkConfig
from config.errors import InputError, check_file
from config.messages import is_plain, shown, speaks_for_machine
from data.files import replace_when_finished
from model.weights.checksum import checksum_of
from model.weights.torch_file import load_torch_file, unreadable
from model.weights.values import check_kind
from model.weights.wrappers import find_state_dict, unwrap

# Prefix of the format tag in training snapshots of every version.
SNAPSHOT_FORMAT = "lact_nvs training snapshot"
# Suffixes of torch files: torch's own, Lightning's, and those of Hugging Face and of older scripts.
TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".th")
# Metadata key of `checksum_of` everything else in a safetensors file.
CHECKSUM = "checksum"
WANTED = "a complete weight file: delete this one and fetch it again"


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a weight file into memory, with the names that the network gives them.

    Files with checksums (zip-based torch files, and safetensors written by `save_tensors`) are checked against them. What other
    programs put around a network is taken off: see `model.weights.wrappers`. A line on standard error says what is left out.

    Args:
        path: `.safetensors`, or a torch file (`TORCH_SUFFIXES`) holding a state dict or `{"model": state_dict, …}`. Of the latter
            only the model's tensors are read.

    Returns:
        tensors on the CPU, in the file's dtypes and independent of the file.

    Raises:
        OSError: the file cannot be opened.
        InputError: another suffix; a damaged file; a pickle that needs more than tensors; no state dict in it, or several; a
            tensor of a kind that cannot be copied.
    """
    path = Path(path)
    check_file(path, "a weight file")
    path.open("rb").close()  # missing permission is reported as such, not as damage
    notes: list[str] = []
    if is_safetensors(path):
        state, _ = read_tensors(path, WANTED)
    elif path.suffix.lower() in TORCH_SUFFIXES:
        state, notes = find_state_dict(load_torch_file(path, path, WANTED), str(path))
    else:
        wanted = f"one that ends in .safetensors, {', '.join(TORCH_SUFFIXES[:-1])} or {TORCH_SUFFIXES[-1]}"
        raise InputError(path, "is not a weight file by its name", wanted)
    state, more = unwrap(state, str(path))
    for note in [*notes, *more] if speaks_for_machine() else []:
        print(f"{path}: {note}", file=sys.stderr, flush=True)
    for name, tensor in state.items():
        check_kind(tensor, f"{path}, {name}")
    # Torch's reader memory-maps the file: with copies it may be overwritten in place while a program runs.
    return state if is_safetensors(path) else {name: tensor.detach().clone() for name, tensor in state.items()}


def is_safetensors(path: str | os.PathLike) -> bool:
    """Return whether a file is a safetensors file by its name."""
    return Path(path).suffix.lower() == ".safetensors"


def read_tensors(path: str | os.PathLike, wanted: str, problem: str = "cannot be read") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a `.safetensors` file into memory and compare it with the checksum in its metadata, if it has one.

    Args:
        path: the file.
        wanted, problem: parts of the error message.

    Returns:
        tensors on the CPU, and the other metadata.

    Raises:
        InputError: it is not a safetensors file, or is damaged.
    """
    try:
        with _opened(path) as file:
            metadata = file.metadata() or {}
            # The reader maps the file into memory: with copies, it may be overwritten in place while a program runs.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not iterable itself)
    except MemoryError:
        raise
    except Exception as error:  # a damaged header raises more than SafetensorError
        raise unreadable(path, error, wanted, problem) from error
    stated = metadata.pop(CHECKSUM, None)
    if stated is not None and stated != checksum_of(tensors, metadata):
        raise InputError(path, "is damaged (its content does not match its checksum)", wanted)
    return tensors, metadata


def read_metadata(path: str | os.PathLike, key: str, wanted: str) -> dict | None:
    """Return the JSON object that a `.safetensors` file has in its metadata under `key`; None if there is none.

    The tensors are not read, so the checksum is not compared: `read_tensors` does that.

    Args:
        path: the file.
        key: `config` or `trained_with`.
        wanted: what the object should be, for the error message.

    Raises:
        InputError: the file is damaged, or `key` holds something else.
    """
    try:
        with _opened(path) as file:
            text = (file.metadata() or {}).get(key)
    except MemoryError:
        raise
    except Exception as error:  # as in `read_tensors`
        raise unreadable(path, error, WANTED) from error
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}, metadata {key}", f"is {shown(text)}", wanted)
    return value


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    with open(path, "rb") as file:
        name = os.fspath(path)
        # The package takes names in UTF-8 only; others are opened by their descriptor.
        with safe_open(name if is_plain(name) else f"/dev/fd/{file.fileno()}", framework="pt") as tensors:
            yield tensors


def save_tensors(tensors: dict[str, Tensor], path: str | os.PathLike, metadata: dict[str, str]) -> None:
    """Write a `.safetensors` file with a checksum of tensors and metadata, atomically.

    Cost: memory of twice the file's size. `save_file` needs none, but from safetensors 0.8 on it writes under a name of its own and
    renames that: the lock on the temporary file is lost, and a killed process leaves what it has written.

    Args:
        tensors: on the CPU, contiguous.
        path: the file; replaced if it exists.
        metadata: stored with the tensors.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    with replace_when_finished(path) as temporary:
        temporary.write_bytes(save(tensors, {**metadata, CHECKSUM: checksum_of(tensors, metadata)}))


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
