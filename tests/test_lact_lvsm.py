"""The network in use: reconstruct, render and forward, and what may and may not change their results."""

import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.errors import InputError
from model import LaCTLVSM, SceneState, load_model
from model.metric import psnr
from model.weights.file import save_weights
from tests.support.networks import cameras, random_views, relative_error, small_model

LACT = ("self_attention", "fast_weight", "mlp")


@pytest.fixture(params=["fast_weight", "fast_weight by foot"])
def model(request: pytest.FixtureRequest) -> LaCTLVSM:
    return small_model("self_attention", request.param, "mlp")


@pytest.mark.parametrize("inputs", [1, 2, 5])
def test_one_pass_equals_reconstruct_then_render(model: LaCTLVSM, inputs: int) -> None:
    given, wanted = random_views(2, inputs, 8, 12), random_views(2, 3, 8, 12, seed=3)
    rendered = model.render(model.reconstruct(**given), *cameras(wanted), (8, 12))
    assert rendered.shape == (2, 3, 3, 8, 12)
    assert rendered.dtype == torch.float32
    # float32 rounding, the same sums in other shapes.
    assert (model(given, wanted) - rendered).abs().max() < 1e-5


@pytest.mark.parametrize("chunk_views", [1, 2, 3, 5, 9])
def test_chunks_of_views_change_nothing(model: LaCTLVSM, chunk_views: int) -> None:
    given, wanted = random_views(2, 5, 8, 12), random_views(2, 4, 8, 12, seed=3)
    whole, parts = model.reconstruct(**given, chunk_views=5), model.reconstruct(**given, chunk_views=chunk_views)
    for x, y in zip(parts.layers, whole.layers, strict=True):
        for name in x:
            assert relative_error(x[name], y[name]) < 1e-5
    expected = model.render(whole, *cameras(wanted), (8, 12), chunk_views=4)
    assert (model.render(parts, *cameras(wanted), (8, 12), chunk_views) - expected).abs().max() < 1e-5


def test_the_order_of_inputs_changes_nothing(model: LaCTLVSM) -> None:
    given, wanted = random_views(1, 5, 8, 12), random_views(1, 2, 8, 12, seed=3)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = {key: x[:, order] for key, x in given.items()}
    assert (model(shuffled, wanted) - model(given, wanted)).abs().max() < 1e-5


def test_every_input_and_its_camera_matter(model: LaCTLVSM) -> None:
    given, wanted = random_views(1, 3, 8, 12), random_views(1, 1, 8, 12, seed=3)
    before = model(given, wanted)
    for key, other in random_views(1, 3, 8, 12, seed=9).items():
        for v in range(3):
            changed = {**given, key: given[key].clone()}
            changed[key][:, v] = other[:, v]
            assert (model(changed, wanted) - before).abs().max() > 1e-4, (key, v)


def test_views_are_rendered_at_other_sizes_than_the_inputs(model: LaCTLVSM) -> None:
    given, wanted = random_views(1, 3, 8, 12), random_views(1, 2, 16, 4, seed=3)
    rendered = model.render(model.reconstruct(**given), *cameras(wanted), (16, 4))
    assert rendered.shape == (1, 2, 3, 16, 4)
    assert (model(given, wanted) - rendered).abs().max() < 1e-5


def test_a_stream_yields_the_views_in_order(model: LaCTLVSM) -> None:
    state, wanted = model.reconstruct(**random_views(1, 3, 8, 12)), random_views(1, 5, 8, 12, seed=3)
    chunks = list(model.render_stream(state, *cameras(wanted), (8, 12), chunk_views=2))
    assert [chunk.shape[1] for chunk in chunks] == [2, 2, 1]
    assert torch.equal(torch.cat(chunks, dim=1), model.render(state, *cameras(wanted), (8, 12), chunk_views=2))


def test_inputs_are_left_as_they_were(model: LaCTLVSM) -> None:
    given, wanted = random_views(1, 3, 8, 12), random_views(1, 2, 8, 12, seed=3)
    copies = {key: x.clone() for key, x in given.items()}
    state = model.reconstruct(**given)
    before = [{name: x.clone() for name, x in layer.items()} for layer in state.layers]
    model.render(state, *cameras(wanted), (8, 12))
    assert all(torch.equal(given[key], copies[key]) for key in given)
    assert all(torch.equal(x[name], y[name]) for x, y in zip(state.layers, before, strict=True) for name in x)


