"""The GPU report, rehearsed on a CPU: every step at a tiny size, time running out, a step that fails, and its arithmetic."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.ops.newton_schulz import newton_schulz
from model.weights.file import read_weights
from tests.benchmark.gpu_report import STEPS, TRAINED, Report, line
from tests.benchmark.gpu_steps import GIB, Step, largest_batch
from tests.benchmark.gpu_training import RECIPES, Training
from tests.benchmark.gpu_variants import newton_schulz_by_halves, symmetric_product
from tests.benchmark.measure import PAUSED, undisturbed

ROOT = Path(__file__).parent.parent
# One thread per process, since one waits while another works; compilers are tested elsewhere, and take minutes on a CPU.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}


def report(out: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tests" / "benchmark" / "gpu_report.py"), "--out", str(out), *flags]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_every_step_is_rehearsed_on_a_cpu(tmp_path):
    done = report(tmp_path, "--device", "cpu", "--rehearse", "--minutes", "12")
    told = (tmp_path / "report.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + told
    assert done.stdout.splitlines()[-1].endswith("failed: none; skipped for time: none")
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(found["rows"]) == {*STEPS, TRAINED}
    assert found["machine"]["torch"] == torch.__version__
    for name, rows in found["rows"].items():
        failed = [row["what"] for row in rows if str(row.get("value")).startswith("failed")]
        # These two are for GPUs alone.
        assert failed == (["the same, cudnn_attention", "the same, efficient_attention"] if name == "attention" else [])
        assert rows
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Rehearsal at tiny sizes" in page
    assert page.count("### ") == len(STEPS) + 1
    # Eight files at most, as the report promises.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) <= 8
    # Both networks were trained beside the steps, and stopped by the clock.
    for name in RECIPES:
        assert read_weights(tmp_path / f"{name}.safetensors")
        assert json.loads((tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"] >= 1


@pytest.mark.slow
def test_steps_are_left_out_when_time_is_up(tmp_path):
    done = report(tmp_path, "--device", "cpu", "--rehearse", "--minutes", "0.01", "--only", "chunks", "--train")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("failed: none; skipped for time: machine, chunks")
    assert "Skipped for time: machine, chunks." in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_step_that_fails_takes_no_other_with_it(tmp_path):
    done = report(tmp_path, "--device", "cuda", "--rehearse", "--only", "chunks", "--train")
    assert done.returncode == 1
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]
    for name in ("machine", "chunks"):
        assert found[name][0]["what"] == f"step {name}"
        assert "InputError: device: is 'cuda' on a machine with 0 CUDA devices" in found[name][0]["value"]


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_cut_off_and_keeps_its_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "chunks", Step("slow", None, 4))
    sleeper = 'import sys, time; sys.stdin.readline(); open(sys.argv[1], \'a\').write(\'{"what": "one"}\\n{"wha\'); time.sleep(60)'

    class Sleeping(Report):
        def prepare(self, name: str, folder: Path) -> subprocess.Popen:
            (folder / name).mkdir()
            command = [sys.executable, "-c", sleeper, str(folder / name / "rows.jsonl")]
            return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    monkeypatch.setitem(STEPS, "machine", Step("slow too", None, 2))
    args = argparse.Namespace(out=tmp_path, minutes=5.0, only=["chunks"], train=[], rehearse=True, device="cpu")
    assert Sleeping(args).run() == 1
    rows = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]["chunks"]
    assert rows == [{"what": "one"}, {"what": "step chunks", "value": "cut off after 4 s"}]


def test_what_runs_beside_is_paused_while_something_is_measured(monkeypatch):
    counter = "import time\nwhile True: print(1, flush=True); time.sleep(0.01)"
    process = subprocess.Popen([sys.executable, "-c", counter], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline()
        monkeypatch.setenv(PAUSED, f"{process.pid} {2**22 + 1}")  # the second is not there
        with undisturbed():
            assert state_of(process.pid) == "T"
        assert state_of(process.pid) != "T"
        with pytest.raises(ZeroDivisionError), undisturbed():
            _ = 1 / 0
        assert state_of(process.pid) != "T"
    finally:
        process.kill()
        process.communicate()


def state_of(pid: int) -> str:
    """Return the letter of a process's state (Linux)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_training_that_does_not_end_is_cut_off(tmp_path):
    with (tmp_path / "log").open("w") as log:
        training = Training("objects", "", 3600.0, "cpu", True, tmp_path, log)
        row, failed = training.end(0.1, tmp_path)
    assert failed
    assert row["value"] == "failed with status -9"


def test_a_row_by_hand():
    row = {"what": "a | b", "seconds": 0.5, "frames": 8, "unit": "frames", "flops": 3e12, "peak_bytes": 3 * GIB, "target": "≥ 45 %"}
    assert line(row | {"least_share": 0.45}, 1e13) == "| a / b | 0.5 | 16 frames/s | 60% | 3.00 GiB |  | ≥ 45 % | yes |  |"
    assert line(row | {"least_share": 0.65}, 1e13).endswith("| no |  |")
    assert line({"what": "x", "value": "failed"}, None) == "| x |  |  |  |  | failed |  |  |  |"


def test_the_best_rate_is_of_the_networks_dtype(tmp_path):
    found = Report(argparse.Namespace(out=tmp_path))
    assert found.best_rate() is None
    rates = [{"rate": 5.0, "dtype": "bfloat16"}, {"rate": 9.0, "dtype": "float32"}, {}, {"rate": 7.0, "dtype": "bfloat16"}]
    found.rows = {"machine": rates[:2], "other": rates[2:3], "machine_after": rates[3:]}
    assert found.best_rate() == 7


def test_largest_batch_by_hand():
    # 1 GiB of weights, gradients and moments, 2 GiB per scene; 1.5 GiB of the card are not ours.
    weights, three_scenes = GIB // 16, 7 * GIB
    assert [largest_batch(three_scenes, 3, weights, gib) for gib in (2.5, 4.4, 4.5, 24)] == [0, 0, 1, 10]


def test_symmetric_products_are_the_plain_ones():
    x = torch.randn(3, 6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(symmetric_product(x), x @ x.mT)
    # bfloat16, sums not fused with the products: 2.6 to 4.1 % from float64 with five seeds, the other form 1.5 to 2.1 %.
    exact = newton_schulz(x, 5, torch.float64)
    assert (newton_schulz_by_halves(x).double() - exact).norm() < 0.1 * exact.norm()
