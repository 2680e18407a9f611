"""Quality of states that grow, against the exact ones: PSNR by chunks and order, errors of layers by passes, the focus.

Letters: n inputs of a scene.
"""

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from config.errors import InputError
from data.output.curves import Panel, draw_panels
from data.output.tables import markdown_table
from data.view_selection import spread_order
from model import LaCTLVSM, PosedImages, SceneState
from model.layers.address import focus_of
from model.metric import psnr
from tests.benchmark.memories import COLOURS
from tests.support.networks import relative_error

Focus = Callable[[PosedImages], Tensor]

TARGETS = 16


@dataclass(frozen=True)
class Test:
    """Scenes of one kind, all their views, and the network that reads them."""

    name: str
    model: LaCTLVSM
    scenes: Sequence[PosedImages]

    __test__ = False  # not one of pytest's


class Chunks(NamedTuple):
    """How a stream is cut: views of the first chunk, and of every further one."""

    first: int
    further: int

    @classmethod
    def of(cls, word: str) -> "Chunks":
        """Read K or FIRST+K.

        Raises:
            InputError: it is neither.
        """
        numbers = word.split("+")
        if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
            raise InputError("--chunks", f"is {word!r}", "K or FIRST+K, of 1 or more")
        return cls(int(numbers[0]), int(numbers[-1]))


