"""Verdicts of the attacks on invented outputs, and one category end to end."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.attack_damage import mutated
from tests.benchmark.attack_verdict import Outcome, judge, own_lines
from tests.benchmark.attacks import summary, table

ROOT = Path(__file__).parent.parent
LINE = "train.py: a.yaml, dim: is 0; wanted 1 or more\n"
BARS = "scenes:   0%|          | 0/3 [00:00<?, ?scene/s]\r\x1b[A\rreconstruct: 2layer [00:00, 9.1layer/s]\n"


@pytest.mark.parametrize(
    ("ending", "problem"),
    [
        ((2, LINE), ""),
        ((2, BARS + LINE), ""),
        ((0, LINE), "status 0, wanted 2: train.py"),
        ((1, "Traceback (most recent call last):\n  File\nKeyError: 'dim'\n"), "traceback, status 1: File | KeyError"),
        ((2, "Exception ignored in: <stdout>\n"), "traceback, status 2"),
        ((2, LINE + LINE), "2 lines"),
        ((2, BARS), "0 lines"),
        ((2, "x" * 401), "a line of 401 letters"),
        ((None, ""), "hangs"),
        ((-9, ""), "status -9, wanted 2"),
    ],
)
def test_verdicts(ending, problem):
    found = judge(*ending)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_verdicts_with_other_wishes():
    assert judge(0, "warning\nwarning\n", [0, 2]) == ""
    assert judge(2, LINE, names="a.yaml") == ""
    assert judge(2, LINE, names="b.yaml").startswith("does not name b.yaml")
    assert judge(143, "", [143], lines=[0, 1]) == ""
    assert judge(2, LINE, memory=3 << 30).startswith("takes 3072 MiB")


def test_bars_are_no_lines():
    assert own_lines(BARS + LINE) == [LINE.strip()]
    assert judge(2, "a.pt: left out, tensors (1): x\n" + LINE) == ""


def test_known_names_do_not_make_a_line_long():
    assert judge(2, f"train.py: --x: is unknown; wanted a known flag; known: {'--name, ' * 80}\n") == ""
    assert judge(2, f"train.py: {'x' * 400}: is unknown; known: --name\n").startswith("a line of 422 letters")


def test_counts_and_table():
    outcomes = [Outcome("a", ""), Outcome("b", "hangs"), Outcome("c", "skipped: no disk can be mounted")]
    counts = summary(outcomes, 1.26)
    assert counts == {"right": 1, "all": 2, "seconds": 1.3, "wrong": {"b": "hangs"}, "skipped": ["c"]}
    assert table({"x": counts}, {}) == "| attack | right |\n| --- | --- |\n| x | 1 of 2 |"
    assert table({"x": counts}, {"y": counts}).endswith("| x | – | 1 of 2 |")


def test_mutations_are_reproducible():
    whole = b'{"w": 15, "h": 10}' * 20
    found = [mutated(whole, random.Random(seed)) for seed in range(200)]
    assert found == [mutated(whole, random.Random(seed)) for seed in range(200)]
    assert len(set(found)) > 150


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the attacks need Linux")
def test_a_category_end_to_end(tmp_path):
    flags = ["--out", tmp_path / "out.json", "--only", "damaged", "--repeats", "0.05"]
    done = subprocess.run([sys.executable, ROOT / "tests/benchmark/attacks.py", *flags], capture_output=True, text=True, check=True)
    counts = json.loads((tmp_path / "out.json").read_text())["categories"]["damaged tensor files"]
    assert (counts["right"], counts["all"], counts["wrong"]) == (60, 60, {})
    assert done.stdout.endswith("| damaged tensor files | 60 of 60 |\n")
