"""Rotation of pairs of numbers by a token's own angles: contract.

Letters: b scenes, n heads, l tokens, k width, p rotated pairs.
"""

from torch import Tensor

from model.ops.rotation.naive import rotate_naive


def rotate(x: Tensor, turn: Tensor, back: bool = False, in_place: bool = False) -> Tensor:
    """Rotate the numbers i and p + i of each token, i < p, by its angle φ_i; numbers from 2p on are unchanged.

    (x1, x2) becomes (x1 cos φ − x2 sin φ, x1 sin φ + x2 cos φ).

    Args:
        x: (b·n, l, k).
        turn: (2, b, l, p), cosine and sine of the angles; 2p ≤ k. The heads of a scene share them.
        back: rotate by minus the angles.
        in_place: overwrite `x`, where no gradient is recorded.

    Returns:
        (b·n, l, k), in the dtype of `x`. The length of a token's vector does not change.

    Raises:
        ValueError: shapes that do not fit.

    Precision: the dtype of `turn`, then rounded to that of `x`.
    Cost: 6 · b · n · l · p FLOPs.
    """
    _, b, l, p = turn.shape
    if x.shape[0] % b or x.shape[1] != l or 2 * p > x.shape[2]:
        raise ValueError(f"rotate: x is {tuple(x.shape)}, turn {tuple(turn.shape)}; wanted (b·n, l, k) and (2, b, l, p ≤ k / 2)")
    return x if p == 0 else rotate_naive(x, turn, back, in_place)
