"""Orientation of images: EXIF that counts and EXIF that does not. Letters: h w pixels."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from config.errors import InputError
from data.images import read_pixels
from data_preprocess.capture.stored_image import read_header, read_stored
from tests.support.images import chunk, deep_png, turned

H, W = 5, 7


@pytest.fixture
def rng():
    return np.random.default_rng(3)


ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def seen_upright(stored, orientation):
    first_row, first_column = ORIENTATIONS[orientation]
    rows, columns = stored.shape[:2]
    h, w = (rows, columns) if first_row in ("top", "bottom") else (columns, rows)
    upright = np.empty((h, w, *stored.shape[2:]), stored.dtype)
    for row in range(rows):
        for column in range(columns):
            place = {}
            for side, step in ((first_row, row), (first_column, column)):
                axis, at = {
                    "top": ("y", step),
                    "bottom": ("y", h - 1 - step),
                    "left": ("x", step),
                    "right": ("x", w - 1 - step),
                }[side]
                place[axis] = at
            upright[place["y"], place["x"]] = stored[row, column]
    return upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_exif_orientation_is_applied(tmp_path, rng, orientation, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path, exif=turned(orientation), lossless=True)
    stored = np.asarray(Image.open(path).convert("RGB"))
    assert stored.shape == (H, W, 3)
    assert np.array_equal(read_pixels(path), seen_upright(stored, orientation))


def test_exif_orientation_of_16_bits(tmp_path, rng):
    pixels = rng.integers(0, 65536, (H, W, 3), dtype=np.uint16)
    exif = turned(6).tobytes().removeprefix(b"Exif\0\0")
    (tmp_path / "a.png").write_bytes(deep_png(pixels, 2, chunk(b"eXIf", exif)))
    np.testing.assert_allclose(read_pixels(tmp_path / "a.png"), seen_upright(pixels / 65535, 6), atol=3e-7)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def exif_block(entry, count=1):
    """Return EXIF with a directory of entries (12 bytes each), big-endian."""
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, count) + entry + struct.pack(">I", 0)


def tag(kind, count, value, name=0x0112):
    return struct.pack(">HHI", name, kind, count) + value


TEXT, SHORT, LONG = 2, 3, 4
TURNED = exif_block(tag(SHORT, 1, b"\0\6\0\0"))
NO_ORIENTATION = {
    "empty": b"Exif\0\0",
    "not a TIFF": b"Exif\0\0" + b"garbage" * 9,
    "cut in the header": TURNED[:9],
    "cut in the directory": TURNED[:15],
    "cut before the directory": TURNED[:14],
    "directory far away": b"Exif\0\0MM\0*\xff\xff\xff\xff",
    "zero": exif_block(tag(SHORT, 1, b"\0\0\0\0")),
    "nine": exif_block(tag(SHORT, 1, b"\0\x09\0\0")),
    "two numbers": exif_block(tag(SHORT, 2, b"\0\6\0\6")),
    "no number": exif_block(tag(SHORT, 0, b"\0\6\0\0")),
    "text": exif_block(tag(TEXT, 2, b"6\0\0\0")),
    "float": exif_block(tag(11, 1, struct.pack(">f", 6))),
    "fraction": exif_block(tag(5, 1, struct.pack(">I", 26))) + struct.pack(">II", 6, 1),
}


def with_exif(path, pixels, block):
    """Write an image with an EXIF block, which Pillow's writers take as it is."""
    Image.fromarray(pixels).save(path, exif=block, **({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize("block", NO_ORIENTATION.values(), ids=NO_ORIENTATION)
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Metadata Warning|Truncated)")
def test_exif_that_says_nothing_leaves_whole_pixels(tmp_path, rng, suffix, block):
    path = tmp_path / f"a{suffix}"
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    with_exif(path, pixels, block)
    assert read_pixels(path).shape == (H, W, 3)
    if suffix != ".jpg":
        assert np.array_equal(read_pixels(path), pixels)
    assert read_header(path) == ((H, W), 1)
    assert np.array_equal(read_stored(path, upright=True), read_stored(path))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize("block", [TURNED, exif_block(tag(LONG, 1, b"\0\0\0\6"))], ids=["short", "long"])
def test_reader_and_converters_turn_alike(tmp_path, rng, suffix, block):
    path = tmp_path / f"a{suffix}"
    with_exif(path, rng.integers(0, 256, (H, W, 3), dtype=np.uint8), block)
    assert read_header(path) == ((H, W), 6)
    assert np.array_equal(read_pixels(path), seen_upright(read_stored(path), 6))
    assert np.array_equal(read_pixels(path), read_stored(path, upright=True))


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Metadata Warning|Truncated)")
def test_jpeg_that_pillow_refuses_for_its_exif(tmp_path, rng):
    # An empty text as resolution, beside an orientation.
    entries = tag(SHORT, 1, b"\0\6\0\0") + tag(TEXT, 1, bytes(4), 0x011A) + tag(SHORT, 1, b"\0\2\0\0", 0x0128)
    path = tmp_path / "a.jpg"
    with_exif(path, rng.integers(0, 256, (H, W, 3), dtype=np.uint8), exif_block(entries, 3))
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(path)
    assert read_header(path) == ((H, W), 6)
    assert read_pixels(path).shape == (W, H, 3)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"a\.jpg: is not an image, or is damaged"):
        read_pixels(path)


def png_with(path, pixels, before=b"", after=b""):
    """Write a PNG with chunks before and after its pixels."""
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    path.write_bytes(content[:start] + before + content[start:end] + after + content[end:])


PROFILE = b"\nexif\n%8d\n%s\n" % (len(TURNED), TURNED.hex().encode())
NOT_COUNTED = {
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE),
    "raw profile of garbage": chunk(b"tEXt", b"Raw profile type exif\0no hex"),
    "compressed raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)),
    "text named exif": chunk(b"tEXt", b"exif\0" + TURNED[6:]),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("piece", NOT_COUNTED.values(), ids=NOT_COUNTED)
def test_png_text_does_not_count(tmp_path, rng, place, piece):
    check_not_counted(tmp_path, rng, **{place: piece})


def test_exif_after_the_pixels_of_a_png_does_not_count(tmp_path, rng):
    check_not_counted(tmp_path, rng, after=chunk(b"eXIf", TURNED[6:]))


def check_not_counted(tmp_path, rng, **chunks):
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    png_with(tmp_path / "a.png", pixels, **chunks)
    assert read_header(tmp_path / "a.png") == ((H, W), 1)
    assert np.array_equal(read_pixels(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_stored(tmp_path / "a.png", upright=True), pixels)


@pytest.mark.parametrize("suffix", [".webp", ".jpg"])
def test_xmp_does_not_count(tmp_path, rng, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path, xmp=XMP, lossless=True)
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    assert read_header(path) == ((H, W), 1)
    assert read_pixels(path).shape == (H, W, 3)


def test_exif_of_several_pictures_in_one_file(tmp_path, rng):
    first, second = (Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)) for _ in range(2))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], exif=TURNED)
    assert read_header(tmp_path / "a.jpg") == ((H, W), 6)
    assert np.array_equal(read_pixels(tmp_path / "a.jpg"), read_stored(tmp_path / "a.jpg", upright=True))
