"""Check of scenes of the unified format, with pictures of each: a contact sheet and where its cameras stand.

    python data_preprocess/check_scenes.py data_example/objects_data_path.json

Pictures go to outputs/check/LIST/SCENE/ unless --output says otherwise. The exit code is 0 if all is well, else 2 with one line
per problem on standard error. Letters: v views, h w pixels.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError
from data.images import read_pixels, rescale_intrinsics
from data.output.picture import camera_plot, contact_sheet
from data.scene_format import Scene, View, read_data_path, read_scene
from data_preprocess.command import at_least, cores, run_script
from data_preprocess.scene_problems import camera_problems, describe

# Photos on a contact sheet, and the longer side they are kept at until it is drawn.
MOST_PHOTOS, THUMBNAIL = 48, 480


def check_scene(scene: Scene, pool: ThreadPoolExecutor, pictures: Path | None = None) -> list[str]:
    """Check the cameras and images of a scene and draw it.

    Args:
        scene: whose format `read_scene` has checked: rigid poses, intrinsics that are numbers, images in its folder.
        pool: what reads images.
        pictures: folder for contact_sheet.png and cameras.png; None draws nothing.

    Returns:
        one line for each problem.
    """
    problems = camera_problems(scene)
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
                    problems.append(f"{scene.json_path}, view {i}: has the pixels of view {first}; wanted another photo")
                if thumbnail is not None:
                    thumbnails[i] = thumbnail
            progress.update()
    if pictures is not None:
        _draw(scene, thumbnails, pictures)
    return problems


def _check_image(view: View, shown: bool) -> tuple[str | None, bytes, np.ndarray | None]:
    """Return what is wrong with an image, a digest of its pixels, and the image made small if it is to be shown."""
    try:
        pixels = read_pixels(view.file_path)
        rescale_intrinsics(np.zeros(4), (view.h, view.w), pixels.shape[:2], view.file_path)
    except (InputError, OSError) as error:
        return str(error), b"", None
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
    if not shown:
        return None, digest, None
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    small = Image.fromarray(pixels)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return None, digest, np.asarray(small)


def _draw(scene: Scene, thumbnails: dict[int, np.ndarray], folder: Path) -> None:
    v = len(scene.views)
    if thumbnails:
        captions = [f"{i} {scene.views[i].file_path.name}" for i in thumbnails]
        count = f"{v} views" if len(thumbnails) == v else f"{len(thumbnails)} of {v} views"
        contact_sheet(folder / "contact_sheet.png", list(thumbnails.values()), captions, f"{scene.name}: {count}")
    h, w = scene.views[0].h, scene.views[0].w
    # The plot takes one size for all.
    camera = np.array([(view.fx, view.fy, view.cx, view.cy) for view in scene.views])
    camera *= np.array([(w / view.w, h / view.h) * 2 for view in scene.views])
    c2w = np.stack([view.c2w for view in scene.views])
    camera_plot(folder / "cameras.png", c2w, camera, (h, w), title=f"{scene.name}: cameras")


def work(argv: Sequence[str] | None) -> list[str]:
    """Check all scenes of a list; return the problems."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_path", type=Path, metavar="DATA_PATH.json", help="list of scenes, or one scene's JSON")
    parser.add_argument("--output", type=Path, help="folder for the pictures (default: outputs/check/LIST)")
    parser.add_argument("--no_pictures", action="store_true", help="check only")
    parser.add_argument("--workers", type=int, help="threads (default: one a core)")
    args = parser.parse_args(argv)
    if args.no_pictures and args.output:
        raise InputError("--output", "has no effect with --no_pictures", "it left out")
    workers = at_least("--workers", args.workers, 1) or cores()
    paths = read_data_path(args.data_path)
    output = args.output or Path("outputs", "check", args.data_path.stem)
    problems, lines, views = [], [], 0
    folders: set[str] = set()
    seen: set[Path] = set()
    with ThreadPoolExecutor(workers) as pool, tqdm(paths, desc="scenes", unit="scene", leave=False, dynamic_ncols=True) as progress:
        for i, path in enumerate(progress):
            if path in seen:
                problems.append(f"{args.data_path}, entry {i}: is {path} again; wanted each scene once")
                continue
            seen.add(path)
            try:
                scene = read_scene(path)
            except (InputError, OSError) as error:
                problems.append(str(error))
                continue
            folder = scene.name if scene.name not in folders else f"{i:03d}_{scene.name}"
            folders.add(folder)
            problems += check_scene(scene, pool, None if args.no_pictures else output / folder)
            lines.append(describe(scene))
            views += len(scene.views)
    for line in lines:
        print(line)
    print(f"{len(lines)} scenes, {views} views, {len(problems)} problems" + ("" if args.no_pictures else f"; pictures in {output}"))
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("check_scenes.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
