"""Layers of the registry against their contract, and construction of every network config."""

import textwrap
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from config import LayerConfig, NetworkConfig, config_from_dict, load_config
from config.errors import InputError
from model import LaCTLVSM
from model.layers import BLOCKS, LocalLayer, MixingLayer, State, Sums, build_layer
from model.layers.address import Address, Places
from model.layers.block import check_layers
from model.layers.primitives import Linear
from model.parallel.context import Shares
from tests.support.networks import FAST_WEIGHT, LAYERS, random_views, relative_error, small_config, small_model

RECIPES = sorted(path for path in (Path(__file__).parent.parent / "config").glob("*.yaml"))
MIXING = [name for name, layer in LAYERS.items() if layer.length_dim == "vl" and layer.type != "mlp"]
# Layers combined so that a network sees all views and every parameter matters.
NETWORKS = [
    ("self_attention", "fast_weight", "mlp"),
    ("self_attention", "fast_weight by image", "mlp"),
    ("self_attention", "fast_weight by line", "mlp"),
    ("fast_weight by foot", "fast_weight by image", "mlp"),
    ("self_attention without norm", "register_attention"),
    ("self_attention over the scene", "mlp"),
]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def tokens(b: int, v: int, seed: int = 0) -> Tensor:
    return torch.randn(b, v, 6, 48, generator=torch.Generator().manual_seed(seed))


def layer_of(name: str) -> LocalLayer | MixingLayer:
    return small_model(name, layers=1).blocks[0].module_list[0]


def parts_of(memory: object) -> list[Tensor]:
    """Return the tensors of a layer's memory."""
    return [memory] if isinstance(memory, Tensor) else [part for item in memory for part in parts_of(item)]


def test_every_block_of_the_registry_is_tested() -> None:
    assert {layer.type for layer in LAYERS.values()} == set(BLOCKS)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in MIXING])
def test_a_layer_that_does_not_mix_views_treats_each_alone(name: str) -> None:
    layer, x = layer_of(name), tokens(2, 3)
    assert isinstance(layer, LocalLayer)
    y = layer(x)
    assert y.shape == x.shape
    for b in range(2):
        for v in range(3):
            assert relative_error(layer(x[b : b + 1, v : v + 1]), y[b : b + 1, v : v + 1]) < 1e-5


@pytest.mark.parametrize("name", list(LAYERS))
@torch.no_grad()
def test_only_what_says_so_overwrites_its_input(name: str) -> None:
    layer, x = layer_of(name), tokens(2, 3)
    given = x.clone()
    if isinstance(layer, LocalLayer):
        kept, overwritten = layer(x), layer.forward_
    else:
        memory = layer.write(x, None)
        more = layer.write(x, memory)
        assert all(torch.equal(one, other) for one, other in zip(parts_of(memory), parts_of(layer.write(x, None)), strict=True))
        assert len(parts_of(more)) >= len(parts_of(memory))
        state = layer.finish(memory)
        kept, overwritten = layer.read(x, state, True), lambda x: layer.read_(x, state, True)
    assert torch.equal(x, given)
    assert torch.equal(overwritten(x), kept)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", MIXING)
def test_a_layer_that_mixes_views_takes_them_in_any_chunks_and_order(name: str) -> None:
    layer, x = layer_of(name), tokens(2, 5)

    def read(parts: list[Tensor]) -> Tensor:
        memory = None
        for part in parts:
            memory = layer.write(part, memory)
        return layer.read(tokens(2, 2, seed=1), layer.finish(memory), target=True)

    whole = read([x])
    assert relative_error(read([x[:, :2], x[:, 2:3], x[:, 3:]]), whole) < 1e-5
    assert relative_error(read([x[:, [4, 1, 0]], x[:, [3, 2]]]), whole) < 1e-5
    assert relative_error(read([x[:, :4]]), whole) > 1e-4, "the last view had no effect"


@pytest.mark.parametrize("name", MIXING)
@torch.no_grad()
def test_no_views_at_all_add_nothing(name: str) -> None:
    layer, x = layer_of(name), tokens(2, 3)
    memory = layer.write(x[:, :0], layer.write(x[:, :0], None))
    wanted = layer.finish(layer.write(x, None))
    for key, part in layer.finish(layer.write(x[:, :0], layer.write(x, memory))).items():
        assert torch.equal(part, wanted[key])


