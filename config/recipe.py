"""The settings of a training run: one dataclass that is the command line, the YAML recipe and what a snapshot remembers."""

import argparse
import dataclasses
import os
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config import did_you_mean, read_yaml
from config.errors import InputError

MAXIMUM_SEED = 2**31 - 1
# reduce-overhead replays CUDA graphs, for networks so small that launching kernels takes longer than running them.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")


def _flag(default: Any, text: str, least: float | None = None, choices: Sequence[str] = (), free: bool = False):
    """Return a dataclass field. `least`: smallest value allowed; `free`: a resumed run may change it."""
    return dataclasses.field(default=default, metadata={"help": text, "least": least, "choices": choices, "free": free})


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that a training run is told.

    The names are the flags and the YAML keys. Defaults are those of the published trainer and recipe.
    """

    config: str = _flag("config/lact_l14_d768_ttt2x.yaml", "network, a YAML file")
    expname: str = _flag("default", "name of the run: it writes into outputs/EXPNAME", free=True)
    data_path: str | None = _flag(None, "NAME_data_path.json, or synthetic:objects or synthetic:scenes, with :N for N scenes only")
    load: str | None = _flag(None, "weights to start from", free=True)
    resume: str = _flag("auto", "auto (the newest snapshot of the run, if any), none, a snapshot, or its parts' folder", free=True)
    device: str = _flag("auto", "auto, cpu, cuda or cuda:N", free=True)
    precision: str = _flag("auto", "of the layers; auto is bfloat16 where hardware has it", choices=("auto", "float32", "bfloat16"))
    compile: bool = _flag(False, "torch.compile the blocks", free=True)
    compile_mode: str = _flag("default", "mode of torch.compile", choices=COMPILE_MODES, free=True)
    actckpt: bool = _flag(False, "activation checkpointing: recompute each block in the backward pass", free=True)
    seed: int = _flag(95, "of weights and data", least=0)
    max_hours: float | None = _flag(None, "save and exit after this time", least=0, free=True)

    bs_per_gpu: int = _flag(8, "scenes a process computes at a time", least=1, free=True)
    grad_accum: int = _flag(1, "micro-steps of bs_per_gpu scenes that make one step", least=1, free=True)
    context_parallel: int = _flag(1, "processes that share the views of each scene; it divides their number", least=1, free=True)
    image_size: tuple[int, int] = _flag((256, 256), "height and width", least=1)
    num_all_views: int = _flag(15, "views drawn of a scene: inputs are the first, targets the last of them", least=1)
    num_input_views: int = _flag(8, "inputs among them", least=1)
    min_input_views: int | None = _flag(None, "each step draws its number of inputs from here to num_input_views", least=1)
    num_target_views: int = _flag(8, "targets among them, inputs too where num_all_views has less than both", least=1)
    frame_window: int | None = _flag(None, "draw views from so many frames in a row (scenes), not from all (objects)", least=1)
    scene_pose_normalize: bool = _flag(False, "bring poses into the frame and scale of their mean camera (scenes)")
    pool: int | None = _flag(None, "synthetic scenes kept in the device's memory, each with num_all_views views", least=1)
    pool_reuse: int = _flag(16, "samples drawn of a scene of the pool, on average, before a new one takes its place", least=1)
    workers: int = _flag(4, "threads that decode images, or processes that describe scenes of the pool", least=1, free=True)
    skip_broken: int = _flag(0, "unreadable samples that a process may replace, naming each, before it stops", least=0, free=True)

    optimizer: str = _flag("adamw", "adamw, or muon for the matrices inside the blocks", choices=("adamw", "muon"))
    lr: float = _flag(4e-4, "peak learning rate", least=0)
    warmup: int = _flag(4000, "steps of linear warm-up", least=0)
    schedule: str = _flag("cosine", "of the learning rate: to 0 at the last step, or constant", choices=("cosine", "constant"))
    steps: int = _flag(80000, "steps in all", least=1)
    weight_decay: float = _flag(0.05, "on tensors of two or more dimensions", least=0)
    grad_clip: float = _flag(1.0, "clip the gradient to this norm", least=0)
    skip_norm: float = _flag(4.0, "leave out a step whose gradient norm is above", least=0)
    skip_norm_start: int = _flag(1000, "first step at which skip_norm holds", least=0)
    max_skips: int = _flag(100, "stop after so many left out steps in a row", least=1, free=True)
    lpips_weight: float = _flag(1.0, "weight of LPIPS beside the mean squared error; 0 is none", least=0)
    lpips_start: int = _flag(5000, "first step with LPIPS", least=0)
    gradient_weight: float = _flag(
        0.0, "weight of the squared error of differences between neighbouring pixels beside that of the pixels; 0 is none", least=0
    )
    ema: float = _flag(0.0, "decay of the average over weights that is validated and exported; 0 is none", least=0)

    export: str = _flag("float32", "precision of model.safetensors at the end", choices=("float32", "bfloat16"), free=True)
    save_every: int = _flag(1000, "steps between snapshots", least=1, free=True)
    keep: int = _flag(3, "snapshots kept", least=1, free=True)
    snapshot_parts: str | None = _flag(None, "also leave the newest snapshot in files of this size, such as 15M", free=True)
    snapshot_total: str = _flag("60M", "of all these files; a larger snapshot goes without the optimizer's state", free=True)
    log_every: int = _flag(100, "steps between log lines", least=1, free=True)
    val_data_path: str | None = _flag(None, "held-out scenes, named as data_path is", free=True)
    val_every: int = _flag(1000, "steps between validations", least=1, free=True)
    wandb: str | None = _flag(None, "Weights & Biases project that gets the log, too", free=True)


FIELDS = {field.name: field for field in dataclasses.fields(TrainingRecipe)}
TYPES = typing.get_type_hints(TrainingRecipe)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "two whole numbers, height and width"}


def read_recipe(argv: Sequence[str] | None = None) -> TrainingRecipe:
    """Read a run's settings: defaults, over these the YAML of `--recipe`, over these the command line.

    Args:
        argv: command-line arguments; None takes the program's.

    Raises:
        FileNotFoundError: there is no such YAML.
        InputError: an unknown flag or key, a value that is not of its type or out of range, or settings at odds.
    """
    try:
        given, unknown = _parser().parse_known_args(argv)
    except argparse.ArgumentError as error:
        flag = str(error.argument_name).partition("/")[0]
        wanted = _wanted(flag.removeprefix("--")) if flag != "--recipe" else "a YAML file"
        raise InputError(flag, f"cannot be read ({error.message})", wanted) from None
    flags = [f"--{name}" for name in ("recipe", *FIELDS)]
    for flag in unknown:
        raise InputError(flag, "is unknown", f"a known flag; {did_you_mean(flag.partition('=')[0], flags)}")
    given = vars(given)
    path = given.pop("recipe", None)
    values = {} if path is None else _from_yaml(read_yaml(path), path)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    recipe = TrainingRecipe(**{**values, **given})
    named = {**{name: f"{path}, {name}" for name in values}, **{name: f"--{name}" for name in given}}
    _check_ranges(recipe, named)
    _check_together(recipe, named)
    return recipe


def recipe_from_dict(values: Mapping[str, Any], where: str) -> TrainingRecipe:
    """Return the recipe of plain values, as `dataclasses.asdict` gives them; `where` names them in errors.

    Raises:
        InputError: an unknown key or a value of another type.
    """
    return TrainingRecipe(**_from_yaml(values, where))


def differences(old: TrainingRecipe, new: TrainingRecipe, world: tuple[int, int] = (1, 1)) -> list[str]:
    """Say what a resumed run would do otherwise than the run that it resumes; `world` is their numbers of data ranks.

    Settings that only say where, how often or on what hardware are left out. Scenes a step are compared as their product.
    """
    changed = [name for name, field in FIELDS.items() if not field.metadata["free"] and getattr(old, name) != getattr(new, name)]
    found = [f"{name} {getattr(old, name)!r} → {getattr(new, name)!r}" for name in changed]
    if new.pool is not None and world[0] != world[1]:
        found.append(f"processes with a pool of scenes each {world[0]} → {world[1]}")
    scenes = [recipe.bs_per_gpu * recipe.grad_accum * ranks for recipe, ranks in zip((old, new), world, strict=True)]
    if scenes[0] != scenes[1]:
        found.append(f"bs_per_gpu × grad_accum × processes {scenes[0]} → {scenes[1]}")
    return found


def parse_size(text: str, where: str) -> int:
    """Return the bytes of a size such as 900K, 15M or 1G, in powers of 1024 as `split -b` has them.

    Raises:
        InputError: another spelling, or nothing; `where` names it.
    """
    match = re.fullmatch(r"(\d{1,6})([KMG])", text)
    if match is None or int(match[1]) == 0:
        raise InputError(where, f"is {text!r}", "a whole number and K, M or G, such as 15M")
    return int(match[1]) << {"K": 10, "M": 20, "G": 30}[match[2]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a LaCT network.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        exit_on_error=False,
    )
    parser.add_argument("--recipe", metavar="YAML", help="settings by flag name, such as config/train/object_256.yaml; flags win")
    for name, field in FIELDS.items():
        kind = _kind(name)
        text = f"{field.metadata['help']} (default: {_show(field.default)})"
        if kind is bool:
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=text)
        elif kind is tuple:
            parser.add_argument(f"--{name}", nargs=2, type=int, metavar=("H", "W"), help=text)
        else:
            parser.add_argument(f"--{name}", type=kind, choices=field.metadata["choices"] or None, help=text)
    return parser


def _kind(name: str) -> type:
    """Return the type of a setting: bool, int, float, str or tuple."""
    declared = TYPES[name]
    options = [option for option in typing.get_args(declared) if option is not type(None)]
    return tuple if typing.get_origin(declared) is tuple else (options[0] if options else declared)


def _from_yaml(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in values:
        if key not in FIELDS:
            raise InputError(f"{where}, {key}", "is unknown", f"a known key; {did_you_mean(str(key), list(FIELDS))}")
    return {key: _exact(key, value, f"{where}, {key}") for key, value in values.items()}


def _wanted(name: str) -> str:
    """Return what values a setting takes, in words."""
    return ", ".join(FIELDS[name].metadata["choices"]) or KINDS[_kind(name)]


def _exact(name: str, value: Any, where: str) -> Any:
    """Return `value` as the setting's type: whole numbers stand for floats, lists for tuples, and nothing else for another."""
    kind, field = _kind(name), FIELDS[name]
    if value is None and field.default is None:
        return None
    if kind is tuple and isinstance(value, (list, tuple)) and [type(item) for item in value] == [int, int]:
        return tuple(value)
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not kind or kind is tuple:
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if kind is float and isinstance(value, str) else ""
        raise InputError(where, f"is {value!r}", KINDS[kind] + hint)
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise InputError(where, f"is {value!r}", _wanted(name))
    return value


