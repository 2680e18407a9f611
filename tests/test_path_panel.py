"""Camera paths drawn in the viewer, through the controls of its panel as a client sets them."""

import json
import math
import time

import numpy as np
import pytest

from model.keyframes import Keyframe, KeyframePath
from model.nerfstudio_path import camera_path_dict
from model.viewer import PathFiles, start_viewer
from tests.support.viewers import FOV, SIZE, bundled_model, example_scenes, until

pytest.importorskip("viser", reason="the viewer needs viser: pip install -r tests/requirement.txt")

from model.viewer.viewer import free_port
from tests.support.viewer_client import ViewerClient


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    files = PathFiles(tmp_path_factory.mktemp("paths"))
    with start_viewer(example_scenes(bundled_model()), SIZE, files, port=free_port("127.0.0.1", 18680)) as made:
        until(lambda: made.scene.state is not None)
        yield made


@pytest.fixture
def client(viewer):
    panel = viewer.path_panel
    panel._paths.clear()
    w = panel.widgets
    w.loop.value, w.tension.value, w.fps.value, w.height.value, w.width.value = False, 0.0, 30, *SIZE
    panel._filled.clear()
    panel.show()
    with ViewerClient(viewer.url, viewer.scene.shown_scale) as made:
        yield made
    until(lambda: not viewer.browsers)


def until_shown(viewer, condition) -> None:
    """Wait for the path, and for the panel to show it; nobody can use a control before."""
    until(condition)
    with viewer.path_panel._lock:
        pass


def add(viewer, client: ViewerClient, view: int) -> None:
    """Look at a view and add it as a keyframe."""
    panel = viewer.path_panel
    before = 0 if panel.path is None else len(panel.path.keyframes)
    client.look(viewer.scene.c2w[view], FOV)
    until(lambda: np.allclose(viewer.browsers[0].pose.c2w, viewer.scene.c2w[view], atol=1e-6))
    client.set(panel.widgets.add, True)
    until_shown(viewer, lambda: panel.path is not None and len(panel.path.keyframes) == before + 1)


def times(viewer) -> list[float]:
    return [key.time_s for key in viewer.path_panel.path.keyframes]


def views(viewer) -> list[int]:
    """Return which views of the scene the keyframes are."""
    c2w = viewer.scene.c2w
    return [int(np.abs(c2w - key.c2w).max((1, 2)).argmin()) for key in viewer.path_panel.path.keyframes]


def test_keyframes_are_added_inserted_moved_and_deleted(viewer, client):
    panel, scene = viewer.path_panel, viewer.scene
    for view in (3, 17, 40):
        add(viewer, client, view)
    assert times(viewer) == [0, 2, 4]
    # The window is 640×480 and the path square: a frame is as high as the window.
    assert [key.fov_deg for key in panel.path.keyframes] == pytest.approx([50, 50, 50])
    client.set(panel.widgets.keys, panel.widgets.keys.options[0])
    until_shown(viewer, lambda: np.allclose(viewer.browsers[0].pose.c2w, scene.c2w[3], atol=1e-6))  # it flies there
    assert panel._chosen == 0
    add(viewer, client, 9)  # between the first two
    assert times(viewer) == [0, 1, 2, 4]
    assert views(viewer) == [3, 9, 17, 40]
    client.set(panel.widgets.time, 1.7)
    until_shown(viewer, lambda: times(viewer)[1] == 1.7)
    client.set(panel.widgets.time, 9.0)  # not past its neighbour
    until_shown(viewer, lambda: 1.9 < times(viewer)[1] < 2)
    client.set(panel.widgets.fov, 30.0)
    until_shown(viewer, lambda: panel.path.keyframes[1].fov_deg == 30)
    client.look(scene.c2w[25], FOV)
    until_shown(viewer, lambda: np.allclose(viewer.browsers[0].pose.c2w, scene.c2w[25], atol=1e-6))
    client.set(panel.widgets.edit, "Set to this view")
    until_shown(viewer, lambda: views(viewer) == [3, 25, 17, 40])
    client.set(panel.widgets.edit, "Delete")
    until_shown(viewer, lambda: views(viewer) == [3, 17, 40])
    for left in (2, 1):
        client.set(panel.widgets.edit, "Delete")
        until_shown(viewer, lambda left=left: len(panel.path.keyframes) == left)
    client.set(panel.widgets.edit, "Delete")
    until_shown(viewer, lambda: panel.path is None)


