"""Train a LaCT network, on one process or many.

    python train.py --recipe config/train/debug.yaml
    torchrun --nproc_per_node=8 --standalone train.py --recipe config/train/object_256.yaml --data_path train_data_path.json

Processes compute different scenes, or with `--context_parallel N` groups of N share the views of the same ones.

Everything goes into outputs/EXPNAME: snapshots, log, pictures, curves and, at the end, model.safetensors for inference.py.

Letters: b scenes, v input views, u target views, h w pixels.
"""

import contextlib
import copy
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config import load_config
from config.errors import InputError
from config.recipe import TrainingRecipe, parse_size, read_recipe
from data.output.picture import comparison
from data.output.video import to_uint8
from data.sampler import Batch, Source, empty_batch, inputs_of_step, load_ahead, numbers_of, open_source, views_of_sample
from model.lact_lvsm import LaCTLVSM
from model.metric import LPIPS, psnr, ssim
from model.parallel.context import ContextGroup, join_context, own_inputs, own_targets
from model.parallel.processes import Processes, end_processes, start_processes
from model.runtime import PRECISIONS, full_memory_is_refused, keep_freed_memory, pick_dtype
from model.training.flops import matmul_rate, training_flops
from model.training.log import TrainingLog, Window
from model.training.loss import render_loss
from model.training.optimizer import apply_step, build_optimizer, gradient_norm, learning_rate, update_average
from model.training.snapshot import (
    SnapshotWriter,
    check_parts,
    check_same_run,
    code_version,
    list_snapshots,
    read_snapshot,
    restore,
    rng_state,
    snapshot,
)
from model.training.snapshot_parts import name_of_parts
from model.weights.file import read_weights, save_weights
from model.weights.hub import resolve_lpips, resolve_weights
from model.weights.load import load_weights

