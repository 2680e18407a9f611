"""Images: decoding upright on white, resizing with their intrinsics. Letters: h w pixels, c channels."""

import io
import math
import os
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from config.errors import InputError
from data import images
from data.images import open_image, read_photo, read_pixels, rescale_intrinsics, resize_and_crop
from data_preprocess.capture.stored_image import read_header, read_stored
from tests.support.images import chunk, deep_png, png, turned

GOLDEN = Path(__file__).parent / "golden" / "cameras_and_ops.npz"
H, W = 5, 7
HALF_A_LEVEL = 0.5 / 255 + 1e-6


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def on_white(colours, alpha):
    """Composite colours (h, w, c) in 0..1 by alpha (h, w) in 0..1."""
    colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
    return colours * alpha[..., None] + 1 - alpha[..., None]


def levels(path):
    """Read an image in 0..1 at any bit depth."""
    pixels = read_pixels(path)
    return pixels if pixels.dtype == np.float32 else pixels.astype(np.float32) / 255


def write_deep(path, pixels, colour_type, extra=b""):
    """Write (h, w, c) uint16 as a PNG with 16 bits per sample."""
    path.write_bytes(deep_png(pixels, colour_type, extra))


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_rgb_is_read_as_stored(tmp_path, rng, suffix):
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, lossless=True)
    assert np.array_equal(read_pixels(path), pixels)


def test_jpeg_colours_and_rows_are_in_order(tmp_path):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :, 0] = 255
    pixels[16:, :, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    image = levels(tmp_path / "a.jpg")
    # JPEG at quality 95 keeps flat blocks to about one level in a hundred
    np.testing.assert_allclose(image[8, 24], (1, 0, 0), atol=0.02)
    np.testing.assert_allclose(image[24, 24], (0, 0, 1), atol=0.02)


def test_jpeg_of_four_inks(tmp_path):
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(levels(tmp_path / "a.jpg")[8, 8], (0, 1, 1), atol=0.02)


def test_grey(tmp_path, rng):
    grey = rng.integers(0, 256, (H, W), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_pixels(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white(tmp_path, rng):
    bits = rng.integers(0, 2, (H, W)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert np.array_equal(levels(tmp_path / "a.png")[..., 1], bits.astype(np.float32))


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2)])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_is_composited_on_white(tmp_path, rng, mode, channels, suffix):
    pixels = rng.integers(0, 256, (H, W, channels), dtype=np.uint8)
    pixels[0, 0, -1], pixels[0, 1, -1] = 0, 255
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels, mode).save(path, lossless=True, exact=True)
    expect = on_white(pixels[..., :-1] / 255, pixels[..., -1] / 255)
    assert read_pixels(path).dtype == np.uint8
    np.testing.assert_allclose(levels(path), expect, atol=HALF_A_LEVEL)
    assert np.array_equal(levels(path)[0, 0], (1, 1, 1))
    assert np.array_equal(read_photo(path)[1], pixels[..., -1])


