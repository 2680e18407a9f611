"""Downloads from a stand-in hub: cuts, hashes, access, full disks, and the files of LPIPS."""

import errno
import hashlib
import os
import random
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError

import model.weights.hub
from model.weights.hub import download, download_url, resolve_lpips
from model.weights.table import LpipsFile
from tests.support.hub_server import COMMIT, HubServer, point_at

REPO = "owner/repo"
CONTENT = random.Random(7).randbytes(25_321)
TABLE = b"scene,hash\nfox,1\n"


@pytest.fixture
def hub(monkeypatch):
    with HubServer({REPO: {"w.pt": CONTENT, "table.csv": TABLE}, "datasets/owner/d": {"a/b.zip": CONTENT}}) as server:
        point_at(monkeypatch, server)
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weight" / "w.pt"


def partials(target: Path) -> list[Path]:
    return list((target.parent / ".cache").glob("*.incomplete"))


def refused(kind: type[Exception], match: str, *arguments) -> str:
    with pytest.raises(kind, match=match) as caught:
        download(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_arrives_whole_and_is_not_fetched_twice(hub, target):
    assert download(REPO, "w.pt", target) == target
    assert target.read_bytes() == CONTENT
    assert partials(target) == []
    assert hub.bytes_served["w.pt"] == len(CONTENT)
    assert hub.count("GET", f"/{REPO}/resolve/{COMMIT}/w.pt") == 1
    asked = len(hub.requests)
    download(REPO, "w.pt", target)
    assert len(hub.requests) == asked


def test_small_files_datasets_and_folders(hub, tmp_path):
    assert download(REPO, "table.csv", tmp_path / "t.csv").read_bytes() == TABLE
    assert download("owner/d", "a/b.zip", tmp_path / "b.zip", repo_type="dataset").read_bytes() == CONTENT
    assert any(request.path == "/datasets/owner/d/resolve/main/a/b.zip" for request in hub.requests)


def test_a_cut_is_continued_within_one_call(hub, target):
    hub.cut("w.pt", after=11_000)
    download(REPO, "w.pt", target)
    assert target.read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == len(CONTENT)
    # `point_at` transfers blocks of 1000 bytes: the eleven before the cut were kept.
    assert [request.range for request in hub.requests if request.path.startswith("/cdn")] == [None, "bytes=11000-"]


def test_a_cut_is_continued_by_the_next_call(hub, target):
    hub.cut("w.pt", after=11_000, stay_down=True)
    message = refused(OSError, "w.pt: broke off at 11000 of 25321 bytes .*; wanted the same command again", REPO, "w.pt", target)
    assert message.startswith(str(target))
    assert message.endswith(f"/w.pt and save it as {target}")
    assert not target.exists()
    assert [path.stat().st_size for path in partials(target)] == [11_000]
    hub.mend("w.pt")
    download(REPO, "w.pt", target)
    assert target.read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == len(CONTENT)
    assert partials(target) == []


def test_a_reset_connection_is_tried_again_while_bytes_arrive(hub, target, monkeypatch):
    real, calls = model.weights.hub.http_get, []

    def http_get(url, file, **options):
        calls.append(options["resume_size"])
        if len(calls) == 1:
            file.write(CONTENT[:700])
            raise HTTPError("connection reset by peer")
        real(url, file, **options)

    monkeypatch.setattr(model.weights.hub, "http_get", http_get)
    download(REPO, "w.pt", target)
    assert target.read_bytes() == CONTENT
    assert calls == [0, 700]


def test_a_partial_file_of_another_version_is_not_continued(hub, target):
    hub.cut("w.pt", after=5000, stay_down=True)
    refused(OSError, "broke off", REPO, "w.pt", target)
    hub.mend("w.pt")
    hub.repos[REPO]["w.pt"] = CONTENT[::-1]
    download(REPO, "w.pt", target)
    assert target.read_bytes() == CONTENT[::-1]
    assert partials(target) == []


def test_a_server_without_ranges_begins_anew(hub, target):
    hub.ranges = False
    hub.cut("w.pt", after=5000, stay_down=True)
    refused(OSError, "broke off", REPO, "w.pt", target)
    hub.mend("w.pt")
    assert download(REPO, "w.pt", target).read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == 5000 + len(CONTENT)


def test_a_partial_file_that_is_too_long_is_begun_anew(hub, target):
    hub.cut("w.pt", after=5000, stay_down=True)
    refused(OSError, "broke off", REPO, "w.pt", target)
    hub.mend("w.pt")
    (partial,) = partials(target)
    partial.write_bytes(CONTENT + b"more")
    assert download(REPO, "w.pt", target).read_bytes() == CONTENT


def test_wrong_content_is_deleted(hub, target):
    hub.corrupt("w.pt", CONTENT[:-1] + b"?")
    refused(OSError, "w.pt: arrived with hash .* instead of .*; wanted the same command again", REPO, "w.pt", target)
    hub.corrupt("table.csv", TABLE[::-1])
    refused(OSError, "arrived with hash", REPO, "table.csv", target.with_name("table.csv"))
    assert not target.exists()
    assert partials(target) == []


def test_the_final_name_waits_for_the_check(hub, target, monkeypatch):
    def interrupted(path, etag):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(model.weights.hub, "_digest", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            download(REPO, "w.pt", target)
    assert not target.exists()
    assert download(REPO, "w.pt", target).read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == len(CONTENT)


def test_a_longer_content_than_stated_is_deleted(hub, target):
    hub.corrupt("w.pt", CONTENT + b"more")
    refused(OSError, "w.pt: arrived with 25325 bytes instead of 25321", REPO, "w.pt", target)
    assert partials(target) == []


def test_two_at_a_time_fetch_once(hub, target):
    threads = [threading.Thread(target=download, args=(REPO, "w.pt", target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == len(CONTENT)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub, target, monkeypatch):
    hub.gate(REPO, token="hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    download(REPO, "w.pt", target)
    tokens = {request.path.split("/")[1]: request.token for request in hub.requests}
    assert tokens == {"owner": "Bearer hf_right", "cdn": None}


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_wrong", 403)])
def test_a_gated_repository_asks_for_its_terms(hub, target, monkeypatch, token, status):
    hub.gate(REPO, token="hf_right")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = refused(PermissionError, rf"gated \(HTTP {status}\).*wanted its terms accepted.*HF_TOKEN", REPO, "w.pt", target)
    assert f"get {hub.url}/{REPO}/resolve/main/w.pt and save it as {target}" in message


def test_a_forbidden_file(hub, target):
    hub.fail("w.pt", 403)
    refused(PermissionError, r"denies access \(HTTP 403\)", REPO, "w.pt", target)


def test_what_is_not_there(hub, target, monkeypatch):
    refused(FileNotFoundError, r"model repository owner/repo has no x.pt at main \(HTTP 404\)", REPO, "x.pt", target)
    refused(FileNotFoundError, "has no w.pt at v9", REPO, "w.pt", target, "model", "v9")
    refused(PermissionError, r"does not exist or denies access \(HTTP 401\)", "owner/none", "w.pt", target)
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    refused(FileNotFoundError, r"there is no model repository owner/none \(HTTP 404\)", "owner/none", "w.pt", target)


def test_a_hub_in_trouble(hub, target):
    hub.fail("w.pt", 503)
    refused(OSError, "answers HTTP 503; wanted a retry later", REPO, "w.pt", target)


def test_offline(hub, target, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refused(FileNotFoundError, "HF_HUB_OFFLINE forbids", REPO, "w.pt", target)
    assert f"get {hub.url}/{REPO}/resolve/main/w.pt and save it as {target}" in message
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE forbids"):
        download_url(hub.url, target, 1, "0" * 64)
    assert hub.requests == []


def test_a_hub_out_of_reach(hub, target, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    refused(FileNotFoundError, r"the hub is unreachable \(ConnectError.*get http://127.0.0.1:9/", REPO, "w.pt", target)


def test_an_endpoint_that_is_no_hub(hub, target, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/cdn")
    hub.repos["owner/repo"]["resolve/main/w.pt"] = b"login page"
    refused(FileNotFoundError, "does not answer as a hub does; wanted HF_ENDPOINT", REPO, "w.pt", target)


def test_a_full_disk(hub, target, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        refused(OSError, "w.pt: needs 25321 more bytes, and the disk has 100 free; wanted free space", REPO, "w.pt", target)
    assert hub.bytes_served["w.pt"] == 0

    def http_get(url, file, **options):
        file.write(CONTENT[:1234])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model.weights.hub, "http_get", http_get)
        refused(OSError, "broke off at 1234 of 25321 bytes, since the disk is full; wanted free space", REPO, "w.pt", target)
    assert not target.exists()
    download(REPO, "w.pt", target)
    assert target.read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == len(CONTENT) - 1234


def test_a_plain_address_is_checked_and_continued(hub, tmp_path):
    url, sha256 = f"{hub.cdn}/{REPO}/w.pt", hashlib.sha256(CONTENT).hexdigest()
    hub.cut("w.pt", after=3000, stay_down=True)
    with pytest.raises(OSError, match=r"v\.pth: broke off at 3000 of 25321 bytes"):
        download_url(url, tmp_path / "v.pth", len(CONTENT), sha256)
    hub.mend("w.pt")
    assert download_url(url, tmp_path / "v.pth", len(CONTENT), sha256).read_bytes() == CONTENT
    assert hub.bytes_served["w.pt"] == len(CONTENT)
    with pytest.raises(OSError, match=r"arrived with hash .* instead of ffff"):
        download_url(url, tmp_path / "u.pth", len(CONTENT), "f" * 64)
    with pytest.raises(FileNotFoundError, match=r"none\.pth: is not there, and fetching it failed \(.*404"):
        download_url(f"{hub.url}/none", tmp_path / "none.pth", 1, sha256)
    hub.fail("table.csv", 403)
    address = f"{hub.url}/{REPO}/resolve/main/table.csv"
    with pytest.raises(FileNotFoundError, match=r"failed .*403.*get http.*table\.csv and save it as"):
        download_url(address, tmp_path / "t.csv", 1, sha256)


def test_a_plain_address_that_goes_away_after_its_first_answer(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(model.weights.hub, "_first_answer", lambda url, patience_s: None)
    with pytest.raises(OSError, match=r"n\.pth: is not there, and fetching it failed .*404.*get .* and save it as"):
        download_url(f"{hub.url}/none", tmp_path / "n.pth", 1, "0" * 64)


def test_silence_is_not_waited_for(hub, tmp_path, monkeypatch):
    """A look-up of a host's name has no timeout of its own: here the whole request hangs."""
    hang = threading.Event()

    def head(*args, **options):
        hang.wait()
        raise TimeoutError("at last")

    monkeypatch.setattr(model.weights.hub, "get_session", lambda: SimpleNamespace(head=head))
    with pytest.raises(FileNotFoundError, match=r"failed \(TimeoutError: no answer within 0.05 s\)"):
        download_url("https://example.invalid/v", tmp_path / "v", 1, "0" * 64, patience_s=0.05)
    hang.set()


@pytest.fixture
def lpips(hub, tmp_path, monkeypatch):
    files = [
        LpipsFile(name, f"{hub.cdn}/{REPO}/{file}", len(content), hashlib.sha256(content).hexdigest())
        for name, file, content in (("trunk.pth", "w.pt", CONTENT), ("heads.pth", "table.csv", TABLE))
    ]
    monkeypatch.setattr(model.weights.hub, "LPIPS_FILES", tuple(files))
    monkeypatch.setattr(model.weights.hub, "WEIGHT_DIR", tmp_path)
    monkeypatch.setattr(model.weights.hub, "_lpips_failures", {})
    return tmp_path


def test_lpips_files_are_fetched_once(lpips, hub):
    assert resolve_lpips() == (lpips / "trunk.pth", lpips / "heads.pth")
    assert (lpips / "trunk.pth").read_bytes() == CONTENT
    asked = len(hub.requests)
    resolve_lpips()
    assert len(hub.requests) == asked


def test_lpips_files_are_tried_once_and_may_be_put_there_by_hand(lpips, hub):
    hub.corrupt("w.pt", CONTENT[::-1])
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"trunk\.pth: arrived with hash .* get http://.*/w\.pt and "):
            resolve_lpips()
    assert hub.count("GET") == 1
    (lpips / "trunk.pth").write_bytes(CONTENT)
    assert resolve_lpips()[1].read_bytes() == TABLE


def test_lpips_files_are_not_fetched_unasked(lpips, hub):
    with pytest.raises(
        FileNotFoundError,
        match=r"trunk\.pth: is not there, and with the bundled model nothing is downloaded; wanted the file by hand: get http://",
    ):
        resolve_lpips(fetch=False)
    assert hub.requests == []
    resolve_lpips()
    assert resolve_lpips(fetch=False) == (lpips / "trunk.pth", lpips / "heads.pth")


def test_lpips_files_that_vanish_are_fetched_again(lpips, hub):
    resolve_lpips()
    os.remove(lpips / "trunk.pth")
    assert resolve_lpips()[0].read_bytes() == CONTENT


def test_the_stand_in_lists_what_the_hub_lists(hub):
    """Guards the stand-in itself: other tests rely on its listings."""
    api = huggingface_hub.HfApi(endpoint=hub.url)
    assert api.list_repo_files("owner/d", repo_type="dataset") == ["a/b.zip"]
    (entry,) = api.list_repo_tree("owner/d", repo_type="dataset", recursive=True)
    assert (entry.size, entry.lfs.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert api.repo_info("owner/d", repo_type="dataset").siblings[0].rfilename == "a/b.zip"