@pytest.mark.parametrize("name", MIXING)
@torch.no_grad()
def test_a_memory_is_resumed_from_state_and_sums(name: str) -> None:
    layer, x = layer_of(name), tokens(2, 5)
    memory = layer.write(x[:, :2], None)
    state, sums = layer.finish(memory), layer.sums(memory)
    assert all(part.dtype == torch.float32 for part in sums.values())
    resumed = layer.write(x[:, 2:], layer.resume(state, sums))
    wanted = layer.finish(layer.write(x[:, 2:], memory))
    assert all(torch.equal(part, wanted[key]) for key, part in layer.finish(resumed).items())


@pytest.mark.parametrize("name", MIXING)
@torch.no_grad()
def test_a_memory_without_some_views_is_that_of_the_others(name: str) -> None:
    layer, x = layer_of(name), tokens(2, 5)
    kept = torch.tensor([True, False, True, True, False]).repeat_interleave(6).nonzero()[:, 0]
    whole = layer.write(x, None)

    def read(memory: object) -> Tensor:
        return layer.read(tokens(2, 2, seed=1), layer.finish(memory), target=True)

    wanted = read(layer.write(x[:, [0, 2, 3]], None))
    # A sum over five views minus two of them: float32 rounding.
    assert relative_error(read(layer.without(whole, layer.write(x[:, [4, 1]], None), kept)), wanted) < 1e-5
    assert relative_error(read(whole), wanted) > 1e-4


@pytest.mark.parametrize("name", MIXING)
def test_scenes_of_a_batch_are_independent(name: str) -> None:
    layer, x, y = layer_of(name), tokens(2, 3), tokens(2, 2, seed=1)
    together = layer.read(y.clone(), layer.finish(layer.write(x, None)), target=True)
    for b in range(2):
        alone = layer.read(y[b : b + 1].clone(), layer.finish(layer.write(x[b : b + 1], None)), target=True)
        assert relative_error(alone, together[b : b + 1]) < 1e-5


@pytest.mark.parametrize("layers", NETWORKS)
def test_targets_do_not_see_each_other(layers: tuple[str, ...]) -> None:
    model, inputs, targets = small_model(*layers), random_views(1, 3, 8, 12), random_views(1, 3, 8, 12, seed=5)
    together = model(inputs, targets)
    for v in range(3):
        alone = model(inputs, {key: x[:, v : v + 1] for key, x in targets.items()})
        # Alone and together are different shapes of the same sums: float32 rounding.
        assert (alone - together[:, v : v + 1]).abs().max() < 1e-5


@pytest.mark.parametrize("layers", NETWORKS)
def test_targets_do_not_change_the_inputs(layers: tuple[str, ...]) -> None:
    model, inputs = small_model(*layers), random_views(2, 3, 8, 12)
    state = model.reconstruct(**inputs)
    for u, seed in ((1, 3), (4, 4)):
        targets = random_views(2, u, 8, 12, seed=seed)
        rendered = model.render(state, targets["fxfycxcy"], targets["c2w"], (8, 12))
        # 2e-5: float32 rounding in another order of sums, times weights three times the initial ones.
        assert (model(inputs, targets) - rendered).abs().max() < 2e-5


