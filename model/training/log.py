"""Training log: a line and a progress bar, JSON lines, TensorBoard and Weights & Biases."""

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from config.errors import InputError
from config.messages import one_line, shown, shown_key
from data.files import naming, write_text
from data.output.curves import draw_curves
from model.parallel.processes import Processes
from model.training.flops import Workload
from model.training.services import import_wandb, open_tensorboard, start_wandb

# Name in a row → (name in the line, format).
LINE = {
    "loss": ("loss", "{:.5f}"),
    "lpips": ("lpips", "{:.4f}"),
    "psnr": ("psnr", "{:.2f}"),
    "val_psnr": ("val psnr", "{:.2f}"),
    "val_ssim": ("val ssim", "{:.4f}"),
    "lr": ("lr", "{:.2e}"),
    "gradient_norm": ("norm", "{:.3f}"),
    "skips": ("skipped", "{:d}"),
    "broken": ("broken", "{:d}"),
    "samples_per_s": ("samples/s", "{:.2f}"),
    "tokens_per_s": ("tokens/s", "{:.3g}"),
    "flops_share": ("flops", "{:.1%}"),
    "data_wait": ("data wait", "{:.1%}"),
    "memory_gib": ("GiB", "{:.2f}"),
    "seconds_left": ("left", "{}"),
}
_WANTED_ROW = "a row of a training log: an object with the number of its step, and numbers by name"
ONLY_IF_ANY = ("skips", "broken")


class TrainingLog:
    """Log of one run, kept by its first process.

    Nothing that cannot be told ends a run, whatever the disk, a terminal or a service answers: see `attempt`.

    Args:
        folder: of the run; `log.jsonl` in it is continued, `events` holds TensorBoard's files.
        step: steps done so far; later rows, of a run killed after its last snapshot, are dropped.
        steps: steps in all.
        wandb_project: Weights & Biases project, or None for none.
        settings: the run's configuration, for Weights & Biases.

    Raises:
        InputError: wandb is requested and not installed.
        OSError: the log cannot be written to begin with.
    """

    def __init__(self, folder: Path, step: int, steps: int, wandb_project: str | None, settings: dict[str, Any]) -> None:
        self.path, self.steps = folder / "log.jsonl", steps
        self._failed: set[str] = set()
        self.rows = [row for row in read_rows(self.path) if row["step"] <= step]
        self._file: TextIO | None = self._start_file()
        self._events = self.attempt("TensorBoard", lambda: open_tensorboard(folder / "events", step))
        self._wandb = None
        if wandb_project is not None:
            import_wandb()
            self._wandb = self.attempt("Weights & Biases", lambda: start_wandb(wandb_project, folder, step, settings))
        self._bar = tqdm(total=steps, initial=step, disable=None, dynamic_ncols=True, unit="step")

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        self.attempt("the progress bar", lambda: self._bar.update(step - self._bar.n))

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self.attempt("lines on standard output", lambda: print_above_bar(text))

    def write(self, row: dict[str, Any]) -> None:
        """Write one row of figures by name, with its `step`, everywhere."""
        row = {name: finite(value) for name, value in row.items()}
        self.rows.append(row)
        self.attempt("rows of the log", lambda: self._append(row))
        self.say(format_line(row, self.steps))
        shown = " · ".join(f"{name} {row[name]:.4g}" for name in ("loss", "psnr") if row.get(name) is not None)
        self.attempt("the progress bar", lambda: self._bar.set_postfix_str(shown))
        numbers = {name: value for name, value in row.items() if name != "step" and value is not None}
        if (events := self._events) is not None:
            for name, value in numbers.items():
                self.attempt("TensorBoard", lambda name=name, value=value: events.add_scalar(name, value, row["step"]))
        if (wandb := self._wandb) is not None:
            self.attempt("Weights & Biases", lambda: wandb.log(numbers, step=row["step"]))

    def close(self) -> None:
        """Finish all files, and draw `curves.png`."""
        self.attempt("the progress bar", self._bar.close)
        self.attempt("rows of the log", self._close_file)
        if self._events is not None:
            self.attempt("TensorBoard", self._events.close)
        if self._wandb is not None:
            self.attempt("Weights & Biases", self._wandb.finish)
        self.attempt("curves", lambda: draw_curves(self.path.parent / "curves.png", self.rows))

    def attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """Tell something about the run; what cannot be told is said once, on standard error, and the run goes on.

        Args:
            what: what is missing if it fails, in words.
            action: tells it; may raise anything, since services and encoders do.

        Returns:
            what `action` returns; None if it fails.
        """
        try:
            return action()
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                with contextlib.suppress(OSError, ValueError):
                    print(f"{self.path.parent}: goes on without {what} ({one_line(error)})", file=sys.stderr, flush=True)
            return None

    def _start_file(self) -> TextIO:
        """Write all rows so far, and return the file for more."""
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        return self.path.open("a", encoding="utf-8")

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:  # the file may end in half a row
            self._file = self._start_file()
            return
        try:
            with naming(self.path):
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._close_file()
            raise

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Window:
    """Means over the steps since the last row of the log; sums stay on the device until the row is requested.

    Args:
        processes: of the run.
        workload: of one scene.
    """

    def __init__(self, processes: Processes, workload: Workload) -> None:
        self.processes, self.workload = processes, workload
        self.device = processes.device
        self.restart()

    def restart(self) -> None:
        """Discard what was added, and restart the clock."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.steps, self.waited_s = 0, 0.0
        self.start_s, self.start_cpu_s = time.perf_counter(), time.process_time()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as time spent waiting for data."""
        start = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - start

    def add(self, values: dict[str, Tensor], skipped: Tensor) -> None:
        """Add the figures of a step; those of a skipped one do not count."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + torch.where(skipped > 0, 0, value)
            self.counts[name] = self.counts.get(name, 0) + (1 - skipped)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clocks inside."""
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        yield
        self.start_s += time.perf_counter() - start_s
        self.start_cpu_s += time.process_time() - start_cpu_s

    def row(self, broken: int) -> dict[str, Any]:
        """Return the figures since the last row, over all processes, and restart; CPU seconds are this one's, of all its threads.

        Args:
            broken: samples that this process replaced so far.
        """
        names, world = sorted(self.sums), self.processes.world
        mine = [self.sums[name] for name in names] + [self.counts[name] for name in names]
        extra = torch.tensor([broken, self.waited_s], device=self.device)
        total = self.processes.total(torch.cat([torch.stack(mine), extra]).double()).tolist()
        seconds = time.perf_counter() - self.start_s
        n = len(names)
        row = {name: total[i] / total[n + i] if total[n + i] else None for i, name in enumerate(names)}
        samples_per_s = self.steps * self.workload.scenes * self.processes.data_ranks / seconds
        row |= {
            "samples_per_s": samples_per_s,
            "tokens_per_s": samples_per_s * self.workload.tokens,
            "flops_share": samples_per_s * self.workload.flops / (self.workload.rate * world),
            "data_wait": total[-1] / world / seconds,
            "broken": int(total[-2]),
            "memory_gib": peak_memory(self.device) / 2**30,
            "seconds_per_step": seconds / self.steps,
            "cpu_seconds_per_step": (time.process_time() - self.start_cpu_s) / self.steps,
        }
        self.restart()
        return row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log without a last line that a killed process left half written.

    Raises:
        InputError: another line is damaged, or a row is something else.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows = []
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if any(lines[i + 1 :]):
                raise InputError(f"{path}, line {i + 1}", "is not JSON", _WANTED_ROW) from None
            break
        rows.append(_checked_row(row, f"{path}, line {i + 1}"))
    return rows


