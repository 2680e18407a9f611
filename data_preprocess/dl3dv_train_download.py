"""Download of scenes of DL3DV-10K to train on, without the benchmark's.

    python data_preprocess/dl3dv_train_download.py --odir dl3dv_train --subset 1K 2K
    python data_preprocess/dl3dv_train_download.py --odir dl3dv_train --hash HASH HASH

What is relied on: the Hugging Face dataset DL3DV/DL3DV-ALL-960P has folders 1K to 11K of files HASH.zip, 0.3 GB each and 2.8 TB
in all. A zip holds `transforms.json` and `images_4` (960×540), in a folder HASH or, as in parts of 8K and 9K, in none; a few lack
them. It is gated, and so is the benchmark, each by a page of its own.

DL3DV-10K contains most of the 140 scenes of the benchmark. Their hashes are listed from the benchmark's own repository, kept in
ODIR/benchmark_hashes.json, and left out; without the list nothing is downloaded.

A scene appears as ODIR/HASH/nerfstudio when it is whole, laid out as the benchmark is; until then it is in ODIR/.download. What
of a zip is neither an image nor transforms.json is not unpacked. An interrupted download is continued by the same command.
"""

import contextlib
import os
import re
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import WeakFileLock

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError
from data.files import write_json
from data.scene_format import read_json
from data_preprocess.command import at_least, one_line, run_script
from data_preprocess.hub.dl3dv import HASH, IMAGE, benchmark_scenes, check_hashes
from data_preprocess.hub.transfers import (
    Item,
    Transfer,
    bytes_text,
    check_disk,
    fetch_file,
    is_inside,
    list_files,
)

REPO = "DL3DV/DL3DV-ALL-960P"
SUBSETS = tuple(f"{thousands}K" for thousands in range(1, 12))
ARCHIVE = re.compile(rf"(?:{'|'.join(SUBSETS)})/([0-9a-f]{{64}})\.zip")
BENCHMARK_SIZE = 140
WORK = ".download"


def excluded_scenes(odir: Path) -> set[str]:
    """Return the hashes of the benchmark's scenes: the hub's list and ODIR/benchmark_hashes.json together, which is renewed.

    Raises:
        OSError: the hub does not tell them, and no file does.
        InputError: they are fewer than the benchmark has, or the file holds something else.
    """
    path = odir / "benchmark_hashes.json"
    known: set[str] = set()
    if path.exists():
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(scene, str) and HASH.fullmatch(scene) for scene in content):
            raise InputError(path, "is no list of hashes", "the benchmark's: delete it and run again")
        known.update(content)
    try:
        scenes = known | set(benchmark_scenes())
    except OSError as error:
        if not known:
            found = f"is not there, and the hub does not tell the benchmark's scenes ({one_line(error)})"
            raise OSError(f"{path}: {found}; wanted their list: without it nothing is downloaded that may be one") from error
        scenes = known
    if len(scenes) < BENCHMARK_SIZE:
        raise InputError(path, f"has, with the hub's list, {len(scenes)} benchmark scenes", f"{BENCHMARK_SIZE} or more")
    if scenes != known:
        write_json(path, sorted(scenes))
    return scenes


def listed_archives(subsets: Sequence[str], workers: int) -> dict[str, RepoFile]:
    """Return the zips of some subsets by scene hash."""
    with ThreadPoolExecutor(workers) as pool:
        entries = [entry for entries in pool.map(partial(list_files, REPO), subsets) for entry in entries]
    return {match[1]: entry for entry in entries if isinstance(entry, RepoFile) and (match := ARCHIVE.fullmatch(entry.path))}


def is_complete(odir: Path, scene: str) -> bool:
    """Return whether a scene was unpacked.

    Raises:
        InputError: its folder is there and is not what this script writes.
    """
    if (odir / scene / "nerfstudio" / "transforms.json").is_file():
        return True
    if (odir / scene).exists():
        raise InputError(odir / scene, "has no nerfstudio/transforms.json in it", "a whole scene: move it away")
    return False


def fetch_scene(odir: Path, scene: str, entry: RepoFile) -> None:
    """Download and unpack one scene, unless it is there; a zip of no use is deleted, and a note kept of it."""
    place = odir / WORK
    place.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(place / f"{scene}.lock"):
        if is_complete(odir, scene) or why_useless(odir, scene, entry) is not None:
            return
        archive = fetch_file(REPO, entry.path, place / f"{scene}.zip", "dataset")
        shutil.rmtree(place / scene, ignore_errors=True)
        try:
            unpack(archive, scene, place / scene / "nerfstudio")
            (place / scene).rename(odir / scene)
        except InputError as error:
            shutil.rmtree(place / scene, ignore_errors=True)
            write_json(_note(odir, scene), {"content": _content(entry), "reason": one_line(error)})
        archive.unlink()


