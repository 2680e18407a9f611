"""GPU report: all GPU measurements within a given number of minutes, most valuable first.

    python tests/benchmark/gpu_report.py --minutes 8 --out output_gpu
    python tests/benchmark/gpu_report.py --minutes 4 --out output_gpu --only model
    python tests/benchmark/gpu_report.py --device cpu --rehearse --out output_gpu

A script, not a test; --rehearse runs every line of it at tiny sizes on a CPU. Each step has its own process, so that a crash or
running out of memory affects no other. After each, DIR/report.json and DIR/report.md hold all rows so far; the output of the
processes is in DIR/report.log. The step `model` trains the bundled network for the rest of the time; DIR/parts then holds its
snapshot in parts, and DIR/model.safetensors its averaged weights: at most eight files in all.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from data.files import write_json, write_text
from model.runtime import pick_device
from tests.benchmark import gpu_steps, gpu_variants
from tests.benchmark.gpu_steps import GIB, Bench, Row, Step
from tests.benchmark.measure import in_words, machine, table, table_line

ROOT = Path(__file__).resolve().parent.parent.parent
# Seconds that a step's process takes to start; with less left, the step is skipped.
LEAST_SECONDS = 15
# Seconds that the model's training reserves for imports, the last snapshot and validation.
CLOSING_SECONDS = 60
# Most files in --out.
MOST_FILES = 8
HEAD = ("what", "seconds", "rate", "share of matmul", "peak memory", "found", "target", "met", "published")
MODEL_RECIPE = "config/train/gpu_objects_64.yaml"
TINY_MODEL = (
    "--device cpu --precision float32 --image_size 16 16 --pool 4 --num_all_views 4 --num_input_views 2 --min_input_views 2 "
    "--num_target_views 2 --bs_per_gpu 2 --no-compile --warmup 1 --log_every 2 --val_data_path synthetic:objects:1"
)


def main(argv: list[str] | None = None) -> int:
    """Run the steps, or a single one in this process; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="for all steps together (default: 8)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes: figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), metavar="NAME", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
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
        args.out.mkdir(parents=True, exist_ok=True)
        self.log = (args.out / "report.log").open("w", encoding="utf-8")

    def run(self) -> int:
        """Run the steps one after another; return 1 if one failed, else 0."""
        # No figure can be read without the machine's own rates.
        names, failed = list(dict.fromkeys(["machine", *(self.args.only or STEPS)])), []
        with tempfile.TemporaryDirectory() as folder:
            waiting = [self.prepare(names[0], Path(folder))]
            for i, name in enumerate(names):
                process = waiting.pop()
                waiting += [self.prepare(other, Path(folder)) for other in names[i + 1 : i + 2]]
                left = self.args.minutes * 60 - (time.monotonic() - self.started)
                if left < LEAST_SECONDS + CLOSING_SECONDS * (name == "model"):
                    self.left_out.append(name)
                    process.communicate()  # no input: it exits
                    continue
                problem = self.run_step(name, process, left, Path(folder) / name)
                if problem:
                    failed.append(name)
                    self.rows[name].append({"what": f"step {name}", "value": problem})
                self.write()
                for row in self.rows[name]:
                    print("  " + line(row, self.best_rate()), flush=True)
        self.write()
        self.log.close()
        told = f"failed: {', '.join(failed) or 'none'}; skipped for time: {', '.join(self.left_out) or 'none'}"
        print(f"{(time.monotonic() - self.started) / 60:.1f} minutes; {told}")
        return int(bool(failed))

    def prepare(self, name: str, folder: Path) -> subprocess.Popen:
        """Start the process of a step: it imports its modules and waits."""
        (folder / name).mkdir()
        rows = folder / name / "rows.jsonl"
        command = [sys.executable, __file__, "--step", name, "--out", str(rows), "--device", self.args.device]
        command += ["--rehearse"] * self.args.rehearse
        pipes = {"stdin": subprocess.PIPE, "stdout": self.log, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, **pipes, text=True, start_new_session=True)

    def run_step(self, name: str, process: subprocess.Popen, left: float, folder: Path) -> str | None:
        """Let the process of a step run; return what went wrong, if anything."""
        seconds = left if name == "model" else min(STEPS[name].seconds, left)
        print(f"{name}: {STEPS[name].title} (at most {seconds:.0f} s)", flush=True)
        try:
            process.communicate(f"{seconds}\n", timeout=seconds)
            problem = f"failed with status {process.returncode}: {self.last_words()}" if process.returncode else None
        except subprocess.TimeoutExpired:
            problem = f"cut off after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.rows[name] = list(self.take(folder / "rows.jsonl"))
        self.take_training(folder / "outputs" / Path(MODEL_RECIPE).stem)
        return problem

    def take_training(self, output: Path) -> None:
        """Keep the parts and the weights of a training, even of one that was cut off."""
        if (output / "parts").is_dir():
            shutil.copytree(output / "parts", self.args.out / "parts", dirs_exist_ok=True)
            weights = output / "model.safetensors"
            if weights.is_file() and len(list((output / "parts").iterdir())) + 4 <= MOST_FILES:
                shutil.copy(weights, self.args.out)

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
            parts += ["", f"### {STEPS[name].title}", "", table(HEAD)]
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
    return table_line([cell.replace("|", "/") for cell in cells])


