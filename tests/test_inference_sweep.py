"""inference.py: several numbers of inputs, protocols, index files, baselines, and the object's box. Letters: h w pixels."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import inference
from config import rendering
from data.dataset import load_views
from data.scene_format import read_scene, write_scene
from data.view_index import read_view_index
from data.view_selection import select_sweep, select_views
from model import LaCTLVSM, SceneState
from tests.support.inference_run import EXACT, SIZE, files, metrics
from tests.support.scenes import write_random_scene

COMMON = "--no_lpips --video_format none"


def poses_of(path) -> np.ndarray:
    return np.stack([view.c2w for view in read_scene(path).views])


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * np.log10(((one.double() - other.double()) ** 2).mean().item())


def test_a_sweep_is_as_its_runs_one_by_one_on_the_same_targets(infer, place):
    folder = infer(f"--num_input_views 4 2 --target_every 3 {COMMON} --save_images")
    found = metrics(folder)
    assert [(mean["inputs"], mean["scenes"], mean["views"]) for mean in found["means"]] == [(2, 3, 9), (4, 3, 9)]
    assert "mean" not in found
    for count in (2, 4):
        one = metrics(infer(f"--num_input_views {count} --target_every 3 {COMMON}", f"alone_{count}"))
        assert [row for row in found["views"] if row["inputs"] == count] == one["views"]
        assert {name: views[str(count)] for name, views in found["about"]["input_views"].items()} == one["about"]["input_views"]
        assert {**found["means"][count // 4], **one["mean"]} == one["mean"]
    assert files(folder / "scene_1") == [
        f"inputs_{count}/{name}"
        for count in (2, 4)
        for name in ("comparison.png", "images/00000.png", "images/00003.png", "images/00006.png")
    ]
    assert {path.name for path in folder.iterdir()} >= {"curves.png", "report.html"}
    with (folder / "metrics_scenes.csv").open(newline="") as file:
        assert [(row["scene"], row["inputs"]) for row in csv.DictReader(file)] == [
            (f"scene_{i}", count) for i in range(3) for count in "24"
        ]
    assert found["about"]["num_input_views"] == [4, 2]


def test_without_fixed_targets_the_largest_number_leaves_them(infer, place):
    found = metrics(infer(f"--num_input_views 2 5 {COMMON}", data="scene_0/opencv_cameras.json"))
    choice = select_sweep(poses_of(place / "scene_0" / "opencv_cameras.json"), [2, 5], method="spread")
    assert found["about"]["input_views"]["scene_0"] == {"2": choice.inputs[0], "5": choice.inputs[1]}
    assert [row["view"] for row in found["views"]] == 2 * choice.targets
    assert len(choice.targets) == 2


def test_baselines_are_the_mean_of_the_inputs_and_the_nearest_photo(infer, place):
    found = metrics(infer(f"--num_input_views 3 {COMMON}", data="scene_2/opencv_cameras.json"))
    scene = read_scene(place / "scene_2" / "opencv_cameras.json")
    inputs = found["about"]["input_views"]["scene_2"]
    photos, c2w = load_views(scene, range(7), SIZE, patch_size=4)["image"], poses_of(scene.json_path)
    half = np.linalg.norm(np.ptp(c2w[inputs, :3, 3], axis=0) / 2)
    for row in found["views"]:
        assert row["psnr_mean"] == pytest.approx(decibels(photos[inputs].mean(0), photos[row["view"]]), abs=1e-3)
        here = c2w[row["view"]]
        distances = [
            np.hypot(np.linalg.norm(c2w[i, :3, 3] - here[:3, 3]) / half, np.arccos(c2w[i, :3, 2] @ here[:3, 2])) for i in inputs
        ]
        nearest = inputs[int(np.argmin(distances))]
        assert row["psnr_nearest"] == pytest.approx(decibels(photos[nearest], photos[row["view"]]), abs=1e-3)
        assert None not in (row["ssim_mean"], row["ssim_nearest"])
        assert (row["lpips_mean"], row["psnr_box"]) == (None, None)  # not asked for, and no transparency


def test_speed_tokens_and_memory_are_told(infer):
    (scene,) = metrics(infer(f"--num_input_views 3 {COMMON}", data="scene_2/opencv_cameras.json"))["scenes"]
    tokens = SIZE[0] * SIZE[1] // 4**2
    assert (scene["tokens_per_view"], scene["input_tokens"]) == (tokens, 3 * tokens)
    assert 0 < scene["reconstruct_s"] < 60
    assert 0 < scene["frames_per_s"] < 1e5
    assert 50e6 < scene["peak_memory_bytes"] < 50e9


def test_an_object_on_a_transparent_background_is_measured_in_its_box(place, tmp_path):
    path = write_random_scene(tmp_path / "cup", n=5, size=SIZE)
    scene = read_scene(path)
    boxes = []
    for i, view in enumerate(scene.views):
        alpha = np.zeros(SIZE, np.uint8)
        boxes.append((slice(2 + i, 12 + i), slice(9 - i, 20)))
        alpha[boxes[-1]] = 255
        Image.fromarray(np.dstack([np.asarray(Image.open(view.file_path)), alpha])).save(view.file_path)
    argv = ["--load", str(place / "tiny.safetensors"), "--data_path", str(path), *EXACT, "--image_size", *map(str, SIZE)]
    argv += ["--newton_schulz_dtype", "float32", "--num_input_views", "3", "--save_images", *COMMON.split()]
    for flags, in_box in (([], True), (["--scene_inference"], False)):
        assert inference.main([*argv, "--output_dir", str(tmp_path / "out"), *flags]) == 0
        for row in metrics(tmp_path / "out")["views"]:
            assert (row["psnr_box"] is not None) is in_box
            if not in_box:
                continue
            with Image.open(tmp_path / "out" / "cup" / "images" / f"{row['view']:05d}.png") as image:
                rendered = torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1)
            photo = load_views(scene, [row["view"]], SIZE, patch_size=4)["image"][0]
            rows, columns = boxes[row["view"]]
            # The PNG rounds to 1 / 255.
            assert row["psnr_box"] == pytest.approx(decibels(rendered[:, rows, columns], photo[:, rows, columns]), abs=0.06)
            assert row["psnr_box"] < row["psnr"] - 0.5 or row["psnr_box"] > row["psnr"] + 0.1


def test_the_chosen_views_are_written_and_read_again(infer, place, tmp_path):
    index = tmp_path / "index.json"
    first = metrics(infer(f"--num_input_views 2 4 --target_every 3 --write_view_index {index} {COMMON}"))
    assert read_view_index(index, "scene_1", 7, [4]).targets == [0, 3, 6]
    again = metrics(infer(f"--num_input_views 2 4 --view_index {index} {COMMON}", "again"))
    assert again["views"] == first["views"]
    assert again["about"]["input_views"] == first["about"]["input_views"]
    four = metrics(infer(f"--num_input_views 4 --view_index {index} {COMMON}", "four"))
    assert four["views"] == [row for row in first["views"] if row["inputs"] == 4]


def test_scenes_of_one_name_have_no_place_in_an_index_file(place, tmp_path, capsys):
    (place / "same.json").write_text(json.dumps(["scene_0/opencv_cameras.json"] * 2))
    argv = ["--load", str(place / "tiny.safetensors"), "--data_path", str(place / "same.json"), *EXACT, *COMMON.split()]
    argv += ["--image_size", *map(str, SIZE), "--num_input_views", "3", "--write_view_index", str(tmp_path / "i.json")]
    assert inference.main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    wanted = "cannot tell two scenes named scene_0 apart; wanted scenes of different names"
    assert line == f"inference.py: --write_view_index: {wanted}"
    assert files(tmp_path) == []


@pytest.fixture
def capture(tmp_path):
    """A scene of 19 views, larger than those that its weights see."""
    path = write_random_scene(tmp_path / "0a1b", n=19, size=(54, 97))
    scene = read_scene(path)
    write_scene(path, scene.views, long_lrm=True)
    return path


def test_a_protocol_is_all_of_its_settings(capture, place, tmp_path, monkeypatch):
    seen = []

    def render_stream(self, state, fxfycxcy, c2w, size, chunk_views):
        return iter([torch.rand(1, c2w.shape[1], 3, *size)])

    def reconstruct(self, image, fxfycxcy, c2w, chunk_views, progress):
        seen.append((tuple(image.shape), c2w[0]))
        return SceneState([], fxfycxcy, c2w, tuple(image.shape[-2:]), self.fingerprint())

    monkeypatch.setattr(LaCTLVSM, "reconstruct", reconstruct)  # too slow at this size
    monkeypatch.setattr(LaCTLVSM, "render_stream", render_stream)
    argv = ["--load", str(place / "tiny.safetensors"), "--data_path", str(capture), *EXACT, *COMMON.split()]
    assert inference.main([*argv, "--protocol", "dl3dv140", "--num_input_views", "4", "--output_dir", str(tmp_path / "a")]) == 0
    ((shape, c2w),) = seen
    assert shape == (1, 4, 3, 536, 960)
    assert c2w[:, :3, 3].abs().max().item() == pytest.approx(1, abs=1e-5)  # normalised over the inputs alone
    found = metrics(tmp_path / "a")
    inputs, targets = select_views(poses_of(capture), None, 4, None, "kmeans", 8)
    assert found["about"]["input_views"] == {"0a1b": inputs}
    assert [row["view"] for row in found["views"]] == targets == [0, 8, 16]
    about = {name: found["about"][name] for name in ("protocol", *rendering.PROTOCOLS["dl3dv140"])}
    assert about == {
        "protocol": "dl3dv140", "scene_inference": True, "image_size": [536, 960], "target_every": 8,
        "view_selection": "kmeans", "pose_reference": "inputs",
    }  # fmt: skip
    # Long-LRM's index file holds the same inputs; here they are others, to see that they are taken.
    entry = {"scene_name": "0a1b", "fold_8_kmeans_2_input": [5, 12], "fold_8_kmeans_3_input": [1, 9, 18]}
    (tmp_path / "index.json").write_text(json.dumps([{"scene_name": "another"}, entry]))
    words = ["--view_index", str(tmp_path / "index.json"), "--num_input_views", "3", "--output_dir", str(tmp_path / "b")]
    assert inference.main([*argv, "--protocol", "dl3dv140", *words]) == 0
    found = metrics(tmp_path / "b")
    assert found["about"]["input_views"] == {"0a1b": [1, 9, 18]}
    assert [row["view"] for row in found["views"]] == [0, 8, 16]
    assert "target_every" not in found["about"]


def test_only_the_scenes_of_this_run_are_on_its_page(infer, place):
    folder = infer(f"--num_input_views 3 {COMMON}")
    assert "scene_1" in (folder / "report.html").read_text()
    infer(f"--num_input_views 3 {COMMON}", data="scene_0/opencv_cameras.json")
    page = (folder / "report.html").read_text()
    assert "scene_0" in page
    assert "scene_1" not in page
    assert (folder / "scene_1" / "comparison.png").exists()  # of the earlier run; nothing is deleted
    assert [scene["scene"] for scene in metrics(folder)["scenes"]] == ["scene_0"]
