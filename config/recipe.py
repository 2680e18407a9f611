"""Training recipe: one dataclass for the command line, the YAML and the snapshots of a run."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import read_yaml
from config.errors import InputError
from config.flags import flag, read_command_line, read_mapping
from config.messages import shown
from config.paths import find_beside, find_path

DEFAULT_CONFIG = "config/lact_l14_d768_ttt2x.yaml"
# Settings whose value in a YAML is a file.
PATHS = ("config", "data_path", "val_data_path", "load", "resume")
MAXIMUM_SEED = 2**31 - 1
# reduce-overhead replays CUDA graphs, for networks so small that launching kernels takes longer than running them.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class TrainingRecipe:
    """Settings of a training run.

    Names are the flags and the YAML keys. Defaults are those of the published trainer and its command.
    """

    config: str | None = flag(
        None, "network config, a YAML file", group="run", unset=f"that of the weights to start from, else {DEFAULT_CONFIG}"
    )
    expname: str = flag("default", "name of the run, which writes to outputs/EXPNAME", free=True)
    data_path: str | None = flag(
        None, "NAME_data_path.json, or synthetic:objects or synthetic:scenes, with :N for N scenes only", unset="required"
    )
    load: str | None = flag(
        None, "weights to start from; their config, image_size, num_input_views and scene_pose_normalize are defaults", free=True
    )
    resume: str = flag(
        "auto", "auto (the newest snapshot of the run, if any), none, a snapshot, or a folder of its parts", free=True
    )
    device: str = flag("auto", "auto, cpu, cuda or cuda:N", free=True)
    precision: str = flag(
        "auto", "precision of the layers; auto is bfloat16 where the hardware supports it", choices=("auto", "float32", "bfloat16")
    )
    compile: bool = flag(False, "torch.compile the blocks", free=True)
    compile_mode: str = flag("default", "mode of torch.compile", choices=COMPILE_MODES, free=True)
    cuda_graphs: bool = flag(
        False, "on a GPU, replay steps as CUDA graphs: for small networks, at a constant learning rate", free=True
    )
    actckpt: bool = flag(False, "activation checkpointing: recompute each block in the backward pass", free=True)
    seed: int = flag(95, "seed of weights and data", least=0, most=MAXIMUM_SEED)
    max_hours: float | None = flag(None, "hours after which the run saves and exits", free=True, least=0)

    bs_per_gpu: int = flag(8, "scenes per process and micro-step", least=1, free=True, group="data")
    grad_accum: int = flag(1, "micro-steps per step", least=1, free=True)
    context_parallel: int = flag(1, "processes that share the views of each scene; a divisor of their number", least=1, free=True)
    image_size: tuple[int, int] = flag((256, 256), "height and width", least=1)
    crop_margin: float = flag(
        0.0, "crop a random part of each image, from one larger by this share, such as 0.125; 0 is the centre", least=0, most=1
    )
    reduced_decoding: bool = flag(False, "decode JPEGs at 1/2, 1/4 or 1/8 of their size where that suffices, for speed")
    num_all_views: int = flag(15, "views drawn per scene: the first are inputs, the last targets", least=1)
    num_input_views: int = flag(8, "inputs among them", least=1)
    min_input_views: int | None = flag(None, "draw the number of inputs of each step from this to num_input_views", least=1)
    num_target_views: int = flag(8, "targets among them; some are inputs too if num_all_views is less than their sum", least=1)
    frame_window: int | None = flag(None, "scenes: draw views from this many consecutive frames instead of all", least=1)
    scene_pose_normalize: bool = flag(False, "scenes: transform poses into the frame and scale of their mean camera")
    pool: int | None = flag(None, "synthetic scenes kept in the device's memory, each with num_all_views views", least=1)
    pool_reuse: int = flag(16, "samples drawn per scene of the pool, on average, before a new one replaces it", least=1)
    workers: int = flag(4, "threads that decode images, or processes that describe scenes of the pool", least=1, free=True)
    skip_broken: int = flag(0, "unreadable samples that a process may replace, reporting each, before it stops", free=True, least=0)

    optimizer: str = flag(
        "adamw",
        "adamw, or muon for the matrices inside the blocks and adamw for the rest",
        choices=("adamw", "muon"),
        group="optimization",
    )
    lr: float = flag(4e-4, "peak learning rate", least=0)
    warmup: int = flag(4000, "steps of linear warm-up", least=0)
    schedule: str = flag(
        "cosine", "learning rate after warm-up: cosine to 0 at the last step, or constant", choices=("cosine", "constant")
    )
    steps: int = flag(80000, "total number of steps", least=1)
    weight_decay: float = flag(0.05, "weight decay of tensors with two or more dimensions", least=0)
    grad_clip: float = flag(1.0, "clip the gradient to this norm", above=0)
    skip_norm: float = flag(4.0, "skip a step whose gradient norm is above this", least=0)
    skip_norm_start: int = flag(1000, "first step at which skip_norm applies", least=0)
    max_skips: int = flag(100, "stop after this many skipped steps in a row", least=1, free=True)
    lpips_weight: float = flag(1.0, "weight of LPIPS, added to the mean squared error; 0 is none", least=0)
    lpips_start: int = flag(5000, "first step with LPIPS", least=0)
    gradient_weight: float = flag(0.0, "weight of the squared error of differences between neighbouring pixels; 0 is none", least=0)
    ema: float = flag(0.0, "decay of the averaged weights, which are validated and exported; 0 is none", least=0)

    export: str = flag(
        "float32", "precision of model.safetensors at the end", choices=("float32", "bfloat16"), free=True, group="output"
    )
    save_every: int = flag(1000, "steps between snapshots", least=1, free=True)
    keep: int = flag(3, "number of snapshots kept", least=1, free=True)
    snapshot_parts: str | None = flag(None, "also write the newest snapshot in files of this size, such as 15M", free=True)
    snapshot_total: str = flag(
        "60M", "total size of these files; a larger snapshot is written without the optimizer's state", free=True
    )
    log_every: int = flag(100, "steps between log lines", least=1, free=True)
    val_data_path: str | None = flag(None, "held-out scenes, in the same forms as data_path", free=True)
    val_every: int = flag(1000, "steps between validations", least=1, free=True)
    wandb: str | None = flag(None, "Weights & Biases project to log to", free=True)

    @property
    def folder(self) -> Path:
        """Where the run writes everything."""
        return Path("outputs", self.expname)

    @property
    def snapshot_part_bytes(self) -> tuple[int, int] | None:
        """Bytes of one part of a snapshot and of all; None for no parts."""
        if self.snapshot_parts is None:
            return None
        return parse_size(self.snapshot_parts, "--snapshot_parts"), parse_size(self.snapshot_total, "--snapshot_total")


FIELDS = {field.name: field for field in dataclasses.fields(TrainingRecipe)}


@dataclass(frozen=True)
class RecipeFile:
    """Source of the settings that the command line does not give."""

    recipe: Path | None = flag(
        None, "settings by flag name, such as config/train/object_256.yaml; flags override it", group="recipe", metavar="YAML"
    )


def read_recipe(
    argv: Sequence[str] | None = None,
    defaults: Callable[[TrainingRecipe], Mapping[str, Any]] | None = None,
    version: Callable[[], str] | None = None,
) -> TrainingRecipe:
    """Read a run's settings: defaults, over these the YAML of `--recipe`, over these the command line.

    A file that the YAML names is looked for in the working folder, next to the YAML (where that is a link, also next to what it
    leads to), and in the project's folder.

    Args:
        argv: command-line arguments; None takes the program's.
        defaults: called with the settings of a run that loads weights; returns the defaults that these imply; the YAML overrides
            them.
        version: as for `read_command_line`.

    Raises:
        FileNotFoundError: there is no such YAML.
        InputError: an unknown flag or key, a value of the wrong type or out of range, or settings that contradict each other.
    """
    given = read_command_line(
        "train.py", "Train a LaCT network.", (RecipeFile, TrainingRecipe), argv, negatable=True, version=version
    )
    path = given.pop("recipe", None)
    values = {} if path is None else _found_from(find_path(path), read_mapping(TrainingRecipe, read_yaml(path), str(path)))
    chosen = {**values, **given}
    if defaults is not None and chosen.get("load") is not None:
        chosen = {**defaults(TrainingRecipe(**chosen)), **chosen}
    elif chosen.get("config") is None:
        chosen["config"] = DEFAULT_CONFIG
    recipe = TrainingRecipe(**chosen)
    named = {**{name: f"{path}, {name}" for name in values}, **{name: f"--{name}" for name in given}}
    _check_together(recipe, named)
    return recipe


def recipe_from_dict(values: Mapping[str, Any], where: str) -> TrainingRecipe:
    """Return the recipe of plain values, as `dataclasses.asdict` gives them; `where` names them in errors.

    Raises:
        InputError: an unknown key, or a value of the wrong type or out of range.
    """
    return TrainingRecipe(**read_mapping(TrainingRecipe, values, where))


def differences(old: TrainingRecipe, new: TrainingRecipe, world: tuple[int, int] = (1, 1)) -> list[str]:
    """Return what a resumed run would do differently; `world` is the old and new number of data ranks.

    Settings that only say where, how often or on which hardware are ignored. Scenes per step are compared as a product.
    """
    changed = [
        name for name, field in FIELDS.items() if not field.metadata.get("free") and getattr(old, name) != getattr(new, name)
    ]
    found = [f"{name} {shown(getattr(old, name), 200)} → {shown(getattr(new, name), 200)}" for name in changed]
    if new.pool is not None and world[0] != world[1]:
        found.append(f"processes with a pool of scenes each {world[0]} → {world[1]}")
    scenes = [recipe.bs_per_gpu * recipe.grad_accum * ranks for recipe, ranks in zip((old, new), world, strict=True)]
    if scenes[0] != scenes[1]:
        found.append(f"bs_per_gpu × grad_accum × processes {scenes[0]} → {scenes[1]}")
    return found


def parse_size(text: str, where: str) -> int:
    """Return the bytes of a size such as 900K, 15M or 1G, in powers of 1024 as `split -b` has them.

    Raises:
        InputError: another spelling, or a size of 0; `where` names it.
    """
    match = re.fullmatch(r"(\d{1,6})([KMG])", text)
    if match is None or int(match[1]) == 0:
        raise InputError(where, f"is {shown(text)}", "a whole number and K, M or G, such as 15M")
    return int(match[1]) << {"K": 10, "M": 20, "G": 30}[match[2]]


def _found_from(recipe: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a YAML, with its folder in front of the paths that exist only there."""
    moved = {
        name: find_beside(recipe, values[name])
        for name in PATHS
        if values.get(name) and not os.path.exists(find_path(values[name]))
    }
    return {**values, **{name: str(path) for name, path in moved.items() if path is not None}}