def test_alpha_is_turned_upright_too(tmp_path, rng):
    pixels = rng.integers(0, 256, (H, W, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned(6))  # a quarter turn to the right
    assert np.array_equal(read_photo(tmp_path / "a.png")[1], np.rot90(pixels[..., 3], -1))
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    assert read_photo(tmp_path / "b.png")[1] is None


def test_palette(tmp_path, rng):
    indices = rng.integers(0, 3, (H, W), dtype=np.uint8)
    colours = np.array([[250, 10, 30], [0, 200, 100], [60, 70, 255]], np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_pixels(tmp_path / "a.png"), colours[indices])
    image.save(tmp_path / "b.png", transparency=bytes([255, 0, 51]))
    alpha = np.array([1, 0, 0.2])[indices]
    expect = on_white(colours[indices] / 255, alpha)
    np.testing.assert_allclose(levels(tmp_path / "b.png"), expect, atol=HALF_A_LEVEL)


@pytest.mark.parametrize(("shape", "key"), [((H, W), 9), ((H, W, 3), (9, 9, 9))])
def test_one_colour_declared_transparent(tmp_path, shape, key):
    pixels = np.full(shape, 80, np.uint8)
    pixels[1, 2] = 9
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=key)
    expect = np.full((H, W, 3), 80, np.uint8)
    expect[1, 2] = 255
    assert np.array_equal(read_pixels(tmp_path / "a.png"), expect)


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_16_bits_are_kept(tmp_path, rng, channels, colour_type):
    pixels = rng.integers(0, 65536, (H, W, channels), dtype=np.uint16)
    write_deep(tmp_path / "a.png", pixels, colour_type)
    has_alpha = channels in (2, 4)
    alpha = pixels[..., -1] / 65535 if has_alpha else np.ones((H, W))
    expect = on_white(pixels[..., : channels - has_alpha] / 65535, alpha)
    image = read_pixels(tmp_path / "a.png")
    assert image.dtype == np.float32
    # three float32 roundings of values up to 1; 8 bits would be 4e-3 away
    np.testing.assert_allclose(image, expect, atol=3e-7)
    found = read_photo(tmp_path / "a.png")[1]
    assert (found is None) if not has_alpha else np.abs(found - alpha * 255).max() <= 0.501


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2)])
def test_one_colour_of_16_bits_declared_transparent(tmp_path, rng, channels, colour_type):
    pixels = rng.integers(0, 65000, (H, W, channels), dtype=np.uint16)
    key = struct.pack(f">{channels}H", *pixels[1, 2].tolist())
    write_deep(tmp_path / "a.png", pixels, colour_type, chunk(b"tRNS", key))
    expect = np.repeat(pixels, 3 // channels, axis=2) / 65535
    expect[1, 2] = 1
    np.testing.assert_allclose(levels(tmp_path / "a.png"), expect, atol=3e-7)


# EXIF 2.32, tag Orientation: where the first stored row and the first stored column are seen.
def test_palette_without_colours(tmp_path):
    (tmp_path / "a.png").write_bytes(png(H, W, 8, 3, bytes((W + 1) * H)))
    for read in (read_pixels, read_stored):
        with pytest.raises(InputError, match=r"a\.png: cannot be decoded \(.*\); wanted a whole PNG"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_pixels, read_stored, read_header])
def test_a_fifo_is_no_image(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.png").symlink_to("fifo")
    with pytest.raises(InputError, match=r"a\.png: is not a regular file; wanted an image"):
        read(tmp_path / "a.png")


def test_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/a\.png: is not there; wanted an image"):
        read_pixels(tmp_path / "a.png")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: is a folder; wanted an image")):
        read_pixels(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_no_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    message = f"{tmp_path / 'a.png'}: is not an image, or is damaged; wanted PNG, JPEG, WEBP"
    with pytest.raises(InputError, match=re.escape(message)):
        read_pixels(tmp_path / "a.png")


def test_other_formats_are_refused(tmp_path):
    Image.new("RGB", (W, H)).save(tmp_path / "a.bmp")
    with pytest.raises(InputError, match=r"a\.bmp: is not an image, or is damaged; wanted PNG, JPEG, WEBP"):
        read_pixels(tmp_path / "a.bmp")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "deep"])
def test_truncated_image(tmp_path, rng, kind):
    path = tmp_path / "a"
    if kind == "deep":
        write_deep(path, rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16), 2)
        content = path.read_bytes()
    else:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, format=kind)
        content = buffer.getvalue()
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(InputError, match=f"{path}: (is not an image, or is damaged|cannot be decoded)") as caught:
            read_pixels(path)
        assert "\n" not in str(caught.value)


def test_damaged_checksum_of_16_bits(tmp_path, rng):
    path = tmp_path / "a.png"
    write_deep(path, rng.integers(0, 65536, (H, W, 3), dtype=np.uint16), 2)
    path.write_bytes(path.read_bytes()[:-13])
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded \(OpenCV cannot decode it\); wanted a whole PNG"):
        read_pixels(path)


def test_golden_resize_and_crop():
    rows = np.load(GOLDEN)["resize_crop.rows"]
    for w, h, new_h, new_w, *intrinsics in rows.tolist():
        given, expect = np.split(np.array(intrinsics), 2)
        size = (int(new_h), int(new_w))
        image, got = resize_and_crop(np.zeros((int(h), int(w), 3), np.uint8), given, size)
        assert image.shape == (*size, 3)
        # the same float64 formula in another order
        np.testing.assert_allclose(got, expect, rtol=1e-12)


