"""inference.py: the published demo's command lines, and defaults that depend on the weights."""

import json
import shlex
from pathlib import Path

import pytest
import torch

import inference
from config.flags import read_command_line
from config.rendering import SETTINGS
from data.scene_list import write_data_path
from model import LaCTLVSM, SceneState
from model.evaluation import scores
from model.weights import load, table
from tests.support.inference_run import metrics
from tests.support.networks import small_model
from tests.support.scenes import write_random_scene
from tests.support.videos import decode

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
    for row in table.published_weights().values():
        torch.save({"model": model.state_dict()}, folder / "weight" / row.file)
        (folder / row.config).write_text(json.dumps(model.config.to_dict()))  # JSON is YAML
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", PUBLISHED, ids=lambda command: command.split()[1])
def test_published_commands_run_as_they_stand(published, monkeypatch, command):
    monkeypatch.chdir(published)
    monkeypatch.setattr(load, "ROOT", published)
    monkeypatch.setattr(scores, "resolve_lpips", lambda fetch: (_ for _ in ()).throw(FileNotFoundError("none")))
    monkeypatch.setattr(scores, "ssim", scores.psnr)  # slow at these sizes
    shapes = []

    def reconstruct(self, image, fxfycxcy, c2w, chunk_views, progress):
        shapes.append(tuple(image.shape))
        return SceneState([], fxfycxcy, c2w, tuple(image.shape[-2:]), self.fingerprint())

    # The network is too slow at these sizes; all around it runs.
    monkeypatch.setattr(LaCTLVSM, "reconstruct", reconstruct)
    monkeypatch.setattr(LaCTLVSM, "_check_state", lambda self, state, b: None)
    monkeypatch.setattr(
        LaCTLVSM, "_render_chunk", lambda self, state, k, c2w, size, _: torch.full((1, c2w.shape[1], 3, *size), 0.5)
    )
    assert inference.main([*shlex.split(command), "--video_frames", "2"]) == 0  # a shorter video
    given = read_command_line("inference.py", "", SETTINGS, shlex.split(command))
    name, n, v = ("dl3dv", given["num_all_views"], given["num_input_views"][0]) if "scene_inference" in given else ("gso", 64, 8)
    h, w = given["image_size"]
    assert shapes == [(1, v, 3, h, w)]
    assert decode(Path("output") / name / "video.mp4")[0].shape == (2, h, w, 3)
    assert metrics(Path("output"))["mean"]["views"] == n - v


def test_image_size_and_inputs_default_to_what_the_weights_were_trained_with(published, monkeypatch):
    monkeypatch.chdir(published)
    monkeypatch.setattr(load, "ROOT", published)
    data = "--data_path data_example/dl3dv_sample_data_path.json --num_target_views 1 --output_dir default"
    command = f"--load weight/scene_res72x128.pt {data} --scene_inference --video_format none --no_lpips"
    assert inference.main(shlex.split(command)) == 0
    about = metrics(Path("default"))["about"]
    assert about["image_size"] == [72, 128]
    assert len(about["input_views"]["dl3dv"]) == 64
