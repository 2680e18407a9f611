"""Pool of threads that work on photos; an interruption leaves undone what has not begun."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2


@contextlib.contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads, with OpenCV's own threads off: the two would compete for the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(count) as pool:
            try:
                yield pool
            except BaseException:  # after an interruption, too, what still waits is not begun
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        cv2.setNumThreads(before)
