"""Index files: which views of each scene are inputs and which are targets, as JSON.

Views are numbered from 0 in the order of the scene's list. One of these forms:

    {"inputs": [1, 5], "targets": [0, 3]}                                   for every scene
    {SCENE: {"inputs": [1, 5], "targets": [0, 3]}, …}
    {SCENE: {"targets": [0, 8], "inputs": {"2": [3, 9], "4": [1, 3, 9, 12]}}, …}    several numbers of inputs
    [{"scene_name": SCENE, "fold_8_kmeans_16_input": [1, 3, …]}, …]         Long-LRM's: targets are views 0, 8, 16, …

The keys "context" and "target" of other projects mean the same as "inputs" and "targets".
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from config.errors import InputError, check_file
from config.messages import shown, some
from data.files import write_json
from data.scene_format import read_json, required
from data.view_selection import ViewChoice, check_counts, first_repeated

KEYS = {"inputs": ("inputs", "context"), "targets": ("targets", "target")}
# Nine digits: more than there are views, and few enough for int().
_COUNT = re.compile("[1-9][0-9]{0,8}")
_FOLD = re.compile("fold_([1-9][0-9]{0,8})_kmeans_([1-9][0-9]{0,8})_input")


class _Lists(NamedTuple):
    """A scene's lists as an index file has them, not checked: inputs by the number that their key says, None where it says none."""

    inputs: dict[int | None, object]
    names: dict[int | None, str]
    targets: object


def read_view_index(path: str | os.PathLike, scene_name: str, num_views: int, counts: Sequence[int] | None = None) -> ViewChoice:
    """Read a scene's inputs and targets from an index file. A file is read once, however many scenes ask for theirs.

    Args:
        path: the file, in any of the forms above.
        scene_name: the scene's name.
        num_views: how many views the scene has.
        counts: the numbers of inputs that are asked for; None takes the only list there is.

    Returns:
        the choice, its inputs in the order of `counts`; every list in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it has none of these forms, lacks the scene or a number of inputs, or names views that the scene has not, or
            one of them twice.
    """
    where = f"{os.fspath(path)}, scene {shown(scene_name, 200)}"
    check_file(path, "a JSON file")
    found = os.stat(path)
    content = _content(path, found.st_mtime_ns, found.st_size)
    lists = _lists(where, _entry(where, content, scene_name), num_views)
    keys = _chosen(where, lists, counts)
    inputs = tuple(_views(f"{where}, {lists.names[key]}", lists.inputs[key], num_views) for key in keys)
    targets = _views(f"{where}, targets", lists.targets, num_views)
    for key, count, views in zip(keys, counts or keys, inputs, strict=True):
        place = f"{where}, {lists.names[key]}"
        if not views:
            raise InputError(place, "names no view", "at least one")
        if count is not None and len(views) != count:
            raise InputError(place, f"names {len(views)} views", f"{count}, the number of inputs")
        both = sorted(set(views) & set(targets))
        if both:
            raise InputError(place, f"names view {both[0]}, which is a target", "no view in both")
    return ViewChoice(inputs, targets)


def write_view_index(path: str | os.PathLike, choices: Mapping[str, ViewChoice]) -> None:
    """Write the inputs and targets of scenes, atomically; `read_view_index` returns them as they were.

    Args:
        path: the file.
        choices: by the names of the scenes; all inputs of a choice differ in number.
    """
    write_json(path, {name: _written(choice) for name, choice in choices.items()})


def _written(choice: ViewChoice) -> dict[str, object]:
    if len(choice.inputs) == 1:
        return {"inputs": choice.inputs[0], "targets": choice.targets}
    by_count = {str(len(views)): views for views in choice.inputs}
    assert len(by_count) == len(choice.inputs)
    return {"targets": choice.targets, "inputs": by_count}


