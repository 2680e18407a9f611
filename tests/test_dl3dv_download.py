"""Downloads of DL3DV, benchmark and training set, from a stand-in for the hub. Images are random bytes and never decoded."""

import hashlib
import io
import random
import re
import shutil
import stat
import struct
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

import data_preprocess.dl3dv_eval_download as evaluation
import data_preprocess.dl3dv_train_download as training
from data.scene_format import read_json
from data_preprocess.command import bytes_text
from data_preprocess.hub import transfers as hub_files
from data_preprocess.hub.dl3dv import BENCHMARK
from tests.support.hub_server import HubServer, point_at

EVAL, TRAIN = f"datasets/{BENCHMARK}", f"datasets/{training.REPO}"
BENCHMARK = [hashlib.sha256(b"benchmark %d" % i).hexdigest() for i in range(140)]
FOX, OWL, CAT = (hashlib.sha256(name).hexdigest() for name in (b"fox", b"owl", b"cat"))
LEVEL_4 = [f"nerfstudio/images_4/frame_{i:05d}.png" for i in (1, 2, 3)]
OTHER_LEVELS = ["nerfstudio/images/frame_00001.png", "nerfstudio/images_8/frame_00001.JPG"]
TABLE = "nerfstudio/transforms.json"
NOT_WANTED = [
    *("nerfstudio/colmap/sparse/0/cameras.bin", "nerfstudio/images_4/.DS_Store", "nerfstudio/images_4/notes.txt"),
    *("nerfstudio/images_4/deeper/frame_00001.png", "gaussian_splat/images_4/frame_00001.png", "nerfstudio/sparse_pc.ply"),
]


def content(path: str, size: int = 2500) -> bytes:
    rng = random.Random(path)
    return rng.randbytes(size + rng.randrange(999))


def scene_files(scene: str) -> dict[str, bytes]:
    return {f"{scene}/{path}": content(scene + path) for path in (*LEVEL_4, *OTHER_LEVELS, TABLE, *NOT_WANTED)}


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def scene_archive(scene: str, prefix: str) -> bytes:
    names = {name.removeprefix("nerfstudio/"): name for name in (*LEVEL_4, TABLE, *NOT_WANTED) if name.startswith("nerfstudio/")}
    return archive({prefix + name: content(scene + whole) for name, whole in names.items()})


@pytest.fixture
def hub(monkeypatch):
    repos = {
        EVAL: {
            "README.md": b"x", "benchmark-meta.csv": b"hash\n", **{f"{scene}/README.md": b"x" for scene in BENCHMARK[2:]},
            **scene_files(BENCHMARK[0]), **scene_files(BENCHMARK[1]),
        },
        TRAIN: {
            "README.md": b"x", "1K/README.md": b"x", f"1K/{FOX}.zip": scene_archive(FOX, f"{FOX}/"), "9K/nothing.zip": b"x",
            f"9K/{OWL}.zip": scene_archive(OWL, ""), f"9K/{BENCHMARK[7]}.zip": scene_archive(BENCHMARK[7], ""),
            **{f"{subset}/README.md": b"x" for subset in training.SUBSETS},
        },
    }  # fmt: skip
    with HubServer(repos) as server:
        point_at(monkeypatch, server)
        monkeypatch.setattr(hub_files, "RETRY_WAITS_S", (0.0, 0.0))
        yield server


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the visible files by path, without those in hidden folders."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix(): file.read_bytes() for path, file in files.items() if not path.as_posix().startswith(".")
            and "/." not in path.as_posix()}  # fmt: skip


def expected(scene: str, *paths: str) -> dict[str, bytes]:
    return {f"{scene}/{path}": content(scene + path) for path in paths}


def fetched(hub: HubServer) -> list[str]:
    """Return the paths of the files whose contents were requested, in order."""
    return [request.path for request in hub.requests if request.method == "GET" and "/resolve/" in request.path]


