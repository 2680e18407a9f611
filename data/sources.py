"""Sources of training samples, by name."""

import os
from collections.abc import Sequence

import torch

from config.errors import InputError
from config.recipe import TrainingRecipe
from data.folder_source import FolderSource
from data.image_size import check_image_size
from data.sampler import Source, views_of_sample
from data.synthetic_source import SYNTHETIC, PoolSource, SyntheticSource


def open_source(
    path: str,
    recipe: TrainingRecipe,
    patch_size: int,
    device: torch.device,
    views: Sequence[int] | None = None,
    data_share: tuple[int, int] | None = None,
) -> Source:
    """Return the source that `--data_path` or `--val_data_path` names.

    Args:
        path: a `NAME_data_path.json`, one scene's JSON, `synthetic:KIND` or `synthetic:KIND:N`.
        recipe: of the run.
        patch_size: of the network.
        device: where synthetic scenes are rendered.
        views: positions, among the n views of a sample, of those that this process computes; None for all.
        data_share: (data rank, data ranks) of this process, for training; None for validation.

    Raises:
        FileNotFoundError, InputError: nothing of that name, an unreadable file, or images that the patch does not divide.
    """
    check_image_size(recipe.image_size, patch_size)
    _check_batch(recipe)
    if path.startswith(SYNTHETIC):
        if recipe.pool is not None and data_share is not None:
            return PoolSource(path, recipe, device, views, data_share)
        return SyntheticSource(path, recipe, device, views)
    return FolderSource(path, recipe, patch_size, views)


def _check_batch(recipe: TrainingRecipe) -> None:
    """Refuse a batch whose images alone exceed the machine's memory, before its samples are computed one by one.

    Raises:
        InputError: they do.
    """
    h, w = recipe.image_size
    needed, memory = (
        recipe.bs_per_gpu * views_of_sample(recipe) * 12 * h * w,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    if needed > memory:
        found = f"is {recipe.bs_per_gpu}, with {needed >> 20} MB of images on a machine with {memory >> 20}"
        raise InputError("bs_per_gpu", found, "fewer scenes at a time, with grad_accum for the rest")
