"""Files that appear whole or not at all: full disks, long names, what they may replace, leftovers of killed processes."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from config.errors import InputError
from data.files import check_output, check_output_folder, replace_when_finished, write_json, write_text
from data.output.video import VideoWriter
from model.weights.file import read_tensors, read_weights, save_tensors

ROOT = Path(__file__).parent.parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes, locks, devices")

WRITERS = """
import os
import resource
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from data.files import remove_leftovers, replace_when_finished, write_json
from data.output.curves import draw_curves
from data.output.html_report import write_html
from data.output.metrics import SCORES
from data.output.tables import write_tables
from data.output.video import VideoWriter
from data_preprocess.capture.stored_image import write_png
from model.scene_state import SceneState
from model.weights.file import save_tensors

def save_state(name):
    SceneState([{"w0": torch.zeros(9000)}], torch.ones(1, 1, 4), torch.ones(1, 1, 4, 4), (8, 8), "").save(name)

noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)

def video(name):
    with VideoWriter(name) as writer:
        for _ in range(8):
            writer.write(noise)

def torch_save(name):
    with replace_when_finished(name) as temporary:
        torch.save({"x": torch.zeros(9000)}, temporary)

rows = [{"scene": "s", "inputs": 2, "view": i, **dict.fromkeys(SCORES, 1.0)} for i in range(200)]
writers = {
    "list.json": lambda name: write_json(name, ["x" * 90] * 90),
    "step.pt": torch_save,
    "w.safetensors": lambda name: save_tensors({"x": torch.zeros(9000)}, name, {}),
    "state.safetensors": save_state,
    "photo.png": lambda name: write_png(name, noise),
    "video.mp4": video,
    "video.gif": video,
    "curves.png": lambda name: draw_curves(name, [{"step": i, "loss": i + 1.0} for i in range(99)]),
    "metrics.json": lambda name: write_tables(".", rows, {}, {}, False, "w"),
    "report.html": lambda name: write_html(name, [], {}, [], []),
}
"""
LIMITED = """
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for name, write in writers.items():
    Path(name).write_text("old")
    try:
        write(name)
    except OSError as error:
        print(error)
    else:
        print(name, "was written")
    assert Path(name).read_text() == "old", name
assert not list(Path().glob(".*")), list(Path().glob(".*"))
"""
BESIDE_ANOTHER = """
synchronise, seen = os.fsync, set()

def after_another_has_cleaned(handle):
    seen.update(path.name for path in Path().glob(".*"))
    remove_leftovers.__wrapped__(Path().absolute())
    synchronise(handle)

os.fsync = after_another_has_cleaned
for name, write in writers.items():
    seen.clear()
    write(name)
    assert seen, name
    assert all(".tmp." in word for word in seen), seen
    assert sorted(word for word in os.listdir() if word.startswith(".")) == [], name
    assert Path(name).is_file(), name
