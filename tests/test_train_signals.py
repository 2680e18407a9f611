"""train.py and signals: the end of a run in one line, with its snapshot, whatever it is doing; and runs in one folder."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import model.training.validation as validation
import train
from config.lock import NAME
from config.signals import SIGNALS
from model.training.snapshot import list_snapshots, read_snapshot
from tests.support.processes import ROOT, environment, free_ports, run_processes
from tests.support.training_run import arguments, assert_same, final, program, rows, stop_with_sigterm, work_in

STATUS = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 129}
FOREVER = {"steps": 1_000_000, "save_every": 1_000_000}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return work_in(tmp_path, monkeypatch)


@contextlib.contextmanager
def running(words: list[str], until: Callable[[], object]):
    """Start a program of this folder, and wait until a condition holds; kill it in the end."""
    with open("out.txt", "w") as out, open("err.txt", "w") as err:
        process = subprocess.Popen([sys.executable, *words], env=environment(), stdout=out, stderr=err, start_new_session=True)
    try:
        wait_until(until, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, told()
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def told() -> str:
    return Path("out.txt").read_text() + Path("err.txt").read_text()


def log_has(expname: str, count: int = 1) -> Callable[[], bool]:
    return lambda: Path(f"outputs/{expname}/log.jsonl").is_file() and len(rows(expname)) >= count


def leftovers() -> list[str]:
    return [str(path) for path in Path("outputs").rglob("*") if ".tmp" in path.name or path.name == NAME]


def ended_with_its_last_step(expname: str) -> None:
    (step, path), last = list_snapshots(Path(f"outputs/{expname}/snapshot"))[-1], rows(expname)[-1]["step"]
    assert step == last == read_snapshot(path)["step"]
    assert Path("out.txt").read_text().endswith(f"outputs/{expname}: stopped at step {step}; rerun the same command to continue\n")
    assert "Traceback" not in told()
    assert leftovers() == []
    assert Path(f"outputs/{expname}/curves.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_saves_and_ends_the_run(number):
    with running([str(ROOT / "train.py"), *arguments("run", **FOREVER)], log_has("run", 2)) as process:
        process.send_signal(number)
        assert process.wait(60) == STATUS[number]
    ended_with_its_last_step("run")


# Writing a snapshot, the picture of a validation, the curves or the export takes two seconds.
SLOW = """
import time
import {module}

true = {module}.{name}

def slow(*words, **named):
    open("begun", "w").close()
    time.sleep(2)
    return true(*words, **named)

