"""Page of an evaluation run: every picture and figure in its place, nothing from outside, and a size that is bounded."""

import base64
import dataclasses
import io
import math
import os
import pickle
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.output import html_scene
from data.output.html_numbers import quantity
from data.output.html_report import Section, Target, make_section, section_budget, write_html
from data.output.html_section import page_bytes
from data.output.picture import colour_table
from tests.support.html_pages import Node, picture_of, read_page, urls_of

ABOUT = {"load": "weight/small.pt", "data_path": "scenes.json", "image_size": (24, 40), "machine": {"commit": "abc", "cores": 2}}
# The colours of 256 levels of error, which end at 0.2.
SCALE = 0.2


def noise(seed: int, h: int = 24, w: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def smooth(seed: int, h: int, w: int) -> np.ndarray:
    """Return an image without detail, as photos are at their pixels' scale."""
    return np.asarray(Image.fromarray(noise(seed, 5, 7)).resize((w, h), Image.Resampling.BICUBIC))


def target(view: int, count: int, size: tuple[int, int] = (24, 40), nearest: bool = True, **scores: float | None) -> tuple:
    """Return a target of `make_section`; its photo depends on the view alone."""
    photo, rendering = noise(view, *size), noise(1000 * count + view, *size)
    return view, photo, rendering, noise(2000 * count + view, *size) if nearest else None, scores


def section(scene: str = "chair", inputs: tuple[int, ...] = (0, 4), views: tuple[int, ...] = (1, 2, 7), **changes) -> Section:
    """Return a section with noise as pictures; `changes` replace its other fields."""
    budget = changes.pop("budget", section_budget(4))
    targets = changes.pop("targets", [target(view, len(inputs), psnr=20.0 + view) for view in views])
    made = make_section(
        scene, inputs, [noise(view) for view in inputs], targets, len(targets), {"psnr": 21.5}, {}, "", None, budget
    )
    return dataclasses.replace(made, **changes)


def pictures_of(made: Section) -> list[bytes]:
    targets = [[target.photo, target.rendering, target.error, target.nearest] for target in made.targets]
    return [photo for _, photo in made.photos] + [picture for target in targets for picture in target if picture is not None]


def size_of(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as image:
        return image.height, image.width


def written(tmp_path: Path, sections: list[Section], **changes) -> Node:
    path = tmp_path / "report.html"
    options = {"about": ABOUT, "means": [], "curves": [], **changes}
    write_html(path, sections, options["about"], options["means"], options["curves"])
    return read_page(path)


def heat(photo: np.ndarray, rendering: np.ndarray) -> np.ndarray:
    error = np.abs(photo.astype(float) - rendering).mean(-1) / 255
    return colour_table()[np.round(np.minimum(error / SCALE, 1) * 255).astype(int)]


def rows_of(table: Node) -> list[list[Node]]:
    """Return a table's cells, row by row."""
    return [[cell for cell in row.children if isinstance(cell, Node)] for row in table.all("tr")]


def test_every_small_picture_is_in_its_place_without_loss(tmp_path):
    counts, views = {2: (0, 4), 3: (0, 4, 6)}, (1, 2, 7)
    page = written(tmp_path, [section("chair", inputs, views) for inputs in counts.values()])
    scene = page.one("section", id="scene-1")
    (table,) = scene.classed("targets")
    heads, *blocks = [[cell for row in rows_of(part) for cell in row] for part in [*table.all("thead"), *table.all("tbody")]]
    assert [head.text for head in heads] == ["photo", "", "2 inputs", "3 inputs"]
    assert len(blocks) == len(views)
    for view, cells in zip(views, blocks, strict=True):
        kinds = ["photo", "rendering", 2, 3, "error", 2, 3, "nearest input", 2, 3]
        for kind, cell in zip(kinds, cells, strict=True):
            assert isinstance(kind, int) or kind == "photo" or cell.text == kind
        photo = noise(view)
        np.testing.assert_array_equal(picture_of(cells[0].one("img")), photo)
        assert cells[0].text == f"view {view}"
        for column, count in enumerate(counts):
            shown = [picture_of(cells[first + column].one("img")) for first in (2, 5, 8)]
            np.testing.assert_array_equal(shown[0], noise(1000 * count + view))
            # float32 may round the other way at halves.
            assert (shown[1] != heat(photo, noise(1000 * count + view))).any(-1).mean() < 0.01
            np.testing.assert_array_equal(shown[2], noise(2000 * count + view))
            assert cells[2 + column].text.startswith(f"{20 + view:.2f} dB")
    # Inputs: each once, under its number.
    (strip,) = scene.classed("strip")
    for view, figure in zip((0, 4, 6), strip.all("figure"), strict=True):
        np.testing.assert_array_equal(picture_of(figure.one("img")), noise(view))
        assert figure.text == (f"{view}" if view != 6 else "6 in 3")
    assert len(page.all("img")) == 3 * (1 + 2 * 3) + 3 + 1  # and that of the dialog, which is empty


def test_one_number_of_inputs_has_a_row_per_target(tmp_path):
    page = written(tmp_path, [section(views=(5, 3))])
    (table,) = page.one("section", id="scene-1").classed("targets")
    heads, *rows = rows_of(table)
    assert [head.text for head in heads] == ["photo", "rendering", "error", "nearest input"]
    for view, cells in zip((3, 5), rows, strict=True):
        for cell, expected in zip(cells, (noise(view), noise(2000 + view), None, noise(4000 + view)), strict=True):
            image = cell.one("img")
            assert f"view {view}" in image.attributes["alt"]
            if expected is not None:
                np.testing.assert_array_equal(picture_of(image), expected)
    # 24 × 40 in a square of 288: seven times as large, pixels as squares.
    assert {(img.attributes["height"], img.attributes["width"], img.attributes["class"]) for img in table.all("img")} == {
        ("168", "280", "squares")
    }


def test_without_the_nearest_input_there_is_no_column_for_it(tmp_path):
    page = written(tmp_path, [section(targets=[target(view, 2, nearest=False) for view in (1, 2)])])
    heads, first, _ = rows_of(page.classed("targets")[0])
    assert [head.text for head in heads] == ["photo", "rendering", "error"]
    assert first[1].text == "not scored"


def test_the_same_nearest_input_of_neighbouring_numbers_is_there_once(tmp_path):
    def with_nearest(count: int, seed: int) -> tuple:
        return *target(3, count)[:3], noise(seed), {"psnr": 20.0, "psnr_nearest": 11.25}

    sections = [section(inputs=tuple(range(n)), targets=[with_nearest(n, seed)]) for n, seed in ((2, 50), (3, 51), (4, 51))]
    (table,) = written(tmp_path, sections).classed("targets")
    cells = rows_of(table)[3]
    assert [cell.attributes.get("colspan") for cell in cells[1:]] == [None, "2"]
    assert [cell.text for cell in cells[1:]] == ["11.25 dB", "11.25 dB the same with 3 inputs, 4 inputs"]
    np.testing.assert_array_equal(picture_of(cells[2].one("img")), noise(51))


def test_targets_that_differ_between_numbers_of_inputs_are_not_mixed(tmp_path):
    changed = (2, noise(77), noise(78), None, {"psnr": 9.0})
    sections = [section(views=(1, 2)), section(inputs=(0, 4, 6), targets=[target(1, 3), changed, target(9, 3)])]
    (table,) = written(tmp_path, sections).classed("targets")
    shown = []
    for block in table.all("tbody"):
        (photo, _, *renderings), *_ = rows_of(block)
        shown.append((photo.text, [cell.text if not cell.all("img") else "picture" for cell in renderings]))
        for cell, expected in zip(renderings, {"view 1": (2001, 3001), "view 9": (None, 3009)}.get(photo.text, ()), strict=False):
            if expected is not None:
                np.testing.assert_array_equal(picture_of(cell.one("img")), noise(expected))
    # Two photos claim to be view 2: each has its own row.
    none = ["not shown with 2 inputs", "not shown with 3 inputs"]
    assert [photo for photo, _ in shown] == ["view 1", "view 2", "view 2", "view 9"]
    assert [cells for _, cells in shown] == [["picture"] * 2, ["picture", none[1]], [none[0], "picture"], [none[0], "picture"]]


def test_a_photo_that_two_sections_store_differently_is_one_photo(tmp_path):
    sizes, views = (300, 500), (0, 1)
    targets = {n: [(view, smooth(view, *sizes), smooth(50 * n + view, *sizes), None, {}) for view in views] for n in (2, 3)}
    sections = [section(inputs=tuple(range(n)), targets=targets[n], budget=budget) for n, budget in ((2, 10**6), (3, 30_000))]
    assert sections[0].targets[0].photo != sections[1].targets[0].photo
    (table,) = written(tmp_path, sections).classed("targets")
    assert len(table.all("tbody")) == 2
    for view, block in zip(views, table.all("tbody"), strict=True):
        photo, fine, coarse, *_ = (picture_of(image) for image in block.all("img"))
        assert photo.shape == fine.shape == (300, 500, 3)
        assert coarse.shape < photo.shape
        # JPEG of smooth images: off by few levels.
        assert np.abs(photo.astype(float) - smooth(view, *sizes)).mean() < 3


@pytest.mark.parametrize("budget", [4_000_000, 400_000, 120_000, 60_000, 45_000])
@pytest.mark.parametrize("size", [(64, 64), (310, 501)])
def test_a_section_keeps_to_its_budget_and_stays_readable(budget, size):
    photos = [noise(view, *size) for view in range(20)]
    targets = [target(view, 20, size) for view in range(6)]
    made = make_section("noise", list(range(20)), photos, targets, 40, {}, {}, "", None, budget)
    # Nothing takes more bytes than noise.
    assert sum(4 * math.ceil(len(picture) / 3) for picture in pictures_of(made)) <= budget
    assert all(max(size_of(picture)) >= min(128, max(size)) for picture in pictures_of(made))
    assert len(made.photos) >= 4
    assert len(made.targets) >= 2
    assert made.inputs == list(range(20))
    assert made.num_targets == 40
    if budget == 4_000_000:
        assert (len(made.photos), len(made.targets)) == (16, 6)
        assert [view for view, _ in made.photos] == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19]


def test_the_error_of_a_smaller_picture_is_the_mean_over_its_area():
    # Checkered errors of 0 and 51 of 255, which is where colours end: on average half of that.
    photo = np.zeros((512, 512, 3), np.uint8)
    rendering = photo.copy()
    rendering[::2, ::2] = rendering[1::2, 1::2] = 51
    made = make_section("a", [], [], [(0, photo, rendering, None, {})], 1, {}, {}, "", None, 15_000)
    with Image.open(io.BytesIO(made.targets[0].error)) as image:
        assert image.width < 512
        shown = np.asarray(image, float)
    # JPEG: a flat colour within a few levels.
    assert np.abs(shown - colour_table()[128].astype(float)).max() < 6


def test_the_budget_bounds_the_page_whatever_the_number_of_sections():
    for number in (1, 2, 7, 50, 560, 3000):
        assert number * section_budget(number) <= 52_000_000
    assert section_budget(1) == 4_000_000
    assert section_budget(0) > 0


@pytest.mark.slow
def test_a_page_of_many_sections_is_bounded(tmp_path):
    size, counts = (134, 240), (4, 8, 16, 32)
    sections = []
    for count in counts:
        photos, targets = [noise(view, *size) for view in range(count)], [target(view, count, size, psnr=20.0) for view in range(6)]
        budget = section_budget(140 * len(counts))
        made = make_section(
            "", list(range(count)), photos, targets, 6, {"psnr": 20.0}, {"reconstruct_s": 1.0}, "note", None, budget
        )
        sections += [dataclasses.replace(made, scene=f"{scene:03d}_{'name' * 12}") for scene in range(140)]
    write_html(tmp_path / "report.html", sections, ABOUT, [], [])
    assert 20_000_000 < (tmp_path / "report.html").stat().st_size < 64_000_000


STRANGE = [
    "<script>alert(1)</script>",
    'a"b<c>&amp;',
    "caf\udce9 \x1b[31m",
    "{{ 7 * 7 }}{% raw %}",
    "-->]]><!--",
    "' onload='x",
    "a\nb",
    "\u202eright to left",
]


def test_names_are_text_whatever_they_hold(tmp_path):
    sections = [section(name, note=f"note of {name}", views=(1,)) for name in STRANGE]
    about = {**ABOUT, "load": STRANGE[0], STRANGE[1]: {STRANGE[0]: [STRANGE[1]]}, "warnings": STRANGE, "date": STRANGE[0]}
    page = written(tmp_path, sections, about=about, means=[{"inputs": STRANGE[0], "scenes": 1, "views": 1, STRANGE[1]: 2.0}])
    shown = [
        name.replace("\udce9", r"\udce9").replace("\x1b", r"\x1b").replace("\n", r"\n").replace("\u202e", r"\u202e")
        for name in STRANGE
    ]
    titles = [scene.one("h2").one("bdi").text for scene in page.classed("scene")]
    assert titles == shown
    notes = [scene.classed("warning")[0].text for scene in page.classed("scene")]
    assert notes == [f"note of {name}" for name in shown]
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for node in page.walk() for name in node.attributes)
    # None of them escaped into an element of its own.
    plain = written(tmp_path, [section(f"scene {i}", note=f"n{i}", views=(1,)) for i in range(7)], about=about)
    assert [node.tag for node in page.one("section", id="scene-1").walk()] == [
        node.tag for node in plain.one("section", id="scene-1").walk()
    ]


