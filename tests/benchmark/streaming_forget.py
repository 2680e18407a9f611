"""Views taken out of states: PSNR against states that never had them, CPU time, and a window that slides along a walk."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tqdm import tqdm

from data.output.tables import markdown_table
from model.view_chunks import part_of
from tests.benchmark.streaming_quality import Chunks, Test, chosen, errors, evenly, score, split, streamed

# After so many moves the window is compared with an exact state.
MARKS = (0, 1, 2, 5, 10, 25, 50, 100, 200)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call and its CPU seconds."""
    start = time.process_time()
    return call(), time.process_time() - start


def forget(test: Test, args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure states of `--inputs` views that forget some, against states that never had them."""
    rows: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for scene in tqdm(test.scenes, desc=test.name, unit="scene", leave=False, disable=None):
        inputs, targets = split(scene)
        order, wanted = evenly(inputs, args.inputs), chosen(scene, targets)
        whole = test.model.reconstruct(chosen(scene, order), keep_sums=True)
        stream = streamed(test.model, scene, order, Chunks(4, 1))[len(order)]
        middle = len(order) // 2
        cases = [
            ("reconstruct", "1 in the middle", whole, order[middle : middle + 1]),
            ("reconstruct", "2, evenly", whole, evenly(order, 2)),
            ("reconstruct", "4, evenly", whole, evenly(order, 4)),
            ("stream, 4+1", "newest", stream, order[-1:]),
            ("stream, 4+1", "in the middle", stream, order[middle : middle + 1]),
            ("stream, 4+1", "oldest", stream, order[:1]),
        ]
        for source, what, state, gone in cases:
            left = [i for i in order if i not in gone]
            exact, seconds = timed(partial(test.model.reconstruct, chosen(scene, left), keep_sums=True))
            found, taken = timed(partial(test.model.forget, state, chosen(scene, gone)))
            never = exact if source == "reconstruct" else streamed(test.model, scene, left, Chunks(4, 1))[len(left)]
            scores = [score(test.model, one, wanted) for one in (found, never, exact)]
            rows.setdefault((source, what), []).append((*scores, taken / seconds))
    head = ["state of", "forgotten", "PSNR, dB", "against a state that never held them", "worst", "against exact", "CPU time"]
    lines = []
    for (source, what), values in rows.items():
        found, against_exact = [one for one, *_ in values], [one - exact for one, _, exact, _ in values]
        against = [one - never for one, never, _, _ in values]
        lines.append([
            source, what, f"{statistics.mean(found):.2f}", f"{statistics.mean(against):+.2f}", f"{min(against):+.2f}",
            f"{statistics.mean(against_exact):+.2f}", f"{statistics.median(ratio for *_, ratio in values):.0%}",
        ])  # fmt: skip
    return markdown_table(head, lines), [{"state": source, "forgotten": what, "values": x} for (source, what), x in rows.items()]


def window(test: Test, args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure states of the last `--hold` views of a walk: a view is added and the oldest forgotten, again and again.

    Every other view may be held; the targets are those between the held ones.
    """
    rows: dict[int, list[dict]] = {}
    for scene in tqdm(test.scenes, desc=test.name, unit="scene", leave=False, disable=None):
        views = list(range(0, len(scene), 2))
        state = test.model.reconstruct(chosen(scene, views[: args.hold]), keep_sums=True)
        for move in range(min(args.moves, len(views) - args.hold) + 1):
            if move:
                state = test.model.extend(state, chosen(scene, [views[move + args.hold - 1]]))
                state = test.model.forget(state, chosen(scene, [views[move - 1]]))
            if move not in MARKS:
                continue
            held = views[move : move + args.hold]
            inputs, wanted = chosen(scene, held), part_of(scene, slice(held[0] + 1, held[-1], 2))
            exact = test.model.reconstruct(inputs)
            same = test.model.reconstruct(inputs, focus=state.focus)
            stream = streamed(test.model, scene, held, Chunks(4, 1))[len(held)]
            scores = {name: score(test.model, one, wanted) for name, one in
                      {"window": state, "exact": exact, "same": same, "stream": stream}.items()}  # fmt: skip
            drift = 0.0 if state.focus_drift is None else state.focus_drift.item()
            rows.setdefault(move, []).append({**scores, "drift": drift, "errors": errors(state, same)})
    names = {"window": "against exact", "same": "exact with the window's focus", "stream": "4+1 anew"}
    lines = []
    for move, values in rows.items():
        differences = {name: [value[name] - value["exact"] for value in values] for name in names}
        lines.append([
            str(move), f"{statistics.mean(value['exact'] for value in values):.2f}",
            *(text for x in differences.values() for text in (f"{statistics.mean(x):+.2f}", f"{min(x):+.2f}")),
            f"{statistics.mean(value['drift'] for value in values):.2f}",
            " ".join(f"{max(layer):.0e}" for layer in zip(*(value["errors"] for value in values), strict=True)),
        ])  # fmt: skip
    head = ["moves", "exact, dB", *(text for name in names.values() for text in (name, "worst")), "drift", "errors of layers"]
    return markdown_table(head, lines), [{"move": move, "values": values} for move, values in rows.items()]
