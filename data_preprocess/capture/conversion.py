"""Conversion of posed photos from any source to scenes of the unified format, shared by all converters.

A converter reads its source into `Photo`s and calls `convert`. Letters: h w pixels, c colours.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from config.errors import InputError, line_of
from config.flags import flag
from config.messages import counted, shown
from config.threads import cores
from data.files import replace_when_finished
from data.pinhole import check_intrinsics
from data.problems.scene import camera_problems, describe
from data.scene_format import Scene, View, read_scene
from data_preprocess.capture.cut_out import Cut, CutOut, CutOutSettings, apply_cut, background_note
from data_preprocess.capture.lens import Lens, pinhole_camera, undistort
from data_preprocess.capture.stored_image import read_header, read_stored, same_shape, write_png
from data_preprocess.command import MOST_WORKERS
from data_preprocess.scene_folder import SceneFolder
from data_preprocess.shards import ALL, Shard, shard_flag
from data_preprocess.thread_pool import thread_pool


@dataclass(frozen=True)
class ConversionSettings:
    """Flags of every converter."""

    workers: int | None = flag(None, "threads", least=1, most=MOST_WORKERS, group="conversion", unset="one per core")
    long_lrm: bool = flag(False, "write scenes in Long-LRM's spelling")
    shard: str | None = shard_flag()


@dataclass(frozen=True, eq=False)
class Photo:
    """A posed photo of a source.

    Args:
        source: its file.
        name: the file to write, without suffix, relative to the scene's folder, with forward slashes.
        lens: of the photo, at its size or at another scale.
        w2c: (4, 4) float64, camera from world, OpenCV axes.
        as_published: see `lens.pinhole_camera`.
        relative: the name of its file in the capture, or in `images` there, by which its mask is found; the file's alone if empty.
    """

    source: Path
    name: str
    lens: Lens
    w2c: np.ndarray
    as_published: bool = False
    relative: str = ""


@dataclass(frozen=True, eq=False)
class Task:
    """A photo to convert: its lens at the stored size, whether it is turned upright or copied unchanged, its view and its cut."""

    photo: Photo
    lens: Lens
    upright: bool
    copied: bool
    view: View
    cut: Cut | None = None


def convert(
    scenes: Mapping[str, Callable[[], Sequence[Photo]]],
    output: str | os.PathLike,
    data_path_json: str | os.PathLike,
    workers: int | None = None,
    long_lrm: bool = False,
    shard: Shard = ALL,
    cutting: CutOutSettings | None = None,
    frame: str = "scene",
) -> list[str]:
    """Write scenes, or a shard's part of them, and the list of those; print one line per scene.

    Finished scenes are skipped and half-finished ones completed. A scene that cannot be converted does not stop the others; the
    list contains the finished ones.

    Args:
        scenes: functions that read a scene's photos, by the scene's name, which is also that of its folder.
        output: folder for the scenes.
        data_path_json: the list to write.
        workers: threads, 1 or more; one per core by default.
        long_lrm: write scenes in Long-LRM's spelling.
        shard: which of the scenes to write.
        cutting: whether and how objects are cut out; they are not by default.
        frame: of the world, as in `world_frame.orient`. Unless it is a scene's, objects with a background get another line.

    Returns:
        one line for each scene that could not be converted, and for each problem with the cameras of a converted one.

    Raises:
        InputError: `data_path_json` is no place for a file, parts of another number of shards are there, or flags contradict each
            other.
    """
    cut_out = CutOut(cutting or CutOutSettings())
    shard.begin(data_path_json)
    chosen = shard.part(list(scenes.items()))
    workers = cores() if workers is None else workers
    finished, problems, lines = [], [], []
    with thread_pool(workers) as pool, _bar(total=len(chosen), desc="scenes", unit="scene") as progress:
        for name, read in chosen:
            try:
                scene = convert_scene(Path(output) / name, read(), pool, long_lrm, cut_out)
                note = None if frame == "scene" else background_note(scene)
            except (InputError, OSError) as error:
                problems.append(line_of(error))
            else:
                finished.append(scene.json_path)
                problems += camera_problems(scene)
                lines.append(describe(scene))
                lines += [] if note is None else [note]
            progress.update()
    for line in lines:
        print(line)
    written = shard.write_list(data_path_json, finished)
    if written is not None:
        print(f"{len(finished)} of {counted(len(chosen), 'scene')} in {written}")
    return problems


def convert_scene(folder: Path, photos: Sequence[Photo], pool: ThreadPoolExecutor, long_lrm: bool, cut_out: CutOut) -> Scene:
    """Write one scene: its images, each complete or not at all, then its JSON; return it as read back.

    Images that need no change are copied, all others are written as PNG. Those that cannot be cut out are left out and listed.

    Raises:
        FileNotFoundError, InputError: there is no photo, or none that can be cut out; one is missing, damaged or contradicts its
            lens; two share a name; or the folder already holds something else.
    """
    if not photos:
        raise InputError(folder.name, "has no photos", "at least one")
    for photo in photos:
        _check_place(photo, folder)
    named = [(photo.source, photo.relative or photo.source.name) for photo in photos]
    cuts = cut_out.plan(folder.name, named, pool)
    tasks = list(pool.map(lambda i: _plan(photos[i], folder, cuts[i]), cuts))
    _check_names(tasks)
    scene = SceneFolder(folder, [task.view for task in tasks])
    left = scene.begin(_made_from(tasks))
    with _bar(total=len(left), desc=folder.name, unit="image") as progress:
        for _ in pool.map(_write, [tasks[i] for i in left]):
            progress.update()
    scene.finish(long_lrm)
    return read_scene(scene.json_path)


def _plan(photo: Photo, folder: Path, cut: Cut | None) -> Task:
    """Fit the lens to the stored image; only its header is read.

    Structure from motion, and programs that read its files, take images as stored and ignore orientation tags. So do we, unless
    only the upright image fits the lens.
    """
    (h, w), turned = read_header(photo.source)
    lens, upright = photo.lens, False
    if turned >= 5 and not _fits(lens, h, w) and _fits(lens, w, h):
        h, w, upright = w, h, True
    if not _fits(lens, h, w):
        wanted = f"the {lens.w}×{lens.h} of its camera or the same shape at another scale"
        raise InputError(photo.source, f"is an image of {w}×{h} (w×h)", wanted)
    lens, camera = _cameras(photo, lens, h, w)
    copied = lens.is_pinhole and not photo.as_published and turned == 1 and cut is None
    target = folder / f"{photo.name}{photo.source.suffix if copied else '.png'}"
    return Task(photo, lens, upright, copied, View(target, w, h, *camera, photo.w2c), cut)


def _cameras(photo: Photo, lens: Lens, h: int, w: int) -> tuple[Lens, tuple[float, float, float, float]]:
    """Return the lens at a photo's size, and its pinhole camera.

    Raises:
        InputError: a lens has intrinsics of another unit, which undistortion may hide, or no photo has the camera.
    """
    where = os.fspath(photo.source)
    try:
        lens = lens.scaled(w, h)
    except InputError as error:
        raise error.within(where) from error
    if not lens.fisheye:
        check_intrinsics(where, w, h, (lens.fx, lens.fy, lens.cx, lens.cy))
    try:
        camera = pinhole_camera(lens, photo.as_published)
    except InputError as error:
        raise error.within(where) from error
    check_intrinsics(where, w, h, camera)
    return lens, camera


def _fits(lens: Lens, h: int, w: int) -> bool:
    return same_shape((lens.h, lens.w), (h, w))


def _write(task: Task) -> None:
    pixels = read_stored(task.photo.source, task.upright)
    if task.copied:
        content = task.photo.source.read_bytes()
        with replace_when_finished(task.view.file_path) as temporary:
            temporary.write_bytes(content)
        return
    if task.cut is not None:
        pixels = apply_cut(pixels, task.cut, task.upright)
    try:
        pixels = undistort(pixels, task.lens, task.photo.as_published)
    except InputError as error:
        raise error.within(task.photo.source) from error
    write_png(task.view.file_path, pixels)


def _check_place(photo: Photo, folder: Path) -> None:
    name = PurePosixPath(photo.name)
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise InputError(photo.source, f"would be written as {shown(photo.name, 200)}", "a name in the scene's folder")
    # As written and as it is on disk: the input's folders and photos may be links.
    inside = folder.absolute() in photo.source.absolute().parents or folder.resolve() in photo.source.resolve().parents
    if inside:
        raise InputError(folder, f"holds {photo.source}", "an --output separate from the input")


def _check_names(tasks: Sequence[Task]) -> None:
    first: dict[Path, Task] = {}
    for task in tasks:
        other = first.setdefault(task.view.file_path, task)
        if other is not task:
            found = f"would be written to the same file as {other.photo.source}"
            raise InputError(task.photo.source, found, "a different name for each")


def _made_from(tasks: Sequence[Task]) -> str:
    """Return a digest of everything that images are made from, but not of their poses."""
    digest = hashlib.sha256()
    for task in tasks:
        what = (*_file_state(task.photo.source), task.photo.name, task.lens, task.upright, task.photo.as_published)
        digest.update(repr(what).encode())
        if task.cut is not None:
            digest.update(repr(("cut", *(_file_state(task.cut.mask) if task.cut.mask is not None else ()))).encode())
    return digest.hexdigest()


def _file_state(path: Path) -> tuple[str, int, int]:
    real = path.resolve()
    state = real.stat()
    return str(real), state.st_size, state.st_mtime_ns


def _bar(**options) -> tqdm:
    return tqdm(leave=False, dynamic_ncols=True, **options)
