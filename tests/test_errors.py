"""Errors in user input."""

import pickle
from pathlib import Path

import pytest

from config.errors import InputError, check_file, missing_file


def test_three_parts_make_one_line():
    error = InputError("a.json, view 3,\r\nfx", "is\n  -1", "a number\nabove 0")
    assert str(error) == "a.json, view 3, fx: is -1; wanted a number above 0"
    assert str(InputError(Path("two  blanks.json"), "holds no views", "one")) == "two  blanks.json: holds no views; wanted one"


def test_a_place_goes_around():
    error = InputError("fx", "is -1", "a number above 0").within("view 3").within(Path("a.json"))
    assert str(error) == "a.json, view 3, fx: is -1; wanted a number above 0"


def test_it_arrives_in_another_process_as_it_was():
    error = pickle.loads(pickle.dumps(InputError("a.json", "holds no views", "one or more")))
    assert type(error) is InputError
    assert (error.where, error.found, error.wanted) == ("a.json", "holds no views", "one or more")
    assert str(error) == "a.json: holds no views; wanted one or more"


def test_a_missing_file_is_told_in_the_same_words():
    assert str(missing_file(Path("a.json"), "a scene")) == "a.json: is not there; wanted a scene"


def test_a_name_that_no_disk_takes_is_cut():
    with pytest.raises(InputError, match=r"^x{120}…x{120}: has 5000 letters, more than a file's name; wanted a JSON file$"):
        check_file("x" * 5000, "a JSON file")


def test_a_folder_in_place_of_a_file_is_called_so(tmp_path):
    with pytest.raises(InputError, match=r": is a folder; wanted a JSON file$"):
        check_file(tmp_path, "a JSON file")
    assert str(missing_file(tmp_path, "a scene")) == f"{tmp_path}: is a folder; wanted a scene"
