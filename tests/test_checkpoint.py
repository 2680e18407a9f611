import dataclasses
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from hub_server import HubServer, point_at
from safetensors.torch import save_file
from torch import nn

import model.checkpoint
from config import LayerConfig, ModelConfig, config_from_dict, load_config
from model.checkpoint import (
    config_for,
    infer_config,
    load_weights,
    published_weights,
    read_config,
    read_weights,
    resolve_weights,
    save_weights,
)
from model.lact_lvsm import LaCTLVSM

ROOT = Path(__file__).parent.parent


def lact_shapes(layers: int, d: int, inter_multi: int, heads: int = 1, attention_k: int = 64, p: int = 8) -> dict:
    """Return the names and shapes of a published network's tensors, written out from its description."""
    k = d // heads
    m = k * inter_multi
    shapes = {"input_linear.weight": (d, 12 * p * p), "input_layernorm.weight": (d,)}
    for i in range(layers):
        block = f"blocks.{i}.module_list"
        shapes |= {
            f"{block}.0.ln.weight": (d,),
            f"{block}.0.f.to_qkv.weight": (3 * d, d),
            f"{block}.0.f.c_proj.weight": (d, d),
            f"{block}.0.f.q_norm.weight": (attention_k,),
            f"{block}.0.f.k_norm.weight": (attention_k,),
            f"{block}.1.ln.weight": (d,),
            f"{block}.1.f.w0": (heads, k, m),
            f"{block}.1.f.w1": (heads, m, k),
            f"{block}.1.f.w2": (heads, k, m),
            f"{block}.1.f.to_qkv.weight": (3 * d, d),
            f"{block}.1.f.c_proj.weight": (d, d),
            f"{block}.1.f.lr_fc.weight": (3 * heads, d),
            f"{block}.1.f.lr_fc.bias": (3 * heads,),
            f"{block}.1.f.o_norm.weight": (k,),
            f"{block}.2.ln.weight": (d,),
            f"{block}.2.f.c_fc.weight": (4 * d, d),
            f"{block}.2.f.c_proj.weight": (d, 4 * d),
        }
    return shapes | {"image_token_decoder.0.weight": (d,), "image_token_decoder.1.weight": (3 * p * p, d)}


def meta(shapes: dict) -> dict:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def recipe(layers: int, d: int, inter_multi: float, k: int, attention_k: int = 64, p: int = 8) -> ModelConfig:
    fast_weight = {"head_dim": k, "inter_multi": inter_multi, "base_lr": 0.01, "muon_update_steps": 5}
    return ModelConfig(
        p,
        d,
        layers,
        (
            LayerConfig("self_attention", "l", {"head_dim": attention_k, "use_qk_norm": True}),
            LayerConfig("fast_weight", "vl", fast_weight),
            LayerConfig("mlp", "vl", {"inter_multi": 4}),
        ),
    )


