"""Services that show a training run: TensorBoard and Weights & Biases, both optional."""

import os
import secrets
from pathlib import Path
from typing import Any

from config.errors import InputError
from data.files import write_text


def open_tensorboard(folder: Path, step: int) -> Any:
    """Return a writer of TensorBoard events, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(os.fspath(folder), purge_step=step + 1)


def import_wandb() -> Any:
    """Return the package of Weights & Biases.

    Raises:
        InputError: it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError:
        raise InputError("--wandb", "needs wandb, which is not installed", "pip install wandb, or no --wandb") from None
    return wandb


def start_wandb(project: str, folder: Path, step: int, settings: dict[str, Any]) -> Any:
    """Start a run in Weights & Biases, or, from a step above 0, continue the one that this folder began.

    Its id is kept in `wandb_id` in the folder: folder names are not unique across machines and projects.

    Raises:
        InputError: wandb is not installed.
    """
    wandb = import_wandb()
    id_path = folder / "wandb_id"
    if step == 0 or not id_path.is_file():
        write_text(id_path, secrets.token_hex(8))
    run_id = id_path.read_text(encoding="utf-8")
    return wandb.init(project=project, name=folder.name, id=run_id, resume="allow", dir=folder, config=settings)