{module}.{name} = slow
"""
SLOW_PARTS = [
    (signal.SIGTERM, "torch", "save"),
    (signal.SIGINT, "model.training.log", "draw_curves"),
    (signal.SIGHUP, "train", "save_weights"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "module", "name"), SLOW_PARTS)
def test_more_signals_while_the_last_files_are_written_do_not_end_that(number, module, name):
    settings = {"steps": 4} if name == "save_weights" else FOREVER
    code = SLOW.format(module=module, name=name) + program(arguments("run", **settings))
    begun = Path("begun").is_file if name == "save_weights" else log_has("run", 2)
    with running(["-c", code], begun) as process:
        process.send_signal(number)
        wait_until(Path("begun").is_file, process)
        for other in SIGNALS * 2:
            time.sleep(0.2)
            process.send_signal(other)
        assert process.wait(60) == STATUS[number]
    if name == "save_weights":
        assert Path("outputs/run/model.safetensors").is_file()
        assert leftovers() == []
    else:
        ended_with_its_last_step("run")


def test_a_signal_during_validation_ends_it_and_saves(monkeypatch):
    psnr, scenes = validation.psnr, []

    def measure(*images):
        scenes.append(images)
        if len(scenes) == 4:  # the first scene of the second validation
            os.kill(os.getpid(), signal.SIGINT)
        return psnr(*images)

    monkeypatch.setattr(validation, "psnr", measure)
    settings = {"val_data_path": "scenes/test_data_path.json", "val_every": 1, "save_every": 99}
    assert train.main(arguments("valid", **settings)) == 130
    assert len(scenes) == 4
    assert [step for step, _ in list_snapshots(Path("outputs/valid/snapshot"))] == [3]
    assert [row["step"] for row in rows("valid") if "val_psnr" in row] == [1]
    assert train.main(arguments("valid", **settings)) == 0
    assert train.main(arguments("straight", **settings)) == 0
    assert_same(final("straight"), final("valid"))


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_is_one_line(number):
    with running([str(ROOT / "train.py"), *arguments("run", **FOREVER)], lambda: True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: "libtorch" in maps.read_text(), process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert told() == "train.py: interrupted\n"
    assert not Path("outputs").exists()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", ["open_sources", "prepare", "Recorder"])
def test_a_signal_before_the_first_step_ends_with_one_line_and_no_snapshot(capsys, monkeypatch, number, name):
    true = getattr(train, name)

    def make(*words):
        os.kill(os.getpid(), number)
        return true(*words)

    monkeypatch.setattr(train, name, make)
    assert train.main(arguments("run")) == 128 + number
    assert capsys.readouterr().err == "train.py: interrupted\n"
    assert not Path("outputs").exists()


def test_a_signal_interrupts_a_first_step_that_compiles(capsys, monkeypatch):
    monkeypatch.setattr(train, "compile_for_training", lambda *_: None)
    with monkeypatch.context() as patched:
        stop_with_sigterm(patched, 1)
        assert train.main(arguments("run", compile=True)) == 143
    assert capsys.readouterr().err == "train.py: interrupted\n"
    assert list_snapshots(Path("outputs/run/snapshot")) == []
    with monkeypatch.context() as patched:
        stop_with_sigterm(patched, 2)
        assert train.main(arguments("run", compile=True)) == 0
    assert [step for step, _ in list_snapshots(Path("outputs/run/snapshot"))] == [2]


@pytest.mark.slow
def test_a_signal_while_the_pool_is_filled_ends_the_run_soon():
    settings = {"data_path": "synthetic:objects", "pool": 4096, "image_size": [64, 96], "num_all_views": 12, **FOREVER}
    started = lambda: "scenes per step" in told()  # noqa: E731
    with running([str(ROOT / "train.py"), *arguments("run", **settings)], started) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    assert Path("err.txt").read_text().endswith("train.py: interrupted\n")
    assert "Traceback" not in told()
    assert leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_while_other_processes_are_awaited_ends_with_one_line(monkeypatch, rank):
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_ports(1)[0]}
    for name, value in group.items():
        monkeypatch.setenv(name, str(value))
    code = "import model.parallel.processes as p; true = p.rendezvous\n"
    code += "p.rendezvous = lambda *a, **k: print('waits', flush=True) or true(*a, **k)\n"
    with running(["-c", code + program(arguments("run"))], lambda: "waits" in told()) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    assert re.sub(r".*(socket.cpp|TCPStore).*\n", "", told()) == ("waits\n-c: interrupted\n" if rank == 0 else "waits\n")
    assert not Path("outputs").exists()


# A signal to process 1 alone, in its third step.
ALONE = """
import os, signal, train

apply_step, steps = train.apply_step, []

def counted(*words):
    apply_step(*words)
    steps.append(1)
    if os.environ["RANK"] == "1" and len(steps) == 3:
        os.kill(os.getpid(), {number})

train.apply_step = counted
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_one_of_two_processes_ends_both(tmp_path, number):
    code = ALONE.format(number=int(number)) + program(arguments("two"))
    errors = run_processes(2, ["-c", code], tmp_path, status=128 + number)
    assert "Traceback" not in "".join(errors)
    assert [step for step, _ in list_snapshots(Path("outputs/two/snapshot"))] == [2, 3]
    assert leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_passes_a_signal_on_and_the_run_is_saved(number):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py")]
    with running([*launch, *arguments("two", **FOREVER)], log_has("two", 2)) as process:
        process.send_signal(number)
        process.wait(60)
    step, path = list_snapshots(Path("outputs/two/snapshot"))[-1]
    assert read_snapshot(path)["step"] == step == rows("two")[-1]["step"]
    assert f"outputs/two: stopped at step {step}; rerun" in told()
    assert leftovers() == []


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_is_resumed():
    words = [str(ROOT / "train.py"), *arguments("one", steps=1_000_000, save_every=20, log_every=20)]
    with running(words, log_has("one", 2)) as process:
        before = rows("one")
        done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert re.fullmatch(
            rf"train.py: outputs/one: is in use by process {process.pid} on \S+; wanted it to end, or another --expname\n",
            done.stderr,
        )
        wait_until(log_has("one", len(before) + 4), process)
        steps = [row["step"] for row in rows("one")]
        assert steps == list(range(20, steps[-1] + 1, 20))
        process.kill()
        process.wait()
    with running(words, lambda: "resumed from" in told()) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 143)
    assert leftovers() == []
