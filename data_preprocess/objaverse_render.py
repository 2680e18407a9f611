"""Renderings of GLB files, such as Objaverse's, by Blender, as objects of the unified format.

    python3.11 -m venv .blender_env && .blender_env/bin/pip install -r data_preprocess/objaverse_requirement.txt
    python data_preprocess/objaverse_render.py --input FOLDER --output train_objects
    python data_preprocess/objaverse_render.py --uids FILE --output train_objects

Each object gets 32 views from random directions of the whole sphere, at a radius of 1.7 to 3.0, 50 degrees wide, RGBA on a
transparent background; --rings adds 4 rings of 16 views like renders of GSO. It is centred, z up; its largest half-extent is
0.75, or less for a chunky one, so that nothing of it is farther than 0.85 from the origin. What fails is listed in
NAME_failed.json and tried again by the next call; an interrupted call continues where it stopped.
"""

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError, missing_file
from data.files import write_json
from data.scene_format import write_data_path
from data_preprocess.blender.asset import Asset, Render
from data_preprocess.blender.pool import BlenderPool, clean_environment, find_python, read_answer
from data_preprocess.command import at_least, cores, run_script

DEVICES = ("cpu", "cuda", "optix", "hip", "oneapi", "metal")
UID = re.compile("[0-9a-f]{32}")
POLL_S = 0.5
_FETCH = Path(__file__).parent / "blender" / "objaverse_worker.py"


def find_glbs(folder: Path) -> dict[str, Path]:
    """Return the GLB files at any depth below a folder, sorted, by name: the path without suffix, `_` between its parts.

    Raises:
        FileNotFoundError: the folder, or any GLB in it, is not there.
        InputError: two files have one name.
    """
    if not folder.is_dir():
        raise missing_file(folder, "a folder with GLB files")
    glbs: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() != ".glb" or not path.is_file():
            continue
        name = "_".join(path.relative_to(folder).with_suffix("").parts)
        if name in glbs:
            raise InputError(path, f"would be named {name} like {glbs[name]}", "a name for each")
        glbs[name] = path
    if not glbs:
        raise FileNotFoundError(f"{folder}: has no GLB file below it; wanted at least one")
    return glbs


def read_uids(given: Sequence[str]) -> list[str]:
    """Return uids from the command line, or from the one file that it names, one a line.

    Raises:
        FileNotFoundError: neither a uid nor a file.
        InputError: something that is no uid, one twice, or none.
    """
    where, uids = "--uids", list(given)
    if len(uids) == 1 and not UID.fullmatch(uids[0]):
        where = uids[0]
        if not Path(where).is_file():
            raise FileNotFoundError(f"--uids: is {where}, which is no file; wanted uids of Objaverse or a file with one a line")
        uids = Path(where).read_text(encoding="utf-8", errors="replace").split()
    for uid in uids:
        if not UID.fullmatch(uid):
            raise InputError(where, f"has {uid[:60]!r}", "a uid of Objaverse: 32 digits of 0-9 and a-f")
    if not uids:
        raise InputError(where, "holds no uid", "at least one")
    if len(set(uids)) < len(uids):
        raise InputError(where, f"has {next(uid for uid in uids if uids.count(uid) > 1)} twice", "each uid once")
    return uids


