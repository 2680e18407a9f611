"""Structure from motion: cameras of plain photos, found by COLMAP through its Python package pycolmap.

    pip install pycolmap

COLMAP runs in a separate process, `worker.py`, in a folder that keeps its results: an interrupted call continues where it
stopped.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from config.errors import InputError
from config.messages import counted
from config.signals import held
from data.files import disk_problem, temporary_beside, unwritable, write_json
from data.images import open_image
from data.scene_format import read_json
from data_preprocess.capture.stored_image import read_stored, write_png
from data_preprocess.colmap.sparse_model import Image, read_model

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "RADIAL_FISHEYE", "OPENCV_FISHEYE")
MATCHING = ("auto", "all", "sequence")
# With fewer photos, camera positions are ambiguous.
LEAST_PHOTOS = 3
# Up to this many photos, all pairs are matched.
ALL_PAIRS = 150
# In a sequence, each photo is matched with this many after it, and with those 2, 4, 8, … times as far.
NEIGHBOURS = 12
_WORKER, _LOG = Path(__file__).with_name("worker.py"), "colmap.log"
_ADVICE = (
    "neighbouring photos should share two thirds of their content: move between photos rather than only turn, keep them sharp, "
    "keep light and zoom constant, and include something textured in each"
)


def require_pycolmap() -> None:
    """Check that pycolmap is installed.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise InputError("--from_images", "needs pycolmap, which is not installed", "pip install pycolmap")


def find_cameras(
    folder: Path,
    names: Sequence[str],
    work: Path,
    workers: int,
    camera_model: str = "RADIAL",
    matching: str = "auto",
    min_registered: float = 0.5,
    seed: int = 0,
) -> tuple[list[Image], list[list[str]]]:
    """Find poses and lenses of photos.

    Photos of the same size, and the same focal length where their files state it, share a lens. The same call gives the same
    cameras on the same machine with the same number of threads.

    Args:
        folder, names: the photos, relative to the folder, in the order they were taken.
        work: folder for COLMAP's files; emptied first if it belongs to other photos or settings.
        workers: threads.
        camera_model: COLMAP's name of the lens distortion.
        matching: pairs of photos to match: 'all', those near each other in the 'sequence', or 'auto': all for up to 150 photos.
        min_registered: share of the photos that must be placed.
        seed: of COLMAP's random numbers.

    Returns:
        the photos placed, in their order; and groups of names placed only relative to each other.

    Raises:
        InputError: pycolmap is missing, there are too few photos, COLMAP failed, or it placed too few.
    """
    require_pycolmap()
    if len(names) < LEAST_PHOTOS:
        raise InputError(folder, f"has {counted(len(names), 'photo')}", f"{LEAST_PHOTOS} or more to find cameras")
    states = [(folder / name).stat() for name in names]
    job = {
        "made_from": [[name, state.st_size, state.st_mtime_ns] for name, state in zip(names, states, strict=True)],
        "folder": str(folder.resolve()),
        "photos": [f"{i:06d}{_suffix(folder / name)}" for i, name in enumerate(names)],
        "pairs": _pairs(len(names), matching),
        "camera_model": camera_model,
        "seed": seed,
    }
    _prepare(folder, names, work, job)
    place = dict(zip(job["photos"], names, strict=True))
    if not (work / "model").exists():
        _run(folder, work, workers, place)
    found = (work / "model" / "images.bin").exists()
    images = [replace(image, name=place[image.name]) for image in read_model(work / "model")] if found else []
    if len(images) < max(LEAST_PHOTOS, min_registered * len(names)):
        wanted = f"{min_registered:.0%} (--min_registered) and at least {LEAST_PHOTOS}: {_ADVICE}"
        raise InputError(folder, f"has {len(images)} of {counted(len(names), 'photo')} that COLMAP could place", wanted)
    placed = {image.name for image in images}
    others = [[place[name] for name in group] for group in read_json(work / "model" / "others.json")]
    others = [[name for name in group if name not in placed] for group in others]
    return images, [group for group in others if group]


def _pairs(count: int, matching: str) -> list[list[int]]:
    if matching == "all" or (matching == "auto" and count <= ALL_PAIRS):
        return [[i, j] for i in range(count) for j in range(i + 1, count)]
    steps = list(range(1, NEIGHBOURS + 1))
    while 2 * steps[-1] < count:
        steps.append(2 * steps[-1])
    return [[i, i + step] for i in range(count) for step in steps if i + step < count]


def _suffix(path: Path) -> str:
    """Return the suffix of the file given to COLMAP, by the photo's real format; COLMAP does not read WebP."""
    return ".png" if _format(path) in ("PNG", "WEBP") else ".jpg"


def _format(path: Path) -> str | None:
    with open_image(path) as image:
        return image.format


def _prepare(folder: Path, names: Sequence[str], work: Path, job: dict) -> None:
    """Set up the work folder, unless an earlier call did so for the same job."""
    job_path = work / "job.json"
    # After an interrupted set-up, a folder holds some of these names and no job.
    if job_path.exists() and read_json(job_path) == job:
        return
    known = ("photos", "working", "model.finished", "model", "job.json", "pairs.txt", _LOG)
    for path in [*(work / name for name in known), *work.glob("database.db*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    photos = work / "photos"
    photos.mkdir(parents=True)
    for name, link in zip(names, job["photos"], strict=True):
        source = (folder / name).resolve()
        if _format(source) == "WEBP":
            write_png(photos / link, read_stored(source))
            continue
        try:
            (photos / link).symlink_to(source)
        except OSError:  # a file system or Windows account without links
            shutil.copyfile(source, photos / link)
    write_json(job_path, job)


def _run(folder: Path, work: Path, threads: int, place: Mapping[str, str]) -> None:
    """Run the worker, with a progress bar per stage; `place` maps the names given to COLMAP to the photos' own."""
    command = [sys.executable, str(_WORKER), str(work), str(threads)]
    log = work / _LOG
    process = None
    with log.open("ab") as errors:
        try:
            with held():  # in a separate session: signals reach only this process, which then ends the worker
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", start_new_session=True
                )
            problem = _follow(process.stdout)
            code = process.wait()
        finally:
            if process is not None:
                process.kill()
                process.wait()
                process.stdout.close()
    if problem is None and code == 0:
        return
    if problem is None:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problem = f"exit code {code}: {lines[-1] if lines else 'no message'}"
    with temporary_beside(work / "probe") as probe:
        code = disk_problem(probe)
    if code is not None:  # COLMAP's messages say it in many ways
        raise unwritable(work, code)
    for link, name in place.items():
        problem = problem.replace(f"photos/{link}", name)
    raise InputError(folder, f"made COLMAP fail ({' '.join(problem.split())})", f"photos it can use: see {log}")


def _follow(lines: Iterator[str]) -> str | None:
    """Show the worker's progress until it ends; return the error it reported, or None."""
    problem, bar, stage = None, None, None
    for line in lines:
        answer = json.loads(line)
        problem = answer.get("error", problem)
        if "stage" in answer:
            if answer["stage"] != stage:
                if bar is not None:
                    bar.close()
                stage = answer["stage"]
                unit = "pair" if stage == "matches" else "photo"
                bar = tqdm(total=answer["total"], desc=stage, unit=unit, leave=False, dynamic_ncols=True)
            bar.update(answer["done"] - bar.n)
    if bar is not None:
        bar.close()
    return problem
