"""Style of the code: format and lint by ruff, types by pyright."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHOWN_LINES = 40


def check(tool: str, *flags: str) -> None:
    """Run a tool on the repository; fail with what it found."""
    if importlib.util.find_spec(tool) is None:
        pytest.fail(f"{tool}: is not installed; wanted pip install -r tests/requirement.txt", pytrace=False)
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # else it asks PyPI for newer versions
    done = subprocess.run([sys.executable, "-m", tool, *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).replace(f"{ROOT}{os.sep}", "").splitlines()
        left_out = [f"and {len(lines) - SHOWN_LINES} lines more"] if len(lines) > SHOWN_LINES else []
        pytest.fail("\n".join([f"{tool} {' '.join(flags)}", *lines[:SHOWN_LINES], *left_out]), pytrace=False)


def test_format():
    check("ruff", "format", "--check", "--no-cache", ".")


def test_lint():
    check("ruff", "check", "--no-cache", "--output-format", "concise", ".")


@pytest.mark.slow
def test_types():
    check("pyright", "-p", ".pyrightconfig.json", "--pythonpath", sys.executable)