def ends_with(capsys: pytest.CaptureFixture, status: int, wanted: str) -> None:
    """Check that the one line on standard error contains `wanted`, and that the exit code is 2."""
    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if line.startswith(("dl3dv_eval", "dl3dv_train"))]
    assert status == 2
    assert len(lines) == 1
    assert wanted in lines[0]


def evaluate(odir: Path, *flags: str) -> int:
    return evaluation.main(["--odir", str(odir), *flags])


def train(odir: Path, *flags: str) -> int:
    return training.main(["--odir", str(odir), *flags])


def test_one_scene_at_level_4(hub, tmp_path, capsys):
    flags = ("--subset", "hash", "--only_level4", "--hash", BENCHMARK[0])
    assert evaluate(tmp_path, *flags) == 0
    assert files_in(tmp_path) == expected(BENCHMARK[0], *LEVEL_4, TABLE)
    assert "1 scene complete; fetched 4 files" in capsys.readouterr().out
    once = fetched(hub)
    assert evaluate(tmp_path, *flags) == 0
    assert fetched(hub) == once
    assert "1 scene complete; fetched 0 files" in capsys.readouterr().out


def test_all_levels_come_on_top_of_level_4(hub, tmp_path):
    assert evaluate(tmp_path, "--subset", "hash", "--only_level4", "--hash", BENCHMARK[0]) == 0
    before = len(fetched(hub))
    assert evaluate(tmp_path, "--subset", "hash", "--hash", BENCHMARK[0], BENCHMARK[1], "--hash", BENCHMARK[0]) == 0
    wanted = (*LEVEL_4, *OTHER_LEVELS, TABLE)
    assert files_in(tmp_path) == expected(BENCHMARK[0], *wanted) | expected(BENCHMARK[1], *wanted)
    assert len(fetched(hub)) - before == len(OTHER_LEVELS) + len(wanted)


def test_the_full_benchmark_in_pages(hub, tmp_path):
    hub.repos[EVAL] = {"README.md": b"x", **{path: data for scene in BENCHMARK[:5] for path, data in scene_files(scene).items()}}
    hub.page = 3
    assert evaluate(tmp_path, "--subset", "full", "--only_level4") == 0
    assert files_in(tmp_path) == {path: data for scene in BENCHMARK[:5] for path, data in expected(scene, *LEVEL_4, TABLE).items()}


def test_transforms_json_comes_last_and_not_before_all_images(hub, tmp_path, capsys):
    flags = ("--subset", "hash", "--hash", BENCHMARK[0], BENCHMARK[1], "--workers", "3")
    lost = f"{BENCHMARK[0]}/{LEVEL_4[1]}"
    hub.cut(lost, after=2000, stay_down=True)
    ends_with(capsys, evaluate(tmp_path, *flags), "1 of 12 files: could not be fetched, the first is " + lost)
    everything = expected(BENCHMARK[0], *LEVEL_4, *OTHER_LEVELS) | expected(BENCHMARK[1], *LEVEL_4, *OTHER_LEVELS, TABLE)
    del everything[lost]
    assert files_in(tmp_path) == everything
    hub.mend(lost)
    assert evaluate(tmp_path, *flags) == 0
    assert files_in(tmp_path) == everything | expected(BENCHMARK[0], LEVEL_4[1], TABLE)
    # 2000 bytes before the cut, the rest afterwards: nothing was downloaded twice.
    assert hub.bytes_served[lost] == len(content(BENCHMARK[0] + LEVEL_4[1]))
    order = [request.path for request in hub.requests if request.path.endswith((".png", ".JPG", "transforms.json"))]
    for scene in BENCHMARK[:2]:
        files = [path for path in order if scene in path]
        tables = [i for i, path in enumerate(files) if path.endswith("transforms.json")]
        assert tables == [len(files) - len(tables) + i for i in range(len(tables))]


