"""Runs of inference.py for tests: command lines, and readers of their results. The scenes are fixtures of conftest.py."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZE = (20, 28)
EXACT = ["--device", "cpu", "--precision", "float32"]
# Every progress bar shows every step.
BARS = {"TQDM_MININTERVAL": 0}
BAR = re.compile(r"(scenes|reconstruct|evaluate|video):.*\[\d.*(scene|layer|view|frame)(/s)?\]")


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def told(error: str) -> list[str]:
    """Return the lines of standard error that are not progress bars."""
    lines = re.sub(r"\x1b\[A|\x1b\[K", "\n", error).replace("\r", "\n").splitlines()
    return [line.strip() for line in lines if line.strip() and not BAR.fullmatch(line.strip())]


def command(place: Path, folder: Path, data: Path, *flags: str) -> list[str]:
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", str(data), "--output_dir", str(folder), *EXACT]
    return [str(ROOT / "inference.py"), *words, "--num_input_views", "3", "--no_lpips", "--image_size", *map(str, SIZE), *flags]
