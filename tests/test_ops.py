"""Newton-Schulz against the SVD, the fast-weight gradients against autograd of the written loss, in float64."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.ops import fast_weight as op
from model.ops.newton_schulz import naive, newton_schulz
from model.ops.newton_schulz.naive import Step
from model.ops.product import product
from tests.support.networks import GOLDEN, relative_error

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.mark.parametrize("shape", [(2, 7, 12), (3, 12, 7), (1, 9, 9), (2, 1, 5)])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_newton_schulz_moves_singular_values_along_the_polynomial(shape: tuple[int, ...], steps: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    s = s / (s.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    for _ in range(steps):
        s = sum(c * s**power for c, power in zip(COEFFICIENTS, (1, 3, 5), strict=True))
    expected = u @ torch.diag_embed(s) @ vt
    assert relative_error(newton_schulz(x, steps, torch.float64), expected) < 1e-10


def test_newton_schulz_orthogonalises() -> None:
    x = torch.randn(1, 40, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(newton_schulz(x, 5, torch.float64))
    # The quintic's fixed band for singular values above 1/60 of the Frobenius norm.
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("name", ["newton_schulz", "newton_schulz_tall"])
def test_newton_schulz_in_bfloat16_is_nearer_to_the_truth_than_the_golden_one(name: str) -> None:
    golden = np.load(GOLDEN / "cameras_and_ops.npz")
    x, expected = (torch.from_numpy(golden[f"{name}.{part}"]) for part in ("in", "expect"))
    result, exact = newton_schulz(x, 5), newton_schulz(x.double(), 5, torch.float64)
    assert result.dtype == torch.bfloat16
    # Fused sums round once where the published ones round twice: 1.5 % from float64, and the golden figures are 3.5 %.
    assert relative_error(result.double(), exact) < relative_error(expected.double(), exact)
    assert relative_error(result.float(), expected) < 0.05


def test_the_written_derivative_is_the_limit_of_differences() -> None:
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Step.apply(x, False), x)  # 1e-6 steps, 1e-5 apart at most


def test_newton_schulz_in_bfloat16_has_the_gradient_of_float64() -> None:
    x, d = (torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (4, 5))
    gradients = []
    for dtype in (torch.float64, torch.bfloat16):
        variable = x.clone().requires_grad_()
        (newton_schulz(variable, 2, dtype).double() * d).sum().backward()
        gradients.append(variable.grad)
    assert relative_error(gradients[1], gradients[0]) < 0.05  # 8 bits through two steps and back: 0.02


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24)])
def test_emulated_bfloat16_is_bfloat16(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    x, d = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (6, 7))

    def run(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        variable = x.clone().requires_grad_()
        result = newton_schulz(variable.to(dtype) if dtype == torch.float64 else variable, 5, dtype)
        assert result.dtype == dtype
        (result.double() * d).sum().backward()
        assert variable.grad is not None
        return result.double().detach(), variable.grad.double()

    found = {}
    for native in (True, False):
        monkeypatch.setattr(naive, "CPU_HAS_BFLOAT16", native)
        found[native] = run(torch.bfloat16)
        with torch.no_grad():
            assert torch.equal(newton_schulz(x, 5).double(), found[native][0]), "with and without a gradient"
    # Sums in another order now and then round to another of 8 bits: less than what rounding itself does.
    for emulated, bfloat16, exact in zip(found[False], found[True], run(torch.float64), strict=True):
        assert relative_error(emulated, bfloat16) < relative_error(bfloat16, exact)
        assert relative_error(emulated, exact) < 1.2 * relative_error(bfloat16, exact)


def test_newton_schulz_leaves_zero_zero() -> None:
    assert torch.equal(newton_schulz(torch.zeros(1, 3, 5), 5, torch.float32), torch.zeros(1, 3, 5))


@pytest.mark.parametrize(("x", "dtype"), [(torch.zeros(3, 5), torch.float32), (torch.zeros(1, 3, 5), torch.int64)])
def test_newton_schulz_refuses_what_is_no_batch_of_matrices(x: Tensor, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"newton_schulz: .*wanted"):
        newton_schulz(x, 5, dtype)


@pytest.mark.parametrize("rows", [1, 512, 513, 700, 1024, 1535, 1536])
@pytest.mark.parametrize("transposed", [False, True])
def test_product_in_blocks_of_rows_is_the_product(rows: int, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 24, generator=generator).bfloat16()
    w = torch.randn(7, 24, generator=generator).bfloat16().mT if transposed else torch.randn(24, 7, generator=generator).bfloat16()
    monkeypatch.setattr(Tensor, "new_empty", lambda self, *size: self.new_full(size, torch.nan))
    with torch.no_grad():
        found = product(x, w)
    # The result is rounded to bfloat16, 2^-9 of each number.
    assert relative_error(found.double(), x.double() @ w.double()) < 2**-8


def test_product_has_a_gradient() -> None:
    x, w = torch.randn(700, 5).bfloat16().requires_grad_(), torch.randn(5, 3).bfloat16().requires_grad_()
    product(x, w).sum().backward()
    assert relative_error(x.grad.float(), w.detach().float().sum(1).expand(700, 5)) < 2**-7


def tokens(b: int = 2, l: int = 11, k: int = 6, m: int = 9, seed: int = 0) -> tuple:
    """Return weights, key, value, learning rate, float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = (draw(b, k, m), draw(b, m, k), draw(b, k, m))
    return weights, draw(b, l, k), draw(b, l, k), draw(3, b, l, 1).exp()