def test_wrong_content_is_not_kept(hub, tmp_path, capsys):
    bad = f"{BENCHMARK[0]}/{LEVEL_4[0]}"
    good = content(BENCHMARK[0] + LEVEL_4[0])
    cases = (good[::-1], "arrived with hash"), (good[:-7], f"broke off at {len(good) - 7} of {len(good)} bytes")
    for body, reason in cases:
        hub.corrupt(bad, body)
        status = evaluate(tmp_path, "--subset", "hash", "--only_level4", "--hash", BENCHMARK[0])
        ends_with(capsys, status, reason)
        assert set(files_in(tmp_path)) == set(expected(BENCHMARK[0], *LEVEL_4[1:]))
    hub.heal(bad)
    assert evaluate(tmp_path, "--subset", "hash", "--only_level4", "--hash", BENCHMARK[0]) == 0
    assert files_in(tmp_path) == expected(BENCHMARK[0], *LEVEL_4, TABLE)


def test_cache_folders_go_when_asked(hub, tmp_path):
    flags = ("--subset", "hash", "--only_level4", "--hash", BENCHMARK[0])
    assert evaluate(tmp_path, *flags) == 0
    assert list(tmp_path.rglob(".cache"))
    assert evaluate(tmp_path, *flags, "--clean_cache") == 0
    assert list(tmp_path.rglob(".cache")) == []
    assert files_in(tmp_path) == expected(BENCHMARK[0], *LEVEL_4, TABLE)


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_wrong", 403)])
@pytest.mark.parametrize(("script", "repo"), [("eval", EVAL), ("train", TRAIN)])
def test_a_gated_dataset_says_where_to_ask(hub, tmp_path, capsys, monkeypatch, script, repo, token, status, lists):
    hub.gate(repo, token="hf_right", lists=lists)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    flags = ("--subset", "hash", "--hash", BENCHMARK[0], "--workers", "1")
    found = evaluate(tmp_path, *flags) if script == "eval" else train(tmp_path, "--subset", "1K", "--workers", "1")
    name = repo.removeprefix("datasets/")
    wanted = (
        f"{name}: denies access (HTTP {status}); wanted an account with access: "
        f"request it at https://huggingface.co/datasets/{name}, then log in with `hf auth login` or set HF_TOKEN"
    )
    ends_with(capsys, found, wanted)
    assert fetched(hub) == []
    assert hub.count("HEAD") <= 1  # denied once, not requested again
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (evaluate(tmp_path, *flags) if script == "eval" else train(tmp_path, "--subset", "1K")) == 0


def test_a_full_disk_is_found_before_anything_is_fetched(hub, tmp_path, capsys, monkeypatch):
    size = sum(len(content(BENCHMARK[0] + path)) for path in (*LEVEL_4, TABLE))
    flags = ("--subset", "hash", "--only_level4", "--hash", BENCHMARK[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size - 1))
    text = bytes_text(size)
    ends_with(capsys, evaluate(tmp_path, *flags), f"{tmp_path}: is on a disk with {text} free; wanted {text}: make room and")
    assert fetched(hub) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
    assert evaluate(tmp_path, *flags) == 0


def test_training_needs_room_for_the_zips_and_what_they_hold(hub, tmp_path, capsys, monkeypatch):
    sizes = [len(hub.repos[TRAIN][f"{folder}/{scene}.zip"]) for folder, scene in (("1K", FOX), ("9K", OWL))]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=sum(sizes) + max(sizes) - 1))
    ends_with(capsys, train(tmp_path, "--hash", FOX, OWL, "--workers", "1"), "make room and run again")
    assert fetched(hub) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=sum(sizes) + max(sizes)))
    assert train(tmp_path, "--hash", FOX, OWL, "--workers", "1") == 0


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--subset", "hash"), "--hash: is missing with --subset hash; wanted it with --subset hash only"),
        (("--subset", "full", "--hash", FOX), "--hash: is given with --subset full; wanted it with"),
        (("--subset", "hash", "--hash", FOX.upper()), "wanted 64 hexadecimal digits in lower case"),
        (("--subset", "hash", "--hash", "../x"), "--hash: is '../x'; wanted 64"),
        (("--subset", "hash", "--hash", FOX), f"{FOX}: is not a scene of DL3DV/DL3DV-10K-Benchmark; wanted the name of one"),
        (("--subset", "hash", "--hash", BENCHMARK[5]), f"{BENCHMARK[5]}: has 1 file in DL3DV/DL3DV-10K-Benchmark/"),
        (("--subset", "full", "--workers", "0"), "--workers: is 0; wanted 1 to 1024"),
        ((), "--subset: is missing; wanted full, hash"),
    ],
)
def test_bad_flags_of_the_benchmark(hub, tmp_path, capsys, flags, wanted):
    hub.repos[EVAL][f"{BENCHMARK[5]}/nerfstudio/images_4/frame_00001.png"] = b"x"
    ends_with(capsys, evaluate(tmp_path, *flags), wanted)
    assert fetched(hub) == []


