"""Crafted chunks, poses_bounds.npy, masks and parts of lists. Letters: v views, h w pixels."""

import io
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, Case, attack, nothing
from tests.benchmark.attack_crafted import crafted_pictures
from tests.benchmark.attack_inputs import convert
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_stored import LLFF, MERGE, PACK, RE10K, TO_COLMAP, chunk_scene, chunks, llff, masked, pack, to_colmap
from tests.benchmark.attack_verdict import Outcome

PARTS, LIST = "scenes/all_data_path.part-{:04d}-of-{:04d}.json", "scenes/all_data_path.json"


def sources(arena: Arena) -> Iterator[Outcome]:
    """Chunks, poses_bounds.npy, masks and parts of lists with wrong contents, and absurd flags of the programs that read them."""
    made = arena.scratch / "crafted"
    arena.prepare(make_crafted, made)
    yield from attack(arena, _chunks(made / "chunks"), outputs=True)
    yield from attack(arena, _arrays(made / "arrays"), outputs=True)
    yield from attack(arena, _masks(), outputs=True)
    yield from attack(arena, _parts())
    yield from attack(arena, _flags(), outputs=True)


def make_crafted(folder: Path) -> None:
    """Make the chunks and arrays, in a process of its own; a name that begins with `0` may end well, too."""
    import numpy as np
    import torch

    (folder / "chunks").mkdir(parents=True)
    (folder / "arrays").mkdir()
    scene, image = chunk_scene("a"), chunk_scene("a")["images"][0]
    changes: dict[str, dict] = {f"{key} {kind}": {key: value} for key in scene for kind, value in {
        "None": None, "a text": "x", "a number": 3, "nothing": [], "an object": {},
            "of half": scene[key][:1] if key != "key" else ["a"],
        "an empty tensor": torch.zeros(0), "meta": torch.zeros(3, 18, device="meta"), "sparse": torch.zeros(3, 18).to_sparse(),
        "stretched": torch.zeros(1).expand(10**12), "complex": torch.zeros(3, 18, dtype=torch.complex64), "NaN": torch.full((3,
            18), float("nan")),
        "quantised": torch.quantize_per_tensor(torch.zeros(3, 18), 1.0, 0, torch.quint8), "huge": torch.full((3, 18), 1e30),
    }.items() if key != "url"}  # fmt: skip
    for name in ("..", ".", "", "a/b", "a\\b", "a\0b", "\ud800", "a\nb", "/x"):
        changes[f"key {name!a}"] = {"key": name}
    for name in ("x" * 300, "x" * 70000, "a.zip", "-x", "opencv_cameras.json", "pack_data_path.json"):
        changes[f"0 key {name:.20}"] = {"key": name}
    for name, stored in {
        "stretched": torch.zeros(1, dtype=torch.uint8).expand(10**11), "text": torch.tensor([104, 105], dtype=torch.uint8),
            "of floats": torch.zeros(99),
        "of two axes": image[None], "cut": image[:300], "empty": image[:0], "bytes": bytes(image.tolist()), "itself": None,
    }.items():  # fmt: skip
        changes[f"image {name}" if name != "cut" else "0 image cut"] = {"images": [stored, *scene["images"][1:]]}
    for name, times in {
        "huge": [2**62, 2**62 + 1, 2**62 + 2],
        "negative": [-3, -2, -1],
        "equal": [7, 7, 7],
        "falling": [3, 2, 1],
    }.items():
        changes[f"0 times {name}"] = {"timestamps": torch.tensor(times)}
    for key, column, value in (
        ("fx", 0, 0.0),
        ("fx", 0, 1e-30),
        ("fx", 0, 1e30),
        ("cx", 2, 9e9),
        ("k1", 4, 1e-9),
        ("R", 6, 2.0),
        ("t", 9, 1e20),
    ):
        cameras = scene["cameras"].clone()
        cameras[1, column] = value
        changes[f"camera {key} {value:g}"] = {"cameras": cameras}
    for i, (name, change) in enumerate(changes.items()):
        _try_save([chunk_scene("b"), {**scene, **change}], folder / "chunks" / f"{i:03d}", name)
    looped: list = []
    looped.append(looped)
    wholes: dict[str, object] = {"a dict": {"a": 1}, "nothing": [], "a tensor": torch.zeros(3), "texts": ["x"] * 3,
        "itself": looped, "a number": 7,
        "lists": [[]] * 99, "100001 scenes": [{}] * 100_001, "a path": [Path("x")], "a function": [os.system],
            "50000 scenes": [{"key": "b"}] * 50_000}  # fmt: skip
    for i, (name, content) in enumerate(wholes.items()):
        _try_save(content, folder / "chunks" / f"9{i:02d}", f"whole {name}")
    rows = np.load(folder.parent / "inputs" / "llff" / "capture" / "poses_bounds.npy")
    arrays = {"NaN": rows * np.nan, "inf": rows / 0.0, "huge": rows * 1e300, "zeros": rows * 0, "short": rows[:3],
        "none": rows[:0], "flat": rows.ravel(),
        "wide": np.hstack([rows, rows]), "16": rows[:, :16], "texts": rows.astype(str), "complex": rows + 0j, "truths": rows > 0,
            "0 halves": rows.astype("f2"),
        "objects": rows.astype(object), "100001": np.tile(rows[:1], (100_001, 1)), "three axes": rows[None],
            "0 longdouble": rows.astype("g"),
        "0 big-endian": rows.astype(">f4"), "0 by columns": np.asfortranarray(rows), "records": np.zeros(8, "f8,i4"),
            "dates": np.zeros((8, 17), "M8[s]")}  # fmt: skip
    for column, name in ((4, "height"), (9, "width"), (14, "focal length")):
        for value in (0, -1, 0.5, 1e13, 2**20 + 1, np.nan):
            arrays[f"{name} {value}"] = _with(rows, column, value)
    for name, content in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", content, allow_pickle=True)
    np.savez(folder / "arrays" / "several", a=rows, b=rows)
    os.rename(folder / "arrays" / "several.npz", folder / "arrays" / "several.npy")
    whole = (folder / "arrays" / "0 by columns.npy").read_bytes()
    for name, found, instead in (("absurd shape", b"(8, 17)", b"(999999999999, 17)"), ("negative", b"(8, 17)", b"(-8, 17)"),
        ("no shape", b"(8, 17)", b"8"),
                          ("code", b"(8, 17)", b"exit()"), ("deep", b"(8, 17)", b"(" * 3000), ("other type", b"<f8",
                              b"<V9999999")):  # fmt: skip
        (folder / "arrays" / f"header {name}.npy").write_bytes(whole.replace(found, instead))
    for name, content in {
        "empty": b"",
        "cut": whole[:700],
        "head": whole[:9],
        "text": b"hello",
        "version": b"\x93NUMPY\x09\x00" + whole[8:],
    }.items():
        (folder / "arrays" / f"bytes {name}.npy").write_bytes(content)


