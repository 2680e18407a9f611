"""Rendering of GLB files, with a stand-in for Blender. Letters: v views, h w pixels."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.errors import InputError
from config.signals import SIGNALS
from data.dataset import SceneDataset
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.blender import pool as blender_pool
from data_preprocess.blender.asset import Render, cameras, check_image
from data_preprocess.merge_lists import main as merge
from data_preprocess.objaverse_render import main, read_uids
from tests.support.documentation import documented, write_python

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "objaverse_render.py"
SIZE = (16, 24)
UIDS = [f"{i:032x}" for i in range(3)]
# Stand-in for the Python of Blender's environment: writes plain pictures, or fails as the word in the GLB says, and logs its jobs
# and processes.
STAND_IN = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
from PIL import Image
here = Path({folder!r})
if sys.argv[1].endswith("objaverse_worker.py"):
    for uid in sys.stdin.read().split():
        (here / uid).write_text("fine")
        answer = {{"glb": str(here / uid)}} if uid != {missing!r} else {{"error": "is not in Objaverse; wanted a uid in its list"}}
        print(json.dumps({{"uid": uid, **answer}}), flush=True)
    sys.exit()
with open(here / "processes", "a") as file:
    print(os.getpid(), file=file)
print(json.dumps({start}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    with open(here / "jobs", "a") as file:
        print(line.strip(), file=file)
    what, h, w = Path(job["glb"]).read_text().strip(), *job["size"]
    if what == "broken":
        print(json.dumps({{"error": "is bad glTF", "wanted": "good glTF"}}), flush=True)
        continue
    for i, view in enumerate(job["views"]):
        if i == 2 and what == "crash":
            print("out of luck", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if i == 1 and what == "hang":
            time.sleep(600)
        size = (h, w) if what == "turned" else (w, h)
        Path(view["png"]).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if what == "opaque" else "RGBA", size, (9, 8, 7, 0 if what == "clear" else 255)).save(view["png"])
        if what == "cut":
            os.truncate(view["png"], 60)
        print(json.dumps({{"view": i}}), flush=True)
    print(json.dumps({{"done": True}}), flush=True)
"""


def stand_in(folder: Path, start: object = None) -> Path:
    folder.mkdir(exist_ok=True)
    python = folder / "python"
    text = STAND_IN.format(python=sys.executable, folder=str(folder), start=start or {"ready": "0"}, missing=UIDS[1])
    python.write_text(text)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def jobs(python: Path) -> list[dict]:
    """Return the jobs since the last call."""
    path = python.parent / "jobs"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def write_glbs(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = folder / f"{name.replace('__', '/')}.glb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def flags(tmp_path: Path, python: Path, *more: str) -> list[str]:
    return ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--blender_python", str(python),
            "--image_size", *map(str, SIZE), "--num_views", "3", "--workers", "2", *more]  # fmt: skip


def render(num_views=32, rings=False, image_size=SIZE, seed=0) -> Render:
    return Render(num_views, rings, image_size, seed, 1, False, Path())


def test_random_cameras_are_on_the_whole_sphere_and_look_at_the_object():
    c2w, fxfycxcy = cameras(render(400), "a")
    position = c2w[:, :3, 3]
    radius = np.linalg.norm(position, axis=1)
    assert 1.7 <= radius.min() < 1.75
    assert 2.95 < radius.max() <= 3.0
    # Uniform on the sphere: every coordinate of the direction is uniform in -1..1, with standard errors of 0.029 for its mean and
    # 0.015 for that of its square; bounds are five of them.
    direction = position / radius[:, None]
    assert np.abs(direction.mean(0)).max() < 0.15
    assert np.abs((direction**2).mean(0) - 1 / 3).max() < 0.075
    assert np.abs(direction[:, 2]).max() > 0.97
    origin = np.linalg.inv(c2w)[:, :3, 3]
    assert np.abs(origin[:, :2]).max() < 1e-9
    assert np.allclose(origin[:, 2], radius)
    assert (c2w[:, 2, 1] <= 0).all()  # the camera's down never points up
    h, w = SIZE
    # 50 degrees across the shorter side.
    assert np.allclose(fxfycxcy, (h / 2 / np.tan(np.radians(25)), h / 2 / np.tan(np.radians(25)), w / 2, h / 2))