def test_a_file_that_is_there_and_is_another_is_not_touched(hub, tmp_path, capsys):
    path = tmp_path / BENCHMARK[0] / TABLE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    status = evaluate(tmp_path, "--subset", "hash", "--hash", BENCHMARK[0])
    ends_with(capsys, status, f"{path}: has 4 bytes; wanted {len(content(BENCHMARK[0] + TABLE))} as listed: move it away")
    assert path.read_bytes() == b"mine"


def test_training_scenes_are_unpacked_without_the_benchmark(hub, tmp_path, capsys):
    assert train(tmp_path, "--subset", "1K", "9K") == 0
    listed = files_in(tmp_path)
    assert listed.pop("benchmark_hashes.json")
    assert listed == expected(FOX, *LEVEL_4, TABLE) | expected(OWL, *LEVEL_4, TABLE)
    assert not any(BENCHMARK[7] in request.path for request in hub.requests)
    assert read_json(tmp_path / "benchmark_hashes.json") == sorted(BENCHMARK)
    assert list(tmp_path.rglob("*.zip")) == []
    assert "2 scenes complete, 0 unusable, 1 benchmark scene excluded; fetched 2 zips" in capsys.readouterr().out
    once = fetched(hub)
    assert train(tmp_path, "--subset", "1K", "9K") == 0
    assert fetched(hub) == once


def test_a_scene_is_found_in_its_subset(hub, tmp_path, capsys):
    assert train(tmp_path, "--hash", OWL) == 0
    assert set(files_in(tmp_path)) == {*expected(OWL, *LEVEL_4, TABLE), "benchmark_hashes.json"}
    ends_with(capsys, train(tmp_path, "--hash", FOX, "--subset", "2K", "9K"), f"is {FOX}, which is in none of 2K, 9K of DL3DV/")


def test_a_benchmark_scene_is_refused_by_name_offline_too(hub, tmp_path, capsys, monkeypatch):
    ends_with(capsys, train(tmp_path, "--hash", BENCHMARK[7]), f"is {BENCHMARK[7]}, a benchmark scene; wanted")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    ends_with(capsys, train(tmp_path, "--hash", BENCHMARK[7]), f"is {BENCHMARK[7]}, a benchmark scene; wanted")
    ends_with(capsys, train(tmp_path, "--hash", OWL), "is unreachable")
    assert fetched(hub) == []


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (
            lambda hub: hub.fail("", 503),
            "HTTP 503; wanted a listing: try again later); wanted one of the two: without a list, nothing is",
        ),
        (lambda hub: hub.gate(EVAL, "hf_right", lists=True), "denies access (HTTP 401)"),
        (lambda hub: hub.repos.pop(EVAL), "denies access (HTTP 401)"),
        (
            lambda hub: hub.repos[EVAL].pop(f"{BENCHMARK[9]}/README.md"),
            "has, with the hub's list, 139 benchmark scenes; wanted 140",
        ),
        (lambda hub: hub.repos.update({EVAL: {"README.md": b"x"}}), "has, with the hub's list, 0 benchmark scenes"),
    ],
)
def test_without_the_whole_list_of_benchmark_scenes_nothing_is_fetched(hub, tmp_path, capsys, fault, wanted):
    fault(hub)
    ends_with(capsys, train(tmp_path, "--subset", "9K"), wanted)
    assert fetched(hub) == []
    assert not any(training.REPO in request.path for request in hub.requests)
    assert files_in(tmp_path) == {}


