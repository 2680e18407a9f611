"""Description of the machine: commit, versions, CPU and its instructions, threads."""

import platform
import re
from pathlib import Path

import pytest
import torch

import inference
import train
from config.threads import cores
from model.machine import code_version, describe_cpu, describe_machine, in_words
from model.runtime import pick_device

X86 = """processor\t: 0
model name\t: AMD EPYC 9R15
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_bf16x

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd bf16 sve\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (X86, "AMD EPYC 9R15 (avx2 avx512f avx512_bf16)"),
        (X86.replace("avx", "x"), "AMD EPYC 9R15"),
        (ARM, "aarch64 (asimd sve bf16)"),
        ("", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_the_cpu_is_named_with_the_instructions_that_matter(tmp_path, monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    assert describe_cpu(path) == expected


def test_facts_are_those_of_this_process(device):
    facts = describe_machine(device, torch.bfloat16)
    assert list(facts) == ["commit", "python", "torch", "device", "cpu", "threads", "cores", "precision"]
    assert facts["commit"] == code_version()
    assert (facts["python"], facts["torch"]) == (platform.python_version(), torch.__version__)
    assert (facts["threads"], facts["cores"], facts["precision"]) == (torch.get_num_threads(), cores(), "bfloat16")
    assert facts["device"] == "cpu" or torch.cuda.get_device_name(device) in str(facts["device"])
    assert "precision" not in describe_machine(device)


def test_code_version_is_the_commit_or_unknown(monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", code_version())
    monkeypatch.setenv("PATH", "")
    assert code_version() == "unknown"


@pytest.mark.parametrize("program", [train, inference])
def test_a_program_prints_its_version(capsys, program):
    with pytest.raises(SystemExit) as ended:
        program.main(["--version"])
    assert ended.value.code == 0
    device = pick_device()
    line = capsys.readouterr().out
    assert line.startswith(in_words(describe_machine(device)))
    assert re.search(r", precision (bfloat16|float32)\n$", line)
    assert line.count("\n") == 1


def test_the_folder_of_the_program_may_be_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr("model.machine.__file__", str(tmp_path / "model" / "machine.py"))
    assert code_version() == "unknown"
    assert not Path(tmp_path / "model").exists()