def test_nothing_leads_outside(tmp_path):
    folder = tmp_path / "http:" / "name.org"
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes(b"video")
    page = written(tmp_path, [section("http://name.org/", video=folder / "video.mp4"), section("//name.org/x")])
    for url in urls_of(page):
        assert "://" not in url
        assert "@import" not in url
        assert "url(" not in url
        assert not url.startswith(("/", "http:", "https:", "javascript:"))
    for tag in ("link", "iframe", "object", "embed", "base", "form", "source"):
        assert page.all(tag) == []


def test_scores_stand_beside_their_baselines(tmp_path):
    scores = {"psnr": 23.456, "psnr_nearest": 14.5, "psnr_mean": 25.0, "ssim": 0.71236, "ssim_nearest": None, "lpips": None}
    other = {"psnr": math.inf, "psnr_box": 20.0, "ssim": 0.5, "lpips": 0.123456, "lpips_mean": 0.2}
    page = written(tmp_path, [section(scores=scores), section("table", inputs=(0, 1, 2), scores=other)])
    groups, pictures, first, second = rows_of(page.classed("sortable")[0])
    assert [cell.text for cell in groups[3:]] == ["PSNR dB ↑", "object PSNR dB ↑", "SSIM ↑", "LPIPS ↓"]
    assert [int(cell.attributes["colspan"]) for cell in groups[3:]] == [3, 1, 1, 2]
    own, nearest, mean = "rendering", "nearest input", "mean of inputs"
    assert [cell.text for cell in pictures] == [own, nearest, mean, own, own, own, mean]
    missing = "not computed"
    assert [cell.text for cell in first] == ["chair", "2", "3", "23.46", "14.50", "25.00", missing, "0.7124", missing, missing]
    assert [cell.text for cell in second] == ["table", "3", "3", "∞", missing, missing, "20.00", "0.5000", "0.1235", "0.2000"]
    # A rendering that the mean of the inputs beats is marked; LPIPS is better where it is lower.
    assert [node.text for node in page.classed("sortable")[0].classed("worse")] == ["23.46"]
    lower = written(
        tmp_path, [section(scores={"lpips": 0.3, "lpips_mean": 0.2}), section("b", scores={"lpips": 0.1, "lpips_mean": 0.2})]
    )
    assert [node.text for node in lower.classed("sortable")[0].classed("worse")] == ["0.3000"]


