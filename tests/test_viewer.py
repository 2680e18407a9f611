"""The viewer without a browser: pictures, inputs, menu, many clients, errors, and its end."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import inference
from config.errors import InputError
from model import LaCTLVSM
from model.viewer import PathFiles, start_viewer
from model.viewer.viewed_scene import ViewedScene
from model.viewer.window import Pose, fit_into_window, picture_camera, picture_fov, window_fov
from tests.support.viewers import FOV, INPUTS, SIZE, bundled_model, direct, example_scenes, middle, psnr, until

viser = pytest.importorskip("viser", reason="the viewer needs viser: pip install -r tests/requirement.txt")

from model.viewer.viewer import free_port  # noqa: E402
from tests.support.viewer_client import ViewerClient  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model() -> LaCTLVSM:
    return bundled_model()


@pytest.fixture
def viewer(model, tmp_path):
    before = set(threading.enumerate())
    with start_viewer(example_scenes(model), SIZE, PathFiles(tmp_path), port=free_port("127.0.0.1", 18080)) as made:
        until(lambda: made.scene.state is not None)
        yield made
    until(lambda: not set(threading.enumerate()) - before)  # no thread is left behind


def picture_like(client: ViewerClient, wanted: np.ndarray) -> np.ndarray:
    """Wait for a picture like a square one; return its middle. JPEG, enlarging and reducing cost little: 35 dB or more are left."""
    return middle(client.picture_that(lambda pixels: psnr(middle(pixels), wanted) > 30))


@pytest.mark.parametrize(("aspect", "window"), [(1.0, 1.7), (1.5, 0.8), (0.6, 0.6), (1.79, 1.5)])
def test_a_picture_lies_in_the_window_where_the_window_s_camera_sees_it(aspect, window):
    pose = Pose(np.eye(4), math.radians(40), window)
    fxfycxcy, _, (h, w) = picture_camera(pose, 96, aspect, 4)
    assert h % 4 == w % 4 == 0
    shown = fit_into_window(np.zeros((h, w, 3), np.uint8), aspect, window, dark=False)
    inside = np.argwhere(shown[..., 0] == 0)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    rows, columns = shown.shape[:2]
    assert columns / rows == pytest.approx(window, rel=0.01)
    focal = rows / 2 / math.tan(pose.fov / 2)  # of the window, square pixels
    for x, y in ((0.1, -0.05), (-0.12, 0.2)):  # at depth 1
        fx, fy, cx, cy = fxfycxcy.tolist()
        in_picture = (cx + fx * x) / w, (cy + fy * y) / h
        in_window = columns / 2 + focal * x, rows / 2 + focal * y
        assert left + in_picture[0] * (right - left) == pytest.approx(in_window[0], abs=1)
        assert top + in_picture[1] * (bottom - top) == pytest.approx(in_window[1], abs=1)
    assert window_fov(picture_fov(pose.fov, window, aspect), window, aspect) == pytest.approx(pose.fov)


def test_clients_get_the_picture_of_their_own_pose(viewer):
    c2w = viewer.scene.c2w
    with ViewerClient(viewer.url, viewer.scene.shown_scale) as one, ViewerClient(viewer.url, one.scale) as other:
        one.look(c2w[3], FOV)
        other.look(c2w[17], FOV)
        expected = [direct(viewer.scene, c2w[view]) for view in (3, 17)]
        pictures = [picture_like(client, wanted) for client, wanted in zip((one, other), expected, strict=True)]
    # Another view is at 15.
    assert psnr(pictures[0], expected[0]) > 30 < psnr(pictures[1], expected[1])
    assert psnr(pictures[0], expected[1]) < 22 > psnr(pictures[1], expected[0])
    until(lambda: not viewer.browsers)


def test_inputs_can_be_taken_out_and_put_back_and_their_number_changed(viewer):
    inputs, first = list(viewer.scene.inputs), viewer.scene.state
    assert len(inputs) == INPUTS
    with ViewerClient(viewer.url, viewer.scene.shown_scale) as client:
        client.look(viewer.scene.c2w[3], FOV)
        before = picture_like(client, direct(viewer.scene, viewer.scene.c2w[3]))
        viewer.switch_input(inputs[1])
        assert viewer.scene.state is first  # it stays on the screen
        until(lambda: viewer.scene.state is not first)
        assert viewer.scene.inputs == sorted(set(inputs) - {inputs[1]})
        expected = direct(viewer.scene, viewer.scene.c2w[3])
        after = middle(client.picture_that(lambda pixels: psnr(middle(pixels), expected) > psnr(middle(pixels), before)))
        assert psnr(after, expected) > 30
        assert 15 < psnr(after, before) < 50
        assert "5 of 48 views are inputs" in viewer.scene_panel._text.content
    viewer.switch_input(inputs[1])
    until(lambda: viewer.scene.inputs == inputs)
    viewer.scene_panel._number.value = 3
    viewer.scene_panel._settle()
    until(lambda: len(viewer.scene.inputs) == 3)


def test_the_latest_choice_of_inputs_counts(viewer):
    scene, first = viewer.scene, viewer.scene.state
    for number in (20, 30, 40, 2):
        viewer.reconstruct(scene, range(number))
    until(lambda: scene.inputs == [0, 1])
    assert scene.state is not first
    assert scene.state.c2w.shape[1] == 2


def test_the_last_input_stays(viewer):
    viewer.reconstruct(viewer.scene, [4])
    until(lambda: viewer.scene.inputs == [4])
    viewer.switch_input(4)
    time.sleep(0.3)
    assert viewer.scene.inputs == [4]


def test_another_scene_can_be_opened(viewer):
    first = viewer.scene
    with ViewerClient(viewer.url, viewer.scene.shown_scale) as client:
        client.look(viewer.scene.c2w[3], FOV)
        before = picture_like(client, direct(viewer.scene, viewer.scene.c2w[3]))
        viewer.open(1)
        until(lambda: viewer.scene is not first)
        client.scale = viewer.scene.shown_scale
        assert psnr(middle(client.picture_that(lambda pixels: psnr(middle(pixels), before) < 25)), before) < 25
        client.look(viewer.scene.c2w[5], FOV)
        expected = direct(viewer.scene, viewer.scene.c2w[5])
        assert psnr(picture_like(client, expected), expected) > 30


def test_a_photo_that_cannot_be_read_leaves_the_scene_as_it_is(viewer, monkeypatch):
    def unreadable(*_: object, **__: object) -> None:
        raise InputError("a.png", "is damaged", "a photo")

    scene, first = viewer.scene, viewer.scene.state
    with ViewerClient(viewer.url, viewer.scene.shown_scale) as client:
        client.look(viewer.scene.c2w[3], FOV)
        client.last_picture()
        monkeypatch.setattr("model.viewer.viewed_scene.load_views", unreadable)
        viewer.reconstruct(scene, [0, 1])
        time.sleep(0.3)
        client.look(viewer.scene.c2w[4], FOV)
        expected = direct(viewer.scene, viewer.scene.c2w[4])
        assert psnr(picture_like(client, expected), expected) > 30
        assert client.kinds["NotificationShowMessage"] == 1
    assert scene.state is first
    assert "a.png: is damaged; wanted a photo" in viewer.scene_panel._text.content
    monkeypatch.undo()
    viewer.switch_input(scene.inputs[0])
    until(lambda: scene.state is not first)
    assert len(scene.inputs) == INPUTS - 1


def test_a_saved_state_is_shown_without_photos(viewer, model, tmp_path):
    state = viewer.scene.state
    with start_viewer({"s": lambda: ViewedScene.of_state(state, model, "s")}, SIZE, port=free_port("127.0.0.1", 18180)) as shown:
        assert not shown.scene.has_photos
        assert len(shown.scene) == INPUTS
        with ViewerClient(shown.url, shown.scene.shown_scale) as client:
            client.look(viewer.scene.c2w[3], FOV)
            expected = direct(viewer.scene, viewer.scene.c2w[3])
            assert psnr(picture_like(client, expected), expected) > 30
            assert "without photos" in shown.scene_panel._text.content


def test_distances_are_told_in_units_of_the_spread_of_the_inputs(viewer):
    scene = viewer.scene
    centres = scene.c2w[scene.inputs, :3, 3]
    spread = math.sqrt(np.square(centres - centres.mean(0)).sum() / len(centres))
    beyond = centres[0] * (1 + 2.5 * spread / np.linalg.norm(centres[0]))
    # The inputs are on a sphere: none is nearer to a point beyond one of them.
    assert scene.distance_to_inputs(beyond) == pytest.approx(2.5)
    with ViewerClient(viewer.url, viewer.scene.shown_scale) as client:
        c2w = scene.c2w[scene.inputs[0]].copy()
        client.look(c2w, FOV)
        client.last_picture()
        browser = viewer.browsers[0]
        assert "spreads" not in browser.status.content
        c2w[:3, 3] = beyond
        client.look(c2w, FOV)
        until(lambda: "2.5 spreads of the inputs away" in browser.status.content)


@pytest.mark.slow
def test_ten_clients_leave_nothing_behind(viewer, capfd):
    c2w, stop, counts = viewer.scene.c2w, threading.Event(), [0] * 10

    def wander(k: int) -> None:
        rng = np.random.default_rng(k)
        with ViewerClient(viewer.url, viewer.scene.shown_scale) as client:
            while not stop.is_set():
                client.look(c2w[rng.integers(len(c2w))], FOV)
                client.picture()
                counts[k] += 1

    threads = [threading.Thread(target=wander, args=(k,)) for k in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(8)
    viewer.switch_input(viewer.scene.inputs[0])  # a reconstruction meanwhile
    time.sleep(4)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert min(counts) > 3, counts
    until(lambda: not viewer.browsers)
    assert viewer.loop._browsers == {}
    assert "Traceback" not in capfd.readouterr().err


def test_the_next_port_is_taken_where_one_is_in_use(model, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 100


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(InputError, match=r"--host 192.0.2.1: cannot be listened at \(.+\); wanted an address of this machine"):
        free_port("192.0.2.1", 8080)
    with pytest.raises(InputError, match=r"--host no such host: cannot be listened at"):
        free_port("no such host", 8080)


def test_without_viser_one_line_says_how_to_install_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "viser", None)
    assert inference.main(["--viewer", "--device", "cpu", "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert re.fullmatch(r'inference.py: viewer: cannot start \(.+\); wanted viser: pip install "viser>=1.1,<2"', error)


@pytest.mark.slow
def test_the_program_serves_until_it_is_interrupted(tmp_path):
    command = [sys.executable, str(ROOT / "inference.py"), "--viewer", "--device", "cpu", "--output_dir", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--port", str(free_port("127.0.0.1", 18280))],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        first, second = program.stdout.readline(), program.stdout.readline()
        url = re.fullmatch(r"viewer: (http://localhost:\d+) \(Ctrl-C ends it\)\n", first)
        assert url, first + program.stderr.read()
        assert "ssh -L" in second
        with ViewerClient(url[1], 1.5) as client:
            client.look(np.array([[0.0, 0, -1, 2.7], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]), FOV)
            assert client.picture_that(lambda pixels: pixels.std() > 10).std() > 10  # something is there
            program.send_signal(signal.SIGINT)
            assert program.wait(20) == 128 + signal.SIGINT
        assert program.stderr.read().strip() == "inference.py: interrupted"
    assert os.listdir(tmp_path) == []
