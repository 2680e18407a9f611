"""The page of an evaluation run in a real browser, Debian's Chromium: pixels, sorting, enlarging, no request."""

import math
from pathlib import Path

import numpy as np
import pytest

from data.output.html_report import Section, make_section, section_budget, write_html
from data.output.video import VideoWriter
from tests.support.chromium import MARKS, launched, pixels_of, playwright

pytestmark = MARKS

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}
ABOUT = {"load": "weight/" + "a_long_name_" * 12 + ".pt", "data_path": "scenes.json", "machine": {"cpu": "one " * 40}}
PSNR = {"a": 20.0, "b": 9.5, "c": None, "d": math.inf, "e" * 90: 12.25, "f": 31.0}


def noise(seed: int, h: int = 24, w: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def section(scene: str, number: int, count: int, video: Path | None) -> Section:
    targets = [(view, noise(view), noise(100 * number + 10 * count + view), noise(7), {"psnr": 12.0}) for view in (5, 6)]
    scores = {"psnr": PSNR[scene], "ssim": 0.5, "lpips": 0.1 * number, "psnr_nearest": 10.0}
    photos = [noise(view) for view in range(count)]
    speed = {"reconstruct_s": 0.5, "peak_memory_bytes": 2.0**31}
    return make_section(
        scene, range(count), photos, targets, 2, scores, speed, f"note of {scene}", video, section_budget(len(PSNR) * 2)
    )


def assert_shown(screen: np.ndarray, picture: np.ndarray, factor: int) -> None:
    """Check that a picture, enlarged by a whole factor, fills a part of the screen, which may have a row or column more."""
    expected = picture.repeat(factor, 0).repeat(factor, 1)
    h, w = expected.shape[:2]
    spare = (screen.shape[0] - h, screen.shape[1] - w)
    assert min(spare) >= 0
    assert max(spare) <= 1
    parts = [screen[i : i + h, j : j + w] for i in range(spare[0] + 1) for j in range(spare[1] + 1)]
    assert any(np.array_equal(part, expected) for part in parts)


class Shown:
    """A page in the browser, and what it asked for and complained about."""

    def __init__(self, browser: "playwright.Browser", path: Path, window: dict, **options) -> None:
        self.page = browser.new_page(viewport=window, **options)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.goto(path.as_uri())

    def picture(self, selector: str) -> np.ndarray:
        """Return the pixels on the screen where an element is."""
        found = self.page.locator(selector)
        found.evaluate("element => element.decode && element.decode()")
        return pixels_of(found.screenshot())


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with VideoWriter(folder / "a" / "video.mp4", fps=10) as writer:
        for _ in range(5):
            writer.write(np.full((48, 80, 3), (200, 40, 40), np.uint8))
    sections = [
        section(scene, number, count, folder / "a" / "video.mp4" if scene == "a" else None)
        for number, scene in enumerate(PSNR)
        for count in (2, 3)
    ]
    means = [{"inputs": count, "scenes": 6, "views": 12, "psnr": 20.0, "reconstruct_s": 0.5} for count in (2, 3)]
    write_html(folder / "report.html", sections, ABOUT, means, [])
    return folder / "report.html"


@pytest.fixture
def shown(chromium, report, request):
    shown = Shown(chromium, report, **getattr(request, "param", {"window": WIDE}))
    yield shown
    shown.page.close()
    assert shown.problems == []
    # Nothing but the page itself, and what is inside of it.
    assert [url for url in shown.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def alt(text: str) -> str:
    return f'#scene-2 .targets img[alt="{text}"]'


def test_the_screen_shows_each_picture_pixel_for_pixel(shown):
    # Scene b is number 1 of the sections; 40 pixels grow six times into 256.
    for text, expected in (
        ("photo of view 5", noise(5)),
        ("rendering of view 5, 2 inputs", noise(125)),
        ("rendering of view 5, 3 inputs", noise(135)),
        ("rendering of view 6, 3 inputs", noise(136)),
    ):
        assert_shown(shown.picture(alt(text)), expected, 6)
    box = {
        name: shown.page.locator(alt(name)).bounding_box()
        for name in ("rendering of view 5, 2 inputs", "error of view 5, 2 inputs")
    }
    rendering, error = box.values()
    assert rendering["x"] == error["x"]
    assert error["y"] > rendering["y"] + rendering["height"]
    heads = shown.page.locator("#scene-2 .targets thead th")
    assert heads.all_inner_texts() == ["photo", "2 inputs", "3 inputs"]
    assert heads.nth(1).bounding_box()["x"] == pytest.approx(rendering["x"], abs=9)


@pytest.mark.parametrize(
    "shown",
    [{"window": WIDE}, {"window": PHONE}, {"window": PHONE, "color_scheme": "dark", "java_script_enabled": False}],
    indirect=True,
)
def test_the_page_never_scrolls_sideways(shown):
    page = shown.page
    page.mouse.wheel(2000, 0)
    page.wait_for_timeout(200)
    for place in ("header", "#means", "#scenes", "#scene-5", "#about"):
        page.locator(place).scroll_into_view_if_needed()
        box = page.locator(place).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.viewport_size["width"]
    if page.viewport_size == PHONE:
        assert page.locator("#scene-2 .targets").bounding_box()["width"] > 400


def scenes_in(shown: Shown) -> list[str]:
    return shown.page.locator(".sortable tbody tr th").all_inner_texts()


def test_a_click_on_a_column_sorts_the_worst_first(shown):
    page = shown.page
    names = [name for name in PSNR for _ in range(2)]
    assert [text.removesuffix(" ⚠") for text in scenes_in(shown)] == names
    # Columns of PSNR: the rendering's and the nearest input's; then SSIM's and LPIPS's.
    psnr, lpips = (
        page.locator(".sortable thead tr:last-child button").nth(0),
        page.locator(".sortable thead tr:last-child button").nth(3),
    )
    psnr.click()
    long = "e" * 90
    assert [text.removesuffix(" ⚠") for text in scenes_in(shown)][::2] == ["b", long, "a", "f", "d", "c"]
    psnr.click()
    assert [text.removesuffix(" ⚠") for text in scenes_in(shown)][::2] == ["d", "f", "a", long, "b", "c"]
    lpips.click()
    assert [text.removesuffix(" ⚠") for text in scenes_in(shown)][::2] == ["f", long, "d", "c", "b", "a"]
    assert page.locator(".sortable [aria-sort]").count() == 1
    page.get_by_role("button", name="inputs", exact=True).click()
    figures = page.locator(".sortable tbody tr td:nth-of-type(1)").all_inner_texts()
    assert figures == ["2"] * 6 + ["3"] * 6
    page.locator(".sortable a", has_text=long).first.click()
    assert page.locator("#scene-5 h2").is_visible()
    assert 0 <= page.locator("#scene-5").bounding_box()["y"] < 200


def test_a_click_enlarges_a_picture_and_arrows_change_to_its_neighbours(shown):
    page = shown.page
    page.locator(alt("photo of view 5")).click()
    for expected, text in ((noise(5), "photo of view 5"), (noise(125), "rendering of view 5, 2 inputs")):
        # 40 × 24 pixels in 1280 × 900 of the window, less its borders.
        assert_shown(shown.picture("dialog img"), expected, 29)
        assert page.locator("dialog p").inner_text().startswith(text)
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_the_embedded_video_plays(shown):
    video = shown.page.locator("#scene-1 video").first
    video.scroll_into_view_if_needed()
    video.evaluate("video => video.play()")
    shown.page.wait_for_function("document.querySelector('#scene-1 video').currentTime > 0.1")
    screen = shown.picture("#scene-1 video >> nth=0")
    # Away from the controls; H.264 keeps a flat colour within a few levels.
    assert np.abs(screen[20:60, 20:-20].astype(float) - (200, 40, 40)).max() < 12


@pytest.mark.parametrize("shown", [{"window": WIDE, "java_script_enabled": False}], indirect=True)
def test_without_scripts_the_page_is_whole(shown):
    page = shown.page
    assert page.locator(".sortable tbody tr").count() == 12
    assert page.locator(".sortable button").count() == 0
    assert page.locator(".targets img").count() == 6 * 2 * (1 + 2 * 2 + 1)
    assert_shown(shown.picture(alt("rendering of view 5, 2 inputs")), noise(125), 6)


def test_printed_pages_hold_all_pictures_within_their_width(shown):
    page = shown.page
    page.set_viewport_size({"width": 720, "height": 1000})
    page.emulate_media(media="print")
    for image in page.locator("main img").all():
        box = image.bounding_box()
        assert box["width"] > 20
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 720
    for table in page.locator(".scores, .facts, .targets").all():
        assert table.bounding_box()["width"] <= 720
