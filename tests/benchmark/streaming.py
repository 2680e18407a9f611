"""States that grow view by view against reconstruction of all views together: PSNR, errors of layers, seconds, memory.

    python tests/benchmark/streaming.py --only quality --objects NAME=FILE --scenes NAME=FILE
    python tests/benchmark/streaming.py --only cost --config config/lact_l24_d768_ttt2x.yaml --image_size 256 256 --held 8

FILE is a list of scenes, or a scene's JSON; without any, procedural objects and walks are exported. Of each scene some 16 views,
evenly spread, are targets, the same ones for any number of inputs. Each part writes PART.md and PART.json into `--out`. A script,
not a test: see model/STREAMING.md.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from config.console import forgiving_console
from config.errors import InputError
from data.files import write_json, write_text
from data.scene_list import read_data_path
from data_preprocess import synthetic_export
from model import load_model, load_scene
from model.machine import in_words
from tests.benchmark.measure import machine
from tests.benchmark.streaming_cost import cost, memory
from tests.benchmark.streaming_forget import forget, window
from tests.benchmark.streaming_quality import Test, draw, focus, passes, quality

BUNDLED = {"objects": "lact_objects_64.safetensors", "scenes": "lact_scenes_64.safetensors"}
TEST_SEED, VIEWS = 1000001, 272
# Parts that test scenes, and parts that need none.
ON_SCENES: dict[str, Callable[[Test, argparse.Namespace], tuple[str, list[dict]]]] = {
    "quality": quality, "passes": passes, "focus": focus, "forget": forget, "window": window,
}  # fmt: skip
ALONE: dict[str, Callable[[argparse.Namespace], tuple[str, list[dict]]]] = {"cost": cost, "memory": memory}


@forgiving_console()
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as requested; return 0, or 2 for bad input."""
    args = parse(argv)
    torch.set_num_threads(1)
    print(in_words(machine(torch.device("cpu"))))
    try:
        tests = find_tests(args) if any(part in ON_SCENES for part in args.only) else []
        for part in args.only:
            if part in ALONE:
                text, rows = ALONE[part](args)
            else:
                found = [(test.name, *ON_SCENES[part](test, args)) for test in tests]
                text = "\n\n".join(f"{name}:\n\n{table}" for name, table, _ in found)
                rows = [{"data": name, **row} for name, _, own in found for row in own]
            write_text(args.out / f"{part}.md", text + "\n")
            write_json(args.out / f"{part}.json", rows)
            if part == "quality":
                draw(args.out / "quality.png", rows)
            print(f"\n{part}\n\n{text}", flush=True)
    except (OSError, InputError) as error:
        print(f"streaming.py: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=[*ON_SCENES, *ALONE], default=[*ON_SCENES, *ALONE], help="parts (default: all)")
    add("--objects", nargs="+", metavar="NAME=FILE", help="objects, read by the bundled model of objects")
    add("--scenes", nargs="+", metavar="NAME=FILE", help="scenes, read by the bundled model of scenes, with normalised poses")
    add("--count", type=int, default=4, help="scenes of each file, and to export")
    add(
        "--views",
        nargs="+",
        type=int,
        default=[16, 32, 64, 128, 256],
        help="quality: numbers of inputs, as far as a scene has them",
    )
    add(
        "--orders",
        nargs="+",
        default=["given", "0"],
        help="quality: `given`, as listed; `spread`, each between those before it; or seeds to shuffle with",
    )
    add("--chunks", nargs="+", default=["1", "2", "4", "8", "2+1", "4+1", "8+1", "16+1"], metavar="K|FIRST+K",
        help="quality: views at a time, and of the first chunk if it is another")  # fmt: skip
    add("--inputs", type=int, default=32, help="passes, focus, forget: inputs, evenly along the list")
    add("--hold", type=int, default=16, help="window: views held")
    add("--moves", type=int, default=100, help="window: how often one view is added and the oldest forgotten")
    add("--image_size", nargs=2, type=int, default=[64, 64], metavar=("H", "W"))
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of layers and Newton-Schulz")
    add("--config", type=Path, help="cost: network of random weights (default: the bundled model of objects)")
    add("--held", nargs="+", type=int, default=[8, 16], help="cost: views that the state holds")
    add("--repeats", type=int, default=3, help="cost: timed runs; the median is shown")
    add("--flops_only", action="store_true", help="cost: count FLOPs, measure nothing")
    add("--memory_views", nargs="+", type=int, default=[10, 100, 500, 2000], help="memory: numbers of views")
    add("--out", type=Path, default=Path("outputs/streaming"))
    return parser.parse_args(argv)


def find_tests(args: argparse.Namespace) -> list[Test]:
    """Load the scenes and the networks that read them.

    Raises:
        FileNotFoundError, InputError: a file is missing or unusable.
    """
    given = {"objects": args.objects or [], "scenes": args.scenes or []}
    if not any(given.values()):
        given = {kind: [f"procedural {kind}={export(args, kind)}"] for kind in given}
    tests = []
    for kind, words in given.items():
        model = load_model(BUNDLED[kind], device="cpu", precision=args.precision)
        model.set_fast_weight(getattr(torch, args.precision))
        for word in words:
            name, _, file = word.partition("=")
            paths = read_data_path(file)[: args.count]
            size = tuple(args.image_size)
            tests.append(Test(name, model, [load_scene(path, image_size=size, normalise=kind == "scenes") for path in paths]))
    return tests


def export(args: argparse.Namespace, kind: str) -> Path:
    """Export procedural scenes that no training has seen; images that exist are skipped. Return the list of them."""
    folder = args.out.resolve() / "data" / kind
    flags = {"kind": kind, "seed": TEST_SEED, "count": args.count, "num_views": VIEWS, "samples": 4, "output": folder}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    status = synthetic_export.main([*words, "--image_size", *map(str, args.image_size)])
    if status:
        raise SystemExit(status)  # the error has been printed
    return folder / f"{kind}_data_path.json"


if __name__ == "__main__":
    sys.exit(main())
