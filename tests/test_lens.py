"""Undistortion, compared with independent implementations of the lenses. Letters: h w pixels, n points."""

import cv2
import numpy as np
import pytest

from config.errors import InputError
from data_preprocess.capture.lens import WIDEST_DEG, Lens, pinhole_camera, undistort, undistortion
from tests.support.captures import equidistant, found_dots, paint, perspective, project

ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
CASES = {
    "barrel": (perspective, {"k1": -0.25, "k2": 0.06}),
    "pincushion": (perspective, {"k1": 0.2, "k2": 0.05, "k3": 0.01}),
    "tangential": (perspective, {"k1": 0.05, "k2": -0.08, "p1": 0.012, "p2": -0.02}),
    "rational": (perspective, {"k1": 0.3, "k2": 0.1, "p1": 0.002, "p2": 0.001, "k3": 0.02, "k4": 0.5, "k5": 0.2, "k6": 0.03}),
    "fisheye": (equidistant, {"k1": 0.06, "k2": -0.02, "k3": 0.004, "k4": 0.001}),
    "plain fisheye": (equidistant, {}),
}
H, W, CAMERA = 150, 212, (170.0, 165.0, 101.3, 78.9)


def lens_of(model, terms, h=H, w=W, camera=CAMERA) -> Lens:
    if model is equidistant:
        return Lens(w, h, *camera, tuple(terms.get(f"k{i}", 0.0) for i in range(1, 5)), fisheye=True)
    last = max([i for i, key in enumerate(ORDER) if key in terms], default=-1)
    return Lens(w, h, *camera, tuple(terms.get(key, 0.0) for key in ORDER[: last + 1]))


@pytest.mark.parametrize("case", CASES)
def test_points_are_where_the_pinhole_camera_sees_them(case):
    model, terms = CASES[case]
    lens = lens_of(model, terms)
    x, y = np.meshgrid(np.linspace(-0.45, 0.5, 6), np.linspace(-0.38, 0.33, 5))
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1) * np.linspace(1.5, 4, x.size)[:, None]
    image = undistort(paint(project(points, np.eye(4), CAMERA, model, terms), (H, W)), lens)
    expected = project(points, np.eye(4), undistortion(lens)[1])
    found = found_dots(image, expected)
    seen = ~np.isnan(found[:, 0])
    assert seen.sum() >= 12
    # 8 bits, dots bent by the lens within their width, maps rounded to 1/32 pixel: 0.084 is the worst of all.
    assert np.abs(found - expected)[seen].max() < 0.13


@pytest.mark.parametrize("case", CASES)
def test_no_pixel_looks_past_the_photo_and_no_more_is_cut_off_than_that_takes(case):
    model, terms = CASES[case]
    lens = lens_of(model, terms)
    fx, fy, cx, cy = pinhole_camera(lens)
    assert (cx, cy) == CAMERA[2:]
    assert fx / fy == pytest.approx(CAMERA[0] / CAMERA[1])
    x, y = np.meshgrid((np.arange(W) + 0.5 - cx) / fx, (np.arange(H) + 0.5 - cy) / fy)
    x, y = model(x, y, terms)
    x, y = CAMERA[0] * x + CAMERA[2], CAMERA[1] * y + CAMERA[3]
    gap = min(x.min() - 0.5, y.min() - 0.5, W - 0.5 - x.max(), H - 0.5 - y.max())
    # The border is sampled in 16 steps per side; between them it bends by a few thousandths of a pixel.
    assert -0.02 < gap < 0.02


@pytest.mark.parametrize("camera", [(0.8, 1.1, 101.3, 78.9), (26.0, 24.0, 101.3, 75.0), (4.25, 4.25, 106.0, 75.0)])
def test_a_fisheye_with_focal_lengths_of_another_unit(camera):
    with pytest.raises(InputError, match="would see more than there is; wanted focal lengths in pixels of 212×150"):
        pinhole_camera(lens_of(equidistant, {}, camera=(camera[0] / 2, camera[1] / 2, *camera[2:])))
    # A circle of 200 degrees in a wide frame.
    radius = 150 / np.radians(200)
    assert pinhole_camera(lens_of(equidistant, {}, w=400, camera=(radius, radius, 200.0, 75.0)))


def test_a_wide_fisheye_is_cut_to_what_a_pinhole_camera_shows():
    lens = Lens(200, 120, 60.0, 60.0, 100.0, 60.0, (0.0,), fisheye=True)
    fx, fy, cx, _ = pinhole_camera(lens)
    assert np.degrees(np.arctan((cx - 0.5) / fx)) == pytest.approx(WIDEST_DEG)
    assert fx == pytest.approx(fy)