def test_duration_tension_and_loop_shape_the_path(viewer, client):
    panel = viewer.path_panel
    for view in (3, 17, 40):
        add(viewer, client, view)
    client.set(panel.widgets.seconds, 10.0)
    until_shown(viewer, lambda: times(viewer) == [0, 5, 10])
    client.set(panel.widgets.tension, 0.5)
    until_shown(viewer, lambda: panel.path.tension == 0.5)
    client.set(panel.widgets.loop, True)
    until_shown(viewer, lambda: panel.path.loop)
    assert times(viewer) == [0, 5, 10]
    assert panel.path.seconds == 10 + panel.path.closing_s
    until_shown(viewer, lambda: panel.widgets.seconds.value == pytest.approx(panel.path.seconds))
    client.set(panel.widgets.fps, 24)
    until_shown(viewer, lambda: panel.path.fps == 24)
    client.set(panel.widgets.height, 128)
    client.set(panel.widgets.width, 256)
    until_shown(viewer, lambda: panel.path.image_size == (128, 256))
    until_shown(viewer, lambda: f"{round(24 * panel.path.seconds)} frames" in panel.widgets.text.content)


def test_the_preview_moves_the_camera_of_who_asks(viewer, client):
    panel = viewer.path_panel
    for view in (3, 17):
        add(viewer, client, view)
    client.set(panel.widgets.at, 0.5)
    expected = panel.path.at([1.0])[0][0]
    until_shown(viewer, lambda: np.allclose(viewer.browsers[0].pose.c2w, expected, atol=2e-3))
    start = time.monotonic()
    client.set(panel.widgets.play, True)
    until_shown(viewer, lambda: np.linalg.norm(viewer.browsers[0].pose.c2w[:3, 3] - viewer.scene.c2w[17, :3, 3]) < 0.2)
    assert 1.5 < time.monotonic() - start < 4
    until_shown(viewer, lambda: not panel._playing.is_set())


def test_a_path_is_loaded_from_a_browser_and_what_is_none_is_refused(viewer, client):
    panel, c2w = viewer.path_panel, viewer.scene.c2w
    path = KeyframePath((Keyframe(c2w[5], 40.0, 0.0), Keyframe(c2w[6], 45.0, 3.0)), (48, 64), 12.0)
    client.upload(panel.widgets.load, "p.json", json.dumps(camera_path_dict(path)).encode())
    until_shown(viewer, lambda: panel.path is not None)
    assert views(viewer) == [5, 6]
    assert (panel.path.image_size, panel.path.fps, times(viewer)) == ((48, 64), 12, [0, 3])
    until_shown(viewer, lambda: (panel.widgets.height.value, panel.widgets.width.value, panel.widgets.fps.value) == (48, 64, 12))
    until_shown(viewer, lambda: panel.widgets.fov.value == pytest.approx(40))
    # A wider frame in the same window: it is as wide as the window.
    browser = viewer.browsers[0]
    client.set(panel.widgets.keys, panel.widgets.keys.options[1])
    until_shown(viewer, lambda: np.allclose(browser.pose.c2w, c2w[6], atol=1e-4))
    until_shown(viewer, lambda: abs(browser.client.camera.fov - math.radians(45)) < 1e-3)
    client.upload(panel.widgets.load, "bad.json", b'{"keyframes": 3}')
    end = time.monotonic() + 10
    while "NotificationShowMessage" not in client.kinds:
        assert time.monotonic() < end
        client.look(c2w[3], FOV)
        client.picture()
    assert views(viewer) == [5, 6]
