"""Paths that work from any folder: what is not in the working folder is looked for in the project's."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent


def folders_of(path: Path) -> list[Path]:
    """Return the folders that the paths in a file are relative to: its own and, if it is a link, then that of what it leads to."""
    return list(dict.fromkeys((path.parent, path.resolve().parent)))


def find_beside(path: Path, name: str) -> Path | None:
    """Return the file `name` beside the file `path`, or beside what that is a link to; None if there is neither."""
    return next((folder / name for folder in folders_of(path) if os.path.exists(folder / name)), None)


def find_path(path: str | os.PathLike) -> Path:
    """Return `path` if it is there; else the same path in the project's folder if that is there; else `path` as it is.

    Args:
        path: absolute, or relative to the working folder.
    """
    path = Path(path)
    return path if os.path.lexists(path) or not os.path.exists(ROOT / path) else ROOT / path
