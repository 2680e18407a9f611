"""Training of a LaCT network, on one process or many.

    python train.py --recipe config/train/debug.yaml
    torchrun --nproc_per_node=8 --standalone train.py --recipe config/train/object_256.yaml --data_path train_data_path.json

Each process trains on scenes of its own; with `--context_parallel N`, each group of N processes trains on the same scenes and
splits their views. Everything is written to outputs/EXPNAME: snapshots, log, pictures, curves and, at the end, model.safetensors
for inference.py.

Letters: b scenes, v input views, u target views.
"""

if __name__ == "__main__":  # before the imports below, which take seconds, and before torch reads its settings
    from config.startup import start

    start()

import contextlib
import enum
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config.console import forgiving_console
from config.errors import InputError, line_of
from config.messages import counted, speaks_for_machine
from config.recipe import TrainingRecipe, read_recipe
from config.signals import Signals, run_interruptibly
from data.sampler import Batch, Source, empty_batch, inputs_of_step, load_ahead, numbers_of, split
from data.sources import open_source
from model.lact_lvsm import LaCTLVSM
from model.machine import describe_machine, in_words, version
from model.metric import LPIPS
from model.parallel.context import ContextGroup, join_context
from model.parallel.launcher import adopt_slurm
from model.parallel.processes import Processes, end_processes, lost_processes_are_refused, start_processes
from model.parallel.share import ViewShare, share_views
from model.runtime import PRECISIONS, full_memory_is_refused, keep_freed_memory, pick_dtype
from model.training.flops import matmul_rate, workload_of
from model.training.log import Window
from model.training.loss import render_loss
from model.training.optimizer import apply_step, gradient_norm, learning_rate
from model.training.recorder import Recorder
from model.training.snapshot import last_good
from model.training.start import begin, defaults_of_run, find_run, network_of
from model.training.state import TrainingState
from model.training.step_graphs import StepGraphs
from model.training.validation import validate
from model.weights.file import save_weights
from model.weights.hub import resolve_lpips
from model.weights.trained_with import of_run

LESS_MEMORY = "fewer scenes at a time (bs_per_gpu, with grad_accum for the rest), --actckpt, or smaller images"


class Ending(enum.IntEnum):
    """Why the run ends. If processes disagree, the highest value wins."""

    NONE = 0
    OUT_OF_TIME = 1
    SIGNAL = 2
    BAD_DATA = 3
    BREAKDOWN = 4


class Due(NamedTuple):
    """What is due after a step."""

    log: bool
    snapshot: bool
    validation: bool


