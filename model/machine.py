"""The machine and the code that figures were measured with, for reports and logs."""

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

from config.threads import cores
from model.runtime import pick_device, pick_dtype

# Instructions that decide which precision and which kernels a CPU gets, in the words of Linux: x86, then ARM.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")

Facts = dict[str, str | int]


def describe_machine(device: torch.device, dtype: torch.dtype | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> Facts:
    """Return what a figure depends on besides the settings.

    Args:
        device: that computes.
        dtype: precision of the layers; None where there are several.
        cpuinfo: the kernel's description of the CPU.

    Returns:
        commit, python, torch, device, cpu with the instructions that matter, threads of this process, cores that it may use, and
        precision.
    """
    name = "cpu"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
    facts: Facts = {"commit": code_version(), "python": platform.python_version(), "torch": torch.__version__, "device": name}
    facts |= {"cpu": describe_cpu(cpuinfo), "threads": torch.get_num_threads(), "cores": cores()}
    return facts if dtype is None else facts | {"precision": str(dtype).removeprefix("torch.")}


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of the CPU and its instructions of `INSTRUCTIONS`; its architecture where the model is unknown."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    pairs = (line.partition(":") for line in reversed(lines))  # reversed: the first core's come last
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    there = fields.get("flags", fields.get("Features", "")).split()
    model = fields.get("model name") or platform.processor() or platform.machine()
    found = [name for name in INSTRUCTIONS if name in there]
    return f"{model} ({' '.join(found)})" if found else model


def version() -> str:
    """Return what `--version` prints: the facts of this machine, with the device and the precision that are the defaults here."""
    device = pick_device()
    return in_words(describe_machine(device, pick_dtype("auto", device)))


def code_version() -> str:
    """Return the commit of the program, with `-dirty` where files were changed; `unknown` outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # In a separate session: signals that end a run leave it alone.
        return subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def in_words(facts: Mapping[str, str | int]) -> str:
    """Return facts as a line of text."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())
