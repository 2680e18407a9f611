"""Overview pictures: images pixel for pixel where they fit, error colours on a fixed scale, cameras in their places."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from data.output.camera_drawing import MARK_COLOUR, CameraDrawing
from data.output.picture import camera_plot, colour_table, comparison, contact_sheet, evenly

BLUE = (29, 98, 176)


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image)


def places(page: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Return every (row, column) at which `picture` stands in `page`, pixel for pixel."""
    h, w = picture.shape[:2]
    corner = (page == picture[0, 0]).all(-1) & np.roll((page == picture[0, 1]).all(-1), -1, axis=1)
    found = [tuple(place) for place in np.argwhere(corner).tolist()]
    return [(i, j) for i, j in found if np.array_equal(page[i : i + h, j : j + w], picture)]


def test_a_comparison_shows_inputs_targets_renderings_and_errors(tmp_path: Path) -> None:
    inputs = [noise(160, 210, seed) for seed in range(3)]
    targets = [noise(165, 200, seed) for seed in (3, 4)]
    rendered = [noise(165, 200, seed) for seed in (5, 6)]
    comparison(tmp_path / "new" / "a.png", inputs, targets, rendered, title="a scene")
    page = read(tmp_path / "new" / "a.png")
    for photo in inputs:
        assert len(places(page, photo)) == 1
    for target, render in zip(targets, rendered, strict=True):
        (left,), (right,) = places(page, target), places(page, render)
        error = np.abs(target.astype(float) - render).mean(-1) / 255
        # The colour of the pixel's error, from a table of 256 that ends at 0.2.
        expected = colour_table()[np.round(np.minimum(error / 0.2, 1) * 255).astype(int)]
        i, j = right
        shown = page[i : i + 165, j + 210 : j + 410]
        # Rounding of float32 may go either way at halves.
        assert (shown != expected).any(-1).mean() < 0.01
        assert left == (i, j - 210)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("error", "index"), [(0, 0), (17, 85), (51, 255), (200, 255)])
def test_error_colours_have_a_fixed_scale(tmp_path: Path, error: int, index: int) -> None:
    target = np.zeros((40, 170, 3), np.uint8)
    rendered = np.full_like(target, error)
    comparison(tmp_path / "a.png", [], [target], [rendered])
    # 17 of 255 is a third of 0.2, where the scale ends, and 85 of 255 in the table.
    heat = np.broadcast_to(colour_table()[index], target.shape)
    assert len(places(read(tmp_path / "a.png"), heat)) >= 1


def test_the_caption_is_the_psnr_unless_given(tmp_path: Path) -> None:
    target = noise(30, 40) // 2
    rendered = target + np.array([10, 20, 0], np.uint8)
    # (10² + 20² + 0) / 3 over 255²: 10·log10(65025 / 166.67).
    comparison(tmp_path / "given.png", [target], [target], [rendered], captions=["25.91 dB"])
    comparison(tmp_path / "default.png", [target], [target], [rendered])
    comparison(tmp_path / "other.png", [target], [target], [rendered], captions=["25.92 dB"])
    assert np.array_equal(read(tmp_path / "given.png"), read(tmp_path / "default.png"))
    assert not np.array_equal(read(tmp_path / "other.png"), read(tmp_path / "default.png"))


def test_equal_images_are_shown_at_a_hundred_decibels(tmp_path: Path) -> None:
    target = noise(30, 40)
    comparison(tmp_path / "given.png", [], [target], [target], captions=["100.00 dB"])
    comparison(tmp_path / "default.png", [], [target], [target])
    assert np.array_equal(read(tmp_path / "given.png"), read(tmp_path / "default.png"))


def test_small_images_are_enlarged_in_whole_steps(tmp_path: Path) -> None:
    target, rendered = noise(9, 37), noise(9, 37, 1)
    comparison(tmp_path / "a.png", [target], [target], [rendered])
    # 160 over 37 rounds up to 5.
    assert len(places(read(tmp_path / "a.png"), rendered.repeat(5, 0).repeat(5, 1))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(700, 1300), (1300, 700), (64, 2100)])
