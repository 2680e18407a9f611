"""GPU report: all GPU measurements within a given number of minutes, most valuable first.

    python tests/benchmark/gpu_report.py --minutes 8 --out output_gpu
    python tests/benchmark/gpu_report.py --minutes 4 --out output_gpu --only tests --train objects scenes=FILE
    python tests/benchmark/gpu_report.py --device cpu --rehearse --out output_gpu

A script, not a test; --rehearse runs every line of it at tiny sizes on a CPU. Each step has its own process, so that a crash or
running out of memory affects no other. After each, DIR/report.json and DIR/report.md hold all rows so far; the output of the
processes is in DIR/report.log.

The small networks are trained beside the steps for the whole time, from scratch or from weights, and the tests run beside them;
all are paused while a step is measured: much of a step is compiling. DIR then holds the averaged weights and the log of each:
seven files in all.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from config.console import forgiving_console
from data.files import write_json, write_text
from data.output.tables import markdown_line, markdown_table
from model.machine import in_words
from model.runtime import pick_device
from tests.benchmark import gpu_steps, gpu_variants
from tests.benchmark.gpu_steps import GIB, Bench, Row, Step
from tests.benchmark.gpu_training import CLOSING_SECONDS, RECIPES, Training
from tests.benchmark.measure import PAUSED, machine, signal_group, undisturbed

ROOT = Path(__file__).resolve().parent.parent.parent
# Seconds that a step's process takes to start; with less left, the step is skipped.
LEAST_SECONDS = 15
HEAD = ("what", "seconds", "rate", "share of matmul", "peak memory", "found", "target", "met", "published")
# The step that runs beside all others, and is paused while they measure.
BESIDE = "tests"
# The test that runs alone, since it takes nearly all of the GPU's memory.
ALONE = "takes_half_of_it"
# Key of the rows of the trainings.
TRAINED = "trained"
# GiB of a GPU that steps leave to trainings beside them, over what these hold already.
KEPT_GIB = 12


@forgiving_console()
def main(argv: list[str] | None = None) -> int:
    """Run the steps, or a single one in this process; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="for all steps together (default: 8)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes: figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), metavar="NAME", help=f"of {', '.join(STEPS)}")
    names = f"of {', '.join(RECIPES)}, by default all; with a file, from its weights"
    parser.add_argument("--train", nargs="*", default=list(RECIPES), metavar="NAME[=FILE]", help=names)
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    unknown = [name for name in args.train if name.partition("=")[0] not in RECIPES]
    if unknown:
        parser.error(f"--train {unknown[0]}: wanted {' or '.join(RECIPES)}, with =FILE or without")
    if args.step:
        # Everything is imported; the previous step may still be measuring. The parent sends the time limit when this one may start.
        seconds = sys.stdin.readline()
        if seconds:
            work(args, float(seconds))
        return 0
    return Report(args).run()


def work(args: argparse.Namespace, seconds: float) -> None:
    """Run one step in this process; write its rows to the file --out, one per line."""
    os.chdir(ROOT)
    if PAUSED in os.environ and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(max(free - KEPT_GIB * GIB, GIB) / total)
    bench = Bench(pick_device(args.device), args.rehearse, seconds, args.out.parent)
    with args.out.open("a", encoding="utf-8") as file:
        if args.step == "machine":
            file.write(json.dumps({"machine": machine(bench.device)}) + "\n")
        for row in STEPS[args.step].run(bench):
            file.write(json.dumps(row) + "\n")
            file.flush()


