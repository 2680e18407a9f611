"""Training log: rows, lines, curves, TensorBoard and Weights & Biases."""

import errno
import json
import math
import sys
import types

import pytest
import torch
from PIL import Image

from config.errors import InputError
from data.output.curves import draw_curves, series, ticks
from model.parallel.processes import Processes
from model.training.flops import Workload
from model.training.log import TrainingLog, Window, format_line, format_seconds, read_rows
from model.training.services import open_tensorboard, start_wandb

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def log(folder, step: int = 0) -> TrainingLog:
    return TrainingLog(folder, step, 100, None, {})


def test_rows_are_json_lines_and_a_line_of_text(tmp_path, capsys):
    found = log(tmp_path)
    found.write({"step": 10, "loss": 0.125, "psnr": math.inf, "gradient_norm": math.nan, "skips": 0})
    found.write({"step": 20, "val_psnr": 21.5})
    found.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == [{"step": 10, "loss": 0.125, "psnr": None, "gradient_norm": None, "skips": 0}, {"step": 20, "val_psnr": 21.5}]
    assert capsys.readouterr().out == "step 10/100 · loss 0.12500 · psnr - · norm -\nstep 20/100 · val psnr 21.50\n"


def test_resumed_log_drops_what_came_after_the_snapshot(tmp_path):
    first = log(tmp_path)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    second = log(tmp_path, step=20)
    second.write({"step": 30, "loss": 2.0})
    second.close()
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path / "log.jsonl")] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_damage_before_the_last_line_is_an_error(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"log.jsonl, line 2: is not JSON; wanted a row of a training log"):
        log(tmp_path, step=9)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"7", r"line 2: is 7; wanted a row of a training log: an object with the number of its step"),
        (b"{}", r"line 2: is {}; wanted a row"),
        (b'{"step": 1.5}', r"line 2: is {'step': 1.5}; wanted a row"),
        (b'{"step": true}', r"line 2: is {'step': True}; wanted a row"),
        (b'{"step": 2, "loss": "low"}', r"line 2, loss: is 'low'; wanted a number"),
        (b'{"step": 2, "loss": ' + b"9" * 400 + b"}", r"line 2, loss: is 9{40}.*; wanted a number"),
        (b"\xff", r"line 2: is not JSON"),
        (b"[" * 100_000, r"line 2: is not JSON"),
    ],
)
def test_rows_of_something_else_are_refused(tmp_path, row, message):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + row + b'\n{"step": 3}\n')
    with pytest.raises(InputError, match=rf"log.jsonl, {message}"):
        log(tmp_path, step=9)


def test_figures_that_are_not_finite_are_read_as_missing(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": NaN, "psnr": -Infinity, "lr": 1e308}\n\n')
    assert read_rows(tmp_path / "log.jsonl") == [{"step": 1, "loss": None, "psnr": None, "lr": 1e308}]


def test_line_of_all_figures():
    row = {
        "step": 5,
        "loss": 0.5,
        "lpips": 0.25,
        "psnr": 10.0,
        "lr": 4e-4,
        "gradient_norm": 0.5,
        "skips": 3,
        "broken": 0,
        "samples_per_s": 2.0,
        "tokens_per_s": 12345.0,
        "flops_share": 0.456,
        "data_wait": 0.012,
        "memory_gib": 1.5,
        "seconds_left": 3700.0,
    }
    assert format_line(row, 9) == (
        "step 5/9 · loss 0.50000 · lpips 0.2500 · psnr 10.00 · lr 4.00e-04 · norm 0.500 · skipped 3 · samples/s 2.00 · "
        "tokens/s 1.23e+04 · flops 45.6% · data wait 1.2% · GiB 1.50 · left 1h01m"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (184, "3m04s"), (7380, "2h03m"), (93600, "1d02h"), (86399.9, "1d00h")]
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_window_means_omit_skipped_steps():
    window = Window(ALONE, Workload(scenes=6, tokens=10, flops=100, rate=900.0))
    for loss, skipped in ((0.01, 0.0), (math.nan, 1.0), (0.03, 0.0)):
        window.add({"loss": torch.tensor(loss), "psnr": torch.tensor(100 * loss)}, torch.tensor(skipped))
    with window.waiting():
        window.waited_s += 0.0
    window.start_s -= 2.0
    window.waited_s = 0.5
    row = window.row(broken=4)
    assert row["loss"] == pytest.approx(0.02)
    assert row["psnr"] == pytest.approx(2.0)  # a mean of PSNRs, as in validation
    # Three steps of 2 × 3 scenes in two seconds.
    assert row["samples_per_s"] == pytest.approx(9, rel=0.05)
    assert row["tokens_per_s"] == pytest.approx(90, rel=0.05)
    assert row["flops_share"] == pytest.approx(1.0, rel=0.05)
    assert row["data_wait"] == pytest.approx(0.25, rel=0.05)
    assert row["seconds_per_step"] == pytest.approx(2 / 3, rel=0.05)
    assert row["broken"] == 4
    assert row["memory_gib"] > 0.05  # torch alone is larger
    window.add({"loss": torch.tensor(math.nan)}, torch.tensor(1.0))
    assert window.row(broken=0)["loss"] is None


def test_window_restarts_after_a_row_and_stops_while_it_is_paused(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(
        "model.training.log.time", types.SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0])
    )
    window = Window(ALONE, Workload(1, 1, 1, 1.0))
    window.add({"loss": torch.tensor(4.0)}, torch.tensor(0.0))
    clock[0] += 2
    assert window.row(broken=0)["loss"] == 4
    window.add({"loss": torch.tensor(2.0)}, torch.tensor(0.0))
    clock[0] += 3
    with window.paused():
        clock[0] += 50
    clock[0] += 1
    row = window.row(broken=0)
    assert (row["loss"], row["seconds_per_step"], row["cpu_seconds_per_step"]) == (2, 4, 4)


