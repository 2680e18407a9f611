"""Attention in float64 against a softmax loop, its gradients against autograd; choice of implementation."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.ops import attention as op
from model.ops.attention import attention, products
from tests.support.networks import relative_error

# Queries, keys: odd and unequal, one of each, more keys than queries and the other way round.
LENGTHS = [(5, 7), (1, 9), (8, 1), (11, 4)]


def draw(l: int = 5, s: int = 7, b: int = 2, n: int = 3, k: int = 6, dtype: torch.dtype = torch.float64) -> tuple:
    """Return query (b, l, n, k), key and value (b, s, n, k), cut out of one tensor as a layer cuts them."""
    tokens = torch.randn(b, l + 2 * s, n, k, generator=torch.Generator().manual_seed(l * s), dtype=torch.float64)
    return tuple(x.to(dtype) for x in tokens.split([l, s, s], dim=1))


def in_loops(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = torch.zeros_like(query)
    for b, l, n in torch.cartesian_prod(*(torch.arange(x) for x in query.shape[:3])).tolist():
        weights = [math.exp(float(query[b, l, n] @ key[b, s, n]) / math.sqrt(query.shape[3])) for s in range(key.shape[1])]
        out[b, l, n] = sum(w / sum(weights) * value[b, s, n] for s, w in enumerate(weights))
    return out.flatten(2)


def gradients(call: Callable, parts: tuple, d: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in parts]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, d)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two queries and of few heads: the last ones are smaller."""
    monkeypatch.setattr(products, "BLOCK_LOGITS", 40)
    monkeypatch.setattr(products, "BLOCK_QUERIES", 2)


