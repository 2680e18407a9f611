"""Adjusted cameras: what check_scenes.py finds is mended by the command that it names. Letters: v views, h w pixels."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import data_preprocess.check_scenes as check_scenes
from data.scene_format import read_scene
from data_preprocess.adjust_cameras import main
from tests.support.cameras import turn
from tests.support.scenes import contents, ring_c2w, write_random_data_path, write_random_scene

SCRIPT = Path(__file__).parent.parent / "data_preprocess" / "adjust_cameras.py"
COMMAND = re.compile("python (data_preprocess/adjust_cameras.py .*)$")


def check(capsys, *flags) -> list[str]:
    """Return what check_scenes.py says is wrong."""
    code = check_scenes.main(["--no_pictures", *map(str, flags)])
    problems = [line for line in capsys.readouterr().err.splitlines() if line.startswith("check_scenes.py: ")]
    assert code == (2 if problems else 0)
    return problems


def adjust(capsys, *flags) -> tuple[int, str, str]:
    """Return the exit code and what is printed."""
    code = main([str(flag) for flag in flags])
    out, err = capsys.readouterr()
    return code, out, err


def write_object(folder: Path, c2w: np.ndarray | None = None, **changes: float) -> Path:
    """Write an object's scene (h 20, w 28), with white borders; return its JSON."""
    c2w = ring_c2w((0, 30), 7) if c2w is None else c2w
    json_path = write_random_scene(folder, len(c2w), c2w=c2w)
    for path in (folder / "images").iterdir():
        inside = Image.open(path).crop((1, 1, 27, 19))
        ImageOps.expand(inside, 1, "white").save(path)
    views = json.loads(json_path.read_text())
    json_path.write_text(json.dumps([{**view, "cx": 14.4, "cy": 10.2, **changes} for view in views]))
    return json_path


def poses(json_path: Path) -> np.ndarray:
    return np.stack([view.c2w for view in read_scene(json_path).views])


def damaged(what: str) -> np.ndarray:
    """Return c2w (14, 4, 4) of an object with one or more mistakes."""
    c2w = ring_c2w((0, 30), 7)
    if "tilted" in what:
        c2w = turn("x", 60) @ c2w
    if "shifted" in what:
        c2w[:, 0, 3] += 1.5
    if "scaled" in what:
        c2w[:, :3, 3] *= 10
    if "lost" in what:
        c2w[4, :3, 3] *= 100
    if "rolled" in what:
        c2w[2] = c2w[2] @ turn("z", 90)
    if "aside" in what:
        c2w[9] = c2w[9] @ turn("y", 60)
    if "repeated" in what:
        c2w[8] = c2w[3] @ turn("x", 0.01)
        c2w[8, 0, 3] += 1e-4
    if "opengl" in what:
        c2w = c2w * [1, -1, -1, 1]
    return np.linalg.inv(c2w) if "inverted" in what else c2w


@pytest.mark.parametrize(
    "what",
    [
        *("opengl", "inverted", "inverted opengl", "scaled", "shifted", "tilted", "lost", "rolled", "aside", "repeated"),
        *("opengl scaled", "opengl scaled shifted tilted", "lost rolled scaled", "inverted tilted scaled"),
    ],
)
def test_the_command_of_a_finding_mends_it(tmp_path, capsys, what):
    json_path = write_object(tmp_path / "a cup", damaged(what))
    before = contents(tmp_path)
    problems = check(capsys, json_path, "--kind", "object")
    assert problems
    (command,) = {COMMAND.search(problem)[1] for problem in problems}
    done = main(shlex.split(command)[1:])
    assert (done, capsys.readouterr().err) == (0, "")
    adjusted = tmp_path / "a cup" / "adjusted_cameras.json"
    assert check(capsys, adjusted, "--kind", "object") == check(capsys, adjusted) == []
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {adjusted.relative_to(tmp_path)}
    # The cameras are those of before the damage, but for the frame's free rotation around z, and for views that are left out.
    good, found = ring_c2w((0, 30), 7), poses(adjusted)
    named = re.search(r"--drop ([0-9 ]+)", command)
    good = np.delete(good, [int(view) for view in named[1].split()] if named else [], axis=0)
    np.testing.assert_allclose(found[:, 2, :3], good[:, 2, :3], atol=1e-4)
    np.testing.assert_allclose(found[:, 2, 3], good[:, 2, 3], atol=2e-2)
    np.testing.assert_allclose(found[:, :3, 3] @ found[:, :3, 3].T, good[:, :3, 3] @ good[:, :3, 3].T, atol=1e-1)


