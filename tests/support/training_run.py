"""Training runs of a few milliseconds per step, for tests."""

import json
import os
import signal
import textwrap
from pathlib import Path

import torch

import train
from model.training.snapshot import list_snapshots, read_snapshot
from tests.support.scenes import write_random_data_path

NETWORK = textwrap.dedent("""
    patch_size: 4
    dim: 16
    layers: 2
    block:
      - {type: self_attention, length_dim: l, params: {head_dim: 8}}
      - {type: fast_weight, length_dim: vl, params: {head_dim: 8, inter_multi: 2, base_lr: 0.01}}
      - {type: mlp, length_dim: vl, params: {inter_multi: 2}}
""")
SETTINGS = {
    "config": "network.yaml",
    "data_path": "scenes/test_data_path.json",
    "device": "cpu",
    "precision": "float32",
    "image_size": [8, 12],
    "num_all_views": 4,
    "num_input_views": 2,
    "num_target_views": 3,
    "bs_per_gpu": 2,
    "workers": 2,
    "steps": 6,
    "warmup": 2,
    "lr": 1e-2,
    "lpips_weight": 0.0,
    "save_every": 2,
    "keep": 9,
    "log_every": 2,
}


def furnish(folder: Path) -> Path:
    """Put three scenes and a network small enough for steps of milliseconds into a folder."""
    write_random_data_path(folder / "scenes", scenes=3, n=6, size=(10, 15))
    (folder / "network.yaml").write_text(NETWORK)
    return folder


def work_in(folder: Path, monkeypatch) -> Path:
    """Furnish a folder and make it the current one, for runs in this process on one thread."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(train, "matmul_rate", lambda device, dtype: 1e12)
    torch.set_num_threads(1)
    return furnish(folder)


def arguments(expname: str, **changes) -> list[str]:
    """Return the command line of a run of six steps."""
    settings = {**SETTINGS, "expname": expname, **changes}
    words = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return words


def program(argv: list[str]) -> str:
    """Return a program that trains, exact to float32, for other processes."""
    return textwrap.dedent(f"""
        import sys, torch, train
        from model.layers import FastWeight
        FastWeight.newton_schulz_dtype, FastWeight.implementation = torch.float32, "naive"
        train.matmul_rate = lambda device, dtype: 1e12
        sys.exit(train.main({argv!r}))
    """)


def final(expname: str) -> dict:
    return read_snapshot(list_snapshots(Path("outputs") / expname / "snapshot")[-1][1])


def assert_same(one: dict, other: dict) -> None:
    assert one["step"] == other["step"]
    for part in ("model", "average"):
        assert (one[part] is None) == (other[part] is None)
        for name in one[part] or {}:
            assert torch.equal(one[part][name], other[part][name]), f"{part} {name}"
    assert_same_state(one["optimizer"], other["optimizer"])


def assert_same_state(one: dict, other: dict) -> None:
    """Compare the states of two optimizers, part by part where they consist of two."""
    assert one.keys() == other.keys()
    if "state" not in one:
        for kind in one:
            assert_same_state(one[kind], other[kind])
        return
    for i, state in one["state"].items():
        for name, value in state.items():
            assert torch.equal(value, other["state"][i][name]), f"optimizer {i} {name}"


def rows(expname: str) -> list[dict]:
    return [json.loads(line) for line in (Path("outputs") / expname / "log.jsonl").read_text().splitlines()]


def stop_with_sigterm(monkeypatch, after: int) -> list[int]:
    """Send this process SIGTERM while it is in its step number `after`."""
    apply_step, taken = train.apply_step, [0]

    def counted(*args):
        apply_step(*args)
        taken[0] += 1
        if taken[0] == after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train, "apply_step", counted)
    return taken


def run_straight_and_resumed(monkeypatch, **changes) -> None:
    """Train `straight` through, and `resumed` in two runs: the first is stopped in its third step."""
    assert train.main(arguments("straight", **changes)) == 0
    with monkeypatch.context() as patched:
        stop_with_sigterm(patched, 3)
        assert train.main(arguments("resumed", **changes)) == 0
    assert train.main(arguments("resumed", **changes)) == 0
