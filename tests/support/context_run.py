"""Passes of small networks with their views split over processes, and the same passes in one process, for tests.

Letters: b scenes, v input views, u target views.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from config import config_from_dict
from config.errors import InputError
from model.lact_lvsm import LaCTLVSM
from model.parallel.context import ContextGroup, Shares, join_context, own_inputs, own_targets
from model.scene_state import SceneState
from tests.support.scenes import random_c2w

WORLD = 4
IMAGE_SIZE = (8, 12)
LAYERS = {
    "attention": {"type": "self_attention", "length_dim": "l", "params": {"head_dim": 8}},
    "full_attention": {"type": "self_attention", "length_dim": "vl", "params": {"head_dim": 8}},
    "fast_weight": {"type": "fast_weight", "length_dim": "vl", "params": {"head_dim": 8, "inter_multi": 2, "base_lr": 0.01}},
    "by_foot": {
        "type": "fast_weight",
        "length_dim": "vl",
        "params": {
            "head_dim": 16,
            "inter_multi": 2,
            "base_lr": 0.01,
            "address": {"phases": "foot", "sites": ["qk", "hidden", "vo"], "lowest": 0.5, "highest": 2.0},
        },
    },
    "registers": {"type": "register_attention", "length_dim": "vl", "params": {"head_dim": 8, "num_registers": 5}},
    "mlp": {"type": "mlp", "length_dim": "vl", "params": {"inter_multi": 2}},
}
NETWORKS = {
    "lact": ("attention", "fast_weight", "mlp"),
    "addressed": ("attention", "by_foot", "mlp"),
    "lvsm": ("full_attention", "mlp"),
    "perceiver": ("attention", "registers", "mlp"),
    "mixed": ("full_attention", "mlp", "registers", "attention", "fast_weight"),
}


@dataclass(frozen=True)
class Case:
    """A pass: the network, the number of processes, and the numbers of views in all."""

    network: str
    size: int
    inputs: int = 5
    targets: int = 3
    recompute: bool = False
    bfloat16: bool = False
    compiled: bool = False
    forgetful: bool = False


EXACT = [
    *(Case(network, size) for network in NETWORKS for size in (2, 4)),
    *(Case("mixed", size, recompute=True) for size in (2, 4)),
    Case("mixed", 4, inputs=1, targets=2),
    Case("mixed", 2, inputs=4, targets=4),
]
ROUNDED = [Case(network, 4, bfloat16=True) for network in ("lact", "lvsm", "perceiver")]
FORGETFUL = [Case(network, 4, forgetful=True) for network in ("lact", "lvsm", "perceiver")]
DATA_PARALLEL = Case("mixed", 2, recompute=True)
STATES = [Case(network, size) for network in ("lact", "addressed", "mixed") for size in (2, 4)] + [
    Case("mixed", 4, inputs=2, targets=1),
    Case("addressed", 4, inputs=2, targets=1),
]


def build(case: Case) -> LaCTLVSM:
    """Build the network of a case: two blocks, weights away from their symmetric start, Newton-Schulz in float32."""
    torch.manual_seed(3)
    block = [LAYERS[name] for name in NETWORKS[case.network]]
    model = LaCTLVSM(config_from_dict({"patch_size": 4, "dim": 16, "layers": 2, "block": block}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.set_fast_weight(torch.float32).set_compute_dtype(torch.bfloat16 if case.bfloat16 else torch.float32)
    model.activation_checkpointing = case.recompute
    return model.compile_layers(backend="aot_eager") if case.compiled else model


def scene(views: int, seed: int, b: int = 2) -> dict[str, Tensor]:
    """Return random images from random poses, (b, views, …)."""
    generator = torch.Generator().manual_seed(seed)
    h, w = IMAGE_SIZE
    c2w = torch.stack([torch.from_numpy(random_c2w(views, seed + i)).float() for i in range(b)])
    focal = 10 + torch.rand(b, views, 1, generator=generator)
    fxfycxcy = torch.cat([focal, focal * 1.1, torch.full((b, views, 1), w / 2), torch.full((b, views, 1), h / 2)], dim=-1)
    return {"image": torch.rand(b, views, 3, h, w, generator=generator), "fxfycxcy": fxfycxcy, "c2w": c2w}


def part(batch: dict[str, Tensor], views: range) -> dict[str, Tensor]:
    return {key: value[:, views.start : views.stop] for key, value in batch.items()}


def squares(rendered: Tensor, target: Tensor, targets: int) -> Tensor:
    """Return this process's part of the mean squared error over all `targets` views."""
    return (rendered - target).square().sum() / target[:, :1].numel() / targets if len(target[0]) else rendered.sum()


