"""Training snapshots: everything that a bitwise resume needs, written in the background."""

import dataclasses
import random
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config import NetworkConfig, config_from_dict
from config.errors import InputError, check_file
from config.flags import LARGEST_WHOLE
from config.messages import shown, with_article
from config.recipe import TrainingRecipe, differences, recipe_from_dict
from data.files import remove_leftovers, replace_when_finished
from model.training.snapshot_parts import join_parts, name_of_parts, write_parts
from model.weights.file import SNAPSHOT_FORMAT
from model.weights.torch_file import load_torch_file
from model.weights.values import check_kinds

FORMAT = f"{SNAPSHOT_FORMAT} 2"
# Spells one key differently.
OLD_FORMAT = f"{SNAPSHOT_FORMAT} 1"
NAME = re.compile(r"step_(\d+)\.pt")
# The parts of a snapshot and their types.
PARTS: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "average": (dict, type(None)),
    "optimizer": (dict, type(None)),
    "step": (int,),
    "skips": (int,),
    "rng": (list, tuple),
    "recipe": (dict,),
    "config": (dict,),
    "data_ranks": (int,),
    "code_version": (str,),
}
WHOLE = "a whole snapshot: delete it to resume from the one before"


class SnapshotWriter:
    """Write snapshots into a folder, one at a time, while training continues.

    Args:
        folder: destination; leftovers of killed writes are removed from it.
        keep: number of the newest that are kept.
        parts: (bytes of a part, of all parts): the newest is also written in files of that size, to the folder `parts` next to it.

    Attributes:
        whole: whether the parts hold the whole snapshot or lack the optimizer's state; None before there are any.
    """

    def __init__(self, folder: Path, keep: int, parts: tuple[int, int] | None = None) -> None:
        self.folder, self.keep, self.parts = folder, keep, parts
        self.whole: bool | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._pending: Future | None = None
        remove_leftovers(folder.absolute())

    def save(self, content: dict[str, Any]) -> None:
        """Copy `content`, of `TrainingState`, to the CPU and start writing it, once the previous one is on disk.

        Raises:
            OSError: the previous one could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, {"format": FORMAT, **copied(content)})

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait, then end the thread."""
        self.wait()
        self._thread.shutdown()

    def _write(self, content: dict[str, Any]) -> None:
        path = self.folder / f"step_{content['step']:08d}.pt"
        try:
            with replace_when_finished(path) as temporary:
                torch.save(content, temporary)
            if self.parts:
                reduced = {**content, "optimizer": None}
                folder = self.folder.parent / "parts"
                self.whole = write_parts(path, folder, *self.parts, lambda file: torch.save(reduced, file))
        except OSError as error:
            raise OSError(f"{error}; {last_good(self.folder)}") from error
        for _, old in list_snapshots(self.folder)[: -self.keep]:
            old.unlink()


def list_snapshots(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the finished snapshots of a folder, oldest first."""
    found = [(NAME.fullmatch(path.name), path) for path in folder.glob("step_*.pt")]
    return sorted((int(match[1]), path) for match, path in found if match)


def last_good(folder: Path) -> str:
    """Return which snapshot of a folder is the newest, in words for the message of a run that ends early."""
    found = list_snapshots(folder)
    return f"the last good snapshot is {found[-1][1]}" if found else "there is no snapshot yet"


def find_snapshot(resume: str, folder: Path) -> Path | None:
    """Return the snapshot to resume from, or None to start a new run.

    Args:
        resume: `auto` for the newest of the run, if any; `none`; a snapshot, or a folder with one in parts.
        folder: the run's snapshots.

    Raises:
        InputError: the folder holds snapshots that the run would overtake or mix with, or `resume` is a folder without parts.
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
        raise InputError(
            folder, f"holds {newer[-1]}, which is not part of the history of {resume}", "it deleted, or another --expname"
        )
    return path


def read_snapshot(path: Path) -> dict[str, Any]:
    """Read a snapshot, or a folder that holds one in parts; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, is damaged, or is something else.
    """
    if not path.is_dir():
        check_file(path, "a snapshot of outputs/EXPNAME/snapshot, or a folder with its parts")
    source = join_parts(path) if path.is_dir() else path
    content = load_torch_file(source, path, WHOLE)
    if isinstance(content, dict) and content.get("format") == OLD_FORMAT and "optimiser" in content:
        content |= {"format": FORMAT, "optimizer": content.pop("optimiser")}
    if not isinstance(content, dict) or content.get("format") != FORMAT or any(key not in content for key in PARTS):
        raise InputError(path, "is not a training snapshot", "one of outputs/EXPNAME/snapshot, or --load for weights alone")
    _check_types(content, path)
    return content


def _check_types(content: dict[str, Any], path: Path) -> None:
    for name, kinds in PARTS.items():
        value = content[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"{path}, {name}", f"is {with_article(type(value))}", " or ".join(map(with_article, kinds)))
    for name, least in (("step", 0), ("skips", 0), ("data_ranks", 1)):
        if not least <= content[name] <= LARGEST_WHOLE:
            raise InputError(f"{path}, {name}", f"is {shown(content[name])}", f"{least} or more, {LARGEST_WHOLE} at most")
    check_kinds({name: content[name] for name in PARTS}, f"{path}")
    for name in ("model", "average"):
        for key, value in (content[name] or {}).items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise InputError(f"{path}, {name}, {shown(key, 80)}", f"is {with_article(type(value))}", "tensors by their names")


def check_same_run(content: dict[str, Any], path: Path, recipe: TrainingRecipe, config: NetworkConfig, data_ranks: int) -> None:
    """Refuse a snapshot of a run with other settings.

    Raises:
        InputError: a setting differs that changes what is learned; the message names all of them, old → new.
    """
    found = []
    was, new = config_from_dict(content["config"], f"{path}, config").to_dict(), config.to_dict()
    found += [f"{recipe.config or recipe.load}: {change}" for change in _changes(was, new)]
    old = recipe_from_dict(content["recipe"], str(path))
    found += differences(old, dataclasses.replace(recipe, config=old.config), (content["data_ranks"], data_ranks))
    if found:
        wanted = "the same ones, or another --expname (with --load to start from its weights)"
        raise InputError(path, f"was trained with other settings ({'; '.join(found)})", wanted)


def _changes(was: Any, new: Any, name: str = "") -> list[str]:
    """Return which plain values of two configs differ, by name, old → new."""
    if isinstance(was, dict) and isinstance(new, dict) and was.keys() == new.keys():
        return [change for key in new for change in _changes(was[key], new[key], f"{name}, {key}" if name else key)]
    if isinstance(was, list) and isinstance(new, list) and len(was) == len(new):
        return [change for i, pair in enumerate(zip(was, new, strict=True)) for change in _changes(*pair, f"{name}[{i}]")]
    return [] if was == new else [f"{name} {shown(was)} → {shown(new)}"]


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every random number generator of this process: Python, NumPy, torch, and the device's own."""
    state = np.random.get_state(legacy=True)  # noqa: NPY002 (libraries use it)
    assert isinstance(state, tuple)  # a dict without legacy
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set what `rng_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002 (libraries use it)
    torch.set_rng_state(state["torch"].clone())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].clone())


def copied(value: Any) -> Any:
    """Return `value` with its tensors copied to the CPU: the originals change with the training, or with the file."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return value
