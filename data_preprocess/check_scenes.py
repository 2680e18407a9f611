"""Check of scenes in the unified format, with two pictures per scene: a contact sheet and a plot of its cameras.

    python data_preprocess/check_scenes.py data_example/objects_data_path.json

Pictures go to outputs/check/LIST/SCENE/ by default. The exit code is 0 if there are no problems, else 2 with one line per problem
on standard error.
"""

# Letters: v views, h w pixels.

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from config.errors import InputError
from config.flags import flag, read_command_line, refuse_without_effect, settings
from config.messages import counted
from config.threads import cores
from data.images import read_pixels, rescale_intrinsics, to_8_bits
from data.output.picture import camera_plot, contact_sheet
from data.scene_format import Scene, View, read_data_path, read_scene
from data.scene_problems import KINDS, camera_problems, describe, kind_of
from data_preprocess.command import MOST_WORKERS, run_script
from data_preprocess.scene_folder import refuse_linked_folders

# Photos on a contact sheet, and their longer side in pixels until it is drawn.
MOST_PHOTOS, THUMBNAIL = 48, 480


@dataclass(frozen=True, kw_only=True)
class Check:
    """Flags: what to check, and where pictures go."""

    data_path: Path = flag(..., "list of scenes, or one scene's JSON", group="scenes", positional=True, metavar="DATA_PATH.json")
    kind: str = flag(
        "auto",
        "object: poses are used as given; scene: they are normalised; auto: object if the cameras look at the origin",
        choices=KINDS,
        group="check",
    )
    output: Path | None = flag(None, "folder for the pictures", unset="outputs/check/LIST")
    no_pictures: bool = flag(False, "check only")
    workers: int | None = flag(None, "threads", least=1, most=MOST_WORKERS, unset="one per core")


def check_scene(scene: Scene, pool: ThreadPoolExecutor, pictures: Path | None = None, kind: str = "scene") -> list[str]:
    """Check the cameras and images of a scene and draw it.

    Args:
        scene: as checked by `read_scene`: rigid poses, numeric intrinsics, images in its folder.
        pool: threads that read images.
        pictures: folder for contact_sheet.png and cameras.png; None draws nothing.
        kind: of the scene, as for `camera_problems`.

    Returns:
        one line for each problem.
    """
    problems = camera_problems(scene, kind)
    shown = {int(i) for i in np.linspace(0, len(scene.views) - 1, min(len(scene.views), MOST_PHOTOS)).round()}
    digests: dict[bytes, int] = {}
    thumbnails = {}
    results = pool.map(_check_image, scene.views, [i in shown for i in range(len(scene.views))])
    with tqdm(total=len(scene.views), desc=scene.name, unit="image", leave=False, dynamic_ncols=True) as progress:
        for i, (problem, digest, thumbnail) in enumerate(results):
            if problem:
                problems.append(f"{scene.json_path}, view {i}: {problem}")
            else:
                first = digests.setdefault(digest, i)
                if first != i:
                    problems.append(f"{scene.json_path}, view {i}: has the pixels of view {first}; wanted a different photo")
                if thumbnail is not None:
                    thumbnails[i] = thumbnail
            progress.update()
    if pictures is not None:
        try:
            refuse_linked_folders(pictures.parent, [pictures / "contact_sheet.png"])
            _draw(scene, thumbnails, pictures)
        except (InputError, OSError) as error:
            return [*problems, str(error)]
    return problems


def _check_image(view: View, shown: bool) -> tuple[str | None, bytes, np.ndarray | None]:
    """Return an image's problem or None, a digest of its pixels, and a thumbnail if it is to be shown."""
    try:
        pixels = read_pixels(view.file_path)
        rescale_intrinsics(np.zeros(4), (view.h, view.w), pixels.shape[:2], view.file_path)
    except (InputError, OSError) as error:
        return str(error), b"", None
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
    if not shown:
        return None, digest, None
    small = Image.fromarray(to_8_bits(pixels))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return None, digest, np.asarray(small)


def _draw(scene: Scene, thumbnails: dict[int, np.ndarray], folder: Path) -> None:
    v = len(scene.views)
    if thumbnails:
        captions = [f"{i} {scene.views[i].file_path.name}" for i in thumbnails]
        count = counted(v, "view") if len(thumbnails) == v else f"{len(thumbnails)} of {v} views"
        contact_sheet(folder / "contact_sheet.png", list(thumbnails.values()), captions, f"{scene.name}: {count}")
    h, w = scene.views[0].h, scene.views[0].w
    # The plot takes a single image size.
    camera = np.array([(view.fx, view.fy, view.cx, view.cy) for view in scene.views])
    camera *= np.array([(w / view.w, h / view.h) * 2 for view in scene.views])
    c2w = np.stack([view.c2w for view in scene.views])
    camera_plot(folder / "cameras.png", c2w, camera, (h, w), title=f"{scene.name}: cameras")


def work(argv: Sequence[str] | None) -> list[str]:
    """Check all scenes of a list; return the problems."""
    given = read_command_line("check_scenes.py", __doc__, (Check,), argv)
    if "no_pictures" in given:
        refuse_without_effect(given, "with --no_pictures", ["output"])
    check = settings(Check, given)
    paths = read_data_path(check.data_path)
    output = check.output or Path("outputs", "check", check.data_path.stem)
    problems, lines, views = [], [], 0
    folders: set[str] = set()
    seen: set[Path] = set()
    progress = tqdm(paths, desc="scenes", unit="scene", leave=False, dynamic_ncols=True)
    with ThreadPoolExecutor(check.workers or cores()) as pool, progress:
        for i, path in enumerate(progress):
            if path in seen:
                problems.append(f"{check.data_path}, entry {i}: is {path} again; wanted each scene once")
                continue
            seen.add(path)
            try:
                scene = read_scene(path)
            except (InputError, OSError) as error:
                problems.append(str(error))
                continue
            folder = scene.name if scene.name not in folders else f"{i:03d}_{scene.name}"
            folders.add(folder)
            kind = kind_of(scene, check.kind)
            problems += check_scene(scene, pool, None if check.no_pictures else output / folder, kind)
            lines.append(f"{describe(scene)}; checked as {'an object' if kind == 'object' else 'a scene'}")
            views += len(scene.views)
    for line in lines:
        print(line)
    counts = ", ".join([counted(len(lines), "scene"), counted(views, "view"), counted(len(problems), "problem")])
    print(counts + ("" if check.no_pictures else f"; pictures in {output}"))
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("check_scenes.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
