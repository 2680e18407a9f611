"""Plan of packs: which scenes go into which file, and which files are finished."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from config.errors import InputError
from config.messages import counted
from data.pack_writer import pack_note
from data.scene_format import read_json
from data.scene_list import read_pack_list
from data.stored_file import file_state
from data_preprocess.packing.settings import Packing


class Plan(NamedTuple):
    """A pack to write: its file, its scenes, their number of views, and the note by which a finished pack is recognised."""

    path: Path
    scenes: list[Path]
    views: int
    note: str


def plan_packs(packing: Packing, paths: Sequence[Path], pool: ThreadPoolExecutor) -> list[Plan]:
    """Divide scenes among packs, in their order: as many as have `views_per_file` views together, or one larger scene."""
    with tqdm(pool.map(_count_views, paths), total=len(paths), desc="plan", unit="scene", leave=False) as counts:
        views = list(counts)
    groups: list[list[int]] = []
    total = 0
    for i, count in enumerate(views):
        total += count
        if not groups or total > packing.views_per_file:
            groups.append([])
            total = count
        groups[-1].append(i)
    return [
        Plan(
            packing.output / f"{packing.name}_{number:05d}.zip",
            [paths[i] for i in group],
            sum(views[i] for i in group),
            _note(packing, [paths[i] for i in group]),
        )
        for number, group in enumerate(groups)
    ]


def _count_views(json_path: Path) -> int:
    """Return the number of views of a scene; of one that cannot be read 1, since packing will report it."""
    try:
        content = read_json(json_path)
    except (InputError, OSError):
        return 1
    frames = content.get("frames") if isinstance(content, dict) else content
    return max(1, len(frames)) if isinstance(frames, list) else 1


def _note(packing: Packing, paths: Sequence[Path]) -> str:
    """Return what a pack is made from, in words and as a digest of settings and scenes."""
    images = "images as they are"
    if packing.format is not None:
        quality = "" if packing.format == "png" else f", quality {packing.quality}"
        size = "" if packing.image_size is None else f", {packing.image_size[0]}×{packing.image_size[1]} (h×w)"
        images = f"{packing.format}{quality}{size}" + (f", margin {packing.margin:g}" if packing.margin else "")
    digest = hashlib.sha256(images.encode())
    for path in paths:
        try:
            state = file_state(path)
        except OSError:  # packing will report it
            state = None
        digest.update(repr((str(path), state)).encode())
    return f"{counted(len(paths), 'scene')}; {images}; {digest.hexdigest()[:32]}"


def is_finished(plan: Plan) -> bool:
    """Return whether a pack is there already; one that lacks scenes, which could not be read, is not.

    Raises:
        InputError: it is of other scenes or settings, or no pack.
    """
    note = pack_note(plan.path)
    if note not in (None, plan.note):
        raise InputError(plan.path, f"holds {note or 'something else'}", f"{plan.note}: another --output or --name, or delete it")
    return note is not None and len(read_pack_list(plan.path)) == len(plan.scenes)
