"""Photos that are copies of others. Letters: n photos, h w pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from config.errors import InputError
from data_preprocess.capture.copies import find_copies, read_reduced
from tests.support.images import turned

SIZE = (333, 500)


def photo(seed: int = 0, shift: tuple[float, float] = (0, 0), size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a photo-like picture (h, w), detail at all scales, moved by a shift (x, y) in pixels of the full size."""
    rng = np.random.default_rng(seed)
    h, w = SIZE
    noise = sum(cv2.resize(rng.uniform(-1, 1, (n, n, 3)), (w + 40, h + 40), interpolation=cv2.INTER_CUBIC) * 40 / n**0.5
                for n in (3, 6, 12, 25, 50, 100))  # fmt: skip
    pixels = (128 + noise * 2.5).clip(0, 255).astype(np.float32)
    move = np.array([[1, 0, 20 + shift[0]], [0, 1, 20 + shift[1]]], np.float64)
    moved = cv2.warpAffine(pixels, move, (w, h), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    return Image.fromarray(moved.clip(0, 255).astype(np.uint8)).resize(size[::-1], Image.Resampling.LANCZOS)


def copies(folder: Path, *names: str) -> dict[str, str]:
    files = [folder / name for name in names]
    found = find_copies(files, [read_reduced(file) for file in files])
    return {names[copy]: names[original] for copy, original in found.items()}


def curve(image: Image.Image, power: float) -> Image.Image:
    return image.point([round(255 * (i / 255) ** power) for i in range(256)] * 3)


MADE = {
    "png": lambda file: photo().save(file.with_suffix(".png")),
    "webp": lambda file: photo().save(file.with_suffix(".webp"), quality=80),
    "jpeg 50": lambda file: photo().save(file.with_suffix(".jpg"), quality=50),
    "jpeg 95": lambda file: photo().save(file.with_suffix(".jpg"), quality=95),
    "half": lambda file: photo(size=(166, 250)).save(file.with_suffix(".jpg")),
    "an eighth": lambda file: photo(size=(42, 62)).save(file.with_suffix(".jpg"), quality=75),
    "half, not averaged": lambda file: photo().resize((250, 166), Image.Resampling.NEAREST).save(file.with_suffix(".png")),
    "darker": lambda file: curve(photo(), 1.4).save(file.with_suffix(".jpg")),
    "brighter": lambda file: curve(photo(), 0.7).save(file.with_suffix(".jpg")),
    "grey": lambda file: photo().convert("L").save(file.with_suffix(".png")),
    "16 bits": lambda file: Image.fromarray(np.asarray(photo().convert("L")) * np.uint16(257)).save(file.with_suffix(".png")),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_copy_of_a_larger_photo_is_found(tmp_path, name):
    large = photo(size=(666, 1000))
    large.save(tmp_path / "a.jpg", quality=95)
    photo(1, size=(666, 1000)).save(tmp_path / "b.jpg", quality=95)
    MADE[name](tmp_path / "copy")
    (copy,) = (path.name for path in tmp_path.glob("copy.*"))
    assert copies(tmp_path, copy, "b.jpg", "a.jpg") == {copy: "a.jpg"}


@pytest.mark.parametrize("name", ["jpeg 50", "jpeg 95", "webp", "darker", "brighter", "grey"])
def test_a_copy_of_the_same_size_is_found(tmp_path, name):
    photo().save(tmp_path / "a.png")
    MADE[name](tmp_path / "copy")
    (copy,) = (path.name for path in tmp_path.glob("copy.*"))
    assert copies(tmp_path, copy, "a.png") == {copy: "a.png"}


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (-0.8, 0.8), (2, 0), (0.35, 0)])
@pytest.mark.parametrize("quality", [60, 98])
def test_frames_that_moved_by_a_pixel_or_less_are_no_copies(tmp_path, shift, quality):
    for i in range(4):
        photo(shift=(i * shift[0], i * shift[1])).save(tmp_path / f"{i}.jpg", quality=quality)
    assert copies(tmp_path, *(f"{i}.jpg" for i in range(4))) == {}


