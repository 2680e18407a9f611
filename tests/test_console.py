"""Output of programs that nobody takes: closed pipes, full disks, terminals without Unicode, closed descriptors."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from config.console import forgiving_console
from tests.support.captures import orbit, write_transforms

ROOT = Path(__file__).parent.parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a shell, /dev/full")
LINES = """
import sys
from tqdm import tqdm
from config.console import forgiving_console
@forgiving_console()
def main():
    for i in tqdm(range(5000)):
        print("1 × 3 — 写 \\udcff", flush=i % 2 == 0)
        print("line", file=sys.stderr)
        sys.stdout.isatty(), sys.stdout.fileno()
    with open("done", "w") as file:
        file.write("done")
    return 7
sys.exit(main())
"""


def shell(folder: Path, command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in bash; PY, ROOT and LINES are the interpreter, the repository and a program that prints a lot."""
    known = {"PY": sys.executable, "ROOT": str(ROOT), "PYTHONPATH": str(ROOT), "LINES": LINES, "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **known, **variables}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@linux_only
@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("2>err | head -1", ""),
        ("2>&1 | head -1", ""),
        ("> /dev/full 2>err", "standard output: cannot be written (No space left on device); the program goes on"),
        ("> /dev/full 2>&1", ""),
        (">&- 2>err", ""),
        (">&- 2>&-", ""),
    ],
)
def test_a_program_whose_output_is_lost_finishes_its_work(tmp_path, redirection, said):
    found = shell(tmp_path, f'"$PY" -c "$LINES" {redirection}; echo "${{PIPESTATUS[0]}}" > status')
    assert (tmp_path / "status").read_text() == "7\n"
    assert (tmp_path / "done").read_text() == "done"
    error = (tmp_path / "err").read_text() if (tmp_path / "err").exists() else found.stderr
    assert "Error" not in error
    assert "Exception ignored" not in error
    assert error.count("cannot be written") == bool(said)
    assert said in error


@linux_only
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:strict"])
def test_letters_that_a_terminal_lacks_are_escapes(tmp_path, encoding):
    found = shell(tmp_path, '"$PY" -c "$LINES" 2>err | tail -1 | od -c; tail -c 99 err', PYTHONIOENCODING=encoding)
    assert (tmp_path / "done").exists()
    assert "Error" not in found.stdout


@linux_only
@pytest.mark.parametrize("redirection", ["| head -c 1", "> /dev/full", ">&- 2>&-"])
def test_a_script_whose_output_is_lost_writes_its_files(tmp_path, redirection):
    images = list(np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8))
    write_transforms(tmp_path / "写", images, orbit(4), {"fl_x": 30.0})
    command = f'"$PY" "$ROOT/data_preprocess/transforms_format_converter.py" --input 写 --output out {redirection}'
    found = shell(tmp_path, f'{command}; echo "${{PIPESTATUS[0]}}" > status', PYTHONIOENCODING="ascii")
    assert (tmp_path / "status").read_text() == "0\n"
    assert (tmp_path / "out" / "transforms_data_path.json").is_file()
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


def test_streams_of_a_test_stay_and_are_put_back(capsys):
    before = sys.stdout
    with forgiving_console():
        assert sys.stdout is before
        print("told")
    assert capsys.readouterr().out == "told\n"
