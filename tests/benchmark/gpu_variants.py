"""Variants of the network's operations on a GPU: the fastest correct one becomes the default.

Letters: b matrices, s shorter and l longer side of them.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model import LaCTLVSM
from model.ops.newton_schulz import newton_schulz
from model.ops.newton_schulz.naive import COEFFICIENTS, EPS
from model.scene_state import SceneState
from tests.benchmark.gpu_steps import (
    BUNDLED,
    TTT2X,
    Bench,
    Row,
    failing_is_a_row,
    measure,
    reconstruct_row,
    render_row,
)
from tests.benchmark.measure import random_scene

# Blocks of the published width that variants are measured on: all blocks are alike.
BLOCKS = 4
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def run_attention(bench: Bench) -> Iterator[Row]:
    model = bench.model(TTT2X, BLOCKS)
    if bench.device.type == "cpu":  # in a rehearsal: in float32 every machine uses torch's kernel
        model.set_compute_dtype(torch.float32)
    yield render_row(bench, model, (512, 512), 16, "render 512×512, 4 blocks, attention as torch chooses")
    for backend in BACKENDS:
        what = f"the same, {backend.name.lower()}"
        with failing_is_a_row(what) as failed, sdpa_kernel(backend):
            yield render_row(bench, model, (512, 512), 16, what)
        yield from failed


def run_fast_weight(bench: Bench) -> Iterator[Row]:
    for implementation in ("naive", "compiled", "autotuned"):
        model = bench.model(TTT2X, BLOCKS).set_fast_weight(torch.bfloat16, implementation)
        with failing_is_a_row(f"fast-weight operations {implementation}") as failed:
            yield render_row(bench, model, (512, 512), 16, f"render 512×512, 4 blocks, fast-weight operations {implementation}")
            yield reconstruct_row(bench, model, (512, 512), 48, f"reconstruct 48 × 512×512, 4 blocks, {implementation}")
        yield from failed


def run_chunks(bench: Bench) -> Iterator[Row]:
    model, size = bench.model(TTT2X, BLOCKS), bench.size((512, 512))
    scene = random_scene(bench.count(48, 4), size, bench.device)
    for views in (1, 4, 8, 16, 48):
        found = measure(lambda views=views: model.reconstruct(**scene, chunk_views=views), bench, 3)
        yield {"what": f"reconstruct 48 × 512×512, 4 blocks, {views} views at a time ({views * 4096} tokens)", **found}


def run_newton_schulz(bench: Bench) -> Iterator[Row]:
    shape = (3, 16, 32) if bench.tiny else (3, 768, 1536)
    for scenes in (1, 8):
        x = torch.randn(shape[0] * scenes, *shape[1:], device=bench.device)
        b, s, l = x.shape
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "one batch": newton_schulz,
            "three batches": lambda x: torch.cat([newton_schulz(part) for part in x.chunk(3)]),
            "one batch, compiled": torch.compile(newton_schulz, fullgraph=True),
            "symmetric products by halves": newton_schulz_by_halves,
            "symmetric products by halves, compiled": torch.compile(newton_schulz_by_halves, fullgraph=True),
        }
        for name, way in ways.items():
            what = f"Newton-Schulz of {b} matrices {s}×{l}: {name}"
            with failing_is_a_row(what) as failed:
                found = measure(lambda way=way, x=x: way(x), bench, 20)
                yield {"what": what, **found, "flops": 5 * b * (4 * s * s * l + 2 * s**3)}
            yield from failed


def symmetric_product(x: Tensor) -> Tensor:
    """Return x xᵀ (b, s, s) of x (b, s, l), s even, without products that mirror others: three quarters of the FLOPs."""
    upper, lower = x.chunk(2, dim=-2)
    corner = upper @ lower.mT
    return torch.cat([torch.cat([upper @ upper.mT, corner], dim=-1), torch.cat([corner.mT, lower @ lower.mT], dim=-1)], dim=-2)


def newton_schulz_by_halves(x: Tensor) -> Tensor:
    """Compute `newton_schulz` in bfloat16 of matrices (b, s, l), s ≤ l and even, with symmetric products by halves."""
    a, b, c = COEFFICIENTS
    x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPS)
    for _ in range(5):
        gram = symmetric_product(x)
        x = torch.baddbmm(x, b * gram + c * symmetric_product(gram), x, beta=a)
    return x


def run_cuda_graph(bench: Bench) -> Iterator[Row]:
    model, size = bench.model(BUNDLED), bench.size((64, 64))
    model.set_fast_weight(torch.bfloat16, "naive")
    state, wanted = model.reconstruct(**random_scene(2, size, bench.device)), random_scene(1, size, bench.device)
    cameras = (wanted["fxfycxcy"], wanted["c2w"])
    eager = model.render(state, *cameras, size)
    found = measure(lambda: model.render(state, *cameras, size), bench, 50)
    yield {"what": "render 64×64, bundled network, one at a time, eager", **found, "frames": 1, "unit": "frames"}
    frame = captured_render(model, state, *cameras, size)
    row = {"what": "the same, captured as a CUDA graph by hand", **measure(lambda: frame(*cameras), bench, 50)}
    difference = (frame(*cameras) - eager).abs().max().item()
    yield row | {"frames": 1, "unit": "frames", "value": f"largest difference {difference:.1e}"}
    with failing_is_a_row("the same, --compile_mode reduce-overhead") as failed:
        compiled = bench.model(BUNDLED).compile_layers(mode="reduce-overhead")
        compiled.load_state_dict(model.state_dict())
        found = measure(lambda: compiled.render(state, *cameras, size), bench, 50)
        yield {"what": "the same, --compile_mode reduce-overhead", **found, "frames": 1, "unit": "frames"}
    yield from failed


def captured_render(
    model: LaCTLVSM, state: SceneState, fxfycxcy: Tensor, c2w: Tensor, image_size: tuple[int, int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that renders views of a state from cameras of these shapes by replaying a CUDA graph; on a CPU, eagerly."""
    if model.device.type == "cpu":
        return lambda fxfycxcy, c2w: model._render_chunk(state, fxfycxcy, c2w, image_size)
    state = state.to(model.device, model.compute_dtype)
    inputs = fxfycxcy.clone(), c2w.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose kernels and workspaces before the capture
        for _ in range(3):
            model._render_chunk(state, *inputs, image_size)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = model._render_chunk(state, *inputs, image_size)

    def replay(fxfycxcy: Tensor, c2w: Tensor) -> Tensor:
        for held, given in zip(inputs, (fxfycxcy, c2w), strict=True):
            held.copy_(given)
        graph.replay()
        return output.clone()

    return replay