def test_means_have_a_row_per_number_of_inputs(tmp_path):
    means = [
        {"inputs": 2, "scenes": 3, "views": 40, "psnr": 20.0, "psnr_nearest": 15.0, "ssim": 0.5, "reconstruct_s": 0.25},
        {"inputs": None, "scenes": 1, "views": 0, "psnr": None, "note": "no figure"},
    ]
    page = written(tmp_path, [section()], means=means, about={**ABOUT, "not_computed": {"lpips": "its weights are missing"}})
    table, speed = page.one("section", id="means").all("table")
    assert [[cell.text for cell in row] for row in rows_of(speed)] == [["inputs", "reconstruct"], ["2", "250 ms"], ["varies", ""]]
    groups, _, first, second = rows_of(table)
    assert [cell.text for cell in groups] == ["inputs", "scenes", "targets", "PSNR dB ↑", "SSIM ↑", "LPIPS ↓"]
    assert [cell.text for cell in first] == ["2", "3", "40", "20.00", "15.00", "0.5000", "not computed"]
    assert [cell.text for cell in second] == ["varies", "1", "0"] + ["not computed"] * 4
    assert "LPIPS not computed: its weights are missing" in [node.text for node in page.classed("warning")]


def test_the_lowest_scores_are_named_first(tmp_path):
    sections = [
        section(f"scene {i}", scores={"psnr": psnr}) for i, psnr in enumerate((30.0, 12.5, math.inf, 25.0, None, 18.0, 40.0, 35.0))
    ]
    page = written(tmp_path, sections)
    (line,) = [node.text for node in page.all("p") if node.text.startswith("Lowest PSNR")]
    assert line == (
        "Lowest PSNR: scene 1 12.50 dB (2 inputs), scene 5 18.00 dB (2 inputs), scene 3 25.00 dB (2 inputs), "
        "scene 0 30.00 dB (2 inputs), scene 7 35.00 dB (2 inputs)."
    )


