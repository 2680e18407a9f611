"""Crafted chunks of scenes, their index and files of keys. Letters: v views."""

import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, Case, copied, nothing, written
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_stored import chunk_scene, chunks

# Contents that may also be right: names of crafted chunks begin so.
ODD = "odd "


def chunk_cases(arena: Arena) -> Iterator[Case]:
    """Yield cases of the converter of chunks, to folders and to packs."""
    made = arena.scratch / "crafted_chunks"
    arena.prepare(make_chunks, made)
    for words in ((), ("--packs",)):
        to = "packs" if words else "folders"
        yield Case(f"chunks to {to}, untouched", "chunks", chunks(*words), nothing, (0,))
        for path in sorted(made.glob("*.torch")):
            name = path.with_suffix(".name").read_text()
            right = EITHER if name.startswith(ODD) else (2,)
            yield Case(f"chunk to {to}, {name}", "chunks", chunks(*words), partial(copied, path, "chunks/000001.torch"), right)
    for name, text in {
        "list": "[]", "deep": "[" * 100_000, "number": '{"a": 1}', "above": '{"key00": "../../x"}',
        "absolute": '{"key00": "/etc/passwd"}', "NUL": '{"key00": "a\\u0000b"}', "itself": '{"key00": "index.json"}',
        "long": json.dumps({"k" * 9999: "x" * 9999}),
    }.items():  # fmt: skip
        right = EITHER if text.startswith('{"k') else (2,)
        for words in ((), ("--keys", "key00")):
            change = partial(written, "chunks/index.json", text)
            yield Case(f"index, {name} {' '.join(words)}", "chunks", chunks(*words), change, right)
    for name, text in {
        "itself": '["keys.json"]', "numbers": "[1]", "empty": "", "deep": "[" * 100_000, "NUL": '["a\\u0000b"]',
        "surrogate": '["\\ud800"]', "long": json.dumps(["k" * 99_999]), "100000": json.dumps([f"k{i}" for i in range(100_000)]),
    }.items():  # fmt: skip
        yield Case(f"keys, {name}", "chunks", chunks("--keys", "keys.json"), partial(written, "keys.json", text))


def make_chunks(folder: Path) -> None:
    """Write crafted chunks and their names, in a process of its own; what torch does not write is no attack."""
    import torch

    folder.mkdir()
    contents = {name: [chunk_scene("b"), {**chunk_scene("a"), **change}] for name, change in _scenes().items()}
    for i, (name, content) in enumerate({**contents, **_wholes()}.items()):
        buffer = io.BytesIO()
        try:
            torch.save(content, buffer)
        except Exception as error:
            print(name, error)
        else:
            (folder / f"{i:03d}.torch").write_bytes(buffer.getvalue())
            (folder / f"{i:03d}.name").write_text(name)


def _scenes() -> dict[str, dict]:
    """Return changes of a scene, by name."""
    changes = {
        f"{key} {kind}": {key: value} for key in ("key", "timestamps", "cameras", "images") for kind, value in _kinds().items()
    }
    changes |= {f"{key} of half": {key: chunk_scene("a")[key][:1]} for key in ("timestamps", "cameras", "images")}
    changes[f"{ODD}timestamps None"] = changes.pop("timestamps None")
    changes[f"{ODD}key a text"] = changes.pop("key a text")
    for name in ("..", ".", "", "a/b", "a\\b", "a\0b", "\ud800", "a\nb", "/x", "x" * 300, "x" * 70000):
        changes[f"key {name[:20]!a}"] = {"key": name}
    for name in ("a.zip", "-x", "opencv_cameras.json", "pack_data_path.json"):
        changes[f"{ODD}key {name}"] = {"key": name}
    return {**changes, **_images(), **_cameras()}


def _kinds() -> dict[str, object]:
    import torch

    zeros = torch.zeros(3, 18)
    return {
        "None": None, "a text": "x", "a number": 3, "nothing": [], "an object": {}, "an empty tensor": torch.zeros(0),
        "meta": zeros.to("meta"), "sparse": zeros.to_sparse(), "stretched": torch.zeros(1).expand(10**12),
        "complex": zeros + 0j, "NaN": zeros + float("nan"), "huge": zeros + 1e30,
        "quantised": torch.quantize_per_tensor(zeros, 1.0, 0, torch.quint8),
    }  # fmt: skip


def _images() -> dict[str, dict]:
    import torch

    images = chunk_scene("a")["images"]
    stored = {
        "image stretched": images[0][:1].expand(10**11), "image text": torch.tensor([104, 105], dtype=torch.uint8),
        "image of floats": torch.zeros(99), "image of two axes": images[0][None], f"{ODD}image cut": images[0][:300],
        "image empty": images[0][:0], "image bytes": bytes(images[0].tolist()), "image None": None,
    }  # fmt: skip
    return {name: {"images": [image, *images[1:]]} for name, image in stored.items()}


def _cameras() -> dict[str, dict]:
    import torch

    numbers = {
        "fx 0": (0, 0.0),
        "fx 1e-30": (0, 1e-30),
        "fx 1e30": (0, 1e30),
        "cx": (2, 9e9),
        "k1": (4, 1e-9),
        "R": (6, 2.0),
        "t": (9, 1e20),
    }
    times = {"huge": [2**62, 2**62 + 1, 2**62 + 2], "negative": [-3, -2, -1], "equal": [7, 7, 7], "falling": [3, 2, 1]}
    changes = {f"{ODD}times {name}": {"timestamps": torch.tensor(values)} for name, values in times.items()}
    for name, (column, value) in numbers.items():
        cameras = chunk_scene("a")["cameras"]
        cameras[1, column] = value
        changes[f"camera {name}"] = {"cameras": cameras}
    return changes


def _wholes() -> dict[str, object]:
    """Return contents of chunks that are no lists of scenes, and one that is."""
    import torch

    looped: list = []
    looped.append(looped)
    return {
        "a dict": {"a": 1}, "a tensor": torch.zeros(3), "a number": 7, "texts": ["x"] * 3, "lists": [[]] * 99, "itself": looped,
        "100001 scenes": [{}] * 100_001, "50000 of one key": [{"key": "b"}] * 50_000, "a path": [Path("x")],
        "a function": [os.system], f"{ODD}nothing": [],
    }  # fmt: skip
