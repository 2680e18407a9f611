"""The network on every device: chunks, compiling, gradients, host syncs, memory. A CPU runs the same lines as a GPU."""

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

import train
from config import load_config
from config.recipe import read_recipe
from data.synthetic.pool import ScenePool
from model import LaCTLVSM, SceneState, runtime
from model.metric import psnr
from model.parallel.context import ContextGroup
from model.parallel.share import share_views
from model.training.flops import Workload
from model.training.log import Window
from model.training.loss import render_loss
from model.training.optimizer import apply_step, build_optimizer, gradient_norm
from model.training.state import TrainingState
from tests.support.host_sync import no_host_sync
from tests.support.networks import cameras, on, random_views, relative_error, small_model

LACT = ("self_attention", "fast_weight", "mlp")
ADDRESSED = ("self_attention", "fast_weight by foot", "mlp")
CPU = torch.device("cpu")
# Compilation is tested, not the compiler: on a CPU, the graphs alone.
BACKEND = {"cpu": "aot_eager", "cuda": "inductor"}


def model_on(device: torch.device, layers: tuple[str, ...] = LACT, implementation: str = "naive") -> LaCTLVSM:
    return small_model(*layers).to(device).set_fast_weight(torch.float32, implementation)


@pytest.mark.parametrize("layers", [LACT, ADDRESSED])
def test_chunks_change_nothing_and_one_pass_is_reconstruct_and_render(device, layers):
    model, given, wanted = model_on(device, layers), random_views(2, 5, 8, 12), random_views(2, 3, 8, 12, seed=3)
    expected = small_model(*layers)(given, wanted)
    for chunk_views in (1, 3, 5, None):
        state = model.reconstruct(**given, chunk_views=chunk_views)
        rendered = model.render(state, *cameras(wanted), (8, 12), chunk_views)
        assert rendered.device.type == device.type
        assert (rendered.cpu() - expected).abs().max() < 1e-5  # float32, sums in another order
    assert (model(on(device, given), on(device, wanted)).cpu() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("layers", [LACT, ADDRESSED])
def test_states_grow_and_shrink_as_on_the_cpu(device, layers, tmp_path):
    given, wanted = random_views(1, 6, 8, 12), random_views(1, 2, 8, 12, seed=3)
    first, more, last = ({name: x[:, part] for name, x in given.items()} for part in (slice(2), slice(2, 5), slice(5, 6)))
    views = list(zip(*(given[name][0] for name in ("image", "fxfycxcy", "c2w")), strict=True))
    found = []
    for model in (small_model(*layers), model_on(device, layers)):
        state = model.extend(model.reconstruct(**on(model.device, first), keep_sums=True), **more)
        state.save(tmp_path / "state.safetensors")
        loaded = SceneState.load(tmp_path / "state.safetensors")
        states = [
            model.forget(model.extend(loaded, **on(model.device, last)), **more),
            model.reconstruct_stream(views, 2, 2, first=3),
        ]
        found.append(torch.cat([model.render(state, *cameras(wanted), (8, 12)).cpu() for state in states]))
    assert (found[1] - found[0]).abs().max() < 1e-5  # float32, sums in another order


def test_bfloat16_stays_near_float32(device):
    given, wanted = on(device, random_views(2, 5, 8, 12)), on(device, random_views(2, 3, 8, 12, seed=3))
    exact = model_on(device)(given, wanted)
    narrow = model_on(device).set_compute_dtype(torch.bfloat16)
    rendered = narrow.render(narrow.reconstruct(**given), *cameras(wanted), (8, 12))
    assert psnr(rendered, exact).mean() > 30
    assert not torch.equal(rendered, exact)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [LACT, ADDRESSED])
