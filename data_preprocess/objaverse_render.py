"""Blender renders of GLB files, such as Objaverse's, as objects of the unified format.

    python3.11 -m venv .blender_env && .blender_env/bin/pip install -r data_preprocess/objaverse_requirement.txt
    python data_preprocess/objaverse_render.py --input FOLDER --output train_objects
    python data_preprocess/objaverse_render.py --uids FILE --output train_objects

Each object gets 32 views from random directions on the full sphere, at a radius of 1.7 to 3.0, 50 degrees wide, RGBA on a
transparent background; --rings adds 4 rings of 16 views, as in renders of GSO. Objects are centred, z up; the largest half-extent
is 0.75, or less for a chunky object, so that no part is farther than 0.85 from the origin. Failed objects are listed in
NAME_failed.json and tried again by the next run. Safe to re-run; finished views are skipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import contextlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tqdm import tqdm

from config.errors import InputError, missing_file
from config.flags import flag, read_command_line, settings
from config.messages import counted, shown, some
from config.signals import held
from config.threads import cores
from data.files import write_json
from data.scene_format import MOST_VIEWS
from data_preprocess.blender.asset import Asset, Render
from data_preprocess.blender.pool import BlenderPool, clean_environment, find_python, read_answer
from data_preprocess.command import (
    LARGEST_SIDE,
    MOST_WORKERS,
    check_list_name,
    check_one_of,
    run_script,
    say_left_out,
)
from data_preprocess.shards import Shard, read_shard, shard_flag

DEVICES = ("cpu", "cuda", "optix", "hip", "oneapi", "metal")
UID = re.compile("[0-9a-f]{32}")
POLL_S = 0.5
_FETCH = Path(__file__).parent / "blender" / "objaverse_worker.py"


@dataclass(frozen=True, kw_only=True)
class ObjectRender:
    """Flags: what to render, and how."""

    input: Path | None = flag(
        None, "folder with GLB files, at any depth", group="objects", unset="none; this or --uids is required"
    )
    uids: tuple[str, ...] | None = flag(
        None,
        "uids of Objaverse objects to download, or one FILE with a uid per line",
        metavar="UID",
        unset="none; this or --input is required",
    )
    output: Path = flag(..., "folder for the objects and the list of them")
    name: str = flag("objaverse", "NAME in NAME_data_path.json")
    num_views: int = flag(
        32, "views from random directions; 0 only with --rings", least=0, most=MOST_VIEWS, group="views and their quality"
    )
    rings: bool = flag(False, "add 4 rings of 16 views at elevations of 0, 20, 40 and 60 degrees, radius 2.7")
    image_size: tuple[int, int] = flag((512, 512), "height and width", least=1, most=LARGEST_SIDE)
    seed: int = flag(0, "seed of the cameras", least=0)
    samples: int = flag(64, "maximum rays per pixel, used where it is noisy", least=1, most=1 << 24)
    no_denoise: bool = flag(False, "do not remove noise")
    device: str = flag("cpu", "device that Cycles computes on", choices=DEVICES, group="Blender")
    workers: int | None = flag(
        None, "Blender processes, assigned to several GPUs in turn", least=1, most=MOST_WORKERS, unset="one per core; one on a GPU"
    )
    timeout: float = flag(600.0, "seconds without a new picture after which a process is ended", above=0, most=1_000_000)
    blender_python: str | None = flag(
        None, "Python of Blender's environment", unset="$BLENDER_PYTHON, else .blender_env/bin/python"
    )
    shard: str | None = shard_flag()


def find_glbs(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the GLB files at any depth below a folder.

    Returns:
        the files, sorted, by name: the path without suffix, `_` between its parts; the other files, relative to the folder.

    Raises:
        FileNotFoundError: the folder does not exist or has no GLB file.
        InputError: two files get the same name.
    """
    if not folder.is_dir():
        raise missing_file(folder, "a folder with GLB files")
    glbs: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        if path.suffix.lower() != ".glb" or not path.is_file():
            others.append(str(path.relative_to(folder)))
            continue
        name = "_".join(path.relative_to(folder).with_suffix("").parts)
        if name in glbs:
            raise InputError(path, f"would be named {name} like {glbs[name]}", "a different name for each")
        glbs[name] = path
    if not glbs:
        found = f", only {some(others)}" if others else ""
        raise FileNotFoundError(f"{folder}: has no GLB file below it{found}; wanted at least one")
    return glbs, others


