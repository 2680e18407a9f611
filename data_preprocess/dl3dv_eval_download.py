"""Download of scenes of the DL3DV benchmark, the 140 test scenes on which models are compared.

    python data_preprocess/dl3dv_eval_download.py --odir data_example/dl3dv_benchmark --subset hash --only_level4 \\
        --hash 032dee9fb0a8bc1b90871dc5fe950080d0bcd3caf166447f44e60ca50ac04ec7

Assumes that the Hugging Face dataset DL3DV/DL3DV-10K-Benchmark (also known as DL3DV/DL3DV-Benchmark) has one folder per scene,
named by a hash of 64 hexadecimal digits. From each, `nerfstudio/transforms.json` and the images in `nerfstudio/images` (full
size), `images_2`, `images_4` (960×540) and `images_8` are downloaded to the same places below --odir; the COLMAP models and
`gaussian_splat` are not. The dataset is gated: its page asks you to agree to its terms.

A scene's transforms.json is written last: where it exists, the images do too. The same command continues an interrupted download.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import counted
from data_preprocess.command import MOST_WORKERS, bytes_text, run_script
from data_preprocess.hub.dl3dv import BENCHMARK, IMAGE, benchmark_scenes, check_hashes
from data_preprocess.hub.transfers import Item, Transfer, hub_item, list_files, missing

LEVEL_4 = "images_4"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class BenchmarkDownload:
    """Flags: which scenes to download, and how."""

    subset: str = flag(..., "all scenes, or those of --hash", choices=("full", "hash"), group="scenes")
    hash: tuple[str, ...] | None = flag(None, "hashes of the scenes, with --subset hash", metavar="HASH")
    only_level4: bool = flag(False, "only the images of 960×540: 100 to 150 GB instead of 2 TB for all scenes")
    odir: Path = flag(ROOT / "data_example" / "dl3dv_benchmark", "folder for the scenes", group="download")
    clean_cache: bool = flag(False, "delete the .cache folders of a scene once it is complete")
    workers: int = flag(8, "transfers at a time", least=1, most=MOST_WORKERS)


def scene_items(odir: Path, only_level4: bool, scene: str) -> list[Item]:
    """List one scene's files, transforms.json last.

    Args:
        odir: parent of the scene's folder.
        only_level4: only the images in `images_4`.
        scene: its hash.

    Raises:
        FileNotFoundError: there is no such scene.
        InputError: it lacks transforms.json, or the images.
    """
    folder = f"{scene}/nerfstudio"
    try:
        listing = {entry.path.removeprefix(f"{folder}/"): entry for entry in list_files(BENCHMARK, folder, recursive=True)}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{scene}: is not a scene of {BENCHMARK}; wanted the name of one of its folders") from error
    matches = {path: IMAGE.fullmatch(path) for path in sorted(listing)}
    images = [path for path, match in matches.items() if match and (match[1] == LEVEL_4 or not only_level4)]
    if not images or "transforms.json" not in listing:
        wanted = f"{LEVEL_4 if only_level4 else 'images'} and transforms.json"
        raise InputError(scene, f"has {counted(len(listing), 'file')} in {BENCHMARK}/{folder}", f"{wanted} among them")
    names = [*images, "transforms.json"]
    return [hub_item(BENCHMARK, listing[name], odir / folder / name, "dataset") for name in names]


def clean(folder: Path) -> None:
    """Delete the `.cache` folders, with their locks and partial files, in a finished scene."""
    for cache in list(folder.rglob(".cache")):
        shutil.rmtree(cache)


def work(argv: Sequence[str] | None) -> None:
    """Download the chosen scenes."""
    given = read_command_line("dl3dv_eval_download.py", __doc__.split("\n")[0], (BenchmarkDownload,), argv)
    chosen = settings(BenchmarkDownload, given)
    if (chosen.subset == "hash") != bool(chosen.hash):
        found = f"is {'given' if chosen.hash else 'missing'} with --subset {chosen.subset}"
        raise InputError("--hash", found, "it with --subset hash only")
    check_hashes(chosen.hash or ())
    scenes = list(dict.fromkeys(chosen.hash or benchmark_scenes()))
    with ThreadPoolExecutor(chosen.workers) as pool:
        listings = pool.map(partial(scene_items, chosen.odir, chosen.only_level4), scenes)
        files = dict(zip(scenes, tqdm(listings, total=len(scenes), unit="scene", desc="listing", leave=False), strict=True))
    wanted = {scene: missing(items) for scene, items in files.items()}
    fetched = [item for items in wanted.values() for item in items]
    with Transfer(fetched, chosen.workers, chosen.odir) as transfer:
        for scene, items in wanted.items():
            images = [item for item in items if item.destination.name != "transforms.json"]
            complete = transfer.fetch(images) and transfer.fetch(items[len(images) :])
            if complete and chosen.clean_cache:
                clean(chosen.odir / scene)
    transfer.check()
    size = bytes_text(sum(item.size for item in fetched))
    print(f"{chosen.odir}: {counted(len(scenes), 'scene')} complete; fetched {counted(len(fetched), 'file')}, {size}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("dl3dv_eval_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
