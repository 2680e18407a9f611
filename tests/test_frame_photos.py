"""Photos of the frames of a transforms.json: those that are gone, linked, repeated, or named alike. Letters: h w pixels."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.scene_format import read_scene
from data.scene_list import read_data_path
from data_preprocess.transforms_format_converter import main
from tests.support.captures import orbit, write_transforms
from tests.support.scenes import contents


def capture(folder: Path, *names: str, top: dict | None = None) -> Path:
    """Write a capture with photos (20, 28) of noise of these names; return its transforms.json."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (20, 28, 3), dtype=np.uint8) for _ in names]
    json_path = write_transforms(folder, images, orbit(len(names)), top or {"fl_x": 30.0}, name="photo_{}.png")
    content = json.loads(json_path.read_text())
    for frame, name in zip(content["frames"], names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / frame["file_path"]).rename(folder / name)
        frame["file_path"] = name
    json_path.write_text(json.dumps(content))
    return json_path


def change(json_path: Path, i: int, **values) -> None:
    content = json.loads(json_path.read_text())
    content["frames"][i] |= values
    json_path.write_text(json.dumps(content))


def run(tmp_path: Path, *inputs: str, code: int = 0) -> list[list[str]]:
    """Convert; return the names of the views of each scene, relative to the scene."""
    inputs = [str(tmp_path / path) for path in inputs or ("toy",)]
    assert main(["--input", *inputs, "--output", str(tmp_path / "out"), "--frame", "given"]) == code
    listed = tmp_path / "out" / "transforms_data_path.json"
    scenes = [read_scene(path) for path in read_data_path(listed)] if listed.exists() else []
    return [[view.file_path.relative_to(scene.json_path.parent).as_posix() for view in scene.views] for scene in scenes]


def problem(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("transforms_format_converter.py: ")]
    return line


def test_frames_without_their_photo_are_listed(tmp_path, capsys):
    capture(tmp_path / "toy", *(f"images/{i}.png" for i in range(6)))
    for i in (1, 4):
        (tmp_path / "toy" / "images" / f"{i}.png").unlink()
    assert run(tmp_path) == [[f"images/{i}.png" for i in (0, 2, 3, 5)]]
    assert "toy: left out, frames without their photo (2 of 6): images/1.png, images/4.png\n" in capsys.readouterr().out
    # The second run skips the finished scene and says the same.
    assert run(tmp_path) == [[f"images/{i}.png" for i in (0, 2, 3, 5)]]
    assert "toy: left out, frames without their photo (2 of 6)" in capsys.readouterr().out


def test_photos_under_another_spelling_are_found(tmp_path, capsys):
    names = ["images/caf\u00e9.png", "images/IMG_1.jpg", "images/IMG_2", "images/0.png", "images/Gone.png", "images/linked.png"]
    json_path = capture(tmp_path / "toy", *(f"{name}.png" if "." not in name else name for name in names))
    change(json_path, 2, file_path=names[2])
    images = tmp_path / "toy" / "images"
    for name, spelled in (("caf\u00e9.png", "cafe\u0301.png"), ("IMG_1.jpg", "IMG_1.JPG"), ("IMG_2.png", "img_2.Png")):
        (images / name).rename(images / spelled)
    (images / "Gone.png").unlink()
    (images / "linked.png").unlink()
    (images / "linked.png").symlink_to("nothing.png")
    (images / "LINKED.png").write_bytes((images / "0.png").read_bytes())
    assert run(tmp_path) == [["images/0.png", "images/IMG_1.JPG", "images/img_2.Png", "images/cafe\u0301.png"]]
    out = capsys.readouterr().out
    pairs = (
        "images/IMG_1.jpg is images/IMG_1.JPG, images/IMG_2.png is images/img_2.Png, images/caf\u00e9.png is images/cafe\u0301.png"
    )
    assert f"toy: photos spelled differently on disk, in case or accents (3 of 6): {pairs}\n" in out
    gone = "images/Gone.png, images/linked.png (is a link to nothing.png, which is not there)"
    assert f"toy: left out, frames without their photo (2 of 6): {gone}\n" in out
    assert "toy: left out, photos without a frame in transforms.json (1 of 5): images/LINKED.png\n" in out


def test_many_frames_without_their_photo_are_counted(tmp_path, capsys):
    capture(tmp_path / "toy", *(f"images/{i}.png" for i in range(23)))
    for i in range(1, 23):
        (tmp_path / "toy" / "images" / f"{i}.png").unlink()
    assert run(tmp_path) == [["images/0.png"]]
    out = capsys.readouterr().out
    assert "toy: left out, frames without their photo (22 of 23): images/1.png, images/2.png" in out
    assert "images/20.png and 2 more\n" in out


