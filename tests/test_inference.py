"""inference.py through `main`: renderings, metrics and files. Letters: h w pixels."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

import inference
from config import rendering
from config.threads import cores
from data import view_selection
from data.dataset import load_views
from data.scene_format import read_scene
from model import LaCTLVSM, SceneState, load_model, video_plan
from model.camera_path import SMOOTHING, flight, turntable
from model.evaluation import plan, render_scene, scores
from model.machine import describe_machine
from model.metric import LPIPS
from model.ops.fast_weight import IMPLEMENTATIONS
from model.runtime import PRECISIONS
from tests.support.inference_run import ROOT, SIZE, files, metrics
from tests.support.lpips_weights import head_weights, vgg_weights
from tests.support.videos import decode


def reconstruction(place: Path, scene: str, inputs: list[int], c2w: Tensor | None = None):
    """Return the network and a scene's state, computed without the program; poses as in the file unless given."""
    model = load_model(place / "tiny.safetensors", device="cpu", precision="float32", newton_schulz_dtype="float32")
    views = load_views(read_scene(place / scene / "opencv_cameras.json"), inputs, SIZE, patch_size=4)
    c2w = views["c2w"] if c2w is None else c2w
    return model, model.reconstruct(views["image"][None], views["fxfycxcy"][None], c2w[None]), views


def levels(images: Tensor) -> np.ndarray:
    """Return images (n, 3, h, w) as a file stores them: (n, h, w, 3), 0..255, not rounded."""
    return images.permute(0, 2, 3, 1).numpy() * 255


def test_flags_offer_what_there_is():
    assert set(rendering.VIEW_SELECTIONS) == set(view_selection.PICKERS)
    assert set(rendering.PRECISIONS) == set(PRECISIONS)
    assert set(rendering.FAST_WEIGHT_OPS) == set(IMPLEMENTATIONS)
    assert rendering.Video().path_smoothing == SMOOTHING


def test_metrics_are_those_of_the_saved_images(infer, place, capsys):
    index = {f"scene_{i}": {"inputs": [0, 3, 5], "targets": targets} for i, targets in enumerate([[1, 2, 6], [4], [2, 1]])}
    (place / "index.json").write_text(json.dumps(index))
    folder = infer(f"--view_index {place / 'index.json'} --save_images --no_lpips --video_format none")
    assert files(folder) == [
        "metrics.json", "metrics.md", "metrics.tex", "metrics_scenes.csv", "metrics_views.csv", "report.html",
        "scene_0/comparison.png", "scene_0/images/00001.png", "scene_0/images/00002.png", "scene_0/images/00006.png",
        "scene_1/comparison.png", "scene_1/images/00004.png",
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
    machine = found["about"]["machine"]
    assert machine == {**describe_machine(torch.device("cpu"), torch.float32), "commit": machine["commit"]}
    assert found["about"]["input_views"] == {name: entry["inputs"] for name, entry in index.items()}
    with (folder / "metrics_views.csv").open(newline="") as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [row["psnr"] for row in found["views"]]


def test_turntable_video_shows_what_the_network_renders(infer, place):
    folder = infer("--num_input_views 3 --no_lpips --video_frames 5 --video_fps 12")
    model, state, _ = reconstruction(place, "scene_1", metrics(folder)["about"]["input_views"]["scene_1"])
    path = turntable(state, 5)
    expected = levels(model.render(state, path.fxfycxcy[None], path.c2w[None], SIZE)[0])
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
    # The state says that its poses are normalised: its video is a flight, not a turntable.
    unsaid = infer(f"--video_frames 4 --load_state {folder / 'scene_0' / 'state.safetensors'}", "unsaid", data=None)
    assert np.array_equal(decode(unsaid / "video.mp4")[0], frames)
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
    monkeypatch.setattr(plan, "DEFAULT_INPUT_VIEWS", 5)
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
    assert {row["inputs"] for row in found["views"]} == {len(chosen)}
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
    monkeypatch.setattr(scores, "resolve_lpips", lambda fetch: (tmp_path / "vgg.pth", tmp_path / "heads.pth"))
    folder = infer("--num_input_views 6 --save_images --video_format none", data="scene_0/opencv_cameras.json")
    (row,) = metrics(folder)["views"]
    scene = read_scene(metrics(folder)["about"]["data_path"])
    photo = load_views(scene, [row["view"]], SIZE, patch_size=4)["image"][0]
    with Image.open(folder / "scene_0" / "images" / f"{row['view']:05d}.png") as image:
        rendered = torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1).float()
    expected = LPIPS(vgg_weights(), head_weights())(rendered, photo).item()
    assert row["lpips"] == pytest.approx(expected, rel=0.02)  # the PNG rounds to 1 / 255
    assert row["lpips"] > 0
    assert metrics(folder)["about"]["not_computed"] == {}


