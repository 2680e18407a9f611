"""Lists of scenes on disk, "data path files": a JSON list of paths to the scenes' JSONs, or a .txt with a path on each line.

A path may also name a pack (`data/pack.py`): all scenes in it, in the order of its own list.
"""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from config.errors import InputError, check_file, missing_file
from config.messages import is_file_path, shown
from config.paths import find_beside, find_path
from data.files import write_json
from data.pack import is_pack, open_pack
from data.scene_format import CAMERAS, parse_json, read_json
from data.stored_file import is_there

# Name of a pack's list, its last member: paths in the pack, as in any other list, so that an unzipped pack is a data set.
PACK_LIST = "pack_data_path.json"
# A list as text: a million paths of 64 letters.
MOST_LIST_BYTES = 2**26
# Letters of a path, as many as Linux takes bytes.
LONGEST_PATH = 4096


def read_data_path(path: str | os.PathLike) -> list[Path]:
    """Return the scene files that a data path file lists, those in packs included.

    Args:
        path: a JSON list of paths; a .txt, as Long-LRM's, with a path on each line that is not blank; a pack; or a single
            scene's JSON, which counts as a list of itself. Relative to the working folder or to the project's; the paths in it,
            to the file.

    Returns:
        absolute paths of existing files, in the order of the list.

    Raises:
        FileNotFoundError: the file, or one that it lists, does not exist.
        InputError: it is not a list of paths, or is empty.
    """
    listed = read_listed(path)
    return [scene for path in listed for scene in (read_pack_list(path) if is_pack(path) else [path])]


def read_listed(path: str | os.PathLike) -> list[Path]:
    """Return the scene files and packs that a data path file lists; as `read_data_path`, which looks into the packs."""
    path = find_path(path)
    if is_pack(path) and os.path.isfile(path):
        return [Path(os.path.abspath(path))]
    lines = _read_lines(path) if path.suffix.lower() == ".txt" else None
    content = read_json(path) if lines is None else None
    path = Path(os.path.abspath(path))
    if lines is not None:
        return _scene_paths(path, lines)
    if isinstance(content, dict) and "frames" in content:
        return [path]
    if not isinstance(content, list):
        raise InputError(path, f"holds {shown(content)}", "a list of paths to scenes")
    if content and isinstance(content[0], dict):
        return [path]
    return _scene_paths(path, ((f"entry {i}", entry) for i, entry in enumerate(content)))


def _read_lines(path: Path) -> Iterator[tuple[str, str]] | None:
    """Return the paths that a text lists, each with its place; None if it holds JSON, which `write_data_path` always writes."""
    wanted = "a list of scenes, a path on each line"
    check_file(path, wanted)
    size = path.stat().st_size
    if size > MOST_LIST_BYTES:
        raise InputError(path, f"has {size} bytes", f"{wanted}, {MOST_LIST_BYTES} bytes at most")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not text in UTF-8 ({error})", wanted) from None
    if text.lstrip()[:1] in ("[", "{"):
        return None
    return ((f"line {i}", line.strip()) for i, line in enumerate(io.StringIO(text), 1) if line.strip())


def read_pack_list(pack_path: str | os.PathLike) -> list[Path]:
    """Return the scenes of a pack: those of its list, or if it has none all of them, as the pack's directory has them.

    Raises:
        FileNotFoundError: there is no such pack.
        InputError: it is damaged, or a path of its list leaves it.
    """
    folder = Path(os.path.abspath(pack_path))
    pack, where = open_pack(folder), f"{folder}/{PACK_LIST}"
    content = pack.read_last(PACK_LIST)
    if content is None and PACK_LIST in pack:
        content = pack.read(PACK_LIST)
    if content is None:
        where, names = str(folder), [name for name in pack.names() if name.split("/")[-1] == CAMERAS]
    else:
        names = parse_json(content, where)
    if not isinstance(names, list) or not names:
        found = "holds no scenes" if content is None else f"holds {shown(names)}"
        raise InputError(where, found, "scenes of the format")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not is_file_path(name) or name.startswith("/") or ".." in name.split("/"):
            raise InputError(f"{where}, entry {i}", f"is {shown(name)}", "the path of a scene's JSON in the pack")
    return [folder / name for name in names]


def write_data_path(json_path: str | os.PathLike, scene_json_paths: Iterable[str | os.PathLike]) -> None:
    """Write the list of scene files or packs, relative to the list itself, atomically.

    Raises:
        FileNotFoundError: a scene file or pack does not exist.
        ValueError: there are no scenes.
    """
    json_path = Path(os.path.abspath(json_path))
    folder = json_path.parent.resolve()
    entries = []
    for path in scene_json_paths:
        path = Path(os.path.abspath(path))
        # `..` follows links on disk, so the relative path is computed between real paths. The scene's own folder keeps
        # the name it was given by: it names the scene.
        path = path.parent.parent.resolve() / path.parent.name / path.name
        entries.append(Path(os.path.relpath(path, folder)).as_posix())
    if not entries:
        raise ValueError(f"{json_path}: no scenes to write")
    for i, entry in enumerate(entries):
        _scene_path(json_path, folder, f"entry {i}", entry)
    write_json(json_path, entries)


def _scene_paths(list_path: Path, entries: Iterable[tuple[str, object]]) -> list[Path]:
    """Return the scene files of a list's entries, each of which comes with its place in the list."""
    folder = list_path.parent.resolve()
    paths = [_scene_path(list_path, folder, place, entry) for place, entry in entries]
    if not paths:
        raise InputError(list_path, "holds no scenes", "at least one")
    return paths


def _scene_path(list_path: Path, folder: Path, place: str, entry: object) -> Path:
    where = f"{list_path}, {place}"
    if not isinstance(entry, str) or not 0 < len(entry) <= LONGEST_PATH or not is_file_path(entry):
        raise InputError(where, f"is {shown(entry)}", "the path of a scene's JSON")
    path = Path(os.path.normpath(folder / entry))
    if not is_there(path):  # a link to a list elsewhere
        path = find_beside(list_path, entry) or path
    if os.path.isdir(path):
        raise InputError(f"{where}, {path}", "is a folder", "the JSON in it")
    if not is_there(path):
        raise missing_file(path, "a path relative to the list", within=where)
    return path
