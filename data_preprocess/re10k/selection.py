"""Which chunks to read, and which of their scenes: folders of chunks, their index.json, `--keys`."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from config.errors import InputError, missing_file
from config.messages import shown
from data.scene_format import read_json

SUFFIX, INDEX = ".torch", "index.json"
# Suffixes of a file of keys; a key without one is no file.
_KEY_FILES = (".json", ".txt")


def find_chunks(inputs: Sequence[Path]) -> list[Path]:
    """Return the chunks in folders, and those that are named themselves, each once.

    Raises:
        FileNotFoundError: there is no such file or folder, or a folder has no chunk.
    """
    chunks: dict[Path, Path] = {}
    for path in inputs:
        if path.is_dir():
            found = sorted(file for file in path.glob(f"*{SUFFIX}") if not file.name.startswith("."))
        elif path.exists():
            found = [path]
        else:
            raise missing_file(path, f"a folder with chunks (*{SUFFIX}), or a chunk")
        if not found:
            below = sorted(str(file.parent) for file in path.glob(f"*/*{SUFFIX}"))
            advice = f": {' or '.join(dict.fromkeys(below))}" if below else ""
            raise FileNotFoundError(f"{path}: has no chunk (*{SUFFIX}); wanted a folder with chunks{advice}")
        for file in found:
            chunks.setdefault(Path(os.path.abspath(file)), file)
    return list(chunks.values())


def read_index(folder: Path) -> dict[str, Path]:
    """Return the chunk of each key that a folder's index.json has; an empty dict if there is none.

    Raises:
        InputError: it is not an object of texts.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(path, f"holds {shown(content)}", "an object with the chunk of each key")
    for key, name in content.items():
        if not isinstance(name, str):
            raise InputError(f"{path}, {shown(key)}", f"is {shown(name)}", "the name of a chunk")
    return {key: folder / name for key, name in content.items()}


def read_keys(given: Sequence[str]) -> list[str]:
    """Return keys from the command line, or from the one file that it names, each once.

    Args:
        given: keys; or a file with a key per line; or a JSON list of keys, or an object by key, such as an index file of inputs and
            targets, whose scenes without an entry (null) are left away.

    Raises:
        FileNotFoundError, InputError: there is no such file, or it holds something else, or no key.
    """
    keys, where = list(given), "--keys"
    if len(given) == 1 and (given[0].endswith(_KEY_FILES) or Path(given[0]).is_file()):
        where = given[0]
        keys = _keys_in(Path(where))
    if not keys:
        raise InputError(where, "holds no key", "at least one")
    return list(dict.fromkeys(keys))


def _keys_in(path: Path) -> list[str]:
    if not path.is_file():
        raise missing_file(path, "keys, or a file with one per line")
    if path.suffix.lower() != ".json":
        return path.read_text(encoding="utf-8-sig", errors="replace").split()
    content = read_json(path)
    if isinstance(content, dict):
        return [key for key, value in content.items() if value is not None]
    if isinstance(content, list) and all(isinstance(key, str) for key in content):
        return content
    raise InputError(path, f"holds {shown(content)}", "a list of keys, or an object by key")


def select_chunks(chunks: Sequence[Path], index: Mapping[str, Path], keys: Collection[str] | None) -> list[Path]:
    """Return the chunks that can hold some of `keys`: those that the index says, and those that it does not know.

    Args:
        chunks: all of them.
        index: of `read_index`, for all their folders.
        keys: of the scenes to convert; None for all.
    """
    if keys is None:
        return list(chunks)
    known = {os.path.abspath(path) for path in index.values()}
    wanted = {os.path.abspath(index[key]) for key in keys if key in index}
    return [chunk for chunk in chunks if os.path.abspath(chunk) in wanted or os.path.abspath(chunk) not in known]


def index_of(chunks: Sequence[Path], inputs: Sequence[Path], problems: list[str]) -> dict[str, Path]:
    """Return the chunk of each key in the index.json of the chunks' folders; an unreadable one is added to `problems`.

    Args:
        chunks: of `find_chunks`.
        inputs: folders, of which all keys count, and files, of which their own do.
        problems: to append to.
    """
    index: dict[str, Path] = {}
    own = {os.path.abspath(chunk) for chunk in chunks}
    whole = {os.path.abspath(path) for path in inputs if path.is_dir()}
    for folder in dict.fromkeys(chunk.parent for chunk in chunks):
        try:
            found = read_index(folder)
        except (InputError, OSError) as error:
            problems.append(str(error))
            continue
        is_whole = os.path.abspath(folder) in whole
        index |= {key: path for key, path in found.items() if is_whole or os.path.abspath(path) in own}
    return index
