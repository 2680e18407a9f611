"""Start of a training run: from its newest snapshot, from the weights of --load, or from scratch."""

from pathlib import Path
from typing import Any, NamedTuple

from config import NetworkConfig, config_from_dict
from config.errors import InputError
from config.recipe import TrainingRecipe, recipe_from_dict
from model.departure import departure, departures
from model.layers.block import check_layers
from model.machine import code_version
from model.parallel.processes import Processes
from model.training.snapshot import check_same_run, find_snapshot, read_snapshot
from model.training.state import TrainingState
from model.weights.file import read_weights
from model.weights.hub import resolve_weights
from model.weights.load import read_network_config
from model.weights.trained_with import DEFAULTS, defaults_of, trained_with


class Snapshot(NamedTuple):
    """A snapshot to resume from. Its content keeps the file mapped into memory."""

    path: Path
    content: dict[str, Any]


def find_run(recipe: TrainingRecipe) -> Snapshot | None:
    """Return the snapshot that the run of `recipe` resumes from; None for a new run.

    Raises:
        InputError: it cannot be read, or is of another run; see `find_snapshot`.
    """
    path = find_snapshot(recipe.resume, recipe.folder / "snapshot")
    return None if path is None else Snapshot(path, read_snapshot(path))


def defaults_of_run(recipe: TrainingRecipe) -> dict[str, Any]:
    """Return the settings that a run which loads weights has by default: those of its snapshot if it has one, else the weights'.

    So the file of the weights may change or go once there is a snapshot.
    """
    assert recipe.load is not None
    resumed = find_run(recipe)
    if resumed is None:
        return defaults_of(recipe.load)
    before = recipe_from_dict(resumed.content["recipe"], str(resumed.path))
    return {name: getattr(before, name) for name in DEFAULTS}


def network_of(recipe: TrainingRecipe, resumed: Snapshot | None) -> NetworkConfig:
    """Return the network config of the recipe; without one, that of the snapshot if there is one, else of the weights."""
    if recipe.config is None and resumed is not None:
        where = f"{resumed.path}, config"
        return check_layers(config_from_dict(resumed.content["config"], where), where)
    return read_network_config(recipe.config, recipe.load)


def begin(state: TrainingState, recipe: TrainingRecipe, resumed: Snapshot | None, processes: Processes) -> tuple[str, list[str]]:
    """Start `state` from a snapshot, the weights of `--load`, or from scratch; return which, in words, and notes for the log.

    Raises:
        InputError: the snapshot is of a run with other settings, what is loaded does not fit the network, or processes found
            different snapshots.
    """
    weights = None
    with processes.first_then_others():
        if resumed is not None:
            check_same_run(resumed.content, resumed.path, recipe, state.model.config, processes.data_ranks)
        elif recipe.load is not None:
            weights = resolve_weights(recipe.load)
    _check_same_step(0 if resumed is None else resumed.content["step"], recipe, processes)
    if weights is not None:
        return _begin_from_weights(state, recipe, weights)
    if resumed is None:
        return "from scratch", []
    path, content = resumed
    state.restore(content, path, processes.rank)
    notes = []
    if recipe.load is not None:
        notes.append(f"{path}: takes precedence over --load {recipe.load}, which has no effect on a resumed run")
    if content["code_version"] != code_version():
        notes.append(f"{path}: written by code {content['code_version']}, resumed by {code_version()}")
    if content["optimizer"] is None:
        notes.append(f"{path}: holds no optimizer state, which is reset; the learning-rate schedule continues")
    return f"resumed from {path}", notes


def _begin_from_weights(state: TrainingState, recipe: TrainingRecipe, weights: Path) -> tuple[str, list[str]]:
    """Load weights; return their file and what they were trained with, and a warning if they know poses of the other kind only."""
    state.load(read_weights(weights), str(weights))
    trained, run = trained_with(weights), (recipe.image_size, recipe.num_input_views, recipe.scene_pose_normalize)
    if trained.scene_pose_normalize not in (None, recipe.scene_pose_normalize):
        return f"from {recipe.load}", [departure(str(recipe.load), trained, *run)]
    found = departures(trained, *run)  # as in a curriculum of growing images
    return f"from {recipe.load}" + (f", trained {'; '.join(found)}" if found else ""), []


def _check_same_step(step: int, recipe: TrainingRecipe, processes: Processes) -> None:
    """Refuse to start if the processes found snapshots of different steps.

    Raises:
        InputError: on the first process; the others exit.
    """
    if processes.highest(step) == -processes.highest(-step):  # largest and smallest
        return
    if not processes.first:
        raise SystemExit(2)
    found = "holds different snapshots for different processes"
    raise InputError(recipe.folder / "snapshot", found, "outputs/ on a disk that all of them share")