@pytest.mark.parametrize("count", [1, 9])
def test_no_comparison_is_larger_than_two_thousand_pixels(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    images = [np.full((*size, 3), 40 * view, np.uint8) for view in range(3)]
    comparison(tmp_path / "a.png", images * 7, (images * 3)[:count], (images * 3)[:count], title="long " * 100)
    h, w = read(tmp_path / "a.png").shape[:2]
    assert max(h, w) <= 2000
    assert max(h, w) > 1000


def test_six_wide_targets_fill_a_wide_page(tmp_path: Path) -> None:
    images = [np.full((270, 480, 3), 40 * view, np.uint8) for view in range(6)]
    comparison(tmp_path / "a.png", images * 3, images, images)
    h, w = read(tmp_path / "a.png").shape[:2]
    # Two blocks of three rows below the inputs; one block of six rows would be half empty.
    assert w > 1900
    assert h < 0.7 * w


def test_evenly_keeps_the_ends_and_the_order() -> None:
    assert evenly(5, 16) == [0, 1, 2, 3, 4]
    assert evenly(50, 4) == [0, 16, 33, 49]
    assert evenly(3, 1) == [0]
    assert evenly(0, 4) == []


def test_colours_get_evenly_lighter() -> None:
    lightness = rgb2lab(colour_table()[None])[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    # CIE L* is not Oklab's lightness, and 8 bits round: 30 % less steep at the black end.
    slope = lightness[32:] - lightness[:-32]
    assert np.abs(slope / slope.mean() - 1).max() < 0.33
    assert lightness[0] < 5
    assert lightness[-1] > 95
    assert len(np.unique(colour_table(), axis=0)) == 256


def test_a_contact_sheet_shows_every_image_once_and_captions_below(tmp_path: Path) -> None:
    images = [noise(170 + 7 * view, 180, view) for view in range(5)]
    contact_sheet(tmp_path / "a.png", images, [f"view {view}" for view in range(5)], title="five")
    page = read(tmp_path / "a.png")
    for image in images:
        ((i, j),) = places(page, image)
        below = page[i + len(image) : i + len(image) + 20, j : j + 180]
        assert (below.max(-1) < 80).any()


def test_a_long_caption_is_cut_and_widens_nothing(tmp_path: Path) -> None:
    images = [noise(170, 180, view) for view in range(3)]
    for name, caption in (("short", "short"), ("long", "a caption that is much longer than its picture is wide")):
        contact_sheet(tmp_path / f"{name}.png", images, [caption] * 3, "")
    assert read(tmp_path / "short.png").shape == read(tmp_path / "long.png").shape


@pytest.mark.parametrize("count", [1, 7, 120])
def test_no_contact_sheet_is_larger_than_two_thousand_pixels(tmp_path: Path, count: int) -> None:
    contact_sheet(tmp_path / "a.png", [np.full((250, 1990, 3), 90, np.uint8)] * count, [""] * count, "wide")
    h, w = read(tmp_path / "a.png").shape[:2]
    assert max(h, w) <= 2000
    assert w > 1500


def looking_along(forward: list[float], position: list[float]) -> np.ndarray:
    """A camera that looks level along `forward` where z is up."""
    forward_axis, down = np.array(forward, float), np.array([0.0, 0, -1])
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([np.cross(down, forward_axis), down, forward_axis], axis=1)
    c2w[:3, 3] = position
    return c2w


def blue_pixels(page: np.ndarray) -> np.ndarray:
    """Return rows and columns (2, k) of the pixels in the cameras' blue, or in it mixed with white."""
    white = 255.0 - page
    strength = white.max(-1)
    tone = white / np.maximum(strength, 1)[..., None] - (255 - np.array(BLUE)) / max(255 - np.array(BLUE))
    return np.stack(np.nonzero((np.abs(tone).max(-1) < 0.05) & (strength > 20)))


def two_cameras(page: np.ndarray) -> list[np.ndarray]:
    """Return rows and columns (2, k) of the pixels of the left and of the right camera."""
    pixels = blue_pixels(page)
    columns = np.unique(pixels[1])
    left = pixels[1] <= columns[np.diff(columns).argmax()]
    assert 50 < left.sum() < len(left) - 50
    return [pixels[:, left], pixels[:, ~left]]


def panels_of(page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two white panels of a camera plot: from above, and from the side."""
    page = page[110:]
    edges = np.flatnonzero(np.diff((page == 255).all(-1).any(0).astype(int)))
    return page[:, edges[0] : edges[1]], page[:, edges[2] : edges[3]]


def from_left_to_right(page: np.ndarray) -> np.ndarray:
    """Return the offset of the right camera from the left one, in rows and columns."""
    left, right = (pixels.mean(1) for pixels in two_cameras(page))
    return right - left


def test_cameras_stand_where_they_are_in_both_views(tmp_path: Path) -> None:
    # The second is to the right (x), behind in y, and higher (z).
    c2w = np.stack([looking_along([0, 1, 0], [0, 3, 0]), looking_along([0, 1, 0], [4, 0, 1.5])])
    camera_plot(tmp_path / "a.png", c2w, np.array([[50, 50, 24, 16.0]] * 2), (32, 48))
    page = read(tmp_path / "a.png")
    assert page.shape[1] > 1800
    (down, right), (down_side, right_side) = (from_left_to_right(panel) for panel in panels_of(page))
    # 4 to 3 from above, 4 to 1.5 from the side, up is smaller rows; drawn pyramids are 0.3 deep.
    assert down / right == pytest.approx(3 / 4, rel=0.1)
    assert down_side / right_side == pytest.approx(-1.5 / 4, rel=0.1)
    assert right_side == pytest.approx(right, rel=0.02)


def test_what_points_up_is_against_the_cameras_y(tmp_path: Path) -> None:
    c2w = np.stack([looking_along([0, 1, 0], [0, 3, 0]), looking_along([0, 1, 0], [4, 0, 1.5])])
    turned = np.diag([1.0, -1, -1, 1]) @ c2w  # half a turn about x: the same cameras where z points down
    for name, poses in (("a", c2w), ("b", turned)):
        camera_plot(tmp_path / f"{name}.png", poses, np.array([[50, 50, 24, 16.0]] * 2), (32, 48))
    above, other = (panels_of(read(tmp_path / f"{name}.png")) for name in "ab")
    for panel, same in zip(above, other, strict=True):
        np.testing.assert_allclose(from_left_to_right(panel), from_left_to_right(same), atol=1)


@pytest.mark.parametrize("right", [True, False])
def test_pyramids_open_where_the_camera_looks(tmp_path: Path, right: bool) -> None:
    c2w = np.stack([looking_along([1.0 if right else -1.0, 0, 0], [x, 2, 3]) for x in (1, 5)])
    camera_plot(tmp_path / "a.png", c2w, np.array([[50, 50, 24, 16.0]] * 2), (32, 48))
    for rows, columns in two_cameras(panels_of(read(tmp_path / "a.png"))[0]):
        low, high = np.quantile(columns, [0.02, 0.98])
        ends = [np.ptp(rows[columns <= low]), np.ptp(rows[columns >= high])]
        narrow, wide = ends if right else ends[::-1]
        assert narrow < 0.3 * wide


def test_one_camera_and_cameras_at_one_place_are_drawn(tmp_path: Path) -> None:
    one = looking_along([0.6, 0.8, 0], [7, 7, 7])
    for c2w in (one[None], np.stack([one, looking_along([0, -1, 0], [7, 7, 7])])):
        camera_plot(tmp_path / "a.png", c2w, np.array([[50, 50, 24, 16.0]] * len(c2w)), (32, 48))
        page = read(tmp_path / "a.png")
        assert max(page.shape) <= 2000
        assert all(blue_pixels(panel).shape[1] > 50 for panel in panels_of(page))


def test_marked_images_and_cameras_have_the_colour_of_warnings(tmp_path: Path) -> None:
    images = [np.full((170, 180, 3), 40 + 20 * view, np.uint8) for view in range(5)]
    contact_sheet(tmp_path / "a.png", images, ["x"] * 5, title="five", marked=[3], note="one is marked")
    page = read(tmp_path / "a.png")
    rows, columns = np.nonzero((page == MARK_COLOUR).all(-1))
    # The frame of the fourth, around its own grey.
    inside = page[np.median(rows[rows > 120]).astype(int), int(np.median(columns[rows > 120]))]
    frame = [(page[i : i + 170, j : j + 180] == MARK_COLOUR).all(-1) for i, j in places(page, images[4][:2, :2])[:1]]
    assert not frame[0].any()
    assert inside[0] in (100, MARK_COLOUR[0])
    c2w = np.stack([looking_along([0, 1, 0], [x, 0.3 * x, 0.1 * x]) for x in range(4)])
    for name, marked in (("plain", []), ("marked", [2])):
        camera_plot(tmp_path / f"{name}.png", c2w, np.array([[50, 50, 24, 16.0]] * 4), (32, 48), marked=marked)
    red = [(np.abs(read(tmp_path / f"{name}.png").astype(int) - MARK_COLOUR).max(-1) < 8).sum() for name in ("plain", "marked")]
    assert red[0] == 0
    assert red[1] > 100


def dome(count: int) -> np.ndarray:
    """Cameras (count, 4, 4) on a half-sphere that look at (1, 2, 0), in a spiral."""
    share = (np.arange(count) + 0.5) / count
    height, angle = share, 2.4 * np.arange(count)
    level = np.sqrt(1 - height**2)
    forward = -np.stack([level * np.cos(angle), level * np.sin(angle), height], axis=1)
    poses = np.tile(np.eye(4), (count, 1, 1))
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses[:, :3] = np.stack([right, np.cross(forward, right), forward, (1, 2, 0) - 3 * forward], axis=2)
    return poses


class Recorder:
    """Stands for a drawing; keeps the texts that are written, with their places and colours."""

    def __init__(self) -> None:
        self.written: list[tuple[str, tuple[float, float], tuple[int, int, int]]] = []

    def text(self, place: tuple[float, float], text: str, fill: tuple[int, int, int], **_: object) -> None:
        self.written.append((text, place, fill))


def overlapping(recorder: Recorder) -> bool:
    """Return whether two numbers overlap: digits are 13 pixels high and 7 wide, before they are drawn three times as large."""
    centres = np.array([place for _, place, _ in recorder.written]) / 3
    widths = np.array([7 * len(text) for text, _, _ in recorder.written])
    offsets = np.abs(centres[:, None] - centres) + 1e9 * np.eye(len(centres))[..., None]
    return bool(((offsets[..., 1] < 13) & (offsets[..., 0] < (widths[:, None] + widths) / 2)).any())


def test_numbers_of_crowded_cameras_do_not_overlap_and_stay_in_the_panel() -> None:
    c2w = np.stack([looking_along([0, 1, 0], [0.01 * x, 0.02 * np.sin(x), 0.0]) for x in range(300)])
    drawing = CameraDrawing(c2w, np.array([[60, 60, 32, 24.0]] * 300), (48, 64), marked=range(100, 120))
    recorder = Recorder()
    places = (drawing.points[..., [0, 1]] - drawing.points[..., [0, 1]].min((0, 1))) * drawing.scale
    size = np.ceil(places.max((0, 1)) + 24).astype(int)
    drawing._number(recorder, places, size)
    assert 10 < len(recorder.written) <= 60
    assert not overlapping(recorder)
    assert all((np.array(place) / 3 >= 0).all() and (np.array(place) / 3 <= size).all() for _, place, _ in recorder.written)


@pytest.mark.parametrize("count", [5, 50, 500])
def test_pyramids_shrink_and_numbers_stay_apart(count: int) -> None:
    cameras = np.array([[60, 60, 32, 24.0]] * count)
    drawing = CameraDrawing(dome(count), cameras, (48, 64), marked=[1, 3])
    depth = np.linalg.norm(drawing.points[:, 1:].mean(1) - drawing.points[:, 0], axis=1) * drawing.scale
    apart = np.linalg.norm(drawing.points[:, None, 0] - drawing.points[:, 0], axis=2) + 1e9 * np.eye(count)
    assert depth.min() > 8
    assert depth.max() <= max(11, np.median(apart.min(1)) * drawing.scale)
    np.testing.assert_allclose(drawing.axes.T @ drawing.looked_at, (1, 2, 0), atol=1e-6)

    recorder = Recorder()
    places = drawing.points[..., [0, 1]] * drawing.scale + 1000
    drawing._number(recorder, places, np.array([2000, 2000]))
    texts = [text for text, _, _ in recorder.written]
    assert texts[:2] == ["1", "3"]
    assert {fill for _, _, fill in recorder.written[:2]} == {MARK_COLOUR}
    assert len(texts) == len(set(texts)) <= 42
    assert len(texts) >= min(count, 15)
    assert not overlapping(recorder)


def test_a_list_that_follows_a_walk_is_a_path_and_one_in_any_order_is_none() -> None:
    c2w = np.stack([looking_along([0, 1, 0], [0.1 * x, np.sin(0.1 * x), 0.0]) for x in range(40)])
    cameras = np.array([[60, 60, 32, 24.0]] * 40)
    assert CameraDrawing(c2w, cameras, (48, 64)).is_path
    assert not CameraDrawing(c2w[np.random.default_rng(0).permutation(40)], cameras, (48, 64)).is_path
    # All look along y: at no point.
    assert CameraDrawing(c2w, cameras, (48, 64)).looked_at is None


def test_comparisons_and_sheets_refuse_what_is_no_set_of_images(tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", noise(8, 9)
    with pytest.raises(ValueError, match=r"a.png: 0 targets, 0 renderings, 0 captions; wanted the same number"):
        comparison(path, [image], [], [])
    with pytest.raises(ValueError, match=r"1 targets, 2 renderings, 1 captions; wanted the same number"):
        comparison(path, [image], [image], [image] * 2)
    with pytest.raises(ValueError, match=r"1 targets, 1 renderings, 2 captions; wanted the same number"):
        comparison(path, [image], [image], [image], ["a", "b"])
    with pytest.raises(ValueError, match=r"a.png: input 1 is \(8, 9\) uint8; wanted \(h, w, 3\) uint8"):
        comparison(path, [image, image[..., 0]], [image], [image])
    with pytest.raises(ValueError, match=r"a.png: rendering 0 is \(8, 9, 3\) float32; wanted"):
        comparison(path, [image], [image], [image.astype(np.float32)])
    with pytest.raises(ValueError, match=r"a.png: target 1 is \(9, 8, 3\); wanted \(8, 9, 3\), the first target's"):
        comparison(path, [image], [image, noise(9, 8)], [image, image])
    with pytest.raises(ValueError, match=r"a.png: 0 images, 0 captions; wanted"):
        contact_sheet(path, [], [], "none")
    with pytest.raises(ValueError, match=r"a.png: 2 images, 1 captions; wanted"):
        contact_sheet(path, [image] * 2, ["one"], "two")
    with pytest.raises(ValueError, match=r"a.png: image 0 is \(8, 9, 1\) uint8; wanted"):
        contact_sheet(path, [image[..., :1]], ["grey"], "one")
    assert not path.exists()


def test_a_camera_plot_refuses_what_is_no_set_of_cameras(tmp_path: Path) -> None:
    path, c2w, fxfycxcy = tmp_path / "a.png", np.eye(4)[None], np.ones((1, 4))
    with pytest.raises(ValueError, match=r"a.png: c2w is \(0, 4, 4\), .*; wanted \(v, 4, 4\) and \(v, 4\)"):
        camera_plot(path, c2w[:0], fxfycxcy[:0], (8, 9))
    with pytest.raises(ValueError, match=r"fxfycxcy \(2, 4\)"):
        camera_plot(path, c2w, fxfycxcy.repeat(2, 0), (8, 9))
    with pytest.raises(ValueError, match=r"a.png: a camera holds a value that is not finite; wanted finite cameras"):
        camera_plot(path, c2w * np.nan, fxfycxcy, (8, 9))