OUTPUT_DIR = Path("outputs")
# Batches made ahead of the one in use. Synthetic scenes on a GPU are made when they are asked for: it is busy anyway.
AHEAD = 2
AHEAD_SYNTHETIC = {"cpu": 1, "cuda": 0}
LESS_MEMORY = "fewer scenes at a time (bs_per_gpu, with grad_accum for the rest), --actckpt, or smaller images"


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit status: 0 finished or stopped in order, 1 training broke down, 2 what a user can put right.

    A fault of the program shows its traceback.
    """
    try:
        recipe = read_recipe(argv)
        processes = start_processes(recipe.device, recipe.context_parallel)
        with full_memory_is_refused(LESS_MEMORY):
            status = train(recipe, processes)
    except (InputError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    finally:
        end_processes()
    return status


def train(recipe: TrainingRecipe, processes: Processes) -> int:
    """Run the training that `recipe` describes, from its beginning or from its newest snapshot; return the exit status."""
    started = time.monotonic()
    folder = OUTPUT_DIR / recipe.expname
    config = load_config(recipe.config)
    device, dtype = processes.device, pick_dtype(recipe.precision, processes.device)
    if device.type == "cpu":
        keep_freed_memory()
    context = join_context(recipe.context_parallel)
    share, own = own_share(recipe, context)
    data_share = (processes.data_rank, processes.data_ranks)
    assert recipe.data_path is not None  # a recipe without is refused where it is read
    source = open_source(recipe.data_path, recipe, config.patch_size, device, own, data_share)
    held_out = open_source(recipe.val_data_path, recipe, config.patch_size, device) if recipe.val_data_path else None
    if held_out:
        held_out.held_out(0)  # what is wrong with it shows now and not after hours
    with processes.first_in_turn():
        lpips = LPIPS.from_files(*resolve_lpips()).to(device) if recipe.lpips_weight else None
    mean_inputs = (recipe.num_input_views + (recipe.min_input_views or recipe.num_input_views)) // 2
    flops = training_flops(config, mean_inputs, recipe.num_target_views, recipe.image_size)
    tokens = (mean_inputs + recipe.num_target_views) * math.prod(recipe.image_size) // config.patch_size**2
    rate = matmul_rate(device, dtype)

    torch.manual_seed(recipe.seed)
    model = LaCTLVSM(config).to(device).set_compute_dtype(dtype)
    model.activation_checkpointing = recipe.actckpt
    optimizer = build_optimizer(model, recipe.weight_decay, recipe.optimizer)
    resume_from = find_snapshot(recipe.resume, folder / "snapshot")
    if recipe.load is not None and resume_from is None:
        with processes.first_in_turn():
            path = resolve_weights(recipe.load)
        load_weights(model, read_weights(path), str(path))
    average = copy.deepcopy(model).requires_grad_(False) if recipe.ema else None
    part_sizes = None
    if recipe.snapshot_parts:
        part_sizes = (parse_size(recipe.snapshot_parts, "--snapshot_parts"), parse_size(recipe.snapshot_total, "--snapshot_total"))
        check_parts(model, average is not None, part_sizes[1])
    step, counts = 0, torch.zeros(2, device=device)  # steps left out: in all, and in a row until now
    if resume_from is not None:
        content = read_snapshot(resume_from)
        check_same_run(content, resume_from, recipe, config, processes.data_ranks)
        restore(content, resume_from, model, average, optimizer, processes.rank)
        step, counts[0] = content["step"], content["skips"]
        if processes.first and content["code_version"] != code_version():
            print(f"{resume_from}: written by code {content['code_version']}, resumed by {code_version()}", flush=True)
    if recipe.compile:
        compile_for_training(model, recipe)
    model.context = context
    network = wrap(model, processes)

    writer = SnapshotWriter(folder / "snapshot", recipe.keep, part_sizes) if processes.first else None
    log = TrainingLog(folder, step, recipe.steps, recipe.wandb, dataclasses.asdict(recipe)) if processes.first else None
    if log and resume_from is not None and content["optimizer"] is None:
        log.say(f"{resume_from}: holds no optimizer state; it starts anew, and the learning rate goes on")
    if log:
        log.say(f"{folder}: {describe(model, recipe, processes, dtype)}, {resume_from or recipe.load or 'from scratch'}")

    def save() -> None:
        rng = processes.gather(rng_state(device))
        if writer and rng:
            writer.save(snapshot(model, average, optimizer, rng, recipe, processes.data_ranks, step, int(counts[0])))

    def validation() -> None:
        if held_out is not None:
            model.context = None  # each process renders scenes of its own
            row = validate(average or model, held_out, recipe, processes, folder / "picture" / f"step_{step:08d}.png")
            model.context = context
            if log:
                log.write({"step": step, **row})

    window = Window(device)
    # The mean over processes of weighted losses is the mean over all targets, however uneven they are shared.
    weight = recipe.context_parallel * share.num_target_views / recipe.num_target_views
    broken_down, failed, timed_out, problem, first_step = False, False, False, None, step
    ahead = AHEAD_SYNTHETIC.get(device.type, 0) if recipe.data_path.startswith("synthetic:") else AHEAD
    ahead = 0 if recipe.pool else ahead
    batches = load_ahead(source, plan(step, recipe, processes), device, ahead)
    with stop_signal() as stop, contextlib.closing(source), contextlib.closing(batches):
        while step < recipe.steps:
            with_lpips = lpips if step >= recipe.lpips_start else None
            num_inputs = inputs_of_step(step, recipe)
            if context.size > 1:
                num_inputs = sum(i < num_inputs for i in own_inputs(recipe.num_input_views, context.rank, context.size))
            parts, problem = accumulate(network, batches, num_inputs, with_lpips, share, window, dtype, weight)
            norm = gradient_norm(model.parameters())
            refused = refuse(parts["loss"], norm, recipe, step, processes)
            lr = learning_rate(step, recipe.lr, recipe.warmup, recipe.steps, recipe.schedule)
            apply_step(optimizer, norm, refused, lr, recipe.grad_clip)
            optimizer.zero_grad(set_to_none=True)
            out_of_time = recipe.max_hours is not None and time.monotonic() - started > recipe.max_hours * 3600
            # One question for all: a process whose data is broken must not leave the others waiting.
            answer = processes.highest(3 if problem else 2 if out_of_time else int(stop.is_set()))
            stopping, timed_out, failed = answer in (1, 2), answer == 2, answer == 3
            if failed:
                if step > first_step:
                    save()
                break
            if average is not None:
                update_average(average, model, recipe.ema, step)
            counts = torch.stack([counts[0] + refused, (counts[1] + 1) * refused])
            window.add({**parts, "gradient_norm": norm}, refused)
            step += 1

            if log:
                log.advance(step)
            if step % recipe.log_every == 0 or step == recipe.steps or stopping:
                row = window.row(recipe, processes, tokens, flops, rate, source.broken)
                row |= {"lr": lr, "skips": int(counts[0]), "seconds_left": row["seconds_per_step"] * (recipe.steps - step)}
                if log:
                    log.write({"step": step, **row})
                broken_down = bool(counts[1] >= recipe.max_skips)
                window.restart()
            if broken_down:
                break
            if step % recipe.save_every == 0 or step == recipe.steps or stopping:
                save()
            if step % recipe.val_every == 0 or step == recipe.steps or timed_out:
                validation()
                window.restart()
            if stopping:
                break

    if writer:
        writer.close()
    if log:
        log.close()
    if problem:
        raise problem
    if writer and not failed:
        if broken_down:
            print(f"train.py: {last_words(step, recipe, folder)}", file=sys.stderr, flush=True)
        else:
            if step == recipe.steps or timed_out:
                weights = (average or model).state_dict()
                save_weights(folder / "model.safetensors", weights, config, PRECISIONS[recipe.export])
            state = "finished" if step == recipe.steps else f"stopped at step {step}, the same command goes on"
            print(f"{folder}: {state}", flush=True)
        if writer.whole is not None:
            held = "the whole snapshot" if writer.whole else "the snapshot without the optimizer's state, which is more than fits"
            print(f"{folder / 'parts'}: {held}; --resume goes on from there", flush=True)
    return 2 if failed else int(broken_down)


def find_snapshot(resume: str, folder: Path) -> Path | None:
    """Return the snapshot to resume from, or None to start anew.

    Raises:
        InputError: the run's folder holds snapshots that the run would go past or mix with.
    """
    found = list_snapshots(folder)
    if resume == "auto":
        return found[-1][1] if found else None
    if resume == "none":
        if found:
            raise InputError(folder, f"holds {found[-1][1].name} of an earlier run", "another --expname, or --resume auto")
        return None
    path = Path(resume)
    name = name_of_parts(path) if path.is_dir() else path.name
    newer = [other.name for _, other in found if other.name > name or path.resolve().parent != folder.resolve()]
    if newer:
        raise InputError(folder, f"holds {newer[-1]}, which {resume} does not lead to", "it deleted, or another --expname")
    return path


def compile_for_training(model: LaCTLVSM, recipe: TrainingRecipe) -> None:
    """Compile the blocks: graphs for all but the last block and for the last, for each number of inputs where it is drawn."""
    counts = recipe.num_input_views - (recipe.min_input_views or recipe.num_input_views) + 1
    # One graph for all numbers is what torch tries first, but some kernels for CPUs hold for a few of them only.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 + 4 * counts)
    model.compile_layers(mode=recipe.compile_mode)


def wrap(model: LaCTLVSM, processes: Processes) -> nn.Module:
    """Return the network as it is called in training: the gradients of several processes are averaged while they are computed."""
    if processes.world == 1:
        return model
    ids = [processes.device.index] if processes.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def plan(step: int, recipe: TrainingRecipe, processes: Processes) -> Iterator[range]:
    """Yield the sample numbers of this process for every micro-step from `step` on."""
    for s in range(step, recipe.steps):
        for micro_step in range(recipe.grad_accum):
            yield numbers_of(s, micro_step, processes.data_rank, processes.data_ranks, recipe)


def own_share(recipe: TrainingRecipe, context: ContextGroup) -> tuple[TrainingRecipe, list[int] | None]:
    """Return `recipe` with the numbers of views that this process computes, and their positions in a sample; None: all."""
    if context.size == 1:
        return recipe, None
    inputs = own_inputs(recipe.num_input_views, context.rank, context.size)
    targets = own_targets(recipe.num_target_views, context.rank, context.size)
    first = views_of_sample(recipe) - recipe.num_target_views
    share = dataclasses.replace(recipe, num_input_views=len(inputs), num_target_views=len(targets))
    return share, [*inputs, *(first + i for i in targets)]


def split(batch: Batch, num_inputs: int, num_targets: int) -> tuple[Batch, Batch]:
    """Return inputs (b, v, …), the first of a sample's views, and targets (b, u, …), the last; parts of the batch's memory."""
    inputs = {key: value[:, :num_inputs] for key, value in batch.items()}
    targets = {key: value[:, -num_targets:] for key, value in batch.items()}
    return inputs, targets


def accumulate(
    network: nn.Module,
    batches: Iterator[Batch],
    num_inputs: int,
    lpips: LPIPS | None,
    recipe: TrainingRecipe,
    window: Window,
    dtype: torch.dtype,
    weight: float = 1.0,
) -> tuple[dict[str, Tensor], Exception | None]:
    """Add up the gradients of all micro-steps of a step; return the means of the loss and its parts; all of it times `weight`.

    Where a batch cannot be read, the step goes on with an empty one and a loss of NaN, since other processes wait for this one;
    the problem is returned beside.
    """
    totals: dict[str, Tensor] = {}
    problem = None
    for micro_step in range(recipe.grad_accum):
        with window.waiting():
            try:
                batch = empty_batch(recipe, window.device) if problem else next(batches)
            except (InputError, OSError) as error:
                batch, problem = empty_batch(recipe, window.device), error
            inputs, targets = split(batch, num_inputs, recipe.num_target_views)
        last = micro_step == recipe.grad_accum - 1
        shared = isinstance(network, DistributedDataParallel)
        if recipe.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the last pass returned may be overwritten
        with network.no_sync() if shared and not last else contextlib.nullcontext():
            rendered = network(inputs, targets)
            loss, parts = render_loss(
                rendered,
                targets["image"],
                lpips,
                recipe.lpips_weight,
                recipe.actckpt,
                dtype == torch.bfloat16,
                recipe.gradient_weight,
            )
            (loss * weight / recipe.grad_accum).backward()
        for name, value in {"loss": loss.detach(), **parts}.items():
            totals[name] = totals.get(name, 0) + value * weight / recipe.grad_accum
    if problem:
        totals["loss"] = totals["loss"] * torch.nan
    return totals, problem


def refuse(loss: Tensor, norm: Tensor, recipe: TrainingRecipe, step: int, processes: Processes) -> Tensor:
    """Return 1 where this step is to be left out on all processes, else 0: a float32 scalar that nobody waits for."""
    bound = recipe.skip_norm if step >= recipe.skip_norm_start else float("inf")
    bad = ~(loss.isfinite() & norm.isfinite()) | (norm > bound)
    return processes.maximum(bad.float())


@torch.no_grad()
def validate(model: LaCTLVSM, held_out: Source, recipe: TrainingRecipe, processes: Processes, picture: Path) -> dict[str, float]:
    """Render the held-out scenes, shared among the processes; return means over scenes of PSNR and SSIM over their views."""
    sums = torch.zeros(3, dtype=torch.float64)
    for i in range(processes.rank, held_out.held_out_scenes(), processes.world):
        batch = {key: value.to(processes.device) for key, value in held_out.held_out(i).items()}
        inputs, targets = split(batch, recipe.num_input_views, recipe.num_target_views)
        rendered = model(inputs, targets).clamp(0, 1)
        if i == 0:
            draw(picture, inputs, targets, rendered)
        scores = [psnr(rendered, targets["image"]).mean(), ssim(rendered, targets["image"]).mean(), torch.ones(())]
        sums += torch.stack([score.double().cpu() for score in scores])
    total = processes.total(sums)
    return {"val_psnr": float(total[0] / total[2]), "val_ssim": float(total[1] / total[2])}


def draw(path: Path, inputs: Batch, targets: Batch, rendered: Tensor) -> None:
    """Write a picture of the first scene of a batch: inputs, and targets beside renderings."""
    views = (inputs["image"][0], targets["image"][0], rendered[0])
    comparison(path, *(list(to_uint8(images)) for images in views), title=path.stem.replace("_", " "))


def last_words(step: int, recipe: TrainingRecipe, folder: Path) -> str:
    """Say why training broke down, and what is left."""
    found = list_snapshots(folder / "snapshot")
    good = f"the last good snapshot is {found[-1][1]}" if found else "there is no snapshot yet"
    return (
        f"step {step}: {recipe.max_skips} or more steps in a row had a loss or gradient that is not finite, or a gradient norm "
        f"above skip_norm, {recipe.skip_norm}; {good}"
    )


def describe(model: LaCTLVSM, recipe: TrainingRecipe, processes: Processes, dtype: torch.dtype) -> str:
    """Return a line on what is trained on what."""
    parameters = sum(x.numel() for x in model.parameters()) / 1e6
    scenes = recipe.bs_per_gpu * recipe.grad_accum * processes.data_ranks
    precision = str(dtype).removeprefix("torch.")
    pool = f" of a pool of {recipe.pool}, each drawn {recipe.pool_reuse} times on average" if recipe.pool else ""
    return f"{parameters:.2f} M parameters, {processes.world} × {processes.device}, {precision}, {scenes} scenes a step{pool}"


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
