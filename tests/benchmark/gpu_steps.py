"""Steps of the GPU report: measurements, targets and time limits.

Every step runs in its own process and yields rows as it measures. With `tiny` the same lines run on a CPU in seconds: the figures
then mean nothing.

Letters: v views, h w pixels.
"""

import contextlib
import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from config import NetworkConfig, load_config, read_yaml
from config.recipe import TrainingRecipe, read_recipe
from data.synthetic import synthetic_batch
from data.synthetic.batch import describe
from model import LaCTLVSM
from model.runtime import pick_dtype, synchronise
from model.training.flops import matmul_rate
from tests.benchmark.inference import count_flops, run_baseline
from tests.benchmark.measure import copy_rate, give_memory_back, peak, random_scene, reset_peak, show, time_calls, undisturbed
from tests.benchmark.training import our_step, work_of

Row = dict[str, Any]
Size = tuple[int, int]
GIB = 2**30
TTT2X, TTT4X, BUNDLED = "lact_l24_d768_ttt2x", "lact_l24_d768_ttt4x", "lact_l4_d256_foot"
# Memory of GPUs for which the largest batches are computed, and how much of it driver, context and fragmentation take.
CARDS_GIB, KEPT_GIB = (24, 40, 80), 1.5
RECIPES = ("object_256", "object_512", "scene_128x128", "scene_72x128", "scene_144x256", "scene_288x512", "scene_536x960")


@dataclass(frozen=True)
class Bench:
    """Device, size and limits of a step.

    Attributes:
        device: the measured device.
        tiny: whether this is a rehearsal.
        seconds: time limit of the step.
        folder: where it may write.
    """

    device: torch.device
    tiny: bool
    seconds: float = 0.0
    folder: Path = Path()

    @property
    def dtype(self) -> torch.dtype:
        return pick_dtype("auto", self.device)

    def config(self, name: str) -> NetworkConfig:
        return load_config(f"config/{'debug' if self.tiny else name}.yaml")

    def size(self, size: Size) -> Size:
        return (16, 24) if self.tiny else size

    def count(self, number: int, tiny: int = 2) -> int:
        return min(number, tiny) if self.tiny else number

    def model(self, name: str, layers: int | None = None) -> LaCTLVSM:
        """Return a network with random weights, ready to render; `layers`: number of blocks, if fewer than the config has."""
        config = self.config(name)
        config = config if layers is None else dataclasses.replace(config, layers=self.count(layers))
        with self.device:
            model = LaCTLVSM(config)
        return model.set_compute_dtype(self.dtype, store=True).eval().requires_grad_(False)

    def recipe(self, name: str, *flags: str) -> TrainingRecipe:
        """Return a recipe of config/train with placeholder data."""
        small = "--config config/debug.yaml --image_size 16 24 --num_all_views 4 --num_input_views 2 --num_target_views 2"
        path = Path(f"config/train/{name}.yaml")
        data = [] if "data_path" in read_yaml(path) else ["--data_path", "none"]
        given = read_recipe(["--recipe", str(path), *data, *flags])
        if not self.tiny:
            return given
        changes = read_recipe(["--data_path", "none", *small.split()])
        names = ("config", "image_size", "num_all_views", "num_input_views", "num_target_views")
        least = {"bs_per_gpu": min(given.bs_per_gpu, 2), "min_input_views": given.min_input_views and 2}
        return dataclasses.replace(given, **{name: getattr(changes, name) for name in names}, **least)


@dataclass(frozen=True)
class Step:
    """A part of the report.

    Attributes:
        title: heading of its table.
        run: yields rows with `what` and some of `seconds`, `frames` (in these seconds), `unit` (of frames), `flops`, `peak_bytes`,
            `value` (text), `target`, `met`, `published`.
        seconds: time limit, including the start of its process; it is then cut off, and the rows so far are kept.
    """

    title: str
    run: Callable[[Bench], Iterator[Row]]
    seconds: int


