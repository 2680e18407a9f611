"""The viewer in a real browser, Debian's Chromium: what is on the screen, clicks on cameras, a path drawn, saved and rendered."""

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import inference
from data.scene_format import read_scene
from model.viewer import PathFiles, start_viewer
from tests.support.chromium import MARKS, launched, pixels_of, playwright
from tests.support.videos import decode
from tests.support.viewers import SIZE, bundled_model, direct, example_scenes, middle, psnr, until

pytest.importorskip("viser", reason="the viewer needs viser: pip install -r tests/requirement.txt")

from model.viewer.browser import Browser
from model.viewer.viewer import Viewer, free_port

pytestmark = MARKS
WINDOW = {"width": 1200, "height": 900}


class Screen:
    """A page of the viewer, and the browser on the viewer's side."""

    def __init__(self, page: "playwright.Page", viewer: Viewer) -> None:
        self.page, self.viewer = page, viewer
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.goto(viewer.url)
        self.until(lambda: bool(viewer.browsers) and viewer.browsers[0].sent > 0)
        self.settle()

    @property
    def browser(self) -> Browser:
        return self.viewer.browsers[0]

    def until(self, condition, patience_s: float = 40.0) -> None:
        """Wait while the page goes on."""
        for _ in range(int(patience_s * 20)):
            if condition():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("waited in vain")

    def settle(self) -> None:
        """Wait until a fine picture of the last pose has been sent and shown."""
        sent = -1
        while sent != self.browser.sent:
            sent = self.browser.sent
            self.page.wait_for_timeout(900)

    def shot(self) -> np.ndarray:
        """Return the part of the screen that shows the scene, without panels."""
        screen = pixels_of(self.page.screenshot())
        w, h = self.canvas
        return screen[:h, :w]

    def psnr_of(self, c2w: np.ndarray, at_least: float = 0.0) -> float:
        """Return the PSNR of the screen against the scene from a pose, with the browser's field of view, once it is high enough."""
        for _ in range(20):
            shot, pose = self.shot(), self.browser.pose
            rows = min(shot.shape[:2])
            # A square in the middle, as high as the window or as wide: the field of view of its height.
            fov = 2 * math.atan(math.tan(pose.fov / 2) * rows / shot.shape[0])
            square = shot[(shot.shape[0] - rows) // 2 :][:rows]
            found = psnr(middle(square), direct(self.viewer.scene, c2w, fov=fov))
            if found > at_least:
                break
            self.page.wait_for_timeout(500)
        return found

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the scene on the screen; viser renders it with fewer pixels where the machine is slow."""
        box = self.page.locator("canvas").first.bounding_box()
        assert box is not None
        assert box["x"] == box["y"] == 0
        return round(box["width"]), round(box["height"])

    def pixel(self, point: np.ndarray) -> tuple[float, float, float]:
        """Return where a point (3) of the scene is on the screen, and its depth."""
        pose, (w, h) = self.browser.pose, self.canvas
        x, y, depth = (point - pose.c2w[:3, 3]) @ pose.c2w[:3, :3]
        focal = h / 2 / math.tan(pose.fov / 2)
        return w / 2 + focal * x / depth, h / 2 + focal * y / depth, depth


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def model():
    return bundled_model()


@pytest.fixture
def screen(chromium, model, tmp_path):
    before = set(threading.enumerate())
    with start_viewer(example_scenes(model), SIZE, PathFiles(tmp_path), port=free_port("127.0.0.1", 19080)) as viewer:
        page = chromium.new_page(viewport=WINDOW)
        shown = Screen(page, viewer)
        # Headless Chromium has no GPU, and viser says so over the picture.
        notice = page.get_by_text("Software WebGL rendering detected")
        if notice.count():
            page.locator(".mantine-Notification-closeButton").first.click()
        yield shown
        page.close()
        assert shown.problems == []
        until(lambda: not viewer.browsers)
    until(lambda: not [t for t in set(threading.enumerate()) - before if t.name in ("render", "reconstruct")])


def without_cameras(screen: Screen) -> None:
    """Hide the cameras, which are drawn over the picture."""
    screen.page.get_by_label("Input cameras").uncheck()
    screen.settle()


def test_the_screen_shows_what_the_network_renders_at_that_pose(screen):
    without_cameras(screen)
    pose, (w, h) = screen.browser.pose, screen.canvas
    assert pose.aspect == pytest.approx(w / h, rel=0.01)
    assert screen.psnr_of(pose.c2w, at_least=30) > 30
    assert screen.psnr_of(screen.viewer.scene.c2w[17]) < 22


def test_dragging_orbits_the_object_and_the_picture_follows(screen):
    without_cameras(screen)
    before, page = screen.browser.pose, screen.page
    page.mouse.move(300, 500)
    page.mouse.down()
    for step in range(1, 13):
        page.mouse.move(300 + 12 * step, 500 + 2 * step)
        page.wait_for_timeout(30)
    page.mouse.up()
    screen.settle()
    after = screen.browser.pose
    distances = [np.linalg.norm(pose.c2w[:3, 3]) for pose in (before, after)]
    assert distances[1] == pytest.approx(distances[0], rel=1e-3)
    assert np.linalg.norm(after.c2w[:3, 3] - before.c2w[:3, 3]) > 0.3
    assert screen.psnr_of(after.c2w, at_least=30) > 30


def test_a_click_on_a_camera_flies_there_and_shows_the_photo_beside_the_rendering(screen):
    scene = screen.viewer.scene
    view = scene.inputs[0]
    away = scene.c2w[view].copy()
    away[:3, 3] *= 2.5  # so that this camera is before the object
    screen.browser.place(away)
    screen.settle()
    x, y, _ = screen.pixel(scene.c2w[view, :3, 3])
    screen.page.mouse.click(x, y)
    screen.until(lambda: np.allclose(screen.browser.pose.c2w, scene.c2w[view], atol=2e-3))
    text = screen.page.get_by_text(f"View {view}")
    text.wait_for()
    photo, fxfycxcy = scene.photo(view)
    c2w = torch.from_numpy(scene.c2w[view]).float()
    rendered = scene.model.render(scene.state, fxfycxcy[None, None], c2w[None, None], SIZE)[0, 0]
    score = -10 * math.log10(float(((rendered.clamp(0, 1) - photo) ** 2).mean()))
    told = screen.browser.photo_panel._text.content
    assert f"View {view}**, an input: " in told
    assert float(told.split(": ")[1].split()[0]) == pytest.approx(score, abs=0.05)
    screen.page.get_by_role("button", name="Take out of the inputs").click()
    screen.until(lambda: view not in scene.inputs)
    screen.page.get_by_role("button", name="Put into the inputs").click()
    screen.until(lambda: view in scene.inputs)


def test_a_path_is_drawn_saved_and_rendered(screen, tmp_path):
    page, scene = screen.page, screen.viewer.scene
    page.get_by_text("Camera path").click()
    for view in (scene.inputs[0], scene.inputs[2], scene.inputs[4]):
        screen.browser.fly_to_view(view)
        screen.until(lambda view=view: np.allclose(screen.browser.pose.c2w, scene.c2w[view], atol=2e-3))
        screen.settle()
        page.get_by_role("button", name="Add this view").click()
        page.wait_for_timeout(300)
    screen.until(lambda: screen.viewer.path_panel.path is not None and len(screen.viewer.path_panel.path.keyframes) == 3)
    page.get_by_role("button", name="Save").click()
    file = tmp_path / "camera_path.json"
    screen.until(file.is_file)
    content = json.loads(file.read_text())
    assert (content["render_height"], content["render_width"], len(content["keyframes"])) == (*SIZE, 3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert json.loads(Path(download.value.path()).read_text()) == content
    # The middle frame is the second keyframe, the second of the chosen inputs.
    folder = tmp_path / "rendered"
    command = f"--device cpu --num_target_views 0 --num_input_views 6 --camera_path {file} --output_dir {folder}"
    assert inference.main([*command.split(), "--data_path", str(scene.photos.scene.json_path)]) == 0
    frames, facts = decode(folder / scene.name / "video.mp4")
    assert (len(frames), facts["rate"]) == (120, 30)
    assert read_scene(scene.photos.scene.json_path).name == scene.name
    for frame, view in ((0, scene.inputs[0]), (-1, scene.inputs[4])):
        # H.264 with colours at half resolution.
        assert psnr(frames[frame], direct(scene, scene.c2w[view], fov=scene.field_of_view(view)[0])) > 30
