"""Damage inside tensor files: every file that is read at all has the tensors that were written."""

import dataclasses
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from config.errors import InputError
from model.scene_state import SceneState
from model.training.snapshot import SnapshotWriter, copied, read_snapshot
from model.training.snapshot_parts import write_parts
from model.weights.file import read_tensors, read_weights, save_tensors, save_weights
from model.weights.infer import infer_config
from tests.support.snapshots import content
from tests.support.weights import equal, fails, small_weights

TRAINED_WITH = {"image_size": (16, 24), "num_input_views": 5}


def flat(value: object, name: tuple = ()) -> dict:
    """Return the leaves of nested dicts and lists by their path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    return {name: value} if items is None else {k: v for key, item in items for k, v in flat(item, (*name, key)).items()}


def same(one: dict, other: dict) -> bool:
    """Return whether two flat dicts are equal, tensors bit for bit."""

    def bits(x: object) -> object:
        return (x.dtype, x.shape, x.contiguous().reshape(-1).view(torch.uint8).tolist()) if isinstance(x, Tensor) else x

    return one.keys() == other.keys() and all(bits(one[key]) == bits(other[key]) for key in one)


def write_weights(folder: Path) -> Path:
    weights = small_weights()
    save_weights(folder / "w.safetensors", weights, infer_config(weights), trained_with=TRAINED_WITH)
    return folder / "w.safetensors"


def write_torch_weights(folder: Path) -> Path:
    torch.save({"model": small_weights()}, folder / "w.pt")
    return folder / "w.pt"


def write_state(folder: Path) -> Path:
    layers = [{"w0": torch.randn(1, 3, 5), "w1": torch.randn(1, 5, 3).bfloat16()} for _ in range(3)]
    SceneState(layers, torch.rand(1, 2, 4), torch.randn(1, 2, 4, 4), (8, 12), "0123456789abcdef").save(folder / "s.safetensors")
    return folder / "s.safetensors"


def write_snapshot(folder: Path) -> Path:
    writer = SnapshotWriter(folder, 1)
    writer.save(content(7))
    writer.close()
    return folder / "step_00000007.pt"


def read_state(path: Path) -> dict:
    return flat(dataclasses.asdict(SceneState.load(path)))


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], dict]]] = {
    "weights": (write_weights, lambda path: flat([*read_tensors(path, "whole")])),
    "torch weights": (write_torch_weights, lambda path: dict(read_weights(path))),
    "scene state": (write_state, read_state),
    # Copied, since its tensors are mapped from the file that is then overwritten.
    "snapshot": (write_snapshot, lambda path: flat(copied(read_snapshot(path)))),
}


def damaged(whole: bytes, seed: int) -> Iterator[bytes]:
    """Yield 200 damaged copies: flipped bits, half of them near the ends (headers, directories), zero blocks, cuts."""
    dice = random.Random(seed)
    for i in range(200):
        copy = bytearray(whole)
        near_the_ends = dice.choice([dice.randrange(min(700, len(copy))), -1 - dice.randrange(min(2000, len(copy)))])
        if i % 4 < 2:
            copy[near_the_ends if i % 4 else dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
        elif i % 4 == 2:
            start, size = dice.randrange(len(copy)), dice.choice([8, 64, 512])
            copy[start : start + size] = bytes(len(copy[start : start + size]))
        else:
            del copy[dice.randrange(len(copy)) :]
        yield bytes(copy)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_harmless(tmp_path, kind):
    write, read = KINDS[kind]
    path = write(tmp_path)
    whole, truth, messages = path.read_bytes(), read(path), []
    for copy in damaged(whole, seed=3):
        path.write_bytes(copy)
        try:
            found = read(path)
        except InputError as error:
            messages.append(str(error))
        else:
            assert same(found, truth)
    assert len(messages) > 120  # of 200: the padding of a zip may hold anything
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


def test_flipped_digits_of_the_metadata_are_found(tmp_path):
    path = write_weights(tmp_path)
    whole = path.read_bytes()
    for digits in (b"0.01", b"[16, 24]"):
        place = whole.index(digits) + 1
        path.write_bytes(whole[:place] + b"7" + whole[place + 1 :])
        fails(
            InputError,
            r"w\.safetensors: is damaged \(.*checksum\); wanted .*: delete this one and fetch it again",
            read_weights,
            path,
        )


def test_files_without_a_checksum_are_read(tmp_path):
    weights, path = small_weights(), tmp_path / "w.safetensors"
    save_file(weights, path, {"format": "pt"})
    assert same(dict(read_weights(path)), weights)


def test_a_checksum_covers_everything_in_any_order(tmp_path):
    tensors, path = (
        {"b": torch.arange(6.0), "a": torch.tensor(3, dtype=torch.int8), "c": torch.empty(0, 4)},
        tmp_path / "x.safetensors",
    )
    save_tensors(tensors, path, {"y": "1", "x": "2"})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    for changes in (
        {"b": tensors["b"].view(2, 3)},
        {"b": tensors["b"].view(torch.int32)},
        {"b": tensors["b"] + 1},
        {"c": torch.empty(4, 0)},
        {"d": torch.zeros(1)},
    ):
        save_file({**tensors, **changes}, path, metadata)
        fails(InputError, "does not match its checksum", read_tensors, path, "whole")
    save_file(dict(reversed(tensors.items())), path, dict(reversed(metadata.items())))
    assert same(read_tensors(path, "whole")[0], load_file(path))


def test_a_zip_that_was_packed_again_with_compression(tmp_path):
    path, again = write_torch_weights(tmp_path), tmp_path / "again.pt"
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", method) as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member))
        assert equal(read_weights(again), small_weights())


def test_a_zip_that_unpacks_to_far_more_than_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(1 << 27))
    fails(InputError, r"w\.pt: cannot be read \(ValueError: \d+ bytes unpack to \d+\)", read_weights, tmp_path / "w.pt")


def test_torch_files_written_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = write_torch_weights(tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_weights(path), small_weights())


def test_parts_are_joined_to_a_snapshot_that_is_checked_too(tmp_path):
    path, folder = write_snapshot(tmp_path), tmp_path / "parts"
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = next(member.header_offset for member in archive.infolist() if "/data/" in member.filename)
    whole[place + 400] ^= 1
    path.write_bytes(whole)  # damaged before it was cut: the parts match their sums
    assert write_parts(path, folder, 10_000, 10**9, Path.touch)
    fails(
        InputError,
        r"parts: is damaged \(.*\); wanted a whole snapshot: delete it to resume from the one before",
        read_snapshot,
        folder,
    )
