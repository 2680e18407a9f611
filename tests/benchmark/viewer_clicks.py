"""Time from a click that takes an input out of a scene in the viewer, or puts one in, to the new picture.

    python tests/benchmark/viewer_clicks.py --num_input_views 12
    python tests/benchmark/viewer_clicks.py --config config/lact_l14_d768_ttt2x.yaml --image_size 256 256 --num_input_views 8

A click without a quick state, "exact alone", takes turns with one that has both. A network config gives a network with random
weights. Viewer and client are threads of one process.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from config.startup import start

if __name__ == "__main__":
    start()

import torch

from config import load_config
from config.rendering import DEFAULT_OBJECTS
from data.dataset import SceneDataset
from model import LaCTLVSM
from model.machine import in_words
from model.runtime import PRECISIONS, pick_dtype
from model.viewer.viewer import Viewer, free_port
from tests.benchmark.measure import machine
from tests.support.viewer_client import ViewerClient
from tests.support.viewers import FOV, bundled_model, opened

# No picture takes longer; and none comes any more once none has come for so long.
PATIENCE_S, QUIET_S = 900.0, 20.0


def waited(viewer: Viewer, client: ViewerClient, view: int, pictures: int) -> list[float]:
    """Click on a view; return the seconds until each of the pictures that come of it."""
    start = time.perf_counter()
    viewer.switch_input(view)
    seconds = [client.picture(PATIENCE_S).at_s - start for _ in range(pictures)]
    assert viewer.scene.exact, "another picture came meanwhile: the machine is too busy"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="network config (default: the bundled network of objects)")
    parser.add_argument("--image_size", nargs=2, type=int, default=[64, 64], metavar=("H", "W"))
    parser.add_argument("--num_input_views", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=9, help="clicks of each kind; medians are printed")
    parser.add_argument("--newton_schulz_dtype", default="bfloat16", choices=list(PRECISIONS))
    given = parser.parse_args()
    device, size = torch.device("cpu"), (given.image_size[0], given.image_size[1])
    torch.manual_seed(0)
    model = LaCTLVSM(load_config(given.config)).eval() if given.config else bundled_model()
    model.set_compute_dtype(pick_dtype("auto", device), store=True)
    model.set_fast_weight(PRECISIONS[given.newton_schulz_dtype])
    scene = SceneDataset(DEFAULT_OBJECTS, size, patch_size=model.config.patch_size)[0]
    menu = {scene.name: lambda: opened(scene, model, size=size, inputs=given.num_input_views)}
    seconds: dict[str, list[float]] = defaultdict(list)
    with Viewer(menu, size, port=free_port("127.0.0.1", 18680)) as viewer:
        while viewer.scene.state is None:
            time.sleep(0.05)
        shown = viewer.scene
        with ViewerClient(viewer.url, shown.shown_scale) as client:
            client.look(shown.c2w[shown.inputs[0]], FOV)
            client.last_picture(QUIET_S, PATIENCE_S)
            quick_change, view = shown.quick_change, shown.inputs[1]
            for _ in range(given.repeats):
                for kind in ("taken out", "put in"):
                    quick, exact = waited(viewer, client, view, 2)
                    seconds[f"{kind}, quick"].append(quick)
                    seconds[f"{kind}, exact after it"].append(exact)
                shown.quick_change = lambda *_: None
                for kind in ("taken out", "put in"):
                    seconds[f"{kind}, exact alone"] += waited(viewer, client, view, 1)
                shown.quick_change = quick_change
    print(f"{given.num_input_views} inputs of {size[0]}×{size[1]}; {in_words(machine(device))}\n")
    print("| picture | median s |\n| --- | --- |")
    for kind in sorted(seconds):
        print(f"| {kind} | {statistics.median(seconds[kind]):.2f} |")


if __name__ == "__main__":
    main()
