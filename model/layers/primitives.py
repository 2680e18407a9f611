"""Parts of layers: linear maps, norms and heads, each with its precision stated."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config.errors import InputError
from config.messages import shown
from model.ops.product import product

# Bound of widths and counts, far above those of any layer.
LARGEST = 2**31


class Linear(nn.Linear):
    """Map tokens linearly, without bias, in `compute_dtype`, independent of the weight's stored dtype.

    Training stores float32 weights and computes in bfloat16; inference stores what it computes in.
    """

    compute_dtype: torch.dtype = torch.float32

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return `x` (..., in) times the given rows of the weight: (..., rows), in `compute_dtype`."""
        weight = self.weight[rows].to(self.compute_dtype)
        return product(x.to(self.compute_dtype).flatten(0, -2), weight.mT).view(*x.shape[:-1], len(weight))


class RMSNorm(nn.Module):
    """Divide vectors by their root mean square and scale them by a learned weight, in float32; the result has the input's dtype."""

    def __init__(self, dim: int, eps: float = torch.finfo(torch.float32).eps) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (..., dim) normalised over its last dimension."""
        wide = x.float()
        if x.is_cuda:
            return F.rms_norm(wide, self.weight.shape, self.weight, self.eps).to(x.dtype)
        # torch has no fused CPU kernel: a vector norm takes one pass, torch's own decomposition two.
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return (wide * torch.rsqrt(norm.square() / x.shape[-1] + self.eps) * self.weight).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """LayerNorm without bias, in float32, eps 1e-5."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-5, bias=False)


def unit(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Divide vectors (last dimension) by their L2 norm plus `eps`, in float32; the result has the input's dtype."""
    wide = x.float()
    return (wide / (torch.linalg.vector_norm(wide, dim=-1, keepdim=True) + eps)).to(x.dtype)


def count_heads(dim: int, head_dim: int) -> int:
    """Return how many heads of width `head_dim` make up `dim`.

    Raises:
        InputError: it does not divide `dim`.
    """
    if type(head_dim) is not int or head_dim < 1 or dim % head_dim:
        raise InputError("head_dim", f"is {shown(head_dim)}", f"a divisor of dim, {dim}: a whole number of 1 or more")
    return dim // head_dim


def hidden_width(width: int, inter_multi: float) -> int:
    """Return `width` times `inter_multi`, rounded down.

    Raises:
        InputError: the product is not a valid width.
    """
    if type(inter_multi) not in (int, float) or not 1 <= width * inter_multi < LARGEST:
        wanted = f"a number that makes {width} · inter_multi at least 1 and less than 2³¹"
        raise InputError("inter_multi", f"is {shown(inter_multi)}", wanted)
    return int(width * inter_multi)


def check_whole(name: str, value: float, least: int, most: int = LARGEST - 1) -> None:
    """Check a parameter that is a whole number.

    Raises:
        InputError: it is not, or is out of range.
    """
    if type(value) is not int or not least <= value <= most:
        raise InputError(name, f"is {shown(value)}", f"a whole number of at least {least}, {most} at most")


def check_switch(name: str, value: bool) -> None:
    """Check a parameter that is true or false.

    Raises:
        InputError: it is not.
    """
    if type(value) is not bool:
        raise InputError(name, f"is {shown(value)}", "true or false")
