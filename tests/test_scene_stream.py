"""Views of a scene one by one, also while the scene is still being captured. Letters: n views of a scene, h w pixels."""

import gc
import itertools
import json
import shutil
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import model.scene_stream as scene_stream
from config.errors import InputError
from data import growing_scene
from data.dataset import load_views
from data.growing_scene import POLL_S
from data.scene_format import CAMERAS
from data.scene_list import write_data_path
from data_preprocess import pack_scenes
from model import PosedImages, load_scene, stream_scene
from model.departure import TrainedWith
from tests.support.networks import small_model
from tests.support.scenes import write_random_scene
from tests.support.videos import number_in, write_frames, write_video_scene

N, SIZE = 7, (12, 16)
TENSORS = ("image", "fxfycxcy", "c2w")


class Clock:
    """A clock that only sleeping moves, and what happens in the meantime.

    Args:
        events: what to do at which second, or as soon as it is past.
    """

    def __init__(self, **events: Callable[[], object]) -> None:
        self.now, self.sleeps = 0.0, []
        self.events = sorted((float(name.removeprefix("at_").replace("_", ".")), event) for name, event in events.items())

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps.append(seconds)
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


@pytest.fixture
def set_clock(monkeypatch) -> Callable[..., Clock]:
    def replace(**events: Callable[[], object]) -> Clock:
        clock = Clock(**events)
        monkeypatch.setattr(growing_scene, "time", clock)
        return clock

    return replace


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return the folder of a scene of seven photos of 25×34."""
    return write_random_scene(tmp_path / "desk", N, (25, 34)).parent


class Capture:
    """A folder that is filled bit by bit with what a finished scene holds."""

    def __init__(self, finished: Path, folder: Path) -> None:
        self.finished, self.folder = finished, folder
        self.entries = json.loads((finished / CAMERAS).read_text())
        (folder / "images").mkdir(parents=True)

    def list(self, views: int, share: float = 1.0) -> None:
        """Write the JSON of the first views, or the first part of its bytes, in place."""
        content = json.dumps(self.entries[:views]).encode()
        (self.folder / CAMERAS).write_bytes(content[: round(len(content) * share)])

    def photo(self, *views: int, share: float = 1.0) -> None:
        """Write photos, or the first part of their bytes."""
        for view in views:
            name = self.entries[view]["file_path"]
            content = (self.finished / name).read_bytes()
            (self.folder / name).write_bytes(content[: round(len(content) * share)])


@pytest.fixture
def capture(folder, tmp_path) -> Capture:
    return Capture(folder, tmp_path / "growing" / "desk")


def assert_same(found: list[PosedImages], expected: PosedImages) -> None:
    """Check that views that came one by one are those that were loaded together."""
    assert [view.views for view in found] == [[i] for i in expected.views]
    for name in TENSORS:
        assert torch.allclose(torch.cat([getattr(view, name) for view in found]), getattr(expected, name), rtol=0, atol=1e-6)
    for view in found:
        assert len(view) == 1
        assert (view.name, view.normalised) == (expected.name, expected.normalised)
        assert (view.from_capture is None) == (expected.from_capture is None)
        assert view.from_capture is None or torch.equal(view.from_capture, expected.from_capture)


@pytest.mark.parametrize("views", [None, 3, [5, 0, 2]])
@pytest.mark.parametrize("frame", [{}, {"normalise": True}, {"normalise": True, "pose_reference": "inputs", "scene_scale": 1.35}])
def test_a_stream_gives_the_views_of_load_scene(folder, views, frame):
    expected = load_scene(folder, views, image_size=SIZE, **frame)
    stream = stream_scene(folder, views, image_size=SIZE, **frame)
    assert (len(stream), stream.views) == (len(expected), expected.views)
    for _ in range(2):
        assert_same(list(stream), expected)
    assert next(iter(stream)).views == expected.views[:1]
    fxfycxcy, c2w = stream.cameras()
    assert torch.allclose(fxfycxcy, expected.fxfycxcy, rtol=0, atol=1e-5)
    assert torch.allclose(c2w, expected.c2w, rtol=0, atol=1e-6)
    assert fxfycxcy.dtype == c2w.dtype == torch.float32


def test_a_stream_is_as_its_model_was_trained(folder):
    model = small_model("self_attention", "fast_weight", "mlp")
    model.trained_with = TrainedWith(SIZE, 3, "scene", True)
    stream = stream_scene(str(folder / CAMERAS), model=model)
    assert_same(list(stream), load_scene(folder, model=model))
    assert repr(stream) == "SceneStream(desk: 7 views of 12×16, scene)"
    state = model.reconstruct(next(iter(stream)))
    assert torch.equal(state.from_capture[0], stream.from_capture)


def test_a_stream_comes_out_of_a_pack(folder, tmp_path):
    write_data_path(tmp_path / "test_data_path.json", [folder / CAMERAS])
    assert pack_scenes.main(["--data_path", str(tmp_path / "test_data_path.json"), "--output", str(tmp_path / "packs")]) == 0
    for path in (tmp_path / "packs" / "test_00000.zip", tmp_path / "test_data_path.json"):
        assert_same(list(stream_scene(path, [4, 1], image_size=SIZE, wait_s=5)), load_scene(path, [4, 1], image_size=SIZE))


def test_photos_are_read_when_they_are_asked_for_and_then_forgotten(folder, monkeypatch):
    alive, most = weakref.WeakSet(), []

    def load(scene, indices, *arguments, **options):
        loaded = load_views(scene, indices, *arguments, **options)
        alive.add(loaded["image"])
        most.append(len(alive))
        return loaded

    monkeypatch.setattr(scene_stream, "load_views", load)
    stream = stream_scene(folder, image_size=SIZE)
    stream.cameras()
    views = iter(stream)
    assert most == []
    next(views)
    assert most == [1]
    for view in views:
        assert view.image.shape == (1, 3, *SIZE)
        del view
        gc.collect()
    assert len(most) == N
    assert max(most) <= 2  # the next one is read before the loop variable lets go of the last


def test_missing_and_half_written_photos_are_waited_for_in_order(capture, folder, set_clock):
    capture.list(4)
    capture.photo(0, 3)
    capture.photo(2, share=0.4)
    clock = set_clock(
        at_3=lambda: capture.photo(1, share=0.3),
        at_6=lambda: capture.photo(1, share=0.6),
        at_9=lambda: capture.photo(1),
        at_12=lambda: capture.photo(2),
    )
    stream = stream_scene(capture.folder, image_size=SIZE, wait_s=4)
    assert repr(stream) == "SceneStream(desk: 4 views so far of 12×16, object)"
    times = []
    found = []
    for view in stream:
        times.append(clock.now)
        found.append(view)
    assert_same(found, load_scene(folder, [0, 1, 2, 3], image_size=SIZE))
    assert times == pytest.approx([0, 9, 12, 12], abs=POLL_S)
    assert clock.now == pytest.approx(16, abs=POLL_S)  # nothing came for 4 s
    assert max(clock.sleeps) <= POLL_S
    assert len(clock.sleeps) < 100
    # It has ended: again without waiting.
    clock.sleeps.clear()
    assert len(stream) == 4
    assert_same(list(stream), load_scene(folder, [0, 1, 2, 3], image_size=SIZE))
    assert clock.sleeps == []


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_a_part_of_a_photo_of_any_format_is_no_photo(capture, set_clock, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (25, 34, 3), dtype=np.uint8)
    for folder in (capture.finished, capture.folder):
        Image.fromarray(pixels).save(folder / "images" / f"photo{suffix}", lossless=True)
    capture.entries[0]["file_path"] = f"images/photo{suffix}"
    capture.list(1)
    capture.photo(0, share=0)
    shares = np.linspace(0.05, 0.95, 10)
    events = {f"at_{i + 1}": lambda share=share: capture.photo(0, share=share) for i, share in enumerate(shares)}
    clock = set_clock(**events, at_12=lambda: capture.photo(0))
    (view,) = stream_scene(capture.folder, image_size=(25, 34), wait_s=2)
    assert clock.now == pytest.approx(14, abs=POLL_S)
    if suffix != ".jpg":
        assert np.array_equal((view.image[0].permute(1, 2, 0) * 255).round().numpy(), pixels)


def test_views_at_the_end_of_a_rewritten_list_are_followed(capture, folder, set_clock):
    capture.list(2)
    capture.photo(*range(N))
    set_clock(
        at_1=lambda: capture.list(4, share=0.7),
        at_2=lambda: (capture.folder / CAMERAS).unlink(),
        at_3=lambda: capture.list(4),
        at_4=lambda: capture.list(N, share=0),
        at_5=lambda: capture.list(N),
    )
    stream = stream_scene(capture.folder, image_size=SIZE, normalise=True, wait_s=3.5)
    assert stream.views == [0, 1]
    with pytest.raises(TypeError, match=r"^desk: a stream that waits for views has a length when it has ended$"):
        len(stream)
    found = list(stream)
    assert [view.views for view in found] == [[i] for i in range(N)]
    assert len(stream) == N
    # The frame is that of the two views that were listed first.
    two = load_scene(folder, [0, 1], image_size=SIZE, normalise=True, pose_reference="inputs")
    assert_same(found[:2], two)
    plain = load_scene(folder, image_size=SIZE).c2w.double()
    for view, before in zip(found, plain, strict=True):
        assert torch.equal(view.from_capture, two.from_capture)
        centre = two.from_capture @ before[:, 3]
        assert (view.c2w[0, :, 3].double() - centre).abs().max() < 1e-5
    assert torch.equal(stream.cameras()[1], torch.cat([view.c2w for view in found]))


def test_time_that_the_reader_of_the_stream_takes_is_no_waiting(capture, folder, set_clock):
    capture.list(2)
    capture.photo(0, 2)
    clock = set_clock(at_11=lambda: capture.photo(1), at_22=lambda: capture.list(3))
    found = []
    for view in stream_scene(capture.folder, image_size=SIZE, wait_s=2):
        found.append(view)
        clock.now += 10
    assert_same(found, load_scene(folder, [0, 1, 2], image_size=SIZE))


def test_chosen_views_end_a_stream_that_waits(capture, folder, set_clock, monkeypatch):
    read, read_json = [], growing_scene.read_json
    monkeypatch.setattr(growing_scene, "read_json", lambda path: read.append(path) or read_json(path))
    capture.list(5)
    capture.photo(0, 2, 3, 4)
    clock = set_clock(at_3=lambda: capture.photo(1))
    assert_same(
        list(stream_scene(capture.folder, [4, 1, 0], image_size=SIZE, wait_s=9)), load_scene(folder, [4, 1, 0], image_size=SIZE)
    )
    assert clock.now == pytest.approx(3, abs=POLL_S)
    assert len(read) == 2  # the JSON before the stream and in it, and not again as long as it is the same


def test_a_scene_that_is_not_there_yet_is_waited_for(capture, folder, set_clock):
    shutil.rmtree(capture.folder)

    def begin():
        (capture.folder / "images").mkdir()
        capture.list(3, share=0.5)

    def go_on():
        capture.list(3)
        capture.photo(0, 1, 2)

    clock = set_clock(at_1=lambda: capture.folder.mkdir(), at_1_5=begin, at_2=lambda: capture.list(0), at_3=go_on)
    stream = stream_scene(capture.folder, image_size=SIZE, wait_s=5)
    assert clock.now == pytest.approx(3, abs=POLL_S)
    assert_same(list(stream), load_scene(folder, [0, 1, 2], image_size=SIZE))
    clock = set_clock()
    with pytest.raises(FileNotFoundError, match=r"none: is not there; wanted a scene's folder"):
        stream_scene(capture.folder / "none", wait_s=5)
    assert clock.now == pytest.approx(5)
    capture.list(3, share=0.5)
    with pytest.raises(InputError, match=rf"{CAMERAS}: is not JSON"):
        stream_scene(capture.folder, wait_s=5)


def test_photos_that_never_come_end_the_stream_with_one_warning(capture, folder, set_clock):
    capture.list(5)
    capture.photo(0, 1, 3)
    set_clock()
    stream = stream_scene(capture.folder, image_size=SIZE, wait_s=1.5)
    told = r"desk/opencv_cameras\.json: the stream ends after 2 of 5 listed views: \S*/00002\.png has not come within 1\.5 s$"
    with pytest.warns(UserWarning, match=told) as caught:
        assert_same(list(stream), load_scene(folder, [0, 1], image_size=SIZE))
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(stream)) == len(stream) == 2
    (capture.folder / "images" / "00001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"00001\.png: is not there; wanted an image"):
        list(stream)


def test_a_stream_of_which_no_photo_comes_ends_with_an_error(capture, set_clock):
    capture.list(3)
    set_clock()
    with pytest.raises(FileNotFoundError, match=r"00000\.png: is not there; wanted an image$"):
        list(stream_scene(capture.folder, image_size=SIZE, wait_s=3))


def test_what_comes_but_cannot_be_read_is_an_error(capture, set_clock):
    capture.list(3)
    capture.photo(0, 2)
    clock = set_clock(at_1=lambda: capture.photo(1, share=0.5))
    with pytest.raises(InputError, match=r"00001\.png: cannot be decoded \(.*\); wanted a whole PNG, JPEG, WEBP"):
        list(stream_scene(capture.folder, image_size=SIZE, wait_s=2))
    assert clock.now == pytest.approx(3, abs=POLL_S)
    capture.photo(1)
    set_clock(at_1=lambda: capture.list(5, share=0.5))
    views = iter(stream_scene(capture.folder, image_size=SIZE, wait_s=2))
    assert [view.views for view in itertools.islice(views, 3)] == [[0], [1], [2]]
    with pytest.raises(InputError, match=rf"{CAMERAS}: is not JSON .*; wanted a JSON file"):
        next(views)


def test_a_complete_scene_is_not_waited_for(capture, set_clock):
    capture.list(3)
    capture.photo(0)
    clock = set_clock()
    stream = stream_scene(capture.folder, image_size=SIZE)
    assert len(stream) == 3
    with pytest.raises(FileNotFoundError, match=r"00001\.png: is not there; wanted an image"):
        list(stream)
    capture.photo(1, share=0.5)
    with pytest.raises(InputError, match=r"00001\.png: cannot be decoded"):
        list(stream)
    with pytest.raises(FileNotFoundError, match=r"none: is not there"):
        stream_scene(capture.folder / "none")
    assert clock.sleeps == []


@pytest.mark.parametrize("change", ["camera", "file", "gone", "format"])
def test_a_view_that_changes_after_it_was_read_is_refused(capture, set_clock, change):
    capture.list(3)
    capture.photo(*range(N))

    def rewrite():
        if change == "camera":
            capture.entries[1]["fx"] *= 1.001
        elif change == "file":
            capture.entries[1]["file_path"] = "images/00005.png"
        elif change == "format":
            capture.entries[4]["fx"] = -1
        capture.list(1 if change == "gone" else 5)

    set_clock(at_1=rewrite)
    views = iter(stream_scene(capture.folder, image_size=SIZE, wait_s=3))
    assert [view.views for view in itertools.islice(views, 3)] == [[0], [1], [2]]
    message = r"view 1: has changed since it was read; wanted more views at the end alone$"
    with pytest.raises(InputError, match=r"view 4, fx: is -1; wanted" if change == "format" else message):
        next(views)


def test_a_view_may_change_until_it_is_read(capture, set_clock):
    capture.list(3)
    capture.photo(0, 2)

    def rewrite():
        capture.entries[1]["file_path"] = "images/00002.png"
        capture.list(3)

    set_clock(at_1=rewrite)
    found = list(stream_scene(capture.folder, image_size=SIZE, wait_s=2))
    assert torch.equal(found[1].image, found[2].image)


def test_a_chosen_view_that_is_gone_before_it_is_read_is_refused(capture, set_clock):
    capture.list(5)
    capture.photo(0)
    set_clock(at_1=lambda: capture.list(3))
    views = iter(stream_scene(capture.folder, [0, 4], image_size=SIZE, wait_s=3))
    next(views)
    with pytest.raises(InputError, match=r"view 4: is gone since the stream began; wanted more views at the end alone$"):
        next(views)


def test_a_thread_fills_the_folder(capture, folder, monkeypatch):
    monkeypatch.setattr(growing_scene, "POLL_S", 0.01)
    capture.list(1)

    def fill():
        for i in range(N):
            capture.list(i + 1, share=0.8)
            time.sleep(0.01)
            capture.list(i + 1)
            for share in (0.5, 1):
                capture.photo(i, share=share)
                time.sleep(0.01)

    thread = threading.Thread(target=fill)
    stream = stream_scene(capture.folder, image_size=SIZE, wait_s=2)
    thread.start()
    found = list(stream)
    thread.join()
    assert_same(found, load_scene(folder, image_size=SIZE))


def test_views_are_frames_of_a_video_that_is_still_being_written(tmp_path, set_clock):
    numbers = [0, 3, 7, 11]
    json_path = write_video_scene(tmp_path / "walk", numbers)
    expected = load_scene(json_path, image_size=(40, 56))
    assert_same(list(stream_scene(json_path, image_size=(40, 56))), expected)
    video = json_path.parent / "clip.mp4"
    whole = video.read_bytes()
    write_frames(video, 6)
    set_clock(at_1=video.unlink, at_2=lambda: video.write_bytes(whole[:900]), at_3=lambda: video.write_bytes(whole))
    found = list(stream_scene(json_path, image_size=(40, 56), wait_s=3))
    assert [number_in((view.image[0].permute(1, 2, 0) * 255).numpy()) for view in found] == numbers
    assert_same(found[2:], load_scene(json_path, [2, 3], image_size=(40, 56)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "stream_scene, path: is an int; wanted the path of a scene"),
        ({"views": [0, 7]}, f"desk/{CAMERAS}, views: names view 7; wanted 0 to 6"),
        ({"model": "x.safetensors"}, "stream_scene, model: is a str; wanted what load_model returns"),
        ({"image_size": 64}, r"stream_scene, image_size: is an int; wanted \(height, width\)"),
        ({"pose_reference": "some"}, "stream_scene, pose_reference: is 'some'; wanted all or inputs"),
        ({"scene_scale": -1}, "stream_scene, scene_scale: is -1; wanted a number above 0"),
        ({"scene_scale": 1.35}, "stream_scene, scene_scale: has no effect on poses that are not normalised"),
        ({"wait_s": -1}, "stream_scene, wait_s: is -1; wanted a number of seconds, 0 or more"),
        ({"wait_s": 10**400}, "stream_scene, wait_s: is 10+…; wanted a number of seconds, 0 or more"),
        ({"wait_s": "3"}, "stream_scene, wait_s: is '3'; wanted a number of seconds"),
        ({"wait_s": float("inf")}, "stream_scene, wait_s: is inf; wanted a number of seconds"),
        ({"views": [2], "normalise": True, "pose_reference": "inputs"}, f"desk/{CAMERAS}, cameras: spread over 0, too little"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_line(folder, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        stream_scene(**{"path": folder, **arguments})
    assert "\n" not in str(caught.value)
