"""Matrix product of token rows with a weight, in blocks where a CPU's library would leave a core idle: contract.

Letters: l rows, i inner width, o outer width.
"""

import torch
from torch import Tensor

from model.ops.gradient_mode import gradients_are_recorded

# oneDNN gives 768 to 1280 bfloat16 rows times 768 columns to one of two cores: 1.2 TFLOP/s where 512 or 1536 rows reach 2.4.
# Between these bounds, and up to this width, the product is taken in blocks of rows instead; wider ones are not affected.
SLOW_ROWS = (512, 1536)
SLOW_WIDTH = 1024
BLOCK_ROWS = 512


def product(x: Tensor, w: Tensor) -> Tensor:
    """Return x @ w.

    Args:
        x: (l, i), one row per token.
        w: (i, o), same dtype; any strides.

    Returns:
        (l, o).

    Precision: that of `torch.mm`. Rows are independent, so blocks change nothing but speed.
    Cost: 2 · l · i · o FLOPs.
    """
    # Checked first, so that a compiled graph is not specialised to a number of rows.
    if torch.compiler.is_compiling() or gradients_are_recorded():
        return x @ w
    slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and SLOW_ROWS[0] < x.shape[0] < SLOW_ROWS[1]
    if not slow or w.shape[1] > SLOW_WIDTH:
        return x @ w
    out = x.new_empty(x.shape[0], w.shape[1])
    for rows, part in zip(out.split(BLOCK_ROWS), x.split(BLOCK_ROWS), strict=True):
        torch.mm(part, w, out=rows)
    return out