def test_compiled_network_is_the_eager_one_and_is_not_compiled_for_every_number_of_views(device, layers):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager, compiled = model_on(device, layers), model_on(device, layers)
    compiled.compile_layers(backend=BACKEND[device.type])
    graphs = []
    for views in (2, 3, 5, 4, 7):
        given, wanted = random_views(1, views, 8, 12, seed=views), random_views(1, views + 1, 8, 12, seed=9)
        rendered = compiled.render(compiled.reconstruct(**given), *cameras(wanted), (8, 12))
        assert (rendered - eager.render(eager.reconstruct(**given), *cameras(wanted), (8, 12))).abs().max() < 1e-4
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # One number of views, then any: write, read of inputs and of targets, attention, MLP, twice each at most.
    assert graphs[1] <= 2 * 5
    assert graphs[2:] == [graphs[1]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "recomputed", "compiled"])
def test_gradients_are_those_of_the_cpu(device, variant):
    given, wanted = random_views(2, 3, 8, 12), random_views(2, 2, 8, 12, seed=3)

    def gradients(model: LaCTLVSM) -> dict[str, Tensor]:
        place = model.device
        loss, _ = render_loss(model(on(place, given), on(place, wanted)), wanted["image"].to(place), None, 0.0)
        loss.backward()
        return {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}

    expected, model = gradients(small_model(*LACT)), model_on(device)
    model.activation_checkpointing = variant == "recomputed"
    if variant == "compiled":
        model.compile_layers(backend=BACKEND[device.type])
    for name, found in gradients(model).items():
        # As the golden gradients: float32, and lr_fc.bias is a sum of cancelling terms, which their order moves by 0.6 %.
        bound = {"cpu": 1e-2, "cuda": 3e-2}[device.type] if name.endswith("lr_fc.bias") else 1e-3
        assert relative_error(found, expected[name]) < bound, name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("poses", ["given", "normalised"])
def test_host_waits_for_nothing_in_a_training_step_between_log_lines(device, optimizer, poses):
    kind = ["synthetic:objects"] if poses == "given" else ["synthetic:scenes", "--scene_pose_normalize"]
    flags = "--pool 4 --num_all_views 5 --image_size 8 12 --num_input_views 2 --num_target_views 2 --bs_per_gpu 2 --grad_accum 2"
    flags += f" --ema 0.9 --steps 9 --warmup 2 --optimizer {optimizer}"
    recipe = read_recipe(["--data_path", *kind, *flags.split()])
    layers = ADDRESSED if poses == "given" else LACT
    processes = train.Processes(0, 1, device)
    state = TrainingState(small_model(*layers).config, recipe, device, torch.float32)
    state.model.set_fast_weight(torch.float32, "naive")
    window = Window(processes, Workload(4, 1, 1, 1.0))
    source = train.open_source(recipe.data_path, recipe, 4, device, data_share=(0, 1))
    batches = train.load_ahead(source, train.sample_numbers(0, recipe, processes), device)
    share = share_views(recipe, ContextGroup(0, 1, ""))

    take_step = train.Step(state.model, state, None, share, recipe, processes, window)

    def step() -> None:
        figures, skipped, bad_data = take_step(batches, train.setting_of(state.step, recipe))
        assert bad_data is None
        state.finish_step(skipped, recipe)
        window.add(figures, skipped)

    try:
        step()  # kernels load, the pool is filled
        pool = source.pool
        with pool._changed:  # its thread does wait for the device: here it has nothing left to do
            assert pool._changed.wait_for(lambda: pool._made == pool.slots, timeout=60)
        with no_host_sync(device):
            step()
            step()
        assert window.steps == 3
    finally:
        source.close()


@pytest.mark.parametrize("layers", [LACT, ADDRESSED])
def test_host_waits_for_nothing_while_views_are_rendered(device, layers):
    model, given, wanted = model_on(device, layers), random_views(1, 3, 8, 12), on(device, random_views(1, 4, 8, 12, seed=3))
    state = model.reconstruct(**given)
    expected = model.render(state, *cameras(wanted), (8, 12))
    with no_host_sync(device):
        chunks = list(model.render_stream(state, *cameras(wanted), (8, 12), chunk_views=3))
    assert relative_error(torch.cat(chunks, dim=1), expected) < 1e-5


