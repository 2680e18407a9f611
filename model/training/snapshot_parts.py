"""Snapshot in parts: files of a bounded size that can be copied off a machine; written, checked, and joined again.

The files are cut as `split` cuts them, and their hashes are listed as `sha256sum` lists them. So
`sha256sum -c step_00001234.sha256 && cat step_00001234.pt.part* > step_00001234.pt` does what `join_parts` does.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from config.errors import InputError, check_file
from data.files import naming, replace_when_finished, temporary_beside, write_text
from model.weights.checksum import sha256_of

SUMS = re.compile(r"(step_\d+)\.sha256")
SUM_LINE = re.compile(r"([0-9a-f]{64})  (step_\d+\.pt\.part\d+)")

# Upper bounds of the bytes of a snapshot besides its tensors' contents: a fixed part, and one per tensor.
ROOM, ROOM_A_TENSOR = 1 << 15, 512


def check_parts(model: nn.Module, averaged: bool, total_bytes: int) -> None:
    """Refuse parts that cannot even hold the weights and their average.

    Raises:
        InputError: the weights do not fit.
    """
    tensors = model.state_dict().values()
    least = sum(x.numel() * x.element_size() + ROOM_A_TENSOR for x in tensors) * (2 if averaged else 1) + ROOM
    if least > total_bytes:
        held = "weights and their average" if averaged else "weights"
        wanted = f"{-(-least >> 10)}K or more, for {held}, or no --snapshot_parts"
        raise InputError("--snapshot_total", f"is {total_bytes >> 10}K", wanted)


def write_parts(snapshot: Path, folder: Path, part_bytes: int, total_bytes: int, write_reduced: Callable[[Path], None]) -> bool:
    """Cut a snapshot into files; those of an older one are removed once the new ones are complete.

    Args:
        snapshot: a finished `step_N.pt`.
        folder: where the files go.
        part_bytes, total_bytes: most bytes of a file, and of all.
        write_reduced: called with a path, to write a smaller snapshot if this one exceeds `total_bytes`.

    Returns:
        whether it is the whole snapshot.

    Raises:
        OSError: a file cannot be written; then those of the older snapshot are still whole.
    """
    whole = snapshot.stat().st_size <= total_bytes
    sums = f"{snapshot.stem}.sha256"
    try:
        if whole:
            names = _cut(snapshot, snapshot.name, folder, part_bytes)
        else:
            with temporary_beside(folder / snapshot.name) as reduced:
                with naming(folder / snapshot.name, reduced):
                    write_reduced(reduced)
                names = _cut(reduced, snapshot.name, folder, part_bytes)
        write_text(folder / sums, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))
    except OSError:
        for part in folder.glob(f"{snapshot.name}.part*"):  # worthless without the others
            part.unlink()
        raise
    for path in folder.iterdir():
        if path.name not in (*names, sums) and path.name.startswith("step_"):
            path.unlink()
    return whole


def name_of_parts(folder: Path) -> str:
    """Return the name of the newest snapshot that a folder holds in parts.

    Raises:
        InputError: it holds none.
    """
    found = sorted(match[1] for match in map(SUMS.fullmatch, os.listdir(folder)) if match)
    if not found:
        raise InputError(folder, "holds no step_N.sha256", "a snapshot, or a folder with one in parts")
    return f"{found[-1]}.pt"


def join_parts(folder: Path) -> io.BytesIO:
    """Return the newest snapshot of a folder, joined from its parts.

    Raises:
        InputError: there is none, or a part is missing or damaged.
    """
    sums = folder / f"{Path(name_of_parts(folder)).stem}.sha256"
    check_file(sums, "checksums, as sha256sum writes them")
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    matches = [match for match in map(SUM_LINE.fullmatch, lines) if match]
    if not lines or len(matches) < len(lines):
        raise InputError(sums, "holds lines that are not checksums of parts", "lines as sha256sum writes them")
    whole = io.BytesIO()
    for match in matches:
        part = folder / match[2]
        if not part.is_file():
            raise InputError(part, "is missing", f"all {len(lines)} parts that {sums.name} names")
        content = part.read_bytes()
        if hashlib.sha256(content).hexdigest() != match[1]:
            raise InputError(part, f"does not match {sums.name}", "it copied again")
        whole.write(content)
    whole.seek(0)
    return whole


def _cut(source: Path, name: str, folder: Path, part_bytes: int) -> list[str]:
    """Cut `source` into files named after `name`; return their names."""
    names = []
    with source.open("rb") as file:
        while content := file.read(part_bytes):
            names.append(f"{name}.part{len(names):02d}")
            with replace_when_finished(folder / names[-1]) as temporary:
                temporary.write_bytes(content)
    return names