def _with(rows, column: int, value: float):
    changed = rows.copy()
    changed[2, column] = value
    return changed


def _try_save(content: object, path: Path, name: str) -> None:
    """Save a chunk with its name beside it; what torch does not write is no attack."""
    import torch

    buffer = io.BytesIO()
    try:
        torch.save(content, buffer)
    except Exception as error:
        print(name, error)
        return
    path.with_suffix(".torch").write_bytes(buffer.getvalue())
    path.with_suffix(".name").write_text(name)


def _chunks(made: Path) -> Iterator[Case]:
    for words in ((), ("--packs",)):
        to = "packs" if words else "folders"
        yield Case(f"chunks to {to}, untouched", "chunks", chunks(*words), nothing, (0,))
        for path in sorted(made.glob("*.torch")):
            name = path.with_suffix(".name").read_text()
            right = EITHER if name.startswith("0 ") or name in ("timestamps None", "key a text", "whole nothing") else (2,)
            yield Case(f"chunk to {to}, {name}", "chunks", chunks(*words), partial(_copy, path, "chunks/000001.torch"), right)
    for name, text in {"list": "[]", "deep": "[" * 100_000, "number": '{"a": 1}', "above": '{"key00": "../../x"}',
        "absolute": '{"key00": "/etc/passwd"}',
                       "NUL": '{"key00": "a\\u0000b"}', "itself": '{"key00": "index.json"}',
                           "long": json.dumps({"k" * 9999: "x" * 9999})}.items():  # fmt: skip
        for words in ((), ("--keys", "key00")):
            right = EITHER if text.startswith('{"k') else (2,)
            yield Case(
                f"index, {name} {' '.join(words)}", "chunks", chunks(*words), partial(_text, "chunks/index.json", text), right
            )
    for name, content in {"itself": '["keys.json"]', "numbers": "[1]", "empty": "", "deep": "[" * 100_000, "NUL": '["a\\u0000b"]',
        "long": json.dumps(["k" * 99_999]),
                          "surrogate": '["\\ud800"]', "100000": json.dumps([f"k{i}" for i in range(100_000)])}.items():  # fmt: skip
        yield Case(f"keys, {name}", "chunks", chunks("--keys", "keys.json"), partial(_text, "keys.json", content))