@forgiving_console()
def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit status.

    0: finished, or stopped cleanly by time or SIGTERM; 1: training broke down; 2: an error that the user can fix; 129, 130: stopped
    cleanly by SIGHUP, SIGINT; these and 143 for SIGTERM: interrupted before training began.
    """
    return run_interruptibly("train.py", lambda signals: run(argv, signals))


def run(argv: Sequence[str] | None, signals: Signals) -> int:
    """Read the recipe, join the other processes and train; return the exit status."""
    try:
        adopt_slurm()
        recipe = read_recipe(argv, defaults_of_run, version)
    except (InputError, OSError) as error:
        if speaks_for_machine():
            print(f"train.py: {line_of(error)}", file=sys.stderr, flush=True)
        return 2
    try:
        with full_memory_is_refused(LESS_MEMORY), lost_processes_are_refused():
            processes = start_processes(recipe.device, recipe.context_parallel)
            with processes.locked(recipe.folder, "--expname"):
                return train(recipe, processes, signals)
    except (InputError, OSError) as error:
        print(f"train.py: {line_of(error)}", file=sys.stderr, flush=True)
        return 2
    finally:
        end_processes()


def train(recipe: TrainingRecipe, processes: Processes, signals: Signals) -> int:
    """Run the training that `recipe` describes, from the start or from its newest snapshot; return the exit status."""
    deadline = time.monotonic() + (math.inf if recipe.max_hours is None else recipe.max_hours * 3600)
    folder, device = recipe.folder, processes.device
    if recipe.cuda_graphs and processes.world > 1:
        raise InputError("cuda_graphs", f"is set with {processes.world} processes", "one process, or no cuda_graphs")
    dtype = pick_dtype(recipe.precision, device)
    if device.type == "cpu":
        keep_freed_memory()  # returning it to the system took up to 40 % of a step

    # Data: this process's share of every sample, and the held-out scenes.
    context = join_context(processes.context_size)
    share = share_views(recipe, context)
    with processes.first_then_others():
        resumed = find_run(recipe)
        config = network_of(recipe, resumed)
        source, held_out = open_sources(recipe, config.patch_size, share, processes)

    # State: from the newest snapshot, from --load, or new.
    torch.manual_seed(recipe.seed)
    state = TrainingState(config, recipe, device, dtype)
    origin, notes = begin(state, recipe, resumed, processes)
    del resumed  # else its file would stay mapped into memory
    first_step = state.step

    # Network and loss: compiled, views shared within the context, gradients averaged over processes.
    network = prepare(state.model, recipe, context, processes)
    lpips = load_lpips(processes) if recipe.lpips_weight else None

    # Log, snapshots, and the stream of batches.
    window = Window(processes, workload_of(config, recipe, matmul_rate(device, dtype)))
    with processes.first_then_others():
        recorder = Recorder(folder, recipe, processes, state)
    batches = load_ahead(source, sample_numbers(state.step, recipe, processes), device)
    take_step = Step(network, state, lpips, share, recipe, processes, window)
    if recipe.cuda_graphs and device.type == "cuda":
        take_step = StepGraphs(take_step, state.optimizer, window, device)
    ending, bad_data = Ending.NONE, None
    with recorder, contextlib.closing(source), contextlib.closing(batches):
        machine = f"{folder}: {in_words(describe_machine(device, dtype))}"
        recorder.say("\n".join([machine, f"{folder}: {describe(state.model, recipe, processes, dtype)}, {origin}", *notes]))
        if held_out and state.step > 0 and recorder.lacks_validation(state.step, recipe):  # the run ended before it
            with window.paused():
                valid, bad_data = validate(state, held_out, recipe, processes, recorder, signals)
            ending = ending if valid else Ending.BAD_DATA
        # Signals end a run after its step. They interrupt a first step that takes minutes, to compile or to fill the pool.
        if not recipe.compile and recipe.pool is None:
            signals.defer()
        while state.step < recipe.steps and ending is Ending.NONE:
            # Gradients of all micro-steps, and the update, on all processes or on none.
            setting = setting_of(state.step, recipe)
            figures, skipped, bad_data = take_step(batches, setting)
            signals.defer()

            # Agreement: a process with bad data must not leave the others waiting. Then this step is not counted on any process.
            ending = agree(processes, bad_data, deadline, signals)
            if ending is Ending.BAD_DATA:
                break
            state.finish_step(skipped, recipe)
            window.add(figures, skipped)
            recorder.advance(state.step)

            # Log, snapshot, validation.
            due = due_after(state.step, ending, recipe)
            if due.log:
                row = window.row(source.broken) | {"lr": setting.lr, "skips": int(state.skips[0])}
                recorder.write(state.step, row | {"seconds_left": row["seconds_per_step"] * (recipe.steps - state.step)})
            if (due.log and state.broke_down_at(recipe) is not None) or (due.snapshot and state.fault(recipe)):
                ending = Ending.BREAKDOWN
                break
            if due.snapshot:
                recorder.save(state)
            if held_out and due.validation:
                with window.paused():
                    valid, bad_data = validate(state, held_out, recipe, processes, recorder, signals)
                ending = ending if valid else Ending.BAD_DATA
        if ending is Ending.BAD_DATA:
            if state.step > first_step and not state.fault(recipe):
                recorder.save(state)
            recorder.wait()
            processes.highest(0)  # a process that exits has the others ended, too: all wait for the snapshot
            if bad_data:  # on the others, `finish` returns the same exit status
                raise bad_data
    return finish(ending, state, recipe, processes, recorder) or status_of(signals, processes)


def open_sources(recipe: TrainingRecipe, patch_size: int, share: ViewShare, processes: Processes) -> tuple[Source, Source | None]:
    """Open the sources of training samples and of held-out scenes; read the first held-out scene, to fail early."""
    assert recipe.data_path is not None  # read_recipe requires it
    source = open_source(recipe.data_path, recipe, patch_size, processes.device, share.views, processes.data_share)
    if recipe.val_data_path is None:
        return source, None
    held_out = open_source(recipe.val_data_path, recipe, patch_size, processes.device)
    held_out.validation_batch(0)
    return source, held_out


def prepare(model: LaCTLVSM, recipe: TrainingRecipe, context: ContextGroup, processes: Processes) -> nn.Module:
    """Compile the network, give it its context, and return it; wrapped in DDP where there are several processes."""
    if recipe.compile:
        compile_for_training(model, recipe)
    model.context = context
    if processes.world == 1:
        return model
    ids = [processes.device.index] if processes.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def compile_for_training(model: LaCTLVSM, recipe: TrainingRecipe) -> None:
    """Compile two graphs per number of inputs that is drawn: one for the last block, one for the others."""
    counts = recipe.num_input_views - (recipe.min_input_views or recipe.num_input_views) + 1
    # torch first tries one graph for any number of inputs, but some of its kernels for CPUs serve only a few numbers. 8 is torch's
    # own limit for all other reasons to recompile.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 + 4 * counts)
    model.compile_layers(mode=recipe.compile_mode)


def load_lpips(processes: Processes) -> LPIPS:
    """Return LPIPS on this process's device; the first process downloads its files where they are missing."""
    with processes.first_then_others():
        return LPIPS.from_files(*resolve_lpips()).to(processes.device)


