"""Paths that work from any folder: what is not in the working folder is looked for in the project's."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent


def find_path(path: str | os.PathLike) -> Path:
    """Return `path` if it is there; else the same path in the project's folder if that is there; else `path` as it is.

    Args:
        path: absolute, or relative to the working folder.
    """
    path = Path(path)
    return path if os.path.lexists(path) or not (ROOT / path).exists() else ROOT / path
