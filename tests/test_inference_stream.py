"""inference.py --stream: inputs read in chunks, in several passes, from a capture in progress."""

import json
import re
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

import inference
from data.scene_format import CAMERAS
from data.scene_list import write_data_path
from data.view_selection import spread_order
from model import SceneState, load_model, load_scene
from model.evaluation import streamed_inputs
from model.evaluation.render_scene import drift_note
from tests.support.inference_run import SIZE, files, metrics, told
from tests.support.networks import random_views, relative_error, small_model
from tests.support.videos import decode

SCORES = "--no_lpips --target_every 3 --num_input_views 4"
# float32 sums in another order, in dB.
ROUNDING = 1e-3


def scores(folder) -> list[float]:
    return [row["psnr"] for row in metrics(folder)["views"]]


def test_inputs_in_one_chunk_are_an_exact_run(infer):
    exact = infer(f"{SCORES} --video_format none", "exact")
    found = infer(f"{SCORES} --video_format none --stream 4 --stream_order given", "stream")
    views = [metrics(folder)["about"]["input_views"]["scene_0"] for folder in (exact, found)]
    assert sorted(views[0]) == views[1]
    assert scores(found) == pytest.approx(scores(exact), abs=ROUNDING)
    assert files(found) == files(exact)


def test_as_many_passes_as_layers_are_an_exact_run(infer):
    """The network has two layers of fast weights; videos tell whether the cameras are in list order again."""
    flags = f"{SCORES} --scene_inference --video_frames 5 --side_by_side"
    exact = infer(flags, "exact", data="scene_0/opencv_cameras.json")
    one = infer(f"{flags} --stream 1", "one", data="scene_0/opencv_cameras.json")
    two = infer(f"{flags} --stream 1 --passes 2", "two", data="scene_0/opencv_cameras.json")
    assert scores(two) == pytest.approx(scores(exact), abs=ROUNDING)
    assert np.abs(np.subtract(scores(one), scores(exact))).max() > 10 * ROUNDING
    frames = [decode(folder / "scene_0" / "video_side_by_side.mp4")[0].astype(float) for folder in (exact, two)]
    assert np.abs(frames[0] - frames[1]).max() <= 2, "frames are equal to rounding, of 8 bits and of a codec"


def test_all_views_that_are_not_targets_are_inputs(infer):
    some = metrics(infer("--stream 2 --target_every 3 --no_lpips --video_format none", "some"))
    assert some["about"]["input_views"]["scene_1"] == [1, 2, 4, 5]
    assert metrics(infer("--stream 2 --num_target_views 2 --no_lpips --video_format none", "two"))["mean"]["inputs"] == 5
    folder = infer("--stream 2 --video_frames 2 --save_state", "all", data="scene_0/opencv_cameras.json")
    assert files(folder) == ["scene_0/state.safetensors", "scene_0/video.mp4"]
    assert SceneState.load(folder / "scene_0" / "state.safetensors").c2w.shape[1] == 7


def test_a_saved_state_can_grow_and_lists_its_views_in_order(infer, place):
    flags = "--stream 2 --video_format none --save_state --num_input_views 6 --num_target_views 0 --view_selection uniform"
    folder = infer(flags, data="scene_0/opencv_cameras.json")
    state = SceneState.load(folder / "scene_0" / "state.safetensors")
    model = load_model(place / "tiny.safetensors", device="cpu", precision="float32")
    scene = place / "scene_0"
    everything = load_scene(scene, model=model, image_size=SIZE, normalise=False)
    taken = [int((everything.c2w - c2w).abs().amax((1, 2)).argmin()) for c2w in state.c2w[0]]
    assert taken == sorted(taken)
    (left,) = set(range(7)) - set(taken)
    more = load_scene(scene, [left], model=model, image_size=SIZE, normalise=False)
    assert model.extend(state, more).c2w.shape[1] == 7


def test_views_are_read_spread_out_unless_told_otherwise(infer, monkeypatch):
    read = []
    load = streamed_inputs.InputsOfJob._load

    def watched(self, start):
        found = load(self, start)
        read.extend(found.views)
        return found

    monkeypatch.setattr(streamed_inputs.InputsOfJob, "_load", watched)
    for flags, order in (("", spread_order(7)), ("--stream_order given", list(range(7)))):
        read.clear()
        infer(f"--stream 3 --video_frames 1 {flags}", data="scene_0/opencv_cameras.json")
        assert read == order


def test_spread_order_puts_every_position_between_those_before():
    for n in (1, 2, 3, 7, 8, 33):
        order = spread_order(n)
        assert sorted(order) == list(range(n))
    assert spread_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    for k in range(2, 33):
        gaps = np.diff(sorted(spread_order(32)[:k]), append=32)
        assert gaps.max() <= 2 * gaps.min()