@pytest.mark.parametrize("layers", NETWORKS)
def test_a_gradient_reaches_every_parameter(layers: tuple[str, ...]) -> None:
    model = small_model(*layers)
    model(random_views(2, 3, 8, 12), random_views(2, 2, 8, 12, seed=3)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("layers", NETWORKS)
def test_checkpointed_activations_give_the_same_gradients(layers: tuple[str, ...]) -> None:
    gradients = []
    for activation_checkpointing in (False, True):
        model = small_model(*layers)
        model.activation_checkpointing = activation_checkpointing
        model(random_views(2, 3, 8, 12), random_views(2, 2, 8, 12, seed=3)).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_layer_computes_in_its_dtype_and_returns_the_float32_sum(name: str, dtype: torch.dtype) -> None:
    model = small_model(name, layers=1).set_compute_dtype(dtype, store=True)
    layer, x = model.blocks[0].module_list[0], tokens(1, 2)
    if isinstance(layer, LocalLayer):
        assert layer.f(layer.ln(x)).dtype == dtype
        assert layer(x).dtype == torch.float32
        return
    state = layer.finish(layer.write(x, None))
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    assert layer.f.read(layer.ln(x), state, True).dtype == dtype
    assert layer.read(x, state, True).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("layers", NETWORKS)
def test_a_block_compiles_without_graph_breaks_and_once_per_shape(layers: tuple[str, ...]) -> None:
    torch._dynamo.reset()
    model = small_model(*layers, layers=3)

    def run(seed: int) -> tuple[Tensor, Tensor]:
        inputs, targets = random_views(1, 3, 8, 12, seed=seed), random_views(1, 2, 8, 12, seed=seed + 1)
        state = model.reconstruct(**inputs)
        return model(inputs, targets), model.render(state, targets["fxfycxcy"], targets["c2w"], (8, 12))

    eager = run(0)
    model.compile_layers(backend="aot_eager")  # in one graph: a break is an error
    for found, expected in zip(run(0), eager, strict=True):
        assert (found - expected).abs().max() < 1e-5
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(7)


def test_the_layer_that_the_page_adds_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "model" / "README.md").read_text()
    example = textwrap.dedent(page[page.index("    class ViewMean") : page.index("1. Write it into a file")])
    names = {"nn": torch.nn, "torch": torch, "Tensor": Tensor, "ClassVar": ClassVar, "Linear": Linear}
    names |= {"Address": Address, "Places": Places, "Shares": Shares, "State": State, "Sums": Sums}
    exec(example, names)
    monkeypatch.setitem(BLOCKS, "view_mean", names["ViewMean"])
    monkeypatch.setitem(LAYERS, "view_mean", LayerConfig("view_mean", "vl", {"width": 20}))
    test_a_layer_that_mixes_views_takes_them_in_any_chunks_and_order("view_mean")
    test_a_memory_is_resumed_from_state_and_sums("view_mean")
    test_a_memory_without_some_views_is_that_of_the_others("view_mean")
    test_scenes_of_a_batch_are_independent("view_mean")
    test_only_what_says_so_overwrites_its_input("view_mean")
    for dtype in (torch.bfloat16, torch.float32):
        test_a_layer_computes_in_its_dtype_and_returns_the_float32_sum("view_mean", dtype)
    network = ("self_attention", "view_mean", "mlp")
    test_targets_do_not_see_each_other(network)
    test_targets_do_not_change_the_inputs(network)
    test_a_gradient_reaches_every_parameter(network)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_builds(path: Path) -> None:
    with torch.device("meta"):
        LaCTLVSM(load_config(path))


@pytest.mark.parametrize(
    ("name", "millions"), [("lact_l14_d768_ttt2x", 182.48), ("lact_l24_d768_ttt2x", 312.30), ("lact_l24_d768_ttt4x", 397.23)]
)
def test_published_recipes_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = LaCTLVSM(load_config(f"config/{name}.yaml"))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


def test_published_spelling_means_the_same() -> None:
    published = {
        "patch_size": 8, "dim": 768, "layers": 24,
        "block_config": [
            {"type": "model.SelfAttention", "length_dim": "l", "params": {"head_dim": 64, "use_qk_norm": True}},
            {"type": "lact_ttt.FastWeightGluMLPMultihead", "length_dim": "vl",
             "params": {"head_dim": 768, "inter_multi": 2, "base_lr": 0.01, "muon_update_steps": 5}},
            {"type": "model.MLP", "length_dim": "vl", "params": {"inter_multi": 4}},
        ],
    }  # fmt: skip
    assert config_from_dict(published) == load_config("config/lact_l24_d768_ttt2x.yaml")


