"""Number of CPU threads for frames of a size, chosen by measuring the frames themselves.

A frame of a small network is so short that a second thread can cost more than it brings, above all where a neighbour is on
the other core: on a machine of 2 cores shared with a training run, 64×64 took 14 ms with one thread and 29 with two.
"""

import statistics
from collections import defaultdict
from collections.abc import Hashable

TRIALS = 3
# The choice is measured again after this many frames: neighbours come and go.
KEPT_FRAMES = 300


class ThreadChoice:
    """The faster number of threads for every kind of frame.

    Args:
        candidates: the numbers to choose from.
    """

    def __init__(self, candidates: tuple[int, ...]) -> None:
        self.candidates = tuple(sorted(set(candidates)))
        self._seconds: dict[Hashable, dict[int, list[float]]] = defaultdict(lambda: {n: [] for n in self.candidates})
        self._frames: dict[Hashable, int] = defaultdict(int)

    def pick(self, kind: Hashable) -> int:
        """Return the number of threads for the next frame of a kind: one not yet measured often enough, else the fastest."""
        seconds = self._seconds[kind]
        for n in self.candidates:
            if len(seconds[n]) < TRIALS:
                return n
        return min(self.candidates, key=lambda n: statistics.median(seconds[n]))

    def took(self, kind: Hashable, threads: int, seconds: float) -> None:
        """Note how long a whole frame took."""
        measured = self._seconds[kind][threads]
        if len(measured) < TRIALS:
            measured.append(seconds)
        self._frames[kind] += 1
        if self._frames[kind] >= KEPT_FRAMES:
            del self._frames[kind], self._seconds[kind]