def test_photos_of_a_stream_are_not_kept(infer, monkeypatch):
    """Those of the report are read once more, each when it is shown."""
    looked_at = []
    get = streamed_inputs.StoredPhotos.__getitem__
    monkeypatch.setattr(
        streamed_inputs.StoredPhotos, "__getitem__", lambda self, i: looked_at.append(self.views[i]) or get(self, i)
    )
    infer("--stream 2 --target_every 3 --no_lpips --video_format none", data="scene_0/opencv_cameras.json")
    assert set(looked_at) == {1, 2, 4, 5}


def growing(place, folder):
    """Copy a scene of which three views are listed, and two photos there; return what is still to come, and its path."""
    shutil.copytree(place / "scene_0", folder)
    listed = json.loads((folder / CAMERAS).read_text())
    (folder / CAMERAS).write_text(json.dumps(listed[:3]))
    late = {entry["file_path"]: (folder / entry["file_path"]).read_bytes() for entry in listed[2:]}
    for name in late:
        (folder / name).unlink()

    def arrive():
        (folder / CAMERAS).write_text(json.dumps(listed))
        for name, content in late.items():
            (folder / name).write_bytes(content)

    return arrive


def test_a_capture_in_progress_is_followed(infer, place, tmp_path):
    arrive = growing(place, tmp_path / "scene_0")
    flags = "--stream 2 --video_frames 3 --video_format gif --save_state"
    timer = threading.Timer(0.5, arrive)
    timer.start()
    followed = infer(f"{flags} --wait 5", "followed", data=str(tmp_path / "scene_0" / CAMERAS))
    timer.join()
    # Three cameras are listed at the start, too few for a focus: eight views are waited for, which here are all.
    exact = "--num_input_views 7 --num_target_views 0 --view_selection uniform --video_format none --save_state"
    folders = [infer(exact, "exact", data="scene_0/opencv_cameras.json"), followed]
    states = [SceneState.load(folder / "scene_0" / "state.safetensors") for folder in folders]
    assert states[1].c2w.equal(states[0].c2w)
    for one, other in zip(*(state.layers for state in states), strict=True):
        for name, x in one.items():
            assert relative_error(other[name], x) < 1e-4
    again = infer(f"{flags} --wait 0.1 --passes 2", "again", data=str(tmp_path / "scene_0" / CAMERAS))
    assert (again / "scene_0" / "video.gif").exists()


def test_photos_that_never_come_are_told_in_one_line(infer, place, tmp_path, capsys):
    growing(place, tmp_path / "scene_0")
    infer("--stream 2 --wait 0.1 --video_frames 2 --video_format gif", data=str(tmp_path / "scene_0" / CAMERAS))
    lines = [line for line in told(capsys.readouterr().err) if line]
    assert len(lines) == 1
    assert re.fullmatch(r"inference.py: .*: the stream ends after 2 of 3 listed views: .*png has not come within 0.1 s", lines[0])


def test_a_focus_that_drifted_is_told():
    model, views = small_model("self_attention", "fast_weight by foot", "mlp"), random_views(1, 3, 8, 12)
    assert drift_note("fox", small_model("fast_weight").reconstruct(**views)) == ""
    state = model.reconstruct(**views)
    assert drift_note("fox", state) == ""
    distance = (views["c2w"][0, :, :3, 3] - (state.focus + 9)).norm(dim=-1).mean()
    line = drift_note("fox", replace(state, focus=state.focus + 9))
    assert line == (
        f"fox: the first views looked elsewhere ({9 * 3**0.5 / distance:.1f} distances of the cameras away); "
        "read it again without --wait"
    )


def test_of_several_scenes_none_is_waited_for(infer, place, tmp_path, capsys):
    write_data_path(tmp_path / "some_data_path.json", [place / f"scene_{i}" / CAMERAS for i in (0, 1)])
    words = f"--load {place}/tiny.safetensors --data_path {tmp_path}/some_data_path.json --output_dir {tmp_path}/out"
    assert inference.main(f"{words} --image_size 20 28 --device cpu --stream 2 --wait 1".split()) == 2
    assert "some_data_path.json: lists 2 scenes with --wait; wanted one scene" in capsys.readouterr().err


def test_a_photo_that_cannot_be_read_ends_the_run(place, tmp_path, capsys):
    shutil.copytree(place / "scene_0", tmp_path / "scene_0")
    photo = sorted((tmp_path / "scene_0" / "images").iterdir())[5]
    photo.write_bytes(photo.read_bytes()[:60])
    words = f"--load {place}/tiny.safetensors --data_path {tmp_path}/scene_0/{CAMERAS} --output_dir {tmp_path}/out"
    assert inference.main(f"{words} --image_size 20 28 --device cpu --stream 2 --video_frames 2".split()) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert str(photo) in line
    assert "cannot be decoded" in line
    assert files(tmp_path / "out") == [".lock"] or files(tmp_path / "out") == []
