"""inference.py as a program: stopped by a scheduler, and in two processes."""

import json
import re
import subprocess
import sys
import time

import pytest

import inference
from config.errors import InputError
from config.lock import lock_folder
from config.signals import SIGNALS
from data.scene_format import read_json
from tests.support.inference_run import BARS, command, files, metrics, told
from tests.support.processes import environment, run_processes


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_middle_of_a_video_is_one_line_and_leaves_the_old_one(place, tmp_path, number):
    (tmp_path / "scene_0").mkdir()
    (tmp_path / "scene_0" / "video.mp4").write_bytes(b"old")
    words = command(place, tmp_path, place / "scene_0" / "opencv_cameras.json", "--video_frames", "1000000")
    shown = tmp_path / "shown.txt"
    with shown.open("w") as file:
        process = subprocess.Popen([sys.executable, *words], env=environment(**BARS), stderr=file)
    try:
        deadline = time.monotonic() + 60
        while not re.search(r"video:.* \d\d+/1000000", shown.read_text()):
            assert process.poll() is None, shown.read_text()
            assert time.monotonic() < deadline, shown.read_text()
            time.sleep(0.05)
        assert len(list((tmp_path / "scene_0").glob(".video.*.mp4"))) == 1
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    finally:
        process.kill()
    assert told(shown.read_text()) == ["inference.py: interrupted"]
    assert files(tmp_path) == ["scene_0/comparison.png", "scene_0/video.mp4", "shown.txt"]
    assert (tmp_path / "scene_0" / "video.mp4").read_bytes() == b"old"


@pytest.mark.slow
def test_a_folder_that_another_run_writes_to_is_refused(place, tmp_path):
    with lock_folder(tmp_path, "--output_dir"):
        words = command(place, tmp_path, place / "scene_0" / "opencv_cameras.json", "--video_format", "none")
        done = subprocess.run([sys.executable, *words], env=environment(**BARS), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = told(done.stderr)
    assert re.fullmatch(
        rf"inference.py: {tmp_path}: is in use by process \d+ on \S+; wanted it to end, or another --output_dir", line
    )
    assert files(tmp_path) == []


# A signal to process 1 alone, before its second scene.
ALONE = """
import os, signal, sys, inference

render_scene, scenes = inference.render_scene, []

def counted(*words):
    scenes.append(words)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return render_scene(*words)

inference.render_scene = counted
sys.exit(inference.main({argv!r}) and 1)
"""


@pytest.mark.slow
def test_a_process_that_is_left_alone_says_so_in_one_line(place, tmp_path):
    argv = command(place, tmp_path / "out", place / "test_data_path.json", "--video_format", "none")[1:]
    errors = run_processes(2, ["-c", ALONE.format(argv=argv)], tmp_path, status=1, **BARS)
    (line,) = [line for error in errors for line in told(error)]
    assert line.startswith("inference.py: other processes of the run: have ended (")


@pytest.mark.slow
def test_torchrun_shares_the_scenes_and_writes_one_table(infer, place, tmp_path):
    alone = metrics(infer("--num_input_views 3 --no_lpips --video_frames 2", "alone"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = ["--video_frames", "2", "--newton_schulz_dtype", "float32"]
    words = command(place, tmp_path / "two", place / "test_data_path.json", *flags)
    done = subprocess.run([*launch, *words], env=environment(**BARS), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == files(tmp_path / "alone")
    found = metrics(tmp_path / "two")
    for one, two in zip(alone["views"], found["views"], strict=True):
        assert two == {**one, "psnr": pytest.approx(one["psnr"], abs=1e-3), "ssim": pytest.approx(one["ssim"], abs=1e-4)}
    first_words = [line.split()[0] for line in done.stdout.splitlines()]
    assert first_words == ["scene", "scene_0", "scene_1", "scene_2", "mean", "LPIPS", "3", "commit", "results"]
    # Progress bars, with rate and remaining time, and nothing else.
    assert told(done.stderr) == []
    for name in ("scenes:  67%", "reconstruct: 100%", "evaluate: 100%", "video: 100%"):
        assert name in done.stderr
    assert re.search(r"reconstruct:.*<.*layer/s", done.stderr)


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_ends_both_and_is_told_once(bad_place, place, tmp_path):
    words = command(place, tmp_path, bad_place / "test_data_path.json", "--video_format", "none")
    errors = run_processes(2, words, tmp_path, status=2, **BARS)
    (line,) = [line for error in errors for line in told(error)]
    assert re.match(r"inference.py: .*scene_1/images/00003.png: cannot be decoded", line)
    # Scene 0 was the other process's, and is finished; the report would have been of all.
    assert files(tmp_path) == ["scene_0/comparison.png"]


# LPIPS's files are missing for one of the processes.
HALF_LPIPS = """
import os, sys, inference
from model.metric import psnr

def choose(*given):
    if int(os.environ["RANK"]) == {lacking}:
        return {{"psnr": psnr, "ssim": psnr}}, {{"lpips": "vgg16.pth: is not there"}}
    return {{"psnr": psnr, "ssim": psnr, "lpips": psnr}}, {{}}

inference.choose_metrics = choose
sys.exit(inference.main({argv!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("lacking", "reason"), [(0, "vgg16.pth: is not there"), (1, "its weights are missing on another process")])
def test_all_processes_measure_by_the_same_metrics(place, tmp_path, lacking, reason):
    argv = command(place, tmp_path / "out", place / "test_data_path.json", "--video_format", "none")[1:]
    argv.remove("--no_lpips")
    run_processes(2, ["-c", HALF_LPIPS.format(lacking=lacking, argv=argv)], tmp_path)
    found = metrics(tmp_path / "out")
    assert {row["lpips"] for row in found["views"]} == {None}
    assert found["about"]["not_computed"] == {"lpips": reason}


class TwoProcesses:
    """Stands in for `Processes` on one of two processes, where the other has failed."""

    def __init__(self, first: bool) -> None:
        self.first = first

    def highest(self, number: int) -> int:
        return 1

    def gather(self, value: Exception | None) -> list[Exception | None] | None:
        return [value, InputError("b.json", "is bad", "a good one")] if self.first else None


def test_processes_stop_together_and_the_first_reports():
    with pytest.raises(InputError, match=r"^b.json: is bad; wanted a good one$"), inference.together(TwoProcesses(first=True)):
        pass
    with pytest.raises(FileNotFoundError, match=r"^a.json: is not there"), inference.together(TwoProcesses(first=True)):
        read_json("a.json")
    # A fault of the program.
    with pytest.raises(json.JSONDecodeError, match=r"^Expecting value: "), inference.together(TwoProcesses(first=True)):
        json.loads("x")
    with pytest.raises(SystemExit) as stopped, inference.together(TwoProcesses(first=False)):
        pass
    assert stopped.value.code == 2
