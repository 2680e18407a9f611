"""Start of the programs: an old Python or torch gives one line, and threads are chosen before torch is loaded."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config import signals, startup, threads

ROOT = Path(__file__).parent.parent
PROGRAMS = [
    path
    for path in [*ROOT.glob("*.py"), *sorted((ROOT / "data_preprocess").glob("*.py"))]
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
# Ubuntu 20.04's, the oldest that is likely to meet the programs.
OLD = (3, 8)


def test_all_programs_are_found():
    assert len(PROGRAMS) == 18


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_program_starts_by_checking_versions_and_choosing_threads(path):
    """Before it imports anything of other packages; and an old Python can parse it that far."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLD)
    statements = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    before = []
    for node in statements:
        if isinstance(node, ast.If) and "start()" in ast.unparse(node):
            break
        before.append(node)
    else:
        pytest.fail("start() is not called")
    imported = {alias.name for node in before if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in before if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {"sys", "pathlib"}
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in before)


def test_a_program_starts_by_letting_signals_end_it(monkeypatch):
    called = []
    monkeypatch.setattr(signals, "end_at_once", lambda: called.append("signals"))
    monkeypatch.setattr(startup, "check_torch", lambda: called.append("torch"))
    monkeypatch.setattr(startup, "check_endpoint", lambda: called.append("hub"))
    monkeypatch.setattr(threads, "choose_threads", lambda: called.append("threads"))
    startup.start()
    assert called == ["signals", "torch", "hub", "threads"]


@pytest.mark.parametrize("name", ["__init__.py", "startup.py"])
def test_what_is_imported_before_the_check_can_be_parsed_by_an_old_python(name):
    tree = ast.parse((ROOT / "config" / name).read_text(encoding="utf-8"), feature_version=OLD)
    if name == "__init__.py":
        first = next(node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
        assert ast.unparse(first) == "import config.startup"
    else:
        assert {node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} == {None}


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 0), (3, 9, 18, "final", 0)])
def test_an_old_python_is_one_line(monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "argv", ["data_preprocess/check_scenes.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        startup.check_python(version)
    assert ended.value.code == 2
    shown = ".".join(map(str, version[:3]))
    assert capsys.readouterr().err == f"check_scenes.py: Python: is {shown} ({sys.executable}); wanted 3.10 or newer\n"


def test_this_python_and_newer_ones_are_accepted():
    for version in (sys.version_info, (3, 10, 0), (3, 14, 1), (4, 0, 0)):
        startup.check_python(version)


@pytest.mark.parametrize("version", ["2.8.1", "2.5.1+cu121", "1.13.0a0+git1", "2.7.0.dev20250101"])
def test_an_old_torch_is_one_line(monkeypatch, capsys, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(signals, "end_at_once", lambda: None)  # else this process's handlers were changed
    with pytest.raises(SystemExit) as ended:
        startup.start()
    assert ended.value.code == 2
    line = f"train.py: torch: is {version}; wanted 2.9 or newer: pip install -r requirement.txt\n"
    assert capsys.readouterr().err == line
    for name in ("SLURM_LOCALID", "LOCAL_RANK"):  # another process of the machine, by srun or torchrun, says it
        monkeypatch.setenv(name, "1")
        with pytest.raises(SystemExit):
            startup.check_torch()
        assert capsys.readouterr().err == ""
        monkeypatch.setenv(name, "0")


@pytest.mark.parametrize("address", ["http://user:a/b@host", "http://host:port", "http://[::1"])
def test_a_hub_that_is_no_address_is_one_line_without_its_password(monkeypatch, capsys, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(SystemExit) as ended:
        startup.check_endpoint()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "HF_ENDPOINT: is no address of a hub; wanted https://HOST" in line
    assert "user:a" not in line
    for fine in ("", "https://huggingface.co", "http://user:a%2Fb@host:80"):
        monkeypatch.setenv("HF_ENDPOINT", fine)
        startup.check_endpoint()


def test_newer_ones_and_none_are_accepted(monkeypatch):
    for version in ("2.9.0", "2.13.0+cpu", "3.0", "2.11.0a0+gitabc", "local"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        startup.check_torch()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    startup.check_torch()


def test_the_oldest_torch_is_that_of_the_requirements():
    required = re.findall(r"^torch>=(\d+)\.(\d+),", (ROOT / "requirement.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert required == [tuple(map(str, startup.OLDEST_TORCH))]


@pytest.mark.slow
def test_a_program_runs_with_the_chosen_settings():
    script = """
import os, runpy, sys
sys.argv = ["inference.py", "--version"]
try:
    runpy.run_path("inference.py", run_name="__main__")
finally:
    print(os.environ["GOMP_SPINCOUNT"])
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == threads.SPINS, done.stderr