def measure(call: Callable[[], object], bench: Bench, repeats: int = 5) -> Row:
    """Return median seconds of runs after two that warm up, and the peak of all memory in use."""
    reset_peak(bench.device)
    call(), call()
    return {"seconds": time_calls(call, bench.device, bench.count(repeats)), "peak_bytes": peak(bench.device)}


def with_target(row: Row, text: str, met: bool) -> Row:
    return row | {"target": text, "met": met}


def frames_target(row: Row, least: float) -> Row:
    return with_target(row, f"≥ {least:g} {row['unit']}/s", row["frames"] / row["seconds"] >= least)


def seconds_target(row: Row, most: float) -> Row:
    return with_target(row, f"≤ {most:g} s", row["seconds"] <= most)


def run_machine(bench: Bench) -> Iterator[Row]:
    for dtype in dict.fromkeys((bench.dtype, torch.float32)):
        with undisturbed():
            rate = matmul_rate(bench.device, dtype)
        row = {"what": f"{show(dtype)} matrix product, best of several sizes", "value": f"{rate / 1e12:.2f} TFLOP/s"}
        yield row | {"rate": rate, "dtype": show(dtype)}
    rate = copy_rate(bench.device, 1 << 20 if bench.tiny else None)
    yield {"what": "copy within memory, read and written", "value": f"{rate / 1e12:.2f} TB/s"}


def render_row(bench: Bench, model: LaCTLVSM, size: Size, views: int, what: str) -> Row:
    """Measure rendering of `views` views from a state of two inputs, whose size does not depend on their number."""
    size, views = bench.size(size), bench.count(views)
    state = model.reconstruct(**random_scene(2, size, bench.device))
    wanted = random_scene(views, size, bench.device)
    found = measure(lambda: model.render(state, wanted["fxfycxcy"], wanted["c2w"], size), bench)
    flops = count_flops(model, 2, views, size)["render"]
    return {"what": what, **found, "frames": views, "unit": "frames", "flops": flops}


def reconstruct_row(bench: Bench, model: LaCTLVSM, size: Size, views: int, what: str, repeats: int = 3) -> Row:
    size, views = bench.size(size), bench.count(views)
    scene = random_scene(views, size, bench.device)
    found = measure(lambda: model.reconstruct(**scene), bench, repeats)
    return {"what": what, **found, "flops": count_flops(model, views, 1, size)["reconstruct"]}


def growing_rows(bench: Bench, model: LaCTLVSM, size: Size, held: int, name: str) -> Iterator[Row]:
    """Measure adding a view to a state and taking it out; FLOPs are those of reconstructing one view."""
    size, held = bench.size(size), bench.count(held)
    scene = random_scene(held + 1, size, bench.device)
    old, new = ({key: x[:, part] for key, x in scene.items()} for part in (slice(held), slice(held, None)))
    state = model.reconstruct(**old, keep_sums=True)
    flops = count_flops(model, 1, 1, size)["reconstruct"]
    yield {"what": f"add a view to {held}, {name}", **measure(lambda: model.extend(state, **new), bench), "flops": flops}
    grown = model.extend(state, **new)
    yield {"what": f"take it out again, {name}", **measure(lambda: model.forget(grown, **new), bench), "flops": flops}


@contextlib.contextmanager
def whole_compiled(model: LaCTLVSM) -> Iterator[LaCTLVSM]:
    """Compile the layers of a network inside the block."""
    calls = model._run, model._write, model._read
    model.compile_layers()
    try:
        yield model
    finally:
        model._run, model._write, model._read = calls


def run_inference_512(bench: Bench) -> Iterator[Row]:
    model = bench.model(TTT2X)
    row = render_row(bench, model, (512, 512), 16, f"render 512×512, {TTT2X}")
    yield frames_target(row | {"published": "38.7 frames/s (LaCT paper, A100)"}, 140)
    row = reconstruct_row(bench, model, (512, 512), 48, f"reconstruct 48 × 512×512, {TTT2X}")
    yield seconds_target(row | {"published": "1.4 s (LaCT paper, A100)"}, 0.45)
    yield from growing_rows(bench, model, (512, 512), 48, f"512×512, {TTT2X}")
    with whole_compiled(model):
        yield render_row(bench, model, (512, 512), 16, "render 512×512, --compile")
        yield reconstruct_row(bench, model, (512, 512), 48, "reconstruct 48 × 512×512, --compile")


