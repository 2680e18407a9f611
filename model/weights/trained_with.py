"""Settings that weights were trained with, read from their file; as defaults of a training recipe, too."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.errors import InputError
from config.messages import shown
from config.recipe import TrainingRecipe, recipe_from_dict
from model.departure import TrainedWith
from model.weights.file import SNAPSHOT_FORMAT, WANTED, is_safetensors, read_metadata
from model.weights.hub import resolve_weights
from model.weights.table import known_weights
from model.weights.torch_file import is_zip, load_torch_file

KINDS = ("object", "scene")
# Settings of a recipe that the weights of `--load` are the default of.
DEFAULTS = ("image_size", "num_input_views", "scene_pose_normalize")


def of_run(recipe: TrainingRecipe, steps: int) -> TrainedWith:
    """Return what a run of `recipe` trains with, after `steps` steps."""
    data_path = str(recipe.data_path)
    is_scene = recipe.scene_pose_normalize or recipe.frame_window is not None or data_path.startswith("synthetic:scenes")
    return TrainedWith(recipe.image_size, recipe.num_input_views, KINDS[is_scene], recipe.scene_pose_normalize, steps)


def trained_with(weights: str | os.PathLike) -> TrainedWith:
    """Return what weights were trained with, as far as their file or weight/checkpoints.yaml says.

    Args:
        weights: a file, or a name of the table, which is not downloaded for this.

    Raises:
        FileNotFoundError: there is neither such a file nor such a name.
        InputError: a file that cannot be read, or that states something else than these settings.
    """
    row = known_weights().get(Path(weights).name)
    if row is not None:
        return TrainedWith(row.resolution, row.num_input_views, row.kind, row.kind == "scene")
    path = resolve_weights(weights)
    if is_safetensors(path):
        stated = read_metadata(path, "trained_with", "settings of training in JSON")
        return _checked(stated or {}, f"{path}, trained_with")
    content = load_torch_file(path, path, WANTED) if is_zip(path) else None
    if isinstance(content, dict) and str(content.get("format")).startswith(SNAPSHOT_FORMAT):
        return _of_snapshot(content, str(path))
    return TrainedWith()


def defaults_of(weights: str) -> dict[str, Any]:
    """Return the defaults that weights to start from imply for a training recipe; raises what `trained_with` does."""
    known = trained_with(weights).to_dict()
    return {name: known[name] for name in DEFAULTS if name in known}


def _of_snapshot(content: Mapping[str, Any], where: str) -> TrainedWith:
    recipe, steps = content.get("recipe"), content.get("step")
    if not isinstance(recipe, dict) or not isinstance(steps, int) or not _is_count(steps):
        raise InputError(where, "holds no recipe, or no number of steps", "a training snapshot")
    # Snapshots of every version have these; others may have other names.
    names = ("data_path", "image_size", "num_input_views", "frame_window", "scene_pose_normalize")
    run = recipe_from_dict({name: recipe[name] for name in names if name in recipe}, f"{where}, recipe")
    return of_run(run, steps)


def _checked(stated: Mapping[str, Any], where: str) -> TrainedWith:
    """Return settings read from a file; unknown ones, as later versions may write, are ignored."""
    size, kind, normalised = stated.get("image_size"), stated.get("kind"), stated.get("scene_pose_normalize")
    if size is not None and not (isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_count, size))):
        raise InputError(f"{where}, image_size", f"is {shown(size, 40)}", "two whole numbers, height and width")
    for key in ("num_input_views", "steps"):
        if stated.get(key) is not None and not _is_count(stated[key]):
            raise InputError(f"{where}, {key}", f"is {shown(stated[key], 40)}", "a whole number above 0")
    if kind is not None and kind not in KINDS:
        raise InputError(f"{where}, kind", f"is {shown(kind, 40)}", " or ".join(KINDS))
    if normalised is not None and type(normalised) is not bool:
        raise InputError(f"{where}, scene_pose_normalize", f"is {shown(normalised, 40)}", "true or false")
    inputs, steps = stated.get("num_input_views"), stated.get("steps")
    return TrainedWith(None if size is None else (size[0], size[1]), inputs, kind, normalised, steps)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0
