"""AdamW as it is used: decay groups, learning rate, clipping, steps left out, averaged weights."""

import copy
import math
from pathlib import Path

import pytest
import torch

from config import load_config
from model.lact_lvsm import LaCTLVSM
from model.optimiser import apply_step, build_optimiser, gradient_norm, learning_rate, update_average

ROOT = Path(__file__).parent.parent


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2, bias=False))


def with_gradients(model: torch.nn.Module, scale: float = 1.0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
    return model


def test_decay_is_for_tensors_of_two_dimensions_or_more():
    with torch.device("meta"):
        model = LaCTLVSM(load_config(ROOT / "config" / "debug.yaml"))
    groups = build_optimiser(model, 0.05).param_groups
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


def test_learning_rate_without_warmup():
    assert learning_rate(0, 1.0, 0, 10) == 1.0


def test_gradient_norm():
    model = with_gradients(small())
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    torch.testing.assert_close(gradient_norm(model.parameters()), expected)


@pytest.mark.parametrize(("scale", "clip"), [(10.0, 1.0), (0.01, 1.0), (10.0, 0.5)])
def test_step_equals_clipping_and_stepping_plainly(scale, clip):
    model, plain = with_gradients(small(), scale), with_gradients(small(), scale)
    optimiser = build_optimiser(model, 0.05)
    reference = torch.optim.AdamW(
        [{"params": [x for x in plain.parameters() if x.ndim > 1], "weight_decay": 0.05},
         {"params": [x for x in plain.parameters() if x.ndim < 2], "weight_decay": 0.0}],
        betas=(0.9, 0.95), fused=False, foreach=False,
    )
    for step in range(3):
        with_gradients(model, scale), with_gradients(plain, scale)
        norm = gradient_norm(model.parameters())
        apply_step(optimiser, norm, torch.tensor(0.0), 0.01 * (step + 1), clip)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        reference.step()
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # clip_grad_norm_ adds 1e-6 to the norm


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1.0])
def test_refused_step_leaves_everything_untouched(value):
    model = with_gradients(small())
    optimiser = build_optimiser(model, 0.05)
    apply_step(optimiser, gradient_norm(model.parameters()), torch.tensor(0.0), 0.01, 1.0)
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimiser.state_dict()["state"])
    with_gradients(model)[0].weight.grad[1, 2] = value
    apply_step(optimiser, gradient_norm(model.parameters()), torch.tensor(1.0), 0.01, 1.0)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    after = optimiser.state_dict()["state"]
    assert all(torch.equal(after[i][name], state[i][name]) for i in state for name in state[i])
    assert state[0]["step"] == 1


def test_average_by_hand():
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    update_average(average, model, 0.9, step=0)  # decay (0 + 1) / (0 + 10)
    assert average.weight.item() == pytest.approx(0.9)
    torch.nn.init.constant_(average.weight, 0.0)
    update_average(average, model, 0.9, step=1000)
    assert average.weight.item() == pytest.approx(0.1)
