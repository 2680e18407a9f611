"""Training of the small networks beside the steps of the GPU report."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = {"objects": "config/train/gpu_objects_64.yaml", "scenes": "config/train/gpu_scenes_64.yaml"}
# Seconds that a training keeps for its last snapshot, validation and export.
CLOSING_SECONDS = 30
VALIDATION = {"objects": "data_example/objects_data_path.json", "scenes": "data_example/scene_data_path.json"}
TINY = (
    "--device cpu --precision float32 --image_size 16 16 --pool 4 --num_all_views 4 --num_input_views 2 --min_input_views 2 "
    "--num_target_views 2 --bs_per_gpu 2 --no-compile --warmup 1 --log_every 2"
)


class Training:
    """A run of train.py that ends by the clock.

    Args:
        name: of `RECIPES`.
        weights: to start from; empty: from scratch.
        seconds: from now to the end.
        device: as for train.py.
        tiny: a rehearsal.
        folder: where it works.
        log: for its output.
    """

    def __init__(self, name: str, weights: str, seconds: float, device: str, tiny: bool, folder: Path, log: TextIO) -> None:
        self.name, self.started = name, time.monotonic()
        self.output = folder / "outputs" / name
        command = training_command(name, weights, seconds, device, tiny)
        pipes = {"stdout": log, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)

    def end(self, seconds: float, out: Path) -> tuple[dict[str, Any], bool]:
        """Wait for its end, at most so long; copy its averaged weights and log to `out`.

        Returns:
            Its row, and whether it failed.
        """
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            status = self.process.wait()
        files = {"model.safetensors": f"{self.name}.safetensors", "log.jsonl": f"{self.name}.jsonl"}
        for source, target in files.items():
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(self.output / source, out / target)
        row = {"what": f"train.py --recipe {RECIPES[self.name]}", "seconds": time.monotonic() - self.started}
        if status or not (out / f"{self.name}.jsonl").is_file():
            return row | {"value": f"failed with status {status}"}, True
        rows = [json.loads(text) for text in (out / f"{self.name}.jsonl").read_text(encoding="utf-8").splitlines()]
        last = {name: value for row in rows for name, value in row.items()}
        value = f"step {last['step']}, {last['samples_per_s']:.0f} scenes/s, data wait {last['data_wait']:.0%}, "
        return row | {"value": value + f"skipped {last['skips']}, examples {last['val_psnr']:.2f} dB"}, False


def training_command(name: str, weights: str, seconds: float, device: str, tiny: bool) -> list[str]:
    """Return the command that trains a small network; a rehearsal trains a tiny one."""
    flags = ["--expname", name, "--device", device, "--val_data_path", str(ROOT / VALIDATION[name])]
    seconds = max(seconds - CLOSING_SECONDS, 1)
    if weights:
        flags += ["--load", str(Path(weights).resolve())]
    if tiny:
        flags += ["--config", str(ROOT / "config" / "debug.yaml"), *TINY.split(), "--val_data_path", f"synthetic:{name}:1"]
        seconds = min(seconds, 5)
    command = [sys.executable, str(ROOT / "train.py"), "--recipe", str(ROOT / RECIPES[name]), *flags]
    return [*command, "--max_hours", str(seconds / 3600)]
