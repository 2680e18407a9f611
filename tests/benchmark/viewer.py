"""Latency of the viewer, from a pose that is sent to the picture that arrives, and what many clients do to it.

    python tests/benchmark/viewer.py                  # a table: median and 95th percentile by size and number of threads
    python tests/benchmark/viewer.py --clients 10 --seconds 60

Viewer and clients are processes of one machine: no network is in between, and no browser, which would draw the picture.
"""

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from config.startup import start

if __name__ == "__main__":
    start()

import numpy as np

from model.viewer import PathFiles
from tests.support.viewer_client import ViewerClient
from tests.support.viewers import FOV, SIZE, bundled_model, example_scenes

# Longest pause between a picture and the next pose: poses don't keep step with the viewer's own clocks.
PAUSE_S = 0.02
# Measurements of many clients, one after the other: what only the first ones add to the memory is no leak.
PARTS = 6


def serve(rows: int, threads: tuple[int, ...], fixed: bool, pipe: Connection) -> None:
    """Run a viewer of the bundled object until the pipe says so; `fixed`: every frame has this many rows."""
    from model.viewer.viewer import Viewer, free_port

    scenes = example_scenes(bundled_model())
    with Viewer(scenes, SIZE, PathFiles(), port=free_port("127.0.0.1", 18480), chosen_threads=threads) as viewer:
        while viewer.scene.state is None:
            time.sleep(0.05)
        viewer.loop.quality.fine = rows
        viewer.loop.quality.coarse_first = not fixed
        pipe.send((viewer.url, viewer.scene.shown_scale, viewer.scene.c2w))
        while pipe.recv():
            time.sleep(1.0)  # clients that have gone are forgotten
            pipe.send((resident_mib(), len(viewer.browsers), threading.active_count()))


def resident_mib() -> float:
    """Return the memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def started(rows: int, threads: tuple[int, ...], fixed: bool) -> tuple[BaseProcess, Connection]:
    """Start a process that serves; return it and this end of its pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(rows, threads, fixed, there), daemon=True)
    process.start()
    return process, here


def latency(rows: int, threads: int, frames: int) -> tuple[float, float]:
    """Return the median and the 95th percentile in milliseconds."""
    process, here = started(rows, (threads,), True)
    url, scale, c2w = here.recv()
    rng, times = np.random.default_rng(0), []
    with ViewerClient(url, scale) as client:
        for i in range(frames + 10):
            start = time.perf_counter()
            client.look(c2w[i % len(c2w)], FOV)
            times.append(1e3 * (client.picture().at_s - start))
            time.sleep(rng.uniform(0, PAUSE_S))
    here.send(False)
    process.join()
    kept = sorted(times[10:])
    return statistics.median(kept), kept[int(0.95 * len(kept))]


def many(clients: int, seconds: float) -> None:
    """Print what each of many clients gets, and what they leave behind."""
    process, here = started(64, (1, 2), False)
    url, scale, c2w = here.recv()
    for part in range(PARTS):
        counts, end = [0] * clients, time.monotonic() + seconds / PARTS

        def wander(k: int, counts: list[int] = counts, end: float = end) -> None:
            rng = np.random.default_rng(k)
            with ViewerClient(url, scale) as client:
                while time.monotonic() < end:
                    client.look(c2w[rng.integers(len(c2w))], FOV)
                    client.picture()
                    counts[k] += 1

        threads = [threading.Thread(target=wander, args=(k,)) for k in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates = [PARTS * count / seconds for count in counts]
        here.send(True)
        memory, left, running = here.recv()
        print(
            f"part {part + 1}: {min(rates):.1f} to {max(rates):.1f} pictures/s for each of {clients}, {sum(rates):.0f} in all; ",
            end="",
        )
        print(f"afterwards {memory:.0f} MiB, {left} browsers, {running} threads", flush=True)
    here.send(False)
    process.join()
    print(f"exit code {process.exitcode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--clients", type=int, help="measure many clients instead")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    if given.clients:
        many(given.clients, given.seconds)
        return
    print("| picture | threads | median ms | 95 % ms |\n| --- | --- | --- | --- |")
    for rows in (64, 128):
        for threads in (1, 2):
            median, high = latency(rows, threads, given.frames)
            print(f"| {rows}×{rows} | {threads} | {median:.0f} | {high:.0f} |", flush=True)


if __name__ == "__main__":
    main()
