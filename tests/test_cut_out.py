"""Converters cut objects out, by masks or from a background of one colour. Letters: v views, h w pixels."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_preprocess.capture.conversion as conversion
from config.errors import InputError
from data.images import read_pixels, turn_upright
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.capture.masks import INVERTED, check_mask, fitted, mask_folder, read_mask
from data_preprocess.capture.photo_folder import choose_photos
from data_preprocess.capture.stored_image import write_png
from data_preprocess.check_scenes import main as check
from data_preprocess.colmap_format_converter import main as convert_colmap
from data_preprocess.transforms_format_converter import main as convert_transforms
from tests.support.captures import breaking_down, write_transforms
from tests.support.colmap_files import quaternion, write_text
from tests.support.images import turned
from tests.support.scenes import contents, random_c2w, ring_c2w

SIZE = (24, 36)
TOP = {"camera_angle_x": 0.9}


def disc(size: tuple[int, int] = SIZE, radius: float = 0.3) -> np.ndarray:
    """Return a mask (h, w) uint8 with a soft edge, off the middle."""
    h, w = size
    y, x = np.mgrid[:h, :w] + 0.5
    distance = np.hypot((x - 0.45 * w) / h, y / h - 0.55)
    return np.rint(255 * ((radius - distance) * h + 0.5).clip(0, 1)).astype(np.uint8)


def photos(v: int, channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*SIZE, channels), dtype=np.uint8) for _ in range(v)]


def capture(folder, v: int = 3, images: list | None = None, name: str = "images/{:05d}.png", top: dict = TOP) -> list[np.ndarray]:
    """Write a capture with a transforms.json, with cameras around an object; return its photos."""
    images = photos(v) if images is None else images
    write_transforms(folder, images, ring_c2w((10, 40), 8)[: len(images)], top, name=name)
    return images


def save(path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def convert(capsys, folders, output, *flags, code: int = 0) -> tuple[list, str]:
    """Convert captures; return the views of the first scene, if any, and what was printed."""
    folders = folders if isinstance(folders, list) else [folders]
    flags = [*map(str, flags), "--workers", "2"]
    assert convert_transforms(["--input", *map(str, folders), "--output", str(output), *flags]) == code
    captured = capsys.readouterr()
    text = re.sub(r"[^\n]*\r", "", captured.out + captured.err)
    path = output / "transforms_data_path.json"
    return (list(read_scene(read_data_path(path)[0]).views) if path.exists() else []), text


def rgba(view) -> np.ndarray:
    with Image.open(view.file_path) as image:
        assert image.mode == "RGBA"
        return np.asarray(image)


@pytest.mark.parametrize("name", ["{}.png.png", "{}.png", "{}.PNG", "images/{}.webp", "toy/{}.jpg.png"])
def test_masks_are_found_by_the_photos_names(tmp_path, capsys, name):
    name = name.replace(".jpg", ".png")
    images = capture(tmp_path / "toy")
    for i in range(3):
        options = {"lossless": True} if name.endswith("webp") else {"format": "PNG"}
        save(tmp_path / "toy" / "masks" / name.format(f"{i:05d}"), disc(radius=0.2 + 0.1 * i), **options)
    before = contents(tmp_path / "toy")
    views, _ = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "masks")
    for i, (view, image) in enumerate(zip(views, images, strict=True)):
        assert view.file_path.name == f"{i:05d}.png"
        assert np.array_equal(rgba(view)[..., 3], disc(radius=0.2 + 0.1 * i))
        assert np.array_equal(rgba(view)[..., :3], image)
    assert contents(tmp_path / "toy") == before


def test_masks_of_a_colmap_model_and_its_subfolders(tmp_path, capsys):
    names = ["left/a.jpg", "right/a.jpg", "right/a.png"]
    poses = np.linalg.inv(random_c2w(3))
    for i, (name, image) in enumerate(zip(names, photos(3), strict=True)):
        save(tmp_path / "box" / "images" / name, image)
        save(tmp_path / "box" / "object_masks" / f"{name}.png", disc(radius=0.2 + 0.1 * i))
    images = [(i + 1, quaternion(pose), pose[:3, 3], 1, name) for i, (name, pose) in enumerate(zip(names, poses, strict=True))]
    write_text(tmp_path / "box" / "sparse" / "0", {1: ("PINHOLE", 36, 24, (40.0, 41.0, 18.0, 12.0))}, images)
    flags = ["--input", str(tmp_path / "box"), "--output", str(tmp_path / "out"), "--mask", "object_masks"]
    assert convert_colmap(flags) == 0
    views = read_scene(tmp_path / "out" / "box" / "opencv_cameras.json").views
    assert [view.file_path.name for view in views] == ["a.png", "a_jpg.png", "a_png.png"]
    for i, view in enumerate(views):
        assert np.array_equal(rgba(view)[..., 3], disc(radius=0.2 + 0.1 * i))


def test_each_capture_has_its_own_masks(tmp_path, capsys, monkeypatch):
    for folder, radius in (("a", 0.2), ("b", 0.3)):
        capture(tmp_path / folder)
        for i in range(3):
            save(tmp_path / folder / "m" / f"{i:05d}.png", disc(radius=radius))
            save(tmp_path / "all" / folder / f"{i:05d}.png", disc(radius=radius))
            save(tmp_path / "flat" / f"{i:05d}.png", disc())
    monkeypatch.chdir(tmp_path)
    for number, given in enumerate(("m", "all", tmp_path / "all")):
        convert(capsys, ["a", "b"], tmp_path / f"out_{number}", "--mask", given)
        for folder, radius in (("a", 0.2), ("b", 0.3)):
            path = tmp_path / f"out_{number}" / folder / "images" / "00001.png"
            assert np.array_equal(np.asarray(Image.open(path))[..., 3], disc(radius=radius))
    _, text = convert(capsys, ["a", "b"], tmp_path / "out", "--mask", "flat", code=2)
    first, second = (tmp_path / folder / "images" / "00000.png" for folder in "ab")
    assert f"flat/00000.png: is the mask of {first} and of {second}; wanted one for each" in text
    assert "1 of 2 scenes in" in text


def test_a_folder_of_masks_is_no_capture(tmp_path, capsys):
    capture(tmp_path / "all" / "toy")
    for i in range(3):
        save(tmp_path / "all" / "masks" / "toy" / f"{i:05d}.png", disc())
    views, text = convert(capsys, tmp_path / "all", tmp_path / "out", "--mask", tmp_path / "all" / "masks")
    assert "1 of 1 scene in" in text
    assert np.array_equal(rgba(views[0])[..., 3], disc())


def test_masks_among_photos_are_no_photos(tmp_path):
    for i, image in enumerate(photos(3)):
        save(tmp_path / "desk" / f"{i}.png", image)
        save(tmp_path / "desk" / "masks" / f"{i}.png", 255 - image[::-1, ::-1])
    assert choose_photos(tmp_path / "desk", 2, tmp_path / "desk" / "masks").names == ["0.png", "1.png", "2.png"]
    assert len(choose_photos(tmp_path / "desk", 2).names) == 6


def test_a_mask_may_have_another_scale(tmp_path, capsys):
    capture(tmp_path / "toy", v=2)
    save(tmp_path / "toy" / "m" / "00000.png", disc((72, 108)))
    save(tmp_path / "toy" / "m" / "00001.png", disc((12, 18)))
    views, _ = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m")
    for view, most in zip(views, (2, 12), strict=True):
        assert rgba(view).shape == (*SIZE, 4)
        # Measured: 0.5 and 3.6 of 255.
        assert np.abs(rgba(view)[..., 3].astype(int) - disc()).mean() < most


def test_a_mask_of_another_shape_is_refused(tmp_path, capsys):
    capture(tmp_path / "toy", v=2)
    for i in range(2):
        save(tmp_path / "toy" / "m" / f"{i:05d}.png", disc((36, 24)))
    _, text = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m", code=2)
    assert "m/00000.png: is a mask of 24×36 (w×h); wanted the 36×24 of " in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("drawn_upright", [False, True])
def test_a_mask_is_turned_as_its_photo_is(orientation, upright, drawn_upright):
    stored = disc()
    drawn = turn_upright(stored, orientation) if drawn_upright and orientation >= 5 else stored
    expected = turn_upright(stored, orientation) if upright else stored
    assert np.array_equal(fitted(drawn, expected.shape, orientation, upright), expected)


def test_photos_that_exif_turns_keep_their_masks(tmp_path, capsys):
    folder = tmp_path / "toy"
    images = capture(folder, v=2, top={"w": 24, "h": 36, "fl_x": 40.0, "fl_y": 40.0, "cx": 12.0, "cy": 18.0})
    for i, image in enumerate(images):
        save(folder / "images" / f"{i:05d}.png", image, exif=turned(6))
        save(folder / "m" / f"{i:05d}.png", disc() if i else np.rot90(disc(), -1))
    views, _ = convert(capsys, folder, tmp_path / "out", "--mask", "m")
    for view, image in zip(views, images, strict=True):
        assert np.array_equal(rgba(view)[..., 3], np.rot90(disc(), -1))
        assert np.array_equal(rgba(view)[..., :3], np.rot90(image, -1))


def test_transparency_is_multiplied_by_the_mask(tmp_path, capsys):
    images = capture(tmp_path / "toy", images=photos(2, 4))
    for i in range(2):
        save(tmp_path / "toy" / "m" / f"{i:05d}.png", disc())
    views, _ = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m")
    for view, image in zip(views, images, strict=True):
        assert np.abs(rgba(view)[..., 3] - disc() * (image[..., 3] / 255)).max() <= 0.5


def test_the_mask_is_undistorted_with_the_photo(tmp_path, capsys):
    # A grey photo that is as bright as its mask: after undistortion, too.
    photo = np.repeat(disc()[..., None], 3, axis=2)
    top = {"w": 36, "h": 24, "fl_x": 30.0, "fl_y": 30.0, "cx": 18.0, "cy": 12.0, "k1": 0.3}
    capture(tmp_path / "toy", images=[photo, photo], top=top)
    plain, _ = convert(capsys, tmp_path / "toy", tmp_path / "plain")
    for i in range(2):
        save(tmp_path / "toy" / "m" / f"{i:05d}.png", disc())
    views, _ = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m")
    for view, other in zip(views, plain, strict=True):
        assert (view.fx, view.cx) == (other.fx, other.cx)
        assert np.abs(rgba(view)[..., 3].astype(int) - read_pixels(other.file_path)[..., 0]).max() <= 1
        assert np.abs(rgba(view)[..., 3].astype(int) - disc()).max() > 50


def test_masks_in_all_notations(tmp_path):
    mask = disc()
    transparent = np.dstack([np.full((*SIZE, 3), 90, np.uint8), mask])
    labels = np.where(mask > 127, 1, 0).astype(np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    cases = {
        "grey.png": (Image.fromarray(mask), mask),
        "colour.png": (Image.fromarray(np.repeat(mask[..., None], 3, axis=2)), mask),
        "transparent.png": (Image.fromarray(transparent), mask),
        "labels.png": (Image.fromarray(labels), labels * 255),
        "palette.png": (palette, labels * 255),
        "bits.png": (Image.fromarray(mask > 127), labels * 255),
        "deep.png": (Image.fromarray(mask.astype(np.uint16) * 257), mask),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), expected), name


def test_photos_without_a_usable_mask_are_left_out_and_counted(tmp_path, capsys):
    capture(tmp_path / "toy", v=8)
    masks = {1: np.zeros_like(disc()), 2: 255 - disc(), 3: np.full_like(disc(), 255), 4: disc(), 5: disc(), 6: disc(), 7: disc()}
    for i, mask in masks.items():
        save(tmp_path / "toy" / "m" / f"{i:05d}.png", mask)
    views, text = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m")
    assert [view.file_path.stem for view in views] == ["00003", "00004", "00005", "00006", "00007"]
    for line in (
        "toy: left out, photos without a mask (1 of 8): images/00000.png",
        "toy: left out, photos whose mask is black everywhere (1 of 8): images/00001.png",
        f"toy: left out, {INVERTED} (1 of 8): images/00002.png",
        "toy: photos whose mask is white everywhere, so that nothing is cut out (1 of 8): images/00003.png",
    ):
        assert line in text.splitlines()


def test_an_object_that_reaches_the_border_is_no_inverted_mask(tmp_path):
    mask = disc(radius=0.8)
    assert mask[0, 0] == 0
    save(tmp_path / "photo.png", photos(1)[0])
    save(tmp_path / "mask.png", mask)
    assert check_mask(tmp_path / "mask.png", tmp_path / "photo.png") is None


@pytest.mark.parametrize(("draw", "found"), [(lambda mask: 255 - mask, "photos whose mask is white along the border"),
                                             (lambda mask: mask * 0, "photos whose mask is black everywhere"),
                                             (None, "photos without a mask")])  # fmt: skip
def test_a_scene_without_a_usable_mask_is_refused(tmp_path, capsys, draw, found):
    capture(tmp_path / "toy")
    (tmp_path / "toy" / "m").mkdir()
    for i in range(3 if draw else 0):
        save(tmp_path / "toy" / "m" / f"{i:05d}.png", draw(disc()))
    _, text = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m", code=2)
    assert f"toy/m: leaves no photo of toy: {found}" in text
    assert "(3 of 3): images/00000.png, images/00001.png and 1 more; wanted NAME.png or NAME.jpg.png for" in text
    assert not (tmp_path / "out").exists()


def test_folders_of_masks(tmp_path, monkeypatch):
    (tmp_path / "box" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    wanted = "wanted a folder of masks, in box or in the working folder$"
    with pytest.raises(FileNotFoundError, match=f"^--mask, m: is not there; {wanted}"):
        mask_folder(Path("m"), Path("box/images"))
    (tmp_path / "m").write_text("")
    with pytest.raises(InputError, match=f"^--mask, m: is not a folder; {wanted}"):
        mask_folder(Path("m"), Path("box/images"))


def test_flags_that_contradict_each_other(tmp_path, capsys):
    capture(tmp_path / "toy")
    _, text = convert(capsys, tmp_path / "toy", tmp_path / "out", "--mask", "m", "--white_background", code=2)
    assert "--mask, --white_background: are both given; wanted one of them" in text


def on_colour(colour: tuple, radius: float = 0.3) -> np.ndarray:
    """Return a photo (h, w, 3) of a red disc."""
    alpha = disc((96, 144), radius)[..., None] / 255
    return np.rint(alpha * (200, 40, 30) + (1 - alpha) * colour).astype(np.uint8)


def test_a_background_of_one_colour_becomes_transparent(tmp_path, capsys):
    transparent = np.dstack([np.full((96, 144, 3), 7, np.uint8), disc((96, 144))])
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 144, 3), dtype=np.uint8)
    images = [on_colour((30, 180, 60)), on_colour((230, 230, 225)), transparent, noise, np.full((96, 144, 3), 90, np.uint8)]
    capture(tmp_path / "toy", images=images)
    views, text = convert(capsys, tmp_path / "toy", tmp_path / "out", "--white_background")
    assert [view.file_path.stem for view in views] == ["00000", "00001", "00002"]
    for view in views[:2]:
        assert np.abs(rgba(view)[..., 3].astype(int) - disc((96, 144))).max() <= 8
    assert views[2].file_path.read_bytes() == (tmp_path / "toy" / "images" / "00002.png").read_bytes()
    (line,) = [line for line in text.splitlines() if "left out" in line]
    expected = (
        r"toy: left out, photos without a background of one colour \(2 of 5\): images/00003.png \(\d % of the border has one "
        r"colour, to 20 of 255 levels\), images/00004.png \(all but 0 % has the colour of the border\)"
    )
    assert re.fullmatch(expected, line)


def test_a_scene_without_any_such_background_is_refused(tmp_path, capsys):
    capture(tmp_path / "toy")
    _, text = convert(capsys, tmp_path / "toy", tmp_path / "out", "--white_background", code=2)
    assert (
        "--white_background: leaves no photo of toy: photos without a background of one colour (3 of 3): images/00000.png (" in text
    )
    assert "; wanted white paper, a green screen or the like behind the object, or --mask" in text


@pytest.mark.parametrize("change", ["mask", "flag", "nothing"])
def test_images_of_other_masks_are_made_again(tmp_path, capsys, monkeypatch, change):
    capture(tmp_path / "toy", images=[on_colour((30, 180, 60))] * 3)
    for i in range(3):
        save(tmp_path / "toy" / "m" / f"{i:05d}.png", disc((96, 144)))
    flags, written = ["--mask", "m"], []
    monkeypatch.setattr(conversion, "write_png", breaking_down(write_png, 2))
    convert(capsys, tmp_path / "toy", tmp_path / "out", *flags, code=2)
    monkeypatch.setattr(conversion, "write_png", lambda path, pixels: (write_png(path, pixels), written.append(path)))
    if change == "mask":
        save(tmp_path / "toy" / "m" / "00001.png", disc((96, 144), 0.25))
    flags = ["--white_background"] if change == "flag" else flags
    convert(capsys, tmp_path / "toy", tmp_path / "out", *flags)
    assert len(written) == (1 if change == "nothing" else 3)
    written.clear()
    convert(capsys, tmp_path / "toy", tmp_path / "out", *flags)
    assert written == []


def test_converters_name_what_cuts_objects_out(tmp_path, capsys):
    capture(tmp_path / "toy", images=[on_colour((230, 230, 225))] * 16)
    note = (
        "toy: 8 of 8 photos looked at have a background, and networks of objects are trained on objects on white: --mask DIR or "
        "--white_background cuts them out; networks of scenes need neither"
    )
    for frame in ("auto", "object"):
        assert note in convert(capsys, tmp_path / "toy", tmp_path / frame, "--frame", frame)[1].splitlines()
    quiet = {
        "scene": ["--frame", "scene"],
        "cut": ["--white_background"],
    }
    for name, flags in quiet.items():
        assert "background" not in convert(capsys, tmp_path / "toy", tmp_path / name, *flags)[1]
    capture(tmp_path / "white", images=[on_colour((255, 255, 255))] * 16)
    assert "background" not in convert(capsys, tmp_path / "white", tmp_path / "out")[1]


def test_a_damaged_image_of_a_finished_scene_stops_no_other(tmp_path, capsys):
    for name in "ab":
        capture(tmp_path / name, 8)
    convert(capsys, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    damaged = tmp_path / "out" / "a" / "images" / "00000.png"
    damaged.write_bytes(damaged.read_bytes()[:900])
    _, text = convert(capsys, [tmp_path / "a", tmp_path / "b"], tmp_path / "out", code=2)
    assert f"{damaged}: cannot be decoded" in text
    assert "1 of 2 scenes in" in text


def checked(capsys, json_path, *flags) -> tuple[int, str]:
    code = check([str(json_path), "--no_pictures", "--no_matching", *flags])
    captured = capsys.readouterr()
    return code, captured.out + captured.err.rpartition("\r")[2]


def test_the_check_of_an_object_finds_backgrounds(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = [on_colour((230, 230, 225), 0.25 + 0.01 * i) for i in range(16)]
    for image in images:  # so that none repeats another
        image[30:70, 40:90] = rng.integers(0, 256, (40, 50, 3))
    capture(tmp_path / "toy", images=images)
    views, _ = convert(capsys, tmp_path / "toy", tmp_path / "out")
    json_path = tmp_path / "out" / "toy" / "opencv_cameras.json"
    code, text = checked(capsys, json_path, "--kind", "object")
    assert code == 2
    assert (
        f"{json_path}: has 16 of 16 photos with a background, where an object's network expects the object on white; wanted them "
        "cut out: --mask DIR or --white_background of the converters; or --kind scene"
    ) in text
    # Where the kind is a guess, it is no mistake: a scene photographed from around has such cameras, too.
    code, text = checked(capsys, json_path)
    assert (code, "16 of 16 photos with a background, where an object's network expects" in text) == (0, True)
    assert "background" not in checked(capsys, json_path, "--kind", "scene")[1]
    for view in views[1:]:
        pixels = np.asarray(Image.open(view.file_path))
        Image.fromarray(np.dstack([pixels, disc((96, 144), 0.4)])).save(view.file_path)
    code, text = checked(capsys, json_path, "--kind", "object")
    assert f"{json_path}, view 0: has a background, where an object's network expects" in text
