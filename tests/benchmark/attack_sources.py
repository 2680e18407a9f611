"""Crafted chunks, poses_bounds.npy, masks and parts of lists, and absurd flags of the programs that read them."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, Case, attack, copied, nothing, written
from tests.benchmark.attack_chunks import ODD, chunk_cases
from tests.benchmark.attack_crafted import crafted_pictures
from tests.benchmark.attack_inputs import convert
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_stored import LLFF, MERGE, PACK, RE10K, TO_COLMAP, chunks, llff, masked, pack, to_colmap
from tests.benchmark.attack_verdict import Outcome

PARTS, LIST = "scenes/all_data_path.part-{:04d}-of-{:04d}.json", "scenes/all_data_path.json"
MASK, PHOTO = "masks/00001.png", "capture/images/00001.png"
# Flags of several programs.
SHARDS = ("0/0", "2/2", "-1/2", "0/999999999", "0/999999999999", "x", "slurm", "1/2/3")
COMMON = (
    *(f"--shard {shard}" for shard in SHARDS), "--workers 0", "--workers 9999", "--output /dev/null/x", "--output /proc/x",
    "--output /dev", f"--output {'x' * 300}", f"--output {'x/' * 3000}", "--unknown 1",
)  # fmt: skip


def sources(arena: Arena) -> Iterator[Outcome]:
    """Chunks, poses_bounds.npy, masks and parts of lists with wrong contents, and absurd flags."""
    for cases in (chunk_cases(arena), _arrays(arena), _masks(), _flags()):
        yield from attack(arena, cases, outputs=True)
    yield from attack(arena, _parts())  # written beside their input


def _arrays(arena: Arena) -> Iterator[Case]:
    made = arena.scratch / "crafted_arrays"
    arena.prepare(make_arrays, arena.scratch / "inputs/llff/capture/poses_bounds.npy", made)
    yield Case("poses_bounds, untouched", "llff", llff(), nothing, (0,))
    for path in sorted(made.glob("*.npy")):
        right = EITHER if path.name.startswith(ODD) else (2,)
        yield Case(f"poses_bounds, {path.stem}", "llff", llff(), partial(copied, path, "capture/poses_bounds.npy"), right)


def make_arrays(source: Path, folder: Path) -> None:
    """Write crafted arrays, in a process of its own."""
    import numpy as np

    folder.mkdir()
    rows = np.load(source)
    arrays = {
        "NaN": rows * np.nan, "inf": rows / 0.0, "huge": rows * 1e300, "zeros": rows * 0, "short": rows[:3], "none": rows[:0],
        "flat": rows.ravel(), "wide": np.hstack([rows, rows]), "16": rows[:, :16], "texts": rows.astype(str), "complex": rows + 0j,
        "truths": rows > 0, "objects": rows.astype(object), "100001": np.tile(rows[:1], (100_001, 1)), "three axes": rows[None],
        "records": np.zeros(8, "f8,i4"), "dates": np.zeros((8, 17), "M8[s]"), f"{ODD}halves": rows.astype("f2"),
        f"{ODD}longdouble": rows.astype("g"), f"{ODD}big-endian": rows.astype(">f4"), f"{ODD}by columns": np.asfortranarray(rows),
    }  # fmt: skip
    for column, name in ((4, "height"), (9, "width"), (14, "focal length")):
        for value in (0, -1, 0.5, 1e13, 2**20 + 1, np.nan):
            arrays[f"{name} {value}"] = np.where((np.arange(17) == column) & (np.arange(len(rows)) == 2)[:, None], value, rows)
    for name, content in arrays.items():
        np.save(folder / f"{name}.npy", content, allow_pickle=True)
    np.savez(folder / "several", a=rows, b=rows)
    os.rename(folder / "several.npz", folder / "several.npy")
    whole, shape = (folder / f"{ODD}by columns.npy").read_bytes(), b"(8, 17)"
    for name, content in {
        "absurd shape": whole.replace(shape, b"(999999999999, 17)"), "negative shape": whole.replace(shape, b"(-8, 17)"),
        "no shape": whole.replace(shape, b"8"), "code": whole.replace(shape, b"exit()"), "deep": whole.replace(shape, b"(" * 3000),
        "other type": whole.replace(b"<f8", b"<V9999999"), "empty": b"", "cut": whole[:700], "head": whole[:9], "text": b"hello",
        "other version": b"\x93NUMPY\x09\x00" + whole[8:],
    }.items():  # fmt: skip
        (folder / f"file, {name}.npy").write_bytes(content)


def _masks() -> Iterator[Case]:
    yield Case("masks, untouched", "masks", masked(), nothing, (0,))
    for name, content in crafted_pictures().items():
        yield Case(f"mask, {name}", "masks", masked(), partial(written, MASK, content), EITHER)
        yield Case(f"photo of a mask, {name}", "masks", masked(), partial(written, PHOTO, content), EITHER)
        white = convert("--white_background")
        yield Case(f"photo with white background, {name}", "masks", white, partial(written, PHOTO, content), EITHER)
    for place in ("capture/images", "nothing", "capture/transforms.json", "x" * 5000):
        yield Case(f"masks, {place:.30}", "masks", masked("--mask", place), nothing)
    yield Case("masks, link to the folder above", "masks", masked(), lambda folder: (folder / "masks/up").symlink_to(".."), (0,))


def _parts() -> Iterator[Case]:
    merge: list[object] = [MERGE, LIST]
    yield Case("parts, untouched", "parts", merge, nothing, (0,))
    for name, text in {
        "../x": '["../../x"]', "absolute": '["/etc/passwd"]', "NUL": '["a\\u0000b"]', "deep": "[" * 100_000,
        "itself": json.dumps([Path(PARTS.format(1, 2)).name]), "twice": '["scene_0/opencv_cameras.json"]', "object": "{}",
        "numbers": "[1]", "empty": "", "long": json.dumps(["x" * 5000]),
    }.items():  # fmt: skip
        right = EITHER if name in ("absolute", "itself") else (2,)  # a list of files that are there
        yield Case(f"part, {name}", "parts", merge, partial(written, PARTS.format(1, 2), text), right)
    for index, count, right in ((0, 999_999_999, EITHER), (0, 99_999, (2,)), (2, 3, (2,))):
        part = PARTS.format(index, count)
        yield Case(f"another part, of {count}", "parts", merge, partial(written, part, "[]"), right)
        yield Case(f"one part, of {count}", "parts", merge, partial(_only_part, part))
        yield Case(f"one part, of {count}, partial", "parts", [*merge, "--partial"], partial(_only_part, part), EITHER)
    failed = "scenes/all_failed.part-0000-of-0002.json"
    yield Case("failed objects of another kind", "parts", merge, partial(written, failed, "[1]"))
    yield Case(
        "20000 parts", "parts", merge, lambda folder: [written(PARTS.format(i, 20_000), "[]", folder) for i in range(20_000)]
    )


def _only_part(part: str, folder: Path) -> None:
    for i in range(2):
        (folder / PARTS.format(i, 2)).unlink()
    written(part, '["scene_0/opencv_cameras.json"]', folder)


def _flags() -> Iterator[Case]:
    """Yield flags that make no sense; those that begin with --shard are not for the export."""
    for name, base, words, texts in (
        ("packing", "place", pack(), (
            *COMMON, "--image_size 0 0", "--image_size 9 99999", "--image_size 8", "--margin nan", "--margin -1", "--margin 1e9",
            "--quality 0", "--quality 101", "--format gif", "--views_per_file 0", "--views_per_file 1e400", "--name ../x",
            f"--name {'n' * 300}", "--output scenes --name test", "--format png --quality 3", "--data_path nothing.json",
            "--data_path /", "--data_path synthetic:objects:3")),
        ("export to COLMAP", "place", to_colmap(), (
            *COMMON, "--points -1", "--points 10000000000", "--points nan", "--kind x", "--seed -1")),
        ("chunks", "chunks", chunks("--packs"), (
            *COMMON, "--input nothing", "--input /", "--input chunks/index.json", "--keys", "--keys key99", f"--keys {'k' * 5000}",
            "--keys nothing.json", "--name a/b", f"--name {'n' * 300}", "--long_lrm", "--output chunks/000000.torch")),
        ("LLFF", "llff", llff(), (
            *COMMON, "--input nothing", "--input /", "--images nothing", "--frame x", "--output capture/poses_bounds.npy",
            "--mask nothing", "--mask capture --white_background")),
        ("merge", "parts", [MERGE, LIST], ("x", "--partial --partial x", "--unknown")),
    ):  # fmt: skip
        for text in texts:
            yield Case(f"{name} {text:.30}", base, [*words, *text.split()], nothing)
    for words in ([PACK], [TO_COLMAP], [RE10K], [LLFF], [MERGE], [MERGE, "no.json"], [MERGE, "no/no.json"], [MERGE, "x" * 5000]):
        yield Case(f"{' '.join(words):.60} and nothing else", "place", [*words], nothing)
