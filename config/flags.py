"""Flags: fields of settings dataclasses that are command line, help text, YAML keys and range checks in one declaration.

    @dataclass(frozen=True)
    class Video:
        video_format: str = flag("mp4", "format of the video", group="video", choices=("mp4", "gif"))
        video_frames: int = flag(120, "number of frames", least=1)

    given = read_command_line("inference.py", __doc__, (Video,), argv)  # {"video_frames": 60}: what was given, and nothing else
    video = settings(Video, given)                                     # Video(video_format="mp4", video_frames=60)

A field's annotation says how its flag is read: `bool` is a switch, `bool | None` one that `--no-NAME` turns off,
`tuple[int, int]` takes two numbers (height and width), `tuple[X, ...]` one or more values, everything else one. A field whose
default is `...` is required; in a dataclass with `kw_only=True` it may follow fields with defaults.
"""

import argparse
import dataclasses
import os
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from config import did_you_mean
from config.errors import InputError
from config.messages import is_path, shown, shown_key
from config.paths import ROOT

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
# Whole numbers of any setting; larger ones overflow what they are multiplied with.
LARGEST_WHOLE = 2**31 - 1
PAIR, MANY = "two whole numbers, height and width", "one or more values"

Settings = TypeVar("Settings")


def flag(
    default: Any,
    text: str,
    *,
    group: str | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    unset: str = "none",
    metavar: str | tuple[str, ...] | None = None,
    positional: bool = False,
    **metadata: Any,
) -> Any:
    """Return a field of a settings dataclass.

    Args:
        default: its value where it is not given; `...` makes it required.
        text: its meaning, for `--help`; range and default are added.
        group: heading in `--help` of this flag and those after it.
        least, above, most: bounds of a number, `above` excluded; NaN and infinity are out of every range.
        choices: the allowed values.
        unset: what a default of None stands for, in words, for `--help`.
        metavar: name of the value in `--help`.
        positional: given by its position on the command line, not by `--NAME`.
        metadata: anything else to store with the field.
    """
    metadata |= {"text": text, "group": group, "least": least, "above": above, "most": most, "choices": tuple(choices)}
    metadata |= {"unset": unset, "metavar": metavar, "positional": positional}
    return dataclasses.field(metadata=metadata) if default is ... else dataclasses.field(default=default, metadata=metadata)