@pytest.mark.parametrize("size", [(18, 30), (9, 14), (27, 40), (25, 48), (36, 52), (54, 81), (72, 60), (130, 256)])
@pytest.mark.parametrize("deep", [False, True])
def test_a_ray_keeps_its_colour(size, deep):
    # Colours are a ramp over the ray directions, so the new intrinsics must find the same ramp in the new image. The
    # sizes give whole scaled sizes: rounded ones shift by up to half a pixel, which the golden rows pin down.
    h, w = 36, 64
    fx, fy, cx, cy = 50.0, 54.0, 31.0, 19.0
    x, y = (np.arange(w) + 0.5 - cx) / fx, (np.arange(h) + 0.5 - cy) / fy
    image = np.zeros((h, w, 3), np.float32)
    image[..., 0], image[..., 1] = 0.5 + 0.4 * x, 0.5 + 0.4 * y[:, None]
    if not deep:
        image = (image * 255).round().astype(np.uint8)
    new, (fx, fy, cx, cy) = resize_and_crop(image, np.array([fx, fy, cx, cy]), size)
    assert new.shape == (*size, 3)
    assert new.dtype == image.dtype
    x, y = (np.arange(size[1]) + 0.5 - cx) / fx, (np.arange(size[0]) + 0.5 - cy) / fy
    expect = np.stack(np.broadcast_arrays(0.5 + 0.4 * x, 0.5 + 0.4 * y[:, None], 0.0), axis=2)
    # Lanczos of 3 source pixels, cut at the border
    margin = 3 * math.ceil(fx / 50)
    inner = (slice(margin, -margin), slice(margin, -margin))
    # Lanczos ripples on a ramp. Half a source pixel off would be 0.5 · 0.4 / 54 = 3.7e-3. 8 bits round three times.
    bound = 4e-4 if deep else 1.5 / 255
    np.testing.assert_allclose((new / (1 if deep else 255))[inner], expect[inner], atol=bound)


def test_resize_is_lanczos_in_8_bits(rng):
    image = rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)
    new, _ = resize_and_crop(image, np.ones(4), (9, 8))
    expect = Image.fromarray(image).resize((12, 9), Image.Resampling.LANCZOS)
    assert np.array_equal(new, np.asarray(expect)[:, 2:10])


def test_deep_image_is_resized_like_an_8_bit_one(rng):
    image = rng.integers(80, 176, (18, 24, 3), dtype=np.uint8)
    for size in ((9, 10), (27, 36)):
        deep, _ = resize_and_crop(image.astype(np.float32) / 255, np.ones(4), size)
        # Pillow rounds 8 bits after each of its two passes; a Lanczos pass amplifies by 1.5 at most
        np.testing.assert_allclose(deep, resize_and_crop(image, np.ones(4), size)[0] / 255, atol=1.3 / 255)


def test_deep_image_does_not_overshoot():
    image = np.zeros((18, 24, 3), np.float32)
    image[:, 12:] = 1
    new, _ = resize_and_crop(image, np.ones(4), (27, 36))
    assert (new.min(), new.max()) == (0, 1)


def test_scaled_size_is_rounded():
    # 50 · 20 / 36 = 27.8 is 28 wide, and (28 − 20) // 2 = 4 are cut on the left
    _, intrinsics = resize_and_crop(np.zeros((36, 50, 3), np.uint8), np.array([36.0, 36.0, 0.0, 0.0]), (20, 20))
    np.testing.assert_allclose(intrinsics, (20, 20, -4, 0), rtol=1e-15)


def test_size_that_fits_is_left_alone(rng):
    image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    new, intrinsics = resize_and_crop(image, np.array([6.0, 7.0, 3.0, 2.0]), (H, W))
    assert np.array_equal(new, image)
    assert intrinsics.tolist() == [6, 7, 3, 2]


