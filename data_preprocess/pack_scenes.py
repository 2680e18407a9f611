"""Packs of scenes for training: a few large zip files with images at training size, instead of millions of small files.

    python data_preprocess/pack_scenes.py --data_path train_data_path.json --output packs --image_size 128 128
    python train.py --data_path packs/train_data_path.json …

A pack is an uncompressed zip file that holds scenes of the unified format; the list names the packs, and every program reads it.
Images are composited on white, scaled and cropped as training would do it, and their cameras with them: with --format png, training
on packs and on the folders they were made from gives the same bits. Without --image_size and --format images are copied as they
are. Safe to re-run; finished packs are skipped. Scenes that cannot be read are left out and listed.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from tqdm import tqdm

from config.errors import InputError, line_of
from config.flags import read_command_line, refuse_without_effect, settings
from config.messages import counted
from config.paths import find_path
from config.threads import cores
from data.pack import split_path
from data.pack_writer import write_pack
from data.scene_list import read_data_path
from data_preprocess.command import bytes_text, check_list_name, run_script
from data_preprocess.packing.images import Packed, pack_scene
from data_preprocess.packing.plan import Plan, is_finished, plan_packs
from data_preprocess.packing.settings import DEFAULT_FORMAT, Packing
from data_preprocess.shards import read_shard
from data_preprocess.thread_pool import thread_pool

# Scenes that are ready before the one that is written next, per thread.
_AHEAD = 2


@dataclass
class Total:
    """What a run packed: scenes, their views, the files they were read from, the bytes of these, and what was left out."""

    scenes: int = 0
    views: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def write(packing: Packing, plan: Plan, pool: ThreadPoolExecutor, progress: tqdm, total: Total) -> None:
    """Write a pack, and add up what went into it; a pack of which no scene can be read is not written."""
    scenes = _ready_scenes(packing, plan, pool, progress, total)
    first = next(scenes, None)
    if first is None:
        return
    with write_pack(plan.path, plan.note) as pack:
        for packed in chain([first], scenes):
            folder = distinct(packed.scene.name, pack.scenes)
            views = [replace(view, file_path=plan.path.absolute() / folder / view.file_path) for view in packed.views]
            pack.add(folder, views, packed.contents, packed.scene.name)
            total.views += len(views)
            total.files += packed.files
            total.bytes += packed.bytes


def distinct(name: str, taken: Collection[str]) -> str:
    """Return a folder's name that is not taken: the name itself, or with a number."""
    numbered = (f"{name}_{i}" for i in range(2, len(taken) + 2))
    return next(folder for folder in chain([name], numbered) if folder not in taken)


def _ready_scenes(packing: Packing, plan: Plan, pool: ThreadPoolExecutor, progress: tqdm, total: Total) -> Iterator[Packed]:
    """Yield the scenes of a pack, in order, while threads prepare the next ones; list those that cannot be read."""
    left = iter(plan.scenes)
    waiting: deque[Future[Packed]] = deque()
    ahead = _AHEAD * (packing.workers or cores())
    try:
        while True:
            waiting.extend(pool.submit(pack_scene, packing, path) for path in islice(left, ahead - len(waiting)))
            if not waiting:
                return
            try:
                packed = waiting.popleft().result()
            except (InputError, OSError) as error:
                total.problems.append(line_of(error))
            else:
                yield packed
                total.scenes += 1
                progress.update(len(packed.views))
    finally:
        for future in waiting:
            future.cancel()


def read_packing(argv: Sequence[str] | None) -> Packing:
    """Read the command line; return the settings with name and format resolved.

    Raises:
        InputError: a flag is out of range, contradicts another or has no effect.
    """
    given = read_command_line("pack_scenes.py", __doc__, (Packing,), argv)
    packing = settings(Packing, given)
    if packing.image_size is None:
        refuse_without_effect(given, "without --image_size", ["margin"])
        if packing.format is None:
            refuse_without_effect(given, "without --image_size and --format, where images are copied", ["quality"])
    elif packing.format is None:
        packing = replace(packing, format=DEFAULT_FORMAT)
    if packing.format == "png":
        refuse_without_effect(given, "with --format png", ["quality"])
    if packing.name is None:
        packing = replace(packing, name=find_path(packing.data_path).stem.removesuffix("_data_path"))
    assert packing.name is not None
    check_list_name(packing.name)
    return packing


def work(argv: Sequence[str] | None) -> list[str]:
    """Write the packs and the list of them; return the problems."""
    packing = read_packing(argv)
    paths = read_data_path(packing.data_path)
    with thread_pool(packing.workers or cores()) as pool:
        return pack_all(packing, paths, pool)


def pack_all(packing: Packing, paths: Sequence[Path], pool: ThreadPoolExecutor) -> list[str]:
    """Write the packs that are missing, or a shard's part of them, and the list; print what was done; return the problems."""
    shard, data_path_json = read_shard(packing.shard), packing.output / f"{packing.name}_data_path.json"
    plans = plan_packs(packing, paths, pool)
    check_separate(packing, plans, data_path_json)
    shard.begin(data_path_json)
    plans = shard.part(plans)
    left = [plan for plan in plans if not is_finished(plan)]
    total = Total()
    with tqdm(total=sum(plan.views for plan in left), desc="pack", unit="image", leave=False, dynamic_ncols=True) as progress:
        for plan in left:
            write(packing, plan, pool, progress, total)
    packs = [plan.path for plan in plans if plan.path.exists()]
    new = [plan.path for plan in left if plan.path.exists()]
    if new:
        size = sum(path.stat().st_size for path in new)
        before = f"{counted(total.files, 'file')}, {bytes_text(total.bytes)}"
        after = f"{counted(len(new), 'pack')}, {bytes_text(size)}"
        print(f"{counted(total.scenes, 'scene')}, {counted(total.views, 'view')}: {before} → {after}")
    written = shard.write_list(data_path_json, packs)
    if written is not None:
        earlier = f"; {len(plans) - len(left)} from earlier runs" if len(left) < len(plans) else ""
        print(f"{counted(len(packs), 'pack')} in {written}{earlier}")
    return total.problems


def check_separate(packing: Packing, plans: Sequence[Plan], data_path_json: Path) -> None:
    """Check that nothing of the input would be replaced: neither its list nor a pack.

    Raises:
        InputError: it would be.
    """
    sources = {os.path.realpath(find_path(packing.data_path))}
    for place in map(split_path, chain.from_iterable(plan.scenes for plan in plans)):
        if place is not None:
            sources.add(os.path.realpath(place[0]))
    for path in (data_path_json, *(plan.path for plan in plans)):
        if os.path.realpath(path) in sources:
            raise InputError(path, "is the input, and would be replaced", "another --output or --name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("pack_scenes.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
