"""FLOPs of a training step against counts by hand."""

import pytest
import torch

from config import config_from_dict
from model.training.flops import matmul_rate, training_flops

# Letters: v inputs, u targets, t tokens of a view, d width, k head width, m hidden width, p patch side.
V, U, T, D, P = 3, 2, 6, 16, 4
SIZE = (2 * P, 3 * P)


def flops(layers: int, *block: dict) -> int:
    return training_flops(config_from_dict({"patch_size": P, "dim": D, "layers": layers, "block": list(block)}), V, U, SIZE)


def linear(tokens: int, rows: int, columns: int, products: int = 3) -> int:
    """Return the FLOPs of a linear map: forward, and the gradients of its input and of its weight."""
    return products * 2 * tokens * rows * columns


def ends() -> int:
    """Return the FLOPs of tokenising the targets, whose pixels need no gradient, and of decoding them."""
    return linear(U * T, 12 * P * P, D, products=2) + linear(U * T, D, 3 * P * P)


MLP = {"type": "mlp", "length_dim": "l", "params": {"inter_multi": 2}}


def fast_weight(k: int, m: int, newton_schulz_steps: int) -> dict:
    params = {"head_dim": k, "inter_multi": m / k, "base_lr": 0.01, "muon_update_steps": newton_schulz_steps}
    return {"type": "fast_weight", "length_dim": "vl", "params": params}


def test_linear_layers_by_hand():
    # Nothing mixes views: the inputs are tokenised for nothing in the last block, and go without a backward pass.
    inputs = linear(V * T, 12 * P * P, D, products=1)
    assert flops(1, MLP) == inputs + ends() + 2 * linear(U * T, D, 2 * D)
    dead = linear(V * T, D, 2 * D, products=1) * 2
    assert flops(2, MLP) == inputs + dead + ends() + 4 * linear(U * T, D, 2 * D)


@pytest.mark.parametrize(("k", "m"), [(8, 16), (16, 32)])
def test_fast_weight_by_hand(k, m):
    n = D // k
    layer = fast_weight(k, m, newton_schulz_steps=0)
    inputs = linear(V * T, 12 * P * P, D, products=2) + linear(V * T, D, 2 * D) + linear(V * T, D, 3 * n)
    targets = linear(U * T, D, D) + linear(U * T, D, D)
    one = 2 * T * k * m * n  # one product over the tokens of a view
    # Six products write: k w0, k w2, v w1ᵀ and three gradients; three read. Each has two more in the backward pass.
    assert flops(1, layer) == inputs + targets + ends() + 3 * (6 * V + 3 * U) * one


def test_newton_schulz_is_counted_five_times():
    k, m, n = 8, 16, 2
    counts = [flops(1, fast_weight(k, m, steps)) for steps in (0, 1, 5)]
    assert counts[2] - counts[0] == 5 * (counts[1] - counts[0])
    # Three weights. Forward: two wide products (k k m) and a narrow one (k k k); the written derivative: three and one.
    assert counts[1] - counts[0] == 3 * n * (10 * k * k * m + 4 * k**3)


@pytest.mark.slow
def test_matmul_rate_is_a_plausible_number():
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32) < 1e16