def run_tests(bench: Bench) -> Iterator[Row]:
    """Run the tests that need a GPU; a rehearsal runs one of their twins on the CPU."""
    chosen = ["tests/test_device_network.py", "-k", "cpu and chunks"] if bench.tiny else ["-m", "gpu"]
    # Modules that need a missing package are reported and skipped: they test no GPU.
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=20", "--durations=10", "--continue-on-collection-errors", *chosen]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    print(done.stdout, done.stderr, flush=True)
    seconds = time.perf_counter() - start
    counts = dict(reversed(found) for found in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout[-200:]))
    value = ", ".join(f"{number} {word}" for word, number in counts.items())
    met = "passed" in counts and "failed" not in counts and seconds <= 120
    yield {"what": "python -m pytest -m gpu", "seconds": seconds, "value": value, "target": "all pass, ≤ 120 s", "met": met}
    for word, name in re.findall(r"^(FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE):
        yield {"what": name, "value": word.lower()}


def run_model(bench: Bench) -> Iterator[Row]:
    """Train the bundled network until time is up."""
    start = time.perf_counter()
    subprocess.run(model_command(bench), cwd=bench.folder, check=True)
    log = (bench.folder / "outputs" / Path(MODEL_RECIPE).stem / "log.jsonl").read_text(encoding="utf-8")
    print(log, flush=True)
    last = {name: value for text in log.splitlines() for name, value in json.loads(text).items()}
    value = f"step {last['step']}, {last['samples_per_s']:.0f} scenes/s, data wait {last['data_wait']:.0%}, "
    value += f"skipped {last['skips']}, examples {last['val_psnr']:.2f} dB"
    row = {"what": f"train.py --recipe {MODEL_RECIPE}", "seconds": time.perf_counter() - start, "value": value}
    yield row | {"target": "ends on time, leaves its parts", "met": True}


def model_command(bench: Bench) -> list[str]:
    """Return the command that trains the bundled network; a rehearsal trains a tiny one."""
    seconds = bench.seconds - CLOSING_SECONDS
    config = f"config/{gpu_steps.BUNDLED}.yaml"
    flags = ["--val_data_path", str(ROOT / "data_example" / "objects_data_path.json"), "--device", str(bench.device)]
    if bench.tiny:
        config, flags, seconds = "config/debug.yaml", TINY_MODEL.split(), min(seconds, 5)
    command = [sys.executable, str(ROOT / "train.py"), "--recipe", str(ROOT / MODEL_RECIPE), *flags]
    return [*command, "--config", str(ROOT / config), "--max_hours", str(max(seconds, 1) / 3600)]


# In order of value. Seconds are the limit of each on an H100.
STEPS = {
    "machine": Step("The machine", gpu_steps.run_machine, 40),
    "tests": Step("Tests on the GPU", run_tests, 150),
    "inference_512": Step("Rendering and reconstruction at 512×512", gpu_steps.run_inference_512, 80),
    "train_object_256": Step("Training step, objects at 256×256", gpu_steps.run_train_object_256, 110),
    "inference_536": Step("Rendering and reconstruction at 536×960", gpu_steps.run_inference_536, 70),
    "small": Step("The bundled network", gpu_steps.run_small, 80),
    "generator": Step("The generator", gpu_steps.run_generator, 50),
    "baseline": Step("Against the plain network in float32", gpu_steps.run_baseline_512, 45),
    "cuda_graph": Step("Variants: CUDA graphs", gpu_variants.run_cuda_graph, 40),
    "attention": Step("Variants: attention", gpu_variants.run_attention, 40),
    "fast_weight": Step("Variants: fast-weight operations", gpu_variants.run_fast_weight, 90),
    "train_scenes": Step("Training steps, scenes", gpu_steps.run_train_scenes, 110),
    "memory": Step("Memory of a training step", gpu_steps.run_memory, 90),
    "newton_schulz": Step("Variants: Newton-Schulz", gpu_variants.run_newton_schulz, 50),
    "chunks": Step("Variants: views at a time", gpu_variants.run_chunks, 30),
    "machine_after": Step("The machine, afterwards", gpu_steps.run_machine, 30),
    "model": Step("The bundled network, trained", run_model, 0),
}


if __name__ == "__main__":
    sys.exit(main())