def test_a_capture_without_any_photo_is_refused(tmp_path, capsys):
    capture(tmp_path / "toy", "images/0.png", "images/1.png")
    for i in range(2):
        (tmp_path / "toy" / "images" / f"{i}.png").unlink()
    assert run(tmp_path, code=2) == []
    first = tmp_path / "toy" / "images" / "0.png"
    wanted = "wanted it there, with or without .png, .jpg, .jpeg, .webp: none of 2 frames has its photo"
    assert f"frame 0, file_path, {first}: is not there; {wanted}" in problem(capsys)
    assert not (tmp_path / "out").exists()


def test_a_name_longer_than_any_file_s_has_no_photo(tmp_path, capsys):
    change(capture(tmp_path / "toy", "images/0.png", "images/1.png"), 1, file_path="images/" + "n" * 300)
    assert run(tmp_path) == [["images/0.png"]]
    assert "toy: left out, frames without their photo (1 of 2): images/nnn" in capsys.readouterr().out


def test_a_damaged_photo_is_refused(tmp_path, capsys):
    capture(tmp_path / "toy", "images/0.png", "images/1.png")
    (tmp_path / "toy" / "images" / "1.png").write_bytes(b"no image")
    assert run(tmp_path, code=2) == []
    assert "1.png: is not an image, or is damaged" in problem(capsys)


def test_photos_without_a_frame_are_listed(tmp_path, capsys):
    json_path = capture(tmp_path / "toy", "images/0.png", "images/1.png", "images/depth.png", "images/spare.JPG", "other/x.png")
    content = json.loads(json_path.read_text())
    content["frames"] = content["frames"][:2]
    json_path.write_text(json.dumps(content))
    change(json_path, 0, depth_file_path="./images/depth.png")
    assert run(tmp_path) == [["images/0.png", "images/1.png"]]
    assert "toy: left out, photos without a frame in transforms.json (1 of 3): images/spare.JPG\n" in capsys.readouterr().out


def test_equal_frames_are_taken_once(tmp_path, capsys):
    json_path = capture(tmp_path / "toy", "images/0.png", "images/1.png")
    content = json.loads(json_path.read_text())
    content["frames"].append({**content["frames"][0], "file_path": "./images/0", "sharpness": 3})
    json_path.write_text(json.dumps(content))
    assert run(tmp_path) == [["images/0.png", "images/1.png"]]
    assert "toy: left out, frames that repeat another (1 of 3): images/0" in capsys.readouterr().out
    change(json_path, 2, fl_x=31)
    assert run(tmp_path, code=2) != []
    assert "file_path: is images/0.png, which has another camera in" in problem(capsys)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["images_left/0.png", "images_right/0.png"], ["images/images_left/0.png", "images/images_right/0.png"]),
        (["images/0.png", "images_2/0.png"], ["images/images/0.png", "images/images_2/0.png"]),
        (["images/a.jpg", "images/a.png"], ["images/a_jpg.png", "images/a_png.png"]),
        (["images/A.png", "images/a.png"], ["images/A_png.png", "images/a_png_2.png"]),
        ([f"images/{'x' * 251}.png"], [f"images/{'x' * 251}.png"]),
        (["images/a\u202f1.png", "images/\U0001f98a \u200f.png"], ["images/a\u202f1.png", "images/\U0001f98a \u200f.png"]),
    ],
)
@pytest.mark.parametrize("terms", [{}, {"k1": 0.01}])
@pytest.mark.usefixtures("exact_names")
def test_photos_keep_names_that_differ(tmp_path, names, written, terms):
    capture(tmp_path / "toy", *names, top={"fl_x": 30.0, **terms})
    (found,) = run(tmp_path)
    # Undistorted photos are PNGs, copies keep their suffix.
    copied = [str(Path(path).with_suffix(Path(name).suffix)) for name, path in zip(names, written, strict=True)]
    assert sorted(found) == sorted(written if terms else copied)


def test_narrow_spaces_and_other_characters_in_the_name_of_a_capture(tmp_path):
    name = "Desk 3.14\u202fPM \u200f\U0001f98a"
    capture(tmp_path / name, "images/0.png")
    assert run(tmp_path, name) == [["images/0.png"]]


