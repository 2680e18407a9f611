"""The program: through `main`, as a user runs it, and shared among two processes. Letters: h w pixels."""

import csv
import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from PIL import Image
from skimage.metrics import structural_similarity

import inference
from data import view_selection
from data.dataset import load_views
from data.scene_format import read_scene, write_data_path
from model import LaCTLVSM, SceneState, checkpoint, load_model
from model.camera_path import smooth_path, turntable
from model.checkpoint import save_weights
from tests.scenes import write_random_data_path, write_random_scene
from tests.test_metric import head_weights, vgg_weights
from tests.test_video import decode

ROOT = Path(__file__).parent.parent
SIZE = (20, 28)
EXACT = ["--device", "cpu", "--precision", "float32"]
BAR = re.compile(r"(scenes|reconstruct|evaluate|video):.*\[\d.*(scene|layer|view|frame)(/s)?\]")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Put weights of a small network (patch 4) and three scenes of seven views, 25×34, into a folder."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in ((0, "tiny"), (1, "other")):
        model = small_model("self_attention", "fast_weight", "mlp", seed=seed)
        # A colour per patch: renderings that a video codec keeps, and that differ clearly from view to view.
        decoder = model.image_token_decoder[1].weight
        decoder.data = torch.randn(3, 48, generator=torch.Generator().manual_seed(seed)).mul(0.4).repeat(len(decoder) // 3, 1)
        save_weights(folder / f"{name}.safetensors", model.state_dict(), model.config)
    write_random_data_path(folder, scenes=3, n=7, size=(25, 34))
    return folder


@pytest.fixture
def infer(place, tmp_path, monkeypatch):
    """Return a function that runs the program on these scenes, writes below `tmp_path` and returns the folder."""
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(flags: str, out: str = "out", data: str | None = "test_data_path.json") -> Path:
        words = ["--load", str(place / "tiny.safetensors"), "--output_dir", str(tmp_path / out), *EXACT]
        if data is not None:
            words += ["--data_path", str(place / data), "--newton_schulz_dtype", "float32", "--image_size", *map(str, SIZE)]
        assert inference.main([*words, *shlex.split(flags)]) == 0
        return tmp_path / out

    return run


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def reconstruction(place: Path, scene: str, inputs: list[int], c2w: torch.Tensor | None = None):
    """Return the network and a scene's state, computed beside the program; poses as in the file unless given."""
    model = load_model(place / "tiny.safetensors", device="cpu", precision="float32", newton_schulz_dtype="float32")
    views = load_views(read_scene(place / scene / "opencv_cameras.json"), inputs, SIZE, patch_size=4)
    c2w = views["c2w"] if c2w is None else c2w
    return model, model.reconstruct(views["image"][None], views["fxfycxcy"][None], c2w[None]), views


def levels(images: torch.Tensor) -> np.ndarray:
    """Return what a file holds of (n, 3, h, w): (n, h, w, 3), 0..255."""
    return images.permute(0, 2, 3, 1).numpy() * 255


def test_metrics_are_those_of_the_saved_images(infer, place, capsys):
    index = {f"scene_{i}": {"inputs": [0, 3, 5], "targets": targets} for i, targets in enumerate([[1, 2, 6], [4], [2, 1]])}
    (place / "index.json").write_text(json.dumps(index))
    folder = infer(f"--view_index {place / 'index.json'} --save_images --no_lpips --video_format none")
    assert files(folder) == [
        "metrics.json", "metrics_scenes.csv", "metrics_views.csv", "scene_0/comparison.png", "scene_0/images/00001.png",
        "scene_0/images/00002.png", "scene_0/images/00006.png", "scene_1/comparison.png", "scene_1/images/00004.png",
        "scene_2/comparison.png", "scene_2/images/00001.png", "scene_2/images/00002.png",
    ]  # fmt: skip
    found = metrics(folder)
    assert [(row["scene"], row["view"]) for row in found["views"]] == [
        ("scene_0", 1), ("scene_0", 2), ("scene_0", 6), ("scene_1", 4), ("scene_2", 2), ("scene_2", 1),
    ]  # fmt: skip
    model, state, _ = reconstruction(place, "scene_0", [0, 3, 5])
    targets = load_views(read_scene(place / "scene_0" / "opencv_cameras.json"), [1, 2, 6], SIZE, patch_size=4)
    direct = levels(model.render(state, targets["fxfycxcy"][None], targets["c2w"][None], SIZE)[0])
    for i, image in zip((1, 2, 6), direct, strict=True):
        with Image.open(folder / "scene_0" / "images" / f"{i:05d}.png") as saved:
            assert np.abs(np.asarray(saved) - image).max() < 0.6  # half a level of rounding
    expected: dict[str, list] = {}
    for row in found["views"]:
        photo = load_views(read_scene(place / row["scene"] / "opencv_cameras.json"), [row["view"]], SIZE, patch_size=4)["image"]
        photo = levels(photo)[0] / 255
        with Image.open(folder / row["scene"] / "images" / f"{row['view']:05d}.png") as image:
            rendered = np.asarray(image) / 255
        assert rendered.shape == (*SIZE, 3)
        psnr = -10 * math.log10(((rendered - photo) ** 2).mean())
        # Half a level of rounding in 255, against an error of about 0.3: 0.06 dB at most.
        assert row["psnr"] == pytest.approx(psnr, abs=0.06)
        assert row["ssim"] == pytest.approx(structural_similarity(rendered, photo, channel_axis=2, data_range=1.0), abs=5e-3)
        expected.setdefault(row["scene"], []).append(row["psnr"])
    means = [np.mean(values) for values in expected.values()]
    assert [scene["psnr"] for scene in found["scenes"]] == pytest.approx(means)
    assert found["mean"]["psnr"] == pytest.approx(np.mean(means))
    assert abs(np.mean(means) - np.mean([row["psnr"] for row in found["views"]])) > 1e-3
    output = capsys.readouterr()
    assert f"{np.mean(means):.2f}" in next(line for line in output.out.splitlines() if line.startswith("mean of 3 scenes"))
    assert "LPIPS not computed: --no_lpips" in output.out
    assert found["about"]["not_computed"] == {"lpips": "--no_lpips"}
    assert found["about"]["input_views"] == {name: entry["inputs"] for name, entry in index.items()}
    with (folder / "metrics_views.csv").open(newline="") as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [row["psnr"] for row in found["views"]]


def test_turntable_video_shows_what_the_network_renders(infer, place):
    folder = infer("--num_input_views 3 --no_lpips --video_frames 5 --video_fps 12")
    model, state, _ = reconstruction(place, "scene_1", metrics(folder)["about"]["input_views"]["scene_1"])
    fxfycxcy, c2w = turntable(5, SIZE)
    expected = levels(model.render(state, fxfycxcy[None], c2w[None], SIZE)[0])
    frames, facts = decode(folder / "scene_1" / "video.mp4")
    assert frames.shape == (5, *SIZE, 3)
    assert facts["rate"] == 12
    # Chroma at half resolution of patches of 4 pixels: measured 3 levels on average; frames of other views are 20 apart.
    distance = np.abs(frames[:, None] - expected[None]).mean((2, 3, 4))
    assert distance.diagonal().max() < 6
    assert distance[~np.eye(5, dtype=bool)].min() > 2 * distance.diagonal().max()


def test_scene_video_flies_from_the_first_input_to_the_last_in_the_frame_of_the_inputs(infer, place):
    folder = infer("--scene_inference --num_input_views 4 --num_target_views 0 --pose_reference inputs --video_format gif"
                   " --video_frames 7 --video_fps 10 --save_state")  # fmt: skip
    assert files(folder / "scene_2") == ["state.safetensors", "video.gif"]
    assert not (folder / "metrics.json").exists()
    kept = SceneState.load(folder / "scene_2" / "state.safetensors")
    scene = read_scene(place / "scene_2" / "opencv_cameras.json")
    inputs, _ = view_selection.select_views(np.stack([view.c2w for view in scene.views]), None, 4, None, "uniform")
    c2w = np.stack([scene.views[i].c2w for i in inputs])
    # The frame by its definition: mean position, mean forward, mean of y made orthogonal; the farthest coordinate is 1.
    forward, down = c2w[:, :3, 2].mean(0), c2w[:, :3, 1].mean(0)
    forward /= np.linalg.norm(forward)
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    frame = np.eye(4)
    frame[:3] = np.stack([right, np.cross(forward, right), forward, c2w[:, :3, 3].mean(0)], axis=1)
    c2w = np.linalg.inv(frame) @ c2w
    c2w[:, :3, 3] /= np.abs(c2w[:, :3, 3]).max()
    assert np.abs(kept.c2w[0].numpy() - c2w).max() < 1e-5
    model, state, views = reconstruction(place, "scene_2", inputs, torch.from_numpy(c2w).float())
    expected = levels(model.render(state, views["fxfycxcy"][None], torch.from_numpy(c2w).float()[None], SIZE)[0])
    with Image.open(folder / "scene_2" / "video.gif") as video:
        assert (video.n_frames, video.size) == (7, (SIZE[1], SIZE[0]))
        frames = []
        for i in range(7):
            video.seek(i)
            frames.append(np.asarray(video.convert("RGB"), dtype=np.float64))
    # 256 colours for all frames: measured 3 levels on average; the inputs' renderings are 20 apart.
    assert np.abs(frames[0] - expected[0]).mean() < 6
    assert np.abs(frames[-1] - expected[-1]).mean() < 6
    assert np.abs(expected[0] - expected[-1]).mean() > 12


def test_kept_state_renders_the_same_video_and_other_sizes(infer, place, capsys):
    flags = "--scene_inference --video_frames 4"
    folder = infer(f"{flags} --num_input_views 3 --no_lpips --save_state --num_target_views 1")
    again = infer(f"{flags} --load_state {folder / 'scene_0' / 'state.safetensors'}", "again", data=None)
    assert files(again) == ["video.mp4"]
    frames, _ = decode(folder / "scene_0" / "video.mp4")
    assert np.array_equal(decode(again / "video.mp4")[0], frames)
    low = infer(f"{flags} --load_state {folder / 'scene_0' / 'state.safetensors'} --precision bfloat16", "low", data=None)
    assert np.abs(decode(low / "video.mp4")[0] - frames.astype(float)).mean() < 6
    assert "results in" in capsys.readouterr().out


def test_video_of_another_shape_keeps_pixels_square(infer, place, monkeypatch):
    folder = infer("--scene_inference --num_input_views 3 --num_target_views 0 --video_format none --save_state")
    cameras = []

    def render(self, state, fxfycxcy, c2w, size, chunk_views):
        cameras.append((fxfycxcy[0, 0].tolist(), size))
        return iter([torch.rand(1, fxfycxcy.shape[1], 3, *size)])

    monkeypatch.setattr(LaCTLVSM, "render_stream", render)
    path = folder / "scene_0" / "state.safetensors"
    infer(f"--scene_inference --load_state {path} --image_size 40 36 --video_frames 2", "tall", data=None)
    (fx, fy, cx, cy), size = cameras[0]
    old = SceneState.load(path).fxfycxcy[0, 0].tolist()
    assert size == (40, 36)
    # 20×28 doubled is 40×56: twice the focal lengths, and 10 columns cut from the left.
    assert (fx, fy, cx, cy) == pytest.approx((2 * old[0], 2 * old[1], 2 * old[2] - 10, 2 * old[3]), rel=1e-6)


def test_chunks_change_nothing(infer, monkeypatch):
    folder = infer("--num_input_views 3 --no_lpips --video_frames 3")
    seen = []
    reconstruct, render = LaCTLVSM.reconstruct, LaCTLVSM.render_stream
    monkeypatch.setattr(LaCTLVSM, "reconstruct", lambda self, *args: (seen.append(args[3]), reconstruct(self, *args))[1])
    monkeypatch.setattr(LaCTLVSM, "render_stream", lambda self, *args: (seen.append(args[4]), render(self, *args))[1])
    other = infer("--num_input_views 3 --no_lpips --video_frames 3 --chunk_views 1", "one")
    assert seen == [1] * 9  # inputs, targets and video of three scenes
    for one, two in zip(metrics(folder)["views"], metrics(other)["views"], strict=True):
        assert one["psnr"] == pytest.approx(two["psnr"], abs=1e-3)  # rounding of float32 sums: 1e-4
    for name in ("scene_0", "scene_1", "scene_2"):
        frames = [decode(path / name / "video.mp4")[0].astype(float) for path in (folder, other)]
        assert np.abs(frames[0] - frames[1]).max() <= 6  # a level of rounding, spread by the codec


@pytest.mark.parametrize(
    ("flags", "inputs", "targets"),
    [
        ("--num_input_views 2 --target_every 3", None, [0, 3, 6]),
        ("--num_input_views 2 --num_target_views 3 --view_selection uniform", [1, 5], [0, 3, 6]),
        ("--num_input_views 2 --num_all_views 3 --view_selection uniform", [1, 5], [3]),
        ("--num_input_views 3 --view_selection kmeans --seed 3", ("kmeans", 3), None),
        ("--num_input_views 3 --view_selection random --seed 4", ("random", 4), None),
        ("--num_input_views 3 --view_selection random", ("random", 0), None),
        ("--num_input_views 3", ("spread", 0), None),
        ("--num_input_views 3 --scene_inference", ("uniform", 0), None),
        ("", None, None),
    ],
)  # fmt: skip
def test_views_are_chosen_as_told(infer, place, monkeypatch, flags, inputs, targets):
    monkeypatch.setattr(inference, "DEFAULT_INPUT_VIEWS", 5)
    folder = infer(f"{flags} --no_lpips --video_format none", data="scene_1/opencv_cameras.json")
    found = metrics(folder)
    chosen = found["about"]["input_views"]["scene_1"]
    seen = [row["view"] for row in found["views"]]
    if isinstance(inputs, tuple):
        scene = read_scene(place / "scene_1" / "opencv_cameras.json")
        c2w = np.stack([view.c2w for view in scene.views])
        inputs, targets = view_selection.select_views(c2w, None, 3, None, inputs[0], seed=inputs[1])
    assert inputs is None or chosen == inputs
    assert len(chosen) == (int(flags.split()[1]) if flags else 5)
    assert seen == (targets if targets is not None else sorted(set(range(7)) - set(chosen)))


@pytest.mark.parametrize(
    ("flags", "reference", "largest"), [("", 7, 1.0), ("--pose_reference inputs --scene_scale 1.35", 3, 1 / 1.35)]
)
def test_poses_are_scaled_by_the_views_asked_for(infer, monkeypatch, flags, reference, largest):
    seen = []
    reconstruct, render = LaCTLVSM.reconstruct, LaCTLVSM.render_stream
    monkeypatch.setattr(LaCTLVSM, "reconstruct", lambda self, *args: (seen.append(args[2]), reconstruct(self, *args))[1])
    monkeypatch.setattr(LaCTLVSM, "render_stream", lambda self, *args: (seen.append(args[2]), render(self, *args))[1])
    infer(f"--scene_inference --num_input_views 3 --no_lpips --video_format none {flags}", data="scene_0/opencv_cameras.json")
    poses = torch.cat(seen, dim=1)[0]
    assert poses.shape == (7, 4, 4)
    assert poses[:reference, :3, 3].abs().max().item() == pytest.approx(largest, abs=1e-5)
    if reference == 3:
        assert poses[3:, :3, 3].abs().max().item() > 1.01 * largest


def test_lpips_is_computed_when_its_files_are_there(infer, tmp_path, monkeypatch):
    torch.save(vgg_weights(), tmp_path / "vgg.pth")
    torch.save(head_weights(), tmp_path / "heads.pth")
    monkeypatch.setattr(inference, "resolve_lpips", lambda fetch: (tmp_path / "vgg.pth", tmp_path / "heads.pth"))
    folder = infer("--num_input_views 6 --save_images --video_format none", data="scene_0/opencv_cameras.json")
    (row,) = metrics(folder)["views"]
    scene = read_scene(metrics(folder)["about"]["data_path"])
    photo = load_views(scene, [row["view"]], SIZE, patch_size=4)["image"][0]
    with Image.open(folder / "scene_0" / "images" / f"{row['view']:05d}.png") as image:
        rendered = torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1).float()
    expected = inference.LPIPS(vgg_weights(), head_weights())(rendered, photo).item()
    assert row["lpips"] == pytest.approx(expected, rel=0.02)  # the PNG rounds to 1 / 255
    assert row["lpips"] > 0
    assert metrics(folder)["about"]["not_computed"] == {}


