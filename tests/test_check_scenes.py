"""Checks of scenes find deliberate damage. Letters: v views, h w pixels."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_preprocess.check.drawing as drawing
from data.problems.scene import camera_problems, describe
from data.scene_format import read_scene
from data_preprocess.check.findings import Finding
from data_preprocess.check_scenes import check_scene, main
from tests.support.scenes import write_random_data_path, write_random_scene

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "check_scenes.py"


def check(capsys, *flags) -> tuple[int, list[str], list[str]]:
    """Return exit code, lines on standard output, and problems."""
    code = main([str(flag) for flag in flags])
    out, err = capsys.readouterr()
    return code, out.splitlines(), [line for line in err.splitlines() if line.startswith("check_scenes.py: ")]


def test_good_scenes_pass_and_are_drawn(tmp_path, capsys):
    data_path = write_random_data_path(tmp_path / "data", scenes=2)
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    code, out, problems = check(capsys, data_path, "--output", tmp_path / "pictures")
    assert (code, problems) == (0, [])
    assert out[0].startswith("scene_0: 5 views, 28×20 (w×h), field of view ")
    assert out[2] == f"2 scenes, 10 views, 0 problems; pictures in {tmp_path / 'pictures'}"
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before
    for scene in ("scene_0", "scene_1"):
        folder = tmp_path / "pictures" / scene
        assert sorted(path.name for path in folder.iterdir()) == ["cameras.png", "contact_sheet.png"]
        with Image.open(folder / "contact_sheet.png") as sheet:
            pixels = np.asarray(sheet)
        # Each photo is on the sheet: its corner's colour appears, enlarged without smoothing.
        for view in read_scene(tmp_path / "data" / scene / "opencv_cameras.json").views:
            corner = np.asarray(Image.open(view.file_path))[0, 0]
            assert (pixels == corner).all(-1).sum() >= 16


def test_a_list_of_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_random_data_path(tmp_path / "data", scenes=2)
    (tmp_path / "data" / "all.txt").write_text("scene_1/opencv_cameras.json\n\nscene_0/opencv_cameras.json\n")
    code, out, problems = check(capsys, "data/all.txt")
    assert (code, problems) == (0, [])
    assert [line[:7] for line in out[:2]] == ["scene_1", "scene_0"]
    assert (tmp_path / "outputs" / "check" / "all" / "scene_1" / "cameras.png").exists()


def test_pictures_go_to_outputs_by_default_or_nowhere(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_path = write_random_data_path(tmp_path / "data", scenes=1)
    check(capsys, data_path, "--no_pictures")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    code, _, problems = check(capsys, data_path.parent / "scene_0" / "opencv_cameras.json", "--no_pictures", "--output", "x")
    assert (code, problems) == (2, ["check_scenes.py: --output: has no effect with --no_pictures; wanted it left out"])
    check(capsys, data_path)
    assert (tmp_path / "outputs" / "check" / "test_data_path" / "scene_0" / "cameras.png").exists()


def test_no_picture_is_drawn_through_a_link(tmp_path, capsys):
    data_path = write_random_data_path(tmp_path / "data", scenes=2)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "scene_0").symlink_to(tmp_path / "data")
    code, _, problems = check(capsys, data_path, "--output", tmp_path / "pictures")
    (problem,) = problems
    assert code == 2
    assert f"scene_0: is a link to {tmp_path / 'data'}; wanted a folder" in problem
    assert not list((tmp_path / "data").glob("*.png"))
    assert (tmp_path / "pictures" / "scene_1" / "cameras.png").exists()


def remove(folder, views):
    (folder / "images" / "00001.png").unlink()


def cut(folder, views):
    path = folder / "images" / "00001.png"
    path.write_bytes(path.read_bytes()[:-400])


def turn(folder, views):
    Image.new("RGB", (20, 28)).save(folder / "images" / "00001.png")


def copy(folder, views):
    shutil.copy(folder / "images" / "00000.png", folder / "images" / "00001.png")


def same_file(folder, views):
    views[1]["file_path"] = views[0]["file_path"]


def same_pose(folder, views):
    views[1]["w2c"] = views[0]["w2c"]


def bend(folder, views):
    views[1]["w2c"][0][0] += 0.1


def degrees(folder, views):
    views[1]["fx"], views[1]["fy"] = 2.0, 2.0


def narrow(folder, views):
    views[1]["fx"], views[1]["fy"] = 2e4, 2e4


def oblong(folder, views):
    views[1]["fy"] = 3 * views[1]["fx"]


def aside(folder, views):
    views[1]["cx"] = 29.0


DAMAGE = {
    remove: "scene_0/opencv_cameras.json, view 1: .*00001.png: is not there; wanted an image",
    cut: "view 1: .*00001.png: cannot be decoded",
    turn: "view 1: .*00001.png: is 20×28 .* when upright",
    copy: "view 1: has the photo of view 0 again",
    same_file: "view 1: has the file of view 0; wanted each once",
    same_pose: "view 1: has the pose of view 0; wanted a different pose",
    bend: r"view 1, w2c: has a 3×3 part .* away from orthonormal",
    degrees: "view 1: has a field of view of 164×157 degrees",
    narrow: r"view 1: has a field of view of 0.0802×0.0573 degrees .*; wanted 3 to 160",
    oblong: "view 1: has focal lengths .*; wanted nearly square pixels",
    aside: r"view 1: has the principal point \(29, .*\) outside 28×20",
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_the_other_scene_is_checked(tmp_path, capsys, damage):
    data_path = write_random_data_path(tmp_path, scenes=2)
    json_path = tmp_path / "scene_0" / "opencv_cameras.json"
    views = json.loads(json_path.read_text())
    damage(json_path.parent, views)
    json_path.write_text(json.dumps(views))
    code, out, problems = check(capsys, data_path, "--output", tmp_path / "pictures", "--workers", "2")
    assert code == 2
    assert re.search(DAMAGE[damage], problems[0])
    assert len(problems) == 1
    assert any(line.startswith("scene_1: 5 views") for line in out)
    assert (tmp_path / "pictures" / "scene_1" / "contact_sheet.png").exists()


def test_cameras_all_at_one_place(tmp_path):
    rng = np.random.default_rng(0)
    c2w = np.tile(np.eye(4), (3, 1, 1))
    for pose in c2w:
        pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pose[:3, 0] *= np.linalg.det(pose[:3, :3])
        pose[:3, 3] = (1, 2, 3)
    (problem,) = camera_problems(read_scene(write_random_scene(tmp_path / "tripod", n=3, c2w=c2w)))
    assert problem.endswith("has all 3 cameras in one place; wanted different positions")
    assert camera_problems(read_scene(write_random_scene(tmp_path / "single", n=1))) == []


def test_a_scene_listed_twice_and_two_of_one_name(tmp_path, capsys):
    for part in ("a", "b"):
        write_random_scene(tmp_path / part / "chair", seed=ord(part))
    paths = [f"{part}/chair/opencv_cameras.json" for part in ("a", "b", "a")]
    (tmp_path / "list.json").write_text(json.dumps(paths))
    code, out, problems = check(capsys, tmp_path / "list.json", "--output", tmp_path / "pictures")
    assert code == 2
    assert re.search("list.json, entry 2: is .*a/chair/opencv_cameras.json again; wanted each scene once", problems[0])
    assert out[2].startswith("2 scenes, 10 views, 1 problem")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["001_chair", "chair"]


def test_views_of_several_sizes_and_depths(tmp_path, monkeypatch):
    json_path = write_random_scene(tmp_path / "mixed", n=50, size=(20, 28))
    views = json.loads(json_path.read_text())
    for view in views[::2]:
        image = np.random.default_rng(views.index(view)).integers(0, 65536, (40, 20), dtype=np.uint16)
        Image.fromarray(image).save(json_path.parent / view["file_path"])
        view |= {"w": 20, "h": 40, "fx": 25.0, "fy": 25.0, "cx": 10.0, "cy": 20.0}
    json_path.write_text(json.dumps(views))
    scene = read_scene(json_path)
    assert describe(scene).startswith("mixed: 50 views, 28×20 and 1 more (w×h)")
    with ThreadPoolExecutor(2) as pool:
        assert check_scene(scene, pool, tmp_path / "pictures").findings == []
        assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["cameras.png", "contact_sheet.png"]
        drawn = []
        monkeypatch.setattr(drawing, "camera_plot", lambda path, c2w, *drawn_as, **words: drawn.append(drawn_as))
        check_scene(scene, pool, tmp_path / "pictures")
    # Each pyramid has the corners of its own image, although all are drawn from intrinsics of one size.
    ((cameras, (h, w)),) = drawn
    for view, (fx, fy, cx, cy) in zip(scene.views, cameras, strict=True):
        assert ((w - cx) / fx, (h - cy) / fy) == pytest.approx(((view.w - view.cx) / view.fx, (view.h - view.cy) / view.fy))


def test_nothing_readable_is_still_reported(tmp_path, capsys):
    data_path = write_random_data_path(tmp_path, scenes=1)
    for image in (tmp_path / "scene_0" / "images").iterdir():
        image.unlink()
    code, _, problems = check(capsys, data_path, "--output", tmp_path / "pictures")
    assert (code, len(problems)) == (2, 5)
    assert [path.name for path in (tmp_path / "pictures" / "scene_0").iterdir()] == ["cameras.png"]


def test_lists_of_one_name_have_folders_of_their_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lists = [write_random_data_path(tmp_path / part / "captures", scenes=1) for part in ("a", "b")]
    lists.append(write_random_data_path(tmp_path / "c", scenes=1))
    folders = []
    for data_path in [*lists, *lists[::-1]]:
        _, out, _ = check(capsys, data_path)
        folders.append(out[-1].partition("; pictures in ")[2])
        assert (tmp_path / folders[-1] / "scene_0" / "cameras.png").exists()
    # The second is named after its own folder as well, the third after its; running again changes nothing.
    names = [f"outputs/check/test_data_path{ending}" for ending in ("", "_captures", "_c")]
    assert folders == [*names, *names[::-1]]
    assert sorted(path.name for path in (tmp_path / "outputs" / "check").iterdir()) == sorted(Path(name).name for name in names)


def test_a_single_scene_has_a_folder_of_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [write_random_scene(tmp_path / name, seed=seed) for seed, name in enumerate(("chair", "table", "b/chair"))]
    for path, folder in [*zip(paths, ("chair", "table", "chair_b"), strict=True), (paths[0], "chair")]:
        _, out, _ = check(capsys, path)
        assert out[-1].endswith(f"; pictures in outputs/check/{folder}")
        assert (tmp_path / "outputs" / "check" / folder / "cameras.png").exists()
    _, _, _ = check(capsys, paths[0], "--output", "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["chair"]


def test_suspicious_views_are_on_the_contact_sheet_and_marked(tmp_path, monkeypatch):
    json_path = write_random_scene(tmp_path / "many", n=120, size=(20, 28))
    for view in (44, 90):
        shutil.copy(json_path.parent / "images" / "00000.png", json_path.parent / "images" / f"{view:05d}.png")
    drawn = {}
    monkeypatch.setattr(drawing, "contact_sheet", lambda path, images, captions, title, marked, note: drawn.update(locals()))
    monkeypatch.setattr(drawing, "camera_plot", lambda path, *cameras, marked, **words: drawn.update(cameras=list(marked)))
    with ThreadPoolExecutor(2) as pool:
        checked = check_scene(read_scene(json_path), pool, tmp_path / "pictures")
    (finding,) = checked.findings
    assert finding.views == (44, 90)
    assert "views 44, 90: has the photos of views 0, 0 again" in finding.line
    assert finding.line.endswith("--drop 44 90")
    assert not {44, 90} & drawing.evenly(120)
    assert drawn["title"] == "many: 50 of 120 views"
    marked = [drawn["captions"][number] for number in drawn["marked"]]
    assert marked == ["44 copy: 00044.png", "90 copy: 00090.png"]
    assert drawn["captions"][0] == "0 00000.png"
    assert [(drawn["images"][number] == drawn["images"][0]).all() for number in drawn["marked"]] == [True, True]
    assert drawn["cameras"] == [44, 90]
    assert drawn["note"] == "1 finding; in this colour: 2 views"


def test_marks_of_a_view_are_joined_and_many_marked_views_are_thinned_out():
    findings = [
        Finding("blurred photo", "", (3, 5), "blurred"),
        Finding("exposure jump", "", (5,), "darker"),
        Finding("contradiction of photos and cameras", ""),
    ]
    assert drawing.marks(findings) == {3: "blurred", 5: "blurred, darker"}
    assert drawing.shown_marked([2, 3, 7]) == [2, 3, 7]
    thinned = drawing.shown_marked(list(range(0, 500, 2)))
    assert len(thinned) == drawing.MOST_MARKED
    assert (thinned[0], thinned[-1]) == (0, 498)


def test_many_problems_are_counted_by_kind(tmp_path, capsys):
    json_path = write_random_scene(tmp_path / "broken", n=40)
    for image in sorted((tmp_path / "broken" / "images").iterdir())[5:35]:
        image.write_bytes(b"no image")
    code, out, problems = check(capsys, json_path, "--no_pictures", "--no_matching")
    assert code == 2
    assert len(problems) == 4
    assert problems[0].startswith(f"check_scenes.py: {json_path}, view 5: ")
    assert problems[3] == f"check_scenes.py: {json_path}: has 27 more unreadable photos, 30 in all; wanted none"
    assert out[-1] == "1 scene, 40 views, 30 problems"


def test_as_a_user_runs_it(tmp_path):
    write_random_data_path(tmp_path, scenes=1)
    command = [sys.executable, str(SCRIPT), "test_data_path.json", "--output", "pictures"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 scene, 5 views, 0 problems; pictures in pictures"
    for flags, message in (
        (["no.json"], "no.json: is not there"),
        (["test_data_path.json", "--workers", "0"], "--workers: is 0; wanted 1"),
    ):
        done = subprocess.run([*command[:2], *flags], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert re.fullmatch(f"check_scenes.py: .*{message}.*\n", done.stderr)