def test_as_a_user_runs_it(tmp_path):
    json_path = write_object(tmp_path / "cup", damaged("opengl"))
    checked = subprocess.run(
        [sys.executable, str(SCRIPT.with_name("check_scenes.py")), str(json_path), "--no_pictures"],
        capture_output=True,
        text=True,
        check=False,
    )
    command = shlex.split(COMMAND.search(checked.stderr.strip())[0])
    done = subprocess.run([sys.executable, *command[1:]], cwd=SCRIPT.parent.parent, capture_output=True, text=True, check=True)
    target = tmp_path / "cup" / "adjusted_cameras.json"
    assert done.stdout == f"{json_path}: axes turned from x right, y up, z backward; in {target}\n"
    np.testing.assert_allclose(poses(target), ring_c2w((0, 30), 7), atol=1e-9)
    failed = subprocess.run([sys.executable, str(SCRIPT), str(json_path)], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert re.fullmatch("adjust_cameras.py: flags: name nothing to adjust; wanted --invert or --axes or .*\n", failed.stderr)


def test_a_list_gets_a_list(tmp_path, capsys):
    data_path = write_random_data_path(tmp_path, scenes=2)
    (tmp_path / "scene_1" / "opencv_cameras.json").write_text("[]")
    code, out, err = adjust(capsys, data_path, "--scale", 0.5)
    target = tmp_path / "test_adjusted_data_path.json"
    assert code == 2
    assert f"1 of 2 scenes in {target}" in out
    assert re.fullmatch(r"adjust_cameras.py: .*scene_1/opencv_cameras.json: holds no views; wanted at least one, .*\n", err)
    assert json.loads(target.read_text()) == ["scene_0/adjusted_cameras.json"]
    adjusted = read_scene(tmp_path / "scene_0" / "adjusted_cameras.json")
    assert adjusted.name == "scene_0"
    scene = read_scene(tmp_path / "scene_0" / "opencv_cameras.json")
    for view, old in zip(adjusted.views, scene.views, strict=True):
        assert (view.file_path, view.w, view.h, view.fx, view.cy) == (old.file_path, old.w, old.h, old.fx, old.cy)
        np.testing.assert_allclose(view.c2w[:3, 3], 0.5 * old.c2w[:3, 3], atol=1e-12)
        np.testing.assert_array_equal(view.w2c[:3, :3], old.w2c[:3, :3])
    written = contents(tmp_path)
    adjust(capsys, data_path, "--scale", 0.5)
    assert contents(tmp_path) == written
    elsewhere = tmp_path / "lists" / "mine.json"
    assert adjust(capsys, scene.json_path, "--scale", 2, "--data_path_json", elsewhere)[0] == 0
    assert json.loads(elsewhere.read_text()) == ["../scene_0/adjusted_cameras.json"]


def test_a_list_of_lines_gets_a_list(tmp_path, capsys):
    write_random_data_path(tmp_path, scenes=2)
    (tmp_path / "all.txt").write_text("scene_1/opencv_cameras.json\n\nscene_0/opencv_cameras.json\n")
    assert adjust(capsys, tmp_path / "all.txt", "--scale", 0.5)[0] == 0
    written = json.loads((tmp_path / "all_adjusted_data_path.json").read_text())
    assert written == ["scene_1/adjusted_cameras.json", "scene_0/adjusted_cameras.json"]


def test_the_spelling_of_long_lrm_stays(tmp_path, capsys):
    json_path = write_random_scene(tmp_path / "s", long_lrm=True, name="another name")
    assert adjust(capsys, json_path, "--drop", 1, 1, 3)[0] == 0
    content = json.loads((tmp_path / "s" / "adjusted_cameras.json").read_text())
    frames = json.loads(json_path.read_text())["frames"]
    assert content["scene_name"] == "another name"
    assert [frame["file_path"] for frame in content["frames"]] == [frames[i]["file_path"] for i in (0, 2, 4)]


@pytest.mark.parametrize(
    ("given", "size", "wanted"),
    [
        # fx, fy, cx, cy of images of 40×56 (h×w) for views of 20×28
        ((60.0, 62.0, 30.0, 18.0), (40, 56), (30.0, 31.0, 15.0, 9.0)),
        # the principal point is in the middle of the view already
        ((60.0, 62.0, 14.0, 10.0), (40, 56), (30.0, 31.0, 14.0, 10.0)),
        # shares of the image
        ((1.0, 1.5, 0.5, 0.45), (1, 1), (28.0, 30.0, 14.0, 9.0)),
    ],
)
def test_intrinsics_of_another_size(tmp_path, capsys, given, size, wanted):
    json_path = write_object(tmp_path / "cup", **dict(zip(("fx", "fy", "cx", "cy"), given, strict=True)))
    code, out, err = adjust(capsys, json_path, "--intrinsics_size", *size)
    assert (code, err) == (0, "")
    assert ("left in the middle" in out) == (given[2] == wanted[2])
    (view, *_) = read_scene(tmp_path / "cup" / "adjusted_cameras.json").views
    assert (view.fx, view.fy, view.cx, view.cy) == pytest.approx(wanted)


def test_shares_of_the_image_name_their_command(tmp_path, capsys):
    json_path = write_object(tmp_path / "a cup", fx=1.1, fy=1.5, cx=0.5, cy=0.5)
    (problem,) = check(capsys, json_path)
    assert "pixels of 28×20 (w×h), not shares of it: python data_preprocess/adjust_cameras.py '" in problem
    assert main(shlex.split(COMMAND.search(problem)[1])[1:]) == 0
    capsys.readouterr()
    assert check(capsys, tmp_path / "a cup" / "adjusted_cameras.json") == []


def test_a_principal_point_names_the_size_to_give(tmp_path, capsys):
    json_path = write_object(tmp_path / "cup", fx=112.0, fy=112.0, cx=56.0, cy=40.0)
    problem = check(capsys, json_path)[-1]
    assert problem.endswith("--intrinsics_size 80 112")
    assert main(shlex.split(COMMAND.search(problem)[1])[1:]) == 0
    capsys.readouterr()
    assert check(capsys, tmp_path / "cup" / "adjusted_cameras.json") == []


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "flags: name nothing to adjust; wanted --invert or --axes or --drop or --intrinsics_size or --frame or --scale"),
        (["--axes", "RDF"], r"--axes: cannot be read \(invalid choice: 'RDF'.*; wanted BDR, .* RUB"),
        (["--axes", "RUF"], r"--axes: cannot be read \(invalid choice: 'RUF'.*; wanted BDR, .* RUB"),
        (["--scale", "0"], "--scale: is 0.*; wanted "),
        (["--scale", "2", "--frame", "scene"], "--scale: has no effect with --frame, which sets the scale; wanted one of the two"),
        (["--drop", "14"], "--drop: is 14, but .*opencv_cameras.json has 14 views; wanted 0 to 13"),
        (["--drop", *map(str, range(14))], "--drop: names all 14 views of .*; wanted at least one left"),
        (["--axes", "FLU", "--frame", "object"], "opencv_cameras.json, cameras: look at no common point; wanted cameras around"),
        (["--intrinsics_size", "1", "1"], "--intrinsics_size: is 1 1, for shares .* has a focal length of 31; wanted height and"),
        (["--intrinsics_size", "1000", "2000"], "view 0: has a field of view of .*; wanted 170 at most"),
        (["--frame", "given"], r"--frame: cannot be read \(invalid choice: 'given'.*; wanted object, scene"),
    ],
)
def test_nonsense_is_refused_in_one_line(tmp_path, capsys, flags, problem):
    json_path = write_object(tmp_path / "cup", fx=31.0, fy=31.0, cx=11.0, cy=9.0)
    before = contents(tmp_path)
    code, _, err = adjust(capsys, json_path, *flags)
    assert code == 2
    assert re.fullmatch(f"adjust_cameras.py: .*{problem}.*\n", err)
    assert contents(tmp_path) == before