def test_progress_counts_the_layers_that_views_write_into(model: LaCTLVSM) -> None:
    calls: list[tuple[int, int]] = []
    model.reconstruct(**random_views(1, 2, 8, 12), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_targets_compute_no_key_value_or_learning_rate(model: LaCTLVSM) -> None:
    state = model.reconstruct(**random_views(1, 2, 8, 12))
    wanted = random_views(1, 2, 8, 12, seed=3)
    expected = model.render(state, *cameras(wanted), (8, 12))
    with torch.no_grad():
        for block in model.blocks:
            layer = block.module_list[1].f
            layer.to_qkv.weight[48:] = torch.nan
            for parameter in (layer.lr_fc.weight, layer.lr_fc.bias, layer.w0, layer.w1, layer.w2):
                parameter.fill_(torch.nan)
    assert torch.equal(model.render(state, *cameras(wanted), (8, 12)), expected)


def test_the_last_block_does_on_inputs_only_what_its_state_needs(model: LaCTLVSM) -> None:
    given = random_views(1, 2, 8, 12)
    expected = model.reconstruct(**given)
    with torch.no_grad():
        fast_weight, mlp = model.blocks[-1].module_list[1].f, model.blocks[-1].module_list[2].f
        fast_weight.to_qkv.weight[:48] = torch.nan
        for parameter in (fast_weight.c_proj.weight, fast_weight.o_norm.weight, mlp.c_fc.weight, mlp.c_proj.weight):
            parameter.fill_(torch.nan)
    found = model.reconstruct(**given)
    for x, y in zip(found.layers, expected.layers, strict=True):
        assert all(torch.equal(x[name], y[name]) for name in x)


def test_scene_state_survives_the_disk(model: LaCTLVSM, tmp_path: Path) -> None:
    given, wanted = random_views(2, 3, 8, 12), random_views(2, 2, 8, 12, seed=3)
    state = model.reconstruct(**given)
    state.save(tmp_path / "a" / "state.safetensors")
    loaded = SceneState.load(tmp_path / "a" / "state.safetensors")
    assert torch.equal(loaded.c2w, given["c2w"])
    assert torch.equal(loaded.fxfycxcy, given["fxfycxcy"])
    assert loaded.image_size == (8, 12)
    assert loaded.nbytes == state.nbytes == 2 * 2 * 3 * 2 * 24 * 36 * 4  # blocks, scenes, weights, heads, k, m, bytes
    assert torch.equal(model.render(loaded, *cameras(wanted), (8, 12)), model.render(state, *cameras(wanted), (8, 12)))


def test_a_state_of_other_weights_is_refused(model: LaCTLVSM) -> None:
    state, wanted = small_model(*LACT, seed=1).reconstruct(**random_views(1, 2, 8, 12)), random_views(1, 1, 8, 12)
    with pytest.raises(ValueError, match=r"scene state: was written by weights \w{16}; wanted \w{16}, the ones loaded"):
        model.render(state, *cameras(wanted), (8, 12))


def test_a_file_that_holds_no_state_is_refused(tmp_path: Path, model: LaCTLVSM) -> None:
    with pytest.raises(FileNotFoundError, match=r"x.safetensors: is not there; wanted a scene state"):
        SceneState.load(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x.safetensors: is not a safetensors file \(.*\); wanted a scene state"):
        SceneState.load(tmp_path / "x.safetensors")
    save_weights(tmp_path / "x.safetensors", model.state_dict(), model.config)
    with pytest.raises(ValueError, match=r"x.safetensors, format: is None; wanted 'lact_nvs scene state 1'"):
        SceneState.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": torch.rand(1, 2, 3, 8, 10)}, r"reconstruct, image: has the width 10; wanted a multiple of the patch 4: 8 or 12"),
        ({"image": torch.rand(1, 3, 3, 8, 12)}, r"image: is \(1, 3, 3, 8, 12\), and fxfycxcy \(1, 2, 4\); wanted as many images"),
        (
            {"c2w": torch.eye(4)[:3].expand(1, 2, 3, 4)},
            r"reconstruct, c2w: is \(1, 2, 3, 4\); wanted \(views, 4, 4\) with a last row",
        ),
        ({"chunk_views": 0}, r"chunk_views: is 0; wanted 1 or more, or None"),
        (
            {"image": torch.rand(1, 0, 3, 8, 12), "fxfycxcy": torch.rand(1, 0, 4), "c2w": torch.rand(1, 0, 4, 4)},
            r"cameras: are of 1 scene with 0 views; wanted at least one view",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model: LaCTLVSM, change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        model.reconstruct(**{**random_views(1, 2, 8, 12), **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": torch.rand(1, 2, 3, 8, 10)}, r"^image size 8 10: height and width must be multiples of the patch, 4"),
        ({"image": torch.rand(1, 3, 3, 8, 12)}, r"^image is \(1, 3, 3, 8, 12\); wanted \(1, 2, 3, h, w\)"),
        ({"c2w": torch.eye(4)[:3].expand(1, 2, 3, 4)}, r"^cameras: fxfycxcy is \(1, 2, 4\), c2w \(1, 2, 3, 4\); wanted"),
    ],
)
def test_training_refuses_shapes_that_do_not_fit(model: LaCTLVSM, change: dict, match: str) -> None:
    views = random_views(1, 2, 8, 12)
    with pytest.raises(ValueError, match=match):
        model({**views, **change}, views)


def test_load_model_gives_the_network_that_was_saved(model: LaCTLVSM, tmp_path: Path) -> None:
    given, wanted = random_views(1, 3, 8, 12), random_views(1, 2, 8, 12, seed=3)
    save_weights(tmp_path / "x.safetensors", model.state_dict(), model.config)
    loaded = load_model(tmp_path / "x.safetensors", device="cpu", precision="float32", newton_schulz_dtype="float32")
    assert not loaded.training
    assert torch.equal(loaded(given, wanted), model(given, wanted))
    narrow = load_model(tmp_path / "x.safetensors", device="cpu", precision="bfloat16")
    stored = ("to_qkv.weight", "c_proj.weight", "c_fc.weight")
    assert {p.dtype for name, p in narrow.named_parameters() if name.endswith(stored)} == {torch.bfloat16}
    kept = ("norm.weight", "ln.weight", "lr_fc.weight", "lr_fc.bias", "w0", "w1", "w2", "input_linear.weight", "decoder.1.weight")
    assert {p.dtype for name, p in narrow.named_parameters() if name.endswith(kept)} == {torch.float32}
    # 66 dB measured: the images of random weights are nearly flat.
    assert psnr(narrow(given, wanted), model(given, wanted)).mean() > 50


def test_a_state_is_read_by_the_same_weights_in_any_precision(model: LaCTLVSM, tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", model.state_dict(), model.config)
    given, wanted = random_views(1, 3, 8, 12), random_views(1, 2, 8, 12, seed=3)
    rendered = []
    for precision in ("bfloat16", "float32"):
        model.reconstruct(**given).save(tmp_path / "state.safetensors")
        reader = load_model(tmp_path / "x.safetensors", device="cpu", precision=precision)
        rendered.append(reader.render(SceneState.load(tmp_path / "state.safetensors"), *cameras(wanted), (8, 12)))
    assert psnr(*rendered).mean() > 60  # bfloat16 in rendering alone: 76 dB measured
    assert not torch.equal(*rendered)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"device": "gpu"}, r"device: is 'gpu'; wanted auto, cpu, cuda or cuda:N"),
        ({"device": "mps"}, r"device: is 'mps'; wanted auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, r"device: is 'cuda:99' on a machine with \d+ CUDA devices; wanted one of them, or cpu"),
        ({"precision": "half"}, r"precision: is 'half'; wanted auto, float32 or bfloat16"),
        ({"newton_schulz_dtype": "half"}, r"newton_schulz_dtype: is 'half'; wanted float32 or bfloat16"),
    ],
)
def test_unknown_settings_are_refused(arguments: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        load_model("x.safetensors", **arguments)


SHOWN = [load_model, *(getattr(LaCTLVSM, name) for name in ("reconstruct", "extend", "forget", "reconstruct_stream", "render"))]


@pytest.mark.parametrize("function", SHOWN, ids=lambda x: x.__name__)
def test_the_example_in_a_docstring_prints_what_it_says(
    function: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs={})
    assert len(example.examples) > 2
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_grows_by_the_token_stream_alone(tmp_path: Path) -> None:
    script = """
import ctypes, sys, torch
from pathlib import Path
from config import load_config
from model import LaCTLVSM
torch.set_num_threads(1)
ctypes.CDLL(None).mallopt(-3, 65536)  # large blocks go back to the system at once: what is resident is what is in use
model = LaCTLVSM(load_config("config/debug.yaml"))
views = int(sys.argv[1])
image = torch.rand(1, 1, 3, 128, 128).expand(1, views, 3, 128, 128)
fxfycxcy = torch.tensor([128.0, 128.0, 64.0, 64.0]).expand(1, views, 4)
model.reconstruct(image, fxfycxcy, torch.eye(4).expand(1, views, 4, 4), chunk_views=4)
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(lines["VmHWM"].split()[0]) * 1024)
"""
    command = [sys.executable, "-c", script]
    peaks = [int(subprocess.check_output([*command, str(v)], cwd=Path(__file__).parent.parent)) for v in (40, 200)]
    stream = 160 * (128 // 8) ** 2 * 128 * 4  # views, tokens of a view, width, bytes of a float32
    # The allocator's own rounding and fragments: 10 %. All views at once take 18 times the stream.
    assert peaks[1] - peaks[0] < 1.1 * stream
