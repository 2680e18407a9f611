"""Download of scenes of the DL3DV benchmark, the 140 test scenes that models are compared on.

    python data_preprocess/dl3dv_eval_download.py --odir data_example/dl3dv_benchmark --subset hash --only_level4 \\
        --hash 032dee9fb0a8bc1b90871dc5fe950080d0bcd3caf166447f44e60ca50ac04ec7

What is relied on: the Hugging Face dataset DL3DV/DL3DV-10K-Benchmark (also known as DL3DV/DL3DV-Benchmark) has a folder per
scene, named by a hash of 64 hexadecimal digits. Of each, `nerfstudio/transforms.json` and the images in `nerfstudio/images`
(full size), `images_2`, `images_4` (960×540) and `images_8` are fetched to the same places below --odir; not the COLMAP models
and not `gaussian_splat`. The dataset is gated: its page asks for an agreement to its terms.

A scene gets its transforms.json last: where that is, the images are. An interrupted download is continued by the same command.
"""

import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.command_line import Parser
from config.errors import InputError
from data_preprocess.command import at_least, run_script
from data_preprocess.hub.dl3dv import BENCHMARK, IMAGE, benchmark_scenes, check_hashes
from data_preprocess.hub.transfers import Item, Transfer, bytes_text, hub_item, list_files, missing

LEVEL_4 = "images_4"
ROOT = Path(__file__).resolve().parent.parent


def scene_items(odir: Path, only_level4: bool, scene: str) -> list[Item]:
    """List one scene's files, transforms.json last.

    Args:
        odir: the folder that the scene's folder is, or will be, in.
        only_level4: of the images, only those in `images_4`.
        scene: its hash.

    Raises:
        FileNotFoundError: there is no such scene.
        InputError: it lacks transforms.json, or the images.
    """
    folder = f"{scene}/nerfstudio"
    try:
        listing = {entry.path.removeprefix(f"{folder}/"): entry for entry in list_files(BENCHMARK, folder, recursive=True)}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{scene}: is no scene of {BENCHMARK}; wanted the name of one of its folders") from error
    matches = {path: IMAGE.fullmatch(path) for path in sorted(listing)}
    images = [path for path, match in matches.items() if match and (match[1] == LEVEL_4 or not only_level4)]
    if not images or "transforms.json" not in listing:
        wanted = f"{LEVEL_4 if only_level4 else 'images'} and transforms.json"
        raise InputError(scene, f"has {len(listing)} files in {BENCHMARK}/{folder}", f"{wanted} among them")
    names = [*images, "transforms.json"]
    return [hub_item(BENCHMARK, listing[name], odir / folder / name, "dataset") for name in names]


def clean(folder: Path) -> None:
    """Delete the `.cache` folders, with their locks and partial files, in a finished scene."""
    for cache in list(folder.rglob(".cache")):
        shutil.rmtree(cache)


def work(argv: Sequence[str] | None) -> None:
    """Download what the command line says."""
    parser = Parser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--odir", type=Path, default=ROOT / "data_example" / "dl3dv_benchmark", help="default: data_example/dl3dv_benchmark")
    add("--subset", choices=["full", "hash"], required=True, help="all scenes, or those of --hash")
    add("--hash", nargs="+", action="extend", metavar="HASH", help="scenes, with --subset hash")
    add("--only_level4", action="store_true", help="images of 960×540 only: 100 to 150 GB in place of 2 TB for all scenes")
    add("--clean_cache", action="store_true", help="delete the .cache folders of a scene once it is complete")
    add("--workers", type=int, default=8, help="transfers at a time (default: 8)")
    args = parser.parse_args(argv)
    at_least("--workers", args.workers, 1)
    if (args.subset == "hash") != bool(args.hash):
        raise InputError(
            "--hash", f"is {'given' if args.hash else 'missing'} with --subset {args.subset}", "it with --subset hash only"
        )
    check_hashes(args.hash or ())
    scenes = list(dict.fromkeys(args.hash or benchmark_scenes()))
    with ThreadPoolExecutor(args.workers) as pool:
        listings = pool.map(partial(scene_items, args.odir, args.only_level4), scenes)
        files = dict(zip(scenes, tqdm(listings, total=len(scenes), unit="scene", desc="listing", leave=False), strict=True))
    wanted = {scene: missing(items) for scene, items in files.items()}
    fetched = [item for items in wanted.values() for item in items]
    with Transfer(fetched, args.workers, args.odir) as transfer:
        for scene, items in wanted.items():
            images = [item for item in items if item.destination.name != "transforms.json"]
            complete = transfer.fetch(images) and transfer.fetch(items[len(images) :])
            if complete and args.clean_cache:
                clean(args.odir / scene)
    transfer.check()
    size = bytes_text(sum(item.size for item in fetched))
    print(f"{args.odir}: {len(scenes)} scenes complete; fetched {len(fetched)} files, {size}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    return run_script("dl3dv_eval_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
