"""Scripts of data_preprocess as commands: help, user errors in one line, tracebacks for faults of the program."""

import errno
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import data_preprocess.check_scenes as check_scenes
import data_preprocess.transforms_format_converter as converter
from config.errors import InputError
from config.signals import SIGNALS
from data_preprocess.command import check_list_name, check_one_of, run_script, say_left_out
from tests.support.captures import orbit, write_transforms
from tests.support.scenes import write_random_data_path

SCRIPTS = [path.stem for path in sorted(Path(check_scenes.__file__).parent.glob("*.py")) if "\ndef main(" in path.read_text()]


def test_all_scripts_are_found():
    assert len(SCRIPTS) == 16


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
def test_what_the_user_can_fix_is_one_line(capsys, error, code, line):
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


@pytest.mark.parametrize("name", ["read_photo", "read_scene", "draw"])
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


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_every_flag_in_a_named_group_with_its_default(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"data_preprocess.{name}").main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {name}.py ")
    options, *groups = re.split(r"^(?=\S.*:$)", text.split("\noptions:\n")[1], flags=re.MULTILINE)
    assert options.split() == ["-h,", "--help", "show", "this", "help", "message", "and", "exit"]
    entries = [" ".join(entry.split()) for group in groups for entry in re.split(r"^  (?=\S)", group, flags=re.MULTILINE)[1:]]
    assert entries
    for entry in entries:
        assert re.search(r"\((?:.*; )?(?:required|default: \S.*)\)$", entry), entry
    # No system starts more threads or processes than this. Merging lists needs no more than one.
    assert name == "merge_lists" or any(re.match(r"--workers WORKERS .*\([01] to 1024; default: ", entry) for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_middle_of_a_conversion_is_one_line_and_leaves_no_temporary_file(tmp_path, number):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (600, 900, 3), np.uint8)] * 200
    write_transforms(tmp_path / "in" / "a", images, orbit(200), {"fl_x": 900.0, "k1": 0.05})
    command = [sys.executable, converter.__file__, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list((tmp_path / "out").rglob("[0-9]*.png"))) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert re.split(r"[\r\n]+", error.strip())[-1] == "transforms_format_converter.py: interrupted; run again to complete"
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.tmp*"))
    assert len(list((tmp_path / "out").rglob("*.png"))) < 150


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags_that_no_script_has_are_refused(capsys, name):
    assert importlib.import_module(f"data_preprocess.{name}").main(["--fast"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}.py: --fast: is unknown; wanted a known flag; ")


@pytest.mark.parametrize(("given", "found"), [((), "missing"), (("input", "uids", "name"), "given")])
def test_one_of_two_flags_is_required(given, found):
    with pytest.raises(InputError, match=f"^--input, --uids: are both {found}; wanted one of them: a or b$"):
        check_one_of(given, "input", "uids", "a or b")
    check_one_of({"input": 1, "name": 2}, "input", "uids", "a or b")


@pytest.mark.parametrize("name", ["", "../a", "a/b", "/a", "a/", "ä" * 101])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(InputError, match=r"^--name: is '.*; wanted the start of a file's name: no slash, 200 bytes at most$"):
        check_list_name(name)
    check_list_name("ä" * 100)


def test_what_is_left_out_is_one_line_and_nothing_is_none(capsys):
    say_left_out("desk", "videos", ["a\nb.mov", "c.mp4"], of=7)
    say_left_out("desk", "hidden files", [])
    assert capsys.readouterr().out == "desk: left out, videos (2 of 7): a\\nb.mov, c.mp4\n"
