"""Training on several machines, each a torchrun of its own on the loopback device: results, losses, signals, the documented job."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.training.snapshot import list_snapshots
from tests.support.documentation import documented, write_program
from tests.support.nodes import nodes, run_nodes, wait_until
from tests.support.processes import ROOT, environment, free_ports
from tests.support.training_run import arguments, assert_same, final, furnish, rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="a machine's processes are found in /proc")]

LONG = {"steps": 160, "save_every": 160, "log_every": 20, "keep": 9}
FOREVER = {"steps": 1_000_000, "save_every": 1_000_000, "log_every": 20}


def training(expname: str, **changes) -> list[str]:
    return [str(ROOT / "train.py"), *arguments(expname, **changes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return furnish(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def straight(folder) -> None:
    """Train on one machine with two processes."""
    run_nodes(1, 2, training("straight", **LONG), folder)


def has_logged(expname: str, count: int) -> bool:
    return Path(f"outputs/{expname}/log.jsonl").is_file() and len(rows(expname)) >= count


def test_two_machines_of_one_process_give_the_weights_of_one_machine_of_two(folder, straight):
    started = run_nodes(2, 1, training("two", **LONG), folder)
    assert_same(final("straight"), final("two"))
    assert sorted(len(node.out.read_text()) > 0 for node in started) == [False, True]  # the first process speaks
    said = next(text for node in started if (text := node.out.read_text()))
    assert "2 × cpu, float32, 4 scenes per step, from scratch\n" in said
    assert said.endswith("outputs/two: finished\n")
    assert [node.said() for node in started] == [[], []]


def test_a_run_stopped_on_two_machines_goes_on_on_one(folder, straight):
    with nodes(2, 1, training("stopped", **LONG), folder) as started:
        wait_until(lambda: has_logged("stopped", 2), started)
        for node in started:  # as SLURM does, before another job takes the machines
            node.process.send_signal(signal.SIGTERM)
        assert [node.process.wait(60) for node in started] == [1, 1]  # torchrun's
    (step, _), *more = list_snapshots(Path("outputs/stopped/snapshot"))
    assert not more
    assert 40 <= step < 160
    assert any(f"outputs/stopped: stopped at step {step}; rerun" in node.out.read_text() for node in started)
    assert [path.name for path in Path("outputs/stopped").rglob("*") if ".tmp" in path.name or ".lock" in path.name] == []
    run_nodes(1, 2, training("stopped", **LONG), folder)
    assert_same(final("straight"), final("stopped"))


@pytest.mark.parametrize("first", [True, False])
def test_a_machine_that_is_lost_ends_the_other_with_one_line(folder, first):
    name = f"lost{first}"
    with nodes(2, 1, training(name, **FOREVER), folder) as started:
        wait_until(lambda: has_logged(name, 1), started)
        ordered = sorted(started, key=lambda node: not node.out.read_text())
        lost, left = ordered if first else ordered[::-1]
        lost.kill()
        assert left.process.wait(60) == 1
    (line,) = left.said()
    assert re.match(r"train.py: other processes of the run: have ended \(.*; wanted all of them until the end", line)


def test_a_mistake_is_told_once_by_each_machine(folder):
    for flag, found in (("--stepz", "--stepz: is unknown; wanted a known flag"), ("--context_parallel", "is 3 with 4 processes")):
        started = run_nodes(2, 2, [*training("wrong", num_input_views=3, num_all_views=6), flag, "3"], folder, status=1)
        assert [len(node.said()) for node in started] == [1, 1]
        assert [found in node.said()[0] for node in started] == [True, True], started[0].said()


def test_the_documented_job_trains(folder, tmp_path):
    script = documented("model/README.md", "Several machines", "#SBATCH")
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=1\n" in script
    # srun starts the command once per machine. torchrun starts a process on each, and train.py is the repository's, with a network
    # and scenes for tests: what comes later on the command line counts.
    write_program(tmp_path / "scontrol", '[[ "$*" == "show hostnames node[1-2]" ]] && printf "127.0.0.1\\nnode2\\n"')
    write_program(
        tmp_path / "srun",
        "shift; pids=()\nfor node in 0 1; do SLURM_PROCID=$node SLURM_NODEID=$node SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=2 "
        'SLURM_STEP_ID=0 "$@" & pids+=($!); done\nfor pid in ${pids[@]}; do wait $pid || exit; done',
    )
    tiny = shlex.join(arguments("documented", grad_accum=1, compile=False, actckpt=False))
    write_program(
        tmp_path / "torchrun",
        f'words=" $* "; words=${{words/ --nproc_per_node 8 / --nproc_per_node 1 }}; words=${{words/ train.py / {ROOT}/train.py }}\n'
        f"exec {sys.executable} -m torch.distributed.run $words {tiny}",
    )
    job = {"SLURM_JOB_ID": os.getpid(), "SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_NODELIST": "node[1-2]"}
    known = environment(PATH=f"{tmp_path}:{os.environ['PATH']}", **job)
    port = str(free_ports(1)[0])
    assert script.count(":29500") == 1
    command = ["bash", "-e", "-c", script.replace("29500", port)]
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 × cpu, float32, 4 scenes per step, from scratch\n" in done.stdout
    assert done.stdout.endswith("outputs/documented: finished\n")
    assert final("documented")["step"] == 6