def _copy(source: Path, to: str, folder: Path) -> None:
    (folder / to).write_bytes(source.read_bytes())


def _text(to: str, text: str, folder: Path) -> None:
    (folder / to).write_text(text)


def _arrays(made: Path) -> Iterator[Case]:
    yield Case("poses_bounds, untouched", "llff", llff(), nothing, (0,))
    for path in sorted(made.glob("*.npy")):
        right = EITHER if path.name.startswith("0 ") else (2,)
        yield Case(f"poses_bounds, {path.stem}", "llff", llff(), partial(_copy, path, "capture/poses_bounds.npy"), right)


def _masks() -> Iterator[Case]:
    yield Case("masks, untouched", "masks", masked(), nothing, (0,))
    for name, content in crafted_pictures().items():
        yield Case(f"mask, {name}", "masks", masked(), partial(_bytes, "masks/00001.png", content), EITHER)
        photo = partial(_bytes, "capture/images/00001.png", content)
        yield Case(f"photo of a mask, {name}", "masks", masked(), photo, EITHER)
        yield Case(f"photo with white background, {name}", "masks", convert("--white_background"), photo, EITHER)
    for name, place in {
        "the photos": "capture/images",
        "no folder": "nothing",
        "a file": "capture/transforms.json",
        "long": "x" * 5000,
        "root": "/proc/self/fd",
    }.items():
        right = EITHER if name == "root" else (2,)
        yield Case(f"masks, {name}", "masks", masked("--mask", place), nothing, right)
    yield Case(
        "masks, link to the folder above", "masks", masked(), lambda folder: (folder / "masks" / "up").symlink_to(".."), (0,)
    )


def _bytes(to: str, content: bytes, folder: Path) -> None:
    (folder / to).write_bytes(content)