def test_parallax_and_a_step_forward_are_no_copies(tmp_path):
    pixels = np.asarray(photo(), np.float32)
    h, w = SIZE
    y, x = np.mgrid[:h, :w].astype(np.float32)
    near = np.where(y > h / 2, 1.0, -1.0).astype(np.float32)
    moves = {"parallax": (x + near, y), "nearer": (w / 2 + (x - w / 2) / 1.008, h / 2 + (y - h / 2) / 1.008)}
    for name, (u, v) in moves.items():
        moved = cv2.remap(pixels, u.astype(np.float32), v.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        Image.fromarray(moved.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    photo().save(tmp_path / "first.png")
    assert copies(tmp_path, "first.png", "parallax.png", "nearer.png") == {}


def round_object(texture: np.ndarray, angle: float, side: int = 300) -> Image.Image:
    """Return a shaded sphere on white, turned by an angle about its axis, with grey levels (h, w) around it."""
    y, x = ((np.mgrid[:side, :side] + 0.5) / side * 2 - 1) / 0.7
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, None))
    h, w = texture.shape
    column = ((np.arctan2(x, z) + angle) / (2 * np.pi) % 1 * w).astype(int) % w
    row = ((np.arcsin(y.clip(-1, 1)) / np.pi + 0.5) * h).astype(int).clip(0, h - 1)
    pixels = np.where(x * x + y * y < 1, texture[row, column] * (0.4 + 0.6 * z), 255)
    return Image.fromarray(np.repeat(pixels.clip(0, 255)[..., None], 3, axis=2).astype(np.uint8))


@pytest.mark.parametrize("kind", ["fine", "faint", "logo"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_views_of_a_round_object_on_white_are_no_copies(tmp_path, kind, suffix):
    rng = np.random.default_rng(3)
    texture = np.full((512, 1024), 140.0)
    if kind == "fine":
        texture += 20 * rng.standard_normal(texture.shape)
    elif kind == "faint":
        texture += 10 * cv2.resize(rng.uniform(-1, 1, (32, 64)), (1024, 512), interpolation=cv2.INTER_CUBIC)
    else:
        for i in range(6):
            texture[150 + 35 * i : 175 + 35 * i, i * 171 + 60 : i * 171 + 90] = 30
    names = [f"{i}{suffix}" for i in range(6)]
    for i, name in enumerate(names):
        round_object(texture, i * np.pi / 3).save(tmp_path / name, quality=92)
    assert copies(tmp_path, *names) == {}
    # Their copies are.
    Image.open(tmp_path / names[2]).resize((150, 150)).save(tmp_path / "small.jpg")
    Image.open(tmp_path / names[3]).save(tmp_path / "recompressed.jpg", quality=50)
    assert copies(tmp_path, *names, "small.jpg", "recompressed.jpg") == {"small.jpg": names[2], "recompressed.jpg": names[3]}


def test_of_equal_photos_the_one_of_the_plainest_name_is_kept(tmp_path):
    for name in ("IMG_1 (1).jpg", "IMG_1.jpg", "sub/IMG_1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo().save(tmp_path / name)
    photo().save(tmp_path / "IMG_1.png")
    names = ["IMG_1 (1).jpg", "IMG_1.jpg", "IMG_1.png", "sub/IMG_1.jpg"]
    found = {"IMG_1 (1).jpg": "IMG_1.jpg", "sub/IMG_1.jpg": "IMG_1.jpg", "IMG_1.jpg": "IMG_1.png"}
    assert copies(tmp_path, *names) == found


def test_a_photo_turned_by_its_tag_and_its_upright_copy_are_the_same(tmp_path):
    photo().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.jpg", exif=turned(6))
    photo(size=(166, 250)).save(tmp_path / "thumbnail.jpg")
    assert copies(tmp_path, "phone.jpg", "thumbnail.jpg") == {"thumbnail.jpg": "phone.jpg"}
    assert read_reduced(tmp_path / "phone.jpg").size == SIZE


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("size", [SIZE, (166, 250)])
def test_a_copy_turned_without_a_tag_is_found(tmp_path, turns, size):
    photo().save(tmp_path / "a.jpg", quality=95)
    photo(1).save(tmp_path / "b.jpg", quality=95)
    turned = Image.fromarray(np.rot90(np.asarray(photo(size=size)), turns))
    turned.save(tmp_path / "turned.jpg", quality=80)
    assert copies(tmp_path, "a.jpg", "b.jpg", "turned.jpg") == {"turned.jpg": "a.jpg"}


def test_a_label_of_another_colour_is_no_edit(tmp_path):
    texture = np.full((512, 1024), 140.0)
    round_object(texture, 0).save(tmp_path / "a.png")
    pixels = np.array(round_object(texture, 0))
    pixels[140:165, 130:175] = pixels[140:165, 130:175] * (1.4, 0.2, 0.2)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    assert copies(tmp_path, "a.png", "b.png") == copies(tmp_path, "b.png", "a.png") == {}


def test_photos_of_nothing_are_copies_only_byte_by_byte(tmp_path):
    for i, level in enumerate((90, 91, 90)):
        Image.new("RGB", (64, 48), (level, 100, 110)).save(tmp_path / f"{i}.png")
    assert copies(tmp_path, "0.png", "1.png", "2.png") == {"2.png": "0.png"}
    assert find_copies([], []) == {}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_photo_cut_short_is_damaged(tmp_path, suffix):
    file = tmp_path / f"cut{suffix}"
    photo().save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=f"cut{suffix}: (cannot be decoded|is not an image)"):
        read_reduced(file)
