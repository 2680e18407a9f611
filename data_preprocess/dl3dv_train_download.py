"""Download of training scenes of DL3DV-10K, without those of the benchmark.

    python data_preprocess/dl3dv_train_download.py --odir dl3dv_train --subset 1K 2K
    python data_preprocess/dl3dv_train_download.py --odir dl3dv_train --hash HASH HASH

Assumes that the Hugging Face dataset DL3DV/DL3DV-ALL-960P has folders 1K to 11K of files HASH.zip, 0.3 GB each and 2.8 TB in
all. A zip holds `transforms.json` and `images_4` (960×540), in a folder HASH or, as in parts of 8K and 9K, at the top; a few lack
them. It is gated, and so is the benchmark; each has its own page for requesting access.

DL3DV-10K contains most of the 140 scenes of the benchmark. Their hashes are listed from the benchmark's own repository, kept in
ODIR/benchmark_hashes.json, and excluded; without the list nothing is downloaded.

A scene appears as ODIR/HASH/nerfstudio once it is complete, laid out like the benchmark; until then it is in ODIR/.download. Only
images and transforms.json are unpacked. The same command continues an interrupted download.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import contextlib
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import WeakFileLock

from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import counted, one_line, shown
from data.files import naming, write_json
from data.scene_format import read_json
from data_preprocess.command import MOST_WORKERS, bytes_text, run_script
from data_preprocess.hub.dl3dv import HASH, IMAGE, benchmark_scenes, check_hashes
from data_preprocess.hub.transfers import (
    Item,
    Transfer,
    check_disk,
    fetch_file,
    is_inside,
    list_files,
)
from data_preprocess.scene_folder import refuse_linked_folders

REPO = "DL3DV/DL3DV-ALL-960P"
SUBSETS = tuple(f"{thousands}K" for thousands in range(1, 12))
ARCHIVE = re.compile(rf"(?:{'|'.join(SUBSETS)})/([0-9a-f]{{64}})\.zip")
BENCHMARK_SIZE = 140
WORK = ".download"
# Most bytes of a file in a zip; an image of 960×540 has 1 MB. A small zip can unpack to any number of zeros.
LARGEST_MEMBER = 50_000_000
# A zip may unpack to so many times its size: DEFLATE could turn 1 MB into 1 GB.
MOST_GROWTH = 20


@dataclass(frozen=True, kw_only=True)
class TrainingDownload:
    """Flags: which scenes to download, and how."""

    subset: tuple[str, ...] | None = flag(
        None,
        "subsets to download; with --hash, subsets to search",
        choices=SUBSETS,
        group="scenes",
        unset="none; with --hash, every subset",
    )
    hash: tuple[str, ...] | None = flag(
        None, "only these scenes", metavar="HASH", unset="all of --subset; this or --subset is required"
    )
    odir: Path = flag(..., "folder for the scenes", group="download")
    workers: int = flag(4, "scenes at a time", least=1, most=MOST_WORKERS)


def excluded_scenes(odir: Path) -> set[str]:
    """Return the hashes of the benchmark's scenes: the hub's list combined with ODIR/benchmark_hashes.json, which is updated.

    Raises:
        OSError: the hub's list is unavailable, and there is no file.
        InputError: there are fewer than the benchmark has, or the file holds something else.
    """
    path = odir / "benchmark_hashes.json"
    known: set[str] = set()
    if path.exists():
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(scene, str) and HASH.fullmatch(scene) for scene in content):
            raise InputError(path, "is not a list of hashes", "the benchmark's: delete it and run again")
        known.update(content)
    try:
        scenes = known | set(benchmark_scenes())
    except OSError as error:
        if not known:
            found = f"is not there, and the hub's list of benchmark scenes is unavailable ({one_line(error)})"
            raise OSError(f"{path}: {found}; wanted one of the two: without a list, nothing is downloaded") from error
        scenes = known
    if len(scenes) < BENCHMARK_SIZE:
        raise InputError(path, f"has, with the hub's list, {len(scenes)} benchmark scenes", f"{BENCHMARK_SIZE} or more")
    if scenes != known:
        write_json(path, sorted(scenes))
    return scenes


def listed_archives(subsets: Sequence[str], workers: int) -> dict[str, RepoFile]:
    """Return the zips of these subsets, by scene hash."""
    with ThreadPoolExecutor(workers) as pool:
        entries = [entry for entries in pool.map(partial(list_files, REPO), subsets) for entry in entries]
    return {match[1]: entry for entry in entries if isinstance(entry, RepoFile) and (match := ARCHIVE.fullmatch(entry.path))}


def is_complete(odir: Path, scene: str) -> bool:
    """Return whether a scene was unpacked.

    Raises:
        InputError: its folder exists and is not what this script writes.
    """
    if (odir / scene / "nerfstudio" / "transforms.json").is_file():
        return True
    if (odir / scene).exists():
        raise InputError(odir / scene, "has no nerfstudio/transforms.json in it", "a complete scene: move it away")
    return False


def fetch_scene(odir: Path, scene: str, entry: RepoFile) -> None:
    """Download and unpack one scene, unless it is there; an unusable zip is deleted and noted."""
    place = odir / WORK
    place.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(place / f"{scene}.lock"):
        if is_complete(odir, scene) or why_unusable(odir, scene, entry) is not None:
            return
        archive = fetch_file(REPO, entry.path, place / f"{scene}.zip", "dataset")
        shutil.rmtree(place / scene, ignore_errors=True)
        refuse_linked_folders(odir, [place / scene / "nerfstudio" / "transforms.json"])
        try:
            unpack(archive, scene, place / scene / "nerfstudio")
            (place / scene).rename(odir / scene)
        except InputError as error:
            shutil.rmtree(place / scene, ignore_errors=True)
            write_json(_note(odir, scene), {"content": _content(entry), "reason": one_line(error)})
        archive.unlink()


def why_unusable(odir: Path, scene: str, entry: RepoFile) -> str | None:
    """Return why a scene's zip could not be unpacked, or None if it was never tried."""
    path = _note(odir, scene)
    note = read_json(path) if path.exists() else None
    return str(note.get("reason")) if isinstance(note, dict) and note.get("content") == _content(entry) else None


