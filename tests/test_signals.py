"""Signals to a program: one line, its exit status, nothing left behind; in every phase, and however many there are."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import config.signals as signals_module
from config.signals import SIGNALS, Interrupted, held, run_interruptibly
from data.files import replace_when_finished
from tests.support.processes import environment

# Says "at work", then works for a minute; what it has begun takes {cleaning} s to clean up.
PROGRAM = """
import os, sys, time
from pathlib import Path
from config.signals import end_at_once, run_interruptibly
from data.files import replace_when_finished

def work(signals):
    {before}
    with replace_when_finished("result") as temporary:
        try:
            print("at work", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep({cleaning})
    return 0

end_at_once()
{importing}
status = run_interruptibly("x.py", work, "; run again")
{after}
sys.exit(status)
"""
SHOW = "print('at work', flush=True); time.sleep({})"


def start(folder: Path, cleaning: float = 0, before: str = "pass", importing: str = "", after: str = "") -> subprocess.Popen:
    """Start the program, and wait until it is at work."""
    code = PROGRAM.format(cleaning=cleaning, before=before, importing=importing, after=after)
    (folder / "x.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "x.py"], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "at work\n", process.communicate()
    return process


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_its_status_and_nothing_left_behind(tmp_path, number):
    process = start(tmp_path)
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("cleaning\n", "x.py: interrupted; run again\n")
    assert process.returncode == 128 + number
    assert files(tmp_path) == ["x.py"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_ends_at_once_with_one_line(tmp_path, number):
    process = start(tmp_path, importing=SHOW.format(60))
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "x.py: interrupted\n")
    assert process.returncode == 128 + number


@pytest.mark.parametrize("second", SIGNALS)
def test_more_signals_do_not_disturb_the_cleaning_up(tmp_path, second):
    process = start(tmp_path, cleaning=1)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    for _ in range(3):
        process.send_signal(second)
        time.sleep(0.1)
    assert process.communicate(timeout=30) == ("", "x.py: interrupted; run again\n")
    assert process.returncode == 128 + signal.SIGTERM
    assert files(tmp_path) == ["x.py"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_work_changes_nothing(tmp_path, number):
    process = start(tmp_path, before="return 3", after=SHOW.format(0.5))
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(tmp_path, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        process = start(tmp_path)
    finally:
        signal.signal(number, before)
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


def test_a_closed_terminal_does_not_disturb_the_cleaning_up(tmp_path):
    import pty

    (tmp_path / "x.py").write_text(PROGRAM.format(cleaning=0, before="pass", importing="", after=""))
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "x.py"], environment())
    shown = b""
    while b"at work" not in shown:
        shown += os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 128 + signal.SIGHUP
    assert files(tmp_path) == ["x.py"]


def test_only_the_first_of_several_processes_prints_the_line(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run_interruptibly("x.py", lambda _: signal.raise_signal(signal.SIGTERM)) == 143
    assert capsys.readouterr().err == ""


def test_a_signal_that_was_lost_is_raised_again_by_a_later_one(monkeypatch):
    def work(signals):
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # too soon
        monkeypatch.setattr(signals_module, "CLEANING_S", 0)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        return 5

    assert run_interruptibly("x.py", work) == 5


def test_deferred_signals_are_noted_the_first_one_by_its_number():
    def work(signals):
        signals.defer()
        assert not signals.received
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received
        return signals.number

    assert run_interruptibly("x.py", work) == signal.SIGHUP


def test_a_signal_that_is_held_back_is_raised_after_the_block():
    passed = []

    def work(signals):
        with held():
            with held():
                signal.raise_signal(signal.SIGTERM)
            passed.append("inside")
        passed.append("after")
        return 0

    assert run_interruptibly("x.py", work) == 143
    assert passed == ["inside"]


def test_handlers_are_put_back_also_by_a_program_inside_another():
    before = [signal.getsignal(number) for number in SIGNALS]
    assert run_interruptibly("outer.py", lambda _: run_interruptibly("inner.py", lambda _: 0)) == 0
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_program_may_run_in_another_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(run_interruptibly("x.py", lambda _: 4)))
    thread.start()
    thread.join()
    assert results == [4]


def test_a_signal_while_a_temporary_file_is_made_leaves_none(tmp_path, monkeypatch):
    mkstemp = tempfile.mkstemp

    def made(**words):
        found = mkstemp(**words)
        signal.raise_signal(signal.SIGTERM)
        return found

    monkeypatch.setattr("data.files.tempfile.mkstemp", made)

    def work(signals):
        with replace_when_finished(tmp_path / "a.png"):
            raise AssertionError("not reached")

    assert run_interruptibly("x.py", work) == 143
    assert files(tmp_path) == []