def why_useless(odir: Path, scene: str, entry: RepoFile) -> str | None:
    """Return what was found to be wrong with a scene's zip when it was unpacked, or None if that was never tried."""
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
        scene: the hash of the scene that it is to hold.
        folder: where `transforms.json` and `images_4` go.

    Raises:
        InputError: it is damaged, is of another scene, lacks something, or has members that would land elsewhere.
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
            with path.open("wb") as target:
                for block in _blocks(archive, file, info):
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())


@contextlib.contextmanager
def _unzipping(archive: Path) -> Iterator[None]:
    """Turn whatever a damaged zip raises into an InputError, but leave alone what the disk does."""
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
    """Return what to unpack, by path beside `transforms.json`."""
    for info in infos:
        if stat.S_ISLNK(info.external_attr >> 16) or not is_inside(info.filename.removesuffix("/")):
            raise InputError(archive.name, f"has the member {info.filename[:80]!r}", "plain files within the zip")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(archive.name, f"has the compression {info.compress_type}", "deflated or stored members")
        if info.flag_bits & 1:
            raise InputError(archive.name, f"has the encrypted member {info.filename[:80]!r}", "plain ones")
    tables = [info.filename for info in infos if PurePosixPath(info.filename).name == "transforms.json"]
    if len(tables) != 1:
        raise InputError(archive.name, f"has {len(tables)} transforms.json", "one")
    base = tables[0].removesuffix("transforms.json")
    others = [part for part in base.split("/") if HASH.fullmatch(part) and part != scene]
    if others:
        raise InputError(archive.name, f"holds the scene {others[0]}", "the one that it is named after")
    inside = {info.filename.removeprefix(base): info for info in infos if info.filename.startswith(base)}
    members = {name: info for name, info in inside.items() if IMAGE.fullmatch(name)}
    if not members:
        raise InputError(archive.name, "has no images beside transforms.json", "some")
    return {**members, "transforms.json": inside["transforms.json"]}


def chosen_archives(
    odir: Path, subsets: Sequence[str], hashes: Sequence[str] | None, workers: int
) -> tuple[dict[str, RepoFile], int]:
    """Return the zips to fetch by scene hash, and how many benchmark scenes were left out.

    Raises:
        FileNotFoundError: a hash is in none of the subsets.
        InputError: a hash is, or `odir` holds, a benchmark scene.
    """
    benchmark = excluded_scenes(odir)
    for scene in hashes or ():
        if scene in benchmark:
            raise InputError("--hash", f"is {scene}, a benchmark scene", "scenes to train on")
    for scene in sorted(benchmark):
        if (odir / scene).exists():
            raise InputError(odir / scene, "is a benchmark scene", "none among those to train on: move it away")
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
    """Download what the command line says."""
    parser = Parser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--odir", type=Path, required=True, help="folder for the scenes")
    add("--subset", nargs="+", choices=SUBSETS, help="all scenes of these; or where to look for those of --hash")
    add("--hash", nargs="+", action="extend", metavar="HASH", help="these scenes only")
    add("--workers", type=int, default=4, help="scenes at a time (default: 4)")
    args = parser.parse_args(argv)
    at_least("--workers", args.workers, 1)
    if not args.subset and not args.hash:
        raise InputError("--subset, --hash", "are both missing", "subsets, or scenes by hash")
    check_hashes(args.hash or ())
    archives, left_out = chosen_archives(args.odir, args.subset or SUBSETS, args.hash, args.workers)
    todo = {
        scene: entry
        for scene, entry in archives.items()
        if not is_complete(args.odir, scene) and why_useless(args.odir, scene, entry) is None
    }
    items = [
        Item(entry.path, entry.size, args.odir / WORK / f"{scene}.zip", partial(fetch_scene, args.odir, scene, entry))
        for scene, entry in todo.items()
    ]
    # Images hardly shrink in a zip: they take its size again, and the zips that are being unpacked lie beside them.
    largest = sorted(item.size for item in items)[-args.workers :]
    with Transfer(items, args.workers, args.odir, extra=sum(largest)) as transfer:
        transfer.fetch(items)
    transfer.check()
    report(args.odir, archives, items, left_out)


def report(odir: Path, archives: dict[str, RepoFile], fetched: Sequence[Item], left_out: int) -> None:
    """Print what there is now, and name the scenes of no use."""
    useless = {scene: why_useless(odir, scene, entry) for scene, entry in archives.items() if not is_complete(odir, scene)}
    for reason in useless.values():
        print(f"of no use: {reason}", file=sys.stderr)
    size = bytes_text(sum(item.size for item in fetched))
    print(
        f"{odir}: {len(archives) - len(useless)} scenes complete, {len(useless)} of no use, "
        f"{left_out} benchmark scenes left out; fetched {len(fetched)} zips, {size}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    return run_script("dl3dv_train_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