def small_weights(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    shapes = lact_shapes(layers=2, d=12, inter_multi=2, heads=3, attention_k=6, p=2)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def equal(found: dict, wanted: dict) -> bool:
    return list(found) == list(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)


def fails(kind: type[Exception], match: str, function, *arguments) -> None:
    with pytest.raises(kind, match=match) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


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
        (72, 128), (128, 128), (144, 256), (256, 256), (288, 512), (512, 512), (536, 960),
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
    (small,) = (row for row in cells if row[0].startswith("lact_"))
    ((name, row),) = groups["box"].items()
    shape = "x".join(map(str, row["resolution"]))
    assert small[:6] == [name, row["file"], row["config"], shape, row["kind"], str(row["num_input_views"])]
    assert int(small[6]) == (ROOT / "weight" / row["file"]).stat().st_size < 16e6
    lpips = {row[0]: row[1:] for row in cells if row[0].endswith(".pth")}
    assert lpips == {file.name: [file.url, str(file.size), file.sha256] for file in model.hub.LPIPS_FILES}


def test_weights_of_a_clone_are_not_looked_for_elsewhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lact_objects_64.safetensors: not there; it comes with a clone"):
        resolve_weights(tmp_path / "lact_objects_64.safetensors")


def test_a_file_that_is_there_is_itself(tmp_path):
    path = tmp_path / "obj_res256.pt"
    path.touch()
    assert resolve_weights(str(path)) == path


def test_a_known_file_is_fetched_to_where_it_was_asked_for(tmp_path, monkeypatch):
    content = random.Random(3).randbytes(5001)
    monkeypatch.setattr(model.checkpoint, "WEIGHT_DIR", tmp_path / "weight")
    monkeypatch.chdir(tmp_path)
    with HubServer({"airsplay/lact_nvs": {"obj_res256.pt": content, "scene_res72x128.pt": content[::-1]}}) as hub:
        point_at(monkeypatch, hub)
        assert resolve_weights(tmp_path / "elsewhere" / "obj_res256.pt").read_bytes() == content
        assert resolve_weights("scene_res72x128.pt") == tmp_path / "weight" / "scene_res72x128.pt"
        hub.gate("airsplay/lact_nvs")
        fails(PermissionError, "obj_res512.pt.*HTTP 401.*save it as", resolve_weights, "weight/obj_res512.pt")
    assert (tmp_path / "weight" / "scene_res72x128.pt").read_bytes() == content[::-1]
    assert not (tmp_path / "weight" / "obj_res512.pt").exists()


def test_an_unknown_file_brings_the_nearest_name(tmp_path):
    match = r"scene_res536x90\.pt: no such weight file; did you mean 'scene_res536x960\.pt'\? known: obj_res256\.pt, "
    fails(FileNotFoundError, match, resolve_weights, tmp_path / "scene_res536x90.pt")
    fails(FileNotFoundError, "no such weight file", resolve_weights, tmp_path)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w, "step": 7, "optimizer": {"state": {0: [1.5]}}}])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, wrap, zipped):
    weights = small_weights()
    torch.save(wrap(weights), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "w.pt") == zipped
    assert equal(read_weights(tmp_path / "w.pt"), weights)


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}"])
def test_wrappers_prefixes_are_taken_off(tmp_path, wrap):
    weights = small_weights()
    torch.save({"model": {wrap.format(key): tensor for key, tensor in weights.items()}}, tmp_path / "w.pth")
    assert equal(read_weights(tmp_path / "w.pth"), weights)


def test_blocks_that_were_compiled_one_by_one(tmp_path):
    weights = small_weights()
    torch.save({key.replace("blocks.1.", "blocks.1._orig_mod."): x for key, x in weights.items()}, tmp_path / "w.pt")
    assert equal(read_weights(tmp_path / "w.pt"), weights)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_tensors_do_not_change_with_the_file(tmp_path, name):
    path, value = tmp_path / name, torch.arange(9001.0)
    torch.save({"x": value}, path) if path.suffix == ".pt" else save_file({"x": value}, path)
    weights = read_weights(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(weights["x"], value)


class Malice:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, zipped):
    content = {"model": {"x": torch.zeros(2)}, "more": Malice(tmp_path / "it_ran")}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    fails(ValueError, r"w\.pt: its pickle asks for \w+\.mkdir, .* refused", read_weights, tmp_path / "w.pt")
    assert not (tmp_path / "it_ran").exists()
    with pytest.raises(FileNotFoundError):  # the file is what it claims to be: read without care, it runs
        pickle.loads(pickle.dumps(Malice(tmp_path / "no_such_folder" / "it_ran")))


