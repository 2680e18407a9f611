"""Start of every program, before it imports anything else: signals, versions checked, threads chosen while torch is not loaded.

config/__init__.py imports this module before all others, so that an older Python ends with one line instead of a traceback from
further in. Therefore everything here must run there, and the programs must at least parse.
"""

import os
import re
import sys

OLDEST_PYTHON, OLDEST_TORCH = (3, 10), (2, 9)


def start():
    """Let signals end the imports, check torch's version, choose threads; in programs, not where these are imported."""
    from config.signals import end_at_once
    from config.threads import choose_threads

    end_at_once()
    check_torch()
    check_endpoint()
    choose_threads()


def check_python(version=sys.version_info):
    """End the program with one line and exit code 2 if this Python is too old."""
    if tuple(version[:2]) < OLDEST_PYTHON:
        refuse("Python: is {}.{}.{} ({}); wanted {}.{} or newer".format(*version[:3], sys.executable, *OLDEST_PYTHON))


def check_torch():
    """End the program with one line and exit code 2 if torch is installed and too old; not all programs import it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("torch")
    except PackageNotFoundError:
        return
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH:
        refuse("torch: is {}; wanted {}.{} or newer: pip install -r requirement.txt".format(found, *OLDEST_TORCH))


def check_endpoint():
    """End the program with one line and exit code 2 if HF_ENDPOINT is no address: huggingface_hub reads it when it is imported."""
    from urllib.parse import urlsplit

    try:
        _ = urlsplit(os.environ.get("HF_ENDPOINT", "")).port
    except ValueError:
        refuse("HF_ENDPOINT: is no address of a hub; wanted https://HOST or https://HOST:PORT, with %2F for a slash in a password")


def refuse(problem):
    """Print a problem, once for all processes of a machine, and end the program."""
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
        print(f"{os.path.basename(sys.argv[0])}: {problem}", file=sys.stderr, flush=True)
    sys.exit(2)


check_python()
