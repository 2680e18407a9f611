"""Processes that srun started, described by the environment variables of torchrun, which the programs read."""

import os
import re
from collections.abc import Mapping, MutableMapping

from config.errors import InputError
from config.messages import shown

# Set in the tasks that srun starts. A batch script by itself has SLURM_NTASKS and SLURM_PROCID too, but is one process.
STEP_TASKS = "SLURM_STEP_NUM_TASKS"
FIRST_PORT, PORTS = 20000, 20000


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes that the environment states, one if it states none.

    Raises:
        InputError: with RANK set, it or WORLD_SIZE is no number, or the rank is not below their number.
    """
    if "RANK" not in environment:
        stated = environment.get("WORLD_SIZE", "")
        return max(1, int(stated)) if re.fullmatch("[0-9]{1,18}", stated) else 1
    world, rank = (_number(environment, name, "torchrun sets it") for name in ("WORLD_SIZE", "RANK"))
    if rank >= world:
        raise InputError("environment, RANK", f"is {rank} of {world} processes", "0 to WORLD_SIZE - 1, as torchrun sets it")
    return world


def adopt_slurm(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in a step of several tasks of SLURM.

    Nothing is changed under torchrun, outside of SLURM, in a step of one task, and for a program that is started by hand in a
    terminal of `srun --pty`. MASTER_ADDR and MASTER_PORT are kept if set.

    Raises:
        InputError: SLURM's variables are incomplete, or mpirun started several processes.
    """
    if "RANK" in environment:
        return
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if STEP_TASKS not in environment and environment.get(name, "1") != "1":
            found = f"is {environment[name]}: mpirun started several processes, each of which would do all the work"
            raise InputError(f"environment, {name}", found, "torchrun --nproc_per_node=N, or srun")
    world = _number(environment, STEP_TASKS) if STEP_TASKS in environment else 1
    if world == 1 or ("SLURM_PTY_PORT" in environment and _has_terminal()):
        return
    local_world = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", str(world)))
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    # With --gpus-per-task, a task sees its own GPU alone, as the first.
    own_gpu = environment.get("CUDA_VISIBLE_DEVICES", "").count(",") == 0 and "SLURM_GPUS_PER_TASK" in environment
    local_rank = 0 if own_gpu else _number(environment, "SLURM_LOCALID")
    variables = {
        "RANK": _number(environment, "SLURM_PROCID"),
        "WORLD_SIZE": world,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": _tasks_here(local_world, _number(environment, "SLURM_NODEID")),
    }
    environment.update({name: str(value) for name, value in variables.items()})
    environment.setdefault("MASTER_ADDR", _first_host(environment.get("SLURM_STEP_NODELIST", "")))
    # The same for all tasks of a step, and another for steps that share a node.
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + (job * 31 + step) % PORTS))


def _number(environment: Mapping[str, str], name: str, source: str = f"srun sets it where {STEP_TASKS} is above 1") -> int:
    text = environment.get(name, "")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise InputError(
            f"environment, {name}", f"is {shown(text, 40)}" if name in environment else "is missing", f"a number: {source}"
        )
    return int(text)


def _has_terminal() -> bool:
    """Return whether this process has a terminal: tasks of srun have none, but for the first of `srun --pty`."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _tasks_here(per_node: str, node: int) -> int:
    """Return the number of tasks on a node, from SLURM's list for all nodes, such as `4(x2),3`."""
    counts = []
    for part in per_node.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise InputError(
                "environment, SLURM_STEP_TASKS_PER_NODE", f"is {shown(per_node, 200)}", "numbers of tasks, such as 4(x2),3"
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[min(node, len(counts) - 1)]


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's list of hosts, such as `gpu[03-05,9],login1` or `rack1-[2-3]-ib`."""
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^\[,]*))?", nodes)
    if match is None:
        raise InputError(
            "environment, SLURM_STEP_NODELIST", f"is {shown(nodes, 200)}", "the names of the nodes, or MASTER_ADDR set"
        )
    return match[1] + (match[2] or "") + (match[3] or "")