def _checked_row(row: object, where: str) -> dict[str, Any]:
    """Return a row as `TrainingLog.write` takes it."""
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        raise InputError(where, f"is {shown(row)}", _WANTED_ROW)
    for name, value in row.items():
        # Compared, not converted: JSON may have integers too large for a float.
        if value is not None and type(value) is not float and not (type(value) is int and abs(value) <= sys.float_info.max):
            raise InputError(f"{where}, {shown_key(name)}", f"is {shown(value)}", "a number")
    return {name: finite(value) for name, value in row.items()}


def format_line(row: dict[str, Any], steps: int) -> str:
    """Return a row as a line of text; missing figures are omitted, those that are not finite read `-`."""
    parts = [f"step {row['step']}/{steps}"]
    for name, (label, form) in LINE.items():
        if name not in row or (name in ONLY_IF_ANY and not row[name]):
            continue
        value = format_seconds(row[name]) if name == "seconds_left" and row[name] is not None else row[name]
        parts.append(f"{label} {'-' if value is None else form.format(value)}")
    return " · ".join(parts)


def format_seconds(seconds: float) -> str:
    """Return a time as 1d02h, 2h03m, 3m04s or 5s."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{h}h{m:02d}m"
    return f"{m}m{s:02d}s" if minutes else f"{s}s"


def print_above_bar(text: str) -> None:
    """Print a line on standard output, with progress bars out of its way."""
    with tqdm.external_write_mode(file=sys.stdout):
        print(text, flush=True)


def finite(value: Any) -> Any:
    """Return None for a number that JSON cannot hold, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes that this process has allocated on the device; on a CPU, its peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
