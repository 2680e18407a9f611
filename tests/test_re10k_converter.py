"""Conversion of chunks of RealEstate10K to the unified format. Letters: v views, h w pixels."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import data_preprocess.re10k.conversion as conversion
from config.errors import InputError
from data.dataset import SceneDataset
from data.scene_format import read_scene
from data.scene_list import read_data_path
from data.view_index import read_view_index
from data_preprocess.re10k.selection import read_keys
from data_preprocess.re10k_format_converter import main
from tests.support.chunks import encoded, stored_scene, write_chunk
from tests.support.images import turned
from tests.support.scenes import contents

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "re10k_format_converter.py"


@pytest.fixture
def chunks(tmp_path):
    """Return a folder of two chunks: scenes of 3 and 2 views, and one of 1."""
    write_chunk(tmp_path / "re10k" / "000000.torch", [stored_scene("aa", 3, seed=1), stored_scene("bb", 2, (20, 14), seed=2)])
    write_chunk(tmp_path / "re10k" / "000001.torch", [stored_scene("cc", 1, seed=3)])
    return tmp_path / "re10k"


def run(capsys, *flags) -> tuple[int, list[str], list[str]]:
    """Return the exit code, and the lines of both outputs, the second without progress bars."""
    code = main([*map(str, flags), "--workers", "2"])
    out, err = capsys.readouterr()
    return code, out.splitlines(), [line for line in err.splitlines() if line.startswith("re10k_format_converter.py: ")]


def scenes_in(folder: Path, name: str = "re10k") -> dict:
    return {path.parent.name: read_scene(path) for path in read_data_path(folder / f"{name}_data_path.json")}


def test_images_are_stored_bytes_and_cameras_are_in_pixels(tmp_path, chunks, capsys):
    code, out, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert (code, problems) == (0, [])
    assert out == [f"3 scenes with 6 views from 2 chunks in {tmp_path}/out/re10k_data_path.json"]
    scenes = scenes_in(tmp_path / "out")
    assert list(scenes) == ["aa", "bb", "cc"]
    for key, seed, v, (h, w) in (("aa", 1, 3, (18, 32)), ("bb", 2, 2, (20, 14)), ("cc", 3, 1, (18, 32))):
        stored = stored_scene(key, v, (h, w), seed)
        assert [view.file_path.name for view in scenes[key].views] == ["000052553000.jpg", "000052586367.jpg", "000052619734.jpg"][
            :v
        ]
        for i, view in enumerate(scenes[key].views):
            assert view.file_path.read_bytes() == bytes(stored["images"][i].tolist())
            assert (view.h, view.w) == (h, w)
            assert np.allclose((view.fx, view.fy, view.cx, view.cy), (0.5 * w, 0.9 * h, 0.5 * w, 0.48 * h), rtol=1e-6)
            # Row by row, as stored: three rows of rotation and translation.
            numbers = stored["cameras"][i].tolist()
            assert view.w2c.tolist() == [numbers[6:10], numbers[10:14], numbers[14:18], [0, 0, 0, 1]]


def test_a_point_is_seen_where_the_stored_camera_projects_it(tmp_path, chunks, capsys):
    run(capsys, "--input", chunks, "--output", tmp_path / "out")
    view = scenes_in(tmp_path / "out")["bb"].views[1]
    row = stored_scene("bb", 2, (20, 14), 2)["cameras"][1].double().numpy()
    point = np.array([0.3, -0.2, 0.4])
    x, y, z = row[6:].reshape(3, 4) @ [*point, 1]
    share = row[0] * x / z + row[2], row[1] * y / z + row[3]
    x, y, z, _ = view.w2c @ [*point, 1]
    assert np.allclose((view.fx * x / z + view.cx, view.fy * y / z + view.cy), np.multiply(share, (14, 20)), atol=1e-9)


def test_a_second_run_writes_nothing_and_the_command_works_from_anywhere(tmp_path, chunks):
    before = contents(chunks)
    flags = ["--input", "re10k/000000.torch", "re10k", "--output", "out", "--name", "mine", "--long_lrm"]
    times = []
    for _ in range(2):
        done = subprocess.run([sys.executable, str(SCRIPT), *flags], cwd=tmp_path, capture_output=True, text=True, check=True)
        times.append({path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if "list" not in path.name})
    assert done.stdout == "3 scenes with 6 views from 2 chunks in out/mine_data_path.json\n"
    times = [{path: time for path, time in found.items() if path.parent != tmp_path / "out"} for found in times]
    assert times[0] == times[1]
    assert len(times[0]) == 9
    assert json.loads((tmp_path / "out/aa/opencv_cameras.json").read_text())["scene_name"] == "aa"
    assert contents(chunks) == before


def test_an_interrupted_run_continues(tmp_path, chunks, capsys, monkeypatch):
    run(capsys, "--input", chunks, "--output", tmp_path / "whole")
    written = []

    def breaks_down(image):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(1)
        return image.numpy().tobytes()

    monkeypatch.setattr(conversion, "content_of", breaks_down)
    assert main(["--input", str(chunks), "--output", str(tmp_path / "out"), "--workers", "1"]) == 130
    assert (tmp_path / "out/aa/.unfinished").exists()
    assert not (tmp_path / "out/re10k_data_path.json").exists()
    written.clear()
    monkeypatch.setattr(conversion, "content_of", lambda image: (written.append(1), image.numpy().tobytes())[1])
    assert run(capsys, "--input", chunks, "--output", tmp_path / "out")[0] == 0
    assert len(written) == 4  # 6 without the first two
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_ends_the_run_in_one_line(tmp_path, chunks, capsys, monkeypatch):
    def full(image):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "content_of", full)
    code, _, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert code == 2
    (line,) = problems
    assert "cannot be written (No space left on device); wanted free space on its disk" in line


def test_keys_select_scenes_and_only_their_chunks_are_read(tmp_path, chunks, capsys):
    (chunks / "000000.torch").write_bytes(b"damaged")
    code, out, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out", "--keys", "cc")
    assert (code, problems) == (0, [])
    assert out == [f"1 scene with 1 view from 1 chunk in {tmp_path}/out/re10k_data_path.json"]
    code, out, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out", "--keys", "zz", "cc", "yy")
    assert code == 2
    assert out[0] == "--keys: left out, keys that were found in no chunk (2 of 3): zz, yy"
    assert problems == [
        "re10k_format_converter.py: --keys: has 2 keys that no chunk holds, listed above; wanted keys of scenes in --input"
    ]
    # Chunks that the index does not know may hold any key.
    (chunks / "index.json").unlink()
    code, _, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out", "--keys", "cc")
    assert code == 2
    assert re.search(r"000000\.torch: cannot be read \(.*\); wanted a chunk of scenes", problems[0])
    assert list(scenes_in(tmp_path / "out")) == ["cc"]


def test_keys_of_an_evaluation_index_choose_scenes_and_then_views(tmp_path, chunks, capsys):
    index = tmp_path / "evaluation_index_re10k.json"
    index.write_text(json.dumps({"aa": {"context": [0, 2], "target": [1]}, "bb": None}))
    assert run(capsys, "--input", chunks, "--output", tmp_path / "out", "--keys", index)[0] == 0
    scenes = scenes_in(tmp_path / "out")
    assert list(scenes) == ["aa"]
    choice = read_view_index(index, "aa", len(scenes["aa"].views))
    assert (choice.inputs, choice.targets) == (([0, 2],), [1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "3", "a.json: holds 3; wanted a list of keys, or an object by key"),
        ("a.json", "[1]", "a.json: holds [1]; wanted a list of keys"),
        ("a.json", '{"a": null}', "a.json: holds no key; wanted at least one"),
        ("a.txt", " \n", "a.txt: holds no key; wanted at least one"),
        ("a.json", None, "a.json: is not there; wanted keys, or a file with one per line"),
    ],
)
def test_files_of_keys_of_wrong_content(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((InputError, FileNotFoundError), match=re.escape(message)):
        read_keys([str(tmp_path / name)])


def test_files_of_keys(tmp_path):
    (tmp_path / "a.json").write_text('["b", "a", "b"]')
    (tmp_path / "keys").write_text("\ufeffb\r\n\r\n a\n")
    assert read_keys([str(tmp_path / "a.json")]) == read_keys([str(tmp_path / "keys")]) == read_keys(["b", "a", "b"]) == ["b", "a"]


def test_keys_of_the_index_that_no_chunk_holds_are_listed(tmp_path, chunks, capsys):
    (chunks / "000000.torch").unlink()
    code, out, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert (code, problems) == (0, [])
    assert out[0] == "index.json: left out, keys that were found in no chunk (2 of 3): aa, bb"
    # Of a chunk alone, its own keys are expected.
    code, out, _ = run(capsys, "--input", chunks / "000001.torch", "--output", tmp_path / "out")
    assert (code, len(out)) == (0, 1)
    (chunks / "index.json").write_text('{"cc": 3}')
    code, _, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert (code, len(problems)) == (2, 1)
    assert problems[0].endswith("index.json, 'cc': is 3; wanted the name of a chunk")
    assert list(scenes_in(tmp_path / "out")) == ["cc"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "pickle", "dict", "folder"])
def test_a_damaged_chunk_does_not_stop_the_others(tmp_path, chunks, capsys, damage):
    path, ran = chunks / "000000.torch", tmp_path / "ran"
    content = path.read_bytes()
    middle = content.index(b"\xff\xd8\xff") + 100
    if damage == "pickle":
        torch.save([Opens(str(ran))], path)
    elif damage == "dict":
        torch.save({"key": "aa"}, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "flipped": flipped, "text": b"hello"}[damage])
    code, out, problems = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert (code, len(problems)) == (2, 1)
    assert problems[0].startswith(f"re10k_format_converter.py: {path}: ")
    assert out[0] == "index.json: left out, keys that were found in no chunk (2 of 3): aa, bb"
    assert list(scenes_in(tmp_path / "out")) == ["cc"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cc", "re10k_data_path.json"]
    assert not ran.exists()


class Opens:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def cameras(**columns) -> torch.Tensor:
    found = stored_scene("x")["cameras"].clone()
    for column, value in columns.items():
        found[1, int(column[1:])] = value
    return found


def image(suffix: str = "jpeg", **options) -> torch.Tensor:
    return torch.tensor(list(encoded(np.random.default_rng(5), (18, 32), suffix, **options)), dtype=torch.uint8)


GOOD = stored_scene("x")["images"]
# What is wrong with a scene, and what is said of it.
WRONG = {
    "key missing": ({"key": None}, r"scene 1 of 000000.torch \(key is None\)"),
    "key above": ({"key": "../up"}, r"scene 1 of 000000.torch \(key is '../up'\)"),
    "key absolute": ({"key": "/tmp/re10k_escaped"}, r"\(key is '/tmp/re10k_escaped'\)"),
    "key of dots": ({"key": ".."}, r"\(key is '\.\.'\)"),
    "key with control": ({"key": "a\nb"}, r"\(key is 'a\\nb'\)"),
    "key a number": ({"key": 3}, r"\(key is 3\)"),
    "key too long": ({"key": "k" * 300}, r"scene 1 of 000000.torch \(key is 'k{59}…\)"),
    "fewer images": ({"images": GOOD[:2]}, r"x \(images are 2\)"),
    "no images": ({"images": None}, r"x \(images are nothing\)"),
    "not an image": ({"images": [*GOOD[:2], torch.zeros(50, dtype=torch.uint8)]}, r"x \(image 2 is not an image, or is damaged\)"),
    "empty image": ({"images": [*GOOD[:2], torch.zeros(0, dtype=torch.uint8)]}, r"x \(image 2 is not an image, or is damaged\)"),
    "a gif": ({"images": [*GOOD[:2], image("gif")]}, r"x \(image 2 is not an image, or is damaged\)"),
    "a turned image": ({"images": [*GOOD[:2], image(exif=turned(6))]},
                       r"x \(image 2 is stored turned \(EXIF orientation 6\)\)"),
    "pixels": ({"images": [*GOOD[:2], torch.zeros(3, 8, 8)]}, r"x \(image 2 is \(3, 8, 8\) float32\)"),
    "a path": ({"images": [*GOOD[:2], "a.jpg"]}, r"x \(image 2 is a str\)"),
    "stretched": ({"images": [*GOOD[:2], torch.zeros(1, dtype=torch.uint8).expand(1 << 30)]},
                  r"x \(image 2 is \(1073741824,\), 1073741824 bytes of which the file holds 1\)"),
    "no cameras": ({"cameras": None}, r"x \(cameras are missing\)"),
    "16 numbers": ({"cameras": torch.zeros(3, 16)}, r"x \(cameras are \(3, 16\) float32\)"),
    "cameras of no view": ({"cameras": torch.zeros(0, 18), "images": []}, r"x \(cameras are \(0, 18\) float32\)"),
    "whole cameras": ({"cameras": torch.ones(3, 18).int()}, r"x \(cameras are \(3, 18\) int32\)"),
    "not finite": ({"cameras": cameras(_9=float("nan"))}, r"x \(cameras hold numbers that are not finite\)"),
    "distortion": ({"cameras": cameras(_5=0.01)}, r"x \(cameras, view 1 has the distortion 0 0\.01\)"),
    "no rotation": ({"cameras": cameras(_6=3.0)}, r"x \(.*view 1, w2c has a 3×3 part .* away from orthonormal\)"),
    "no focal length": ({"cameras": cameras(_0=0.0)}, r"x \(.*view 1, fx is 0\.0\)"),
    "focal lengths in pixels": ({"cameras": cameras(_0=0.001)}, r"x \(.*view 1 has a field of view of "),
    "other timestamps": ({"timestamps": torch.arange(4)}, r"x \(timestamps are \(4,\) int64\)"),
    "fractional timestamps": ({"timestamps": torch.arange(3) / 2}, r"x \(timestamps are \(3,\) float32\)"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_an_unusable_scene_is_left_out_and_named(tmp_path, capsys, wrong):
    changes, message = WRONG[wrong]
    path = tmp_path / "in" / "000000.torch"
    path.parent.mkdir()
    scene = {**stored_scene("x"), **changes}
    scene = {key: value for key, value in scene.items() if value is not None}
    torch.save([stored_scene("aa"), scene, stored_scene("bb", seed=4)], path)
    code, out, problems = run(capsys, "--input", path, "--output", tmp_path / "out")
    assert code == 2
    assert problems == [
        "re10k_format_converter.py: --input: has 1 scene that cannot be used, listed above; wanted keys, cameras and images as "
        "pixelSplat's scripts write them"
    ]
    assert out[0].startswith("--input: left out, scenes that cannot be used (1 of 3): ")
    assert re.search(message, out[0]), out[0]
    assert list(scenes_in(tmp_path / "out")) == ["aa", "bb"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["aa", "bb", "re10k_data_path.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("times", [None, [5, 5, 6], [7, 6, 8], [-1, 2, 3], [1, 2, 10**12]])
def test_images_are_numbered_where_timestamps_do_not_increase(tmp_path, capsys, times):
    times = None if times is None else torch.tensor(times)
    write_chunk(tmp_path / "in/0.torch", [stored_scene("aa", timestamps=times), stored_scene("bb")])
    code, out, _ = run(capsys, "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert code == 0
    assert out[0] == "1 scene without increasing timestamps: their images are numbered"
    assert [view.file_path.name for view in scenes_in(tmp_path / "out")["aa"].views] == ["00000.jpg", "00001.jpg", "00002.jpg"]


def test_images_of_other_formats_keep_theirs(tmp_path, capsys):
    images = [image("png"), image("webp", lossless=True), image()]
    write_chunk(tmp_path / "in/0.torch", [stored_scene("aa", images=images)])
    run(capsys, "--input", tmp_path / "in", "--output", tmp_path / "out")
    views = scenes_in(tmp_path / "out")["aa"].views
    assert [view.file_path.suffix for view in views] == [".png", ".webp", ".jpg"]
    assert [view.file_path.read_bytes() for view in views] == [bytes(content.tolist()) for content in images]


def test_a_key_that_comes_again_is_listed(tmp_path, chunks, capsys):
    shutil.copy(chunks / "000001.torch", chunks / "000002.torch")
    code, out, _ = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert code == 0
    assert re.fullmatch(r"--input: left out, scenes that have the key of another \(1\): cc \(scene 0 of 00000[12]\.torch\)", out[0])
    assert list(scenes_in(tmp_path / "out")) == ["aa", "bb", "cc"]


def test_a_file_of_the_older_format_is_read(tmp_path, capsys):
    write_chunk(tmp_path / "in/0.torch", [stored_scene("aa")], _use_new_zipfile_serialization=False)
    assert run(capsys, "--input", tmp_path / "in", "--output", tmp_path / "out")[0] == 0
    assert scenes_in(tmp_path / "out")["aa"].views[2].file_path.read_bytes() == bytes(stored_scene("aa")["images"][2].tolist())


def test_a_scene_that_is_there_with_other_cameras_is_not_touched(tmp_path, chunks, capsys):
    run(capsys, "--input", chunks, "--output", tmp_path / "out")
    before = contents(tmp_path / "out" / "cc")
    write_chunk(chunks / "000001.torch", [stored_scene("cc", 1, seed=9)])
    code, out, _ = run(capsys, "--input", chunks, "--output", tmp_path / "out")
    assert code == 2
    assert re.search(r"\(1 of 3\): cc \(.*opencv_cameras\.json holds other cameras than this input and these flags give\)", out[0])
    assert contents(tmp_path / "out" / "cc") == before
    assert list(scenes_in(tmp_path / "out")) == ["aa", "bb"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "none"], "none: is not there; wanted a folder with chunks (*.torch), or a chunk"),
        (["--input", "above"], "above: has no chunk (*.torch); wanted a folder with chunks: above/train"),
        (["--input", "empty"], "empty: has no chunk (*.torch); wanted a folder with chunks\n"),
        (["--input", "nothing"], "--input: holds no scene; wanted at least one"),
        (["--input", "above/train", "--name", "a/b"], "--name: is 'a/b'; wanted the start of a file's name"),
        (["--input", "above/train", "--name", "a", "--data_path_json", "l.json"], "--name: has no effect with --data_path_json"),
        (["--input", "above/train", "--packs", "--long_lrm"], "--long_lrm: has no effect with --packs; wanted it left out"),
        (["--input", "above/train", "nothing", "--packs"], "--input: has above/train/000000.torch and nothing/000000.torch for "),
        (["--input", "above/train", "--output", "empty.txt/x"], "Not a directory: 'empty.txt/x'"),
        (["--input", "above/train", "nothing/", "--output", "/proc/x"], "/proc/x: is in a folder of the system; wanted a place on"),
        (["--input", "above/train", "--data_path_json", "above"], "above: is a folder; wanted a regular file, or none yet"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    write_chunk(Path("above/train/000000.torch"), [stored_scene("aa")])
    write_chunk(Path("nothing/000000.torch"), [])
    Path("empty").mkdir()
    Path("empty.txt").touch()
    code, _, problems = run(capsys, "--output", "out", *flags)
    assert (code, len(problems)) == (2, 1)
    assert message in problems[0] + "\n"
    assert not Path("out").exists()


def test_packs_hold_what_folders_would(tmp_path, chunks, capsys):
    run(capsys, "--input", chunks, "--output", tmp_path / "folders")
    code, out, _ = run(capsys, "--input", chunks, "--output", tmp_path / "out", "--packs")
    assert code == 0
    assert out == [f"3 scenes with 6 views from 2 chunks in {tmp_path}/out/re10k_data_path.json"]
    names = ["re10k_000000.zip", "re10k_000001.zip"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "re10k_data_path.json"]
    assert json.loads((tmp_path / "out/re10k_data_path.json").read_text()) == names
    # Unpacked by another reader of zip files, a pack is a folder of scenes.
    for name in names:
        with zipfile.ZipFile(tmp_path / "out" / name) as archive:
            assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
            archive.extractall(tmp_path / "unpacked")
    for key in ("aa", "bb", "cc"):
        found, wanted = (read_scene(tmp_path / place / key / "opencv_cameras.json").views for place in ("unpacked", "folders"))
        assert [view.file_path.read_bytes() for view in found] == [view.file_path.read_bytes() for view in wanted]
        assert [(view.w, view.h, view.fx, view.w2c.tolist()) for view in found] == [
            (view.w, view.h, view.fx, view.w2c.tolist()) for view in wanted
        ]
    from_packs, from_folders = (SceneDataset(tmp_path / place / "re10k_data_path.json", (16, 24)) for place in ("out", "folders"))
    assert [scene.name for scene in from_packs] == ["aa", "bb", "cc"]
    for one, other in zip(from_packs, from_folders, strict=True):
        loaded = [scenes.load(scene, range(len(scene.views))) for scenes, scene in ((from_packs, one), (from_folders, other))]
        assert all(torch.equal(loaded[0][key], loaded[1][key]) for key in loaded[0])


def test_finished_packs_are_skipped_unread(tmp_path, chunks, capsys):
    flags = ["--input", chunks, "--output", tmp_path / "out", "--packs", "--name", "mine"]
    _, first, _ = run(capsys, *flags)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.zip")}
    whole = contents(tmp_path / "out")
    size = (chunks / "000000.torch").stat().st_size
    (chunks / "000000.torch").write_bytes(bytes(size))
    (tmp_path / "out/mine_000001.zip").unlink()
    code, out, _ = run(capsys, *flags)
    assert (code, out) == (0, first)
    assert contents(tmp_path / "out") == whole
    assert (tmp_path / "out/mine_000000.zip").stat().st_mtime_ns == before[tmp_path / "out/mine_000000.zip"]


def test_a_pack_of_something_else_is_not_replaced(tmp_path, chunks, capsys):
    flags = ["--input", chunks, "--output", tmp_path / "out", "--packs"]
    run(capsys, *flags)
    (tmp_path / "out/re10k_000001.zip").write_bytes(b"mine")
    before = contents(tmp_path / "out")
    code, out, problems = run(capsys, *flags, "--keys", "aa", "cc")
    assert (code, len(problems)) == (2, 3)
    assert "re10k_000000.zip: holds '000000.torch, " in problems[0]
    assert "another --output or --name, or delete it" in problems[0]
    assert "re10k_000001.zip: is not a zip file, or is cut short" in problems[1]
    assert problems[2].startswith("re10k_format_converter.py: --keys: has 2 keys that no chunk holds")
    assert contents(tmp_path / "out") == before
    assert out == ["--keys: left out, keys that were found in no chunk (2 of 2): aa, cc"]


def test_an_interrupted_pack_leaves_nothing_half_written(tmp_path, chunks, capsys, monkeypatch):
    flags = ["--input", chunks, "--output", tmp_path / "out", "--packs"]
    written = []

    def breaks_down(image):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(1)
        return image.numpy().tobytes()

    monkeypatch.setattr(conversion, "content_of", breaks_down)
    assert main([*map(str, flags), "--workers", "1"]) == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["re10k_000000.zip"]
    monkeypatch.setattr(conversion, "content_of", lambda image: image.numpy().tobytes())
    assert run(capsys, *flags)[0] == 0
    run(capsys, "--input", chunks, "--output", tmp_path / "whole", "--packs")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_pack_without_some_scenes_is_written_again_and_they_are_listed_again(tmp_path, chunks, capsys):
    wrong = {**stored_scene("bad"), "cameras": cameras(_6=3.0)}
    write_chunk(chunks / "000002.torch", [stored_scene("dd"), wrong, stored_scene("../up")])
    write_chunk(chunks / "000003.torch", [{**stored_scene("none"), "images": []}])
    flags = ["--input", chunks, "--output", tmp_path / "out", "--packs", "--data_path_json", tmp_path / "list.json"]
    first = run(capsys, *flags)
    assert first[0] == 2
    wanted = (
        r"--input: left out, scenes that cannot be used \(3 of 7\): bad \(.*, scene 2 of 000002.torch \(key is '../up'\), none \("
    )
    assert re.match(wanted, first[1][0])
    assert [path.parent.name for path in read_data_path(tmp_path / "list.json")] == ["aa", "bb", "cc", "dd"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.json", "out", "re10k"]
    assert run(capsys, *flags) == first


@pytest.mark.parametrize("packs", [[], ["--packs"]])
def test_shards_divide_the_chunks(tmp_path, chunks, capsys, packs):
    write_chunk(chunks / "000002.torch", [stored_scene("dd")])
    index = chunks / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "ee": "000009.torch"}))
    run(capsys, "--input", chunks, "--output", tmp_path / "whole", *packs)
    for shard, keys in (("1/2", ["cc", "dd"]), ("0/2", ["aa", "bb"])):
        code, out, _ = run(capsys, "--input", chunks, "--output", tmp_path / "out", "--shard", shard, *packs)
        part = tmp_path / f"out/re10k_data_path.part-000{shard[0]}-of-0002.json"
        assert code == 0
        # A chunk that is not there is of no shard.
        assert out[0] == f"index.json: left out, keys that were found in no chunk of this shard (1 of {len(keys) + 1}): ee"
        assert out[1].endswith(f" in {part}")
        assert [path.parent.name for path in read_data_path(part)] == keys
    for part in (tmp_path / "out").glob("*.part-*"):
        part.unlink()
    (tmp_path / "whole/re10k_data_path.json").unlink()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
