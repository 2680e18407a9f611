"""The processes of a run: how they leave each other."""

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