def test_host_sync_is_found(device):
    x = torch.ones(3, device=device)
    with pytest.raises((AssertionError, RuntimeError), match=r"host sync|synchroniz"), no_host_sync(device):
        float(x.sum())


def test_pool_and_training_share_a_device(device):
    # Scenes are overwritten while others are drawn: each view must be the one that its number stands for.
    pools = [ScenePool("objects", 3, 8, 2, (8, 12), device) for _ in range(2)]
    moving, fresh = pools
    views = np.tile(np.arange(2), (moving.scenes, 1))
    try:
        load = torch.randn(512, 512, device=device)
        for first in range(0, 10 * moving.group, moving.group):
            moving.move(first)
            for _ in range(5):
                load = torch.tanh(load @ load / 512)  # what training would do meanwhile
            found = moving.draw(range(first, first + moving.scenes), views)
        fresh.move(9 * moving.group)
        expected = fresh.draw(range(first, first + moving.scenes), views)
        assert torch.equal(found["image"], expected["image"])
        assert torch.equal(found["c2w"], expected["c2w"])
    finally:
        for pool in pools:
            pool.close()


@pytest.mark.gpu
def test_chunks_by_free_memory_fit_beside_a_tensor_that_takes_half_of_it(monkeypatch):
    device = torch.device("cuda", 0)
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    beside = [torch.empty(free // 2, dtype=torch.uint8, device=device)]
    beside.append(torch.empty(max(free - free // 2 - (6 << 30), 0), dtype=torch.uint8, device=device))  # 6 GiB are left
    monkeypatch.setitem(runtime.CHUNK_TOKENS, "cuda", 1 << 40)
    model = LaCTLVSM(load_config("config/debug.yaml")).to(device).set_fast_weight(torch.float32, "naive")
    views = 160  # of 4096 tokens: all at once take 10 GB
    given = {"image": torch.rand(1, 1, 3, 512, 512).expand(1, views, 3, 512, 512),
             "fxfycxcy": torch.tensor([512.0, 512.0, 256.0, 256.0]).expand(1, views, 4),
             "c2w": torch.eye(4).expand(1, views, 4, 4)}  # fmt: skip
    with pytest.raises(torch.OutOfMemoryError):
        model.reconstruct(**given, chunk_views=views)
    gc.collect()
    torch.cuda.empty_cache()
    assert all(layer["w0"].isfinite().all() for layer in model.reconstruct(**given).layers)


@pytest.mark.skipif(torch.version.cuda is None, reason="no CUDA build of torch: it knows no CUDA device, not even without data")
@pytest.mark.parametrize("config", ["debug", "lact_l4_d256_foot"])
def test_no_operation_mixes_devices(config):
    """Run the whole path on CUDA tensors without data: needs a CUDA build of torch, no GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        with torch.device("cuda"):
            model = LaCTLVSM(load_config(f"config/{config}.yaml")).set_compute_dtype(torch.bfloat16)
        model.set_fast_weight(torch.bfloat16, "naive")
        model.fingerprint = lambda: "no data"
        given, wanted = (
            {name: torch.empty_like(x, device="cuda") for name, x in random_views(2, v, 16, 24).items()} for v in (3, 2)
        )
        rendered = model(given, wanted)
        loss, _ = render_loss(rendered, wanted["image"], None, 0.0)
        assert loss.device.type == "cuda"
        state = model.reconstruct(**given, chunk_views=2)
        assert model.render(state, *cameras(wanted), (16, 24), chunk_views=1).device.type == "cuda"
        for kind in ("adamw", "muon"):
            optimizer = build_optimizer(model, 0.05, kind)
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            norm = gradient_norm(model.parameters())
            apply_step(optimizer, norm, (~norm.isfinite()).float(), 1e-3, 1.0)
        assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