class Report:
    """Results so far, written to disk after every step.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.started = args, time.monotonic()
        self.machine: dict[str, str] = {}
        self.rows: dict[str, list[Row]] = {}
        self.left_out: list[str] = []
        self.trainings: list[Training] = []
        self.tests: subprocess.Popen | None = None
        args.out.mkdir(parents=True, exist_ok=True)
        self.log = (args.out / "report.log").open("w", encoding="utf-8")

    def run(self) -> int:
        """Run the steps one after another; return 1 if one failed, else 0."""
        # No figure can be read without the machine's own rates.
        names, failed = list(dict.fromkeys(["machine", *(self.args.only or STEPS)])), []
        with tempfile.TemporaryDirectory() as folder, self.ending_all():
            self.train(Path(folder))
            if BESIDE in names:
                names.remove(BESIDE)
                self.tests = self.prepare(BESIDE, Path(folder))
                self.allow(self.tests, STEPS[BESIDE].seconds)
            waiting = [self.prepare(names[0], Path(folder))]
            for i, name in enumerate(names):
                process = waiting.pop()
                waiting += [self.prepare(other, Path(folder)) for other in names[i + 1 : i + 2]]
                if self.left() < LEAST_SECONDS:
                    self.left_out.append(name)
                    process.communicate()  # no input: it exits
                    continue
                seconds = min(STEPS[name].seconds, self.left())
                print(f"{name}: {STEPS[name].title} (at most {seconds:.0f} s)", flush=True)
                self.allow(process, seconds)
                failed += self.finish(name, process, seconds, Path(folder))
            if self.tests is not None:
                failed += self.finish(BESIDE, self.tests, max(self.left(), LEAST_SECONDS), Path(folder))
            failed += self.end_trainings()
        self.write()
        self.log.close()
        told = f"failed: {', '.join(failed) or 'none'}; skipped for time: {', '.join(self.left_out) or 'none'}"
        print(f"{(time.monotonic() - self.started) / 60:.1f} minutes; {told}")
        return int(bool(failed))

    @contextlib.contextmanager
    def ending_all(self) -> Iterator[None]:
        """End what runs beside the steps, however the block ends."""
        try:
            yield
        finally:
            for process in self.beside():
                signal_group(process.pid, signal.SIGKILL)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.args.minutes * 60 - (time.monotonic() - self.started)

    def train(self, folder: Path) -> None:
        """Start the trainings."""
        for wanted in self.args.train:
            name, _, weights = wanted.partition("=")
            self.trainings.append(Training(name, weights, self.left(), self.args.device, self.args.rehearse, folder, self.log))

    def end_trainings(self) -> list[str]:
        """Wait for the trainings, which end by the clock; return the names of those that failed."""
        failed = []
        for training in self.trainings:
            row, problem = training.end(max(self.left(), 2 * CLOSING_SECONDS), self.args.out)
            failed += [training.name] * problem
            self.rows.setdefault(TRAINED, []).append(row)
            self.write()
            print("  " + line(row, self.best_rate()), flush=True)
        return failed

    def prepare(self, name: str, folder: Path) -> subprocess.Popen:
        """Start the process of a step: it imports its modules and waits."""
        (folder / name).mkdir()
        rows = folder / name / "rows.jsonl"
        command = [sys.executable, __file__, "--step", name, "--out", str(rows), "--device", self.args.device]
        command += ["--rehearse"] * self.args.rehearse
        pipes = {"stdin": subprocess.PIPE, "stdout": self.log, "stderr": subprocess.STDOUT}
        groups = {PAUSED: " ".join(str(process.pid) for process in self.beside())} if self.beside() else {}
        return subprocess.Popen(command, **pipes, text=True, start_new_session=True, env=os.environ | groups)

    def beside(self) -> list[subprocess.Popen]:
        """Return the processes that run beside the steps."""
        return [training.process for training in self.trainings] + [self.tests] * (self.tests is not None)

    @staticmethod
    def allow(process: subprocess.Popen, seconds: float) -> None:
        """Let the process of a step begin; one that has failed to start is told of later."""
        with contextlib.suppress(BrokenPipeError):
            print(seconds, file=process.stdin, flush=True)

    def finish(self, name: str, process: subprocess.Popen, seconds: float, folder: Path) -> list[str]:
        """Wait for the process of a step, take its rows and print them; return the step's name if it failed."""
        problem = None
        try:
            process.communicate(timeout=seconds)
            if process.returncode:
                problem = f"failed with status {process.returncode}: {self.last_words()}"
        except subprocess.TimeoutExpired:
            problem = f"cut off after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for other in self.beside():  # a step that was cut off may have left them paused
                signal_group(other.pid, signal.SIGCONT)
        self.rows[name] = list(self.take(folder / name / "rows.jsonl"))
        if problem:
            self.rows[name].append({"what": f"step {name}", "value": problem})
        self.write()
        for row in self.rows[name]:
            print("  " + line(row, self.best_rate()), flush=True)
        return [name] if problem else []

    def take(self, path: Path) -> Iterator[Row]:
        """Yield the rows that a step has written, except a half-written last one."""
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                row = json.loads(text)
            except json.JSONDecodeError:
                return
            if "machine" in row:
                self.machine = row["machine"]
                print(in_words(self.machine), flush=True)
            else:
                yield row

    def last_words(self) -> str:
        text = (self.args.out / "report.log").read_text(encoding="utf-8", errors="replace")
        lines = [found for found in text.splitlines() if found.strip()]
        return lines[-1].strip()[:300] if lines else "no output"

    def best_rate(self) -> float | None:
        """Return the best FLOP/s of a matrix product in the network's dtype, over sizes, before and after."""
        rates = [row for rows in self.rows.values() for row in rows if "rate" in row]
        return max((row["rate"] for row in rates if row["dtype"] == rates[0]["dtype"]), default=None)

    def write(self) -> None:
        write_json(self.args.out / "report.json", {"machine": self.machine, "rows": self.rows, "left_out": self.left_out})
        parts = [f"{in_words(self.machine)}. Shares are of the best matrix product over sizes, before and after."]
        parts += ["Rehearsal at tiny sizes: figures mean nothing."] * self.args.rehearse
        for name, rows in self.rows.items():
            parts += [
                "",
                f"### {STEPS[name].title if name in STEPS else 'Small networks, trained beside'}",
                "",
                markdown_table(HEAD),
            ]
            parts += [line(row, self.best_rate()) for row in rows]
        if self.left_out:
            parts += ["", f"Skipped for time: {', '.join(self.left_out)}."]
        write_text(self.args.out / "report.md", "\n".join(parts) + "\n")