def run_inference_536(bench: Bench) -> Iterator[Row]:
    model, size = bench.model(TTT4X), (536, 960)
    row = render_row(bench, model, size, 8, f"render 536×960, {TTT4X}")
    yield frames_target(row | {"published": "1.8 frames/s (third party, released code, A100)"}, 50)
    for views, published in ((32, 29.3), (16, 14.6)):
        row = reconstruct_row(bench, model, size, views, f"reconstruct {views} × 536×960, {TTT4X}", 1)
        row["published"] = f"{published} s (third party, released code, A100)"
        yield seconds_target(row, 0.95) if views == 32 else row


def run_inference_long(bench: Bench) -> Iterator[Row]:
    model, size = bench.model(TTT4X), (536, 960)
    tokens = math.prod(size) // 64 * 128 / 1e6
    row = reconstruct_row(bench, model, size, 128, f"reconstruct 128 × 536×960 ({tokens:.2f} M tokens), {TTT4X}", 1)
    row["published"] = "out of memory at 80 GB (third party, released code)"
    yield with_target(row, "< 24 GB", row["peak_bytes"] < 24e9)
    row = reconstruct_row(bench, model, size, 64, f"reconstruct 64 × 536×960, {TTT4X}", 1)
    yield row | {"published": "59 s (third party, released code, A100)"}


def run_profile(bench: Bench) -> Iterator[Row]:
    """Name the kernels that take the most time, in inference and in a training step."""
    model, size = bench.model(TTT2X, 4), bench.size((512, 512))
    scene, wanted = random_scene(bench.count(16), size, bench.device), random_scene(bench.count(16), size, bench.device)
    state = model.reconstruct(**scene)
    yield from kernel_rows("render 512×512, 4 blocks", lambda: model.render(state, wanted["fxfycxcy"], wanted["c2w"], size), bench)
    yield from kernel_rows("reconstruct 16 × 512×512, 4 blocks", lambda: model.reconstruct(**scene), bench)
    recipe = bench.recipe("gpu_objects_64", "--no-compile")
    yield from kernel_rows("step of the bundled network, eager", our_step(recipe, bench.device, bench.dtype), bench)


def kernel_rows(what: str, call: Callable[[], object], bench: Bench, most: int = 16) -> Iterator[Row]:
    """Yield the kernels of a call, those that take the most time first, with their share of all kernels' time."""
    call(), call()
    with profiled(bench) as profile:
        call()
    cuda = bench.device.type == "cuda"
    events = [(e.self_device_time_total if cuda else e.self_cpu_time_total, e.count, e.key) for e in profile.key_averages()]
    total = sum(time for time, *_ in events)
    yield {"what": f"{what}: all kernels", "seconds": total / 1e6, "value": f"{sum(count for _, count, _ in events)} calls"}
    for seconds, count, name in sorted(events, reverse=True)[:most]:
        yield {"what": f"{what}: {name[:120]}", "seconds": seconds / 1e6, "value": f"{seconds / total:.1%}, {count} calls"}


@contextlib.contextmanager
def profiled(bench: Bench) -> Iterator[torch.profiler.profile]:
    """Profile the kernels of the device inside the block."""
    activity = torch.profiler.ProfilerActivity
    synchronise(bench.device)
    with (
        undisturbed(),
        torch.profiler.profile(activities=[activity.CUDA if bench.device.type == "cuda" else activity.CPU]) as profile,
    ):
        yield profile
        synchronise(bench.device)