def read_command_line(
    program: str,
    description: str,
    kinds: Iterable[type],
    argv: Sequence[str] | None = None,
    negatable: bool = False,
    version: Callable[[], str] | None = None,
) -> dict[str, Any]:
    """Read the flags of some settings dataclasses.

    Args:
        program: its name in `--help`.
        description: of the program, for `--help`.
        kinds: the dataclasses; no two fields share a name.
        argv: the command line; None for the process's own.
        negatable: give every switch a `--no-NAME` too, to turn off what another source, such as a YAML, turned on.
        version: makes the text that `--version` prints; None for no such flag.

    Returns:
        the value of every flag that was given, by name. `settings` makes instances of it.

    Raises:
        InputError: a flag is unknown or missing, or its value is of the wrong type or out of range.
    """
    fields = _fields(kinds)
    parser = _parser(program, description, fields, negatable)
    if version is not None:
        parser.add_argument("--version", action=_Version, text=version)
    try:
        found, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        label = str(error.argument_name).partition("/")[0]
        field = next((field for field in fields.values() if _label(field[0]) == label), None)
        wanted = _wanted(*field) if field else "flags as --help lists them"
        raise InputError(label, f"cannot be read ({error.message})", wanted) from None
    for label in unknown:
        wanted = did_you_mean(label.partition("=")[0], [_label(field) for field, _ in fields.values()])
        raise InputError(shown_key(label), "is unknown", f"a known flag; {wanted}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(found).items() if value is not None}
    for name, value in given.items():
        _check_text(value, _label(fields[name][0]))
    given = {name: in_home(value) for name, value in given.items()}
    for name, (field, _) in fields.items():
        if name in given:
            check_range(field, given[name], _label(field))
        elif field.default is dataclasses.MISSING:
            raise InputError(_label(field), "is missing", ", ".join(field.metadata["choices"]) or field.metadata["text"])
    return given


def settings(kind: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Return an instance of one settings dataclass: what was given of its fields, and defaults for the rest."""
    return kind(**{field.name: given[field.name] for field in _dataclass_fields(kind) if field.name in given})


def read_mapping(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the values of a YAML, or of any other mapping, against the fields of a settings dataclass.

    Whole numbers stand for floats and lists for tuples; nothing else stands for another type.

    Args:
        kind: the dataclass.
        values: by the fields' names.
        where: name in error messages, such as the file's.

    Returns:
        the values, in the types of the fields.

    Raises:
        InputError: a key is unknown, or a value is of the wrong type or out of range.
    """
    fields = _fields([kind])
    for key in values:
        if key not in fields:
            raise InputError(
                f"{where}, {shown_key(key)}", "is unknown", f"a known key; {did_you_mean(shown_key(key), list(fields))}"
            )
    checked = {}
    for key, value in values.items():
        field, declared = fields[key]
        _check_text(value, f"{where}, {key}")
        checked[key] = in_home(_exact(field, declared, value, f"{where}, {key}"))
        check_range(field, checked[key], f"{where}, {key}")
    return checked


def check_range(field: dataclasses.Field, value: Any, where: str) -> None:
    """Refuse a number that is out of its field's range.

    Raises:
        InputError: the number is out of range.
    """
    least, above, most = (field.metadata[bound] for bound in ("least", "above", "most"))
    numbers = value if isinstance(value, tuple) else (value,)
    if most is None and any(isinstance(number, int) and number > LARGEST_WHOLE for number in numbers):
        raise InputError(where, f"is {shown(value)}", f"{LARGEST_WHOLE} at most")
    if value is None or (least is None and above is None and most is None):
        return
    for number in numbers:
        low_enough = number < float("inf") if most is None else number <= most
        high_enough = (least is None or number >= least) and (above is None or number > above)
        if not (low_enough and high_enough):
            raise InputError(where, f"is {show(value)}", _range(field))


def _check_text(value: Any, where: str) -> None:
    """Refuse text that no path can have; it would raise wherever it is used as one."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, (str, Path)) and not is_path(str(item)):
            raise InputError(where, f"is {shown(str(item))}", "text without NUL and halves of letters")


def in_home(value: Any) -> Any:
    """Return a value with the user's folder for a leading ~/, which a shell leaves as it is in `--load=~/w.pt`."""
    if isinstance(value, tuple):
        return tuple(map(in_home, value))
    return type(value)(os.path.expanduser(value)) if isinstance(value, (str, Path)) and str(value).startswith("~/") else value


def refuse_without_effect(given: Collection[str], when: str, flags: Iterable[str]) -> None:
    """Refuse flags that were given and do nothing.

    Args:
        given: names of the flags that were given.
        when: the circumstances, as in "has no effect with --load_state".
        flags: names of those that have no effect then.

    Raises:
        InputError: one of them was given.
    """
    for name in flags:
        if name in given:
            raise InputError(f"--{name}", f"has no effect {when}", "it left out")


def show(value: Any) -> str:
    """Return a value as it is written on the command line; a path in the repository relative to its root."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        return str(value.relative_to(ROOT))
    return " ".join(map(show, value)) if isinstance(value, tuple) else str(value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError("command line", f"cannot be read ({message})", "flags as --help lists them")


class _Version(argparse.Action):
    """The flag that prints a text, which is made only then, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, default: str, text: Callable[[], str]) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs=0,
            default=default,
            help="print the versions of code, Python and torch, and the machine; exit",
        )
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(self.text())
        parser.exit()


