"""Weight files: reading and writing."""

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from config.errors import InputError
from model.weights.file import read_tensors, read_weights, save_weights
from model.weights.load import read_config
from tests.support.weights import equal, fails, recipe, small_weights

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w, "step": 7, "optimizer": {"state": {0: [1.5]}}}])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, wrap, zipped):
    weights = small_weights()
    torch.save(wrap(weights), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "w.pt") == zipped
    assert equal(read_weights(tmp_path / "w.pt"), weights)


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}"])
def test_wrappers_prefixes_are_taken_off(tmp_path, wrap):
    weights = small_weights()
    torch.save({"model": {wrap.format(key): tensor for key, tensor in weights.items()}}, tmp_path / "w.pth")
    assert equal(read_weights(tmp_path / "w.pth"), weights)


def test_blocks_that_were_compiled_one_by_one(tmp_path):
    weights = small_weights()
    torch.save({key.replace("blocks.1.", "blocks.1._orig_mod."): x for key, x in weights.items()}, tmp_path / "w.pt")
    assert equal(read_weights(tmp_path / "w.pt"), weights)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_tensors_do_not_change_with_the_file(tmp_path, name):
    path, value = tmp_path / name, torch.arange(9001.0)
    torch.save({"x": value}, path) if path.suffix == ".pt" else save_file({"x": value}, path)
    weights = read_weights(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(weights["x"], value)


class Malice:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, zipped):
    content = {"model": {"x": torch.zeros(2)}, "more": Malice(tmp_path / "it_ran")}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    fails(InputError, r"w\.pt: needs \w+\.mkdir to unpickle, .* refused", read_weights, tmp_path / "w.pt")
    assert not (tmp_path / "it_ran").exists()
    with pytest.raises(FileNotFoundError):  # unpickled without care, the file does run code
        pickle.loads(pickle.dumps(Malice(tmp_path / "no_such_folder" / "it_ran")))


def stored(weights: dict, suffix: str) -> bytes:
    if suffix == ".safetensors":
        return safetensors.torch.save(weights)
    buffer = io.BytesIO()
    torch.save(weights, buffer, _use_new_zipfile_serialization=suffix == ".pt")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_damaged_files_are_named(tmp_path, suffix):
    whole, path = stored(small_weights(), suffix), tmp_path / f"w{suffix}"
    page = b"<html>Please log in</html>"
    for content in (b"", page, whole[:10], whole[: len(whole) // 2], whole[:-300]):
        path.write_bytes(content)
        fails(InputError, rf"{path}: cannot be read \(.*delete this one and fetch it again", read_weights, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_random_damage_is_an_error_of_one_line_or_none(tmp_path, suffix):
    whole, path = stored({"x": torch.zeros(3, 2), "y": torch.ones(5)}, suffix), tmp_path / f"w{suffix}"
    dice, messages = random.Random(1), []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[dice.randrange(min(len(whole), 600))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 50  # of 150: most damage shows
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in messages)


def test_a_damaged_pickle_takes_no_more_memory_than_its_file(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"\x80\x02X" + struct.pack("<I", 3 << 30) + b"a text that is said to have 3 GB")
    tracemalloc.start()
    with pytest.raises(InputError, match=r"w\.pt: cannot be read"):
        read_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_a_zip_in_several_parts_is_damaged(tmp_path):
    """The standard library raises an error when asked whether such a file is a zip."""
    end = b"PK\x05\x06" + bytes(18)
    (tmp_path / "w.pt").write_bytes(b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2) + end)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(tmp_path / "w.pt")
    fails(InputError, r"w\.pt: cannot be read \(", read_weights, tmp_path / "w.pt")


def test_files_that_hold_something_else(tmp_path):
    path = tmp_path / "w.pt"
    for content, match in [
        ([torch.zeros(2)], r"w\.pt: holds a list; wanted a state dict"),
        ({}, r"w\.pt: holds nothing; wanted a state dict"),
        ({"model": torch.zeros(2)}, r"w\.pt: holds a Tensor; wanted a state dict"),
        ({"a": torch.zeros(2), "step": 3}, r"w\.pt, 'step': is an int; wanted a state dict"),
        ({"model": {7: torch.zeros(2)}}, r"w\.pt, 7: is a Tensor; wanted a state dict"),
    ]:
        torch.save(content, path)
        fails(InputError, match, read_weights, path)
    path = path.rename(tmp_path / "w.npz")
    fails(InputError, r"w\.npz: is not a weight file by its name; wanted .*\.safetensors", read_weights, path)
    for suffix in (".pt", ".safetensors"):
        fails(FileNotFoundError, rf"none\{suffix}", read_weights, tmp_path / f"none{suffix}")


def test_saved_weights_come_back_with_their_recipe(tmp_path):
    weights = small_weights()
    weights["input_linear.weight"] = weights["input_linear.weight"].t().contiguous().t()
    config, path = recipe(2, 12, 2, k=4, attention_k=6, p=2), tmp_path / "new" / "w.safetensors"
    save_weights(path, weights, config)
    found = read_weights(path)
    assert equal({key: found[key] for key in weights}, weights)
    assert len(found) == len(weights)
    assert read_config(path, weights) == config
    save_weights(path, weights | {"count": torch.tensor(3)}, config, dtype=torch.bfloat16)
    again = read_tensors(path, "")[0]
    assert again["count"].dtype == torch.int64
    assert torch.equal(again["input_linear.weight"], weights["input_linear.weight"].to(torch.bfloat16))
    assert [entry.name for entry in path.parent.iterdir()] == ["w.safetensors"]
    fails(
        InputError,
        r"w\.pt: is not a name for weights, which are saved as safetensors",
        save_weights,
        tmp_path / "w.pt",
        weights,
        config,
    )


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    config, path = recipe(2, 12, 2, k=4, attention_k=6, p=2), tmp_path / "w.safetensors"
    save_weights(path, small_weights(0), config)

    def write_half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, small_weights(1), config)
    found = read_weights(path)
    assert all(torch.equal(found[key], tensor) for key, tensor in small_weights(0).items())
    assert list(tmp_path.iterdir()) == [path]