def sample_numbers(step: int, recipe: TrainingRecipe, processes: Processes) -> Iterator[range]:
    """Yield the sample numbers of this process for every micro-step from `step` on."""
    for current in range(step, recipe.steps):
        for micro_step in range(recipe.grad_accum):
            yield numbers_of(current, micro_step, processes.data_rank, processes.data_ranks, recipe)


class Setting(NamedTuple):
    """What a step depends on besides its batch and the state."""

    num_inputs: int
    lr: float
    with_lpips: bool
    skip_norm: float


def setting_of(step: int, recipe: TrainingRecipe) -> Setting:
    return Setting(
        inputs_of_step(step, recipe),
        learning_rate(step, recipe.lr, recipe.warmup, recipe.steps, recipe.schedule),
        step >= recipe.lpips_start and bool(recipe.lpips_weight),
        recipe.skip_norm if step >= recipe.skip_norm_start else math.inf,
    )


@dataclass(frozen=True)
class Step:
    """A training step: gradients of all micro-steps, then the update. No host sync."""

    network: nn.Module
    state: TrainingState
    lpips: LPIPS | None
    share: ViewShare
    recipe: TrainingRecipe
    processes: Processes
    window: Window

    def __call__(self, batches: Iterator[Batch], setting: Setting) -> tuple[dict[str, Tensor], Tensor, Exception | None]:
        """Take a step.

        Returns:
            means of the loss, its parts and the gradient's norm; 1 if the step was skipped, else 0, both on the device; and what
            was wrong with the data.
        """
        num_inputs = self.share.count_inputs(setting.num_inputs)
        lpips = self.lpips if setting.with_lpips else None
        figures, bad_data = accumulate(self.network, batches, num_inputs, lpips, self.share, self.recipe, self.window)
        norm = gradient_norm(self.state.model.parameters())
        skipped = self.state.should_skip(figures["loss"], norm, setting.skip_norm, self.recipe.max_skips, self.processes)
        apply_step(self.state.optimizer, norm, skipped, setting.lr, self.recipe.grad_clip)
        self.state.optimizer.zero_grad(set_to_none=True)
        return {**figures, "gradient_norm": norm}, skipped, bad_data


def accumulate(
    network: nn.Module,
    batches: Iterator[Batch],
    num_inputs: int,
    lpips: LPIPS | None,
    share: ViewShare,
    recipe: TrainingRecipe,
    window: Window,
) -> tuple[dict[str, Tensor], Exception | None]:
    """Add up the gradients of a step's micro-steps; return the means of the loss and its parts, weighted by this process's share.

    If a batch cannot be read, the step continues on an empty one, since other processes wait for this one; the problem is returned
    as well.
    """
    means: dict[str, Tensor] = {}
    bad_data = None
    is_ddp = isinstance(network, DistributedDataParallel)
    autocast = pick_dtype(recipe.precision, window.device) == torch.bfloat16
    for micro_step in range(recipe.grad_accum):
        with window.waiting():
            batch, bad_data = next_batch(batches, bad_data, share, recipe, window.device)
        inputs, targets = split(batch, num_inputs, len(share.targets))
        if recipe.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # results of the last pass may be overwritten
        last = micro_step == recipe.grad_accum - 1
        with network.no_sync() if is_ddp and not last else contextlib.nullcontext():
            loss, parts = render_loss(
                network(inputs, targets),
                targets["image"],
                lpips,
                recipe.lpips_weight,
                recompute=recipe.actckpt,
                autocast=autocast,
                gradient_weight=recipe.gradient_weight,
            )
            (loss * share.weight / recipe.grad_accum).backward()
        for name, value in {"loss": loss.detach(), **parts}.items():
            means[name] = means.get(name, 0) + value * share.weight / recipe.grad_accum
    if bad_data:
        means["loss"] = means["loss"] * torch.nan  # all processes skip this step
    return means, bad_data