def _note(odir: Path, scene: str) -> Path:
    return odir / WORK / f"{scene}.useless.json"


def _content(entry: RepoFile) -> str:
    return entry.lfs.sha256 if entry.lfs else entry.blob_id


def unpack(archive: Path, scene: str, folder: Path) -> None:
    """Unpack the images and transforms.json of a zip, and nothing else.

    Args:
        archive: the zip.
        scene: the hash of the scene it should hold.
        folder: destination of `transforms.json` and `images_4`.

    Raises:
        InputError: it is damaged, holds another scene, lacks something, or has members that would be written elsewhere.
        OSError: the disk is full.
    """
    with _unzipping(archive):
        file = zipfile.ZipFile(archive)
    with file:
        members = _members(archive, file.infolist(), scene)
        check_disk(folder, sum(info.file_size for info in members.values()))
        for name, info in members.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with naming(path), path.open("wb") as target:
                for block in _blocks(archive, file, info):
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())


@contextlib.contextmanager
def _unzipping(archive: Path) -> Iterator[None]:
    """Turn anything a damaged zip raises into an InputError; errors of the disk pass through."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(archive.name, f"is a damaged zip ({one_line(error)})", "a scene's") from error


def _blocks(archive: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with _unzipping(archive), file.open(info) as source:
        while block := source.read(1 << 20):
            yield block


def _members(archive: Path, infos: Sequence[zipfile.ZipInfo], scene: str) -> dict[str, zipfile.ZipInfo]:
    """Return what to unpack, by path relative to the folder of `transforms.json`."""
    for info in infos:
        if stat.S_ISLNK(info.external_attr >> 16) or not is_inside(info.filename.removesuffix("/")):
            raise InputError(archive.name, f"has the member {shown(info.filename)}", "plain files within the zip")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(archive.name, f"has the compression {info.compress_type}", "deflated or stored members")
        if info.flag_bits & 1:
            raise InputError(archive.name, f"has the encrypted member {shown(info.filename)}", "plain ones")
    tables = [info.filename for info in infos if PurePosixPath(info.filename).name == "transforms.json"]
    if len(tables) != 1:
        raise InputError(archive.name, f"has {len(tables)} transforms.json", "one")
    base = tables[0].removesuffix("transforms.json")
    others = [part for part in base.split("/") if HASH.fullmatch(part) and part != scene]
    if others:
        raise InputError(archive.name, f"holds the scene {others[0]}", "the one it is named after")
    inside = {info.filename.removeprefix(base): info for info in infos if info.filename.startswith(base)}
    members = {name: info for name, info in inside.items() if IMAGE.fullmatch(name)}
    if not members:
        raise InputError(archive.name, "has no images next to transforms.json", "some")
    wanted = {**members, "transforms.json": inside["transforms.json"]}
    for name, info in wanted.items():
        if info.file_size > LARGEST_MEMBER:
            raise InputError(archive.name, f"has {name} of {bytes_text(info.file_size)}", f"{bytes_text(LARGEST_MEMBER)} at most")
    unpacked, packed = sum(info.file_size for info in wanted.values()), archive.stat().st_size
    if unpacked > MOST_GROWTH * packed + LARGEST_MEMBER:
        found = f"unpacks {bytes_text(packed)} to {bytes_text(unpacked)}"
        raise InputError(archive.name, found, f"photos, which hardly shrink: {MOST_GROWTH} times as much at most")
    return wanted


def chosen_archives(
    odir: Path, subsets: Sequence[str], hashes: Sequence[str] | None, workers: int
) -> tuple[dict[str, RepoFile], int]:
    """Return the zips to download by scene hash, and the number of benchmark scenes excluded.

    Raises:
        FileNotFoundError: a hash is in none of the subsets.
        InputError: a hash is, or `odir` holds, a benchmark scene.
    """
    benchmark = excluded_scenes(odir)
    for scene in hashes or ():
        if scene in benchmark:
            raise InputError("--hash", f"is {scene}, a benchmark scene", "training scenes")
    for scene in sorted(benchmark):
        if (odir / scene).exists():
            raise InputError(odir / scene, "is a benchmark scene", "none among the training scenes: move it away")
    archives = listed_archives(subsets, workers)
    for scene in hashes or ():
        if scene not in archives:
            raise FileNotFoundError(
                f"--hash: is {scene}, which is in none of {', '.join(subsets)} of {REPO}; wanted scenes of these"
            )
    chosen = {scene: archives[scene] for scene in hashes or archives}
    kept = {scene: entry for scene, entry in chosen.items() if scene not in benchmark}
    return kept, len(chosen) - len(kept)


def work(argv: Sequence[str] | None) -> None:
    """Download the chosen scenes."""
    given = read_command_line("dl3dv_train_download.py", __doc__.split("\n")[0], (TrainingDownload,), argv)
    chosen = settings(TrainingDownload, given)
    if not chosen.subset and not chosen.hash:
        raise InputError("--subset, --hash", "are both missing", "subsets, or scenes by hash")
    check_hashes(chosen.hash or ())
    archives, excluded = chosen_archives(chosen.odir, chosen.subset or SUBSETS, chosen.hash, chosen.workers)
    todo = {
        scene: entry
        for scene, entry in archives.items()
        if not is_complete(chosen.odir, scene) and why_unusable(chosen.odir, scene, entry) is None
    }
    items = [
        Item(entry.path, entry.size, chosen.odir / WORK / f"{scene}.zip", partial(fetch_scene, chosen.odir, scene, entry))
        for scene, entry in todo.items()
    ]
    # Images hardly shrink in a zip: unpacked, they take its size again, in addition to the zips being unpacked.
    largest = sorted(item.size for item in items)[-chosen.workers :]
    with Transfer(items, chosen.workers, chosen.odir, extra=sum(largest)) as transfer:
        transfer.fetch(items)
    transfer.check()
    report(chosen.odir, archives, items, excluded)


def report(odir: Path, archives: dict[str, RepoFile], fetched: Sequence[Item], excluded: int) -> None:
    """Print what is complete, and why scenes are unusable."""
    unusable = {scene: why_unusable(odir, scene, entry) for scene, entry in archives.items() if not is_complete(odir, scene)}
    for reason in unusable.values():
        print(f"unusable: {reason}", file=sys.stderr)
    size = bytes_text(sum(item.size for item in fetched))
    print(
        f"{odir}: {counted(len(archives) - len(unusable), 'scene')} complete, {len(unusable)} unusable, "
        f"{counted(excluded, 'benchmark scene')} excluded; fetched {counted(len(fetched), 'zip')}, {size}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("dl3dv_train_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
