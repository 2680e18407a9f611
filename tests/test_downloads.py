"""Downloads of weights and example objects from stand-ins for the hub and GitHub, and the code that download scripts share."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import are_progress_bars_disabled

import data_preprocess.gso_example_download as gso
import data_preprocess.weights_download as weights
from config.errors import InputError
from data.scene_format import View, read_scene, write_scene
from data.scene_list import read_data_path
from data_preprocess.command import bytes_text
from data_preprocess.hub import transfers as hub_files
from data_preprocess.hub.transfers import Item, Transfer
from model.weights.table import published_weights
from tests.support.hub_server import HubServer, point_at
from tests.support.networks import random_poses

ROOT = Path(__file__).parent.parent
WEIGHTS = {file: random.Random(file).randbytes(1500 + 7 * i) for i, file in enumerate(published_weights())}


def lines_of(capsys: pytest.CaptureFixture, script: str) -> list[str]:
    """Return the script's own lines on standard error."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(script)]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(hub_files, "RETRY_WAITS_S", (0.0, 0.0))


# Weights


@pytest.fixture
def hub(monkeypatch):
    with HubServer({"airsplay/lact_nvs": {"README.md": b"x", **WEIGHTS}}) as server:
        point_at(monkeypatch, server)
        yield server


def fetch_weights(folder: Path, *flags: str) -> int:
    return weights.main(["--output", str(folder), *flags])


def there(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_all_ten_checkpoints_by_default(hub, tmp_path, capsys):
    assert len(WEIGHTS) == 10
    assert fetch_weights(tmp_path) == 0
    assert there(tmp_path) == WEIGHTS
    size = bytes_text(sum(map(len, WEIGHTS.values())))
    assert f"10 checkpoints complete; fetched 10 files, {size}" in capsys.readouterr().out
    asked = hub.count("GET", "/resolve/")
    assert fetch_weights(tmp_path) == 0
    assert hub.count("GET", "/resolve/") == asked


def test_checkpoints_by_name(hub, tmp_path):
    assert fetch_weights(tmp_path, "obj_res512", "scene_res72x128.pt", "obj_res512.pt") == 0
    assert set(there(tmp_path)) == {"obj_res512.pt", "scene_res72x128.pt"}


def test_a_cut_is_continued_by_the_next_run(hub, tmp_path, capsys):
    hub.cut("obj_res256.pt", after=1000, stay_down=True)
    assert fetch_weights(tmp_path, "obj_res256", "obj_res512") == 2
    (line,) = lines_of(capsys, "weights_download.py")
    assert "1 of 2 files: could not be fetched, the first is obj_res256.pt: " in line
    assert "broke off at 1000 of" in line
    assert set(there(tmp_path)) == {"obj_res512.pt"}
    hub.mend("obj_res256.pt")
    assert fetch_weights(tmp_path, "obj_res256", "obj_res512") == 0
    assert there(tmp_path)["obj_res256.pt"] == WEIGHTS["obj_res256.pt"]
    assert hub.bytes_served["obj_res256.pt"] == len(WEIGHTS["obj_res256.pt"])


@pytest.mark.parametrize("online", [True, False])
def test_the_list_fetches_nothing(hub, tmp_path, capsys, monkeypatch, online):
    (tmp_path / "obj_res256.pt").write_bytes(bytes(1234))
    if not online:
        hub.fail("", 503)
    assert fetch_weights(tmp_path, "--list") == 0
    output = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in output.out.splitlines()}
    assert len(rows) == 11
    assert rows["obj_res256"] == ["1.23kB", "256x256", "object", "8", "lact_l24_d768_ttt2x", "yes"]
    size = bytes_text(len(WEIGHTS["scene_res536x960.pt"])) if online else "?"
    assert rows["scene_res536x960"] == [size, "536x960", "scene", "64", "lact_l24_d768_ttt4x", "no"]
    assert ("sizes of files not on disk are unknown: airsplay/lact_nvs: " in output.err) is not online
    assert hub.count("GET", "/resolve/") == hub.count("HEAD") == 0


