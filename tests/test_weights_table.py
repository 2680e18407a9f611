"""Table of weight files, and finding or downloading the files it lists."""

import random
from pathlib import Path

import pytest
import yaml

from model import load_model
from model.weights import hub
from model.weights.hub import resolve_weights
from model.weights.table import LPIPS_FILES, published_weights
from tests.support.hub_server import HubServer, point_at
from tests.support.weights import fails

ROOT = Path(__file__).parent.parent


def test_the_table_is_the_published_one():
    rows = published_weights()
    assert len(rows) == 10
    for row in rows.values():
        assert row.repo == "airsplay/lact_nvs"
        height, width = row.resolution
        wide = row.kind == "scene" and width > height
        assert row.file == f"obj_res{height}.pt" if row.kind == "object" else f"scene_res{height}x{width}.pt"
        assert row.config == f"config/lact_l24_d768_ttt{4 if wide else 2}x.yaml"
        assert (ROOT / row.config).is_file()
        assert row.num_input_views == (8 if row.kind == "object" else 64 if wide else 32)
    assert sorted(row.resolution for row in rows.values() if row.kind == "scene") == [
        (72, 128),
        (128, 128),
        (144, 256),
        (256, 256),
        (288, 512),
        (512, 512),
        (536, 960),
    ]


def test_the_table_for_people_is_the_table_for_the_program():
    lines = (ROOT / "weight" / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    told = [row for row in cells if row[0].startswith(("obj_", "scene_"))]
    groups = yaml.safe_load((ROOT / "weight" / "checkpoints.yaml").read_text(encoding="utf-8"))
    kept = [
        [name, row["repo"], row["file"], row["config"], "x".join(map(str, row["resolution"])), row["kind"]]
        + [str(row["num_input_views"])]
        for name, row in groups["published"].items()
    ]
    assert told == kept
    small = [row for row in cells if row[0].startswith("lact_")]
    for found, (name, row) in zip(small, groups["bundled"].items(), strict=True):
        shape = "x".join(map(str, row["resolution"]))
        assert found[:6] == [name, row["file"], row["config"], shape, row["kind"], str(row["num_input_views"])]
        assert int(found[6]) == (ROOT / "weight" / row["file"]).stat().st_size < 16e6
    lpips = {row[0]: row[1:] for row in cells if row[0].endswith(".pth")}
    assert lpips == {file.name: [file.url, str(file.size), file.sha256] for file in LPIPS_FILES}


def test_weights_of_a_clone_are_not_looked_for_elsewhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lact_objects_64.safetensors: is not there; wanted the file that a clone"):
        resolve_weights(tmp_path / "lact_objects_64.safetensors")


def test_a_file_that_is_there_is_itself(tmp_path):
    path = tmp_path / "obj_res256.pt"
    path.touch()
    assert resolve_weights(str(path)) == path


def test_a_bare_name_is_a_file_here_or_else_in_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundled = ROOT / "weight" / "lact_objects_64.safetensors"
    assert resolve_weights(bundled.name) == bundled
    assert load_model(bundled.name, device="cpu", precision="float32").config.dim == 256
    (tmp_path / bundled.name).touch()
    assert resolve_weights(bundled.name).resolve() == tmp_path / bundled.name
    monkeypatch.setattr(hub, "WEIGHT_DIR", tmp_path / "weight")
    (tmp_path / "weight").mkdir()
    for name in ("own.safetensors", "obj_res256.pt"):  # in no table; in the table, and already fetched
        (tmp_path / "weight" / name).touch()
        assert resolve_weights(name) == tmp_path / "weight" / name
    fails(FileNotFoundError, "^new/own.safetensors: is not there; wanted a weight file", resolve_weights, "new/own.safetensors")


def test_a_known_file_is_fetched_to_where_it_was_asked_for(tmp_path, monkeypatch):
    content = random.Random(3).randbytes(5001)
    monkeypatch.setattr(hub, "WEIGHT_DIR", tmp_path / "weight")
    monkeypatch.chdir(tmp_path)
    with HubServer({"airsplay/lact_nvs": {"obj_res256.pt": content, "scene_res72x128.pt": content[::-1]}}) as server:
        point_at(monkeypatch, server)
        assert resolve_weights(tmp_path / "elsewhere" / "obj_res256.pt").read_bytes() == content
        assert resolve_weights("scene_res72x128.pt") == tmp_path / "weight" / "scene_res72x128.pt"
        server.gate("airsplay/lact_nvs")
        fails(PermissionError, "obj_res512.pt.*HTTP 401.*save it as", resolve_weights, "weight/obj_res512.pt")
    assert (tmp_path / "weight" / "scene_res72x128.pt").read_bytes() == content[::-1]
    assert not (tmp_path / "weight" / "obj_res512.pt").exists()


def test_an_unknown_file_brings_the_nearest_name(tmp_path):
    nearest = r"did you mean 'scene_res536x960\.pt'\? known: obj_res256\.pt, "
    match = rf"scene_res536x90\.pt: is not there; wanted a weight file, or a known name; {nearest}"
    fails(FileNotFoundError, match, resolve_weights, tmp_path / "scene_res536x90.pt")
    fails(FileNotFoundError, "is a folder; wanted a weight file", resolve_weights, tmp_path)
