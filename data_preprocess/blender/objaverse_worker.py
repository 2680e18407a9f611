"""Process that downloads objects of Objaverse with the `objaverse` package, in the environment of `objaverse_requirement.txt`.

Reads uids from standard input, one per line, and answers each with a line of JSON: `{"uid", "glb"}` or `{"uid", "error"}`. The
package's own output goes to standard error. It keeps files in ~/.objaverse and downloads none twice.
"""

import contextlib
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import objaverse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Threads instead of the package's own processes, which wait forever when the server refuses an object.
DOWNLOADS = 8
# Uids per request: for each one, the package reads its list of 800 thousand objects.
CHUNK = 16
TIMEOUT_S = 60
LOCK = os.path.expanduser("~/.objaverse/list.lock")


def main() -> None:
    """Answer every uid, in order."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    socket.setdefaulttimeout(TIMEOUT_S)
    uids = sys.stdin.read().split()
    chunks = [uids[start : start + CHUNK] for start in range(0, len(uids), CHUNK)]
    try:
        # Once, before the threads, which must not all download the list of objects.
        with alone():
            objaverse.load_uids()
    except Exception as error:  # a refused or cut connection, or anything a damaged list may raise
        problem = (
            f"is skipped, the list of objects cannot be read ({explain(error)}); wanted the list: delete a damaged ~/.objaverse"
        )
        for uid in uids:
            answers.write(json.dumps({"uid": uid, "error": problem}) + "\n")
        return
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for chunk in pool.map(fetch, chunks):
            for answer in chunk:
                answers.write(json.dumps(answer) + "\n")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let one process after another through the block, where files can be locked: the package reads a list that another writes."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(LOCK), exist_ok=True)
            file = stack.enter_context(open(LOCK, "a"))
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(uids: list[str]) -> list[dict]:
    """Download some objects; if that fails, one by one, to find the cause."""
    try:
        paths = objaverse.load_objects(uids)
    except Exception as error:
        if len(uids) > 1:
            return [fetch([uid])[0] for uid in uids]
        return [
            {"uid": uids[0], "error": f"cannot be downloaded ({explain(error)}); wanted it from its server: run again to retry"}
        ]
    missing = "is not in Objaverse; wanted a uid in its list"
    return [{"uid": uid, "glb": paths[uid]} if uid in paths else {"uid": uid, "error": missing} for uid in uids]


def explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
