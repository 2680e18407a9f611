"""Naming of DL3DV's scenes and images on the hub, and the list of benchmark scenes."""

import re
from collections.abc import Sequence

from config.errors import InputError
from config.messages import shown
from data_preprocess.hub.transfers import list_files

BENCHMARK = "DL3DV/DL3DV-10K-Benchmark"
HASH = re.compile("[0-9a-f]{64}")
IMAGE = re.compile(r"(images(?:_\d+)?)/[\w-]+\.(?i:png|jpe?g)")


def benchmark_scenes() -> list[str]:
    """Return the hashes of the benchmark's scenes, sorted, from the hub's list of folders.

    Raises:
        OSError: they could not be listed; see `list_files`.
    """
    return sorted(entry.path for entry in list_files(BENCHMARK) if HASH.fullmatch(entry.path))


def check_hashes(scenes: Sequence[str]) -> None:
    """Check the values of `--hash`.

    Raises:
        InputError: one is not a hash.
    """
    for scene in scenes:
        if not HASH.fullmatch(scene):
            raise InputError("--hash", f"is {shown(scene, 80)}", "64 hexadecimal digits in lower case")