def test_gradients_are_those_of_the_written_loss() -> None:
    weights, key, value, learning_rate = tokens()
    found = op.gradients(weights, key, value, learning_rate)
    for i, gradient in enumerate(found):
        leaves = [w.clone().requires_grad_() for w in weights]
        inner = (F.silu(key @ leaves[0]) * (key @ leaves[2])) @ leaves[1]
        loss = -(learning_rate[i] * value * inner).sum()
        loss.backward()
        # The step goes down the loss.
        assert relative_error(gradient, -leaves[i].grad) < 1e-12, f"w{i}"


def test_gradients_are_a_sum_over_tokens() -> None:
    weights, key, value, learning_rate = tokens(l=13)
    whole = op.gradients(weights, key, value, learning_rate)
    parts = [
        op.gradients(weights, key[:, s], value[:, s], learning_rate[:, :, s]) for s in (slice(0, 4), slice(4, 5), slice(5, 13))
    ]
    for i in range(3):
        assert relative_error(sum(part[i] for part in parts), whole[i]) < 1e-12


def test_training_differentiates_through_gradients_and_update() -> None:
    weights, key, value, learning_rate = tokens(b=1, l=4, k=3, m=4)

    def run(key: Tensor, value: Tensor, learning_rate: Tensor) -> Tensor:
        step = op.gradients(weights, key, value, learning_rate)
        moved = op.update(weights, step, 2, torch.float64)
        return op.apply(moved, key)

    inputs = tuple(x.requires_grad_() for x in (key, value, learning_rate))
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=1e-6)


def test_update_adds_the_orthogonal_step_and_keeps_every_columns_norm() -> None:
    weights, key, value, learning_rate = tokens()
    step = op.gradients(weights, key, value, learning_rate)
    moved = op.update(weights, step, 5, torch.float64)
    for before, d, after in zip(weights, step, moved, strict=True):
        added = before + newton_schulz(d, 5, torch.float64)
        for b, column in itertools.product(range(before.shape[0]), range(before.shape[2])):
            old, new = before[b, :, column], added[b, :, column]
            expected = new / (new.norm() + 1e-5) * old.norm()
            assert relative_error(after[b, :, column], expected) < 1e-9


def test_the_norm_to_keep_carries_no_gradient() -> None:
    # One row: w0 has columns of length 1, so that with its norm kept by a constant it cannot change by scaling.
    w0 = torch.tensor([[[2.0, -3.0]]], dtype=torch.float64, requires_grad=True)
    w1, w2 = torch.ones(1, 2, 1, dtype=torch.float64), torch.ones(1, 1, 2, dtype=torch.float64)
    steps = (torch.zeros(1, 1, 2, dtype=torch.float64), torch.zeros(1, 2, 1, dtype=torch.float64), torch.zeros_like(w2))
    moved = op.update((w0, w1, w2), steps, 1, torch.float64)[0]
    moved.sum().backward()
    # With w = |w| fixed, d(w / (|w| + ε) · |w|)/dw = |w| ε / (|w| + ε)²: all but nothing. With its gradient it would be about 1.
    assert w0.grad.abs().max() < 1e-5


def test_apply_is_the_mlp_token_by_token() -> None:
    weights, query, _, _ = tokens()
    found = op.apply(weights, query)
    for b, l in itertools.product(range(2), range(11)):
        gate, up = query[b, l] @ weights[0][b], query[b, l] @ weights[2][b]
        expected = (gate / (1 + torch.exp(-gate)) * up) @ weights[1][b]
        assert relative_error(found[b, l], expected) < 1e-12


def test_results_do_not_depend_on_memory_that_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, key, value, learning_rate = tokens()
    expected = op.update(weights, op.gradients(weights, key, value, learning_rate))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        found = op.update(weights, op.gradients(weights, key, value, learning_rate))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_shapes_that_do_not_fit_are_refused() -> None:
    weights, key, value, learning_rate = tokens()
    with pytest.raises(ValueError, match=r"fast_weight.gradients: .*wanted b k m, b l k"):
        op.gradients(weights, key, value[:, 1:], learning_rate)


def test_unknown_implementation_is_refused() -> None:
    weights, query, _, _ = tokens()
    with pytest.raises(ValueError, match=r"implementation is 'fast'; wanted one of auto, naive, compiled, autotuned"):
        op.apply(weights, query, "fast")


@pytest.mark.slow
def test_compiled_equals_naive() -> None:
    weights, key, value, learning_rate = tokens()
    naive = op.gradients(weights, key, value, learning_rate, "naive")
    compiled = op.gradients(weights, key, value, learning_rate, "compiled")
    for x, y in zip(compiled, naive, strict=True):
        assert relative_error(x, y) < 1e-12


def test_operations_on_every_device_are_those_of_the_cpu(device: torch.device) -> None:
    implementation = "compiled" if device.type == "cuda" else "naive"
    weights, query, value, learning_rate = tokens(l=64, k=16, m=32)
    there = tuple(x.to(device) for x in weights)
    expected = op.gradients(weights, query, value, learning_rate)
    found = op.gradients(there, query.to(device), value.to(device), learning_rate.to(device), implementation)
    for x, y in zip(found, expected, strict=True):
        assert relative_error(x.cpu(), y) < 1e-10
    # Newton-Schulz turns a difference of 1e-7 in its input into 1e-2: float64 goes in.
    for steps, bound in ((0, 1e-10), (5, 1e-6)):
        updated = op.update(there, tuple(x.to(device) for x in expected), steps, torch.float64, implementation)
        for x, y in zip(updated, op.update(weights, expected, steps, torch.float64), strict=True):
            assert relative_error(x.cpu(), y) < bound
    assert relative_error(op.apply(there, query.to(device), implementation).cpu(), op.apply(weights, query)) < 1e-10