def split(scene: PosedImages) -> tuple[list[int], list[int]]:
    """Return positions of the views that may be inputs, and of the targets, some 16 evenly along the list."""
    every = max(2, len(scene) // TARGETS)
    return [i for i in range(len(scene)) if i % every], list(range(0, len(scene), every))


def evenly(positions: Sequence[int], n: int) -> list[int]:
    """Return n of the positions, evenly spread, in order.

    Raises:
        InputError: there are fewer.
    """
    if not 0 < n <= len(positions):
        raise InputError("inputs", f"are {n}", f"1 to {len(positions)}, as many views as are no targets")
    return [positions[i * len(positions) // n] for i in range(n)]


def chosen(scene: PosedImages, positions: Sequence[int]) -> PosedImages:
    """Return views of a scene by their positions, in any order."""
    arrays = {name: getattr(scene, name)[list(positions)] for name in ("image", "fxfycxcy", "c2w")}
    return dataclasses.replace(scene, **arrays, views=[scene.views[i] for i in positions])


def score(model: LaCTLVSM, state: SceneState, targets: PosedImages) -> float:
    """Return the mean PSNR over the targets, in dB."""
    return psnr(model.render(state, targets), targets.image).mean().item()


def streamed(
    model: LaCTLVSM,
    scene: PosedImages,
    order: Sequence[int],
    chunks: Chunks,
    marks: Sequence[int] = (),
    focus: Focus | None = None,
) -> dict[int, SceneState]:
    """Write views of a scene as they come; return the states after each number of views in `marks`, and after all.

    Args:
        order: positions of the views.
        chunks: how they are cut; a chunk also ends at each of `marks`.
        focus: gives the focus of every chunk, from all views up to its last; None keeps that of the first chunk.
    """
    stops, found, state, start = {*marks, len(order)}, {}, None, 0
    while start < len(order):
        end = min([start + (chunks.further if start else chunks.first), *(stop for stop in stops if stop > start)])
        part = chosen(scene, order[start:end])
        point = None if focus is None else focus(chosen(scene, order[:end]))
        if state is None:
            state = model.reconstruct(part, keep_sums=True, focus=point)
        else:
            state = model.extend(state if point is None else dataclasses.replace(state, focus=point), part)
        start = end
        if end in stops:
            found[end] = state
    return found


def quality(test: Test, args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure PSNR by number of views, order and chunks."""
    cuts = {word: Chunks.of(word) for word in args.chunks}
    free = min(len(split(scene)[0]) for scene in test.scenes)
    counts = [n for n in args.views if n <= free]
    rows: dict[tuple[str, str, int], list[float]] = {}
    for scene in tqdm(test.scenes, desc=test.name, unit="scene", leave=False, disable=None):
        inputs, targets = split(scene)
        wanted = chosen(scene, targets)
        for order in args.orders:
            for orders, marks in _orders(inputs, counts, order):
                for n in marks:
                    exact = test.model.reconstruct(chosen(scene, orders[:n]))
                    rows.setdefault((order, "exact", n), []).append(score(test.model, exact, wanted))
                for word, cut in cuts.items():
                    for n, state in streamed(test.model, scene, orders, cut, marks).items():
                        rows.setdefault((order, word, n), []).append(score(test.model, state, wanted))
    lines = []
    for order in args.orders:
        exact = {n: rows[order, "exact", n] for n in counts}
        lines.append([f"{in_words(order)}, exact, dB", *(f"{statistics.mean(exact[n]):.2f}" for n in counts), ""])
        for word in cuts:
            found = [[x - y for x, y in zip(rows[order, word, n], exact[n], strict=True)] for n in counts]
            lines.append([word, *(f"{statistics.mean(x):+.2f}" for x in found), f"{min(map(min, found)):+.2f}"])
    table = markdown_table(["views at a time", *(f"{n} views" for n in counts), "worst"], lines)
    return table, [{"order": order, "chunks": word, "views": n, "psnr": values} for (order, word, n), values in rows.items()]


def _orders(inputs: Sequence[int], counts: Sequence[int], order: str) -> list[tuple[list[int], list[int]]]:
    """Return orders of views, each with the numbers at which it is tested: shuffled views contain those of smaller numbers."""
    if order == "given":
        return [(evenly(inputs, n), [n]) for n in counts]
    if order == "spread":
        return [([evenly(inputs, n)[i] for i in spread_order(n)], [n]) for n in counts]
    shuffled = np.random.default_rng(int(order)).permutation(inputs).tolist()
    return [(shuffled[: max(counts)], list(counts))]


def in_words(order: str) -> str:
    """Return what an order of views is called."""
    return {"given": "given order", "spread": "spread"}.get(order, f"shuffled by {order}")


def draw(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Draw PSNR over the number of views, exact and by the first three chunks, a panel for each set of scenes and order."""
    panels = []
    for data, order in dict.fromkeys((row["data"], row["order"]) for row in rows):
        own = [row for row in rows if (row["data"], row["order"]) == (data, order)]
        curves = [
            (name, colour, [(row["views"], statistics.mean(row["psnr"])) for row in own if row["chunks"] == name])
            for name, colour in zip(dict.fromkeys(row["chunks"] for row in own), COLOURS, strict=False)
        ]
        panels.append(Panel(f"{data}, {in_words(order)}: PSNR in dB over views, by views at a time", curves))
    draw_panels(path, panels)


def errors(state: SceneState, exact: SceneState) -> list[float]:
    """Return the largest relative error among the tensors of each layer."""
    pairs = zip(state.layers, exact.layers, strict=True)
    return [max(relative_error(one[name].float(), other[name].float()) for name in other) for one, other in pairs]


def passes(test: Test, args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure PSNR and errors of layers by the number of passes, with the focus of all views."""
    rows: dict[tuple[int, int], list[tuple[float, list[float]]]] = {}
    for scene in tqdm(test.scenes, desc=test.name, unit="scene", leave=False, disable=None):
        inputs, targets = split(scene)
        views, wanted = chosen(scene, evenly(inputs, args.inputs)), chosen(scene, targets)
        exact = test.model.reconstruct(views)
        reference, point = score(test.model, exact, wanted), None if exact.focus is None else exact.focus[0]
        for chunk in (1, 4):
            for count in range(1, len(exact.layers) + 1):
                state = test.model.reconstruct_stream(views, chunk, count, point)
                found = score(test.model, state, wanted) - reference, errors(state, exact)
                rows.setdefault((chunk, count), []).append(found)
    lines, found = [], []
    for (chunk, count), values in rows.items():
        differences, largest = [x for x, _ in values], np.max([x for _, x in values], axis=0).tolist()
        scores = [f"{x:+.3f}" for x in (statistics.mean(differences), min(differences))]
        lines.append([str(chunk), str(count), *scores, *(f"{x:.0e}" for x in largest)])
        found.append({"chunk": chunk, "passes": count, "difference": differences, "errors": largest})
    layers = (f"layer {i + 1}" for i in range(len(found[0]["errors"])))
    return markdown_table(["views at a time", "passes", "PSNR against exact, dB", "worst", *layers], lines), found


def focus(test: Test, args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure PSNR by the focus that addresses refer to: the first chunk's, that of all views, or one that moves as views come."""
    rows = {first: {name: [] for name in ("drift", "kept", "all", "moving")} for first in (1, 2, 4, 8)}
    for scene in tqdm(test.scenes, desc=test.name, unit="scene", leave=False, disable=None):
        inputs, targets = split(scene)
        order, wanted = evenly(inputs, args.inputs), chosen(scene, targets)
        exact = score(test.model, test.model.reconstruct(chosen(scene, order)), wanted)
        of_all = focus_of(chosen(scene, order).c2w[None])
        for first, row in rows.items():
            moves: dict[str, Focus | None] = {
                "kept": None, "all": lambda _, point=of_all: point, "moving": lambda views: focus_of(views.c2w[None])
            }  # fmt: skip
            for name, move in moves.items():
                state = streamed(test.model, scene, order, Chunks(first, 1), focus=move)[len(order)]
                row[name].append(score(test.model, state, wanted) - exact)
                if name == "kept":
                    row["drift"].append(0.0 if state.focus_drift is None else state.focus_drift.item())
    head = ["views at a time", "drift of the first focus", "largest", "first focus kept", "worst", "focus of all views", "worst",
            "focus moved with every view", "worst"]  # fmt: skip
    lines = [
        [f"{first}+1", f"{statistics.mean(row['drift']):.3f}", f"{max(row['drift']):.3f}",
         *(text for name in ("kept", "all", "moving") for text in (f"{statistics.mean(row[name]):+.2f}", f"{min(row[name]):+.2f}"))]
        for first, row in rows.items()
    ]  # fmt: skip
    return markdown_table(head, lines), [{"first": first, **row} for first, row in rows.items()]