def _check_ranges(recipe: TrainingRecipe, named: Mapping[str, str]) -> None:
    for name, where in named.items():
        value, least = getattr(recipe, name), FIELDS[name].metadata["least"]
        numbers = value if isinstance(value, tuple) else (value,)
        if least is not None and value is not None and not all(least <= number < float("inf") for number in numbers):
            raise InputError(where, f"is {_show(value)}", f"{least} or more")


def _check_together(recipe: TrainingRecipe, named: Mapping[str, str]) -> None:
    def place(name: str) -> str:
        """Return where a setting is named, or would be."""
        return named.get(name, f"--{name}")

    if recipe.data_path is None:
        raise InputError("--data_path", "is missing", "a NAME_data_path.json, synthetic:objects or synthetic:scenes")
    most = max(recipe.num_input_views, recipe.num_target_views)
    if recipe.num_all_views < most:
        wanted = f"{most} or more, as many as inputs or targets"
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
    if recipe.seed > MAXIMUM_SEED:
        raise InputError(place("seed"), f"is {recipe.seed}", f"{MAXIMUM_SEED} or less")
    if recipe.expname in (".", "..", "") or os.path.basename(recipe.expname) != recipe.expname:
        raise InputError(place("expname"), f"is {recipe.expname!r}", "the name of a folder in outputs")
    if recipe.val_data_path is None and named.get("val_every") == "--val_every":
        raise InputError("--val_every", "has no effect without val_data_path", "both or neither")
    endless = recipe.data_path.startswith("synthetic:") and recipe.data_path.count(":") == 1
    if recipe.pool is not None and not endless:
        wanted = "synthetic:objects or synthetic:scenes, or no pool"
        raise InputError(place("pool"), f"has no effect on {recipe.data_path}", wanted)
    for name, needed in (("pool_reuse", "pool"), ("compile_mode", "compile"), ("snapshot_total", "snapshot_parts")):
        if name in named and not getattr(recipe, needed):
            raise InputError(place(name), f"has no effect without {needed}", "both or neither")
    if recipe.snapshot_parts is not None:
        part, total = (parse_size(getattr(recipe, name), place(name)) for name in ("snapshot_parts", "snapshot_total"))
        if part > total:
            wanted = f"snapshot_total, {recipe.snapshot_total}, or less"
            raise InputError(place("snapshot_parts"), f"is {recipe.snapshot_parts}", wanted)
    if recipe.data_path.startswith("synthetic:") and recipe.frame_window is not None:
        found = f"has no effect on {recipe.data_path}, which has no frames"
        raise InputError(place("frame_window"), found, "it left out")


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
