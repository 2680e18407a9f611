"""Wording of messages: in one line, with numbers and nouns that agree, and lists of names that stay short."""

import pytest

from config.messages import (
    MOST_NAMES,
    counted,
    is_file_path,
    is_plain,
    left_out,
    one_line,
    shown,
    shown_key,
    some,
    speaks_for_machine,
    with_article,
    with_type,
)


def test_an_error_without_a_message_is_reported_by_its_type():
    assert (one_line(ValueError(" a\n b ")), one_line(EOFError())) == ("a b", "EOFError")
    assert (with_type(ValueError(" a\n b ")), with_type(EOFError())) == ("ValueError: a b", "EOFError")
    assert with_type(ValueError("abcd"), most=2) == "ValueError: ab"


def test_articles_numbers_and_nouns_agree():
    assert [with_article(kind) for kind in (dict, int, type(None))] == ["a dict", "an int", "nothing"]
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]


@pytest.mark.parametrize("text", ["4.42\u202fPM", "\u3000", "a\u00a0b", "👩\u200d🚀", "e\u0301", "\u200fright", "line\u2028"])
def test_text_of_any_language_is_plain(text):
    assert is_plain(text)
    assert some([text]) == text


@pytest.mark.parametrize(("text", "escaped"), [("a\nb", "a\\nb"), ("\7", "\\x07"), ("\udce9t", "\\udce9t")])
def test_control_characters_and_undecodable_bytes_are_not(text, escaped):
    assert not is_plain(text)
    assert some([text]) == escaped


def test_names_of_files_have_255_bytes_at_most():
    assert all(map(is_file_path, ("a/b.png", "/", "ä" * 127, "x" * 255 + "/" + "y" * 255)))
    assert not any(map(is_file_path, ("x" * 256, "a/" + "ä" * 128, "a\0b", "\ud800")))


def test_many_names_are_counted():
    names = [str(i) for i in range(MOST_NAMES + 5)]
    assert some(names).endswith("18, 19 and 5 more")
    assert some(names, 2) == "0, 1 and 23 more"
    assert left_out("frames", names[:2]) == "left out, frames (2): 0, 1"
    assert left_out("frames", names, of=99, most=1) == "left out, frames (25 of 99): 0 and 24 more"


def test_values_are_shown_in_bounded_time_and_length():
    bomb: list = ["x"]
    for _ in range(30):
        bomb = [bomb] * 10
    assert shown(bomb).startswith("[[[[...], [...]")
    assert len(shown(bomb)) == 61
    assert shown(1 << 70_000) == "<a whole number of 70001 bits>"  # Python refuses to write it
    assert (shown("a" * 99, 5), shown({"a": 1.5}), shown(True)) == ("'aaaa…", "{'a': 1.5}", "True")
    assert (shown_key("a" * 99, 5), shown_key("a b"), shown_key(1)) == ("aaaaa…", "a b", "1")


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [
        ({}, True),
        ({"RANK": "3", "LOCAL_RANK": "0"}, True),  # torchrun, the first process of the second machine
        ({"RANK": "3", "LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, False),  # torchrun in a task of srun
        ({"RANK": "1", "LOCAL_RANK": "0", "SLURM_LOCALID": "1"}, False),  # srun --gpus-per-task: each task sees one GPU, its first
    ],
)
def test_one_process_of_each_machine_says_what_all_would(monkeypatch, variables, speaks):
    for name in ("RANK", "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert speaks_for_machine() == speaks