@pytest.mark.parametrize("implementation", ["naive", "fused", "products"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_attention_is_the_softmax_written_as_a_loop(implementation: str, lengths: tuple[int, int], grad: bool) -> None:
    query, key, value = draw(*lengths)
    with torch.set_grad_enabled(grad):
        found = attention(query, key, value, implementation)
    assert relative_error(found, in_loops(query, key, value)) < 1e-12


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.usefixtures("small_blocks")
def test_the_written_derivative_is_the_limit_of_differences(lengths: tuple[int, int]) -> None:
    parts = [x.clone().requires_grad_() for x in draw(*lengths, b=1, n=2, k=3)]
    # 1e-6 steps, 1e-5 apart at most.
    assert torch.autograd.gradcheck(lambda *x: attention(*x, implementation="products"), parts)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_written_derivative_is_that_of_autograd(lengths: tuple[int, int]) -> None:
    parts = draw(*lengths)
    d = torch.randn(2, lengths[0], 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = (gradients(lambda *x, y=name: attention(*x, implementation=y), parts, d) for name in ("products", "naive"))
    for x, y in zip(found, expected, strict=True):
        assert relative_error(x, y) < 1e-12 or y.abs().max() < 1e-12  # one key: no logit matters


def test_in_bfloat16_result_and_gradients_are_those_of_float64() -> None:
    parts = draw(33, 65, k=16, dtype=torch.bfloat16)
    d = torch.randn(2, 33, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = gradients(lambda *x: attention(*x, implementation="naive"), tuple(x.double() for x in parts), d)
    found = gradients(lambda *x: attention(*x, implementation="products"), parts, d.bfloat16())
    for x, y in zip(found, exact, strict=True):
        # Logits of up to 4, probabilities and their gradients are rounded to 8 bits each: 0.003 to 0.004.
        assert relative_error(x.double(), y) < 0.01
    with torch.no_grad():
        assert relative_error(attention(*parts, implementation="products").double(), exact[0]) < 0.01


@pytest.mark.parametrize("implementation", ["auto", "products"])
def test_blocks_do_not_change_the_result(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, d = draw(), torch.randn(2, 5, 18, dtype=torch.float64)
    whole = gradients(lambda *x: attention(*x, implementation=implementation), parts, d)
    monkeypatch.setattr(products, "BLOCK_LOGITS", 1)
    in_parts = gradients(lambda *x: attention(*x, implementation=implementation), parts, d)
    for x, y in zip(in_parts, whole, strict=True):
        assert relative_error(x, y) < 1e-12


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("grad", [False, True])
def test_results_do_not_depend_on_memory_that_was_not_written(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, d = draw(dtype=torch.bfloat16), torch.randn(2, 5, 18).bfloat16()

    def run() -> list[Tensor]:
        if grad:
            return gradients(lambda *x: attention(*x, implementation="products"), parts, d)
        with torch.no_grad():
            return [attention(*parts, implementation="products")]

    expected = run()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        found = run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("implementation", op.IMPLEMENTATIONS)
def test_without_queries_keys_and_values_still_get_a_gradient(implementation: str) -> None:
    query, key, value = draw(0, 4, dtype=torch.bfloat16)
    found = gradients(lambda *x: attention(*x, implementation=implementation), (query, key, value), torch.zeros(2, 0, 18))
    assert found[0].shape == (2, 0, 18)
    assert not any(x.any() for x in found[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grad", [False, True])
def test_in_float32_attention_is_torchs_own_to_the_bit(dtype: torch.dtype, grad: bool) -> None:
    query, key, value = draw(dtype=dtype)
    with torch.set_grad_enabled(grad):
        expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        assert torch.equal(attention(query, key, value), expected.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("bfloat16", "amx", "grad", "keys", "expected"),
    [
        (True, False, False, 4, True),
        (True, True, False, 4, False),  # torch's kernel uses AMX
        (True, False, True, 4, True),
        (True, True, True, 4, True),
        (True, False, True, 6, False),  # more probabilities than are kept
        (True, False, False, 6, True),
        (False, False, False, 4, False),
        (False, False, True, 4, False),
    ],
)
def test_the_choice_is_made_by_machine_shape_and_gradient(
    bfloat16: bool, amx: bool, grad: bool, keys: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "CPU_HAS_BFLOAT16", bfloat16)
    monkeypatch.setattr(op, "CPU_HAS_AMX", amx)
    monkeypatch.setattr(op, "KEPT_KEYS", 5)
    chosen = []
    monkeypatch.setattr(op, "attention_by_products", lambda query, key, value: chosen.append(True) or query)
    with torch.set_grad_enabled(grad):
        attention(*draw(3, keys, dtype=torch.bfloat16))
        attention(*draw(3, keys, dtype=torch.float32))
    assert chosen == [True] * expected  # never in float32


@pytest.mark.slow
@pytest.mark.parametrize("grad", [False, True])
def test_compiled_in_one_graph_it_is_the_same_for_every_number_of_views(grad: bool) -> None:
    torch._dynamo.reset()
    call = torch.compile(lambda *x: attention(*x, implementation="products"), fullgraph=True, backend="aot_eager")

    def run(b: int) -> None:
        parts, d = draw(b=b, dtype=torch.bfloat16), torch.randn(b, 5, 18).bfloat16()
        if grad:
            found, expected = (gradients(f, parts, d) for f in (call, lambda *x: attention(*x, implementation="products")))
        else:
            with torch.no_grad():
                found, expected = [call(*parts)], [attention(*parts, implementation="products")]
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    run(2)
    run(3)  # the number becomes a variable
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(4)
        run(7)


def test_shapes_that_do_not_fit_are_refused() -> None:
    query, key, value = draw()
    for wrong in ((query, key, value[:, 1:]), (query[:1], key, value), (query[..., 1:], key, value), (query[:, :, 1:], key, value)):
        with pytest.raises(ValueError, match=r"attention: query, key, value are .*; wanted b l n k, b s n k, b s n k"):
            attention(*wrong)


def test_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention: implementation is 'fast'; wanted one of auto, naive, fused, products"):
        attention(*draw(), implementation="fast")