def test_window_measures_waiting():
    window = Window(ALONE, Workload(1, 1, 1, 1.0))
    with window.waiting():
        torch.randn(300, 300) @ torch.randn(300, 300)
    assert 0 < window.waited_s < 5


def test_tensorboard_gets_the_same_figures(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    found = log(tmp_path, step=7)
    found.write({"step": 10, "loss": 0.5, "psnr": math.inf})
    found.close()
    assert written == [(str(tmp_path / "events"), 8), ("loss", 0.5, 10), "closed"]


def test_tensorboard_is_optional(tmp_path):
    assert open_tensorboard(tmp_path, 0) is None


def test_wandb_gets_the_same_figures(tmp_path, monkeypatch):
    written = []

    class Run:
        def log(self, values, step):
            written.append((values, step))

        def finish(self):
            written.append("finished")

    def init(**settings):
        written.append(settings)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))

    def run(folder, step: int) -> dict:
        written.clear()
        found = TrainingLog(folder, step, 100, "views", {"lr": 1.0})
        found.write({"step": step + 10, "loss": 0.5})
        found.close()
        assert written[1:] == [({"loss": 0.5}, step + 10), "finished"]
        return written[0]

    first = run(tmp_path / "a" / "default", 0)
    assert first.pop("id")
    assert first == {
        "project": "views", "name": "default", "resume": "allow", "dir": tmp_path / "a" / "default", "config": {"lr": 1.0}
    }  # fmt: skip
    # A resumed run continues the same W&B run; runs of the same name elsewhere, or started again, do not.
    begun = (tmp_path / "a" / "default" / "wandb_id").read_text()
    assert run(tmp_path / "a" / "default", 10)["id"] == begun
    assert len({begun, run(tmp_path / "b" / "default", 0)["id"], run(tmp_path / "a" / "default", 0)["id"]}) == 3


def test_wandb_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"--wandb: needs wandb, which is not installed; wanted pip install wandb, or no --wandb"):
        start_wandb("views", tmp_path, 0, {})


def failing(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_told_is_said_once_and_ends_nothing(tmp_path, monkeypatch, capsys):
    class Service:
        log = finish = add_scalar = close = failing

    init = types.SimpleNamespace(init=lambda **_: Service())
    monkeypatch.setitem(sys.modules, "wandb", init)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=lambda *_, **__: Service()))
    found = TrainingLog(tmp_path, 0, 100, "views", {})
    monkeypatch.setattr("model.training.log.draw_curves", failing)
    monkeypatch.setattr("model.training.log.print_above_bar", failing)
    monkeypatch.setattr(found._bar, "update", failing)
    for step in (2, 4):
        found.write({"step": step, "loss": 0.5})
        found.advance(step)
        found.attempt("pictures", failing)
    found.close()
    assert [row["step"] for row in read_rows(tmp_path / "log.jsonl")] == [2, 4]
    lines = capsys.readouterr().err.splitlines()
    parts = ["lines on standard output", "TensorBoard", "Weights & Biases", "the progress bar", "pictures", "curves"]
    said = [line for line in lines if "goes on without" in line]
    assert [line.partition(" goes on without ")[2].partition(" (")[0] for line in said] == parts
    assert all("No space left on device" in line for line in said)


