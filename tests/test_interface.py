"""Functions for notebooks: scenes from disk, videos, the viewer. Letters: v views, n views of a scene, h w pixels."""

import dataclasses
import doctest
import os
import re
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from config.errors import InputError
from config.rendering import DEFAULT_SCENE_WEIGHTS, Views
from data.dataset import load_views
from data.output.video import to_uint8
from data.scene_format import CAMERAS, read_scene
from data.scene_list import write_data_path
from data_preprocess import pack_scenes
from model import (
    LaCTLVSM,
    PosedImages,
    SceneState,
    flight,
    load_model,
    load_scene,
    orbit,
    render_video,
    show,
    stream_scene,
    turntable,
)
from model.departure import TrainedWith
from model.evaluation.plan import choose_views, plan_job
from tests.support.networks import small_model
from tests.support.scenes import write_random_scene
from tests.support.videos import decode

N, SIZE = 7, (12, 16)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of a scene of seven photos of 25×34, with a list of it and a list of two beside."""
    place = tmp_path_factory.mktemp("interface")
    paths = [write_random_scene(place / name, N, (25, 34), seed) for seed, name in enumerate(("desk", "garden"))]
    write_data_path(place / "one_data_path.json", paths[:1])
    write_data_path(place / "two_data_path.json", paths)
    (place / "empty").mkdir()
    return place / "desk"


def network(normalised: bool = False) -> LaCTLVSM:
    model = small_model("self_attention", "fast_weight", "mlp")
    model.trained_with = TrainedWith(SIZE, 3, "scene" if normalised else "object", normalised)
    return model


@pytest.mark.parametrize("path", ["desk", f"desk/{CAMERAS}", "one_data_path.json"])
def test_a_scene_is_found_by_its_folder_its_json_and_a_list_of_it(folder, path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    expected = load_views(read_scene(folder / CAMERAS), [5, 0], SIZE, patch_size=1)
    for found in (load_scene(path, [5, 0], image_size=SIZE), load_scene(Path(path), np.array([5, 0]), image_size=SIZE)):
        assert all(torch.equal(getattr(found, name), x) for name, x in expected.items())
        assert (found.name, found.views, found.normalised, found.from_capture) == ("desk", [5, 0], False, None)
        assert found.image.dtype == found.fxfycxcy.dtype == found.c2w.dtype == torch.float32


def test_a_scene_is_found_in_a_pack(folder, tmp_path):
    write_data_path(tmp_path / "test_data_path.json", [folder / CAMERAS])
    assert pack_scenes.main(["--data_path", str(tmp_path / "test_data_path.json"), "--output", str(tmp_path / "packs")]) == 0
    pack, expect = tmp_path / "packs" / "test_00000.zip", load_scene(folder, [5, 0], image_size=SIZE)
    for path in (pack, pack / folder.name, pack / folder.name / CAMERAS):
        found = load_scene(path, [5, 0], image_size=SIZE)
        assert found.name == expect.name
        for name in ("image", "fxfycxcy", "c2w"):
            assert torch.equal(getattr(found, name), getattr(expect, name))
    with pytest.raises(FileNotFoundError, match=r"test_00000\.zip/none/opencv_cameras\.json: is not in the pack"):
        load_scene(pack / "none")


@pytest.mark.parametrize("normalised", [False, True])
def test_views_and_poses_are_those_of_inference(folder, normalised, tmp_path):
    model = network(normalised)
    scene, views = read_scene(folder / CAMERAS), Views(num_input_views=(3,))
    choice = choose_views(scene, views, 8, normalised)
    job = plan_job(scene, "desk", tmp_path, choice.inputs[0], choice.targets, views, normalised)
    found = load_scene(folder, 3, model=model)
    assert found.views == job.inputs
    assert found.image_size == SIZE
    assert (found.c2w - job.input_c2w).abs().max() < 1e-6
    state = model.reconstruct(found)
    assert state.normalised is normalised
    assert state.network is model
    assert torch.equal(state.c2w[0], found.c2w)
    rest = load_scene(folder, job.targets, model=model)  # another choice of views is in the same frame
    assert (rest.c2w - job.target_c2w).abs().max() < 1e-6


def test_without_a_model_a_scene_is_for_the_bundled_one(folder):
    found = load_scene(folder)
    assert (found.image_size, found.views, found.normalised) == ((64, 64), list(range(N)), False)
    assert load_scene(folder, 1, model=network(True), image_size=(20, 8), normalise=False).image.shape == (1, 3, 20, 8)


@pytest.mark.parametrize(("reference", "scale"), [("all", 1.0), ("inputs", 1.35)])
def test_from_capture_moves_points_of_the_file_into_the_frame(folder, reference, scale):
    plain = load_scene(folder, [1, 4, 6], image_size=SIZE)
    moved = load_scene(folder, [1, 4, 6], image_size=SIZE, normalise=True, pose_reference=reference, scene_scale=scale)
    used = load_scene(folder, image_size=SIZE, normalise=True, scene_scale=scale) if reference == "all" else moved
    assert abs(used.c2w[:, :3, 3].abs().max().item() * scale - 1) < 1e-5
    point = torch.tensor([0.3, -0.7, 1.1, 1], dtype=torch.float64)
    for before, after in zip(plain.c2w.double(), moved.c2w.double(), strict=True):
        seen = (torch.linalg.inv(before) @ point)[:3], (torch.linalg.inv(after) @ moved.from_capture @ point)[:3]
        directions = [x / x[2] for x in seen]  # a camera sees it at the same pixel
        assert (directions[0] - directions[1]).abs().max() < 1e-4
    state = network(True).reconstruct(moved)
    assert torch.equal(state.from_capture[0], moved.from_capture)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "load_scene, path: is an int; wanted the path of a scene"),
        ({"path": "empty"}, rf"empty: is a folder without {CAMERAS}; wanted a scene; data_preprocess/colmap_format_converter.py"),
        ({"path": "two_data_path.json"}, r"two_data_path.json: lists 2 scenes; wanted one of them: \S*desk, \S*garden$"),
        ({"views": 8}, f"desk/{CAMERAS}, views: is 8 of 7; wanted a number of views, or their positions, such as"),
        ({"views": 0}, "views: is 0 of 7; wanted a number of views"),
        ({"views": True}, "views: is True; wanted a number of views"),
        ({"views": "3"}, "views: is '3'; wanted a number of views"),
        ({"views": 2.0}, r"views: is 2\.0; wanted a number of views"),
        ({"views": [0, 7]}, "views: names view 7; wanted 0 to 6"),
        ({"views": [-1]}, "views: names view -1; wanted 0 to 6"),
        ({"views": [1, 1]}, "views: names a view twice; wanted each view once"),
        ({"views": []}, "views: names no view; wanted each view once, at least one"),
        ({"model": "x.safetensors"}, "load_scene, model: is a str; wanted what load_model returns"),
        (
            {"model": small_model("mlp", "fast_weight")},
            "load_scene, image_size: is not given, and unknown of these weights",
        ),
        ({"image_size": 64}, r"load_scene, image_size: is an int; wanted \(height, width\), two whole numbers"),
        (
            {"image_size": (10, 16), "model": network()},
            "load_scene, image_size: has the height 10; wanted a multiple of the patch 4",
        ),
        ({"normalise": True, "pose_reference": "some"}, "load_scene, pose_reference: is 'some'; wanted all or inputs"),
        ({"normalise": True, "scene_scale": 0}, "load_scene, scene_scale: is 0; wanted a number above 0"),
        (
            {"pose_reference": "inputs"},
            "load_scene, pose_reference: has no effect on poses that are not normalised; wanted norm",
        ),
        ({"scene_scale": 1.35}, "load_scene, scene_scale: has no effect on poses that are not normalised; wanted normalise=True"),
        (
            {"views": [2], "normalise": True, "pose_reference": "inputs"},
            f"desk/{CAMERAS}, cameras: spread over 0, too little to set a scale; wanted reference cameras",
        ),
    ],
)
def test_scenes_that_cannot_be_loaded_are_refused(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(InputError, match=message):
        load_scene(**{"path": "desk", **arguments})


def test_a_scene_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^nowhere: is not there; wanted a scene's folder, its {CAMERAS}, or a list"):
        load_scene("nowhere")


def test_suspicious_cameras_are_told(folder, tmp_path, capsys):
    path = write_random_scene(tmp_path / "far", 5, c2w=np.diag([1, 1, 1, 1.0]) + np.arange(5)[:, None, None] * np.eye(4, k=3) * 1e4)
    load_scene(path, image_size=SIZE)
    assert re.fullmatch(r"warning: .*far/opencv_cameras.json: has cameras at a distance of 2e\+04 .*\n", capsys.readouterr().err)
    load_scene(path, image_size=SIZE, normalise=True)
    load_scene(folder, image_size=SIZE)
    assert capsys.readouterr().err == ""


def test_reconstruction_warns_where_a_scene_departs_from_training(folder):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.reconstruct(load_scene(folder, model=model))
        model.reconstruct(PosedImages(*(getattr(load_scene(folder, model=model), name) for name in ("image", "fxfycxcy", "c2w"))))
    told = (
        r"^the weights: trained at 12×16, here 8×8 \(h×w\); on objects, poses as given, here scenes, poses normalised; pictures may"
    )
    with pytest.warns(UserWarning, match=told) as caught:
        model.reconstruct(load_scene(folder, image_size=(8, 8), normalise=True))
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]


def test_states_and_scenes_are_shown_in_one_line(folder, tmp_path):
    model = network(True)
    scene = load_scene(folder, 3, model=model)
    assert repr(scene) == "PosedImages(desk: 3 views of 12×16, scene)"
    state = model.reconstruct(scene)
    assert re.fullmatch(r"SceneState\(3 views of 12×16, scene, 0\.\d MB\)", repr(state))
    assert state.nbytes > 0
    state.save(tmp_path / "state.safetensors")
    loaded = SceneState.load(tmp_path / "state.safetensors")
    assert loaded.network is None
    assert repr(loaded) == repr(state)
    one = load_scene(folder, [2], image_size=SIZE)
    assert re.fullmatch(r"SceneState\(1 view of 12×16, object, .* MB\)", repr(network().reconstruct(one)))
    both = network().reconstruct(*(x.repeat(2, 1, *[1] * (x.ndim - 1)) for x in (one.image, one.fxfycxcy, one.c2w)))
    assert re.fullmatch(r"SceneState\(2 scenes of 1 view of 12×16, unknown frame, .* MB\)", repr(both))


def test_bundled_models_load_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects, scenes = load_model(device="cpu"), load_model(DEFAULT_SCENE_WEIGHTS.name, device="cpu")
    assert (objects.trained_with.kind, objects.trained_with.image_size) == ("object", (64, 64))
    assert (scenes.trained_with.kind, scenes.trained_with.scene_pose_normalize) == ("scene", True)
    assert objects.fingerprint() != scenes.fingerprint()
    assert load_scene("data_example/scene_data_path.json", 2, model=scenes).normalised


def test_views_in_another_frame_than_the_state_are_refused(folder, tmp_path):
    model = network(True)
    model.reconstruct(load_scene(folder, [0, 2, 5], model=model)).save(tmp_path / "state.safetensors")
    state = SceneState.load(tmp_path / "state.safetensors")
    assert model.render(state, load_scene(folder, [1, 3], model=model)).shape == (2, 3, *SIZE)
    wanted = r"^views: have poses as given, as of objects; wanted poses as of the state: load_scene\(…, normalise=True\)"
    with pytest.raises(InputError, match=wanted):
        model.render(state, load_scene(folder, [1, 3], model=model, normalise=False))
    with pytest.raises(InputError, match=r"^views: are in another frame than the state; wanted both of one scene, with pose_refer"):
        model.render(state, load_scene(folder, [1, 3], model=model, pose_reference="inputs"))
    state.normalised, state.from_capture = False, None
    with pytest.raises(InputError, match=r"^views: have normalised poses, as of scenes; wanted .* normalise=False\)"):
        model.render(state, load_scene(folder, [1, 3], model=model))


def test_weights_of_another_kind_are_refused():
    with pytest.raises(InputError, match=r"^load_model, weights: is an int; wanted a file, or its bare name in weight/"):
        load_model(3)


@pytest.mark.parametrize("function", [load_scene, stream_scene, render_video], ids=lambda x: x.__name__)
def test_the_example_in_a_docstring_prints_what_it_says(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs={})
    assert len(example.examples) > 2
    assert doctest.DocTestRunner().run(example).failed == 0


def test_show_needs_viser(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    model = network()
    state = model.reconstruct(load_scene(folder, [0, 1], model=model))
    with pytest.raises(InputError, match=r'^viewer: cannot start \(.+\); wanted viser: pip install "viser>=1.1,<2"$'):
        show(state)


def test_a_video_holds_the_frames_of_its_path(folder, tmp_path):
    model = network()
    state = model.reconstruct(load_scene(folder, 3, model=model))
    path = orbit(state, 5, (8, 20), fps=7)
    written = render_video(state, str(tmp_path / "new" / "x.mp4"), path, chunk_views=2)
    assert written == tmp_path / "new" / "x.mp4"
    frames, facts = decode(written)
    assert facts["rate"] == 7
    expected = to_uint8(model.render(state, path))
    assert expected.shape == (5, 8, 20, 3)
    assert np.array_equal(to_uint8(model.render(state, path.fxfycxcy.numpy(), path.c2w.numpy(), (8, 20))), expected)
    distance = np.abs(np.subtract(frames[:, None], expected[None], dtype=np.float32)).mean((-1, -2, -3))
    assert distance.argmin(1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("said", "trained", "expected"), [(True, False, flight), (False, True, turntable), (None, True, flight)])
def test_the_path_is_a_flight_in_scenes_and_a_turntable_around_objects(folder, monkeypatch, said, trained, expected):
    model = network(trained)
    state = model.reconstruct(load_scene(folder, 3, image_size=SIZE, normalise=trained))
    state.normalised = said
    seen = []
    frames = iter([torch.zeros(1, 1, 3, 8, 8)])
    monkeypatch.setattr(LaCTLVSM, "render_stream", lambda self, state, *cameras: seen.append(cameras) or frames)
    render_video(state, folder / "x.gif")
    assert torch.equal(seen[0][1][0], expected(state).c2w)


def test_a_state_from_a_file_needs_its_model(folder, tmp_path):
    model = network()
    model.reconstruct(load_scene(folder, 3, model=model)).save(tmp_path / "state.safetensors")
    state = SceneState.load(tmp_path / "state.safetensors")
    wanted = "render_video, model: is not given, and the state is from a file; wanted the model that wrote it: model=load_model()"
    with pytest.raises(InputError, match=f"^{re.escape(wanted)}$"):
        render_video(state, tmp_path / "x.gif")
    other = small_model("self_attention", "fast_weight", "mlp", seed=1)
    with pytest.raises(InputError, match=r"scene state: was written by weights \w{16}; wanted \w{16}, the ones loaded"):
        render_video(state, tmp_path / "x.gif", model=other)
    assert not (tmp_path / "x.gif").exists()
    assert render_video(state, tmp_path / "x.gif", turntable(state, 2), model=model).exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: render_video(turntable(s, 3), "x.gif"), "render_video, state: is a CameraPath; wanted what reconstruct"),
        (lambda s: render_video(s, turntable(s, 3)), "render_video, path: is a CameraPath; wanted a file, such as x.mp4"),
        (lambda s: render_video(s, "x.gif", s.c2w), "render_video, cameras: is a Tensor; wanted a CameraPath, as turntable(s"),
        (lambda s: render_video(s, "x.gif", model="x"), "render_video, model: is a str; wanted what load_model returns"),
        (lambda s: render_video(s, "x.avi", turntable(s, 3)), "x.avi: has the suffix '.avi'; wanted .mp4 or .gif"),
        (lambda s: turntable(60), "camera path, state: is an int; wanted what reconstruct or SceneState.load returns"),
        (lambda s: turntable(s, 60, 64), "camera path, image size: is an int; wanted (height, width), two whole numbers"),
        (lambda s: orbit(s, 60, (8, 8.5)), "camera path, image size: is (8, 8.5); wanted (height, width), two whole numbers"),
        (lambda s: flight(s, image_size=torch.ones(2)), "camera path, image size: is a Tensor; wanted (height, width)"),
        (lambda s: flight(s, 2.5), "camera path, num_frames: is 2.5; wanted 1 or more"),
        (lambda s: s.network.render(s, turntable(s, 3, (8, 10))), "render, image_size: has the width 10; wanted a multiple"),
        (lambda s: s.network.render(s, turntable(s, 3), image_size=(8, 8)), "render: is given cameras with a size of their own"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_line(folder, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    state = network().reconstruct(load_scene(folder, 3, image_size=SIZE))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        call(state)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("model", [None, "given"])
def test_show_serves_a_state_in_a_frame_of_the_notebook(folder, model):
    pytest.importorskip("viser", reason="the viewer needs viser: pip install -r tests/requirement.txt")
    writer = network()
    state = writer.reconstruct(load_scene(folder, [0, 1], model=writer))
    state.network = state.network if model is None else None
    viewer = show(state, model=None if model is None else writer, port=18880)
    try:
        assert f'<iframe src="{viewer.url}"' in viewer._repr_html_()
        with urllib.request.urlopen(viewer.url) as page:
            assert b"<html" in page.read()
        assert viewer.trained_size == SIZE
        assert len(viewer.scene) == 2
    finally:
        viewer.close()


def test_show_refuses_what_it_cannot_render(folder):
    writer = network()
    state = writer.reconstruct(load_scene(folder, [0, 1], model=writer))
    with pytest.raises(InputError, match=r"^show, state: is a str; wanted what reconstruct or SceneState.load returns$"):
        show("state")
    with pytest.raises(InputError, match=r"^show, state: holds 2 scenes; wanted one scene$"):
        show(dataclasses.replace(state, fxfycxcy=state.fxfycxcy.repeat(2, 1, 1), c2w=state.c2w.repeat(2, 1, 1, 1)))
    with pytest.raises(
        InputError, match=r"^show, model: is not given, and the state is from a file; wanted the model that wrote it"
    ):
        show(dataclasses.replace(state, network=None))


def test_the_package_has_what_it_lists_and_nothing_else():
    assert all(callable(getattr(model, name)) for name in model.__all__)
    assert dir(model) == sorted(model.__all__)
    with pytest.raises(AttributeError, match=r"module 'model' has no attribute 'load_scenes'"):
        model.load_scenes  # noqa: B018 (it raises)


@pytest.mark.slow
def test_importing_the_package_imports_no_viewer_and_no_codec():
    found = "import sys, model; print([name for name in ('viser', 'av', 'cv2', 'PIL', 'model.viewer') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", found], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