def test_the_title_names_the_weights_and_no_scenes_are_said_to_be_none(tmp_path):
    assert written(tmp_path, [section()]).one("title").text == "Evaluation of small.pt"
    assert "No scene was evaluated." in written(tmp_path, [], about={}).text


def test_warnings_are_at_the_top_with_their_scenes_and_at_these(tmp_path):
    sections = [section("a", note="odd size"), section("a", inputs=(0, 1, 2)), section("b"), section("c", note="odd size")]
    page = written(tmp_path, sections, about={**ABOUT, "warnings": ["odd size", "a camera is below the floor"]})
    (top,) = page.all("header")
    assert [node.text for node in top.classed("warning")] == ["odd size (a, c)", "a camera is below the floor"]
    scenes = page.classed("scene")
    assert [[node.text for node in scene.classed("warning")] for scene in scenes] == [["odd size"], [], ["odd size"]]


def test_settings_and_measurements_are_told_in_words(tmp_path):
    about = {**ABOUT, "no_lpips": True, "seed": None, "trained_with": {}, "input_views": {f"s{i}": [i, 2] for i in range(14)}}
    speed = {"reconstruct_s": 1.234, "frames_per_s": 61.25, "input_tokens": 16384, "peak_memory_bytes": 3 * 2**30}
    page = written(tmp_path, [section(speed=speed)], about=about)
    settings = page.one("section", id="about")
    told = {row[0].text: row[1].text for row in rows_of(settings) if len(row) == 2}
    assert told["no_lpips"] == "yes"
    assert told["seed"] == "not set"
    assert told["trained_with"] == "none"
    assert told["image_size"] == "24, 40"
    assert told["commit"] == "abc"
    assert told["s13"] == "13, 2"
    heads, figures = rows_of(page.classed("facts")[0])
    assert [cell.text for cell in heads][-4:] == ["reconstruct", "frames per second", "input tokens", "peak memory"]
    assert [cell.text for cell in figures][-4:] == ["1.23 s", "61.2", "16,384", "3.00 GiB"]
    header = page.one("header").text
    assert "image size 24×40 (height × width)" in header
    assert "inputs 2 " in header
    assert "weights weight/small.pt" in header


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("reconstruct_s", 0.01234, ("reconstruct", "12.3 ms")),
        ("reconstruct_s", 75.4, ("reconstruct", "75.4 s")),
        ("frames_per_s", 1234.6, ("frames per second", "1,235")),
        ("frames_per_s", math.inf, ("frames per second", "∞")),
        ("peak_memory_bytes", 5 * 2**20, ("peak memory", "5.00 MiB")),
        ("input_tokens", 7, ("input tokens", "7")),
        ("ratio", 0.5, ("ratio", "0.5")),
    ],
)
def test_quantities_have_their_units(name, value, expected):
    assert quantity(name, value) == expected