def run_baseline_512(bench: Bench) -> Iterator[Row]:
    size = bench.size((512, 512))
    inputs, targets = random_scene(bench.count(8), size, bench.device), random_scene(bench.count(4), size, bench.device)
    with bench.device:
        plain = LaCTLVSM(bench.config(TTT2X)).eval().requires_grad_(False)
    slow = run_baseline(plain, inputs, targets, 1)
    del plain
    model = bench.model(TTT2X)
    state = model.reconstruct(**inputs)
    ours = {
        "reconstruct": measure(lambda: model.reconstruct(**inputs), bench),
        "render": measure(lambda: model.render(state, targets["fxfycxcy"], targets["c2w"], size), bench),
    }
    for name, views in (("reconstruct", inputs), ("render", targets)):
        times = slow[name]["seconds"] / ours[name]["seconds"]
        what = f"{name} {views['image'].shape[1]} × 512×512, {TTT2X}, against the same network written plainly in float32"
        value = f"{times:.1f} times as fast ({slow[name]['seconds']:.3f} s)"
        yield with_target({"what": what, **ours[name], "value": value}, "≥ 8 times", times >= 8)


def training_row(bench: Bench, recipe: TrainingRecipe, what: str, repeats: int = 3, step: Callable[[], None] | None = None) -> Row:
    """Measure a training step of a recipe on noise."""
    give_memory_back()
    found = measure(step or our_step(recipe, bench.device, bench.dtype), bench, repeats)
    scenes, tokens, flops = work_of(recipe)
    row = {"what": f"{what}, {scenes} scenes of {recipe.num_input_views} + {recipe.num_target_views} views"}
    return row | {**found, "frames": tokens, "unit": "tokens", "flops": flops}


