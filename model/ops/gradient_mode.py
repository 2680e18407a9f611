"""The two ways of an operation: one that autograd can follow, and a faster one where no gradient is wanted.

Where torch records gradients, an operation is differentiable. Where it does not (`torch.no_grad`, `torch.inference_mode`), kernels
without a derivative, results in blocks and fewer copies may take its place. Torch itself is asked, here and nowhere else: a flag
handed down could be wrong, and a wrong one would train nothing without a word. Compiled code keeps the answer that it was traced
with; torch traces anew where it changes.
"""

import torch


def gradients_are_recorded() -> bool:
    """Tell whether what is computed now has to be differentiable."""
    return torch.is_grad_enabled()
