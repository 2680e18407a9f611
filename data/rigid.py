"""Matrices that are no pose of a camera. Letters: v views."""

from typing import NamedTuple

import numpy as np


class PoseProblem(NamedTuple):
    """The first pose that is none, what is wrong with it, and what would be right, as in `config.errors.InputError`."""

    view: int
    found: str
    wanted: str


def pose_problem(
    poses: np.ndarray, orthonormal: float, last_row: float, axes: str = "x right, y down, z forward"
) -> PoseProblem | None:
    """Return what keeps matrices from being rigid; None if they all are.

    Args:
        poses: (v, 4, 4) float64, finite.
        orthonormal: largest error of the product of the 3×3 part with its transpose.
        last_row: largest error of the last row.
        axes: those of the cameras, for the message.
    """
    rotation = poses[:, :3, :3]
    row = np.abs(poses[:, 3] - (0, 0, 0, 1)).max(-1)
    error = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((-1, -2))
    mirrored = np.linalg.det(rotation) < 0
    for view in np.flatnonzero(~(row <= last_row) | ~(error <= orthonormal) | mirrored)[:1].tolist():
        if not row[view] <= last_row:
            return PoseProblem(view, f"has the last row {[float(x) for x in poses[view, 3]]}", "0 0 0 1")
        if not error[view] <= orthonormal:
            found = f"has a 3×3 part {error[view]:.2g} away from orthonormal"
            return PoseProblem(view, found, "a rotation (no scale, no shear)")
        return PoseProblem(view, "is a mirrored pose (determinant -1)", axes)
    return None