def test_lpips_without_its_files_is_not_computed_and_says_why(infer, monkeypatch, capsys):
    def missing(fetch):
        raise FileNotFoundError("vgg16.pth: not there; get it and save it")

    monkeypatch.setattr(scores, "resolve_lpips", missing)
    folder = infer("--num_input_views 6 --video_format none", data="scene_0/opencv_cameras.json")
    assert metrics(folder)["views"][0]["lpips"] is None
    assert metrics(folder)["about"]["not_computed"] == {"lpips": "vgg16.pth: not there; get it and save it"}
    output = capsys.readouterr().out
    assert "LPIPS not computed: vgg16.pth: not there; get it and save it" in output
    assert output.count("not computed") == 3  # scene, mean, and why


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (ROOT, "weight/lact_objects_64.safetensors"),
        (ROOT, "./weight/lact_objects_64.safetensors"),
        (ROOT / "data", "../weight/lact_objects_64.safetensors"),
        (ROOT / "data", str(ROOT / "weight" / "lact_objects_64.safetensors")),
        (ROOT / "data", "lact_objects_64.safetensors"),
    ],
)
def test_bundled_model_by_name_is_the_default(tmp_path, monkeypatch, folder, name):
    fetched = []

    def resolve_lpips(fetch):
        fetched.append(fetch)
        raise FileNotFoundError("vgg16.pth: not there")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(scores, "resolve_lpips", resolve_lpips)
    flags = f"--data_path {ROOT}/data_example/objects_1000003_000060/opencv_cameras.json --num_target_views 1 --video_format none"
    assert inference.main([*flags.split(), "--output_dir", str(tmp_path / "default")]) == 0
    assert inference.main([*flags.split(), "--output_dir", str(tmp_path / "named"), "--load", name]) == 0
    for key in ("about", "views"):
        assert metrics(tmp_path / "named")[key] == metrics(tmp_path / "default")[key]
    assert fetched == [False, False]


def test_flags_of_path_and_machine_reach_what_they_steer(infer, place, monkeypatch):
    seen = {}

    class Dataset(plan.SceneDataset):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            seen["workers"] = self.workers

    def path(*args, order, **options):
        seen["order"] = order
        return flight(*args, order=order, **options)

    monkeypatch.setattr(plan, "SceneDataset", Dataset)
    monkeypatch.setattr(video_plan, "flight", path)
    monkeypatch.setattr(LaCTLVSM, "compile_layers", lambda self, mode: seen.update(compiled=mode) or self)
    monkeypatch.setattr(LaCTLVSM, "set_fast_weight", lambda self, *args: seen.update(fast_weight=args) or self)
    words = "--scene_inference --num_input_views 3 --num_target_views 0 --video_frames 1"
    machine = "--num_workers 0 --compile --compile_mode max-autotune-no-cudagraphs --fast_weight_ops naive"
    infer(f"{words} --path_order nearest {machine}", data="scene_0/opencv_cameras.json")
    compiled = {"compiled": "max-autotune-no-cudagraphs", "fast_weight": (torch.float32, "naive")}
    assert seen == {"workers": 0, "order": "nearest", **compiled}
    del seen["compiled"]
    infer(words, data="scene_0/opencv_cameras.json")
    assert seen == {"workers": min(8, cores()), "order": "given", "fast_weight": (torch.float32, "auto")}


def test_scenes_of_one_name_get_a_folder_each(infer, place):
    (place / "twice.json").write_text(json.dumps(["scene_0/opencv_cameras.json", "scene_0/opencv_cameras.json"]))
    folder = infer("--num_input_views 5 --no_lpips --video_format none", data="twice.json")
    assert files(folder)[:2] == ["000_scene_0/comparison.png", "001_scene_0/comparison.png"]
    assert [(scene["scene"], scene["views"]) for scene in metrics(folder)["scenes"]] == [("000_scene_0", 2), ("001_scene_0", 2)]


def test_targets_beyond_one_batch_are_all_rendered_in_their_order(infer, monkeypatch):
    whole = metrics(infer("--num_input_views 2 --no_lpips --video_format none"))["views"]
    monkeypatch.setattr(render_scene, "TARGET_BATCH", 2)
    batches = metrics(infer("--num_input_views 2 --no_lpips --video_format none", "batches"))["views"]
    for one, two in zip(whole, batches, strict=True):
        assert two == {**one, "psnr": pytest.approx(one["psnr"], abs=1e-3), "ssim": pytest.approx(one["ssim"], abs=1e-4)}
