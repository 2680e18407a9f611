"""Record of a training run: its log and its snapshots, written by the first process; the others record nothing."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from config.errors import InputError
from config.recipe import TrainingRecipe
from data.files import check_output
from model.parallel.processes import Processes
from model.training.log import TrainingLog
from model.training.snapshot import SnapshotWriter, rng_state
from model.training.snapshot_parts import check_parts
from model.training.state import TrainingState


class Recorder:
    """Recorder through which a run writes everything while it trains; a context manager.

    However the `with` block ends, the snapshot in the making is finished, the log closed, and the curves drawn. Two
    snapshots in a row that cannot be written end the run, in `save`, and so does the last one, in `check`; nothing else does.

    Args:
        folder: of the run.
        recipe: of the run.
        processes: of the run; all of them open a recorder and call `save`.
        state: at the start of the run; log rows of later steps are dropped.

    Raises:
        InputError: the snapshot would not fit its parts, or Weights & Biases is not installed.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, recipe: TrainingRecipe, processes: Processes, state: TrainingState) -> None:
        self.folder, self.recipe, self.processes = folder, recipe, processes
        self._log: TrainingLog | None = None
        self._writer: SnapshotWriter | None = None
        self._problem: Exception | None = None
        self.weights_path = folder / "model.safetensors"
        sizes = recipe.snapshot_part_bytes
        if sizes:
            check_parts(state.model, state.average is not None, sizes[1])
        if processes.first:
            check_output(self.weights_path)
            self._writer = SnapshotWriter(folder / "snapshot", recipe.keep, sizes)
            self._log = TrainingLog(folder, state.step, recipe.steps, recipe.wandb, dataclasses.asdict(recipe))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        closing = [close for close in (self._writer and self._writer.close, self._log and self._log.close) if close]
        problems = [problem for problem in map(_problem_of, closing) if problem]
        if problems and error is None:
            self._problem = problems[0]
            return
        for problem in problems:
            self._report(problem)

    def check(self) -> None:
        """Check, after the block, that everything was written.

        Raises:
            OSError: the last snapshot was not.
        """
        if self._problem:
            raise self._problem

    def wait(self) -> None:
        """Wait until the last snapshot is on disk; report it if it cannot be written."""
        problem = _problem_of(self._writer.wait) if self._writer else None
        if problem:
            self._report(problem)

    def _report(self, problem: Exception) -> None:
        print(f"{self.folder}: not all was written ({problem})", file=sys.stderr, flush=True)

    def lacks_validation(self, step: int, recipe: TrainingRecipe) -> bool:
        """Return whether the validation that was due after a step is missing from the log. Collective."""
        due = step == recipe.steps or step % recipe.val_every == 0
        done = self._log is None or any(row["step"] == step and "val_psnr" in row for row in self._log.rows)
        return bool(self.processes.highest(int(due and not done)))

    @property
    def parts(self) -> bool | None:
        """Whether the parts hold the whole snapshot; None where there are none, and on all processes but the first."""
        return self._writer.whole if self._writer else None

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._log:
            self._log.say(text)

    def attempt(self, what: str, action: Callable[[], Any]) -> None:
        """Do something that must not end the run if it fails; see `TrainingLog.attempt`."""
        if self._log:
            self._log.attempt(what, action)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._log:
            self._log.advance(step)

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Write a row of figures by name to every log."""
        if self._log:
            self._log.write({"step": step, **row})

    def save(self, state: TrainingState) -> None:
        """Write a snapshot in the background; at once, if the one before could not be written. Collective.

        Raises:
            OSError: neither this one nor the one before could be written.
        """
        rng = self.processes.gather(rng_state(self.processes.device))
        if self._writer and rng:
            problem = _problem_of(self._writer.wait)
            self._writer.save(state.content(self.recipe, rng, self.processes.data_ranks))
            if problem:
                self._writer.wait()
                self._report(problem)


def _problem_of(action: Callable[[], None]) -> Exception | None:
    try:
        action()
    except (InputError, OSError) as problem:
        return problem
    return None