def _check_together(recipe: TrainingRecipe, named: Mapping[str, str]) -> None:
    def place(name: str) -> str:
        """Return where a setting was given, or could be."""
        return named.get(name, f"--{name}")

    if recipe.data_path is None:
        raise InputError("--data_path", "is missing", "a NAME_data_path.json, synthetic:objects or synthetic:scenes")
    most = max(recipe.num_input_views, recipe.num_target_views)
    if recipe.num_all_views < most:
        wanted = f"{most} or more, as many as inputs or targets, {recipe.num_input_views} and {recipe.num_target_views}"
        raise InputError(place("num_all_views"), f"is {recipe.num_all_views}", wanted)
    if recipe.frame_window is not None and recipe.frame_window < recipe.num_all_views:
        wanted = f"num_all_views, {recipe.num_all_views}, or more"
        raise InputError(place("frame_window"), f"is {recipe.frame_window}", wanted)
    least = min(recipe.num_input_views, recipe.num_target_views)
    if recipe.context_parallel > least:
        wanted = f"{least} or less: every process needs an input and a target"
        raise InputError(place("context_parallel"), f"is {recipe.context_parallel}", wanted)
    if recipe.context_parallel > 1 and recipe.skip_broken:
        wanted = "0 with context_parallel, where no process can replace a scene alone"
        raise InputError(place("skip_broken"), f"is {recipe.skip_broken}", wanted)
    if recipe.min_input_views is not None and recipe.min_input_views > recipe.num_input_views:
        wanted = f"num_input_views, {recipe.num_input_views}, or less"
        raise InputError(place("min_input_views"), f"is {recipe.min_input_views}", wanted)
    if recipe.warmup >= recipe.steps:
        raise InputError(place("warmup"), f"is {recipe.warmup} of {recipe.steps} steps", "fewer than steps")
    if recipe.ema >= 1:
        raise InputError(place("ema"), f"is {recipe.ema}", "less than 1, such as 0.999")
    if recipe.expname in (".", "..", "") or os.path.basename(recipe.expname) != recipe.expname:
        raise InputError(place("expname"), f"is {shown(recipe.expname, 200)}", "the name of a folder in outputs")
    if recipe.val_data_path is None and named.get("val_every") == "--val_every":
        raise InputError("--val_every", "has no effect without val_data_path", "both or neither")
    both = recipe.num_input_views + recipe.num_target_views
    memorised = re.fullmatch("synthetic:[^:]*:[^:]*", recipe.val_data_path or "")
    if memorised and recipe.num_all_views < both:
        found = f"is {recipe.val_data_path} with num_all_views {recipe.num_all_views}, so that targets are inputs too"
        raise InputError(place("val_data_path"), found, f"num_all_views of {both} or more, for inputs and targets")
    endless = recipe.data_path.startswith("synthetic:") and recipe.data_path.count(":") == 1
    if recipe.pool is not None and not endless:
        wanted = "synthetic:objects or synthetic:scenes, or no pool"
        raise InputError(place("pool"), f"has no effect on {recipe.data_path}", wanted)
    for name, needed in (("pool_reuse", "pool"), ("compile_mode", "compile"), ("snapshot_total", "snapshot_parts")):
        if name in named and not getattr(recipe, needed):
            raise InputError(place(name), f"has no effect without {needed}", "both or neither")
    if recipe.cuda_graphs:
        for name, wanted in (("schedule", "constant"), ("grad_accum", 1), ("context_parallel", 1), ("actckpt", False)):
            if getattr(recipe, name) != wanted:
                raise InputError(place("cuda_graphs"), f"is set with {name} {getattr(recipe, name)}", f"{name} {wanted}")
    if recipe.snapshot_parts is not None:
        part, total = (parse_size(getattr(recipe, name), place(name)) for name in ("snapshot_parts", "snapshot_total"))
        if part > total:
            wanted = f"snapshot_total, {recipe.snapshot_total}, or less"
            raise InputError(place("snapshot_parts"), f"is {recipe.snapshot_parts}", wanted)
    if recipe.data_path.startswith("synthetic:"):
        for name, lacks in (("frame_window", "frames"), ("crop_margin", "image files"), ("reduced_decoding", "image files")):
            if getattr(recipe, name):
                raise InputError(place(name), f"has no effect on {recipe.data_path}, which has no {lacks}", "it left out")