def change_size(hub, folder):
    (folder / "obj_res256.pt").write_bytes(b"mine")


@pytest.mark.parametrize(
    ("flags", "fault", "wanted"),
    [
        (["obj_res25"], None, "obj_res25: is not a published checkpoint; wanted one of the table; did you mean 'obj_res256'? "),
        (["--workers", "0"], None, "--workers: is 0; wanted 1 to 1024"),
        (["--fast"], None, "--fast: is unknown; wanted a known flag; "),
        ([], lambda hub, _: hub.repos["airsplay/lact_nvs"].pop("obj_res1024.pt"), "obj_res1024.pt: is not in airsplay"),
        ([], change_size, "obj_res256.pt: has 4 bytes; wanted 1500 as listed: move it away and run again"),
        ([], lambda hub, _: hub.repos.clear(), "with access: request it at https://huggingface.co/airsplay/lact_nvs, then"),
        (["obj_res256"], lambda hub, _: hub.gate("airsplay/lact_nvs"), "denies access (HTTP 401); wanted an account with access"),
        (["obj_res256"], lambda hub, _: hub.fail("obj_res256.pt", 404, "EntryNotFound"), "has no obj_res256.pt at main (HTTP"),
        ([], lambda hub, _: hub.fail("", 500), "with HTTP 500; wanted a listing: try again later"),
    ],
)  # fmt: skip
def test_what_weights_download_refuses(hub, tmp_path, capsys, flags, fault, wanted):
    if fault is not None:
        fault(hub, tmp_path)
    before = there(tmp_path)
    assert fetch_weights(tmp_path, *flags) == 2
    (line,) = lines_of(capsys, "weights_download.py")
    assert wanted in line
    assert there(tmp_path) == before
    assert sum(hub.bytes_served.values()) == 0


def test_a_hub_out_of_reach(tmp_path, capsys, monkeypatch, hub):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    assert fetch_weights(tmp_path) == 2
    assert "airsplay/lact_nvs: is unreachable (" in lines_of(capsys, "weights_download.py")[0]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("<html>log in</html>", "does not answer like a hub; wanted a hub: check HF_ENDPOINT and proxies"),
        ("[1]", "does not answer like a hub"),
        ('[{"type": "file"}]', "does not answer like a hub"),
        ('[{"type": "file", "path": 1, "oid": "a", "size": 1}]', "is listed with 1; wanted paths in that folder"),
        ('[{"type": "file", "path": "../a.pt", "oid": "a", "size": 1}]', "is listed with '../a.pt'; wanted paths in"),
        ('[{"type": "file", "path": "a.pt", "oid": "a", "size": -1}]', "is listed with a.pt of size -1; wanted bytes"),
        ('[{"type": "file", "path": "a.pt", "oid": "a", "size": true}]', "is listed with a.pt of size True; wanted bytes"),
    ],
)
def test_a_listing_that_is_none(hub, tmp_path, capsys, monkeypatch, answer, wanted):
    monkeypatch.setattr(
        "tests.support.hub_server._Handler._send_json", lambda self, value, headers=None: self._send(200, {}, answer.encode())
    )
    assert fetch_weights(tmp_path) == 2
    assert wanted in lines_of(capsys, "weights_download.py")[0]
    assert hub.count("HEAD") == 0