"""


@linux_only
def test_every_writer_names_its_file_where_the_disk_takes_no_more(tmp_path):
    found = run(WRITERS + LIMITED, tmp_path)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 10
    for line in lines:
        name, _, rest = line.partition(": ")
        assert (tmp_path / name).is_file(), line
        assert rest == "cannot be written (File too large); wanted a disk and a limit of file sizes (ulimit -f) that allow it"


@linux_only
def test_a_file_that_is_being_written_is_no_leftover_to_another_process(tmp_path):
    found = run(WRITERS + BESIDE_ANOTHER, tmp_path)
    assert found.returncode == 0, found.stderr


def run(script: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment(), capture_output=True, text=True)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "写" * 81 + ".png", "n" * 255, "n." + "s" * 253, "." + "n" * 254])
def test_names_as_long_as_the_disk_takes(tmp_path, name):
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_is_refused_before_anything_is_written(tmp_path):
    with (
        pytest.raises(OSError, match=r"File name too long: .*/n{252}\.png"),
        replace_when_finished(tmp_path / ("n" * 252 + ".png")),
    ):
        pytest.fail("the block ran")


def test_the_suffix_by_which_encoders_choose_stays(tmp_path):
    with replace_when_finished(tmp_path / "写.png") as temporary:
        Image.new("RGB", (2, 3)).save(temporary)
    with Image.open(tmp_path / "写.png") as image:
        assert image.format == "PNG"


@linux_only
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link to a device", "folder"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = Path("there.json")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "link to a device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    before = os.lstat(path).st_mode
    with pytest.raises(InputError, match="is a folder" if kind == "folder" else "is not a regular file"):
        write_json(path, [])
    assert os.lstat(path).st_mode == before
    assert not list(tmp_path.glob(".*"))


@linux_only
@pytest.mark.parametrize("path", ["/dev/x.json", "/proc/self/fd/1", "/sys/x.json"])
def test_folders_of_the_system_take_no_files(path):
    with pytest.raises(InputError, match=r"folder of the system|not a regular file"):
        check_output(path)


@linux_only
def test_folders_for_files_are_checked_and_not_made(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "new" / "deep"):
        check_output_folder(path)
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(InputError, match="file: is not a folder; wanted a folder, or none yet"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        check_output_folder(tmp_path / "file" / "x")
    with pytest.raises(InputError, match="/proc/x: is in a folder of the system; wanted a place on a disk"):
        check_output_folder("/proc/x")


def test_a_link_to_a_file_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    write_text(tmp_path / "link", "new")
    assert ((tmp_path / "kept").read_text(), (tmp_path / "link").read_text()) == ("kept", "new")
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    "error", [ValueError("bug"), RuntimeError("bug"), InputError("a", "is b", "c"), FileNotFoundError("d: is e")]
)
def test_errors_of_anything_else_pass(tmp_path, error):
    with pytest.raises(type(error)) as caught, replace_when_finished(tmp_path / "x"):
        raise error
    assert caught.value is error


def test_an_error_about_another_file_names_that(tmp_path):
    with pytest.raises(FileNotFoundError, match="source"), replace_when_finished(tmp_path / "x"):
        (tmp_path / "source").read_bytes()
    assert not list(tmp_path.iterdir())


WRITING = textwrap.dedent("""
    import sys, time
    from data.files import replace_when_finished
    with replace_when_finished(sys.argv[1]) as temporary:
        temporary.write_text("half")
        print(temporary, flush=True)
        time.sleep(60)
""")


@linux_only
def test_leftovers_of_killed_processes_are_deleted_and_no_file_of_a_living_one(tmp_path):
    def begin(name: str) -> tuple[subprocess.Popen, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(tmp_path / name)], env=environment(), stdout=subprocess.PIPE, text=True
        )
        return process, Path(process.stdout.readline().strip())

    (dead, left), (living, kept) = begin("video.mp4"), begin("00000.png")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.exists()
        (tmp_path / ".own.tmp").touch()
        write_text(tmp_path / "metrics.json", "[]")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([kept.name, ".own.tmp", "metrics.json"])
    finally:
        for process in (dead, living):
            process.kill()
            process.wait()
            process.stdout.close()


def test_bytes_in_names_that_are_not_utf_8_are_written_as_they_are(tmp_path):
    write_text(tmp_path / "x", "a\udcffb")
    assert (tmp_path / "x").read_bytes() == b"a\xffb"


@linux_only
def test_names_that_are_not_utf_8_are_written_and_read(tmp_path):
    name = os.fsdecode("写".encode() + b"\xff")
    save_tensors({"x": torch.arange(3.0)}, tmp_path / f"{name}.safetensors", {"kind": "test"})
    with replace_when_finished(tmp_path / f"{name}.pt") as temporary:
        torch.save({"x": torch.arange(3.0)}, temporary)
    assert read_tensors(tmp_path / f"{name}.safetensors", "")[1] == {"kind": "test"}
    for suffix in ("safetensors", "pt"):
        assert read_weights(tmp_path / f"{name}.{suffix}")["x"].tolist() == [0.0, 1.0, 2.0]
    with VideoWriter(tmp_path / f"{name}.mp4") as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
    assert len(list(tmp_path.iterdir())) == 3
