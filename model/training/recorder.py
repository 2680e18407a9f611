"""Record of a training run: its log and its snapshots, written by the first process; the others record nothing."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from config.recipe import TrainingRecipe
from model.parallel.processes import Processes
from model.training.log import TrainingLog
from model.training.snapshot import SnapshotWriter, rng_state
from model.training.snapshot_parts import check_parts
from model.training.state import TrainingState


class Recorder:
    """Recorder through which a run writes everything while it trains; a context manager.

    However the `with` block ends, the snapshot in the making is finished, the log closed, and the curves drawn.

    Args:
        folder: of the run.
        recipe: of the run.
        processes: of the run; all of them open a recorder and call `save`.
        state: at the start of the run; log rows of later steps are dropped.

    Raises:
        InputError: the snapshot would not fit its parts, or Weights & Biases is not installed.
        OSError: the folder cannot be written to; on leaving the block, a snapshot was not written.
    """

    def __init__(self, folder: Path, recipe: TrainingRecipe, processes: Processes, state: TrainingState) -> None:
        self.folder, self.recipe, self.processes = folder, recipe, processes
        self._log: TrainingLog | None = None
        self._writer: SnapshotWriter | None = None
        sizes = recipe.snapshot_part_bytes
        if sizes:
            check_parts(state.model, state.average is not None, sizes[1])
        if processes.first:
            self._writer = SnapshotWriter(folder / "snapshot", recipe.keep, sizes)
            self._log = TrainingLog(folder, state.step, recipe.steps, recipe.wandb, dataclasses.asdict(recipe))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.ExitStack() as stack:
            if self._log:
                stack.callback(self._log.close)
            if self._writer:
                stack.callback(self._close_writer, error)

    def _close_writer(self, error: BaseException | None) -> None:
        assert self._writer
        try:
            self._writer.close()
        except OSError as problem:
            if error is None:
                raise
            print(f"{self.folder}: the last snapshot was not written ({problem})", file=sys.stderr, flush=True)

    @property
    def parts(self) -> bool | None:
        """Whether the parts hold the whole snapshot; None where there are none, and on all processes but the first."""
        return self._writer.whole if self._writer else None

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._log:
            self._log.say(text)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._log:
            self._log.advance(step)

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Write a row of figures by name to every log."""
        if self._log:
            self._log.write({"step": step, **row})

    def save(self, state: TrainingState) -> None:
        """Write a snapshot in the background. Collective.

        Raises:
            OSError: the one before could not be written.
        """
        rng = self.processes.gather(rng_state(self.processes.device))
        if self._writer and rng:
            self._writer.save(state.content(self.recipe, rng, self.processes.data_ranks))