def alone(case: Case, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and gradients of a case in one process."""
    model, inputs, targets = build(case), scene(case.inputs, seed), scene(case.targets, seed + 100)
    loss = squares(model(inputs, targets), targets["image"], case.targets)
    loss.backward()
    return loss.detach(), gradients(model)


def gradients(model: LaCTLVSM) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def shared(case: Case, context: ContextGroup) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and gradients of a case, summed over the processes of a context."""
    model = build(case)
    model.context = context
    inputs = part(scene(case.inputs, 0), own_inputs(case.inputs, context.rank, context.size))
    targets = part(scene(case.targets, 100), own_targets(case.targets, context.rank, context.size))
    loss = squares(model(inputs, targets), targets["image"], case.targets)
    with forgetful() if case.forgetful else contextlib.nullcontext():
        loss.backward()
    sums = {"loss": loss.detach(), **gradients(model)}
    for value in sums.values():  # of all groups, which compute the same
        dist.all_reduce(value)
        value /= WORLD // context.size
    return sums.pop("loss"), sums


@contextlib.contextmanager
def forgetful() -> Iterator[None]:
    """Have collectives of the backward pass ignore the other processes."""
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda *args, **kwargs: None
    try:
        yield
    finally:
        dist.all_reduce = all_reduce


def data_parallel(case: Case, context: ContextGroup) -> dict[str, Tensor]:
    """Return gradients of two micro-steps under DDP over all processes: another scene in every group and micro-step."""
    model = build(case)
    model.context = context
    network = DistributedDataParallel(model, gradient_as_bucket_view=True)
    group = dist.get_rank() // context.size
    for micro_step in range(2):
        seed = 10 * group + micro_step
        inputs = part(scene(case.inputs, seed), own_inputs(case.inputs, context.rank, context.size))
        targets = part(scene(case.targets, seed + 100), own_targets(case.targets, context.rank, context.size))
        with network.no_sync() if micro_step == 0 else contextlib.nullcontext():
            loss = squares(network(inputs, targets), targets["image"], case.targets)
            (loss * context.size / 2).backward()
    return gradients(model)


def reconstruct(case: Case, context: ContextGroup | None) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors of a scene's state, and the targets that this process renders from it."""
    model = build(case)
    model.context = context
    rank, size = (context.rank, context.size) if context else (0, 1)
    inputs = part(scene(case.inputs, 0), own_inputs(case.inputs, rank, size))
    targets = part(scene(case.targets, 100), own_targets(case.targets, rank, size))
    state = model.reconstruct(**inputs, chunk_views=2)
    tensors = {f"{i}.{name}": x for i, layer in enumerate(state.layers) for name, x in layer.items()}
    rendered = model.render(state, targets["fxfycxcy"], targets["c2w"], IMAGE_SIZE)
    focus = {} if state.focus is None else {"focus": state.focus}
    return {**tensors, **focus, "fxfycxcy": state.fxfycxcy, "c2w": state.c2w}, rendered


def grown(case: Case, context: ContextGroup | None, folder: Path) -> dict[str, Tensor]:
    """Return renderings, on every process all of them, of scenes that grow and shrink, from memory and disk, and of streams."""
    model = build(case)
    model.context = context
    rank, size = (context.rank, context.size) if context else (0, 1)
    first, more = scene(2, 0, b=1), scene(case.inputs, 50, b=1)
    state = model.reconstruct(**part(first, own_inputs(2, rank, size)), keep_sums=True)
    state = model.extend(state, **part(more, own_inputs(case.inputs, rank, size)))
    file = folder / f"grown_{os.getpid()}.safetensors"  # two groups of two processes have the same ranks
    state.save(file)
    views = [(image, *camera) for image, *camera in zip(*(more[name][0] for name in ("image", "fxfycxcy", "c2w")), strict=True)]
    states = {
        "extended": state,
        "from disk": model.extend(SceneState.load(file), **part(scene(1, 80, b=1), own_inputs(1, rank, size))),
        "without a view": model.forget(state, **part(more, range(1, 2))),
        "stream": model.reconstruct_stream(views, chunk=3, first=2),
        "two passes": model.reconstruct_stream(views, chunk=3, passes=2, first=3),
    }
    targets = scene(2, 100, b=1)
    return {name: model.render(found, targets["fxfycxcy"], targets["c2w"], IMAGE_SIZE) for name, found in states.items()}


def collectives(context: ContextGroup) -> dict[str, Tensor]:
    """Return this process's gradients of a sum of squares, weighted by process, of what both collectives return."""
    rank = context.rank
    lengths = tuple(range(context.size))  # the first process has nothing
    shares = Shares(context, lengths, lengths)
    generator = torch.Generator().manual_seed(rank)
    x, y = (torch.randn(2, n, 3, dtype=torch.float64, generator=generator, requires_grad=True) for n in (4, rank))
    total, gathered = shares.total(x), shares.gather(y, lengths)
    ((rank + 1) * (total.square().sum() + gathered.square().sum())).backward()
    return {"x": x.detach(), "y": y.detach(), "total": total.detach(), "gathered": gathered.detach(), "dx": x.grad, "dy": y.grad}


def streams(context: ContextGroup) -> tuple[list[str], str]:
    """Return the items of all processes, each of which has as many as its rank, and the error of one, raised on all."""
    items = list(context.in_rank_order(f"{context.rank}.{i}" for i in range(context.rank)))
    try:
        with context.together():
            if context.rank == 1:
                raise InputError("photo.png", "is damaged", "a whole one")
    except InputError as error:
        return items, str(error)
    return items, "none"


def refusals(context: ContextGroup) -> list[str]:
    """Return the errors of passes whose processes hold different scenes, or no view."""
    model = build(Case("lact", context.size))
    model.context = context
    unequal = scene(1, 0, b=1 + context.rank)
    messages = []
    for inputs in (unequal, part(scene(1, 0), range(0))):
        try:
            model.reconstruct(**inputs)
        except ValueError as error:
            messages.append(str(error))
    return messages


def work() -> None:
    """Run everything in one of `WORLD` processes; write the results to rankN.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    contexts = {size: join_context(size) for size in (2, 4)}
    results = {
        "shared": {case: shared(case, contexts[case.size]) for case in [*EXACT, *ROUNDED, *FORGETFUL]},
        "data_parallel": data_parallel(DATA_PARALLEL, contexts[DATA_PARALLEL.size]),
        "states": {case: reconstruct(case, contexts[case.size]) for case in STATES},
        "grown": {case: grown(case, contexts[case.size], Path()) for case in STATES},
        "collectives": {size: collectives(context) for size, context in contexts.items()},
        "streams": {size: streams(context) for size, context in contexts.items()},
        "refusals": refusals(contexts[2]),
    }
    torch.save(results, f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
