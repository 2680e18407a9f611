"""inference.py: refused flags and input, and the files left after an error."""

import json
import re
import shlex

import numpy as np
import pytest
import torch

import inference
from data.dataset import SceneDataset
from data.output.report import SceneReport
from data.output.video import VideoWriter
from model import LaCTLVSM
from model.evaluation import plan
from tests.support.inference_run import files, told

WITHOUT_EFFECT = {
    "with --viewer": ["--video_frames 3", "--save_state", "--no_lpips", "--video_path orbit", "--context_parallel 1",
                      "--write_view_index i", "--stream 2"],
    "without --stream": ["--passes 2", "--wait 3", "--stream_order given"],
    "with --wait, which takes all views as they come": [
        "--num_input_views 3", "--target_every 2", "--protocol dl3dv140", "--view_index i", "--stream_order given",
    ],
    "with --stream of all views": ["--save_images", "--no_lpips"],
    "without --viewer": ["--host 0.0.0.0", "--port 80"],
    "with --load_state": [
        "--num_all_views 4", "--num_input_views 2", "--num_target_views 2", "--view_selection random", "--target_every 2",
        "--view_index i.json", "--write_view_index i.json", "--protocol dl3dv140", "--save_images", "--no_lpips", "--save_state",
        "--newton_schulz_dtype float32", "--num_workers 0", "--stream 2",
        "--data_path x.json", "--view_selection random --seed 1", "--scene_inference --scene_scale 1",
        "--scene_inference --pose_reference all", "--side_by_side",
    ],
    "with --load_state and --video_size": ["--image_size 8 8"],
    "with --load_state and --camera_path": ["--image_size 8 8"],
    "with --view_index": [
        "--num_all_views 4", "--num_target_views 0", "--view_selection random", "--target_every 2",
    ],
    "with --protocol dl3dv140": ["--num_all_views 4", "--num_target_views 2"],
    "with --target_every": ["--num_all_views 4", "--num_target_views 2"],
    "with --num_target_views 0": ["--save_images", "--no_lpips"],
    "without --view_selection random or kmeans": ["--seed 0", "--view_selection uniform --seed 1"],
    "without --compile": ["--compile_mode default"],
    "without --scene_inference": ["--pose_reference all", "--scene_scale 1"],
    "with --video_format none": [
        "--video_frames 3", "--video_fps 3", "--path_order given", "--video_size 8 8", "--video_scale 2", "--side_by_side",
        "--video_path orbit", "--camera_path c", "--video_radius 1", "--video_elevation 1", "--video_fov 9", "--path_smoothing 1",
    ],
    "with --camera_path": [
        "--video_frames 3", "--video_path orbit", "--video_radius 1", "--video_elevation 1", "--video_fov 9", "--path_order given",
        "--path_smoothing 1",
    ],
    "without --camera_path": ["--camera_path_frame a b"],
    "with --video_path turntable": ["--path_order given", "--path_smoothing 1"],
    "with --video_path orbit": ["--path_order given", "--path_smoothing 1"],
    "with --video_path flight": ["--video_radius 1", "--video_elevation 1", "--video_fov 9"],
    "with --video_path published": ["--video_radius 1", "--video_elevation 1", "--video_fov 9", "--path_smoothing 1"],
}  # fmt: skip
MODES = {
    "with --load_state": "--load_state s", "with --view_index": "--view_index i --data_path d",
    "with --load_state and --video_size": "--load_state s --video_size 8 8",
    "with --wait, which takes all views as they come": "--stream 2 --wait 3 --data_path d",
    "with --stream of all views": "--stream 2 --data_path d",
    "with --load_state and --camera_path": "--load_state s --camera_path c", "with --camera_path": "--camera_path c --data_path d",
}  # fmt: skip


@pytest.mark.parametrize(("mode", "flags"), [(mode, flags) for mode, several in WITHOUT_EFFECT.items() for flags in several])
def test_flags_without_effect_are_refused(mode, flags, capsys):
    words = MODES.get(mode, f"{mode.partition(' ')[2]} --data_path d")
    words = words if mode.startswith("with ") else "--data_path d"
    words = words.replace("--target_every", "--target_every 2")
    # What the weights imply is known when their file is read; the bundled ones are of objects.
    words = words if mode == "without --scene_inference" or "--video_path" in mode else f"--load w {words}"
    assert inference.main(shlex.split(f"{words} {flags}")) == 2
    flag = [word for word in flags.split() if word.startswith("--")][-1]
    flag = "--view_selection" if "--load_state" in words and "--seed" in flags else flag  # it comes first
    assert capsys.readouterr().err == f"inference.py: {flag}: has no effect {mode}; wanted it left out\n"