def test_links_are_followed_wherever_they_lead(tmp_path, capsys):
    capture(tmp_path / "disk" / "toy", "images/0.png", "images/1.png", "images/2.png")
    blobs, toy = tmp_path / "blobs", tmp_path / "toy"
    blobs.mkdir()
    (toy / "images").mkdir(parents=True)
    # As the hub's cache and git-annex do: the JSON and each photo are links to files without a suffix.
    for i, name in enumerate(["transforms.json", "images/0.png", "images/1.png", "images/2.png"]):
        (tmp_path / "disk" / "toy" / name).rename(blobs / str(i))
        (toy / name).symlink_to(blobs / str(i))
    (tmp_path / "link").symlink_to(toy)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "transforms.json").symlink_to(blobs / "0")
    (tmp_path / "folder" / "images").symlink_to(toy / "images")
    assert run(tmp_path, "toy", "link", "folder") == [["images/0.png", "images/1.png", "images/2.png"]] * 3
    (blobs / "2").unlink()
    (toy / "images" / "2.png").unlink()
    (toy / "images" / "2.png").symlink_to("2.png")
    (tmp_path / "toy").rename(tmp_path / "again")
    capsys.readouterr()
    assert run(tmp_path, "again") == [["images/0.png"]]
    gone = f"images/1.png (is a link to {blobs / '2'}, which is not there), images/2.png (is a link to 2.png, which is not there)"
    assert f"again: left out, frames without their photo (2 of 3): {gone}\n" in capsys.readouterr().out


def test_the_input_is_never_written_to(tmp_path, capsys):
    capture(tmp_path / "disk" / "toy", "images/0.jpg", "images/1.jpg", top={"fl_x": 30, "k1": 0.01})
    (tmp_path / "spare").mkdir()
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "transforms.json").symlink_to(tmp_path / "disk" / "toy" / "transforms.json")
    (tmp_path / "toy" / "images").symlink_to(tmp_path / "disk" / "toy" / "images")
    before, disk = contents(tmp_path), contents(tmp_path / "disk")
    assert main(["--input", str(tmp_path / "toy"), "--output", str(tmp_path)]) == 2
    assert "wanted an --output separate from the input" in problem(capsys)
    for link, target, message in (
        ("out/toy", "disk/toy/images", "wanted an --output separate from the input"),
        ("out/toy", "spare", "out/toy: is a link to"),
        ("out/toy/images", "disk/toy/images", "out/toy/images: is a link to"),
        ("out/toy/images", "none", "out/toy/images: is a link to"),
    ):
        (tmp_path / link).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / link).symlink_to(tmp_path / target)
        run(tmp_path, code=2)
        assert message in problem(capsys)
        (tmp_path / link).unlink()
    assert contents(tmp_path) == before
    # The output itself, and a folder in the input, are the user's choice.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    for output in ("linked", "toy/out"):
        for _ in range(2):
            assert main(["--input", str(tmp_path / "toy"), "--output", str(tmp_path / output)]) == 0
    assert (tmp_path / "elsewhere" / "toy" / "images" / "0.png").is_file()
    assert contents(tmp_path / "disk") == disk


def test_folders_of_a_batch_without_cameras_are_listed(tmp_path, capsys):
    capture(tmp_path / "in" / "a", "images/0.png", "images/1.png")
    capture(tmp_path / "in" / "b", "images/cam/0.png").unlink()
    capture(tmp_path / "in" / "c", "train/0.png").rename(tmp_path / "in" / "c" / "transforms_train.json")
    capture(tmp_path / "in" / ".d", "0.png").unlink()
    (tmp_path / "in" / "notes").mkdir()
    # What archives of macOS, file servers and an interrupted conversion leave; a capture's name may be the folder's.
    for name in ("__MACOSX/a/images/._0.png", "@eaDir/0/SYNO.jpg", "half/a/images/0.png", "half/a/.unfinished", "f/Thumbs/0.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "in" / "out")]
    for _ in range(2):
        assert main(flags) == 2
        said = capsys.readouterr()
        assert "1 of 3 scenes in" in said.out
        lines = [line.split(": ", 2)[1:] for line in said.err.splitlines() if line.startswith("transforms_format_converter.py: ")]
        train = tmp_path / "in" / "c" / "transforms_train.json"
        assert lines == [
            [f"{tmp_path / 'in' / 'b'}", "has photos and no transforms.json; wanted one"],
            [
                f"{tmp_path / 'in' / 'c'}",
                f"has photos and no transforms.json; wanted one, or the file itself, if it is one of {train}",
            ],
        ]


def test_captures_below_a_capture_are_listed(tmp_path, capsys):
    capture(tmp_path / "toy", "images/0.png")
    capture(tmp_path / "toy" / "small", "images/0.png")
    assert len(run(tmp_path)) == 1
    left = tmp_path / "toy" / "small" / "transforms.json"
    assert f"{tmp_path / 'toy'}: left out, captures in subfolders of a capture (1): {left}\n" in capsys.readouterr().out
