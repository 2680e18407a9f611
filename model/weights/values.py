"""Checks of what tensors from files hold: their kind before they are copied, their numbers before they are used."""

from collections.abc import Iterable

import torch
from torch import Tensor

from config.errors import InputError
from config.messages import shown_key

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Tensors that claim no more than this may repeat numbers of the file.
SMALL_BYTES = 1 << 20
# Dicts and lists in a snapshot are nested five deep at most.
MOST_DEPTH = 20
WANTED_KIND = "a plain tensor, as torch.save(model.state_dict(), path) writes"
WANTED_VALUES = "finite floating-point numbers"


def check_kind(tensor: Tensor, where: str) -> None:
    """Refuse a tensor that cannot be copied as it is, or that claims far more numbers than its file holds.

    Raises:
        InputError: it is nested, quantised, sparse or without values, or a few numbers stretched to a huge shape.
    """
    kinds = (
        (tensor.is_nested, "nested"),
        (tensor.is_quantized, "quantised"),
        (tensor.layout != torch.strided, "sparse"),
        (tensor.device.type != "cpu", "without values (it was on the meta device)"),
    )
    for applies, kind in kinds:
        if applies:
            raise InputError(where, f"is {kind}", WANTED_KIND)
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > max(held, SMALL_BYTES):
        raise InputError(where, f"is {tuple(tensor.shape)}, {claimed} bytes of which the file holds {held}", WANTED_KIND)


def check_kinds(value: object, where: str, depth: int = 0) -> None:
    """Apply `check_kind` to all tensors in nested dicts, lists and tuples, such as a whole snapshot.

    Raises:
        InputError: a tensor is of another kind, or nesting does not end.
    """
    if isinstance(value, Tensor):
        check_kind(value, where)
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    if depth > MOST_DEPTH and items:
        raise InputError(where, f"is nested more than {MOST_DEPTH} deep", "plain dicts and lists of tensors and values")
    for key, item in items:
        check_kinds(item, f"{where}, {shown_key(key)}" if depth < 4 else where, depth + 1)


def check_values(tensor: Tensor, where: str, dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor with other than finite floating-point numbers.

    Args:
        tensor: of a kind that `check_kind` accepts, on any device.
        where: its file and name, for the error message.
        dtype: what it will be converted to; None: nothing.

    Raises:
        InputError: another dtype, a number that is not finite, or one that overflows in `dtype`.

    Cost: one pass, 0.05 s per GB.
    """
    if tensor.dtype not in FLOATING:
        raise InputError(where, f"is {_name(tensor.dtype)}", " or ".join(map(_name, FLOATING)))
    if tensor.numel() == 0:
        return
    ends = torch.stack(tensor.detach().aminmax())  # NaN if there is one
    if not ends.isfinite().all():
        count = int((~tensor.isfinite()).sum())
        found = "1 number that is" if count == 1 else f"{count} numbers that are"
        raise InputError(where, f"holds {found} not finite", WANTED_VALUES)
    if dtype is not None and not ends.to(dtype).isfinite().all():
        raise InputError(where, f"holds {ends.abs().max():.2g}, which overflows in {_name(dtype)}", WANTED_VALUES)


def all_finite(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> bool:
    """Return whether all numbers of floating tensors on one device are finite, in `dtype` if given. Waits for the device once."""
    ends = [torch.stack(x.detach().aminmax()).float() for x in tensors if x.is_floating_point() and x.numel()]
    return not ends or bool(torch.stack([x if dtype is None else x.to(dtype).float() for x in ends]).isfinite().all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
