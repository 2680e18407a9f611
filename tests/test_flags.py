"""Flags: one declaration is command line, help, YAML keys and range checks."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from config.errors import InputError
from config.flags import ROOT, flag, read_command_line, read_mapping, refuse_without_effect, settings


@dataclass(frozen=True, kw_only=True)
class Scenes:
    names: tuple[str, ...] = flag((), "scenes", group="scenes", positional=True, metavar="NAME")
    output: Path = flag(..., "folder for the results")
    kind: str = flag("objects", "of scene", choices=("objects", "rooms"))
    colours: tuple[str, ...] = flag(("red",), "of things", choices=("red", "blue"))
    indices: tuple[int, ...] | None = flag(None, "these alone", least=0, unset="all 100 % of them")


@dataclass(frozen=True)
class Machine:
    share: float = flag(0.5, "of memory", group="machine", above=0, most=1)
    workers: int | None = flag(None, "threads", least=1, unset="one a core")
    fps: int = flag(30, "frames per second", least=1, most=240)
    image_size: tuple[int, int] = flag((8, 16), "height and width", least=1)
    timeout_s: float = flag(9.0, "seconds", above=0)
    most_files: int = flag(5, "files", most=9)
    quiet: bool = flag(False, "print nothing")
    folder: Path = flag(ROOT / "weight", "a folder of the repository")


def read(*argv: str, negatable: bool = False) -> dict:
    return read_command_line("x.py", "A program.", (Scenes, Machine), argv, negatable)


def test_what_is_given_is_returned_and_the_rest_has_defaults():
    given = read("a", "b", "--output", "out", "--indices", "3", "1", "--indices", "2", "--image_size", "4", "6", "--quiet")
    assert given == {"names": ("a", "b"), "output": Path("out"), "indices": (3, 1, 2), "image_size": (4, 6), "quiet": True}
    assert settings(Scenes, given) == Scenes(names=("a", "b"), output=Path("out"), indices=(3, 1, 2))
    assert settings(Machine, given) == Machine(0.5, None, 30, (4, 6), 9.0, 5, True)
    assert read("--output", "out") == {"output": Path("out")}
    assert settings(Machine, read("--output", "out")) == Machine()


def test_a_single_value_may_be_given_by_its_place():
    @dataclass(frozen=True)
    class Check:
        data_path: Path = flag(..., "list of scenes", group="scenes", positional=True, metavar="DATA_PATH.json")

    assert read_command_line("x.py", "A program.", (Check,), ["a.json"]) == {"data_path": Path("a.json")}
    with pytest.raises(InputError, match=r"^DATA_PATH\.json: is missing; wanted list of scenes$"):
        read_command_line("x.py", "A program.", (Check,), [])


def test_the_version_is_made_and_printed_only_where_it_is_requested(capsys):
    made = []

    def version():
        made.append(1)
        return "commit 1234"

    def words(*argv):
        return read_command_line("x.py", "A program.", (Scenes,), argv, version=version)

    words("--output", "out")
    with pytest.raises(SystemExit):
        words("--help")
    assert "--version" in capsys.readouterr().out
    assert not made
    with pytest.raises(SystemExit) as ended:
        words("--version")  # without the flags that a run needs
    assert ended.value.code == 0
    assert capsys.readouterr().out == "commit 1234\n"
    with pytest.raises(InputError, match=r"^--version: is unknown"):
        read("--output", "out", "--version")


def test_switches_can_be_switched_off_where_something_else_may_have_switched_them_on():
    assert read("--output", "out", "--no-quiet", negatable=True)["quiet"] is False
    with pytest.raises(InputError, match=r"^--no-quiet: is unknown"):
        read("--output", "out", "--no-quiet")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--output: is missing; wanted folder for the results"),
        (["--output", "o", "--kynd", "rooms"], "--kynd: is unknown; wanted a known flag; did you mean '--kind'? known: NAME, "),
        (["--output", "o", "--quiet=1"], "--quiet: cannot be read (ignored explicit argument '1'); wanted true or false"),
        (["--output", "o", "--out", "p"], "--out: is unknown"),
        (["--output", "o", "--kind", "room"], "--kind: cannot be read (invalid choice: 'room'"),
        (["--output", "o", "--kind", "room"], "; wanted objects, rooms"),
        (["--output", "o", "--workers", "x"], "--workers: cannot be read (invalid int value: 'x'); wanted a whole number"),
        (["--output", "o", "--workers", "0"], "--workers: is 0; wanted 1 or more"),
        (["--output", "o", "--fps", "241"], "--fps: is 241; wanted 1 to 240"),
        (["--output", "o", "--most_files", "10"], "--most_files: is 10; wanted 9 or less"),
        (["--output", "o", "--share", "0"], "--share: is 0.0; wanted above 0, up to 1"),
        (["--output", "o", "--share", "nan"], "--share: is nan; wanted above 0, up to 1"),
        (["--output", "o", "--timeout_s", "inf"], "--timeout_s: is inf; wanted above 0"),
        (["--output", "o", "--image_size", "8"], "--image_size: cannot be read (expected 2 arguments); wanted two whole numbers"),
        (["--output", "o", "--image_size", "8", "0"], "--image_size: is 8 0; wanted 1 or more"),
        (["--output", "o", "--indices"], "--indices: cannot be read (expected at least one argument); wanted one or more values"),
        (["--output", "o", "--indices", "1", "-1"], "--indices: is 1 -1; wanted 0 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(argv, message):
    with pytest.raises(InputError) as caught:
        read(*argv)
    assert message in str(caught.value)


def test_help_is_grouped_and_shows_ranges_and_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: x.py ")
    positions = [text.index(part) for part in ("\nscenes:", "\n  --output OUTPUT", "\nmachine:", "\n  --share SHARE")]
    assert positions == sorted(positions)
    for line in (
        "folder for the results (required)",
        "of scene (default: objects)",
        "these alone (0 or more; default: all 100 % of them)",
        "of memory (above 0, up to 1; default: 0.5)",
        "threads (1 or more; default: one a core)",
        "frames per second (1 to 240; default: 30)",
        "height and width (1 or more; default: 8 16)",
        "print nothing (default: off)",
        "a folder of the repository (default: weight)",
    ):
        assert line in text


def test_mappings_are_read_by_the_same_declaration():
    values = {"share": 1, "image_size": [3, 4], "workers": None, "quiet": True}
    assert read_mapping(Machine, values, "a.yaml") == {"share": 1.0, "image_size": (3, 4), "workers": None, "quiet": True}
    assert read_mapping(Scenes, {"indices": [3, 1]}, "a.yaml") == {"indices": (3, 1)}
    for values, message in (
        ({"colours": ["red", "pink"]}, "a.yaml, colours: is ['red', 'pink']; wanted red, blue"),
        ({"fps": 300}, "a.yaml, fps: is 300; wanted 1 to 240"),
        ({"speed": 1}, "a.yaml, speed: is unknown; wanted a known key; known: share"),
        ({"indices": [1, 2.0]}, "a.yaml, indices: is [1, 2.0]; wanted one or more values, each a whole number"),
        ({"image_size": [1, 2, 3]}, "a.yaml, image_size: is [1, 2, 3]; wanted two whole numbers, height and width"),
    ):
        with pytest.raises(InputError) as caught:
            read_mapping(Scenes if values.keys() & {"indices", "colours"} else Machine, values, "a.yaml")
        assert message in str(caught.value)


def test_flags_without_effect_are_refused_by_name():
    refuse_without_effect({"fps": 30}, "without a video", ["share", "workers"])
    with pytest.raises(InputError, match=r"^--fps: has no effect without a video; wanted it left out"):
        refuse_without_effect({"fps": 30}, "without a video", ["share", "fps"])
