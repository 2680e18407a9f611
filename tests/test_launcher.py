"""Environment that srun gives its tasks, in torchrun's variables."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import InputError
from model.parallel import launcher, processes
from model.parallel.launcher import adopt_slurm, world_size
from model.parallel.processes import start_processes
from tests.support.processes import free_ports

ROOT = Path(__file__).parent.parent
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),1",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ("6", "7", "0", "1", "gpu03")),
        ({"SLURM_PROCID": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}, ("4", "7", "1", "3", "gpu03")),
        ({"SLURM_STEP_NODELIST": "login1,gpu[1-2]"}, ("6", "7", "0", "1", "login1")),
        ({"SLURM_STEP_NODELIST": "rack1-[2-3]-ib.local"}, ("6", "7", "0", "1", "rack1-2-ib.local")),
        ({"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "3", "SLURM_LOCALID": "3"}, ("6", "7", "0", "1", "gpu03")),
        ({"MASTER_ADDR": "10.0.0.1"}, ("6", "7", "0", "1", "10.0.0.1")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ("1", "2", None, None, None)),  # torchrun in a step of srun
        ({"SLURM_STEP_NUM_TASKS": "1"}, (None,) * 5),
    ],
)
def test_variables(changes, wanted):
    environment = {**STEP, **changes}
    adopt_slurm(environment)
    assert tuple(environment.get(name) for name in NAMES) == wanted
    assert ("MASTER_PORT" in environment) == (wanted[2] is not None)


def test_a_batch_script_outside_of_srun_is_one_process():
    environment = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    before = dict(environment)
    adopt_slurm(environment)
    assert environment == before


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({**STEP, "SLURM_PROCID": ""}, "environment, SLURM_PROCID: is ''; wanted a number: srun sets it where"),
        ({**STEP, "SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST: is ''; wanted the names of the nodes"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "many"}, "SLURM_STEP_TASKS_PER_NODE: is 'many'; wanted numbers of tasks"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE: is 4: mpirun started several processes.*wanted torchrun"),
    ],
)
def test_environment_that_is_refused(environment, match):
    with pytest.raises(InputError, match=match):
        adopt_slurm(environment)


def test_a_program_started_by_hand_in_a_terminal_of_srun_is_one_process(monkeypatch):
    environment = {**STEP, "SLURM_PROCID": "0", "SLURM_PTY_PORT": "40000"}
    monkeypatch.setattr(launcher, "_has_terminal", lambda: True)
    before = dict(environment)
    adopt_slurm(environment)
    assert environment == before
    monkeypatch.setattr(launcher, "_has_terminal", lambda: False)  # tasks of a srun in that terminal inherit the variable
    adopt_slurm(environment)
    assert environment["RANK"] == "0"


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4"}, 4),
        ({"WORLD_SIZE": ""}, 1),
        ({"WORLD_SIZE": "many"}, 1),
        ({"RANK": "2", "WORLD_SIZE": "3"}, 3),
    ],
)
def test_number_of_processes(environment, found):
    assert world_size(environment) == found


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"RANK": "0"}, "environment, WORLD_SIZE: is missing; wanted a number: torchrun sets it"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "environment, RANK: is 'x'; wanted a number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "environment, RANK: is '-1'; wanted a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "environment, RANK: is 2 of 2 processes; wanted 0 to WORLD_SIZE - 1"),
    ],
)
def test_numbers_of_processes_that_are_refused(environment, match):
    with pytest.raises(InputError, match=match):
        world_size(environment)


@pytest.mark.parametrize("changes", [{}, {"MASTER_ADDR": "localhost"}, {"MASTER_ADDR": "localhost", "MASTER_PORT": "x"}])
def test_processes_that_cannot_be_joined(monkeypatch, changes):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"the 1 processes of the run: cannot be joined \(ValueError: .*\); wanted"):
        start_processes("cpu")


def test_processes_that_never_come(monkeypatch):
    monkeypatch.setattr(processes, "LONGEST_JOINING", datetime.timedelta(seconds=1))
    (port,) = free_ports(1)
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(InputError, match=r"the 2 processes of the run: cannot be joined \(DistStoreError: Timed out"):
        start_processes("cpu")


# What gloo says where a process has ended, a machine was reset, and one is gone; and an error of ours.
GLOO = [
    "[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.99.0.2]:4276",
    "[/gloo/transport/tcp/pair.cc:537] Read error [10.99.0.2]:4276: No route to host. This is typically caused by a remote worker",
    "[/gloo/transport/tcp/pair.cc:537] Read error [10.99.0.2]:4276: Connection timed out. This is typically caused by",
    "[enforce fail at /gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 24 vs 4",
]


@pytest.mark.parametrize(("message", "lost"), [(message, "enforce" not in message) for message in GLOO])
def test_lost_processes_are_told_from_faults_of_the_program(message, lost):
    with pytest.raises(InputError if lost else RuntimeError) as caught, processes.lost_processes_are_refused():
        raise RuntimeError(message)
    assert str(caught.value).startswith("other processes of the run: have ended ([/gloo" if lost else message)


def test_one_process_shares_no_views(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="environment, RANK: is missing, with WORLD_SIZE 2; wanted torchrun"):
        start_processes("cpu", 2)


@pytest.mark.slow
def test_tasks_of_a_step_divide_the_scenes(tmp_path):
    flags = ["--num_input_views", "2", "--num_target_views", "1", "--video_format", "none", "--no_lpips", "--output_dir"]
    common = {
        **os.environ,
        **STEP,
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    common |= {"SLURM_NODEID": "0", "SLURM_JOB_ID": str(os.getpid()), "OMP_NUM_THREADS": "1"}
    tasks = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "inference.py"), *flags, str(tmp_path)],
            env={**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [task.communicate(timeout=240)[0] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0]
    assert "mean of 3 scenes" in said[0]
    assert said[1] == ""