def test_videos_are_embedded_while_the_page_is_small_enough(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"caf\xe9 #1?&")
    folder.mkdir()
    videos = {2: folder / "video 2.mp4", 3: folder / "video.gif", 4: folder / "video_4.mp4"}
    for count, path in videos.items():
        path.write_bytes(bytes(range(256)) * 400 * count)
    sections = [section(inputs=tuple(range(n)), video=video) for n, video in videos.items()]
    first, second, third = written(tmp_path, sections).classed("videos")[0].all("figure")
    for figure, tag, kind, count in (
        (first, "video", "video/mp4", 2),
        (second, "img", "image/gif", 3),
        (third, "video", "video/mp4", 4),
    ):
        head, content = figure.one(tag).attributes["src"].split(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(content) == videos[count].read_bytes()
        assert figure.text == f"{count} inputs: {videos[count].name}"
    assert {"controls", "muted", "loop", "playsinline"} <= set(first.one("video").attributes)
    # With room for the first and less than the second, which alone would fit, the others are links to the files.
    text = html_scene._FRAME + sum(page_bytes(picture) for made in sections for picture in pictures_of(made)) + 3 * 5000
    monkeypatch.setattr(html_scene, "PAGE_BYTES", text + 600_000)
    first, second, third = written(tmp_path, sections).classed("videos")[0].all("figure")
    assert first.one("video").attributes["src"].startswith("data:")
    for figure, tag, count in ((second, "img", 3), (third, "video", 4)):
        for url in (figure.one(tag).attributes["src"], figure.one("a").attributes["href"]):
            assert urllib.parse.unquote_to_bytes(url) == os.fsencode(videos[count].relative_to(tmp_path))
            assert urllib.parse.urlsplit(url).path == url
        assert "not in this file, which would get too large" in figure.text


def test_only_what_is_given_is_shown(tmp_path):
    (tmp_path / "yesterday").mkdir()
    (tmp_path / "yesterday" / "video.mp4").write_bytes(b"old")
    (tmp_path / "curve_yesterday.png").write_bytes(b"old")
    page = written(tmp_path, [section()])
    assert "yesterday" not in page.text
    assert page.all("video") == []
    assert page.classed("curve") == []


def test_curves_are_embedded(tmp_path):
    for name, seed in (("a.png", 5), ("b.png", 6)):
        Image.fromarray(noise(seed)).save(tmp_path / name)
    page = written(tmp_path, [section()], curves=[tmp_path / "a.png", tmp_path / "b.png"])
    for image, seed in zip(page.classed("curve"), (5, 6), strict=True):
        np.testing.assert_array_equal(picture_of(image), noise(seed))


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    written(tmp_path, [section()])
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        written(tmp_path, [section("new")], curves=[tmp_path / "gone.png"])
    broken = dataclasses.replace(section("new"), photos=[(0, b"no picture")])
    with pytest.raises(OSError, match="cannot identify image file"):
        written(tmp_path, [broken])
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_sections_go_between_processes():
    made = section(video=Path("scene/video.mp4"), note="n")
    assert pickle.loads(pickle.dumps(made)) == made
    assert isinstance(made.targets[0], Target)


def test_a_scene_without_targets_is_shown_with_its_inputs(tmp_path):
    page = written(tmp_path, [section(targets=[], scores={})])
    scene = page.one("section", id="scene-1")
    assert "There are no targets: nothing to compare with." in scene.text
    assert len(scene.all("img")) == 2
    assert scene.classed("targets") == []