@functools.lru_cache(maxsize=1)
def _content(path: str | os.PathLike, mtime_ns: int, size: int) -> dict[str, object]:
    """Read an index file, a list as its entries by scene; time and size are in the key, so that a changed file is read again."""
    content = read_json(path)
    if isinstance(content, dict):
        return content
    if not isinstance(content, list):
        raise InputError(path, f"holds {shown(content)}", "an object or a list with the inputs of each scene")
    by_name = {}
    for i, entry in enumerate(content):
        where = f"{os.fspath(path)}, entry {i}"
        if not isinstance(entry, dict):
            raise InputError(where, f"is {shown(entry)}", "an object with scene_name and its inputs")
        name = required(where, entry, "scene_name")
        if not isinstance(name, str) or name in by_name:
            raise InputError(f"{where}, scene_name", f"is {shown(name)}", "a name that no entry before it has")
        by_name[name] = entry
    return by_name


def _entry(where: str, content: dict[str, object], scene_name: str) -> dict[str, object]:
    if any(isinstance(content.get(key), list) for keys in KEYS.values() for key in keys):
        return content
    entry = content.get(scene_name)
    if not isinstance(entry, dict):
        raise InputError(where, f"has no entry among {len(content)}", "its inputs and targets")
    return entry


def _lists(where: str, entry: dict[str, object], num_views: int) -> _Lists:
    folds = [match for match in map(_FOLD.fullmatch, entry) if match is not None]
    if folds:
        return _long_lrm_lists(where, entry, folds, num_views)
    if not set(entry) & set(KEYS["inputs"]):
        raise InputError(where, f"has {shown(list(entry))}", "inputs and targets, or fold_N_kmeans_K_input")
    inputs, targets = (next((entry[key] for key in keys if key in entry), None) for keys in KEYS.values())
    if not isinstance(inputs, dict):
        return _Lists({None: inputs}, {None: "inputs"}, targets)
    wrong = next((key for key in inputs if not _COUNT.fullmatch(key)), None)
    if wrong is not None or not inputs:
        found = "is empty" if wrong is None else f"has the key {shown(wrong)}"
        raise InputError(f"{where}, inputs", found, "numbers of inputs, each with a list of views")
    return _Lists({int(key): views for key, views in inputs.items()}, {int(key): f"inputs, {key}" for key in inputs}, targets)


def _long_lrm_lists(where: str, entry: dict[str, object], matches: list[re.Match[str]], num_views: int) -> _Lists:
    folds = sorted({int(match[1]) for match in matches})
    if len(folds) > 1:
        raise InputError(where, f"has targets at every {some([str(fold) for fold in folds])}", "fold_N_kmeans_K_input of one N")
    names: dict[int | None, str] = {int(match[2]): match[0] for match in matches}
    return _Lists({key: entry[name] for key, name in names.items()}, names, list(range(0, num_views, folds[0])))


def _chosen(where: str, lists: _Lists, counts: Sequence[int] | None) -> Sequence[int | None]:
    """Return the keys of the lists that are asked for."""
    available = some([str(key) for key in sorted(key for key in lists.inputs if key is not None)])
    if counts is None:
        if len(lists.inputs) > 1:
            raise InputError(where, f"has {available} inputs", "one of these as --num_input_views, or several")
        return list(lists.inputs)
    check_counts(counts)
    if None in lists.inputs:
        if len(counts) > 1:
            raise InputError(where, "has a single list of inputs", f"lists of {some([str(count) for count in counts])}")
        return [None]
    missing = next((count for count in counts if count not in lists.inputs), None)
    if missing is not None:
        raise InputError(where, f"has no list of {missing} inputs", f"--num_input_views of {available}")
    return counts


def _views(where: str, values: object, num_views: int) -> list[int]:
    """Check and return a list of an index file."""
    if not isinstance(values, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in values):
        raise InputError(where, f"is {shown(values)}", "a list of view numbers")
    outside = next((i for i in values if not 0 <= i < num_views), None)
    if outside is not None:
        raise InputError(where, f"names view {outside}", f"0 to {num_views - 1}")
    twice = first_repeated(values)
    if twice is not None:
        raise InputError(where, f"names view {twice} twice", "each view once")
    return list(values)
