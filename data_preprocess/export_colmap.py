"""Export of scenes as COLMAP models, for 3DGS, gsplat and other programs that read them.

    python data_preprocess/export_colmap.py data_example/objects_data_path.json --output outputs/colmap

A scene becomes a folder with images/ and sparse/0/: its photos and cameras as they are, and random points, since Gaussian splatting
starts from points; they are no reconstruction. A list gets a folder per scene, a single scene's JSON --output itself. Safe to
re-run: what is missing is added, and a folder that holds anything else is refused.
"""

# Letters: h w pixels.

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from tqdm import tqdm

from config.errors import InputError, line_of
from config.flags import LARGEST_WHOLE, flag, read_command_line, settings
from config.messages import counted, is_plain
from config.paths import find_path
from config.threads import cores
from data.files import check_output, check_output_folder, replace_when_finished, shortened
from data.frame_path import file_behind, split_frame
from data.images import open_image, read_orientation, read_pixels, rescale_intrinsics, to_8_bits
from data.problems.scene import KINDS
from data.scene_format import Scene, View, read_scene
from data.scene_list import read_data_path
from data.stored_file import read_file
from data_preprocess.capture.photo_names import photo_names, without_size_folder
from data_preprocess.capture.stored_image import png_bytes, read_stored
from data_preprocess.colmap.model_writer import model_files
from data_preprocess.colmap.random_points import random_points
from data_preprocess.colmap.sparse_model import Camera, Image
from data_preprocess.command import MOST_WORKERS, run_script, say
from data_preprocess.scene_folder import refuse_linked_folders
from data_preprocess.thread_pool import thread_pool

MODEL = Path("sparse", "0")
# Neither black nor white, the usual backgrounds.
GREY = 128
NOTE = "Random points where the cameras look: no reconstruction"
POINTS = ("points3D.txt", "points3D.bin")
# The file that is written last.
FINISHED = "images.txt"
# Bytes of a name without its suffix, which may be joined of several folders' names.
LONGEST_NAME = 180


@dataclass(frozen=True, kw_only=True)
class Export:
    """Flags: which scenes, and where and how they are written."""

    data_path: Path = flag(..., "list of scenes, or one scene's JSON", group="scenes", positional=True, metavar="DATA_PATH.json")
    output: Path = flag(..., "folder for the scenes, or for the one scene", metavar="DIR")
    points: int = flag(100_000, "random points to start from, 0 for none", least=0, most=10_000_000, group="export")
    kind: str = flag(
        "auto",
        "where points are: object: in a cube around what the cameras look at; scene: in the pictures, at all depths; auto: object "
        "if the cameras look at the origin",
        choices=KINDS,
    )
    seed: int = flag(0, "seed of the points", least=0, most=LARGEST_WHOLE)
    on_white: bool = flag(False, "write photos with transparency on white, for programs that ignore it")
    workers: int | None = flag(None, "threads", least=1, most=MOST_WORKERS, unset="one per core")


@dataclass(frozen=True, eq=False)
class Exported:
    """A photo to write: its name below `images`, its camera at the stored size, how its content is obtained, whether it is new."""

    image: Image
    content: Callable[[], bytes]
    changed: bool


def export_scene(scene: Scene, output: Path, folder: Path, export: Export, pool: ThreadPoolExecutor) -> str:
    """Write a scene as a COLMAP model; return a line about it.

    Photos are written before the model, and its images.txt last: a folder that has it is finished.

    Args:
        scene: as read.
        output: named by the user, who may have made a link of it.
        folder: of the scene: `output`, or in it.
        export: how.
        pool: threads.

    Raises:
        FileNotFoundError, InputError: a photo is missing, unusable, or of another shape than its camera, or the folder holds or
            is something else. Nothing has been written then.
    """
    _check_place(scene, folder)
    photos = list(pool.map(lambda view, name: _photo(view, name, export.on_white), scene.views, _names(scene)))
    points = random_points(scene, export.points, export.kind, export.seed)
    model = model_files([photo.image for photo in photos], points, GREY, NOTE)
    images = {folder / "images" / photo.image.name: photo.content for photo in photos}
    refuse_linked_folders(output, [*images, folder / MODEL / FINISHED])
    _check_free(folder, [*images, *(folder / MODEL / name for name in model)])
    left = [path for path, there in zip(images, pool.map(_is_there, images, images.values()), strict=True) if not there]
    changed = [name for name, content in model.items() if not _is_there(folder / MODEL / name, lambda content=content: content)]
    with tqdm(total=len(left), desc=scene.name, unit="image", leave=False, dynamic_ncols=True) as progress:
        for _ in pool.map(lambda path: _write(path, images[path]()), left):
            progress.update()
    for name in changed:
        _write(folder / MODEL / name, model[name])
    return _line(scene, photos, len(points), folder)


def _names(scene: Scene) -> list[str]:
    """Return names for the photos, distinct on every disk: without folders, which 3DGS drops, and without spaces, which end a name.

    A folder's name becomes the start of the file's.
    """
    paths = [PurePosixPath(os.path.relpath(view.file_path, scene.json_path.parent)) for view in scene.views]
    paths = [
        path if split_frame(view.file_path) is None else path.with_name(f"{path.name}.png")
        for path, view in zip(paths, scene.views, strict=True)
    ]
    flat = [_without_spaces("_".join(without_size_folder(path).parts)) for path in paths]
    short = [f"{shortened(PurePosixPath(name).stem, LONGEST_NAME)}{PurePosixPath(name).suffix}" for name in flat]
    return [f"{name}{PurePosixPath(old).suffix}" for name, old in zip(photo_names(short, ""), short, strict=True)]