@pytest.mark.slow
def test_as_a_user_runs_it(hub, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1,localhost", "HF_HOME": str(tmp_path / "home")}
    script = str(ROOT / "data_preprocess" / "weights_download.py")
    result = subprocess.run(
        [sys.executable, script, "obj_res256", "--output", "weight"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert there(tmp_path / "weight") == {"obj_res256.pt": WEIGHTS["obj_res256.pt"]}
    assert "Traceback" not in result.stderr


# Example objects


@pytest.fixture
def github(monkeypatch, tmp_path):
    files = {"README.md": b"x", "lact_nvs/model.py": b"x", f"{gso.FOLDER}/gso_character_inference_demo.gif": b"x"}
    for name in gso.OBJECTS:
        folder = tmp_path / "release" / name
        poses = np.linalg.inv(random_poses(5, seed=len(name)).double().numpy())
        poses[:, 3] = (0, 0, 0, 1)
        images = [folder / "renderings" / f"{i:08d}_rgba.png" for i in range(5)]
        write_scene(folder / "opencv_cameras.json", [
            View(image, 40, 24, 50.0, 51.0, 20.0, 12.5, pose) for image, pose in zip(images, poses, strict=True)
        ])  # fmt: skip
        files[f"{gso.FOLDER}/{name}/opencv_cameras.json"] = (folder / "opencv_cameras.json").read_bytes()
        for image in images:
            path = f"{name}/renderings/{image.name}"
            files[f"{gso.FOLDER}/{path}"] = random.Random(path).randbytes(2000)
    files[f"{gso.FOLDER}/{gso.LIST}"] = json.dumps([f"{name}/opencv_cameras.json" for name in gso.OBJECTS]).encode()
    with HubServer({gso.REPO: files}) as server:
        point_at(monkeypatch, server)
        monkeypatch.setenv("LACT_GITHUB_API", f"{server.url}/github/")
        monkeypatch.setenv("LACT_GITHUB_RAW", f"{server.url}/raw")
        yield server


@pytest.fixture
def output(tmp_path):
    return tmp_path / "data_example"


def fetch_example(output: Path, *flags: str) -> int:
    return gso.main(["--output", str(output), *flags])


@pytest.mark.slow
def test_the_example_objects_arrive_as_they_are(github, output, capsys):
    assert fetch_example(output) == 0
    files = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    expected = {path.removeprefix(f"{gso.FOLDER}/"): data for path, data in github.repos[gso.REPO].items() if "gso_" in path}
    del expected["gso_character_inference_demo.gif"]
    assert {path: data for path, data in files.items() if ".cache" not in path} == expected
    scenes = [read_scene(path) for path in read_data_path(output / gso.LIST)]
    assert [(scene.name, len(scene.views)) for scene in scenes] == [("gso_character", 5), ("gso_toy", 5)]
    assert "gso_character (5 views), gso_toy (5 views); fetched 13 files" in capsys.readouterr().out
    asked = github.count("GET", "/raw/")
    assert fetch_example(output) == 0
    assert github.count("GET", "/raw/") == asked
    assert "fetched 0 files" in capsys.readouterr().out


@pytest.mark.slow
def test_the_list_comes_when_all_that_it_names_is_there(github, output, capsys):
    lost = f"{gso.FOLDER}/gso_toy/renderings/00000003_rgba.png"
    github.cut(lost, after=1000, stay_down=True)
    assert fetch_example(output) == 2
    (line,) = lines_of(capsys, "gso_example_download.py")
    assert "1 of 13 files: could not be fetched, the first is gso_toy/renderings/00000003_rgba.png" in line
    assert not (output / gso.LIST).exists()
    github.mend(lost)
    assert fetch_example(output) == 0
    assert (output / gso.LIST).is_file()
    assert github.bytes_served[lost] == 2000
    whole = {path: len(data) for path, data in github.repos[gso.REPO].items() if gso.is_wanted(path)}
    assert github.bytes_served == whole


LIST = f"{gso.FOLDER}/{gso.LIST}"
TOY_CAMERAS = f"{gso.FOLDER}/gso_toy/opencv_cameras.json"
TOY_IMAGE = f"{gso.FOLDER}/gso_toy/renderings/00000004_rgba.png"
BLOB = {"type": "blob", "path": f"{gso.FOLDER}/gso_toy/a.png", "size": 9, "sha": "0" * 40}


def instead_of(path: str, text: str):
    return lambda github: github.repos[gso.REPO].update({path: text.encode()})


def without(path: str):
    return lambda github: github.repos[gso.REPO].pop(path)


def answer(value: object):
    return lambda github: github.corrupt("git/trees", value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (lambda github: github.fail("git/trees", 403), "answers HTTP 403, GitHub's limit of requests per hour; wanted a list: try"),
        (lambda github: github.fail("git/trees", 429), "answers HTTP 429, GitHub's limit of requests per hour"),
        (lambda github: github.fail("git/trees", 404), "answers HTTP 404; wanted the list of files"),
        (answer(b"<html>"), "answers with something else; wanted GitHub's list of files"),
        (answer({"tree": 1}), "answers with something else; wanted GitHub's list of files"),
        (answer({"tree": [1]}), "answers with something else; wanted GitHub's list of files"),
        (answer({"tree": [{"type": "blob", "path": BLOB["path"]}]}), "lists gso_toy/a.png with size None and hash None"),
        (answer({"tree": [{**BLOB, "size": "9"}]}), "lists gso_toy/a.png with size '9' and hash '0000"),
        (answer({"tree": [{**BLOB, "sha": "0"}]}), "lists gso_toy/a.png with size 9 and hash '0'; wanted bytes and 40 hexadecimal"),
        (answer({"tree": []}), f"lists no {gso.FOLDER}/gso_sample_data_path.json; wanted this file: the release has changed"),
        (without(TOY_CAMERAS), f"lists no {TOY_CAMERAS}; wanted this file: the release has changed"),
        (without(TOY_IMAGE), "_rgba.png, which is missing; wanted it among the files"),
        (lambda github: github.fail(TOY_IMAGE, 404), "1 of 13 files: could not be fetched"),
        (lambda github: github.corrupt(TOY_CAMERAS, b"[]"), "1 of 13 files: could not be fetched"),
        (lambda github: github.corrupt(TOY_IMAGE, bytes(2000)), "arrived with hash"),
        (instead_of(TOY_CAMERAS, "[]"), "gso_toy/opencv_cameras.json: holds no views; wanted at least one"),
        (instead_of(LIST, '["../gso_toy/opencv_cameras.json"]'), "holds ['../gso_toy/opencv_cameras.json']; wanted a list of"),
        (instead_of(LIST, '["/etc/passwd"]'), "wanted a list of gso_character/opencv_cameras.json and gso_toy/opencv_cameras.json"),
        (instead_of(LIST, '["gso_toy/opencv_cameras.json", 1]'), "wanted a list of gso_character/opencv_cameras.json and"),
        (instead_of(LIST, "[]"), "wanted a list of gso_character/opencv_cameras.json and"),
        (instead_of(LIST, "{}"), "wanted a list of gso_character/opencv_cameras.json and"),
        (instead_of(LIST, "{"), "is not JSON"),
    ],
)
def test_what_gso_example_download_refuses(github, output, capsys, fault, wanted):
    fault(github)
    assert fetch_example(output) == 2
    (line,) = lines_of(capsys, "gso_example_download.py")
    assert wanted in line
    assert not (output / gso.LIST).exists()


def test_paths_that_leave_the_folder_are_not_fetched(github, output):
    for path in ("../gso_toy/a.png", "gso_toy/../../b.png", "gso_toy/../c.json", "gso_toy/../../../gso_toy/d.png", "model/e.png"):
        github.repos[gso.REPO][f"{gso.FOLDER}/{path}"] = b"x"
    github.repos[gso.REPO]["gso_toy/f.png"] = b"x"
    assert fetch_example(output) == 0
    assert list(output.parent.rglob("?.*")) == []


def test_github_out_of_reach_and_a_full_disk(github, output, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(hub_files.shutil, "disk_usage", lambda path: SimpleNamespace(free=20_000))
        assert fetch_example(output) == 2
        assert "data_example: is on a disk with 20.0kB free; wanted 2" in lines_of(capsys, "gso_example_download.py")[0]
    assert github.count("GET", "/raw/") == 0
    monkeypatch.setenv("LACT_GITHUB_API", "http://127.0.0.1:9")
    assert fetch_example(output, "--workers", "2") == 2
    assert "git/trees/main?recursive=1: is unreachable (" in lines_of(capsys, "gso_example_download.py")[0]
    monkeypatch.setenv("LACT_GITHUB_API", "http://[")
    assert fetch_example(output) == 2
    assert "http://[/repos/a1600012888/LaCT/git/trees/main?recursive=1: is unreachable (" in capsys.readouterr().err
    assert fetch_example(output, "--workers", "0") == 2
    assert "--workers: is 0; wanted 1 to 1024" in lines_of(capsys, "gso_example_download.py")[0]


# Shared code


def item(folder: Path, name: str, *outcomes: Exception | None, size: int = 10, calls: list | None = None) -> Item:
    """Return an item whose attempts have these outcomes, the last one repeatedly."""
    left = list(outcomes)

    def fetch() -> None:
        if calls is not None:
            calls.append(name)
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if outcome is not None:
            raise outcome
        (folder / name).write_bytes(bytes(size))

    return Item(name, size, folder / name, fetch)


def run(items: list[Item], workers: int = 2) -> Transfer:
    with Transfer(items, workers, items[0].destination.parent) as transfer:
        transfer.complete = transfer.fetch(items)
    return transfer


def test_a_passing_fault_is_passed_over(tmp_path):
    calls = []
    items = [item(tmp_path, "a", OSError("1"), OSError("2"), None, calls=calls), item(tmp_path, "b", None)]
    transfer = run(items)
    assert transfer.complete
    transfer.check()
    assert calls == ["a"] * 3


def test_a_lasting_fault_leaves_the_others_alone(tmp_path):
    names = "abcdefghijkl"
    items = [item(tmp_path, name, OSError(f"no {name}") if name in "cf" else None) for name in names]
    transfer = run(items, workers=3)
    assert not transfer.complete
    assert sorted(transfer.failures) == ["c: no c", "f: no f"]
    with pytest.raises(
        OSError, match=r"2 of 12 files: could not be fetched, the first is [cf]: no [cf]; wanted all: run again to complete"
    ):
        transfer.check()
    assert {path.name for path in tmp_path.iterdir()} == set(names) - set("cf")


def test_a_wrong_answer_is_not_asked_for_again(tmp_path):
    calls = []
    assert run([item(tmp_path, "a", InputError("a.zip", "is bad", "good"), calls=calls)]).failures == [
        "a: a.zip: is bad; wanted good"
    ]
    assert calls == ["a"]


@pytest.mark.parametrize(("order", "stops"), [("xxxxx", True), ("xxxx.xxxx.x", False), (".xxxx.xxxxx", True)])
def test_many_failures_in_a_row_end_it(tmp_path, order, stops):
    items = [item(tmp_path, str(i), OSError("gone") if letter == "x" else None) for i, letter in enumerate([*order, *".."])]
    if stops:
        with pytest.raises(
            OSError, match=r"5 files in a row: could not be fetched, the last is \d+: gone; wanted a network and a disk that work"
        ):
            run(items, workers=1)
    else:
        assert len(run(items, workers=1).failures) == order.count("x")
        assert (tmp_path / str(len(order))).exists()


def test_a_refusal_ends_it_at_once(tmp_path):
    calls = []
    items = [item(tmp_path, name, PermissionError("no") if name == "b" else None, calls=calls) for name in "abcd"]
    with pytest.raises(PermissionError, match="no"):
        run(items, workers=1)
    assert calls == ["a", "b"]


def test_a_fault_of_the_program_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError, match="oops"):
        run([item(tmp_path, "a", None), item(tmp_path, "b", ZeroDivisionError("oops"))])


def answered(status: int, **headers: str) -> OSError:
    error = OSError("later")
    error.__cause__ = HfHubHTTPError("", response=SimpleNamespace(status_code=status, headers=headers, request=None))
    return error


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (answered(429, **{"Retry-After": "7"}), [8, 8]),
        (answered(429, RateLimit='"resolvers";r=0;t=55'), [56, 56]),
        (answered(429), [60, 60]),
        (answered(503), [0.5, 0.75]),
        (OSError("cut"), [0.5, 0.75]),
        (answered(404), []),
        (PermissionError("no"), []),
    ],
)
def test_a_server_gets_the_patience_that_it_asks_for(tmp_path, monkeypatch, error, waits):
    monkeypatch.setattr(hub_files, "RETRY_WAITS_S", (0.5, 0.75))
    transfer = Transfer([], 1, tmp_path)
    waited = []
    transfer._stop = SimpleNamespace(wait=waited.append)
    assert transfer._attempt(item(tmp_path, "a", error)) is error
    assert waited == waits