@pytest.mark.parametrize("broken", ["wandb", "tensorboard"])
def test_services_that_do_not_start_are_left_out(tmp_path, monkeypatch, capsys, broken):
    def start(*_, **__):
        raise RuntimeError("no account")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=start))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=start))
    found = TrainingLog(tmp_path, 0, 100, "views" if broken == "wandb" else None, {})
    found.write({"step": 2, "loss": 0.5})
    found.close()
    name = "Weights & Biases" if broken == "wandb" else "TensorBoard"
    assert f"{tmp_path}: goes on without {name} (no account)\n" in capsys.readouterr().err


def test_the_log_is_whole_again_once_its_disk_has_room(tmp_path, monkeypatch, capsys):
    found = log(tmp_path)
    found.write({"step": 2, "loss": 0.5})
    file, start = found._file, found._start_file

    class Full:
        def write(self, text):
            file.write(text[:9])  # half a row

        def flush(self):
            file.flush()
            failing()

        def close(self):
            file.close()

    found._file = Full()
    found.write({"step": 4, "loss": 0.4})
    monkeypatch.setattr(found, "_start_file", failing)
    found.write({"step": 6, "loss": 0.3})
    monkeypatch.setattr(found, "_start_file", start)
    for step in (8, 10):
        found.write({"step": step, "loss": 0.2})
    found.close()
    assert [row["step"] for row in read_rows(tmp_path / "log.jsonl")] == [2, 4, 6, 8, 10]
    said = f"{tmp_path}: goes on without rows of the log ({tmp_path}/log.jsonl: cannot be written (No space left on device); wanted"
    assert capsys.readouterr().err.count(said) == 1


def coloured(image: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return (x, y) of the pixels of a colour."""
    w, h = image.size
    return [(x, y) for y in range(h) for x in range(w) if image.getpixel((x, y)) == colour]


def test_curves_show_what_was_logged(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "psnr": 10 + step / 10} for step in range(10, 101, 10)]
    rows += [{"step": 50, "val_psnr": 14.0}, {"step": 100, "val_psnr": 12.0}, {"step": 60, "loss": None}]
    draw_curves(tmp_path / "curves.png", rows)
    image = Image.open(tmp_path / "curves.png").convert("RGB")
    train = [(x, y) for x, y in coloured(image, (0x3B, 0x6E, 0xA8)) if y > 40]
    upper = [(x, y) for x, y in train if y < 480]
    lower = [(x, y) for x, y in train if y > 520]
    # Loss falls to the right, PSNR rises: in pixels, y grows and shrinks.
    assert min(upper)[1] < max(upper)[1]
    assert min(lower)[1] > max(lower)[1]
    validation = [(x, y) for x, y in coloured(image, (0xC2, 0x50, 0x2E)) if y > 520]
    assert min(x for x, _ in validation) > min(x for x, _ in lower) + 200  # begins at step 50 of 10..100
    assert min(validation)[1] < max(validation)[1]


@pytest.mark.parametrize("row", [{}, {"val_psnr": 20.0}, {"loss": 0.5, "psnr": 3.0}, {"loss": 0.0}])
def test_curves_of_nearly_nothing(tmp_path, row):
    draw_curves(tmp_path / "curves.png", [{"step": 3, **row}] if row else [])
    assert Image.open(tmp_path / "curves.png").size == (960, 960)


def test_series_leave_gaps_out():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": None}, {"step": 4, "loss": 0.0}]
    assert series(rows, "loss") == [(1, 2.0), (4, 0.0)]


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (0.31, 0.99, False, [0.4, 0.6, 0.8]),
        (-7, 18, False, [-5, 0, 5, 10, 15]),
        (0.03, 4, True, [0.05, 0.1, 0.2, 0.5, 1, 2]),
        (0.21, 0.4, True, [0.21]),
    ],
)
def test_ticks_are_round(low, high, log, expected):
    assert ticks(low, high, log) == pytest.approx(expected)
