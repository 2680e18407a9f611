"""Commands of the documentation, for tests that run them."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def documented(readme: str, section: str, word: str) -> str:
    """Return the indented block that contains a word, of a section of a README.

    Args:
        readme: relative to the repository.
        section: its heading, without number signs.
        word: of one block of that section alone.
    """
    lines = (ROOT / readme).read_text(encoding="utf-8")
    text = re.split(rf"^#+ {re.escape(section)}\n", lines, maxsplit=1, flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, re.MULTILINE)
    (block,) = [block for block in blocks if word in block]
    return re.sub("^    ", "", block, flags=re.MULTILINE)


def write_program(path: Path, text: str) -> None:
    """Write a bash script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def write_python(folder: Path, **flags: str) -> None:
    """Write a program `python` that runs scripts of the repository, named relative to it, with more flags for those given here."""
    cases = "\n".join(f"  */{script}.py) more='{more}' ;;" for script, more in flags.items())
    text = f'script=$1; shift; more=\ncase $script in\n{cases}\nesac\nexec {sys.executable} {ROOT}/"$script" "$@" $more'
    write_program(folder / "python", text)
