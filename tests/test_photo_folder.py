"""Photos in a folder, and what else is there."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_preprocess.capture.photo_folder import choose_photos, find_spellings, list_photos


def write(folder: Path, *names: str) -> None:
    """Write a photo of noise of its own for each name, whatever its suffix."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(name.encode("utf-8", "surrogateescape"))).integers(0, 255, (6, 8, 3), np.uint8)
        with (folder / name).open("wb") as file:
            Image.fromarray(noise).resize((80, 60)).save(file, "PNG" if name.endswith(".png") else "JPEG")


def test_photos_are_listed_and_all_else_that_could_be_one_by_its_kind(tmp_path):
    write(tmp_path, "10.jpg", "9.JPG", "left/1.png")
    thumbnails = ["@eaDir/10.jpg/SYNOPHOTO_THUMB_XL.jpg", "left/@eaDir/1.png/THUMB.jpg", "Thumbs/10.jpg", "__MACOSX/._10.jpg"]
    write(tmp_path, *thumbnails, "#recycle/old.jpg", ".thumbnails/a.jpg", "._10.jpg", ".AppleDouble/10.jpg")
    write(tmp_path, "a.HEIC", "b.dng", "c.Cr2", "left/d.tiff", "10.MOV", "clip.mp4")
    for name in ("Thumbs.db", "notes.txt", "10.xmp", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = list_photos(tmp_path)
    assert found.names == ["9.JPG", "10.jpg", "left/1.png"]
    assert found.left_out == {
        "files in folders #recycle": ["#recycle/old.jpg"],
        "files in folders @eaDir": thumbnails[:2],
        "files in folders Thumbs": ["Thumbs/10.jpg"],
        "files in folders __MACOSX": ["__MACOSX/._10.jpg"],
        "files in formats that are not read": ["a.HEIC", "b.dng", "c.Cr2", "left/d.tiff"],
        "hidden files": [".AppleDouble/10.jpg", "._10.jpg", ".thumbnails/a.jpg"],
        "links to nothing": ["gone.jpg"],
        "videos": ["10.MOV", "clip.mp4"],
    }
    assert found.counts().endswith("links to nothing (1), videos (2)")
    # A folder that the user names is taken, whatever its name.
    assert list_photos(tmp_path / "Thumbs").names == ["10.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "store", "blob", "more/2.jpg")
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "1.jpg").symlink_to(tmp_path / "store" / "blob")
    (tmp_path / "desk" / "linked").symlink_to(tmp_path / "store" / "more")
    (tmp_path / "store" / "more" / "back").symlink_to(tmp_path / "desk")
    assert list_photos(tmp_path / "desk").names == ["1.jpg", "linked/2.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open all folders and files")
def test_what_may_not_be_opened_is_named(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg", "locked/3.jpg")
    (tmp_path / "2.jpg").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        found = choose_photos(tmp_path, 1)
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert found.names == ["1.jpg"]
    assert found.left_out["folders that cannot be opened"] == ["locked"]
    assert found.left_out["photos that cannot be read"] == ["2.jpg (Permission denied)"]


def test_damaged_photos_and_copies_are_left_out(tmp_path):
    write(tmp_path, *(f"{i}.jpg" for i in range(5)))
    (tmp_path / "0.jpg").write_bytes(b"")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:-200])
    (tmp_path / "2 (1).jpg").write_bytes((tmp_path / "2.jpg").read_bytes())
    (tmp_path / "images_2").mkdir()
    with Image.open(tmp_path / "3.jpg") as image:
        image.resize((40, 30)).save(tmp_path / "images_2" / "3.jpg")
    found = choose_photos(tmp_path, 2)
    assert found.names == ["2.jpg", "3.jpg", "4.jpg"]
    empty, cut = found.left_out["photos that cannot be read"]
    assert empty == "0.jpg (is not an image, or is damaged)"
    assert cut.startswith("1.jpg (cannot be decoded")
    assert found.left_out["copies of other photos"] == ["2 (1).jpg (of 2.jpg)", "images_2/3.jpg (of 3.jpg)"]


def test_an_unreadable_photo_is_named_without_its_folder(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    write(tmp_path, "1.jpg")
    monkeypatch.setattr("data_preprocess.capture.photo_folder.read_reduced", refuse)
    assert choose_photos(tmp_path, 1).left_out == {"photos that cannot be read": ["1.jpg (Permission denied)"]}


@pytest.mark.usefixtures("exact_names")
def test_names_that_no_line_and_no_json_can_hold_are_left_out(tmp_path):
    good = [
        "Shot 4.42\u202fPM.jpg",
        "\u3000wide.jpg",
        "a\u00a0b.jpg",
        "👩\u200d🚀.jpg",
        "e\u0301.jpg",
        "\u200fright.jpg",
        "line\u2028.jpg",
    ]
    bad = ["two\nlines.jpg", "bell\7.jpg", os.fsdecode(b"\xe9t\xe9.jpg")]
    write(tmp_path, *good, *bad)
    found = list_photos(tmp_path)
    assert sorted(found.names) == sorted(good)
    ((kind, names),) = found.left_out.items()
    assert kind == "photos with control characters or undecodable bytes in the name"
    assert sorted(names) == sorted(bad)


@pytest.mark.usefixtures("exact_names")
def test_files_are_found_under_another_spelling(tmp_path):
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    write(tmp_path, f"{apart}/1.jpg", "IMG_1.jpg", "exact.jpg", "two.JPG", "Two.jpg")
    wanted = [f"{composed}/1.jpg", "IMG_1.JPG", "exact.jpg", "two.jpg", "none.jpg"]
    assert find_spellings(wanted, tmp_path) == {f"{composed}/1.jpg": f"{apart}/1.jpg", "IMG_1.JPG": "IMG_1.jpg"}
    # A file that another name has exactly is not taken.
    assert find_spellings(["IMG_1.jpg", "img_1.JPG"], tmp_path) == {}