def test_initial_weights_have_the_documented_spread() -> None:
    config = load_config("config/debug.yaml")
    torch.manual_seed(0)
    model = LaCTLVSM(config)
    projection = 0.02 / (config.layers * 3) ** 0.5
    expected = {"c_proj.weight": projection, "to_qkv.weight": 0.02, "w0": (2 / 64) ** 0.5, "w1": (2 / 128) ** 0.5}
    for name, parameter in model.named_parameters():
        for ending, std in expected.items():
            if name.endswith(ending):
                assert abs(parameter.std().item() / std - 1) < 0.05, name  # 8192 draws or more: 1 % spread
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.zeros_like(parameter) if name.endswith("bias") else torch.ones_like(parameter))


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (LayerConfig("fast_wait", "vl"), r"layer type 'fast_wait': is unknown; wanted a known one; did you mean 'fast_weight'\?"),
        (LayerConfig("mlp", "vl", {"inter_mult": 4}), r"mlp, params: is .*'inter_mult'\); wanted inter_multi"),
        (LayerConfig("fast_weight", "vl", {"head_dim": 8}), r"fast_weight, params: is .*missing a required argument"),
        (LayerConfig("self_attention", "l", {"head_dim": 8.0}), r"self_attention, head_dim: is 8.0; wanted a divisor of dim, 48"),
        (
            LayerConfig("mlp", "vl", {"inter_multi": 0.01}),
            r"mlp, inter_multi: is 0.01; wanted a number that makes 48 · inter_multi",
        ),
        (LayerConfig("mlp", "vl", {"inter_multi": float("nan")}), r"mlp, inter_multi: is nan; wanted"),
        (LayerConfig("mlp", "vl", {"inter_multi": 10**400}), r"mlp, inter_multi: is 1000.*; wanted"),
        (
            LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "base_lr": 0}),
            r"fast_weight, base_lr: is 0; wanted a number above 0",
        ),
        (
            LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "base_lr": 1e9}),
            r"base_lr: is 1000000000.0; wanted .*100 at most",
        ),
        (LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "inter_multi": -2}), r"fast_weight, inter_multi: is -2; wanted"),
        (
            LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "muon_update_steps": 2.5}),
            r"muon_update_steps: is 2.5; wanted a whole",
        ),
        (
            LayerConfig("register_attention", "vl", {"head_dim": 8, "num_registers": 0}),
            r"num_registers: is 0; wanted a whole number of at least 1",
        ),
        (LayerConfig("self_attention", "l", {"head_dim": 10**400}), r"head_dim: is 10{40,60}.*; wanted a divisor"),
        (LayerConfig("self_attention", "l", {"head_dim": 8, "use_qk_norm": 1}), r"use_qk_norm: is 1; wanted true or false"),
        (LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "w1_only": 1.5}), r"w1_only: is 1.5; wanted true or false"),
        (LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "base_lr": True}), r"base_lr: is True; wanted a number above 0"),
        (LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "inter_multi": True}), r"inter_multi: is True; wanted a number"),
        (
            LayerConfig("fast_weight", "vl", {**FAST_WEIGHT.params, "muon_update_steps": 10**9}),
            r"muon_update_steps: is 1000000000; wanted a whole number of at least 0, 100 at most",
        ),
        (LayerConfig("self_attention", "l", {"head_dim": 5}), r"self_attention, head_dim: is 5; wanted a divisor of dim, 48"),
        (LayerConfig("fast_weight", "l", FAST_WEIGHT.params), r"fast_weight, length_dim: is 'l'; wanted vl"),
        (LayerConfig("register_attention", "l", {"head_dim": 8}), r"register_attention, length_dim: is 'l'; wanted vl"),
    ],
)
def test_a_layer_that_cannot_be_built_is_refused(layer: LayerConfig, match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_layer(layer, 48)


def test_a_layer_that_cannot_be_built_is_named_by_its_file_and_place() -> None:
    config = NetworkConfig(8, 48, 1, (FAST_WEIGHT, LayerConfig("self_attention", "l", {"head_dim": 8.0})))
    with pytest.raises(InputError, match=r"^c.yaml, block\[1\], self_attention, head_dim: is 8.0; wanted a divisor of dim, 48"):
        check_layers(config, "c.yaml")


def test_small_config_is_a_recipe() -> None:
    config = small_config("fast_weight", "mlp")
    assert config_from_dict(config.to_dict()) == config
    assert isinstance(config, NetworkConfig)
