"""Fast weights of LaCT, a SwiGLU MLP f(x) = (SiLU(x w0) * (x w2)) w1 trained on each scene at test time: contract.

One large-chunk step of test-time training is `gradients` over all input tokens (a sum: chunks of tokens, or processes, may each
compute a part of it), then one `update`; `apply` reads the weights.

Letters: b scenes times heads, l tokens, k head width, m hidden width. Weights are (w0 (b, k, m), w1 (b, m, k), w2 (b, k, m)).
Source: LaCT (arXiv 2505.23884), sections 3.1 to 3.3.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from model.ops.fast_weight.naive import Weights, apply_naive, gradients_naive, update_naive

IMPLEMENTATIONS = ("auto", "naive", "compiled", "autotuned")


def gradients(
    weights: Weights,
    key: Tensor,
    value: Tensor,
    learning_rate: Tensor,
    implementation: str = "auto",
    turn: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return the descent step of the loss −Σ_l lr · v·f(k), per weight, summed over the tokens.

    Args:
        weights: the weights before the step, in the dtype of `key`.
        key, value: (b, l, k).
        learning_rate: (3, b, l, 1), of w0, w1, w2, or (1, b, l, 1), of w1 alone; positive; inside the sum.
        implementation: `naive` (eager PyTorch), `compiled` (the same under torch.compile), `autotuned` (the same with the
            compiler trying kernels for the matrix products) or `auto` (compiled on CUDA).
        turn: (2, scenes, l, p), cosine and sine of the angles by which a token's hidden numbers are rotated before w1, see
            `model.ops.rotation`; None leaves them as they are.

    Returns:
        (dw0, dw1, dw2) or, where there is a learning rate of w1 alone, (dw1,), shaped as the weights: what is to be added,
        before orthogonalisation.

    Raises:
        ValueError: unknown implementation, or shapes that do not fit.

    Precision: the dtype of `key`; matrix products accumulate in float32.
    Cost: 12 · b · l · k · m FLOPs.
    """
    b, l, k = key.shape
    rates = len(learning_rate)
    if value.shape != key.shape or learning_rate.shape != (rates, b, l, 1) or rates not in (1, 3) or weights[0].shape[:2] != (b, k):
        shapes = [tuple(x.shape) for x in (weights[0], key, value, learning_rate)]
        raise ValueError(
            f"fast_weight.gradients: w0, key, value, learning_rate are {shapes}; wanted b k m, b l k, b l k, 3|1 b l 1"
        )
    return _choose(gradients_naive, implementation, key)(weights, key, value, learning_rate, turn)


def update(
    weights: Weights,
    gradients: tuple[Tensor, ...],
    steps: int = 5,
    newton_schulz_dtype: torch.dtype = torch.bfloat16,
    implementation: str = "auto",
) -> Weights:
    """Add the orthogonalised `gradients` to the weights, keeping the norm of every column (along dim 1).

    Args:
        weights: the weights before the step, float32 (float64 in tests).
        gradients: as `gradients` returns them, summed over all tokens of the scene; of w1 alone, w0 and w2 are unchanged.
        steps, newton_schulz_dtype: of the Newton-Schulz iteration.
        implementation: as in `gradients`.

    Returns:
        the updated weights, in the dtype of `weights`.

    Raises:
        ValueError: unknown implementation.

    Precision: sums and norms in the dtype of `weights`, the iteration in `newton_schulz_dtype`.
    Cost: steps · 3 · b · (4 k² m + 2 k³) FLOPs for k ≤ m.
    """
    return _choose(update_naive, implementation, weights[0])(weights, gradients, steps, newton_schulz_dtype)


def apply(weights: Weights, query: Tensor, implementation: str = "auto", turn: Tensor | None = None) -> Tensor:
    """Return f(query), (b, l, k), in the dtype of `query` and the weights; `turn` as in `gradients`.

    Raises:
        ValueError: unknown implementation.

    Cost: 6 · b · l · k · m FLOPs.
    """
    return _choose(apply_naive, implementation, query)(weights, query, turn)


def _choose(function: Callable, implementation: str, x: Tensor) -> Callable:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"fast_weight: implementation is {implementation!r}; wanted one of {', '.join(IMPLEMENTATIONS)}")
    if torch.compiler.is_compiling() or implementation == "naive" or (implementation == "auto" and not x.is_cuda):
        return function
    return _compiled(function, "max-autotune-no-cudagraphs" if implementation == "autotuned" else "default")


@functools.cache
def _compiled(function: Callable, mode: str) -> Callable:
    return torch.compile(function, fullgraph=True, mode=mode)