def test_the_kept_list_serves_and_never_shrinks(hub, tmp_path):
    kept = tmp_path / "benchmark_hashes.json"
    assert train(tmp_path, "--subset", "1K") == 0
    hub.repos[EVAL].pop(f"{BENCHMARK[7]}/README.md")
    assert train(tmp_path, "--subset", "9K") == 0
    hub.repos.pop(EVAL)
    hub.repos[TRAIN][f"2K/{BENCHMARK[7]}.zip"] = scene_archive(BENCHMARK[7], "")
    hub.repos[TRAIN][f"2K/{CAT}.zip"] = scene_archive(CAT, "")
    assert train(tmp_path, "--subset", "2K") == 0
    assert read_json(kept) == sorted(BENCHMARK)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {FOX, OWL, CAT, ".download"}


def test_a_new_benchmark_scene_joins_the_kept_list(hub, tmp_path):
    assert train(tmp_path, "--subset", "1K") == 0
    hub.repos[EVAL][f"{OWL}/README.md"] = b"x"
    assert train(tmp_path, "--subset", "9K") == 0
    assert read_json(tmp_path / "benchmark_hashes.json") == sorted([*BENCHMARK, OWL])
    assert not (tmp_path / OWL).exists()


@pytest.mark.parametrize("text", ["{}", '["a"]', "[1]"])
def test_a_kept_list_of_something_else(hub, tmp_path, capsys, text):
    (tmp_path / "benchmark_hashes.json").write_text(text)
    ends_with(capsys, train(tmp_path, "--subset", "1K"), "benchmark_hashes.json: is not a list of hashes; wanted")


def test_benchmark_scenes_among_those_to_train_on_are_reported(hub, tmp_path, capsys):
    (tmp_path / BENCHMARK[3]).mkdir()
    ends_with(capsys, train(tmp_path, "--subset", "1K"), f"{tmp_path / BENCHMARK[3]}: is a benchmark scene; wanted none")
    assert fetched(hub) == []


def test_a_folder_that_is_no_scene_is_not_touched(hub, tmp_path, capsys):
    (tmp_path / FOX).mkdir()
    (tmp_path / FOX / "mine.txt").write_text("x")
    ends_with(capsys, train(tmp_path, "--subset", "1K"), f"{tmp_path / FOX}: has no nerfstudio/transforms.json in it")
    assert (tmp_path / FOX / "mine.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ((), "--subset, --hash: are both missing; wanted"),
        (("--subset", "12K"), "invalid choice: '12K'"),
        (("--hash", "abc"), "is 'abc'; wanted 64 hexadecimal digits"),
        (("--subset", "1K", "--workers", "-1"), "--workers: is -1; wanted 1 to 1024"),
    ],
)
def test_bad_flags_of_the_training_set(hub, tmp_path, capsys, flags, wanted):
    ends_with(capsys, train(tmp_path, *flags), wanted)
    assert hub.requests == []


def test_an_interrupted_training_download_is_continued(hub, tmp_path, capsys, monkeypatch):
    size = len(hub.repos[TRAIN][f"1K/{FOX}.zip"])
    hub.cut(f"1K/{FOX}.zip", after=3000, stay_down=True)
    ends_with(capsys, train(tmp_path, "--subset", "1K", "9K"), "1 of 2 files: could not be fetched, the first is")
    assert set(files_in(tmp_path)) == {*expected(OWL, *LEVEL_4, TABLE), "benchmark_hashes.json"}
    hub.mend(f"1K/{FOX}.zip")

    def power_cut(archive, file, info):
        yield b"half"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_blocks", power_cut)
        with pytest.raises(KeyboardInterrupt):
            training.fetch_scene(tmp_path, FOX, training.listed_archives(["1K"], 1)[FOX])
    assert not (tmp_path / FOX).exists()
    (tmp_path / ".download" / FOX / "nerfstudio" / "images_4" / "of_an_earlier_zip.png").write_bytes(b"x")
    assert train(tmp_path, "--subset", "1K", "9K") == 0
    files = files_in(tmp_path)
    assert {path: files[path] for path in files if path.startswith(FOX)} == expected(FOX, *LEVEL_4, TABLE)
    assert hub.bytes_served[f"1K/{FOX}.zip"] == size