def test_lpips_without_its_files_is_not_computed_and_says_why(infer, monkeypatch, capsys):
    def missing(fetch):
        raise FileNotFoundError("vgg16.pth: not there; get it and save it")

    monkeypatch.setattr(inference, "resolve_lpips", missing)
    folder = infer("--num_input_views 6 --video_format none", data="scene_0/opencv_cameras.json")
    assert metrics(folder)["views"][0]["lpips"] is None
    assert metrics(folder)["about"]["not_computed"] == {"lpips": "vgg16.pth: not there; get it and save it"}
    output = capsys.readouterr().out
    assert "LPIPS not computed: vgg16.pth: not there; get it and save it" in output
    assert output.count("not computed\n") == 2


def test_flags_of_path_and_machine_reach_what_they_steer(infer, place, monkeypatch):
    seen = {}

    class Dataset(inference.SceneDataset):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            seen["workers"] = self.workers

    def path(*args, order):
        seen["order"] = order
        return smooth_path(*args, order=order)

    monkeypatch.setattr(inference, "SceneDataset", Dataset)
    monkeypatch.setattr(inference, "smooth_path", path)
    monkeypatch.setattr(LaCTLVSM, "compile_layers", lambda self: seen.update(compiled=True) or self)
    monkeypatch.setattr(LaCTLVSM, "set_fast_weight", lambda self, *args: seen.update(fast_weight=args) or self)
    words = "--scene_inference --num_input_views 3 --num_target_views 0 --video_frames 1"
    infer(f"{words} --path_order nearest --num_workers 0 --compile --fast_weight_ops naive", data="scene_0/opencv_cameras.json")
    assert seen == {"workers": 0, "order": "nearest", "compiled": True, "fast_weight": (torch.float32, "naive")}
    del seen["compiled"]
    infer(words, data="scene_0/opencv_cameras.json")
    assert seen == {"workers": min(8, os.cpu_count()), "order": "given", "fast_weight": (torch.float32, "auto")}


