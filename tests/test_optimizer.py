"""AdamW and Muon as used in training: decay groups, learning rate, clipping, skipped steps, averaged weights."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from config import load_config
from model.lact_lvsm import LaCTLVSM
from model.ops.newton_schulz import naive
from model.training import muon
from model.training.optimizer import apply_step, build_optimizer, gradient_norm, learning_rate, update_average

ROOT = Path(__file__).parent.parent


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2, bias=False))


def with_gradients(model: torch.nn.Module, scale: float = 1.0, seed: int = 1) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
    return model


def test_decay_is_for_tensors_of_two_dimensions_or_more():
    with torch.device("meta"):
        model = LaCTLVSM(load_config(ROOT / "config" / "debug.yaml"))
    groups = build_optimizer(model, 0.05).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, other = ({names[id(parameter)] for parameter in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert groups[0]["betas"] == (0.9, 0.95)
    assert {"blocks.0.module_list.1.f.w0", "blocks.0.module_list.1.f.lr_fc.weight", "input_linear.weight"} <= decayed
    assert {"blocks.0.module_list.1.f.lr_fc.bias", "blocks.0.module_list.0.ln.weight", "input_layernorm.weight"} <= other
    assert len(decayed) + len(other) == len(names)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.5), (35, (1 + math.sqrt(0.5)) / 2), (109, (1 + math.cos(0.99 * math.pi)) / 2)],
)
def test_learning_rate_by_hand(step, expected):
    # Warm-up over 10 of 110 steps; half way through the other 100 the cosine is at its middle.
    assert learning_rate(step, 2e-3, 10, 110) == pytest.approx(2e-3 * expected)


def test_learning_rate_that_stays():
    assert [learning_rate(step, 2.0, 4, 10, "constant") for step in (0, 3, 4, 9)] == [0.5, 2.0, 2.0, 2.0]


def test_learning_rate_without_warmup():
    assert learning_rate(0, 1.0, 0, 10) == 1.0


def test_gradient_norm():
    model = with_gradients(small())
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    torch.testing.assert_close(gradient_norm(model.parameters()), expected)


@pytest.mark.parametrize(("scale", "clip"), [(10.0, 1.0), (0.01, 1.0), (10.0, 0.5)])
def test_step_equals_clipping_and_stepping_plainly(scale, clip):
    model, plain = with_gradients(small(), scale), with_gradients(small(), scale)
    optimizer = build_optimizer(model, 0.05)
    reference = torch.optim.AdamW(
        [
            {"params": [x for x in plain.parameters() if x.ndim > 1], "weight_decay": 0.05},
            {"params": [x for x in plain.parameters() if x.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=False,
        foreach=False,
    )
    for step in range(3):
        with_gradients(model, scale), with_gradients(plain, scale)
        norm = gradient_norm(model.parameters())
        apply_step(optimizer, norm, torch.tensor(0.0), 0.01 * (step + 1), clip)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        reference.step()
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # clip_grad_norm_ adds 1e-6 to the norm


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1.0])
def test_refused_step_leaves_everything_untouched(value):
    model = with_gradients(small())
    optimizer = build_optimizer(model, 0.05)
    apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(0.0), 0.01, 1.0)
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimizer.state_dict()["state"])
    with_gradients(model)[0].weight.grad[1, 2] = value
    apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(1.0), 0.01, 1.0)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][name], state[i][name]) for i in state for name in state[i])
    assert state[0]["step"] == 1


def debug_network() -> LaCTLVSM:
    torch.manual_seed(0)
    return LaCTLVSM(load_config(ROOT / "config" / "debug.yaml"))


def test_muon_takes_the_matrices_of_the_blocks():
    model = debug_network()
    optimizer = build_optimizer(model, 0.05, "muon")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    assert groups[0] == {name for name, parameter in model.named_parameters() if name.startswith("blocks.") and parameter.ndim == 2}
    assert {"blocks.0.module_list.1.f.w0", "input_linear.weight"} <= groups[1]
    assert "blocks.0.module_list.0.ln.weight" in groups[2]
    assert sum(map(len, groups)) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05, 0.0]
    assert isinstance(optimizer.muon, torch.optim.Muon)


def test_muon_moves_along_the_singular_vectors_of_the_gradient():
    model = with_gradients(debug_network())
    optimizer = build_optimizer(model, 0.0, "muon")
    weight = model.blocks[0].module_list[2].f.c_fc.weight
    before, gradient = weight.detach().clone(), weight.grad.clone()
    apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(0.0), 0.01, 1.0)
    left, _, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    moved = left.T @ (weight.detach() - before).double() @ right.T / (-0.01 * 0.2 * max(weight.shape) ** 0.5)
    # Jordan's coefficients leave singular values between 0.68 and 1.13; bfloat16 adds its rounding, 2⁻⁸ of some.
    assert ((moved.diagonal() > 0.6) & (moved.diagonal() < 1.25)).all()
    assert (moved - moved.diagonal().diag()).abs().max() < 0.05


def test_muon_averages_clipped_gradients():
    # After a huge gradient, clipped to norm 1, another one still turns the direction, however huge the first was.
    def moved(scale: float, clip: float) -> Tensor:
        model = debug_network()
        weight = model.blocks[0].module_list[2].f.c_fc.weight
        optimizer, before = build_optimizer(model, 0.0, "muon"), weight.detach().clone()
        for factor, seed in ((scale, 1), (1.0, 2)):
            with_gradients(model, factor, seed)
            apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(0.0), 0.01, clip)
        return weight.detach() - before

    expected = moved(1e3, 1.0)
    assert (moved(1e6, 1.0) - expected).norm() < 0.02 * expected.norm()  # the rounding of bfloat16
    assert (moved(1e6, 1e9) - expected).norm() > 0.2 * expected.norm()


def test_muon_without_bfloat16_in_hardware_takes_the_steps_of_torch(monkeypatch):
    def trained(native: bool) -> tuple[Tensor, list[Tensor]]:
        for module in (muon, naive):
            monkeypatch.setattr(module, "CPU_HAS_BFLOAT16", native)
        model = debug_network()
        optimizer = build_optimizer(model, 0.5, "muon")
        for seed in range(4):
            with_gradients(model, 1.0, seed)
            apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(0.0), 0.05, 1.0)
        weights = optimizer.muon.param_groups[0]["params"]
        return torch.cat([x.detach().flatten() for x in weights]), [optimizer.muon.state[x]["momentum_buffer"] for x in weights]

    start = torch.cat([x.flatten() for name, x in debug_network().named_parameters() if name.startswith("blocks.") and x.ndim == 2])
    (found, momenta), (expected, expected_momenta) = trained(False), trained(True)
    assert all(map(torch.equal, momenta, expected_momenta))
    # Sums in another order round to another of bfloat16's 8 bits now and then.
    assert (found - expected).norm() < 0.02 * (expected - start).norm()


@pytest.mark.parametrize("value", [torch.nan, 1.0])
def test_refused_step_leaves_muon_untouched(value):
    model = with_gradients(debug_network())
    optimizer = build_optimizer(model, 0.05, "muon")
    apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(0.0), 0.01, 1.0)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    with_gradients(model)
    model.blocks[0].module_list[2].f.c_fc.weight.grad[1, 2] = value
    apply_step(optimizer, gradient_norm(model.parameters()), torch.tensor(1.0), 0.01, 1.0)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    after = optimizer.state_dict()
    for kind in ("muon", "adamw"):
        assert state[kind]["state"]
        for i, tensors in state[kind]["state"].items():
            assert all(torch.equal(after[kind]["state"][i][name], tensor) for name, tensor in tensors.items())


def test_average_by_hand():
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    update_average(average, model, 0.9, step=0)  # decay (0 + 1) / (0 + 10)
    assert average.weight.item() == pytest.approx(0.9)
    torch.nn.init.constant_(average.weight, 0.0)
    update_average(average, model, 0.9, step=1000)
    assert average.weight.item() == pytest.approx(0.1)
