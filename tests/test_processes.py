"""Processes of a run: ending together."""

import sys

import pytest

from model.weights.file import save_weights
from tests.support.networks import small_model
from tests.support.processes import run_processes
from tests.support.training_run import arguments, furnish

pytestmark = pytest.mark.slow

# Runs a program, then names the threads of this process that belong to a group of processes.
PROGRAM = """
import os, sys, {program}
train = sys.modules.get("train")
if train:
    train.matmul_rate = lambda device, dtype: 1e12
status = {program}.main({argv!r})
names = [open(f"/proc/self/task/{{task}}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(*sorted(name for name in names if "gloo" in name or "nccl" in name), sep="\\n", file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
@pytest.mark.parametrize("program", ["inference", "train", "train that fails"])
def test_no_thread_of_the_group_outlives_it(program, tmp_path):
    """One that does takes the interpreter's lock while the interpreter ends, and kills the process: 2 runs of 25."""
    furnish(tmp_path)
    if program == "inference":
        model = small_model("self_attention", "fast_weight", "mlp")
        save_weights(tmp_path / "weights.safetensors", model.state_dict(), model.config)
        words = "--load weights.safetensors --data_path scenes/test_data_path.json --device cpu --image_size 8 12"
        argv, status = [*words.split(), "--num_input_views", "3", "--no_lpips", "--video_frames", "2"], 0
    else:
        changes = {} if program == "train" else {"num_all_views": 7, "num_input_views": 4}  # scenes have six views
        argv, status = arguments("two", steps=3, **changes), 0 if program == "train" else 2
    errors = run_processes(2, ["-c", PROGRAM.format(program=program.split()[0], argv=argv)], tmp_path, status)
    found = [line for error in errors for line in error.splitlines() if "gloo" in line or "nccl" in line]
    assert found == []


# Fails inside the block on the named processes; what a process does afterwards must not be reached where any has failed.
TURN = """
import os, sys
from model.parallel.processes import end_processes, start_processes

processes = start_processes("cpu")
order = []
try:
    with processes.first_then_others():
        if processes.rank in {failing}:
            raise OSError("no space on process", processes.rank)
    processes.highest(1)
    print("past the turn", file=sys.stderr)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
finally:
    end_processes()
"""


@pytest.mark.parametrize("failing", [[], [0], [1], [0, 1]])
def test_a_failure_in_the_turn_of_one_process_leaves_none_waiting(tmp_path, failing):
    errors = run_processes(2, ["-c", TURN.format(failing=failing)], tmp_path, status=2 if failing else 0)
    for rank, text in enumerate(errors):
        # A process that waits for the first never begins its own turn.
        told = {0: failing[:1] == [0], 1: failing == [1]}[rank]
        assert ("no space on process" in text) == told
        assert ("past the turn" in text) == (not failing)
        assert "Traceback" not in text


def test_a_download_that_fails_on_the_first_process_ends_training_on_all(tmp_path):
    furnish(tmp_path)
    errors = run_processes(
        2, ["-c", PROGRAM.format(program="train", argv=arguments("lost", load="nowhere.pt"))], tmp_path, status=2
    )
    assert "train.py: nowhere.pt: is not there" in errors[0]
    assert "train.py" not in errors[1]


def test_processes_that_would_start_at_different_steps_are_refused(tmp_path):
    """Folders that they do not share: the first has a snapshot to resume from, the other has none."""
    for rank in range(2):
        furnish(tmp_path / str(rank))
    go = "import os\nos.chdir(os.environ['RANK'])\n"
    first = PROGRAM.format(program="train", argv=arguments("apart", grad_accum=2, max_hours=0))
    run_processes(1, ["-c", f"import os\nos.chdir('0')\ndel os.environ['RANK']\n{first}"], tmp_path)
    errors = run_processes(2, ["-c", go + PROGRAM.format(program="train", argv=arguments("apart"))], tmp_path, status=2)
    assert "outputs/apart/snapshot: holds different snapshots for different processes; wanted outputs/ on a disk" in errors[0]
    assert errors[1].strip() == ""


# Prints, for each connection of a process, whether and when it is asked for a sign of life, and after which silence it is given up.
CONNECTIONS = """
import os, socket, sys
from model.parallel.context import join_context
from model.parallel.processes import end_processes, start_processes

start_processes("cpu", 2)
join_context(2)
for name in os.listdir("/proc/self/fd"):
    try:
        connection = socket.socket(fileno=int(name))
        connection.getpeername()
    except OSError:
        continue
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        wanted = (socket.SOL_SOCKET, socket.SO_KEEPALIVE), *((socket.IPPROTO_TCP, option) for option in (
            socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT))
        print("connection", *(connection.getsockopt(*option) for option in wanted), file=sys.stderr)
    connection.detach()
end_processes()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="connections are listed in /proc")
def test_connections_end_after_five_minutes_without_a_sign_of_life(tmp_path):
    errors = run_processes(2, ["-c", CONNECTIONS], tmp_path)
    for error in errors:
        found = [line for line in error.splitlines() if line.startswith("connection")]
        assert len(found) >= 3  # to the store, of the group, of the context
        assert set(found) == {"connection 1 60 30 8 300000"}