def _parts() -> Iterator[Case]:
    merge: list[object] = [MERGE, LIST]
    yield Case("parts, untouched", "parts", merge, nothing, (0,))
    for name, text in {"../x": '["../../x"]', "absolute": '["/etc/passwd"]', "NUL": '["a\\u0000b"]', "deep": "[" * 100_000,
        "itself": json.dumps([PARTS.format(1, 2)[7:]]),
                       "twice": '["scene_0/opencv_cameras.json"]', "object": "{}", "numbers": "[1]", "empty": "",
                           "long": json.dumps(["x" * 5000])}.items():  # fmt: skip
        right = EITHER if name in ("absolute", "itself") else (2,)  # it lists what is there
        yield Case(f"part, {name}", "parts", merge, partial(_text, PARTS.format(1, 2), text), right)
    for name, part in {
        "of a billion": PARTS.format(0, 999_999_999),
        "of a million": PARTS.format(0, 999_999),
        "of three": PARTS.format(2, 3),
    }.items():
        yield Case(f"another part {name}", "parts", merge, partial(_text, part, "[]"), EITHER)
        alone: Callable[[Path], object] = lambda folder, part=part: _only_part(folder, part)  # noqa: E731
        yield Case(f"only a part {name}", "parts", merge, alone)
        yield Case(f"only a part {name}, partial", "parts", [*merge, "--partial"], alone, EITHER)
    yield Case("failed objects of another kind", "parts", merge, partial(_text, "scenes/all_failed.part-0000-of-0002.json", "[1]"))
    yield Case("20000 parts", "parts", merge, lambda folder: [_text(PARTS.format(i, 20_000), "[]", folder) for i in range(20_000)])


def _only_part(folder: Path, part: str) -> None:
    for i in range(2):
        (folder / PARTS.format(i, 2)).unlink()
    _text(part, '["scene_0/opencv_cameras.json"]', folder)


def _flags() -> Iterator[Case]:
    shards = (
        "--shard 0/0",
        "--shard 2/2",
        "--shard -1/2",
        "--shard 0/999999999999",
        "--shard x",
        "--shard slurm",
        "--shard 1/2/3",
        "--workers 0",
        "--workers 9999",
    )
    outputs = ("--output /dev/null/x", "--output /proc/x", "--output /dev", f"--output {'x' * 300}", f"--output {'x/' * 3000}")
    for name, base, words, texts in (
        ("packing", "place", pack(), (*shards, *outputs, "--image_size 0 0", "--image_size 9 99999", "--image_size 8",
            "--margin nan", "--margin -1", "--margin 1e9",
         "--quality 0", "--quality 101", "--format gif", "--views_per_file 0", "--views_per_file 1e400", "--name ../x",
             f"--name {'n' * 300}", "--output scenes --name test",
         "--format png --quality 3", "--data_path nothing.json", "--data_path /", "--data_path synthetic:objects:3",
             "--unknown 1")),
        ("export to COLMAP", "place", to_colmap(), (*outputs, "--points -1", "--points 10000000000", "--points nan", "--kind x",
            "--seed -1", "--workers 0", "--output scenes",
         "--unknown")),
        ("chunks", "chunks", chunks("--packs"), (*shards, *outputs, "--input nothing", "--input /", "--input chunks/index.json",
            "--keys", "--keys key99", f"--keys {'k' * 5000}",
         "--keys nothing.json", "--name a/b", f"--name {'n' * 300}", "--long_lrm", "--output chunks/000000.torch")),
        ("LLFF", "llff", llff(), (*shards, *outputs, "--input nothing", "--input /", "--images nothing", "--frame x",
            "--output capture/poses_bounds.npy",
         "--mask nothing", "--mask capture --white_background")),
        ("merge", "parts", [MERGE, LIST], ("x", "--partial --partial x", "--unknown")),
    ):  # fmt: skip
        for text in texts:
            yield Case(f"{name} {text:.30}", base, [*words, *text.split()], nothing, EITHER if "9999" in text else (2,))
    for name, words in (("packing", [PACK]), ("export to COLMAP", [TO_COLMAP]), ("chunks", [RE10K]), ("LLFF", [LLFF]), ("merge",
        [MERGE]), ("merge of nothing", [MERGE, "no.json"]),
                        ("merge in no folder", [MERGE, "no/no.json"]), ("merge long", [MERGE, "x" * 5000])):  # fmt: skip
        yield Case(f"{name} without flags", "place", words, nothing)