def test_rings_come_after_the_random_views_which_depend_on_seed_and_name_alone():
    c2w, _ = cameras(render(5, rings=True), "a")
    assert np.array_equal(c2w[:5], cameras(render(5), "a")[0])
    for other in (cameras(render(5, seed=1), "a"), cameras(render(5), "b")):
        assert np.abs(other[0][:, :3, 3] - c2w[:5, :3, 3]).max(1).min() > 1e-3
    position = c2w[5:, :3, 3]
    assert np.allclose(np.linalg.norm(position, axis=1), 2.7)
    assert np.allclose(np.degrees(np.arcsin(position[:, 2] / 2.7)), np.repeat([0, 20, 40, 60], 16))
    azimuth = np.degrees(np.arctan2(position[:, 1], position[:, 0])).reshape(4, 16) % 360
    assert np.allclose((azimuth + 1e-6) % 360, np.arange(16) * 22.5, atol=1e-5)


@pytest.mark.slow
def test_objects_that_fail_are_listed_and_the_others_are_finished_once(tmp_path, capfd):
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "in", a="fine", b="broken", c="crash", d__e="fine", f="hang", g="fine", h="clear", i="turned",
               j="opaque", k="cut")  # fmt: skip
    assert main(flags(tmp_path, python, "--timeout", "4")) == 2
    output = tmp_path / "out"
    expected = {
        "b": "b.glb: is bad glTF; wanted good glTF",
        "c": "c.glb: ended Blender (signal SIGSEGV: out of luck); wanted an object that it renders",
        "f": "f.glb: ended Blender (no answer for 4 s, the --timeout); wanted",
        "h": "h.glb: shows nothing in any view; wanted an object that is not transparent",
        "i": "00000.png: is PNG RGBA of 16×24 (w×h); wanted PNG RGBA of 24×16",
        "j": "00000.png: is PNG RGB of 24×16 (w×h); wanted PNG RGBA of 24×16",
        "k": "00000.png: cannot be decoded",
    }
    failed = json.loads((output / "objaverse_failed.json").read_text())
    assert list(failed) == list(expected)
    for name, text in expected.items():
        assert text in failed[name]
        assert not (output / name / "opencv_cameras.json").exists()
    captured = capfd.readouterr()
    assert "3 of 10 objects in" in captured.out
    assert captured.err.count("objaverse_render.py: ") == len(expected)
    for text in failed.values():
        assert f"objaverse_render.py: {' '.join(text.split())}\n" in captured.err
    scenes = [read_scene(path) for path in read_data_path(output / "objaverse_data_path.json")]
    assert [scene.name for scene in scenes] == ["a", "d_e", "g"]
    assert [path.name for path in (output / "a").iterdir() if path.is_file()] == ["opencv_cameras.json"]
    asked = {Path(job["glb"]).stem: job for job in jobs(python)}
    assert len(asked) == 10
    for scene, stem in zip(scenes, "aeg", strict=True):
        job = asked[stem]
        assert (job["size"], job["samples"], job["denoise"]) == (list(SIZE), 64, True)
        for view, wanted in zip(scene.views, job["views"], strict=True):
            assert str(view.file_path) == wanted["png"]
            assert np.allclose(view.c2w, wanted["c2w"], atol=1e-12)
            assert [view.fx, view.fy, view.cx, view.cy] == wanted["fxfycxcy"]
    assert SceneDataset(output / "objaverse_data_path.json", SIZE).load(scenes[0], range(3))["image"].shape == (3, 3, *SIZE)

    for name in failed:
        state = os.stat(tmp_path / "in" / f"{name}.glb")
        (tmp_path / "in" / f"{name}.glb").write_text("fine".ljust(state.st_size))
        if name in "ijk":
            # Indistinguishable from the one before: its bad pictures must not stay.
            os.utime(tmp_path / "in" / f"{name}.glb", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert main(flags(tmp_path, python)) == 0
    assert sorted(Path(job["glb"]).stem for job in jobs(python)) == list(expected)
    assert not (output / "objaverse_failed.json").exists()
    assert len(read_data_path(output / "objaverse_data_path.json")) == 10
    assert main(flags(tmp_path, tmp_path / "no python is needed")) == 0


def test_an_interrupted_object_is_completed_and_a_changed_one_is_done_again(tmp_path):
    python = stand_in(tmp_path / "blender")
    glb = tmp_path / "in" / "a.glb"
    write_glbs(tmp_path / "in", a="crash")
    state = os.stat(glb)
    assert main(flags(tmp_path, python, "--samples", "5")) == 2
    assert len(jobs(python)[0]["views"]) == 3
    # Indistinguishable from the same file.
    glb.write_text("fine ")
    os.utime(glb, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert main(flags(tmp_path, python, "--samples", "5")) == 0
    (job,) = jobs(python)
    assert [(Path(view["png"]).name, view["seed"]) for view in job["views"]] == [("00002.png", 2)]

    for change in ("--samples", "--seed"):
        shutil.rmtree(tmp_path / "out")
        glb.write_text("crash")
        assert main(flags(tmp_path, python)) == 2
        glb.write_text("fine")
        assert main(flags(tmp_path, python, change, "6")) == 0
        assert [len(job["views"]) for job in jobs(python)] == [3, 3]
    (tmp_path / "out" / "a" / "images" / "00001.png").unlink()
    assert main(flags(tmp_path, python, "--seed", "6")) == 0
    assert [Path(view["png"]).name for view in jobs(python)[0]["views"]] == ["00001.png"]


def test_a_worker_is_replaced_after_some_objects(tmp_path, monkeypatch):
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "in", **dict.fromkeys("abcde", "fine"))
    monkeypatch.setattr(blender_pool, "JOBS_PER_PROCESS", 2)
    assert main(flags(tmp_path, python, "--workers", "1")) == 0
    assert len((python.parent / "processes").read_text().split()) == 3


def test_what_is_left_out_and_what_exists_is_counted(tmp_path, capsys):
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "in", a="fine", b="broken", d__e="fine")
    for i in range(22):
        (tmp_path / "in" / f"{i:02}.obj").touch()
    (tmp_path / "in" / "d" / "f.gltf").touch()
    (tmp_path / "in" / "gone.glb").symlink_to("nowhere")
    output = tmp_path / "out"
    shown = ", ".join(f"{i:02}.obj" for i in range(20))
    for earlier in ("", "; 2 from earlier runs"):
        assert main(flags(tmp_path, python)) == 2
        assert capsys.readouterr().out.splitlines() == [
            f"{tmp_path / 'in'}: left out, files other than GLB (24): {shown} and 4 more",
            f"2 of 3 objects in {output / 'objaverse_data_path.json'}{earlier}; 1 failed, see {output / 'objaverse_failed.json'}",
        ]
    write_glbs(tmp_path / "bad", b="broken")
    assert main(["--input", str(tmp_path / "bad"), *flags(tmp_path, python)[2:]]) == 2
    assert capsys.readouterr().out == f"0 of 1 object; 1 failed, see {output / 'objaverse_failed.json'}\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_and_ends_the_workers(tmp_path, number):
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "in", a="hang", b="hang", c="hang")
    process = subprocess.Popen([sys.executable, str(SCRIPT), *flags(tmp_path, python)], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("*/images/00000.png"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 128 + number
    finally:
        process.kill()
    assert error.splitlines()[-1].endswith("objaverse_render.py: interrupted; run again to complete")
    assert "Traceback" not in error
    for worker in (python.parent / "processes").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(worker), 0)


def test_objects_of_objaverse_are_fetched_by_uid(tmp_path):
    python = stand_in(tmp_path / "blender")
    listed = tmp_path / "uids.txt"
    listed.write_text("\n".join(UIDS) + "\n")
    arguments = flags(tmp_path, python)
    arguments[:2] = ["--uids", str(listed)]
    assert main(arguments) == 2
    assert json.loads((tmp_path / "out" / "objaverse_failed.json").read_text()) == {
        UIDS[1]: f"{UIDS[1]}: is not in Objaverse; wanted a uid in its list"
    }
    names = [path.parent.name for path in read_data_path(tmp_path / "out" / "objaverse_data_path.json")]
    assert names == [UIDS[0], UIDS[2]]
    assert read_uids(UIDS) == UIDS


def test_a_download_that_ends_too_early_is_reported(tmp_path, monkeypatch):
    python = stand_in(tmp_path / "blender")
    python.write_text(f"#!{sys.executable}\nraise SystemExit('no room for a cat')\n")
    monkeypatch.setenv("BLENDER_PYTHON", str(python))
    assert main(["--uids", *UIDS, "--output", str(tmp_path)]) == 2
    failed = json.loads((tmp_path / "objaverse_failed.json").read_text())
    assert list(failed) == UIDS
    for uid, problem in failed.items():
        assert problem.startswith(f"{uid}: cannot be downloaded, objaverse_worker.py ended early (no room for a cat); wanted")
    assert not (tmp_path / "objaverse_data_path.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_views", "0"], "--num_views: is 0; wanted 1 or more"),
        (["--name", "a/b"], "--name: is 'a/b'; wanted the start of a file's name: no slash"),
        (["--num_views", "-1", "--rings"], "--num_views: is -1; wanted 0 to 100000"),
        (["--image_size", "0", "8"], "--image_size: is 0 8; wanted 1 to 8192"),
        (["--seed", "-1"], "--seed: is -1; wanted 0 or more"),
        (["--samples", "0"], "--samples: is 0; wanted 1 to 16777216"),
        (["--workers", "0"], "--workers: is 0; wanted 1 to 1024"),
        (["--timeout", "0"], "--timeout: is 0.0; wanted above 0, up to 1000000"),
        (["--timeout", "nan"], "--timeout: is nan; wanted above 0"),
        (["--device", "abacus"], "--device: cannot be read (invalid choice: 'abacus'"),
        (["--uids", UIDS[0]], "--input, --uids: are both given; wanted one of them"),
        (["--input", "nowhere"], "nowhere: is not there; wanted a folder with GLB files"),
        (["--input", "empty"], "empty: has no GLB file below it; wanted at least one"),
        (["--input", "blender"], "blender: has no GLB file below it, only python; wanted at least one"),
        (["--input", "twice"], "b_c.glb: would be named b_c like twice/b/c.glb; wanted a different name for each"),
        (["--blender_python", "nowhere/python"], "is nowhere/python, which is not there; wanted the Python of an environment with "
         "Blender. To create one: python3.11 -m venv"),
        (["--blender_python", sys.executable], "cannot import Blender (No module named 'bpy'); wanted an environment with Blender"),
        (["--blender_python", "no_gpu/python"], "--device: is optix, of which there is none; wanted cpu"),
        (["--blender_python", "silent/python"], "silent/python: cannot start Blender (exit code 1); wanted"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    stand_in(tmp_path / "no_gpu", {"error": "is optix, of which there is none", "wanted": "cpu"})
    stand_in(tmp_path / "silent").write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    write_glbs(tmp_path / "in", a="fine")
    write_glbs(tmp_path / "twice", b__c="fine", b_c="fine")
    (tmp_path / "empty").mkdir()
    assert main([*flags(tmp_path, stand_in(tmp_path / "blender")), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.txt"], "--uids: is nowhere.txt, which is not a file; wanted uids of Objaverse or a file with one per line"),
        ([UIDS[0], "x" * 32], "--uids: has 'x+'; wanted a uid of Objaverse"),
        ([UIDS[0], UIDS[1], UIDS[0]], f"--uids: has {UIDS[0]} twice; wanted each uid once"),
        (["../a"], "--uids: is ../a, which is not a file"),
        (["empty.txt"], "empty.txt: holds no uid; wanted at least one"),
    ],
)
def test_uids_are_checked(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    with pytest.raises((InputError, FileNotFoundError), match=message):
        read_uids(given)


def test_other_flags_do_not_pass_for_the_same_object(tmp_path, capsys):
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "in", a="fine")
    assert main(flags(tmp_path, python)) == 0
    assert main(flags(tmp_path, python, "--seed", "1")) == 2
    assert "holds other cameras than" in capsys.readouterr().err
    assert main(flags(tmp_path, python, "--rings")) == 2


@pytest.mark.parametrize("source", [["--input", "in"], ["--uids", UIDS[0]]])
@pytest.mark.parametrize("answer", [r"hello \377", "[1]"])
def test_a_program_that_is_not_blender_s_python_is_refused(tmp_path, monkeypatch, capsys, source, answer):
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nprintf '{answer}\\n'\n")
    python.chmod(0o755)
    write_glbs(tmp_path / "in", a="fine")
    assert main([*source, "--output", "out", "--blender_python", str(python)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"objaverse_render.py: {python}: answers '{answer.split(chr(92))[0]}")
    assert line.endswith("; wanted the Python of an environment with Blender")


def test_a_missing_library_is_named_with_the_packages_that_have_it(tmp_path, capsys):
    (tmp_path / "bpy.py").write_text(
        'raise ImportError("libXrender.so.1: cannot open shared object file: No such file or directory")'
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    write_glbs(tmp_path / "in", a="fine")
    assert main(flags(tmp_path, python)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs libXrender.so.1 for Blender, which this machine lacks" in line
    assert line.endswith("apt-get install libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1")


def test_whatever_a_decoder_raises_is_of_the_picture(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise KeyError("tRNS")

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"a.png: cannot be decoded \('tRNS'\); wanted a whole PNG, JPEG, WEBP"):
        check_image(tmp_path / "a.png", SIZE)


def test_a_picture_with_anything_in_it_counts(tmp_path):
    Image.fromarray(np.zeros((*SIZE, 4), np.uint8)).save(tmp_path / "a.png")
    assert not check_image(tmp_path / "a.png", SIZE)
    pixels = np.zeros((*SIZE, 4), np.uint8)
    pixels[3, 4, 3] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert check_image(tmp_path / "a.png", SIZE)


def lists(folder: Path) -> dict[str, bytes]:
    """Return the whole lists in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json") if ".part-" not in path.name}


def test_shards_write_parts_of_both_lists_which_merge_to_those_of_an_undivided_run(tmp_path, capsys):
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "in", a="broken", b="fine", c__d="fine", e="broken", f="fine")
    assert main(flags(tmp_path, python)) == 2
    whole = lists(tmp_path / "out")
    assert sorted(whole) == ["objaverse_data_path.json", "objaverse_failed.json"]
    shutil.rmtree(tmp_path / "out")
    jobs(python)
    codes = [main(flags(tmp_path, python, "--shard", f"{index}/7")) for index in (6, 1, 0, 2, 5, 4, 3)]
    assert codes == [0, 2, 0, 0, 2, 0, 0]
    assert sorted(Path(job["glb"]).stem for job in jobs(python)) == ["a", "b", "d", "e", "f"]
    assert len(list((tmp_path / "out").glob("objaverse_failed.part-*"))) == 2
    assert merge([str(tmp_path / "out" / "objaverse_data_path.json")]) == 0
    assert lists(tmp_path / "out") == whole
    write_glbs(tmp_path / "in", a="mended", e="fine")
    for index in range(7):
        assert main(flags(tmp_path, python, "--shard", f"{index}/7")) == 0
    assert merge([str(tmp_path / "out" / "objaverse_data_path.json")]) == 0
    assert len(read_data_path(tmp_path / "out" / "objaverse_data_path.json")) == 5
    assert not list((tmp_path / "out").glob("objaverse_failed*"))
    capsys.readouterr()
    assert main(flags(tmp_path, python, "--shard", "0/2")) == 2
    assert "is of 7 shards, not of 2; wanted --shard I/7, or the parts of 7 deleted" in capsys.readouterr().err


@pytest.mark.slow
def test_the_documented_job_array_renders_all_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python = stand_in(tmp_path / "blender")
    write_glbs(tmp_path / "glbs", a="fine", b="fine", c="broken")
    more = f"--blender_python {python} --num_views 2 --image_size 6 8"
    write_python(tmp_path / "bin", objaverse_render=more)
    known = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    script = documented("data_preprocess/README.md", "Several machines", "#SBATCH")
    assert "#SBATCH --array=0-15\n" in script
    tasks = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("MIN", "0"), ("MAX", "15"), ("COUNT", "16"), ("STEP", "1"))}
    codes = []
    for task in range(16):
        known |= {**tasks, "SLURM_ARRAY_TASK_ID": str(task)}
        codes.append(subprocess.run(["bash", "-c", script], env=known, stderr=subprocess.PIPE).returncode)
    assert sorted(codes) == [0] * 15 + [2]
    output = tmp_path / "train_objects"
    assert merge([str(output / "objaverse_data_path.json")]) == 0
    words = more.split()
    assert main(["--input", "glbs", "--output", "whole", *words]) == 2
    names = ("objaverse_data_path.json", "objaverse_failed.json")
    assert {name: (output / name).read_bytes() for name in names} == lists(tmp_path / "whole")
