"""Gradient mode: whether an operation has to be differentiable, or may take a faster path.

Where torch records gradients, an operation is differentiable. Where it does not (`torch.no_grad`, `torch.inference_mode`), it may
use kernels without a derivative, work in blocks and copy less. Torch itself is queried, and only here: a flag passed down
could be wrong, and then parameters would silently get no gradient. Compiled code keeps the answer that it was traced with; torch
retraces when it changes.
"""

import torch


def gradients_are_recorded() -> bool:
    """Return whether operations called now have to be differentiable."""
    return torch.is_grad_enabled()