def _parser(program: str, description: str, fields: Mapping[str, tuple[dataclasses.Field, Any]], negatable: bool) -> _Parser:
    parser = _Parser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        exit_on_error=False,
    )
    group: Any = parser
    for field, declared in fields.values():
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        kind, many = _base(declared)
        choices, metavar = field.metadata["choices"] or None, field.metadata["metavar"]
        options: dict[str, Any] = {"help": _help(field)}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction if negatable or field.default is None else "store_true"
        elif many == 2:
            options |= {"nargs": 2, "type": kind, "metavar": metavar or ("H", "W")}
        elif many:
            repeated = {"nargs": "*"} if field.metadata["positional"] else {"nargs": "+", "action": "extend"}
            options |= {"type": kind, "choices": choices, "metavar": metavar, **repeated}
        else:
            options |= {"type": kind, "choices": choices, "metavar": metavar}
            # Without a default, argparse would return its marker for "no default" as the value of a positional that is not given.
            options |= {"nargs": "?", "default": None} if field.metadata["positional"] else {}
        group.add_argument(field.name if field.metadata["positional"] else f"--{field.name}", **options)
    return parser


def _help(field: dataclasses.Field) -> str:
    bounds = _range(field)
    if field.default is dataclasses.MISSING:
        default = "required"
    else:
        default = f"default: {field.metadata['unset'] if field.default is None else show(field.default)}"
    return f"{field.metadata['text']} ({f'{bounds}; ' if bounds else ''}{default})".replace("%", "%%")


def _range(field: dataclasses.Field) -> str:
    """Return a field's range in words; empty for none."""
    least, above, most = (field.metadata[bound] for bound in ("least", "above", "most"))
    if least is not None:
        return f"{least} or more" if most is None else f"{least} to {most}"
    if above is not None:
        return f"above {above}" + ("" if most is None else f", up to {most}")
    return "" if most is None else f"{most} or less"


def _wanted(field: dataclasses.Field, declared: Any) -> str:
    """Return what values a flag takes, in words."""
    kind, many = _base(declared)
    if field.metadata["choices"]:
        return ", ".join(field.metadata["choices"])
    return PAIR if many == 2 else f"{MANY}, each {WORDS[kind]}" if many else WORDS[kind]


def _label(field: dataclasses.Field) -> str:
    """Return what a flag is called on the command line."""
    if not field.metadata["positional"]:
        return f"--{field.name}"
    return field.metadata["metavar"] or field.name


def _fields(kinds: Iterable[type]) -> dict[str, tuple[dataclasses.Field, Any]]:
    """Return every field with its annotation, by name."""
    fields = {}
    for kind in kinds:
        declared = typing.get_type_hints(kind)
        for field in _dataclass_fields(kind):
            assert field.name not in fields, field.name
            fields[field.name] = (field, declared[field.name])
    return fields


def _dataclass_fields(kind: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(kind)


def _base(declared: Any) -> tuple[type, int]:
    """Return the type of one value of a flag, and how many it takes: 0 for a single one, 2, or 1 for one or more."""
    options = [option for option in typing.get_args(declared) if option is not type(None)]
    if typing.get_origin(declared) is not tuple and options:
        return _base(options[0])
    if typing.get_origin(declared) is tuple:
        return options[0], 1 if options[-1] is ... else 2
    return declared, 0


def _exact(field: dataclasses.Field, declared: Any, value: Any, where: str) -> Any:
    kind, many = _base(declared)
    if value is None and field.default is None:
        return None
    choices = field.metadata["choices"]
    if many:
        items = value if isinstance(value, (list, tuple)) else ()
        known = all(type(item) is kind and (not choices or item in choices) for item in items)
        if items and known and (many == 1 or len(items) == 2):
            return tuple(items)
        raise InputError(where, f"is {shown(value)}", _wanted(field, declared))
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not kind:
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if kind is float and isinstance(value, str) else ""
        raise InputError(where, f"is {shown(value)}", WORDS[kind] + hint)
    if choices and value not in choices:
        raise InputError(where, f"is {shown(value)}", _wanted(field, declared))
    return value