def test_published_undistortion_is_that_of_opencv():
    lens = lens_of(*CASES["tangential"])
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    fx, fy, cx, cy = CAMERA
    matrix, terms = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array(lens.distortion)
    new, _ = cv2.getOptimalNewCameraMatrix(matrix, terms, (W, H), 0, (W, H))
    assert np.array_equal(undistort(image, lens, as_published=True), cv2.undistort(image, matrix, terms, None, new))
    assert undistortion(lens, as_published=True)[1] == (new[0, 0], new[1, 1], new[0, 2], new[1, 2])


def test_a_pinhole_photo_stays_as_it_is():
    lens = Lens(W, H, *CAMERA, (0.0, 0.0))
    image = np.random.default_rng(0).integers(0, 256, (H, W, 4), dtype=np.uint8)
    assert undistort(image, lens) is image
    assert undistortion(lens) == (None, CAMERA)


def test_colours_do_not_mix_with_what_is_hidden_behind_transparency():
    image = np.zeros((H, W, 4), np.uint8)
    image[..., 1] = 200
    image[40:110, 60:150] = (250, 30, 10, 255)
    image = undistort(image, lens_of(*CASES["barrel"]))
    half = (image[..., 3] > 60) & (image[..., 3] < 200)
    assert half.sum() > 50
    # One rounding step of weighted colours, at a quarter of full alpha.
    assert np.abs(image[half][:, :3] - np.array([250.0, 30, 10])).max() <= 4
    assert (image[:20, :20, 3] == 0).all()
    assert image[70, 100].tolist() == [250, 30, 10, 255]


def test_a_photo_at_another_size_has_the_same_lens():
    lens = lens_of(*CASES["barrel"])
    large = lens.scaled(3 * W, 2 * H)
    assert (large.w, large.h, large.distortion) == (3 * W, 2 * H, lens.distortion)
    assert (large.fx, large.fy, large.cx, large.cy) == (3 * lens.fx, 2 * lens.fy, 3 * lens.cx, 2 * lens.cy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 1, 1, 1, 1), "lens: has a photo of 0×5"),
        ((4, 5, float("nan"), 1, 1, 1), "lens: has the numbers .*; wanted finite ones"),
        ((4, 5, 1, 1, 1, 1, (float("inf"),)), "lens: has the numbers .*; wanted finite ones"),
        ((4, 5, 1, -2, 1, 1), "lens: has the focal lengths 1 and -2"),
        ((4, 5, 1, 1, 1, 1, (0,) * 9), "lens: has 9 terms of distortion; wanted 8"),
        ((4, 5, 1, 1, 1, 1, (0,) * 5, True), "lens: has 5 terms of distortion; wanted 4"),
    ],
)
def test_lenses_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Lens(*arguments)


@pytest.mark.parametrize(
    "lens", [Lens(W, H, *CAMERA, (-60.0,)), Lens(W, H, 170, 165, -20.0, 70, (0.1,)), Lens(W, H, *CAMERA, (0, 0, 9.0, 9.0))]
)
def test_a_lens_that_folds_the_photo_is_refused(lens):
    with pytest.raises(InputError, match=r"wanted one that keeps the photo's middle unfolded"):
        pinhole_camera(lens)


def test_a_photo_too_large_for_opencv_is_refused():
    size = 32766
    image = np.zeros((2, size, 3), np.uint8)
    for as_published in (False, True):
        lens = Lens(size, 2, 30000.0, 30000.0, size / 2, 1.0, (0.001,))
        assert undistort(image, lens, as_published).shape == image.shape
        with pytest.raises(InputError, match=r"lens: distorts a photo of 2×32767 \(w×h\); wanted a side of 32766 pixels at most"):
            pinhole_camera(Lens(2, size + 1, 30000.0, 30000.0, 1.0, size / 2, (0.001,)), as_published)
    assert pinhole_camera(Lens(2, size + 1, 30.0, 31.0, 1.0, 2.0)) == (30.0, 31.0, 1.0, 2.0)


@pytest.mark.parametrize(("name", "as_published"), [("remap", False), ("initUndistortRectifyMap", False), ("projectPoints", False),
                                                    ("getOptimalNewCameraMatrix", True)])  # fmt: skip
def test_whatever_opencv_raises_is_of_the_lens(monkeypatch, name, as_published):
    def fail(*_, **__):
        raise cv2.error("a reason")

    lens = Lens(W, H, *CAMERA, (0.0123,))
    undistortion.cache_clear()
    pinhole_camera.cache_clear()
    monkeypatch.setattr(cv2, name, fail)
    with pytest.raises(InputError, match=r"lens: has the distortion .*, with which OpenCV fails \(a reason\); wanted a lens"):
        undistort(np.zeros((H, W, 3), np.uint8), lens, as_published)