def next_batch(
    batches: Iterator[Batch], bad_data: Exception | None, share: ViewShare, recipe: TrainingRecipe, device: torch.device
) -> tuple[Batch, Exception | None]:
    """Return the next batch, or an empty one together with the reason why there is none."""
    if bad_data is None:
        try:
            return next(batches), None
        except (InputError, OSError) as error:
            bad_data = error
    return empty_batch(recipe.bs_per_gpu, len(share.inputs) + len(share.targets), recipe.image_size, device), bad_data


def agree(processes: Processes, bad_data: Exception | None, deadline: float, signals: Signals) -> Ending:
    """Return why all processes must stop now, or `Ending.NONE`. Communicates over the CPU: no host sync."""
    own = Ending.NONE
    if time.monotonic() > deadline:
        own = Ending.OUT_OF_TIME
    if signals.received:
        own = Ending.SIGNAL
    if bad_data:
        own = Ending.BAD_DATA
    return Ending(processes.highest(own))


def due_after(step: int, ending: Ending, recipe: TrainingRecipe) -> Due:
    """Return what is due after a step: everything after the last one, but no validation after a signal, which leaves no time."""
    last = step == recipe.steps or ending is not Ending.NONE
    validation = ending is not Ending.SIGNAL and (last or step % recipe.val_every == 0)
    return Due(last or step % recipe.log_every == 0, last or step % recipe.save_every == 0, validation)


def finish(ending: Ending, state: TrainingState, recipe: TrainingRecipe, processes: Processes, recorder: Recorder) -> int:
    """Export the weights if the run is finished or out of time, and report how it ended; return the exit status.

    Raises:
        OSError: weights or snapshot could not be written.
    """
    folder, finished = recorder.folder, state.step == recipe.steps
    exporting = ending is Ending.OUT_OF_TIME or (finished and ending in (Ending.NONE, Ending.SIGNAL))
    fault = state.fault_of_result(PRECISIONS[recipe.export]) if exporting else None
    if processes.first and fault:
        print(f"train.py: {fault}; nothing is exported", file=sys.stderr, flush=True)
    if processes.first and ending is Ending.BREAKDOWN:
        print(f"train.py: {breakdown_message(state, recipe, folder)}", file=sys.stderr, flush=True)
    if processes.first and ending in (Ending.NONE, Ending.SIGNAL, Ending.OUT_OF_TIME):
        if exporting and not fault:
            weights, precision = state.result.state_dict(), PRECISIONS[recipe.export]
            settings = of_run(recipe, state.step).to_dict()
            try:
                save_weights(recorder.weights_path, weights, state.model.config, precision, settings)
            except OSError as error:
                raise OSError(f"{error}; {last_good(folder / 'snapshot')}") from error
        recorder.check()
        if not finished:
            print(f"{folder}: stopped at step {state.step}; rerun the same command to continue", flush=True)
        elif not fault:
            print(f"{folder}: finished", flush=True)
    if recorder.parts is not None and ending in (Ending.NONE, Ending.SIGNAL, Ending.OUT_OF_TIME):
        held = (
            "the whole snapshot"
            if recorder.parts
            else "the snapshot without the optimizer's state, which would exceed snapshot_total"
        )
        print(f"{folder / 'parts'}: {held}; --resume {folder / 'parts'} continues from there", flush=True)
    return {Ending.BAD_DATA: 2, Ending.BREAKDOWN: 1}.get(ending, 1 if finished and fault else 0)


def breakdown_message(state: TrainingState, recipe: TrainingRecipe, folder: Path) -> str:
    """Return the message of a run that broke down: the reason, and the last good snapshot."""
    return f"{state.fault(recipe)}; {last_good(folder / 'snapshot')}"


def describe(model: LaCTLVSM, recipe: TrainingRecipe, processes: Processes, dtype: torch.dtype) -> str:
    """Return one line for the log: size of the network, devices, precision, scenes per step."""
    parameters = sum(x.numel() for x in model.parameters()) / 1e6
    precision, scenes = str(dtype).removeprefix("torch."), recipe.bs_per_gpu * recipe.grad_accum * processes.data_ranks
    pool = f" of a pool of {recipe.pool}, each scene drawn {recipe.pool_reuse} times on average" if recipe.pool else ""
    per_step = f"{counted(scenes, 'scene')} per step{pool}"
    return f"{parameters:.2f} M parameters, {processes.world} × {processes.device}, {precision}, {per_step}"


def status_of(signals: Signals, processes: Processes) -> int:
    """Return the exit status after signals to any process: 0 after SIGTERM, which schedulers send, as after none. Collective.

    It is the same on all processes, and none returns before the first has written everything: torchrun ends the others once one
    has failed.
    """
    stopped_by = signals.number or signal.SIGTERM
    return processes.highest(0 if stopped_by == signal.SIGTERM else 128 + stopped_by)


if __name__ == "__main__":
    sys.exit(main())