def test_a_zip_that_grows_beyond_the_disk_waits_for_room(hub, tmp_path, capsys, monkeypatch):
    body = archive({"images_4/a.png": bytes(1_000_000), "transforms.json": b"{}"})
    hub.repos[TRAIN][f"1K/{FOX}.zip"] = body
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=500_000))
        ends_with(capsys, train(tmp_path, "--subset", "1K"), "is on a disk with 500kB free; wanted 1.00MB: make room and")
    assert set(files_in(tmp_path)) == {"benchmark_hashes.json"}
    assert train(tmp_path, "--subset", "1K") == 0
    assert (tmp_path / FOX / "nerfstudio" / "images_4" / "a.png").read_bytes() == bytes(1_000_000)
    assert hub.bytes_served[f"1K/{FOX}.zip"] == len(body)


def test_two_at_a_time_fetch_a_scene_once(hub, tmp_path, monkeypatch):
    entry = training.listed_archives(["1K"], 1)[FOX]
    real, calls = training.unpack, []

    def unpack(*arguments):
        calls.append(arguments)
        threading.Event().wait(0.05)  # long enough for the others to arrive
        real(*arguments)

    monkeypatch.setattr(training, "unpack", unpack)
    threads = [threading.Thread(target=training.fetch_scene, args=(tmp_path, FOX, entry)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files_in(tmp_path) == expected(FOX, *LEVEL_4, TABLE)
    assert hub.bytes_served[f"1K/{FOX}.zip"] == entry.size
    assert len(calls) == 1


def link() -> bytes:
    info = zipfile.ZipInfo("images_4/frame_00001.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return archive({"transforms.json": b"{}", info: b"/etc/passwd"})


def damaged() -> bytes:
    whole = bytearray(archive({"images_4/a.png": bytes(5000), "transforms.json": b"{}"}, zipfile.ZIP_STORED))
    whole[1000] ^= 255
    return bytes(whole)


def encrypted() -> bytes:
    whole = archive({"images_4/a.png": b"x", "transforms.json": b"{}"})
    return whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


GOOD = {"images_4/a.png": b"x", "transforms.json": b"{}"}
USELESS = {
    "above": (archive({**GOOD, "../images_4/a.png": b"x"}), "has the member '../images_4/a.png'; wanted plain files within"),
    "above on the way": (archive({**GOOD, "images_4/../../a.png": b"x"}), "has the member 'images_4/../../a.png'"),
    "absolute": (archive({**GOOD, "/images_4/a.png": b"x"}), "has the member '/images_4/a.png'"),
    "backslashes": (archive({**GOOD, "..\\a.png": b"x"}), "has the member '..\\\\a.png'"),
    "all above": (archive({f"../{name}": data for name, data in GOOD.items()}), "has the member '../images_4/a.png'"),
    "a link": (link(), "has the member 'images_4/frame_00001.png'; wanted plain files within the zip"),
    "lzma": (archive(GOOD, zipfile.ZIP_LZMA), "has the compression 14; wanted deflated or stored members"),
    "another scene": (archive({f"{OWL}/{name}": data for name, data in GOOD.items()}), f"holds the scene {OWL}; wanted the"),
    "no table": (archive({"images_4/a.png": b"x"}), "has 0 transforms.json; wanted one"),
    "two tables": (archive({**GOOD, f"{FOX}/transforms.json": b"{}"}), "has 2 transforms.json; wanted one"),
    "no images": (archive({"transforms.json": b"{}", "other/images_4/a.png": b"x"}), "has no images next to transforms.json"),
    "damaged": (damaged(), "is a damaged zip (Bad CRC-32"),
    "encrypted": (encrypted(), "has the encrypted member 'images_4/a.png'"),
    "no zip": (b"no zip", "is a damaged zip (File is not a zip file)"),
}


def test_whatever_unpacking_raises_is_of_the_zip_and_a_fault_of_the_program_is_not(hub, tmp_path, capsys, monkeypatch):
    def read(self, size):
        raise struct.error("unpack requires a buffer of 4 bytes")

    def faulty(folder, need):
        raise ValueError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipExtFile, "read", read)
        assert train(tmp_path / "a", "--subset", "1K") == 0
    error = capsys.readouterr().err
    assert f"unusable: {FOX}.zip: is a damaged zip (unpack requires a buffer of 4 bytes); wanted a scene's" in error
    monkeypatch.setattr(training, "check_disk", faulty)
    with pytest.raises(ValueError, match=r"^bug$") as caught:
        train(tmp_path / "b", "--subset", "1K")
    assert type(caught.value) is ValueError


def test_a_zip_that_holds_a_huge_file_is_not_unpacked(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "LARGEST_MEMBER", 100_000)
    hub.repos[TRAIN][f"1K/{FOX}.zip"] = archive({**GOOD, "images_4/zeros.png": bytes(100_001)})
    assert train(tmp_path, "--subset", "1K") == 0
    assert f"unusable: {FOX}.zip: has images_4/zeros.png of 100kB; wanted 100kB at most" in capsys.readouterr().err
    assert not (tmp_path / FOX).exists()


def test_a_zip_whose_files_share_their_bytes_is_not_unpacked(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "LARGEST_MEMBER", 10_000)
    hub.repos[TRAIN][f"1K/{FOX}.zip"] = archive({**GOOD, **{f"images_4/{i}.png": bytes(9_000) for i in range(40)}})
    assert train(tmp_path, "--subset", "1K") == 0
    assert re.search(rf"unusable: {FOX}.zip: unpacks [.\d]+kB to 3\d\dkB; wanted photos, which hardly", capsys.readouterr().err)
    assert not (tmp_path / FOX).exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", USELESS)
def test_an_unusable_zip_is_reported_and_not_fetched_again(hub, tmp_path, capsys, case):
    body, reason = USELESS[case]
    odir = tmp_path / "a" / "b"
    hub.repos[TRAIN][f"1K/{FOX}.zip"] = body
    for _ in range(2):
        assert train(odir, "--subset", "1K", "9K") == 0
        output = capsys.readouterr()
        assert f"unusable: {FOX}.zip: {reason}" in output.err
        assert "1 scene complete, 1 unusable, 1 benchmark scene excluded" in output.out
        assert set(files_in(odir)) == {*expected(OWL, *LEVEL_4, TABLE), "benchmark_hashes.json"}
        everything = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
        assert {path for path in everything if not path.endswith((".lock", f"{FOX}.useless.json"))} == {
            f"a/b/{path}" for path in files_in(odir)
        }
    assert hub.bytes_served[f"1K/{FOX}.zip"] == len(body)
    hub.repos[TRAIN][f"1K/{FOX}.zip"] = scene_archive(FOX, f"{FOX}/")
    assert train(odir, "--subset", "1K") == 0
    assert expected(FOX, *LEVEL_4, TABLE).items() <= files_in(odir).items()


def test_a_listing_that_leaves_its_folder_is_refused(hub, tmp_path, capsys):
    hub.repos[EVAL][f"{BENCHMARK[0]}/nerfstudio/../../images_4/a.png"] = b"x"
    status = evaluate(tmp_path, "--subset", "hash", "--hash", BENCHMARK[0])
    ends_with(capsys, status, "is listed with ")
    assert fetched(hub) == []