def test_no_scene_is_written_over_another(tmp_path, capsys):
    json_path = write_object(tmp_path / "cup")
    assert adjust(capsys, json_path, "--scale", 2)[0] == 0
    before = contents(tmp_path)
    for names in (["opencv_cameras.json", "adjusted_cameras.json"], ["opencv_cameras.json", "cameras.json"]):
        (tmp_path / "cup" / "cameras.json").write_bytes(json_path.read_bytes())
        (tmp_path / "two.json").write_text(json.dumps([f"cup/{name}" for name in names]))
        code, _, err = adjust(capsys, tmp_path / "two.json", "--axes", "RUB")
        assert code == 2
        assert re.search("cup/.*cameras.json: would be written to .*/adjusted_cameras.json, ", err)
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    code, _, err = adjust(capsys, tmp_path / "two.json", "--drop", 0)
    assert (code, err) == (
        2,
        "adjust_cameras.py: --drop: numbers the views of one scene, and the list has 2; wanted one scene's JSON\n",
    )
    # An adjusted scene can be adjusted again.
    assert adjust(capsys, tmp_path / "cup" / "adjusted_cameras.json", "--scale", 0.5)[0] == 0
    np.testing.assert_allclose(poses(tmp_path / "cup" / "adjusted_adjusted_cameras.json"), poses(json_path), atol=1e-9)


def test_what_stays_wrong_is_told(tmp_path, capsys):
    json_path = write_object(tmp_path / "cup", damaged("opengl lost"))
    code, out, err = adjust(capsys, json_path, "--axes", "RUB")
    assert code == 2
    assert "axes turned from x right, y up, z backward; in " in out
    assert re.fullmatch("adjust_cameras.py: .*adjusted_cameras.json, view 4: is .* as far from the middle .* --drop 4\n", err)