def line(row: Row, rate: float | None) -> str:
    """Return a row of a Markdown table."""
    seconds = row.get("seconds")
    share = row["flops"] / seconds / rate if seconds and rate and "flops" in row else None
    met = share >= row["least_share"] if share is not None and "least_share" in row else row.get("met")
    cells = [
        row["what"],
        f"{seconds:.4g}" if seconds else "",
        f"{row['frames'] / seconds:.4g} {row['unit']}/s" if seconds and "frames" in row else "",
        f"{share:.0%}" if share is not None else "",
        f"{row['peak_bytes'] / GIB:.2f} GiB" if "peak_bytes" in row else "",
        row.get("value", ""),
        row.get("target", ""),
        "" if met is None else "yes" if met else "no",
        row.get("published", ""),
    ]
    return markdown_line([cell.replace("|", "/") for cell in cells])


def run_tests(bench: Bench) -> Iterator[Row]:
    """Run the tests that need a GPU; a rehearsal runs one of their twins on the CPU."""
    start = time.perf_counter()
    told = pytest_output(
        ["tests/test_device_network.py", "-k", "cpu and chunks"] if bench.tiny else ["-m", "gpu", "-k", f"not {ALONE}"]
    )
    seconds = time.perf_counter() - start
    counts = dict(reversed(found) for found in re.findall(r"(\d+) (passed|failed|errors?|skipped)", told))
    value = ", ".join(f"{number} {word}" for word, number in counts.items())
    met = "passed" in counts and "failed" not in counts
    yield {"what": "python -m pytest -m gpu", "seconds": seconds, "value": value, "target": "all pass", "met": met}
    for word, name in re.findall(r"^(FAILED|ERROR) (\S+)", told, re.MULTILINE):
        yield {"what": name, "value": word.lower()}


def run_test_alone(bench: Bench) -> Iterator[Row]:
    """Run the test that takes nearly all of the GPU's memory."""
    with undisturbed():
        told = pytest_output(["tests/test_runtime.py", "-k", "numbers"] if bench.tiny else ["-m", "gpu", "-k", ALONE])
    yield {"what": f"python -m pytest -m gpu -k {ALONE}", "value": told.splitlines()[-1], "met": "failed" not in told}


def pytest_output(chosen: Sequence[str]) -> str:
    """Run tests; log their output, and return its short summary."""
    # Modules that need a missing package are reported and skipped: they test no GPU.
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=20", "--durations=10", "--continue-on-collection-errors", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    print(done.stdout, done.stderr, flush=True)
    return "\n".join(text for text in done.stdout.splitlines() if re.match(r"FAILED|ERROR|.* in [\d.:]+s", text)) + "\n"


# In order of value: first what no GPU has shown yet (model/README.md, On a GPU). Seconds are the limit of each on an H100.
STEPS = {
    "machine": Step("The machine", gpu_steps.run_machine, 40),
    BESIDE: Step("Tests on the GPU", run_tests, 480),
    "fast_weight": Step("Variants: fast-weight operations", gpu_variants.run_fast_weight, 90),
    "memory": Step("Memory of a training step", gpu_steps.run_memory, 90),
    "train_object_256": Step("Training step, objects at 256×256", gpu_steps.run_train_object_256, 200),
    "inference_512": Step("Rendering and reconstruction at 512×512", gpu_steps.run_inference_512, 120),
    "chunks": Step("Variants: views at a time", gpu_variants.run_chunks, 40),
    "newton_schulz": Step("Variants: Newton-Schulz", gpu_variants.run_newton_schulz, 60),
    "profile": Step("Kernels", gpu_steps.run_profile, 70),
    "small": Step("The bundled network", gpu_steps.run_small, 150),
    "train_scenes": Step("Training steps, scenes", gpu_steps.run_train_scenes, 200),
    "generator": Step("The generator", gpu_steps.run_generator, 80),
    "inference_536": Step("Rendering and reconstruction at 536×960", gpu_steps.run_inference_536, 70),
    "inference_long": Step("Reconstruction of long inputs", gpu_steps.run_inference_long, 90),
    "cuda_graph": Step("Variants: CUDA graphs", gpu_variants.run_cuda_graph, 40),
    "attention": Step("Variants: attention", gpu_variants.run_attention, 40),
    "baseline": Step("Against the plain network in float32", gpu_steps.run_baseline_512, 45),
    "test_alone": Step("A test that takes nearly all memory", run_test_alone, 40),
    "machine_after": Step("The machine, afterwards", gpu_steps.run_machine, 30),
}


if __name__ == "__main__":
    sys.exit(main())
