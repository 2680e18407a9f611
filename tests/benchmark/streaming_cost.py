"""Cost of states that grow: FLOPs and CPU seconds of adding and forgetting a view, bytes, and peak memory of long streams."""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from config import load_config
from data.output.tables import markdown_table
from model import LaCTLVSM, SceneState, load_model
from model.layers import FastWeight
from model.ops.newton_schulz import newton_schulz
from tests.benchmark.measure import give_memory_back, peak, random_scene, reset_peak
from tests.benchmark.streaming_forget import timed

BUNDLED, CHUNK = "lact_objects_64.safetensors", 4
CPU, META = torch.device("cpu"), torch.device("meta")


def cost(args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure what adding and forgetting one view costs, against reconstructing all views again."""
    torch.manual_seed(0)
    model = LaCTLVSM(load_config(args.config)).eval() if args.config else load_model(BUNDLED, device="cpu")
    model.set_compute_dtype(getattr(torch, args.precision)).set_fast_weight(getattr(torch, args.precision))
    size = tuple(args.image_size)
    rows = []
    for held in args.held:
        row: dict = {"held": held, "flops": count_flops(model, held, size)}
        if not args.flops_only:
            row |= measure(model, random_scene(held + 1, size, CPU), args.repeats)
        rows.append(row)
    lines = []
    for row in rows:
        flops, seconds = row["flops"], row.get("seconds", {})
        lines += [
            [
                what,
                f"{flops[key] / 1e12:.3g}" if key in flops else "-",
                f"{flops[key] / flops['reconstruct']:.0%}" if key in flops else "-",
                f"{seconds[key]:.2f}" if seconds else "-",
                f"{seconds[key] / seconds['reconstruct']:.0%}" if seconds else "-",
            ]
            for what, key in (
                (f"reconstruct {row['held'] + 1} views", "reconstruct"),
                (f"add 1 view to {row['held']}", "extend"),
                ("of that, Newton-Schulz", "newton_schulz"),
                (f"take 1 view out of {row['held'] + 1}", "forget"),
            )
            if seconds or key in flops
        ]
    table = markdown_table(["pass", "TFLOP", "against reconstruct", "CPU s", "against reconstruct"], lines)
    if not args.flops_only:
        with_sums, without = rows[0]["bytes"]
        table += f"\n\nState: {without / 1e6:.1f} MB, with sums {with_sums / 1e6:.1f} MB."
    return table, rows


def count_flops(model: LaCTLVSM, held: int, size: tuple[int, int]) -> dict[str, float]:
    """Count FLOPs of matrix products and attention, by running the passes on meta tensors."""
    shadow = LaCTLVSM(model.config).to(META).set_fast_weight(torch.bfloat16, "naive")
    shadow.fingerprint = lambda: ""
    scene = random_scene(held + 1, size, META)
    old, new = ({name: x[:, part] for name, x in scene.items()} for part in (slice(held), slice(held, None)))
    state = shadow.reconstruct(**old, chunk_views=held, keep_sums=True)
    shadow.extend(state, **new, chunk_views=1)  # looks shapes up, once, in passes that would be counted
    calls: dict[str, Callable[[], object]] = {
        "reconstruct": lambda: shadow.reconstruct(**scene, chunk_views=held + 1),
        "extend": lambda: shadow.extend(state, **new, chunk_views=1),
        "newton_schulz": lambda: orthogonalise(shadow, state),
    }
    found = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        found[name] = float(counter.get_total_flops())
    return found


def orthogonalise(model: LaCTLVSM, state: SceneState) -> list[Tensor]:
    """Run the Newton-Schulz steps that finish a state."""
    layers = [module for module in model.modules() if isinstance(module, FastWeight)]
    pairs = zip(layers, state.sums or [], strict=True)
    return [newton_schulz(x, layer.muon_update_steps, layer.newton_schulz_dtype) for layer, sums in pairs for x in sums.values()]


def measure(model: LaCTLVSM, scene: dict[str, Tensor], repeats: int) -> dict:
    """Measure CPU seconds of the passes, the median of some runs, and the bytes of the state with and without sums."""
    old, new = ({name: x[:, part] for name, x in scene.items()} for part in (slice(-1), slice(-1, None)))
    state = model.reconstruct(**old, keep_sums=True)
    grown = model.extend(state, **new)
    calls: dict[str, Callable[[], object]] = {
        "reconstruct": lambda: model.reconstruct(**scene),
        "extend": lambda: model.extend(state, **new),
        "newton_schulz": lambda: orthogonalise(model, state),
        "forget": lambda: model.forget(grown, **new),
    }
    seconds = {name: statistics.median(timed(call)[1] for _ in range(repeats)) for name, call in calls.items()}
    plain = sum(x.nbytes for layer in state.layers for x in layer.values())
    return {"seconds": seconds, "bytes": (state.nbytes, plain)}


def memory(args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure peak memory of streams and of reconstructions by the number of views, each in its own process."""
    rows = []
    for views in args.memory_views:
        row: dict = {"views": views}
        for way in ("stream", "reconstruct"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                row[way] = pool.submit(growth, way, views, tuple(args.image_size), args.precision).result()
            print(f"{views} views, {way}: {row[way] / 1e6:.1f} MB", flush=True)
        rows.append(row)
    head = ["views", f"reconstruct_stream, chunk {CHUNK}, MB", "reconstruct, MB", "of that, the images"]
    images = [row["views"] * 3 * args.image_size[0] * args.image_size[1] * 4 for row in rows]
    lines = [
        [str(row["views"]), f"{row['stream'] / 1e6:.1f}", f"{row['reconstruct'] / 1e6:.1f}", f"{size / 1e6:.1f}"]
        for row, size in zip(rows, images, strict=True)
    ]
    return markdown_table(head, lines), rows


def growth(way: str, views: int, size: tuple[int, int], precision: str) -> int:
    """Return by how many bytes this process grows while the bundled model writes random views, after some to warm up.

    Args:
        way: `stream`, of views that are made as they are read, or `reconstruct`, of all of them at once.
        views: their number.
        size: (h, w) of the images.
        precision: of layers and Newton-Schulz.
    """
    torch.set_num_threads(1)
    model = load_model(BUNDLED, device="cpu", precision=precision).set_fast_weight(getattr(torch, precision))
    model.reconstruct_stream(random_views(2 * CHUNK, size), chunk=CHUNK)
    give_memory_back()
    start = reset_peak(CPU)
    if way == "stream":
        model.reconstruct_stream(random_views(views, size), chunk=CHUNK)
    else:
        model.reconstruct(**random_scene(views, size, CPU))
    return peak(CPU) - start


def random_views(count: int, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Make noise images one by one, with cameras of a turntable."""
    for _ in range(-(-count // CHUNK)):
        scene = random_scene(CHUNK, size, CPU)
        yield from zip(scene["image"][0], scene["fxfycxcy"][0], scene["c2w"][0], strict=True)
