"""Scripts of data_preprocess as commands: what ends in one line, and that a fault of the program shows itself."""

import errno
import re

import numpy as np
import pytest

import data_preprocess.check_scenes as check_scenes
import data_preprocess.transforms_format_converter as converter
from config.command_line import Parser
from config.errors import InputError
from data_preprocess.command import at_least, one_line, run_script
from tests.support.captures import orbit, write_transforms
from tests.support.scenes import write_random_data_path


def raising(error: BaseException):
    def work(argv):
        raise error

    return work


def test_problems_that_are_returned_are_lines_on_standard_error(capsys):
    assert run_script("x.py", lambda argv: ["a: is\n  b; wanted c", "d: is e; wanted f"], []) == 2
    assert capsys.readouterr().err == "x.py: a: is b; wanted c\nx.py: d: is e; wanted f\n"
    assert run_script("x.py", lambda argv: None, []) == 0
    assert run_script("x.py", lambda argv: [], []) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.json, view 3, fx", "is -1", "a number above 0"), 2, "a.json, view 3, fx: is -1; wanted a number above 0"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 2, "[Errno 28] No space left on device: 'a.png'"),
        (MemoryError(), 2, "memory: is full (MemoryError); wanted more of it, or fewer --workers"),
        (MemoryError("Unable to\nallocate"), 2, "memory: is full (Unable to allocate); wanted more of it, or fewer --workers"),
        (KeyboardInterrupt(), 130, "interrupted; run again to complete"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(capsys, error, code, line):
    assert run_script("x.py", raising(error), []) == code
    assert capsys.readouterr().err == f"x.py: {line}\n"


@pytest.mark.parametrize("error", [ValueError("bug"), np.linalg.LinAlgError("bug"), RuntimeError("bug"), AssertionError("bug")])
def test_a_fault_of_the_program_shows_its_traceback(capsys, error):
    with pytest.raises(type(error), match="bug") as caught:
        run_script("x.py", raising(error), [])
    assert caught.value is error
    assert capsys.readouterr().err == ""


def test_a_fault_in_the_middle_of_a_conversion_is_no_broken_scene(tmp_path, monkeypatch):
    for name in ("a", "b"):
        images = [np.zeros((20, 28, 3), np.uint8)] * 3
        write_transforms(tmp_path / "in" / name, images, orbit(3), {"fl_x": 30.0})
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(converter, "orient", lambda w2c, frame: np.stack([w2c, w2c[:1]]))
    with pytest.raises(ValueError, match="must have the same") as caught:
        converter.main(flags)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("name", ["read_pixels", "read_scene", "_draw"])
def test_a_fault_in_the_middle_of_a_check_is_no_broken_scene(tmp_path, monkeypatch, name):
    data_path = write_random_data_path(tmp_path, scenes=2, n=2, size=(20, 28))

    def faulty(*arguments):
        return list(zip("ab", "c", strict=True))

    monkeypatch.setattr(check_scenes, name, faulty)
    with pytest.raises(ValueError, match="argument 2 is shorter") as caught:
        check_scenes.main([str(data_path), "--output", str(tmp_path / "pictures")])
    assert type(caught.value) is ValueError


def test_one_bad_scene_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    def refuse(path):
        raise InputError(path, "is in a mood", "another one")

    data_path = write_random_data_path(tmp_path, scenes=2, n=2, size=(20, 28))
    monkeypatch.setattr(check_scenes, "read_scene", refuse)
    assert check_scenes.main([str(data_path), "--no_pictures"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("check_scenes.py: ")]
    assert len(lines) == 2
    assert all(re.fullmatch(r"check_scenes\.py: .*opencv_cameras\.json: is in a mood; wanted another one", line) for line in lines)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "x"], "--workers: cannot be read (invalid int value: 'x'); wanted flags as --help lists them"),
        (["--what"], "command line: cannot be read (unrecognized arguments: --what); wanted flags as --help lists them"),
    ],
)
def test_flags_that_are_none_are_refused(flags, message):
    parser = Parser()
    parser.add_argument("--workers", type=int)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        parser.parse_args(flags)


def test_numbers_below_the_least_are_refused():
    assert (at_least("--count", 3, 3), at_least("--count", None, 3)) == (3, None)
    with pytest.raises(InputError, match=r"^--count: is 2; wanted 3 or more$"):
        at_least("--count", 2, 3)


def test_an_error_without_words_is_told_by_its_kind():
    assert one_line(ValueError(" a\n b ")) == "a b"
    assert one_line(EOFError()) == "EOFError"
