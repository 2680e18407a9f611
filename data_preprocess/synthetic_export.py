"""Export of procedural objects or scenes to folders of the unified format.

    python data_preprocess/synthetic_export.py --kind objects --count 100 --output output_objects

A scene is named after its kind, seed and index, and rendered on its own: the same command gives the same bytes on the same
machine. Safe to re-run; finished images are skipped.
"""

# Letters: v views, h w pixels.

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from config.errors import InputError
from config.flags import flag, read_command_line, refuse_without_effect, settings
from config.messages import counted
from config.signals import end_with_parent, end_workers, held
from data.files import replace_when_finished
from data.scene_format import MOST_VIEWS
from data.synthetic.batch import KINDS, describe
from data.synthetic.cameras import LAYOUTS
from data.synthetic.render import render
from data.synthetic.tables import pack
from data_preprocess.command import LARGEST_SIDE, MOST_WORKERS, check_list_name, run_script
from data_preprocess.scene_folder import SceneFolder, rendered_views
from data_preprocess.shards import Shard, read_shard, shard_flag
from model.runtime import full_memory_is_refused, pick_device

# Scenes are numbered with six digits. With 4096 samples a tile of 8×8 pixels has as many rays as are traced at once on a CPU.
MOST_SCENES, MOST_SAMPLES = 1_000_000, 4096
_LESS_MEMORY = "smaller images, or fewer --workers"
# In a worker process: set once the export is interrupted.
_interrupted: Event | None = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """Flags: what to render, and how."""

    kind: str = flag(..., "kind of scenes", choices=KINDS, group="scenes")
    count: int = flag(1, "number of scenes", least=1, most=MOST_SCENES)
    first_index: int = flag(0, "index of the first one", least=0)
    indices: tuple[int, ...] | None = flag(
        None, "indices of the scenes, instead of --count and --first_index", least=0, unset="--count of them from --first_index on"
    )
    seed: int = flag(0, "below 1000000 for training, from there on for examples and tests", least=0)
    output: Path = flag(..., "folder for the scenes and the list of them")
    name: str | None = flag(None, "NAME in NAME_data_path.json", unset="the kind")
    num_views: int = flag(32, "views per scene", least=1, most=MOST_VIEWS, group="views")
    image_size: tuple[int, int] = flag((256, 256), "height and width", least=1, most=LARGEST_SIDE)
    samples: int = flag(16, "rays per pixel, a power of two", least=1, most=MOST_SAMPLES)
    layout: str | None = flag(None, "arrangement of the cameras of objects", choices=LAYOUTS, unset="drawn for each object")
    workers: int = flag(0, "processes; 0 renders in the main process", least=0, most=MOST_WORKERS, group="machine")
    device: str = flag("cpu", "auto, cpu, cuda or cuda:N")
    shard: str | None = shard_flag()


def export_scene(export: Export, index: int) -> Path:
    """Render and write one scene; images that exist are skipped.

    Args:
        export: the settings.
        index: of the scene.

    Returns:
        its JSON, written after the images: a folder that has it is finished.

    Raises:
        InputError: the folder holds a scene made with other settings, or memory is full.
    """
    folder = export.output / f"{export.kind}_{export.seed}_{index:06d}"
    scene, c2w, fxfycxcy = describe(export.kind, export.seed, index, export.num_views, export.image_size, export.layout)
    output = SceneFolder(folder, rendered_views(folder, c2w, fxfycxcy, export.image_size))
    left = output.begin(repr((export.num_views, export.image_size, export.layout, export.samples)))
    with full_memory_is_refused(_LESS_MEMORY):
        batch = pack([scene], device=export.device) if left else None
        for i in left:
            if _interrupted is not None and _interrupted.is_set():
                raise KeyboardInterrupt
            pose, camera = torch.from_numpy(c2w[None, i : i + 1]), torch.from_numpy(fxfycxcy[None, i : i + 1])
            view = render(batch, pose, camera, export.image_size, export.samples)
            alpha = view["alpha"][0, 0] if export.kind == "objects" else None
            pixels = _pixels(view["image"][0, 0], alpha, export.samples)
            with replace_when_finished(output.views[i].file_path) as temporary:
                Image.fromarray(pixels).save(temporary, optimize=True)
    output.finish()
    return output.json_path


def _pixels(image: Tensor, alpha: Tensor | None, samples: int) -> np.ndarray:
    """Return uint8 pixels, (h, w, 3), or (h, w, 4) if the colours on white (3, h, w) have an alpha (1, h, w)."""
    if alpha is not None:
        colour = torch.where(alpha > 0, (image - (1 - alpha)) / alpha.clamp_min(0.5 / samples), 1)
        image = torch.cat([colour, alpha])
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _export_all(export: Export, indices: Sequence[int]) -> Iterator[Path]:
    if export.workers == 0:
        for index in indices:
            yield export_scene(export, index)
        return
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(export.workers, len(indices)))
    with held():  # starts a process that cleans up after the others
        interrupted = context.Event()
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(interrupted,)) as pool:
        try:
            with held():
                paths = pool.map(export_scene, [export] * len(indices), indices)  # starts all processes
            yield from paths
        except BrokenProcessPool as error:
            end_workers()
            found = "has lost a process, which the system ended"
            raise InputError("--workers", found, f"more memory, {_LESS_MEMORY}") from error
        except (KeyboardInterrupt, GeneratorExit):
            interrupted.set()
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker(interrupted: Event) -> None:
    global _interrupted
    _interrupted = interrupted
    end_with_parent()
    torch.set_num_threads(1)


def _indices(export: Export, given: Collection[str]) -> Sequence[int]:
    if export.indices is None:
        return range(export.first_index, export.first_index + export.count)
    if "count" in given or "first_index" in given:
        raise InputError("--indices", "is given with --count or --first_index", "one or the other")
    if len(set(export.indices)) < len(export.indices):
        raise InputError("--indices", f"is {' '.join(map(str, export.indices))}", "each index once")
    return export.indices


def list_path(export: Export) -> Path:
    """Return the file of the list of scenes."""
    return export.output / f"{export.name or export.kind}_data_path.json"


def read_export(argv: Sequence[str] | None) -> tuple[Export, Sequence[int], Shard]:
    """Read the command line; return the settings, with the device resolved, the indices of all scenes, and which of them to export.

    Raises:
        InputError: a flag is out of range, contradicts another or has no effect.
    """
    given = read_command_line("synthetic_export.py", __doc__, (Export,), argv)
    export = settings(Export, given)
    indices, shard = _indices(export, given), read_shard(export.shard)
    if export.samples.bit_count() != 1:
        raise InputError("--samples", f"is {export.samples}", "a power of two")
    if export.kind != "objects":
        refuse_without_effect(given, f"with --kind {export.kind}", ["layout"])
    check_list_name(export.kind if export.name is None else export.name)
    export = replace(export, device=str(pick_device(export.device)))
    shard.begin(list_path(export))
    return export, indices, shard


def work(argv: Sequence[str] | None) -> None:
    """Write the scenes and the list of them."""
    export, indices, shard = read_export(argv)
    chosen = shard.part(indices)
    scenes = list(tqdm(_export_all(export, chosen), total=len(chosen), unit="scene"))
    print(f"{counted(len(scenes), 'scene')} in {shard.write_list(list_path(export), scenes)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("synthetic_export.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