def test_scenes_of_one_name_get_a_folder_each(infer, place):
    (place / "twice.json").write_text(json.dumps(["scene_0/opencv_cameras.json", "scene_0/opencv_cameras.json"]))
    folder = infer("--num_input_views 5 --no_lpips --video_format none", data="twice.json")
    assert files(folder)[:2] == ["000_scene_0/comparison.png", "001_scene_0/comparison.png"]
    assert [(scene["scene"], scene["views"]) for scene in metrics(folder)["scenes"]] == [("000_scene_0", 2), ("001_scene_0", 2)]


def test_targets_beyond_one_batch_are_all_rendered_in_their_order(infer, monkeypatch):
    whole = metrics(infer("--num_input_views 2 --no_lpips --video_format none"))["views"]
    monkeypatch.setattr(inference, "TARGET_BATCH", 2)
    batches = metrics(infer("--num_input_views 2 --no_lpips --video_format none", "batches"))["views"]
    for one, two in zip(whole, batches, strict=True):
        assert two == {**one, "psnr": pytest.approx(one["psnr"], abs=1e-3), "ssim": pytest.approx(one["ssim"], abs=1e-4)}


# The commands of the published demo, as they stand.
PUBLISHED = [
    "--load weight/obj_res256.pt --image_size 256 256 --data_path data_example/gso_sample_data_path.json",
    "--load weight/obj_res512.pt --image_size 512 512 --data_path data_example/gso_sample_data_path.json",
    "--load weight/scene_res256x256.pt --image_size 256 256 --scene_inference --num_all_views 136 --num_input_views 128"
    " --data_path data_example/dl3dv_sample_data_path.json",
    "--load weight/scene_res512x512.pt --image_size 512 512 --scene_inference --num_all_views 52 --num_input_views 48"
    " --data_path data_example/dl3dv_sample_data_path.json",
    "--load weight/scene_res72x128.pt --config config/lact_l24_d768_ttt4x.yaml --image_size 72 128 --scene_inference"
    " --num_all_views 300 --num_input_views 256 --data_path data_example/dl3dv_sample_data_path.json",
    "--load weight/scene_res536x960.pt --config config/lact_l24_d768_ttt4x.yaml --image_size 536 960 --scene_inference"
    " --num_all_views 52 --num_input_views 48 --data_path data_example/dl3dv_sample_data_path.json",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Put small weights and recipes under the published names, an object of 64 views and a scene of 300."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("data_example", "weight", "config"):
        (folder / name).mkdir()
    for name, n in (("gso", 64), ("dl3dv", 300)):
        scene = write_random_scene(folder / "data_example" / name, n, size=(9, 16))
        write_data_path(folder / "data_example" / f"{name}_sample_data_path.json", [scene])
    model = small_model("fast_weight", layers=1)
    for row in checkpoint.published_weights().values():
        torch.save({"model": model.state_dict()}, folder / "weight" / row.file)
        (folder / row.config).write_text(json.dumps(model.config.to_dict()))  # JSON is YAML
    return folder


@pytest.mark.parametrize("command", PUBLISHED, ids=lambda command: command.split()[1])
def test_published_commands_run_as_they_stand(published, monkeypatch, command):
    monkeypatch.chdir(published)
    monkeypatch.setattr(checkpoint, "ROOT", published)
    monkeypatch.setattr(inference, "DEFAULT_VIDEO_FRAMES", 2)
    monkeypatch.setattr(inference, "resolve_lpips", lambda fetch: (_ for _ in ()).throw(FileNotFoundError("none")))
    monkeypatch.setattr(inference, "ssim", inference.psnr)  # slow at these sizes
    shapes = []

    def reconstruct(self, image, fxfycxcy, c2w, chunk_views, progress):
        shapes.append(tuple(image.shape))
        return SceneState([], fxfycxcy, c2w, tuple(image.shape[-2:]), self.fingerprint())

    # The network is too slow at these sizes; all around it runs.
    monkeypatch.setattr(LaCTLVSM, "reconstruct", reconstruct)
    monkeypatch.setattr(LaCTLVSM, "_render_chunk", lambda self, state, k, c2w, size: torch.full((1, c2w.shape[1], 3, *size), 0.5))
    assert inference.main(shlex.split(command)) == 0
    args = inference.parse(shlex.split(command))
    name, n, v = ("dl3dv", args.num_all_views, args.num_input_views) if args.scene_inference else ("gso", 64, 8)
    h, w = args.image_size
    assert shapes == [(1, v, 3, h, w)]
    assert decode(Path("output") / name / "video.mp4")[0].shape == (2, h, w, 3)
    assert metrics(Path("output"))["mean"]["views"] == n - v


def test_image_size_and_inputs_default_to_what_the_weights_were_trained_with(published, monkeypatch):
    monkeypatch.chdir(published)
    monkeypatch.setattr(checkpoint, "ROOT", published)
    data = "--data_path data_example/dl3dv_sample_data_path.json --num_target_views 1 --output_dir default"
    command = f"--load weight/scene_res72x128.pt {data} --scene_inference --video_format none --no_lpips"
    assert inference.main(shlex.split(command)) == 0
    about = metrics(Path("default"))["about"]
    assert about["image_size"] == [72, 128]
    assert len(about["input_views"]["dl3dv"]) == 64


WITHOUT_EFFECT = {
    "with --load_state": [
        "--num_all_views 4", "--num_input_views 2", "--num_target_views 2", "--view_selection random", "--target_every 2",
        "--view_index i.json", "--save_images", "--no_lpips", "--save_state", "--newton_schulz_dtype float32", "--num_workers 0",
        "--data_path x.json", "--view_selection random --seed 1", "--scene_inference --scene_scale 1",
        "--scene_inference --pose_reference all",
    ],
    "with --view_index": [
        "--num_all_views 4", "--num_input_views 2", "--num_target_views 0", "--view_selection random", "--target_every 2",
    ],
    "with --target_every": ["--num_all_views 4", "--num_target_views 2"],
    "with --num_target_views 0": ["--save_images", "--no_lpips"],
    "without --view_selection random or kmeans": ["--seed 0", "--view_selection uniform --seed 1"],
    "without --scene_inference": ["--pose_reference all", "--scene_scale 1", "--path_order given"],
    "with --video_format none": ["--video_frames 3", "--video_fps 3", "--scene_inference --path_order given"],
}  # fmt: skip
MODES = {"with --load_state": "--load_state s", "with --view_index": "--view_index i --data_path d"}


@pytest.mark.parametrize(("mode", "flags"), [(mode, flags) for mode, several in WITHOUT_EFFECT.items() for flags in several])
def test_flags_without_effect_are_refused(mode, flags, capsys):
    words = MODES.get(mode, f"{mode.partition(' ')[2]} --data_path d")
    words = words if mode.startswith("with ") else "--data_path d"
    words = words.replace("--target_every", "--target_every 2")
    assert inference.main(shlex.split(f"--load w {words} {flags}")) == 2
    flag = [word for word in flags.split() if word.startswith("--")][-1]
    flag = "--view_selection" if "--load_state" in words and "--seed" in flags else flag  # it comes first
    assert capsys.readouterr().err == f"inference.py: {flag}: has no effect {mode}; leave it out\n"


BAD_FLAGS = [
    ("--load w --data_path d --num_input 3", "unrecognized arguments: --num_input 3; see --help"),
    ("--load w --data_path d --image_size 8", "argument --image_size: expected 2 arguments; see --help"),
    ("--load w --data_path d --video_format avi", r"argument --video_format: invalid choice: 'avi' \(choose from .*\); see --help"),
    *((f"--load w --data_path d --{name} -1", f"--{name}: is -1; wanted {n} or more") for name, n in inference.LEAST.items()),
    *((f"--load w --data_path d --{name} 0", f"--{name}: is 0; wanted 1 or more") for name, n in inference.LEAST.items() if n),
    ("--load w --data_path d --video_fps 241", "--video_fps: is 241; wanted 240 or less"),
    *((f"--load w --data_path d --scene_inference --scene_scale {x}", f"--scene_scale: is {x}; wanted a number above 0")
      for x in ("0.0", "-1.5", "nan", "inf")),
    ("--load w --load_state s --video_format none", "--load_state: has no effect with --video_format none; leave it out"),
    ("--load w --data_path d --num_target_views 0 --video_format none",
     "--num_target_views 0: leaves nothing to do with --video_format none; wanted a video or --save_state"),
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
        monkeypatch.setenv("RANK", rank)
        assert inference.main(["--load", "w", "--load_state", "s"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == lines
        assert "--load_state: has no effect under torchrun: it is one video of one process" in error or not lines


def spoil(folder: Path) -> None:
    """Put bad input of every kind into a folder."""
    write_random_data_path(folder, scenes=3, n=7, size=(25, 34))
    photo = folder / "scene_1" / "images" / "00003.png"
    photo.write_bytes(photo.read_bytes()[:200])
    (folder / "no_json.json").write_text("[1, 2")
    (folder / "index.json").write_text(json.dumps({"scene_0": {"inputs": [0, 1], "targets": [9]}}))
    (folder / "other.json").write_text(json.dumps({"elsewhere": {"inputs": [0], "targets": [1]}}))
    (folder / "bad.yaml").write_text("patch_size: [\n  dim\n")
    (folder / "file").write_text("")
    (folder / "config.yaml").write_text(json.dumps(small_model("fast_weight", layers=1).config.to_dict()))
    one = json.loads((folder / "scene_0" / "opencv_cameras.json").read_text())
    (folder / "scene_0" / "still.json").write_text(json.dumps([{**view, "w2c": one[0]["w2c"]} for view in one]))


BAD_INPUT = [
    ("--load nowhere.pt", "nowhere.pt: no such weight file; .+"),
    ("--config config.yaml", r".*tiny.safetensors: .*blocks\.0\.module_list\.0.* in this network.*; wanted the weights of .*"),
    ("--config bad.yaml", "bad.yaml.+"),
    ("--image_size 22 28", "image size: found height 22, wanted a multiple of the patch 4: 20 or 24"),
    ("--image_size 20 -4", "image size: found width -4, wanted .+"),
    ("--num_input_views 9", r".*scene_0/opencv_cameras.json: .*found 7 views, wanted 9 \(9 inputs, .*: ask for fewer"),
    ("--num_all_views 8", ".*scene_0/opencv_cameras.json: .*found 7 views, wanted 8 for num_all_views: ask for fewer"),
    ("--data_path no_json.json", "no_json.json: found no valid JSON .+, wanted a JSON file"),
    ("--data_path nowhere.json", "nowhere.json: found no such file, wanted a JSON file"),
    ("--view_index nowhere.json --data_path scene_0/opencv_cameras.json", "nowhere.json: found no such file, wanted a JSON file"),
    ("--view_index index.json --data_path scene_0/opencv_cameras.json", ".*: view_index, targets: found view 9, wanted 0 to 6"),
    ("--view_index other.json", "other.json, scene 'scene_0': found no entry among 1, wanted its inputs and targets"),
    ("--data_path scene_0/still.json --scene_inference", ".*still.json: normalise_poses: .* too little to set a scale: .*"),
    ("--output_dir file", r"file: cannot be written to \(.+\); wanted a folder for the results"),
    ("--output_dir file/below", r"file/below: cannot be written to \(.+\); wanted a folder for the results"),
    ("--device cuda:99", "device 'cuda:99': this machine has .+"),
    ("--load_state nowhere.safetensors", "nowhere.safetensors: no such file; wanted a scene state .+"),
    ("--load_state bad.yaml", "bad.yaml: not a safetensors file .+; wanted a scene state .+"),
    ("--load_state other.state", "scene state: written by weights .+; wanted .+, the ones loaded"),
    ("--load_state tiny.state --image_size 20 30", "image size 20 30: height and width must be multiples of the patch, 4"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bad_place(tmp_path_factory, place) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    spoil(folder)
    for name in ("tiny", "other"):
        model = load_model(place / f"{name}.safetensors", device="cpu")
        views = load_views(read_scene(place / "scene_0" / "opencv_cameras.json"), [0, 1], SIZE, patch_size=4)
        model.reconstruct(*(views[key][None] for key in ("image", "fxfycxcy", "c2w"))).save(folder / f"{name}.state")
    return folder


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


def told(error: str) -> list[str]:
    """Return the lines of standard error that are no progress bars."""
    lines = re.sub(r"\x1b\[A|\x1b\[K", "\n", error).replace("\r", "\n").splitlines()
    return [line.strip() for line in lines if line.strip() and not BAR.fullmatch(line.strip())]


def test_damaged_photo_leaves_finished_scenes_and_the_report_of_an_earlier_run(infer, bad_place, tmp_path, capsys):
    earlier = infer("--num_input_views 2 --no_lpips --video_frames 2")
    kept = {name: (earlier / name).read_bytes() for name in files(earlier) if not name.startswith("scene_0")}
    (earlier / "scene_0" / "video.mp4").unlink()
    capsys.readouterr()
    words = f"--load {bad_place.parent} --num_input_views 2 --no_lpips --video_frames 2 --image_size 20 28".split()
    words[1] = json.loads((earlier / "metrics.json").read_text())["about"]["load"]
    assert inference.main([*words, "--data_path", str(bad_place / "test_data_path.json"), "--output_dir", str(earlier)]) == 2
    (line,) = told(capsys.readouterr().err)
    assert re.fullmatch("inference.py: .*scene_1/images/00003.png: found a damaged image .*, wanted a whole .*", line)
    assert {name: (earlier / name).read_bytes() for name in kept} == kept
    assert (earlier / "scene_0" / "video.mp4").exists()
    assert len(files(earlier)) == len(kept) + 2


@pytest.mark.parametrize("extension", ["mp4", "gif"])
def test_error_in_the_middle_of_a_video_leaves_the_old_one(infer, place, tmp_path, monkeypatch, capsys, extension):
    flags = f"--num_input_views 2 --num_target_views 0 --video_frames 6 --video_format {extension}"
    folder = infer(flags, data="scene_0/opencv_cameras.json")
    old = (folder / "scene_0" / f"video.{extension}").read_bytes()
    write, calls = inference.VideoWriter.write, []

    def failing(self, frame):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        write(self, frame)

    monkeypatch.setattr(inference.VideoWriter, "write", failing)
    with pytest.raises(AssertionError):
        infer(flags, data="scene_0/opencv_cameras.json")
    assert told(capsys.readouterr().err)[-1] == "inference.py: [Errno 28] No space left on device"
    assert files(folder) == [f"scene_0/video.{extension}"]
    assert (folder / "scene_0" / f"video.{extension}").read_bytes() == old


def test_running_out_of_gpu_memory_is_told_in_one_line(place, tmp_path, monkeypatch, capsys):
    def reconstruct(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 3 GiB")

    monkeypatch.setattr(LaCTLVSM, "reconstruct", reconstruct)
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", str(place / "test_data_path.json"), "--no_lpips"]
    assert inference.main([*words, "--output_dir", str(tmp_path), "--num_input_views", "2"]) == 2
    assert "out of GPU memory; wanted fewer input views" in told(capsys.readouterr().err)[-1]


def test_faults_of_the_program_are_not_hidden(infer, monkeypatch):
    monkeypatch.setattr(LaCTLVSM, "reconstruct", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        infer("--num_input_views 2 --no_lpips")


def command(place: Path, folder: Path, data: Path, *flags: str) -> list[str]:
    words = ["--load", str(place / "tiny.safetensors"), "--data_path", str(data), "--output_dir", str(folder), *EXACT]
    return [str(ROOT / "inference.py"), *words, "--num_input_views", "3", "--no_lpips", "--image_size", *map(str, SIZE), *flags]


def environment(**extra: object) -> dict[str, str]:
    names = {"OMP_NUM_THREADS": 1, "TQDM_MININTERVAL": 0, **extra}
    return {**os.environ, **{name: str(value) for name, value in names.items()}}


def test_stopped_in_the_middle_of_a_video_as_a_scheduler_does(place, tmp_path):
    (tmp_path / "scene_0").mkdir()
    (tmp_path / "scene_0" / "video.mp4").write_bytes(b"old")
    words = command(place, tmp_path, place / "scene_0" / "opencv_cameras.json", "--video_frames", "1000000")
    shown = tmp_path / "shown.txt"
    with shown.open("w") as file:
        process = subprocess.Popen([sys.executable, *words], env=environment(), stderr=file)
    try:
        deadline = time.monotonic() + 60
        while not re.search(r"video:.* \d\d+/1000000", shown.read_text()):
            assert process.poll() is None, shown.read_text()
            assert time.monotonic() < deadline, shown.read_text()
            time.sleep(0.05)
        assert len(list((tmp_path / "scene_0").glob(".video.*.mp4"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert told(shown.read_text()) == []
    assert files(tmp_path) == ["scene_0/comparison.png", "scene_0/video.mp4", "shown.txt"]
    assert (tmp_path / "scene_0" / "video.mp4").read_bytes() == b"old"


def test_torchrun_shares_the_scenes_and_writes_one_table(infer, place, tmp_path):
    alone = metrics(infer("--num_input_views 3 --no_lpips --video_frames 2", "alone"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = ["--video_frames", "2", "--newton_schulz_dtype", "float32"]
    words = command(place, tmp_path / "two", place / "test_data_path.json", *flags)
    done = subprocess.run([*launch, *words], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == files(tmp_path / "alone")
    found = metrics(tmp_path / "two")
    for one, two in zip(alone["views"], found["views"], strict=True):
        assert two == {**one, "psnr": pytest.approx(one["psnr"], abs=1e-3), "ssim": pytest.approx(one["ssim"], abs=1e-4)}
    first_words = [line.split()[0] for line in done.stdout.splitlines()]
    assert first_words == ["scene", "scene_0", "scene_1", "scene_2", "mean", "LPIPS", "results"]
    # Progress bars, with rate and remaining time, and nothing else.
    assert told(done.stderr) == []
    for name in ("scenes:  67%", "reconstruct: 100%", "evaluate: 100%", "video: 100%"):
        assert name in done.stderr
    assert re.search(r"reconstruct:.*<.*layer/s", done.stderr)


def test_what_goes_wrong_in_one_process_ends_both_and_is_told_once(bad_place, place, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = command(place, tmp_path, bad_place / "test_data_path.json", "--video_format", "none")
    processes = []
    for rank in range(2):
        variables = environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=port)
        processes.append(subprocess.Popen([sys.executable, *words], env=variables, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    (line,) = [line for error in errors for line in told(error)]
    assert re.match(r"inference.py: .*scene_1/images/00003.png: found a damaged image", line)
    # Scene 0 was the other process's, and is finished; the report would have been of all.
    assert files(tmp_path) == ["scene_0/comparison.png"]


class TwoProcesses:
    """Stands for `Processes` on one of two, the other of which has failed."""

    def __init__(self, first: bool) -> None:
        self.first = first

    def highest(self, number: int) -> int:
        return 1

    def gather(self, value: str | None) -> list[str | None] | None:
        return [value, "b.json: bad"] if self.first else None


def test_processes_stop_together_and_the_first_reports():
    with pytest.raises(ValueError, match=r"^b.json: bad$"):
        inference.together(TwoProcesses(first=True), lambda: 1)
    with pytest.raises(ValueError, match=r"^Expecting value: "):
        inference.together(TwoProcesses(first=True), lambda: json.loads("x"))
    with pytest.raises(SystemExit) as stopped:
        inference.together(TwoProcesses(first=False), lambda: 1)
    assert stopped.value.code == 2
