"""Attacks on the programs: kills, signals, full disks, damaged, crafted and mutated files; the number that come out right.

    python tests/benchmark/attacks.py --out attacks.json
    python tests/benchmark/attacks.py --project ../other_checkout --only "kills of training" --compare attacks.json --out other.json

A script, not a test. It runs the programs of a checkout on small inputs and counts the right outcomes of each category; the JSON
lists the wrong ones by name, with what came out. The whole takes 10 to 20 minutes on two cores: what hangs takes 20 s each. Linux;
as root it also mounts small disks and makes device files, all in its scratch folder.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmark import (
    attack_crafted,
    attack_damage,
    attack_disks,
    attack_kills,
    attack_packs,
    attack_settings,
    attack_sources,
    attack_streams,
    attack_tensors,
)
from tests.benchmark.attack_inputs import make_inputs
from tests.benchmark.attack_programs import Arena, scratch_folder
from tests.benchmark.attack_stored import make_stored
from tests.benchmark.attack_verdict import Outcome

ROOT = Path(__file__).resolve().parents[2]
# Wrong outcomes of a category that are printed; the JSON has all.
SHOWN = 60
# Modules of the checkout and libraries that its programs would import again and again.
MODULES = ("train", "inference", "data_preprocess.transforms_format_converter", "data_preprocess.colmap_format_converter",
           "data_preprocess.synthetic_export", "data_preprocess.check_scenes", "data_preprocess.dl3dv_train_download",
           "data_preprocess.weights_download", "torch._dynamo", "av")  # fmt: skip
CATEGORIES: dict[str, Callable[[Arena], Iterator[Outcome]]] = {
    "kills of training": attack_kills.kills_of_training,
    "kills of inference": attack_kills.kills_of_inference,
    "kills of converters": attack_kills.kills_of_converters,
    "signals": attack_kills.signals,
    "two runs in one folder": attack_kills.two_runs,
    "closed pipes, full and ASCII output": attack_disks.outputs,
    "full disks": attack_disks.full_disks,
    "special files as outputs": attack_disks.special_outputs,
    "special files as inputs": attack_disks.special_inputs,
    "damaged tensor files": attack_damage.damaged_files,
    "crafted settings": attack_settings.settings,
    "crafted data": attack_crafted.data,
    "crafted packs": attack_packs.packs,
    "crafted chunks, arrays, masks and lists": attack_sources.sources,
    "streams and videos": attack_streams.streams,
    "crafted weights, states, snapshots and logs": attack_tensors.tensors,
    "absurd flags": attack_crafted.flags,
    "mutated files": attack_damage.mutated_files,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks and print the table; return the exit status, 0 whatever came out."""
    args = parse(argv)
    before = json.loads(args.compare.read_text())["categories"] if args.compare else {}
    result = {"project": str(args.project), "commit": commit_of(args.project), "repeats": args.repeats, "categories": {}}
    if args.out.exists() and (known := json.loads(args.out.read_text()))["commit"] == result["commit"]:
        result["categories"] = known["categories"]
    chosen = [name for name in CATEGORIES if not args.only or any(part in name for part in args.only)]
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(args.project.resolve()))
    for module in MODULES:
        importlib.import_module(module)
    with scratch_folder() as scratch:
        arena = Arena(args.project, scratch, args.repeats)
        arena.prepare(make_inputs, scratch / "inputs")
        arena.prepare(make_stored, scratch / "inputs")
        for name in chosen:
            start = time.monotonic()
            result["categories"][name] = summary(list(CATEGORIES[name](arena)), time.monotonic() - start)
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(in_words(name, result["categories"][name]), flush=True)
    print(table({name: result["categories"][name] for name in CATEGORIES if name in result["categories"]}, before))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=ROOT, help="checkout whose programs are attacked")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON for the results; other categories of the same commit are kept in it"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="categories, or parts of their names")
    parser.add_argument("--repeats", type=float, default=1.0, help="factor of the numbers of kills, damaged and mutated files")
    parser.add_argument("--compare", type=Path, help="JSON of an earlier run, for a second column")
    return parser.parse_args(argv)


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict:
    """Return counts, and the wrong outcomes by name."""
    skipped = [outcome.name for outcome in outcomes if outcome.problem.startswith("skipped")]
    counted = [outcome for outcome in outcomes if outcome.name not in skipped]
    wrong = {outcome.name: outcome.problem for outcome in counted if outcome.problem}
    right = sum(not outcome.problem for outcome in counted)
    result = {"right": right, "all": len(counted), "seconds": round(seconds, 1), "wrong": wrong}
    return result | ({"skipped": skipped} if skipped else {})


def in_words(name: str, category: Mapping) -> str:
    """Return a line, `NAME: 19 of 20 (60 s)`, and the first wrong outcomes below it."""
    head = f"{name}: {category['right']} of {category['all']} ({category['seconds']:.0f} s)"
    skipped = [f"  skipped: {', '.join(category['skipped'])}"] if category.get("skipped") else []
    wrong = [f"  {attack}: {problem}" for attack, problem in category["wrong"].items()]
    more = [f"  and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return "\n".join([head, *skipped, *wrong[:SHOWN], *more])


def table(after: Mapping[str, Mapping], before: Mapping[str, Mapping]) -> str:
    """Return the counts in Markdown, with those of an earlier run where it has the category."""

    def cell(category: Mapping | None) -> str:
        return f"{category['right']} of {category['all']}" if category else "–"

    rows = [("attack", "before", "after") if before else ("attack", "right")]
    rows.append(tuple("---" for _ in rows[0]))
    for name, category in after.items():
        rows.append((name, cell(before.get(name)), cell(category)) if before else (name, cell(category)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def commit_of(project: Path) -> str:
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
