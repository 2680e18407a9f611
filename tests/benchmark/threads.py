"""Benchmark of thread settings: seconds of a command under several of them, alone and beside busy neighbours.

    python tests/benchmark/threads.py --neighbours 0 2 --repeats 5
    python tests/benchmark/threads.py --setting "" OMP_NUM_THREADS=1 -- tests/benchmark/inference.py --no_baseline --repeats 1

The settings take turns, so that a change of the machine's load meets all of them. Each is a list of NAME=VALUE for the command's
environment; an empty one leaves the choice to the program (the benchmarks make none). Beside the medians, the best run: it shows
the machine least disturbed.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from data.output.tables import markdown_table

ROOT = Path(__file__).parent.parent.parent

# The program's choice; that of the OpenMP library where nothing is set; waiting at other lengths; one thread.
OWN = "the program's own"
SETTINGS = ("", "GOMP_SPINCOUNT=300000", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=0", "OMP_NUM_THREADS=1")
BUSY = [sys.executable, "-c", "while True: pass"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", nargs="+", default=SETTINGS, help="environments to compare")
    parser.add_argument("--neighbours", nargs="+", type=int, default=(0, 1, 2), help="numbers of busy processes beside the command")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("command", nargs="*", default=["inference.py"], help="a program and its flags, after --")
    args = parser.parse_args(argv)
    print(f"{' '.join(args.command)}; load of the machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    rows = []
    for number in args.neighbours:
        seconds: dict[str, list[float]] = {setting: [] for setting in args.setting}
        with neighbours(number):
            for _ in range(args.repeats):
                for setting in args.setting:
                    seconds[setting].append(run(args.command, setting))
                    print(f"{number} {setting or OWN}: {seconds[setting][-1]:.2f} s", file=sys.stderr, flush=True)
        for setting, found in seconds.items():
            rows.append((str(number), setting or OWN, f"{statistics.median(found):.2f}", f"{min(found):.2f}"))
    print(markdown_table(("neighbours", "setting", "median s", "best s"), rows))


@contextlib.contextmanager
def neighbours(number: int) -> Iterator[None]:
    """Keep a number of processes busy inside the block."""
    busy = [subprocess.Popen(BUSY) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(command: Sequence[str], setting: str) -> float:
    """Return the seconds that a command takes, with a setting like `OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0` in its environment."""
    environment = os.environ | dict(pair.split("=", 1) for pair in setting.split())
    with tempfile.TemporaryDirectory() as folder:
        output = ["--output_dir", folder] if command[0] == "inference.py" else []
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *command, *output], cwd=ROOT, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds


if __name__ == "__main__":
    main()