def fetch(python: str, uids: Sequence[str]) -> Iterator[tuple[str, Path | None, str]]:
    """Download objects of Objaverse; yield the uid, the file or None, and what went wrong."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log, subprocess.Popen(
        [python, str(_FETCH)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
        errors="replace", env=clean_environment(),
    ) as process:  # fmt: skip
        # Beside the reading: many uids and their answers fit into the pipes only if both move.
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
    # That the process ended too early is for `fetch` to report.
    with contextlib.suppress(OSError), process.stdin as pipe:
        pipe.write("\n".join(uids))


def render_all(assets: Sequence[Asset], glbs: dict[str, Path], pool: BlenderPool, workers: int) -> dict[str, str]:
    """Render objects side by side; return what went wrong, by name."""
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
                # Python acts on a signal that comes just before a wait begins only when the wait ends.
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
    """Return all objects, and those that are not finished.

    Raises:
        InputError: one is there with other cameras.
    """
    assets = [Asset(render, name) for name in names]
    return assets, [asset for asset in assets if not asset.scene.finished()]


def download(python: str, uids: Sequence[str], failed: dict[str, str]) -> dict[str, Path]:
    """Return the files of objects of Objaverse, by uid; add what could not be had to `failed`."""
    glbs = {}
    for uid, glb, problem in tqdm(fetch(python, uids), total=len(uids), desc="download", unit="object", leave=False):
        if glb is None:
            failed[uid] = f"{uid}: {problem}"
        else:
            glbs[uid] = glb
    return glbs


def work(argv: Sequence[str] | None) -> list[str]:
    """Render what the command line says; return the problems."""
    args = parse(argv)
    render = Render(args.num_views, args.rings, tuple(args.image_size), args.seed, args.samples, not args.no_denoise, args.output)
    glbs = {} if args.input is None else find_glbs(args.input)
    names = list(glbs) if args.uids is None else read_uids(args.uids)
    assets, left = open_assets(render, names)
    failed: dict[str, str] = {}
    if left:
        python = find_python(args.blender_python)
        if args.uids is not None:
            glbs = download(python, [asset.name for asset in left], failed)
            left = [asset for asset in left if asset.name in glbs]
    if left:
        workers = min(args.workers or (cores() if args.device == "cpu" else 1), len(left))
        with BlenderPool(python, workers, max(1, cores() // workers), args.device, args.timeout) as pool:
            failed |= render_all(left, glbs, pool, workers)
    finished = [asset.scene.json_path for asset in assets if asset.name not in failed]
    data_path, failed_path = (args.output / f"{args.name}_{what}.json" for what in ("data_path", "failed"))
    if failed:
        write_json(failed_path, {asset.name: failed[asset.name] for asset in assets if asset.name in failed})
    else:
        failed_path.unlink(missing_ok=True)
    if finished:
        write_data_path(data_path, finished)
        print(f"{len(finished)} of {len(assets)} objects in {data_path}")
    return list(failed.values())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        InputError: a flag is out of its range or contradicts another.
    """
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, help="folder with GLB files, at any depth")
    source.add_argument("--uids", nargs="+", metavar="UID", help="objects of Objaverse, downloaded; or one FILE with a uid a line")
    add("--output", type=Path, required=True, help="folder for the objects and the list of them")
    add("--name", default="objaverse", help="NAME in NAME_data_path.json (default: objaverse)")
    add("--num_views", type=int, default=32, help="views from random directions (default: 32)")
    add("--rings", action="store_true", help="add 4 rings of 16 views at elevations of 0, 20, 40 and 60 degrees, radius 2.7")
    add("--image_size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="default: 512 512")
    add("--seed", type=int, default=0, help="of the cameras (default: 0)")
    add("--samples", type=int, default=64, help="rays a pixel where it is noisy, at most (default: 64)")
    add("--no_denoise", action="store_true", help="leave the noise in")
    add("--device", choices=DEVICES, default="cpu", help="what Cycles computes on (default: cpu)")
    add("--workers", type=int, help="Blender processes (default: one a core; one on a GPU; they take several GPUs in turn)")
    add("--timeout", type=float, default=600, help="seconds after which a process without a new picture is ended (default: 600)")
    add("--blender_python", help="Python of Blender's environment (default: $BLENDER_PYTHON, else .blender_env/bin/python)")
    args = parser.parse_args(argv)
    at_least("--image_size", min(args.image_size), 1)
    at_least("--num_views", args.num_views, 0 if args.rings else 1)
    at_least("--seed", args.seed, 0)
    at_least("--samples", args.samples, 1)
    at_least("--workers", args.workers, 1)
    if not 0 < args.timeout < threading.TIMEOUT_MAX:
        raise InputError("--timeout", f"is {args.timeout:g}", "seconds, more than 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code: 2 also where an object could not be rendered."""
    return run_script("objaverse_render.py", work, argv)


if __name__ == "__main__":
    # Leave in order, so that the workers end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