def run_train_object_256(bench: Bench) -> Iterator[Row]:
    row = training_row(bench, bench.recipe("object_256", "--no-compile"), "step of object_256, actckpt, eager")
    yield row
    row = training_row(bench, bench.recipe("object_256"), "step of object_256, actckpt, compiled")
    yield row | {"target": "≥ 45 % of the matrix product", "least_share": 0.45}
    give_memory_back()
    fits = bench.count(int(largest_batch(row["peak_bytes"], 8, parameters(bench, "object_256"), memory_gib(bench))), 3)
    with contextlib.suppress(torch.OutOfMemoryError):
        large = bench.recipe("object_256", "--bs_per_gpu", str(max(fits * 9 // 10, 1)))
        row = training_row(bench, large, "step of object_256, actckpt, compiled, as large as fits", 2)
        yield row | {"target": "≥ 45 % of the matrix product", "least_share": 0.45}


def run_train_scenes(bench: Bench) -> Iterator[Row]:
    for name in ("scene_128x128", "scene_144x256"):
        yield training_row(bench, bench.recipe(name, "--no-compile"), f"step of {name}, actckpt, eager", 2)
        yield training_row(bench, bench.recipe(name), f"step of {name}, actckpt, compiled", 2)


def parameters(bench: Bench, recipe: str) -> int:
    with torch.device("meta"):
        return sum(x.numel() for x in LaCTLVSM(load_config(bench.recipe(recipe).config)).parameters())


def memory_gib(bench: Bench) -> float:
    """Return the GiB of memory that this process may use, on a GPU."""
    if bench.device.type != "cuda":
        return 16.0
    total = torch.cuda.get_device_properties(bench.device).total_memory
    return total * torch.cuda.get_per_process_memory_fraction(bench.device) / GIB


def largest_batch(peak_bytes: float, scenes: int, weights: int, gib: float) -> int:
    """Return how many scenes fit, given the peak of `scenes`: weights, gradients and two moments in float32 are constant."""
    fixed = 16 * weights
    return max(int(((gib - KEPT_GIB) * GIB - fixed) // ((peak_bytes - fixed) / scenes)), 0)


def run_memory(bench: Bench) -> Iterator[Row]:
    for name in RECIPES:
        recipe = bench.recipe(name, "--no-compile", "--bs_per_gpu", "1")
        what = f"{name}, one scene; largest batch on 24 / 40 / 80 GiB, by arithmetic"
        give_memory_back()
        reset_peak(bench.device)
        step = our_step(recipe, bench.device, bench.dtype)
        try:
            step(), step()  # the second has the optimizer's moments
            synchronise(bench.device)
        except torch.OutOfMemoryError:
            yield {"what": what, "value": f"does not fit {memory_gib(bench):.0f} GiB"}
            continue
        found, weights = peak(bench.device), parameters(bench, name)
        batches = [largest_batch(found, 1, weights, gib) for gib in CARDS_GIB]
        yield {"what": what, "peak_bytes": found, "value": " / ".join(map(str, batches))}


def run_small(bench: Bench) -> Iterator[Row]:
    for scenes in (8, 64):
        for flags in (["--no-compile"], ["--compile"], ["--compile", "--compile_mode", "reduce-overhead"]):
            recipe = bench.recipe("gpu_objects_64", "--bs_per_gpu", str(scenes), *flags)
            what = "step of the bundled network, 64×64, " + " ".join(flags)
            with failing_is_a_row(what) as failed:
                step = our_step(recipe, bench.device, bench.dtype)
                row = training_row(bench, recipe, what, 10, step)
                yield row | {"value": f"{1 / row['seconds']:.0f} steps/s, idle {idle_share(step, bench):.0%}"}
            yield from failed
    model, size = bench.model(BUNDLED), bench.size((64, 64))
    yield render_row(bench, model, (64, 64), 512, "render 64×64, bundled network, 512 at a time")
    state, wanted = model.reconstruct(**random_scene(2, size, bench.device)), random_scene(1, size, bench.device)

    def frame() -> None:
        model.render(state, wanted["fxfycxcy"], wanted["c2w"], size)

    found = measure(frame, bench, 50)
    value = f"idle {idle_share(frame, bench):.0%}"
    yield {"what": "render 64×64, bundled network, one at a time", **found, "frames": 1, "unit": "frames", "value": value}


@contextlib.contextmanager
def failing_is_a_row(what: str) -> Iterator[list[Row]]:
    """Turn the exception of a variant into a row of the yielded list, so that the other variants are still measured."""
    rows: list[Row] = []
    try:
        yield rows
    except Exception as error:  # compilers raise anything
        rows.append({"what": what, "value": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"})
    gc.collect()
    torch._dynamo.reset()


def idle_share(call: Callable[[], object], bench: Bench, repeats: int = 20) -> float:
    """Return the share of time in which the device runs no kernel, by the profiler's sum of kernels; profiling adds to it."""
    cuda = bench.device.type == "cuda"
    repeats = bench.count(repeats)
    with profiled(bench) as profile:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronise(bench.device)
        seconds = time.perf_counter() - start
    busy = sum(e.self_device_time_total if cuda else e.self_cpu_time_total for e in profile.key_averages()) / 1e6
    return max(1 - busy / seconds, 0.0)


def run_generator(bench: Bench) -> Iterator[Row]:
    for kind, side, scenes in (
        ("objects", 128, 64), ("objects", 64, 64), ("scenes", 128, 32), ("scenes", 64, 32), ("objects", 256, 16), ("scenes", 256, 8)
    ):  # fmt: skip
        size, scenes, views = bench.size((side, side)), bench.count(scenes), bench.count(24)
        start = time.perf_counter()
        for i in range(scenes):
            describe(kind, 0, i, views, size)
        drawn = (time.perf_counter() - start) / scenes
        found = measure(lambda kind=kind, size=size, scenes=scenes, views=views: synthetic_batch(
            kind, 0, range(scenes), views, size, bench.device), bench, 3)  # fmt: skip
        row = {"what": f"generator, {kind} {side}×{side}, {scenes} scenes of {views} views", **found, "frames": scenes * views}
        row |= {"unit": "views", "value": f"including {drawn * 1e3:.1f} ms per scene to describe it on the host"}
        yield frames_target(row, 3000) if side == 128 else row