def _without_spaces(text: str) -> str:
    return "".join(letter if is_plain(letter) and not letter.isspace() else "_" for letter in text)


def _photo(view: View, name: str, on_white: bool) -> Exported:
    """Plan a photo; only its header is read. A frame of a video is decoded, and again when it is written."""
    in_video = split_frame(view.file_path) is not None
    if in_video:
        (h, w), changed = read_pixels(view.file_path).shape[:2], True
    else:
        with open_image(view.file_path) as image:
            (w, h), orientation = image.size, read_orientation(image)
            on_white = on_white and image.has_transparency_data
        h, w = (w, h) if orientation >= 5 else (h, w)
        # Some programs turn photos by EXIF and some do not: upright, they are the same to all.
        changed = orientation != 1 or on_white
    camera = rescale_intrinsics(np.array([view.fx, view.fy, view.cx, view.cy]), (view.h, view.w), (h, w), view.file_path)
    if changed:
        name = f"{PurePosixPath(name).stem}.png"
    posed = Image(name, Camera("PINHOLE", w, h, tuple(camera.tolist())), view.w2c)
    read = partial(_changed_png, view.file_path, on_white or in_video) if changed else partial(read_file, view.file_path)
    return Exported(posed, read, changed)


def _changed_png(path: Path, opaque: bool) -> bytes:
    return png_bytes(to_8_bits(read_pixels(path)) if opaque else read_stored(path, upright=True))


def _check_place(scene: Scene, folder: Path) -> None:
    """Check that a folder neither holds a scene's photos nor is among them, as written and as they are on disk."""
    for stored in (file_behind(view.file_path) for view in scene.views):
        for photo, place in ((stored.absolute(), folder.absolute()), (_real(stored), _real(folder))):
            if place in photo.parents:
                raise InputError(folder, f"holds {photo}", "an --output separate from the input")
            if photo.parent in place.parents:
                raise InputError(folder, f"is in the folder of {photo}", "an --output separate from the input")


def _real(path: Path) -> Path:
    """Return where links lead; `Path.resolve` raises for one that leads to itself."""
    return Path(os.path.realpath(path))


def _check_free(folder: Path, files: Sequence[Path]) -> None:
    """Check that a folder holds nothing else, unless its model was finished: then programs may have added theirs."""
    if (folder / MODEL / FINISHED).exists():
        return
    expected = {*files, *(parent for file in files for parent in file.parents)}
    for place in (folder, folder / "images", folder / MODEL.parent, folder / MODEL):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path not in expected and not path.name.startswith("."):
                raise InputError(
                    folder, f"holds {path.relative_to(folder)}", "an empty folder, a new one, or an export of this scene"
                )


def _is_there(path: Path, content: Callable[[], bytes]) -> bool:
    """Return whether a file has been written; points of another export are to be replaced.

    Raises:
        InputError: there is another one.
    """
    check_output(path)
    if not path.exists():
        return False
    if path.read_bytes() == content():
        return True
    if path.name in POINTS and (path.parent / POINTS[0]).is_file() and _first_line(path.parent / POINTS[0]) == f"# {NOTE}":
        return False
    raise InputError(path, "is not what this scene and these flags give", "the same: choose another --output or delete the folder")


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace").rstrip()


def _write(path: Path, content: bytes) -> None:
    with replace_when_finished(path) as temporary:
        temporary.write_bytes(content)


def _line(scene: Scene, photos: Sequence[Exported], points: int, folder: Path) -> str:
    changed = sum(photo.changed for photo in photos)
    how = f" ({changed} turned upright, put on white or drawn from a video, as PNG)" if changed else ""
    cameras = counted(len({photo.image.camera for photo in photos}), "camera")
    return f"{scene.name}: {counted(len(photos), 'photo')}{how}, {cameras}, {counted(points, 'random point')} in {folder}"


def work(argv: Sequence[str] | None) -> list[str]:
    """Export all scenes of a list; return the problems."""
    export = settings(Export, read_command_line("export_colmap.py", __doc__, (Export,), argv))
    paths = list(dict.fromkeys(read_data_path(export.data_path)))
    check_output_folder(export.output)
    single = paths == [Path(os.path.abspath(find_path(export.data_path)))]
    problems, taken, exported = [], {}, 0
    progress = tqdm(paths, desc="scenes", unit="scene", leave=False, dynamic_ncols=True)
    with thread_pool(export.workers or cores()) as pool, progress:
        for path in progress:
            try:
                scene = read_scene(path)
                first = taken.setdefault(scene.name, path)
                if first != path:
                    raise InputError(path, f"has the name {scene.name} of {first}", "a name of its own for each scene")
                folder = export.output if single else export.output / scene.name
                say(export_scene(scene, export.output, folder, export, pool))
                exported += 1
            except (InputError, OSError) as error:
                problems.append(line_of(error))
    print(f"{exported} of {counted(len(paths), 'scene')} in {export.output}")
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("export_colmap.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