def test_the_bar_counts_bytes_as_they_arrive(tmp_path, monkeypatch):
    """Including those of an earlier run, in the partial file of `model.weights.hub`."""
    monkeypatch.setattr(hub_files, "POLL_S", 0.001)
    partial = tmp_path / ".cache" / "a.0123.incomplete"
    partial.parent.mkdir()
    partial.write_bytes(bytes(300))
    seen, more, finish = [], threading.Event(), threading.Event()

    def fetch() -> None:
        more.wait(10)
        partial.write_bytes(bytes(700))
        finish.wait(10)
        partial.replace(tmp_path / "a")

    class Bar(hub_files.tqdm):
        def update(self, n=1):
            super().update(n)
            seen.append(self.n)
            more.set()
            if self.n == 700:
                finish.set()

    monkeypatch.setattr(hub_files, "tqdm", Bar)
    with Transfer([one := Item("a", 1000, tmp_path / "a", fetch)], 1, tmp_path) as transfer:
        assert (transfer._bar.initial, transfer._bar.total) == (300, 1000)
        assert transfer.fetch([one])
    assert finish.is_set()
    assert (seen[0], seen[-1]) == (300, 1000)
    assert seen == sorted(seen)


def test_the_hub_is_quiet_meanwhile_and_not_afterwards(tmp_path):
    huggingface_hub.utils.enable_progress_bars()
    states = []
    run([Item("a", 1, tmp_path / "a", lambda: states.append(are_progress_bars_disabled()))])
    assert states == [True]
    assert not are_progress_bars_disabled()