LEAST = {"num_all_views": 1, "num_input_views": 1, "num_target_views": 0, "target_every": 1, "seed": 0, "video_frames": 1,
         "chunk_views": 1, "num_workers": 0, "context_parallel": 1}  # fmt: skip
BAD_FLAGS = [
    ("--load w --data_path d --num_input 3", r"--num_input: is unknown; wanted a known flag; did you mean '--num_input_views'.+"),
    ("--load w --data_path d --image_size 8", r"--image_size: cannot be read \(expected 2 arguments\); wanted two whole .+"),
    ("--load w --data_path d --image_size 8 0", "--image_size: is 8 0; wanted 1 or more"),
    ("--load w --data_path d --video_format avi", r"--video_format: cannot be read \(invalid choice: 'avi' .*\); wanted mp4, .+"),
    *((f"--load w --data_path d --{name} -1", f"--{name}: is -1; wanted {least} or more") for name, least in LEAST.items()),
    *((f"--load w --data_path d --{name} 0", f"--{name}: is 0; wanted 1 or more") for name, least in LEAST.items() if least),
    *((f"--load w --data_path d --video_fps {fps}", f"--video_fps: is {fps}; wanted 1 to 240") for fps in (-1, 0, 241)),
    *((f"--load w --data_path d --scene_inference --scene_scale {x}", f"--scene_scale: is {x}; wanted above 0")
      for x in ("0.0", "-1.5", "nan", "inf")),
    ("--load w --load_state s --video_format none", "--load_state: has no effect with --video_format none; wanted it left out"),
    ("--viewer --num_input_views 2 4", "--num_input_views: has 2 values with --viewer; wanted one, or none"),
    ("--load w --data_path d --num_input_views 4 2 4", "--num_input_views: is 4 2 4; wanted each number once"),
    ("--load w --data_path d --num_input_views 4 0", "--num_input_views: is 4 0; wanted 1 or more"),
    *((f"--load w --data_path d --protocol dl3dv140 {flags}", message) for flags, message in (
        ("--image_size 8 8", "--image_size: is 8 8; wanted 536 960 with --protocol dl3dv140, or none"),
        ("--view_index i --pose_reference all", "--pose_reference: is all; wanted inputs with --protocol dl3dv140, or none"),
        ("--no-scene_inference", "--scene_inference: is off; wanted on with --protocol dl3dv140, or none"))),
    ("--load w --data_path d --protocol gso", r"--protocol: cannot be read \(invalid choice: 'gso' .*\); wanted dl3dv140"),
    ("--load w --data_path d --num_target_views 0 --video_format none",
     "--num_target_views: is 0 with --video_format none, which leaves nothing to do; wanted a video, or --save_state"),
    ("--load w --data_path d --stream 2 --video_format none",
     "--video_format: is none with --stream of all views, which leaves nothing to do; wanted a video, --save_state, .+"),
    ("--load w --data_path d --stream 0", "--stream: is 0; wanted 1 or more"),
    ("--load w --data_path d --stream 2 --passes 0", "--passes: is 0; wanted 1 or more"),
    ("--load w --data_path d --stream 2 --wait nan", "--wait: is nan; wanted 0 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS, ids=[flags for flags, _ in BAD_FLAGS])
def test_bad_flags_are_told_in_one_line_before_anything_is_loaded(flags, message, capsys):
    assert inference.main(flags.split()) == 2
    output = capsys.readouterr()
    assert re.fullmatch(f"inference.py: {message}\n", output.err)
    assert output.out == ""


def test_kept_state_is_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert inference.main(["--load", "w", "--load_state", "s"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == lines
        assert "--load_state: has no effect under torchrun, where one process renders one video" in error or not lines


BAD_INPUT = [
    ("--load nowhere.pt", "nowhere.pt: is not there; wanted a weight file, or a known name; .+"),
    ("--config config.yaml", r".*tiny.safetensors, .*blocks\.0\.module_list\.0.* in this network.*; wanted the weights of .*"),
    ("--config bad.yaml", "bad.yaml.+"),
    ("--image_size 22 28", "--image_size: has the height 22; wanted a multiple of the patch 4: 20 or 24"),
    ("--image_size 20 -4", "--image_size: is 20 -4; wanted 1 or more"),
    ("--num_input_views 9", r".*scene_0/opencv_cameras.json, views: are 7; wanted 9 \(9 inputs, .*: ask for fewer"),
    ("--num_all_views 8", ".*scene_0/opencv_cameras.json, views: are 7; wanted 8 for num_all_views: ask for fewer"),
    ("--data_path no_json.json", "no_json.json: is not JSON .+; wanted a JSON file"),
    ("--data_path nowhere.json", "nowhere.json: is not there; wanted a JSON file"),
    ("--view_index nowhere.json --data_path scene_0/opencv_cameras.json", "nowhere.json: is not there; wanted a JSON file"),
    ("--view_index index.json --data_path scene_0/opencv_cameras.json",
     "index.json, scene 'scene_0', targets: names view 9; wanted 0.+"),
    ("--view_index other.json", "other.json, scene 'scene_0': has no entry among 1; wanted its inputs and targets"),
    ("--data_path scene_0/still.json --scene_inference", ".*still.json, cameras: .* too little to set a scale; wanted .*"),
    ("--output_dir file", r"file: cannot be written to \(.+\); wanted a folder for the results"),
    ("--output_dir file/below", r"file/below: cannot be written to \(.+\); wanted a folder for the results"),
    ("--device cuda:99", "device: is 'cuda:99' on a machine with .+"),
    ("--load_state nowhere.safetensors", "nowhere.safetensors: is not there; wanted a scene state .+"),
    ("--load_state bad.yaml", "bad.yaml: is not a safetensors file .+; wanted a scene state .+"),
    ("--load_state other.state", "scene state: was written by weights .+; wanted .+, the ones loaded"),
    ("--load_state tiny.state --image_size 20 30", "--image_size: has the width 30; wanted a multiple of the patch 4: 28 or 32"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), BAD_INPUT, ids=[flags for flags, _ in BAD_INPUT])
def test_bad_input_is_told_in_one_line_and_nothing_is_written(bad_place, place, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(bad_place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = flags.split()
    if "--load" not in words:
        words += ["--load", str(place / "tiny.safetensors")]
    if "--load_state" not in words and "--data_path" not in words:
        words += ["--data_path", "test_data_path.json"]
    if "--load_state" not in words and not set(words) & {"--num_input_views", "--view_index"}:
        words += ["--num_input_views", "2"]
    before = files(bad_place)
    assert inference.main(words) == 2
    output = capsys.readouterr()
    assert re.fullmatch(f"inference.py: {message}\n", output.err)
    assert output.out == ""
    assert files(bad_place) == before


def test_damaged_photo_leaves_finished_scenes_and_the_report_of_an_earlier_run(infer, bad_place, tmp_path, capsys):
    earlier = infer("--num_input_views 2 --no_lpips --video_frames 2")
    kept = {name: (earlier / name).read_bytes() for name in files(earlier) if not name.startswith("scene_0")}
    (earlier / "scene_0" / "video.mp4").unlink()
    capsys.readouterr()
    words = f"--load {bad_place.parent} --num_input_views 2 --no_lpips --video_frames 2 --image_size 20 28".split()
    words[1] = json.loads((earlier / "metrics.json").read_text())["about"]["load"]
    assert inference.main([*words, "--data_path", str(bad_place / "test_data_path.json"), "--output_dir", str(earlier)]) == 2
    (line,) = told(capsys.readouterr().err)
    assert re.fullmatch("inference.py: .*scene_1/images/00003.png: cannot be decoded .*; wanted a whole .*", line)
    assert {name: (earlier / name).read_bytes() for name in kept} == kept
    assert (earlier / "scene_0" / "video.mp4").exists()
    assert set(files(earlier)) - set(kept) == {"metrics_unfinished.jsonl", "scene_0/comparison.png", "scene_0/video.mp4"}


@pytest.mark.parametrize("extension", ["mp4", "gif"])
def test_error_in_the_middle_of_a_video_leaves_the_old_one(infer, place, tmp_path, monkeypatch, capsys, extension):
    flags = f"--num_input_views 2 --num_target_views 0 --video_frames 6 --video_format {extension}"
    folder = infer(flags, data="scene_0/opencv_cameras.json")
    old = (folder / "scene_0" / f"video.{extension}").read_bytes()
    write, calls = VideoWriter.write, []

    def failing(self, frame):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        write(self, frame)

    monkeypatch.setattr(VideoWriter, "write", failing)
    with pytest.raises(AssertionError):
        infer(flags, data="scene_0/opencv_cameras.json")
    unwritten = f"/scene_0/video.{extension}: cannot be written (No space left on device); wanted free space on its disk"
    assert told(capsys.readouterr().err)[-1].endswith(unwritten)
    assert files(folder) == [f"scene_0/video.{extension}"]
    assert (folder / "scene_0" / f"video.{extension}").read_bytes() == old


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ("--num_target_views 2 --video_format none", "scene_0, view [0-6]"),
        ("--num_target_views 0 --video_frames 3", "scene_0, video"),
    ],
)
def test_renderings_of_nan_are_told_in_one_line(place, tmp_path, monkeypatch, capsys, flags, what):
    decode = LaCTLVSM.decode
    monkeypatch.setattr(LaCTLVSM, "decode", lambda *arguments: decode(*arguments) * torch.nan)
    data = str(place / "scene_0" / "opencv_cameras.json")
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", data, "--output_dir", str(tmp_path / "out")]
    words += ["--image_size", "20", "28", "--num_input_views", "2", *flags.split()]
    assert inference.main([*words, *([] if "video_frames" in flags else ["--no_lpips"])]) == 2
    line = told(capsys.readouterr().err)[-1]
    assert re.fullmatch(f"inference.py: {what}: is rendered as NaN; wanted numbers: finite weights, and .*", line)
    assert files(tmp_path / "out") == []


def no_room_for_a_tensor():
    torch.empty(1 << 60, dtype=torch.uint8)


def no_room_on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 3 GiB")


def no_room_for_an_array():
    np.empty(1 << 60, np.uint8)


@pytest.mark.parametrize(
    ("memory", "full"), [("GPU memory", no_room_on_a_gpu), ("memory", no_room_for_a_tensor), ("memory", no_room_for_an_array)]
)
def test_full_memory_is_told_in_one_line(place, tmp_path, monkeypatch, capsys, memory, full):
    def reconstruct(*_):
        full()

    monkeypatch.setattr(LaCTLVSM, "reconstruct", reconstruct)
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", str(place / "test_data_path.json"), "--no_lpips"]
    assert inference.main([*words, "--output_dir", str(tmp_path), "--num_input_views", "2"]) == 2
    assert told(capsys.readouterr().err)[-1].startswith(f"inference.py: {memory}: is full; wanted fewer input views")


@pytest.mark.parametrize(
    ("owner", "name"),
    [(LaCTLVSM, "reconstruct"), (SceneDataset, "load"), (SceneReport, "finish"), (plan, "select_sweep")],
)
def test_faults_of_the_program_are_not_told_as_mistakes_of_the_user(infer, monkeypatch, owner, name):
    def fault(*_, **__):
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr(owner, name, fault)
    with pytest.raises(ValueError, match=r"zip\(\) argument 2") as caught:
        infer("--num_input_views 2 --no_lpips")
    assert caught.type is ValueError


def test_interruption_is_told_in_one_line(place, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LaCTLVSM, "reconstruct", interrupted)
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", str(place / "test_data_path.json"), "--no_lpips"]
    assert inference.main([*words, "--output_dir", str(tmp_path / "out"), "--num_input_views", "2"]) == 130
    assert told(capsys.readouterr().err)[-1] == "inference.py: interrupted"


def test_a_state_of_nan_is_not_saved(place, tmp_path, capsys):
    flags = "--scene_inference --scene_scale 1e-30 --save_state --num_target_views 0 --video_format none --num_input_views 3"
    argv = ["--load", str(place / "tiny.safetensors"), "--data_path", str(place / "test_data_path.json"), *flags.split()]
    assert inference.main([*argv, "--image_size", "20", "28", "--output_dir", str(tmp_path), "--device", "cpu"]) == 2
    assert "scene_0/state.safetensors, layers.0.w0: holds 1728 numbers that are not finite; wanted" in capsys.readouterr().err
    assert files(tmp_path) == []