def stored(weights: dict, suffix: str) -> bytes:
    if suffix == ".safetensors":
        return safetensors.torch.save(weights)
    buffer = io.BytesIO()
    torch.save(weights, buffer, _use_new_zipfile_serialization=suffix == ".pt")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_damaged_files_are_named(tmp_path, suffix):
    whole, path = stored(small_weights(), suffix), tmp_path / f"w{suffix}"
    page = b"<html>Please log in</html>"
    for content in (b"", page, whole[:10], whole[: len(whole) // 2], whole[:-300]):
        path.write_bytes(content)
        fails(ValueError, rf"{path}: cannot be read as weights \(.*delete it and fetch it again", read_weights, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_random_damage_is_an_error_of_one_line_or_none(tmp_path, suffix):
    whole, path = stored({"x": torch.zeros(3, 2), "y": torch.ones(5)}, suffix), tmp_path / f"w{suffix}"
    dice, messages = random.Random(1), []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[dice.randrange(min(len(whole), 600))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 50  # of 150: most damage shows
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in messages)


def test_files_that_hold_something_else(tmp_path):
    path = tmp_path / "w.pt"
    for content, match in [
        ([torch.zeros(2)], r"w\.pt: holds a list; wanted a state dict"),
        ({}, r"w\.pt: holds nothing; wanted a state dict"),
        ({"model": torch.zeros(2)}, r"w\.pt: holds a Tensor; wanted a state dict"),
        ({"a": torch.zeros(2), "step": 3}, r"w\.pt: 'step' holds a int; wanted a state dict"),
        ({"model": {7: torch.zeros(2)}}, r"w\.pt: 7 holds a Tensor; wanted a state dict"),
    ]:
        torch.save(content, path)
        fails(ValueError, match, read_weights, path)
    path = path.rename(tmp_path / "w.bin")
    fails(ValueError, r"w\.bin: not a weight file by its name; wanted .*\.safetensors", read_weights, path)
    for suffix in (".pt", ".safetensors"):
        fails(FileNotFoundError, rf"none\{suffix}", read_weights, tmp_path / f"none{suffix}")


@pytest.mark.parametrize(
    ("name", "layers", "inter_multi", "millions"),
    [
        ("lact_l14_d768_ttt2x", 14, 2, 182.48),
        ("lact_l24_d768_ttt2x", 24, 2, 312.30),
        ("lact_l24_d768_ttt4x", 24, 4, 397.23),
    ],
)
def test_published_networks_are_told_from_their_shapes(name, layers, inter_multi, millions):
    weights = meta(lact_shapes(layers, 768, inter_multi))
    count = sum(tensor.numel() for tensor in weights.values())
    assert round(count / 1e6, 2) == millions  # the published sizes: the shapes above are the right ones
    assert infer_config(weights) == recipe(layers, 768, inter_multi, k=768)
    assert infer_config(weights) == load_config(ROOT / "config" / f"{name}.yaml")


def test_odd_networks_are_told_from_their_shapes():
    weights = meta(lact_shapes(layers=3, d=30, inter_multi=5, heads=2, attention_k=6, p=3))
    assert infer_config(weights) == recipe(3, 30, 5, k=15, attention_k=6, p=3)
    bare = {key: tensor for key, tensor in weights.items() if not key.endswith(("q_norm.weight", "k_norm.weight"))}
    assert infer_config(bare).block[0].params == {"head_dim": 64, "use_qk_norm": False}


@pytest.mark.parametrize("name", ["one_head", "two_heads"])
def test_golden_networks_are_told_from_their_shapes(name):
    """The files carry the recipe that the published code built these weights from."""
    with safetensors.safe_open(ROOT / "tests" / "golden" / f"{name}.safetensors", framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith("model.")]  # noqa: SIM118 (not iterable itself)
        weights = {key.removeprefix("model."): file.get_tensor(key) for key in keys}
        told = config_from_dict(json.loads(file.metadata()["config"]))
    assert infer_config(weights) == told


@pytest.mark.parametrize("m", range(1, 400, 7))
def test_a_broken_multiple_gives_the_width_back(m):
    weights = meta(lact_shapes(layers=1, d=49, inter_multi=1)) | meta({"blocks.0.module_list.1.f.w0": (1, 49, m)})
    factor = infer_config(weights).block[1].params["inter_multi"]
    assert int(49 * factor) == m
    assert isinstance(factor, int) == (m % 49 == 0)


def test_weights_that_tell_no_network():
    shapes = lact_shapes(layers=2, d=12, inter_multi=2, p=2)
    q = "blocks.0.module_list.0.f.q_norm.weight"
    for changed, match in [
        ({"blocks.0.module_list.1.f.w3": (1, 2, 3)}, r"x\.pt: blocks\.0\.module_list\.1\.f\.w3 is in no LaCT network"),
        ({"head.weight": (3, 12)}, r"x\.pt: head\.weight is in no LaCT network; wanted"),
        ({"input_linear.weight": (12, 47)}, r"x\.pt: input_linear\.weight is \(12, 47\); wanted 12·p² columns"),
        ({"input_linear.weight": (12,)}, r"input_linear\.weight is \(12,\); wanted a tensor of 2 dimensions"),
        ({q: (3, 4)}, r"q_norm\.weight is \(3, 4\); wanted a tensor of 1 dimensions"),
    ]:
        fails(ValueError, match, infer_config, meta(shapes | changed), "x.pt")
    without = {key: shape for key, shape in shapes.items() if ".module_list.1." not in key}
    fails(ValueError, "blocks of self_attention, mlp, which shapes do not tell apart", infer_config, meta(without))
    without = {key: shape for key, shape in shapes.items() if key != "input_linear.weight"}
    fails(ValueError, r"input_linear\.weight is missing; wanted", infer_config, meta(without))
    fails(ValueError, r"input_linear\.weight is missing; wanted", infer_config, {})


def test_metadata_wins_over_shapes_and_the_table_over_both(tmp_path):
    weights = small_weights()
    told = infer_config(weights)
    other = dataclasses.replace(told, block=(*told.block[:2], LayerConfig("mlp", "vl", {"inter_multi": 2})))
    save_weights(tmp_path / "w.safetensors", weights, other)
    assert read_config(tmp_path / "w.safetensors", weights) == other
    assert config_for(tmp_path / "w.safetensors", weights) == other
    save_file(weights, tmp_path / "bare.safetensors")
    assert config_for(tmp_path / "bare.safetensors", weights) == told
    assert config_for(tmp_path / "w.pt", weights) == told
    known = config_for(tmp_path / "scene_res144x256.pt", weights)
    assert known == load_config(ROOT / "config" / "lact_l24_d768_ttt4x.yaml")


def test_metadata_that_is_no_recipe(tmp_path):
    weights, path = {"x": torch.zeros(1)}, tmp_path / "w.safetensors"
    for text, match in [
        ("{", "metadata 'config' is '{'; wanted a network's recipe in JSON"),
        ("[8]", r"metadata 'config' is '\[8\]'; wanted a network's recipe in JSON"),
        ("{}", "metadata 'config': no key 'patch_size'"),
    ]:
        save_file(weights, path, metadata={"config": text})
        fails(ValueError, rf"w\.safetensors: {match}", read_config, path, weights)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 3)
        self.second = nn.Linear(3, 2, bias=False)


def test_weights_are_copied_into_the_network_in_its_type():
    weights = {key: torch.randn(tensor.shape) for key, tensor in Small().state_dict().items()}
    network = Small().to(torch.bfloat16)
    load_weights(network, weights, "w.pt")
    assert equal(network.state_dict(), {key: tensor.to(torch.bfloat16) for key, tensor in weights.items()})


def test_the_network_that_shapes_tell_takes_the_weights():
    weights = small_weights()
    network = LaCTLVSM(infer_config(weights))
    load_weights(network, weights, "w.pt")
    found = network.state_dict()
    assert equal({key: found[key] for key in weights}, weights)


def test_weights_of_another_network_name_the_first_difference():
    weights, network = Small().state_dict(), Small()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    for changed, match in [
        ({"second.weight": torch.zeros(3, 2)}, r"w\.pt: second\.weight is \(3, 2\), and \(2, 3\) in this network; w"),
        (
            {"second.weight": torch.zeros(9), "first.weight": torch.zeros(3, 4)},
            r"first\.weight is \(3, 4\), and \(3, 5\) in this network \(and 1 more\); wanted",
        ),
        ({"first.bias": None}, r"no first\.bias, which is \(3,\) in this network; wanted"),
        (
            {"first.bias": None, "second.weight": None, "third": torch.zeros(1)},
            r"no first\.bias, which is \(3,\) in this network \(and 2 more\); wanted",
        ),
        ({"third": torch.zeros(1)}, r"third is unknown to this network; wanted"),
    ]:
        given = {key: tensor for key, tensor in {**changed, **weights, **changed}.items() if tensor is not None}
        fails(ValueError, match, load_weights, network, given, "w.pt")
        assert equal(network.state_dict(), before)


def test_saved_weights_come_back_with_their_recipe(tmp_path):
    weights = small_weights() | {"count": torch.tensor(3)}
    weights["input_linear.weight"] = weights["input_linear.weight"].t().contiguous().t()
    config, path = recipe(2, 12, 2, k=4, attention_k=6, p=2), tmp_path / "new" / "w.safetensors"
    save_weights(path, weights, config)
    found = read_weights(path)
    assert equal({key: found[key] for key in weights}, weights)
    assert len(found) == len(weights)
    assert read_config(path, weights) == config
    save_weights(path, weights, config, dtype=torch.bfloat16)
    again = read_weights(path)
    assert again["count"].dtype == torch.int64
    assert torch.equal(again["input_linear.weight"], weights["input_linear.weight"].to(torch.bfloat16))
    assert [entry.name for entry in path.parent.iterdir()] == ["w.safetensors"]
    fails(ValueError, r"w\.pt: weights are saved as safetensors", save_weights, tmp_path / "w.pt", weights, config)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    config, path = recipe(2, 12, 2, k=4, attention_k=6, p=2), tmp_path / "w.safetensors"
    save_weights(path, small_weights(0), config)

    def save_half(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(model.checkpoint, "save_file", save_half)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, small_weights(1), config)
    found = read_weights(path)
    assert all(torch.equal(found[key], tensor) for key, tensor in small_weights(0).items())
    assert list(tmp_path.iterdir()) == [path]