@pytest.mark.parametrize("real", [(36, 64), (18, 32), (17, 32), (13, 22), (72, 128), (73, 128), (36, 63)])
def test_intrinsics_follow_the_real_size(real):
    got = rescale_intrinsics(np.array([50.0, 54.0, 31.0, 19.0]), (36, 64), real, "a.png")
    x, y = real[1] / 64, real[0] / 36
    np.testing.assert_allclose(got, (50 * x, 54 * y, 31 * x, 19 * y), rtol=1e-15)


@pytest.mark.parametrize("real", [(64, 36), (16, 32), (36, 62), (34, 64), (72, 124), (36, 36), (1, 64)])
def test_image_of_another_shape(real):
    h, w = real
    message = f"a.png: is {w}×{h} (w×h) when upright; wanted the 64×36 of its camera, or the same shape"
    with pytest.raises(InputError, match=re.escape(message)):
        rescale_intrinsics(np.ones(4), (36, 64), real, "a.png")


@pytest.mark.parametrize(("size", "wanted"), [((1, 600), (24, 31)), ((500, 2), (31, 24)), ((40, 90), (11, 11))])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_cropped_need_not_be_scaled(rng, monkeypatch, size, wanted, dtype):
    # Smooth, since rounding between the passes, whose order may differ, shows in noise.
    image = np.sin(np.arange(size[0])[:, None, None] / 9 + np.arange(size[1])[:, None] / 7 + np.arange(3)) / 2 + 0.5
    image = (image * (255 if dtype == np.uint8 else 1)).astype(dtype)
    whole, camera = resize_and_crop(image, np.arange(4.0), wanted)
    monkeypatch.setattr(images, "MOST_SCALED_PIXELS", 0)
    part, same_camera = resize_and_crop(image, np.arange(4.0), wanted)
    np.testing.assert_array_equal(same_camera, camera)
    assert (part.shape, part.dtype) == ((*wanted, 3), dtype)
    np.testing.assert_allclose(part.astype(float), whole.astype(float), atol=1.01 if dtype == np.uint8 else 1e-5)


def test_a_long_strip_does_not_fill_the_memory():
    scaled, _ = resize_and_crop(np.full((1, 60_000, 3), 7, np.uint8), np.ones(4), (256, 256))  # all of it: 12 GB
    np.testing.assert_array_equal(scaled, np.full((256, 256, 3), 7))


def test_image_too_large_to_be_one(tmp_path):
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded \(Image size \(1600000000 pixels\) exceeds"):
        read_pixels(tmp_path / "a.png")


def test_a_photo_of_200_megapixels_is_one(tmp_path):
    header = struct.pack(">IIBBBBB", 16_320, 12_240, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_image(tmp_path / "a.png") as image:
            assert image.size == (16_320, 12_240)


def test_opening_reads_the_header_alone(tmp_path, rng):
    path = tmp_path / "a.jpg"
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with open_image(path) as image:
        assert (image.format, image.size) == ("JPEG", (50, 40))
    message = r"a\.jpg: cannot be decoded \(image file is truncated .*\); wanted a whole PNG, JPEG, WEBP"
    with pytest.raises(InputError, match=message), open_image(path) as image:
        image.load()


@pytest.mark.parametrize(
    "problem", [KeyError("IDAT"), struct.error("unpack requires"), SyntaxError("broken\nPNG"), ValueError("odd")]
)
@pytest.mark.parametrize("where", ["open", "load"])
def test_any_error_of_a_decoder_is_a_damaged_image(tmp_path, monkeypatch, problem, where):
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")

    def fail(*_, **__):
        raise problem

    if where == "open":
        monkeypatch.setattr(Image, "open", fail)
    else:
        monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded \(.+\); wanted a whole PNG") as caught:
        read_pixels(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is problem


@pytest.mark.parametrize(
    "problem", [MemoryError("no room"), PermissionError(13, "Permission denied"), InputError("view 3", "is odd", "even")]
)
def test_what_is_no_damage_of_the_image_stays_what_it_is(tmp_path, problem):
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    with pytest.raises(type(problem), match=re.escape(str(problem))) as caught, open_image(tmp_path / "a.png"):
        raise problem
    assert caught.value is problem