@pytest.mark.parametrize("linked", ["scene", "scene/images_4", "scene/images_4/.cache"])
def test_nothing_is_downloaded_through_a_linked_folder(tmp_path, linked):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "real" / linked).parent.mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    (tmp_path / "out" / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"out/{linked}: is a link to {tmp_path}/elsewhere; wanted a folder"):
        Transfer([item(tmp_path / "out" / "scene" / "images_4", "a", None)], 1, tmp_path / "out")
    Transfer([item(tmp_path / "out" / "other", "a", None)], 1, tmp_path / "out")


def test_room_is_counted_without_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(10))
    items = [item(tmp_path, "a", None), item(tmp_path, "b", None)]
    monkeypatch.setattr(hub_files.shutil, "disk_usage", lambda path: SimpleNamespace(free=12))
    Transfer(items, 1, tmp_path / "deep" / "er", extra=2)
    with pytest.raises(OSError, match=r"er: is on a disk with 12\.0B free; wanted 13\.0B: make room and run again"):
        Transfer(items, 1, tmp_path / "deep" / "er", extra=3)


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("a/b.png", "", True),
        ("a/b.png", "a", True),
        ("a/..b.png", "a", True),
        ("ab/c", "a", False),
        ("a", "a", False),
        *((path, "", False) for path in ("", "/a", "a//b", "a/", "../a", "a/..", "a/../../b", "./a", "a\\..\\b", "C:a", "a\0b")),
    ],
)
def test_paths_that_stay_inside(path, folder, inside):
    assert hub_files.is_inside(path, folder) is inside