def read_uids(given: Sequence[str]) -> list[str]:
    """Return uids from the command line, or from the one file it names, one per line.

    Raises:
        FileNotFoundError: it is neither a uid nor a file.
        InputError: one is not a uid, one appears twice, or there are none.
    """
    where, uids = "--uids", list(given)
    if len(uids) == 1 and not UID.fullmatch(uids[0]):
        where = uids[0]
        if not Path(where).is_file():
            raise FileNotFoundError(
                f"--uids: is {where}, which is not a file; wanted uids of Objaverse or a file with one per line"
            )
        uids = Path(where).read_text(encoding="utf-8", errors="replace").split()
    for uid in uids:
        if not UID.fullmatch(uid):
            raise InputError(where, f"has {shown(uid)}", "a uid of Objaverse: 32 digits of 0-9 and a-f")
    if not uids:
        raise InputError(where, "holds no uid", "at least one")
    if len(set(uids)) < len(uids):
        raise InputError(where, f"has {next(uid for uid in uids if uids.count(uid) > 1)} twice", "each uid once")
    return uids


def fetch(python: str, uids: Sequence[str]) -> Iterator[tuple[str, Path | None, str]]:
    """Download objects of Objaverse; yield the uid, the file or None, and the problem."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
        with held():
            process = stack.enter_context(subprocess.Popen(
                [python, str(_FETCH)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                errors="replace", start_new_session=True, env=clean_environment(),
            ))  # fmt: skip
            stack.callback(process.kill)
        # Writes while we read: many uids and their answers fit into the pipes only if both flow.
        feeding = threading.Thread(target=_feed, args=(process, uids), daemon=True)
        feeding.start()
        try:
            left = list(uids)
            for line in process.stdout:
                answer = read_answer(python, line)
                left.remove(answer["uid"])
                yield answer["uid"], Path(answer["glb"]) if "glb" in answer else None, answer.get("error", "")
            process.wait()
            log.seek(0)
            why = next((line for line in reversed(log.read().splitlines()) if line.strip()), "no answer")
            for uid in left:
                yield uid, None, f"cannot be downloaded, {_FETCH.name} ended early ({why}); wanted an answer from it"
        finally:
            process.kill()
            # Two threads must not close one pipe.
            feeding.join()


def _feed(process: subprocess.Popen, uids: Sequence[str]) -> None:
    # `fetch` reports a process that ended early.
    with contextlib.suppress(OSError), process.stdin as pipe:
        pipe.write("\n".join(uids))


def render_all(assets: Sequence[Asset], glbs: dict[str, Path], pool: BlenderPool, workers: int) -> dict[str, str]:
    """Render objects in parallel; return the problems by name."""
    failed: dict[str, str] = {}
    lock = threading.Lock()
    total = sum(len(asset.files) for asset in assets)
    threads = ThreadPoolExecutor(workers)
    with tqdm(total=total, desc="render", unit="view", leave=False, dynamic_ncols=True) as progress:

        def on_view(count: int) -> None:
            with lock:
                progress.update(count)

        try:
            futures = {threads.submit(asset.make, glbs[asset.name], pool, on_view): asset for asset in assets}
            left = set(futures)
            while left:
                # Python handles a signal that arrives just before a wait only after the wait.
                done, left = wait(left, POLL_S, FIRST_COMPLETED)
                for future in done:
                    try:
                        future.result()
                    except (InputError, OSError) as error:
                        failed[futures[future].name] = str(error)
                        progress.set_postfix(failed=len(failed))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.close()
            threads.shutdown()
    return failed


def open_assets(render: Render, names: Sequence[str]) -> tuple[list[Asset], list[Asset]]:
    """Return all objects, and the unfinished ones.

    Raises:
        InputError: an object exists with other cameras.
    """
    assets = [Asset(render, name) for name in names]
    return assets, [asset for asset in assets if not asset.scene.finished()]


def download(python: str, uids: Sequence[str], failed: dict[str, str]) -> dict[str, Path]:
    """Return the files of objects of Objaverse, by uid; add failed downloads to `failed`."""
    glbs = {}
    for uid, glb, problem in tqdm(fetch(python, uids), total=len(uids), desc="download", unit="object", leave=False):
        if glb is None:
            failed[uid] = f"{uid}: {problem}"
        else:
            glbs[uid] = glb
    return glbs


def list_paths(chosen: ObjectRender) -> tuple[Path, Path]:
    """Return the files of the list of finished objects and of that of failed ones."""
    data_path, failed = (chosen.output / f"{chosen.name}_{what}.json" for what in ("data_path", "failed"))
    return data_path, failed


def check(chosen: ObjectRender, given: Collection[str]) -> None:
    """Check flags against each other; `given` has the names of those that were given.

    Raises:
        InputError: the source is missing or given twice, there are no views, or the list's name is not a file name.
    """
    check_one_of(given, "input", "uids", "a folder of GLB files, or objects of Objaverse")
    check_list_name(chosen.name)
    if chosen.num_views == 0 and not chosen.rings:
        raise InputError("--num_views", "is 0", "1 or more without --rings")


def work(argv: Sequence[str] | None) -> list[str]:
    """Render the chosen objects; return the problems."""
    given = read_command_line("objaverse_render.py", __doc__, (ObjectRender,), argv)
    chosen = settings(ObjectRender, given)
    shard = read_shard(chosen.shard)
    check(chosen, given)
    quality = chosen.samples, not chosen.no_denoise
    render = Render(chosen.num_views, chosen.rings, chosen.image_size, chosen.seed, *quality, chosen.output)
    glbs, others = ({}, []) if chosen.input is None else find_glbs(chosen.input)
    if chosen.input is not None:
        say_left_out(chosen.input, "files other than GLB", others)
    names = shard.part(list(glbs) if chosen.uids is None else read_uids(chosen.uids))
    assets, left = open_assets(render, names)
    for path in list_paths(chosen):
        shard.begin(path)
    earlier = len(assets) - len(left)
    failed: dict[str, str] = {}
    if left:
        python = find_python(chosen.blender_python)
        if chosen.uids is not None:
            glbs = download(python, [asset.name for asset in left], failed)
            left = [asset for asset in left if asset.name in glbs]
    if left:
        workers = min(chosen.workers or (cores() if chosen.device == "cpu" else 1), len(left))
        with BlenderPool(python, workers, max(1, cores() // workers), chosen.device, chosen.timeout) as pool:
            failed |= render_all(left, glbs, pool, workers)
    return report(chosen, shard, assets, failed, earlier)


def report(chosen: ObjectRender, shard: Shard, assets: Sequence[Asset], failed: Mapping[str, str], earlier: int) -> list[str]:
    """Write the lists of finished and of failed objects, and say how many there are; return the problems.

    Args:
        chosen: the flags.
        shard: which of all objects they are.
        assets: the objects.
        failed: the problems by name.
        earlier: number of objects that earlier runs have finished.
    """
    finished = [asset.scene.json_path for asset in assets if asset.name not in failed]
    data_path, failed_path = list_paths(chosen)
    failed_path = shard.list_path(failed_path)
    if failed:
        write_json(failed_path, {asset.name: failed[asset.name] for asset in assets if asset.name in failed})
    else:
        failed_path.unlink(missing_ok=True)
    line = f"{len(finished)} of {counted(len(assets), 'object')}"
    written = shard.write_list(data_path, finished)
    if written is not None:
        line += f" in {written}"
    if earlier:
        line += f"; {earlier} from earlier runs"
    if failed:
        line += f"; {len(failed)} failed, see {failed_path}"
    print(line)
    return list(failed.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code, which is 2 also if an object could not be rendered."""
    return run_script("objaverse_render.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
