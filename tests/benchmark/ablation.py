"""Ablation at a small budget: variants of a network trained, tested alike, and reported as tables, curves and JSON.

    python tests/benchmark/ablation.py --kind objects
    python tests/benchmark/ablation.py --only none foot --seeds 0 1 2
    python tests/benchmark/ablation.py --only none@foot_p4 --seeds 0 1 2
    python tests/benchmark/ablation.py --curve none foot lvsm

`NAME@OTHER` trains NAME for the number of steps that takes the time of OTHER's: both must have a finished run. Finished runs are
skipped, interrupted ones resume from their snapshots. A step's time is the median CPU time of its process, including decoding but
not compilation, so other load on the machine changes little. A script, not a test: see model/ABLATION.md.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from config.console import forgiving_console
from config.errors import InputError
from data.dataset import SceneDataset
from data.files import write_json, write_text
from data.output.tables import markdown_table
from data_preprocess import synthetic_export
from model import load_model
from model.training.log import read_rows
from model.training.snapshot import list_snapshots, read_snapshot
from model.weights.load import load_weights
from tests.benchmark import memories
from tests.benchmark.ablation_report import mean_and_spread, read_results, write_report
from tests.benchmark.ablation_variants import IMAGE_SIZE, KINDS, RECIPE, ROOT, TRAINED, VARIANTS, check_name, network
from tests.benchmark.measure import machine

TEST_INPUTS, POINTS = 8, 6  # inputs of a test; points of a curve
TEST_SEED, CURVE_SEED = 1000002, 1000003
TRAIN_SCENES = {"objects": 2000, "scenes": 300}
CURVE_SCENES, CURVE_VIEWS, CURVE_TARGET_EVERY = 24, 80, 5
CURVE_INPUTS = (2, 4, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Run:
    """One training run: variant, seed, number of steps, and the folder that all runs of a kind and length share."""

    name: str
    seed: int
    steps: int
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.name}_s{self.seed}"

    @property
    def output(self) -> Path:
        return self.folder / "outputs" / self.label

    @property
    def result(self) -> Path:
        return self.folder / "result" / f"{self.label}.json"

    @property
    def network(self) -> Path:
        return self.folder / "network" / f"{self.name.partition('@')[0]}.yaml"


@forgiving_console()
def main(argv: Sequence[str] | None = None) -> int:
    """Train, test and report as requested; return 0, 1 if a run failed, 2 for bad input, 130 when interrupted."""
    args = parse(argv)
    torch.set_num_threads(1)
    folder = args.out.resolve() / f"{args.kind}_{args.steps}"
    failed: list[str] = []
    try:
        for name in [*(args.only or []), *(args.curve or [])]:
            check_name(name)
        if args.curve is not None:
            compare_inputs(args, folder, args.curve or ["none", "foot", "lvsm"])
            return 0
        if not args.report:
            names = args.only or KINDS[args.kind]
            failed = train_missing([(name, seed) for seed in args.seeds for name in names if "@" not in name], args, folder)
            failed += train_missing([(name, seed) for seed in args.seeds for name in names if "@" in name], args, folder)
        print(write_report(folder))
    except KeyboardInterrupt:
        print("ablation.py: interrupted; the same command continues", file=sys.stderr)
        return 130
    except (OSError, InputError) as error:
        print(f"ablation.py: {error}", file=sys.stderr)
        return 2
    return int(bool(failed))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kind", choices=sorted(KINDS), default="objects")
    add("--only", nargs="+", metavar="NAME", help="variants, or NAME@OTHER; default: all of the kind")
    add("--seeds", nargs="+", type=int, default=[0])
    add("--steps", type=int, default=400)
    add("--jobs", type=int, default=1, help="concurrent runs, each on its own core")
    add("--data_path", type=Path, help="training scenes, 20 views or more each; default: export them")
    add("--train_scenes", type=int, help="scenes to export for training; default: 2000 objects, or 300 scenes, which take longer")
    add("--test_scenes", type=int, default=32, help="scenes to export for tests")
    add("--compile", action="store_true", help="compile; takes longer than it saves in this few steps")
    add("--out", type=Path, default=Path("outputs/ablation"))
    add("--report", action="store_true", help="report existing results without training")
    add("--curve", nargs="*", metavar="NAME", help="instead, PSNR of finished runs over the number of inputs")
    return parser.parse_args(argv)


def recipe(run: Run, args: argparse.Namespace, data_path: Path) -> dict:
    """Return the settings of a run, as its YAML holds them."""
    every = max(run.steps // POINTS, 1)
    return RECIPE | {
        "config": str(run.network), "expname": run.label, "data_path": str(data_path.resolve()), "seed": run.seed,
        "steps": run.steps, "warmup": min(50, run.steps // 4), "save_every": every, "keep": POINTS, "log_every": max(every // 4, 1),
        "scene_pose_normalize": args.kind == "scenes", "compile": args.compile, **VARIANTS[run.name.partition("@")[0]].recipe,
    }  # fmt: skip


def export(args: argparse.Namespace, seed: int, count: int, views: int) -> Path:
    """Export procedural scenes unless they exist; return the list of them."""
    folder = args.out.resolve() / "data" / f"{args.kind}_{seed}_{count}x{views}"
    path = folder / f"{args.kind}_data_path.json"
    if not path.exists():
        flags = {"kind": args.kind, "seed": seed, "count": count, "num_views": views, "samples": 4, "output": folder}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        status = synthetic_export.main([*words, "--image_size", "64", "64", "--workers", str(args.jobs if args.jobs > 1 else 0)])
        if status:
            raise SystemExit(status)  # the error has been printed
    return path


def train_missing(wanted: Sequence[tuple[str, int]], args: argparse.Namespace, folder: Path) -> list[str]:
    """Train and test the runs (name, seed) that have no result yet, `--jobs` at a time; return the labels of those that failed."""
    results = read_results(folder)
    runs = [Run(name, seed, steps_of(name, args.steps, results), folder) for name, seed in wanted]
    waiting = [run for run in runs if not run.result.exists()]
    if not waiting:
        return []
    data_path = args.data_path or export(args, 0, args.train_scenes or TRAIN_SCENES[args.kind], 24)
    test_path = export(args, TEST_SEED, args.test_scenes, 24)
    cores = sorted(os.sched_getaffinity(0))[: args.jobs] if args.jobs > 1 and shutil.which("taskset") else [None] * args.jobs
    running: dict[int, tuple[Run, int | None, subprocess.Popen]] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and cores:
                run, core = waiting.pop(0), cores.pop()
                process = start(run, recipe(run, args, data_path), core)
                running[process.pid] = run, core, process
            pid, _, usage = os.wait4(-1, 0)
            if pid not in running:
                continue
            run, core, process = running.pop(pid)
            process.returncode = 0  # its status was taken by wait4
            add_cpu_seconds(run, usage.ru_utime + usage.ru_stime)
            if (run.output / "model.safetensors").exists():
                finish(run, args.kind, test_path)
            else:
                failed.append(run.label)
                last = (console(run).read_text(encoding="utf-8").splitlines() or ["no output"])[-1]
                print(f"{run.label}: not finished: {last}", file=sys.stderr, flush=True)
            cores.append(core)
    finally:
        for run, _, process in running.values():
            process.terminate()  # train.py saves a snapshot
            usage = os.wait4(process.pid, 0)[2]
            process.returncode = 0
            add_cpu_seconds(run, usage.ru_utime + usage.ru_stime)
    return failed


def steps_of(name: str, steps: int, results: Sequence[dict]) -> int:
    """Return the number of steps of a run: for NAME@OTHER, the number that takes the time of OTHER's, by the first seed of each.

    Raises:
        InputError: NAME or OTHER has no finished run.
    """
    if "@" not in name:
        return steps
    seconds = {}
    for part in name.split("@", 1):
        found = sorted((row for row in results if row["name"] == part), key=lambda row: row["seed"])
        if not found:
            raise InputError(name, f"has no finished run of {part} with {steps} steps", "one, for its time per step")
        seconds[part] = found[0]["seconds_per_step"]
    one, other = seconds.values() if len(seconds) == 2 else (1.0, 1.0)
    return round(steps * other / one)


def start(run: Run, settings: dict, core: int | None) -> subprocess.Popen:
    """Write the YAMLs of a run and start its training in the background, on one thread and, if given, on one core."""
    write_text(run.network, yaml.safe_dump(network(run.name), sort_keys=False))
    path = run.folder / "recipe" / f"{run.label}.yaml"
    write_text(path, yaml.safe_dump(settings, sort_keys=False))
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    # Compilers in separate processes would use another core, uncounted.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    console(run).parent.mkdir(parents=True, exist_ok=True)
    print(f"{run.label}: {run.steps} steps, {console(run)}", flush=True)
    with console(run).open("a", encoding="utf-8") as log:
        command = [*pinned, sys.executable, str(ROOT / "train.py"), "--recipe", str(path)]
        return subprocess.Popen(command, cwd=run.folder, env=environment, stdout=log, stderr=log)


def console(run: Run) -> Path:
    """Return the file with the output of a training run."""
    return run.folder / "console" / f"{run.label}.txt"


def add_cpu_seconds(run: Run, seconds: float) -> None:
    """Add to the CPU seconds of a run over all its starts, compilers included."""
    path = run.output / "cpu_seconds.json"
    write_json(path, (json.loads(path.read_text()) if path.exists() else 0.0) + seconds)


def finish(run: Run, kind: str, test_path: Path) -> None:
    """Test all snapshots of a run, write its result, and delete the snapshots; model.safetensors stays."""
    dataset = SceneDataset(test_path, IMAGE_SIZE, network(run.name)["patch_size"])
    curve, snapshots = [], list_snapshots(run.output / "snapshot")
    for step, path in snapshots:
        model = load_model(path, run.network, "cpu")
        tests = [memories.measure(model, dataset, TEST_INPUTS, 3, f"{run.label}, step {step}", kind == "scenes")]
        average = read_snapshot(path)["average"]
        if average is not None:
            load_weights(model, average, str(path))
            tests.insert(0, memories.measure(model, dataset, TEST_INPUTS, 3, f"{run.label}, average", kind == "scenes"))
        curve.append((step, tests[0]["psnr"]))
    rows = read_rows(run.output / "log.jsonl")
    result = {
        "name": run.name, "seed": run.seed, "steps": run.steps, "psnr": tests[0]["psnr"], "floor": tests[0]["floor"],
        "psnr_last": tests[-1]["psnr"], "curve": curve,
        "cpu_seconds": json.loads((run.output / "cpu_seconds.json").read_text()), "machine": machine(torch.device("cpu")),
        "seconds_per_step": statistics.median(row["cpu_seconds_per_step"] for row in rows),
        "wall_seconds_per_step": statistics.median(row["seconds_per_step"] for row in rows),
        "parameters": sum(x.numel() for x in model.parameters()),
    }  # fmt: skip
    write_json(run.result, result)
    for _, path in snapshots:
        path.unlink()
    print(f"{run.label}: {result['psnr']:.2f} dB, {result['seconds_per_step']:.2f} CPU seconds per step", flush=True)


def compare_inputs(args: argparse.Namespace, folder: Path, names: Sequence[str]) -> None:
    """Test finished runs with few and many inputs, more than they were trained with; write a table, a JSON and a picture.

    Raises:
        InputError: a variant has no finished run.
    """
    found = {name: [row for row in read_results(folder) if row["name"] == name] for name in names}
    for name, results in found.items():
        if not results:
            raise InputError(name, f"has no finished run in {folder / 'result'}", "one or more")
    path = export(args, CURVE_SEED, CURVE_SCENES, CURVE_VIEWS)
    rows, lines = {}, []
    for name, results in found.items():
        runs = [Run(name, row["seed"], row["steps"], folder) for row in results]
        models = [load_model(run.output / "model.safetensors", run.network, "cpu") for run in runs]
        dataset = SceneDataset(path, IMAGE_SIZE, network(name)["patch_size"])
        for count in CURVE_INPUTS:
            tests = [
                memories.measure(model, dataset, count, CURVE_TARGET_EVERY, f"{run.label}, {count}", args.kind == "scenes")
                for run, model in zip(runs, models, strict=True)
            ]
            rows[name, count] = {key: statistics.mean(test[key] for test in tests) for key in tests[0]}
            rows[name, count]["seeds"] = [test["psnr"] for test in tests]
    for count in CURVE_INPUTS:
        scores = [mean_and_spread(rows[name, count]["seeds"]) for name in names]
        lines.append([str(count), *scores, f"{rows[names[0], count]['floor']:.2f}"])
    text = markdown_table(["inputs", *names, "mean of the inputs"], lines) + "\n"
    write_text(folder / "inputs.md", text)
    write_json(folder / "inputs.json", [{"name": name, "inputs": count, **row} for (name, count), row in rows.items()])
    memories.draw(folder / "inputs.png", rows, TRAINED)
    print(f"{text}\n{folder / 'inputs.png'}: the same as a plot")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops trainings cleanly
    sys.exit(main())
