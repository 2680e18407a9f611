"""Optimizers: AdamW and Muon, learning rate, clipping, skipped steps, averaged weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from config.errors import InputError
from config.messages import counted, shown, with_article, with_type
from model.training.muon import Muon
from model.weights.values import check_values

BETAS = (0.9, 0.95)
# Torch raises where Muon's rate, times the scale of a matrix, overflows float32. Less than this leaves nothing of the weights.
LARGEST_MUON_RATE = 1e30


class MuonAndAdamW:
    """Muon for the matrices inside the blocks, AdamW for the rest, at one learning rate.

    Muon replaces a matrix's averaged gradient by the nearest one with all singular values equal, scaled to AdamW's usual size.
    AdamW also updates the fast weights' initial values (one matrix per head, in one tensor) and the maps of pixels to tokens and
    back.

    Precision: Muon's iterations are in bfloat16, everything else in float32.
    """

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        self.muon, self.adamw = muon, adamw

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.muon.param_groups + self.adamw.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


Optimizer = torch.optim.AdamW | MuonAndAdamW


def build_optimizer(model: nn.Module, weight_decay: float, kind: str = "adamw") -> Optimizer:
    """Return the optimizer of a model, with weight decay on tensors of two or more dimensions.

    The learning rate is set before every step: see `learning_rate`.

    Args:
        model: the network; for Muon one with `blocks`.
        weight_decay: decoupled, times the learning rate.
        kind: adamw or muon.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [x for x in model.get_submodule("blocks").parameters() if x.requires_grad and x.ndim == 2] if kind == "muon" else []
    taken = {id(x) for x in matrices}
    groups = [
        {"params": [x for x in parameters if x.ndim >= 2 and id(x) not in taken], "weight_decay": weight_decay},
        {"params": [x for x in parameters if x.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)
    if kind == "adamw":
        return adamw
    return MuonAndAdamW(Muon(matrices, weight_decay), adamw)


def restore_optimizer(optimizer: Optimizer, saved: dict[str, Any], where: str, steps_done: int) -> None:
    """Load what `state_dict` returned, and check that every tensor fits its parameter. Settings stay those of `optimizer`.

    Args:
        optimizer: of the same model, new.
        saved: not used by anything else: its tensors may become the optimizer's.
        where: name in error messages.
        steps_done: number of steps that were not skipped.

    Raises:
        InputError: it is of another optimizer or model, is incomplete, or holds numbers that are not finite.
    """
    wanted = "the state of this run's optimizer"
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(saved)
    except Exception as error:  # torch checks little, and raises anything from KeyError to AttributeError
        raise InputError(where, f"cannot be restored ({with_type(error)})", wanted) from error
    for before, group in zip(settings, optimizer.param_groups, strict=True):
        changed = [name for name, value in before.items() if type(group.get(name)) is not type(value)]
        if changed:
            raise InputError(
                f"{where}, {changed[0]}", f"is {shown(group.get(changed[0]), 40)}", with_article(type(before[changed[0]]))
            )
        group.update(before)
    parts = (optimizer.muon, optimizer.adamw) if isinstance(optimizer, MuonAndAdamW) else (optimizer,)
    for part in parts:
        if steps_done > 0 and not part.state:
            raise InputError(where, f"is empty after {counted(steps_done, 'step')}", wanted)
        names = {"momentum_buffer"} if isinstance(part, Muon) else {"step", "exp_avg", "exp_avg_sq"}
        for parameter, state in part.state.items():
            _check_moments(parameter, state, names, where, wanted)
        parameters = sum(len(group["params"]) for group in part.param_groups)
        if steps_done > 0 and len(part.state) != parameters:
            raise InputError(where, f"is that of {len(part.state)} of {parameters} parameters", wanted)
        if len({float(state["step"]) for state in part.state.values() if "step" in state}) > 1:
            raise InputError(f"{where}, step", "differs between parameters", wanted)


def optimizer_tensors(optimizer: Optimizer) -> list[Tensor]:
    """Return the tensors of an optimizer's state."""
    parts = (optimizer.muon, optimizer.adamw) if isinstance(optimizer, MuonAndAdamW) else (optimizer,)
    return [x for part in parts for state in part.state.values() for x in state.values()]


def _check_moments(parameter: Any, state: Any, names: set[str], where: str, wanted: str) -> None:
    if not isinstance(parameter, Tensor) or not isinstance(state, dict) or set(state) != names:
        found = list(state) if isinstance(state, dict) else state
        raise InputError(where, f"holds {shown(found, 80)}", f"{', '.join(sorted(names))} for every parameter")
    for name, value in state.items():
        shape = () if name == "step" else tuple(parameter.shape)
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            found = f"is {tuple(value.shape)}" if isinstance(value, Tensor) else f"is {with_article(type(value))}"
            raise InputError(f"{where}, {name}", found, f"{shape}, in {wanted}")
        check_values(value, f"{where}, {name}")


def learning_rate(step: int, peak: float, warmup: int, steps: int, schedule: str = "cosine") -> float:
    """Return the learning rate of step 0, 1, …: linear to `peak` at step warmup − 1, then a cosine to 0, or constant."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients as one vector, float32, on their device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def apply_step(optimizer: Optimizer, norm: Tensor, skipped: Tensor, lr: float, clip: float) -> None:
    """Clip and update, or, if `skipped`, leave weights, moments and step count untouched. No host sync.

    Args:
        optimizer: from `build_optimizer`.
        norm: of all gradients, on the parameters' device.
        skipped: 1 or 0, a float32 scalar there: whether to skip the step.
        lr: learning rate.
        clip: largest norm that passes unscaled.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    if isinstance(optimizer, MuonAndAdamW):
        for group in optimizer.muon.param_groups:
            group["lr"] = min(lr, LARGEST_MUON_RATE)
        _step_muon(optimizer.muon, norm, skipped, clip)
    adamw: Any = optimizer.adamw if isinstance(optimizer, MuonAndAdamW) else optimizer
    # Attributes through which torch's GradScaler controls a fused optimizer: its kernel divides gradients by the first and does
    # nothing where the second is set. Clipping and skipping then cost neither a pass nor a host sync.
    adamw.grad_scale = (norm / clip).clamp(min=1.0)
    adamw.found_inf = skipped
    adamw.step()
    del adamw.grad_scale, adamw.found_inf


@torch.no_grad()
def _step_muon(muon: Muon, norm: Tensor, skipped: Tensor, clip: float) -> None:
    """Take Muon's step, and undo it on the device if it is skipped: torch's Muon has no way to skip one.

    Cost: a copy of its matrices and momenta until the step is done.
    """
    matrices = [x for group in muon.param_groups for x in group["params"] if x.grad is not None]
    for x in matrices:
        if "momentum_buffer" not in muon.state[x]:
            muon.state[x]["momentum_buffer"] = torch.zeros_like(x)
    changing = matrices + [muon.state[x]["momentum_buffer"] for x in matrices]
    before = [x.clone() for x in changing]
    gradients = [x.grad for x in matrices]
    torch._foreach_div_(gradients, (norm / clip).clamp(min=1.0))  # pyright: ignore[reportPrivateImportUsage]  (no public name)
    muon.step()
    for x, old in zip(changing, before, strict=True):
        x.copy_(torch.where(skipped > 0, old, x))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the model's after step 0, 1, ….

    Early on the decay is (step + 1) / (step + 10), so that the initial weights are soon forgotten.
    """
    decay = min(decay, (step + 1) / (step + 10))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(model.parameters()), step)
