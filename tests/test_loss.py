"""The training loss: squared error, neighbouring differences, LPIPS, and ways to compute the latter in less memory."""

import math

import pytest
import torch
from torch import Tensor

from model.metric import LPIPS
from model.training.loss import LPIPS_VIEWS, render_loss
from tests.support.lpips_weights import head_weights, vgg_weights


@pytest.fixture(scope="module")
def lpips():
    """LPIPS with random weights: any will do."""
    return LPIPS(vgg_weights(), head_weights())


def images(b: int = 2, v: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rendered, target = (torch.rand(b, v, 3, 16, 24, generator=generator) for _ in range(2))
    return rendered.requires_grad_(), target


def test_squared_error_by_hand():
    rendered = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 4)
    target = torch.tensor([0.0, 1.0, 0.8]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 4)
    loss, parts = render_loss(rendered, target, None, 1.0)
    assert loss.item() == pytest.approx((0.25 + 0.04) / 3)
    assert parts.pop("mse") == loss
    assert parts.pop("psnr").item() == pytest.approx(-10 * math.log10((0.25 + 0.04) / 3))
    assert not parts


def test_psnr_is_the_mean_over_views_of_each_ones_psnr():
    target = torch.zeros(1, 2, 3, 2, 4)
    rendered = torch.tensor([0.1, 0.01]).view(1, 2, 1, 1, 1).expand_as(target)
    assert render_loss(rendered, target, None, 1.0)[1]["psnr"].item() == pytest.approx((20 + 40) / 2, abs=1e-4)


def test_differences_of_neighbours_against_a_loop():
    rendered, target = images()
    error = (rendered - target).detach().double().numpy()
    squares = []
    for image in error.reshape(-1, *error.shape[-2:]):
        h, w = image.shape
        squares += [(image[y + 1, x] - image[y, x]) ** 2 for y in range(h - 1) for x in range(w)]
        squares += [(image[y, x + 1] - image[y, x]) ** 2 for y in range(h) for x in range(w - 1)]
    loss, parts = render_loss(rendered, target, None, 1.0, gradient_weight=0.3)
    assert parts["gradient"].item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert parts["mse"].item() == pytest.approx((error**2).mean(), rel=1e-5)
    assert loss.item() == pytest.approx(parts["mse"].item() + 0.3 * parts["gradient"].item(), rel=1e-5)
    assert not parts["gradient"].requires_grad


def test_differences_see_edges_and_no_offset():
    target = images()[1]
    shifted, step = target + 0.1, target.clone()
    step[..., 8:] += 0.1  # at a border of patches
    assert render_loss(shifted, target, None, 1.0, gradient_weight=1.0)[1]["gradient"].item() < 1e-12
    expected = 0.1**2 * 16 / (15 * 24 + 16 * 23)
    assert render_loss(step, target, None, 1.0, gradient_weight=1.0)[1]["gradient"].item() == pytest.approx(expected, rel=1e-4)


def test_no_weight_for_differences_changes_no_bit(lpips):
    results = []
    for settings in ({}, {"gradient_weight": 0.0}):
        rendered, target = images()
        loss, parts = render_loss(rendered, target, lpips, 0.3, **settings)
        loss.backward()
        results.append((loss.detach(), rendered.grad))
        assert list(parts) == ["mse", "psnr", "lpips"]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    rendered, target = images()
    assert torch.equal(render_loss(rendered, target, None, 0.3)[0], torch.nn.functional.mse_loss(rendered, target))


def test_lpips_is_added_with_its_weight(lpips):
    rendered, target = images()
    loss, parts = render_loss(rendered, target, lpips, 0.3)
    distance = torch.stack([lpips(one, other) for one, other in zip(rendered.flatten(0, 1), target.flatten(0, 1), strict=True)])
    assert parts["lpips"].item() == pytest.approx(distance.mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(((rendered - target) ** 2).mean().item() + 0.3 * distance.mean().item(), rel=1e-5)
    assert not parts["lpips"].requires_grad


def test_recomputed_trunk_gives_the_same_gradient(lpips):
    gradients = []
    for recompute in (False, True):
        rendered, target = images(b=1, v=LPIPS_VIEWS + 1)
        render_loss(rendered, target, lpips, 1.0, recompute)[0].backward()
        gradients.append(rendered.grad)
    torch.testing.assert_close(*gradients)


def test_bfloat16_trunk_is_near_float32(lpips):
    rendered, target = images()
    exact, rounded = (render_loss(rendered, target, lpips, 1.0, autocast=autocast)[0] for autocast in (False, True))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)  # bfloat16 has 8 bits
    assert rounded.item() != exact.item()
