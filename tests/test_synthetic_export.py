"""Export of procedural data to the unified format. Letters: h w pixels."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from config.signals import SIGNALS
from data.dataset import SceneDataset
from data.scene_list import read_data_path
from data.synthetic import synthetic_batch
from data_preprocess import synthetic_export
from data_preprocess.synthetic_export import main
from tests.support.scenes import contents

SIZE = ("--image_size", "24", "40")


def export(*flags: str) -> None:
    assert main(list(flags)) == 0


def test_objects_are_what_the_generator_makes_on_white(tmp_path):
    export("--kind", "objects", "--count", "2", "--seed", "9", "--first_index", "4", "--num_views", "3", *SIZE,
           "--output", str(tmp_path))  # fmt: skip
    dataset = SceneDataset(tmp_path / "objects_data_path.json", (24, 40))
    expected = synthetic_batch("objects", 9, [4, 5], 3, (24, 40), samples=16)
    for i in range(2):
        scene = dataset[i]
        assert scene.name == f"objects_9_{4 + i:06d}"
        loaded = dataset.load(scene, range(3))
        # Rounding of colour and of alpha, half a step each at most, and of both composited on white, a whole step. A batch may
        # round a ray at a border to its other side.
        assert ((loaded["image"] - expected["image"][i]).abs() > 2 / 255).float().mean() < 2e-3
        assert torch.allclose(loaded["c2w"], expected["c2w"][i], atol=1e-6)
        assert torch.allclose(loaded["fxfycxcy"], expected["fxfycxcy"][i])
    with Image.open(tmp_path / "objects_9_000004" / "images" / "00000.png") as image:
        assert image.mode == "RGBA"
        alpha = np.asarray(image)[..., 3] / 255
    assert np.abs(alpha - expected["alpha"][0, 0, 0].numpy()).max() < 1 / 255


def test_scenes_are_written_without_alpha(tmp_path, capsys):
    export("--kind", "scenes", "--num_views", "2", *SIZE, "--output", str(tmp_path), "--name", "walk")
    assert capsys.readouterr().out == f"1 scene in {tmp_path / 'walk_data_path.json'}\n"
    assert len(read_data_path(tmp_path / "walk_data_path.json")) == 1
    with Image.open(tmp_path / "scenes_0_000000" / "images" / "00001.png") as image:
        assert (image.mode, image.size) == ("RGB", (40, 24))


@pytest.mark.slow
def test_repeating_gives_the_same_bytes_and_workers_do_not_matter(tmp_path):
    flags = ["--kind", "objects", "--count", "2", "--num_views", "2", *SIZE, "--layout", "rings"]
    export(*flags, "--output", str(tmp_path / "a"))
    export(*flags, "--output", str(tmp_path / "b"), "--workers", "2")
    assert len(contents(tmp_path / "a")) == 7
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_finished_stays_and_what_is_missing_is_made_again(tmp_path):
    flags = ["--kind", "objects", "--count", "2", "--num_views", "2", *SIZE, "--output", str(tmp_path)]
    export(*flags)
    before = contents(tmp_path)
    kept = tmp_path / "objects_0_000000" / "images" / "00001.png"
    Image.new("RGBA", (40, 24)).save(kept)
    (tmp_path / "objects_0_000001" / "images" / "00000.png").unlink()
    export(*flags)
    after = contents(tmp_path)
    assert after.pop(kept.relative_to(tmp_path)) != before.pop(kept.relative_to(tmp_path))
    assert after == before


def test_an_interrupted_export_is_continued_and_ends_in_the_same_bytes(tmp_path, capsys, monkeypatch):
    flags = ["--kind", "objects", "--count", "2", "--num_views", "3", *SIZE, "--output"]
    export(*flags, str(tmp_path / "whole"))
    left = 4

    def render(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return synthetic_render(*arguments)

    synthetic_render = synthetic_export.render
    monkeypatch.setattr(synthetic_export, "render", render)
    assert main([*flags, str(tmp_path / "cut")]) == 130
    assert capsys.readouterr().err.endswith("synthetic_export.py: interrupted; run again to complete\n")
    assert sorted(path.name for path in (tmp_path / "cut" / "objects_0_000001").iterdir()) == [".unfinished", "images"]
    # Two pictures are left: no more are rendered.
    left = 2
    export(*flags, str(tmp_path / "cut"))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_other_flags_do_not_pass_for_the_same_scene(tmp_path, capsys):
    flags = ["--kind", "objects", "--output", str(tmp_path)]
    export(*flags, *SIZE, "--num_views", "2")
    # The last one in a worker process, whose error is passed on.
    for other in ([*SIZE, "--num_views", "3"], ["--image_size", "24", "32"], [*SIZE, "--num_views", "3", "--workers", "1"]):
        capsys.readouterr()
        assert main([*flags, "--num_views", "2", *other]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(
            f"synthetic_export.py: {tmp_path / 'objects_0_000000' / 'opencv_cameras.json'}: holds other cameras than"
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], "--count: is 0; wanted 1 to 1000000"),
        (["--count", "9" * 25], f"--count: is {'9' * 25}; wanted 1 to 1000000"),
        (["--first_index", "-1"], "--first_index: is -1; wanted 0 or more"),
        (["--indices", "3", "-1"], "--indices: is 3 -1; wanted 0 or more"),
        (["--indices", "7", "2", "7"], "--indices: is 7 2 7; wanted each index once"),
        (["--indices", "7", "--count", "2"], "--indices: is given with --count or --first_index; wanted one or the other"),
        (["--indices", "7", "--first_index", "2"], "--indices: is given with --count or --first_index; wanted one or the other"),
        (["--workers", "-1"], "--workers: is -1; wanted 0 to 1024"),
        (["--workers", "99999999"], "--workers: is 99999999; wanted 0 to 1024"),
        (["--num_views", "0"], "--num_views: is 0; wanted 1 to 100000"),
        (["--num_views", "9" * 25], f"--num_views: is {'9' * 25}; wanted 1 to 100000"),
        (["--seed", "-2"], "--seed: is -2; wanted 0 or more"),
        (["--image_size", "8", "0"], "--image_size: is 8 0; wanted 1 to 8192"),
        (["--image_size", "10000000000", "8"], "--image_size: is 10000000000 8; wanted 1 to 8192"),
        (["--samples", "12"], "--samples: is 12; wanted a power of two"),
        (["--samples", "0"], "--samples: is 0; wanted 1 to 4096"),
        (["--samples", str(1 << 65)], f"--samples: is {1 << 65}; wanted 1 to 4096"),
        (["--name", ""], "--name: is ''; wanted the start of a file's name: no slash, 200 bytes at most"),
        (["--name", "walks/long"], "--name: is 'walks/long'; wanted the start of a file's name: no slash, 200 bytes at most"),
        (["--name", "ä" * 101], "--name: is 'äää"),
        (["--kind", "scenes", "--layout", "rings"], "--layout: has no effect with --kind scenes; wanted it left out"),
        (["--kind", "cats"], "--kind: cannot be read (invalid choice: 'cats' (choose from"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(tmp_path, capsys, flags, message):
    assert main(["--kind", "objects", "--output", str(tmp_path / "out"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"synthetic_export.py: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "", "meta", "mps", "xla", "xpu", "hip"])
def test_an_unavailable_device_is_one_line(tmp_path, capsys, device):
    assert main(["--kind", "objects", "--output", str(tmp_path / "out"), "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"synthetic_export.py: device: is {device!r}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nowhere", "x" * 300])
def test_an_output_that_cannot_be_a_folder_is_one_line(tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert main(["--kind", "objects", "--num_views", "1", *SIZE, "--output", output]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("synthetic_export.py: [Errno ")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_killed_worker_is_one_line(tmp_path, capsys):
    def kill():
        while not (processes := multiprocessing.active_children()):
            time.sleep(0.01)
        processes[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    assert main(["--kind", "objects", *SIZE, "--output", str(tmp_path), "--workers", "1"]) == 2
    thread.join()
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("synthetic_export.py: --workers: has lost a process, which the system ended; wanted ")
    )


def at_work(folder: Path) -> subprocess.Popen:
    """Start an export of many objects with two workers, in a session of its own; return it once it has written an image."""
    script = Path(synthetic_export.__file__)
    flags = ["--kind", "objects", "--count", "500", "--num_views", "8", "--image_size", "64", "64", "--workers", "2"]
    command = [sys.executable, str(script), *flags, "--output", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(folder.rglob("*.png")):
        assert process.poll() is None
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_all_processes_is_one_line_and_ends_the_workers(tmp_path, number):
    process = at_work(tmp_path)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert error.splitlines()[-1] == "synthetic_export.py: interrupted; run again to complete"
    assert "Traceback" not in error
    assert not list(tmp_path.rglob(".*.tmp.png"))


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    process = at_work(tmp_path)
    process.kill()
    process.communicate(timeout=30)  # until the last process has closed standard error


def test_full_memory_is_one_line(tmp_path, capsys, monkeypatch):
    def render(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(synthetic_export, "render", render)
    assert main(["--kind", "objects", *SIZE, "--output", str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "synthetic_export.py: GPU memory: is full; wanted smaller images, or fewer --workers"


def test_chosen_indices_are_written_in_their_order(tmp_path):
    export("--kind", "objects", "--num_views", "1", *SIZE, "--output", str(tmp_path), "--indices", "7", "2")
    dataset = SceneDataset(tmp_path / "objects_data_path.json", (24, 40))
    assert [dataset[i].name for i in range(len(dataset))] == ["objects_0_000007", "objects_0_000002"]


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_shard_exports_its_indices_alone_and_none_where_there_are_fewer_than_shards(tmp_path, capsys, workers):
    flags = ["--kind", "objects", "--indices", "7", "3", "--num_views", "1", "--image_size", "6", "8", "--workers", workers]
    expected = [(0, []), (1, ["objects_0_000007"]), (2, ["objects_0_000003"])]
    for index, names in expected:
        capsys.readouterr()
        export(*flags, "--output", str(tmp_path), "--shard", f"{index}/3")
        part = tmp_path / f"objects_data_path.part-000{index}-of-0003.json"
        assert capsys.readouterr().out == f"{len(names)} scene{'s' * (len(names) != 1)} in {part}\n"
        assert [Path(entry).parent.name for entry in json.loads(part.read_text())] == names
    assert not (tmp_path / "objects_data_path.json").exists()
