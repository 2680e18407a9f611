"""Listings and parallel transfers of many files, with one progress bar and a check of free disk; shared by all downloads.

`model.weights.hub` transfers single files: it resumes cut downloads, checks them, and gives them their own name only when complete.
"""

import glob
import queue
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from tqdm import tqdm

from config.errors import InputError
from config.messages import counted, one_line, shown
from config.secrets import without_secrets
from data_preprocess.command import bytes_text
from data_preprocess.scene_folder import refuse_linked_folders
from model.weights.hub import download, hub_endpoint, keep_secrets_out_of_log, name_in_cache

PAGES = {"dataset": "https://huggingface.co/datasets/", "model": "https://huggingface.co/"}
# Between attempts at one file; longer where the server asks for it.
RETRY_WAITS_S = (2.0, 10.0)
# After this many failures in a row, the network, the hub or the disk is the problem, not a file.
MAX_FAILURES = 5
POLL_S = 0.2
# Wait after an error for transfers in progress. The next run continues them.
LEAVE_S = 5.0


@dataclass(frozen=True, eq=False)
class Item:
    """A file to download.

    Attributes:
        name: its name in messages.
        size: bytes to transfer.
        destination: the resulting file; the progress bar follows the partial file next to it.
        fetch: downloads it. Called in a thread, and again after an OSError.
    """

    name: str
    size: int
    destination: Path
    fetch: Callable[[], object]


class Transfer:
    """Download items in parallel under one progress bar in bytes.

    Free disk is checked first. A failed item is tried again, then left to the next run while the others continue; denied access,
    or `MAX_FAILURES` failures in a row, end the transfer.

    Args:
        items: all items that `fetch` will be called with.
        workers: transfers at a time.
        folder: above all destinations, and named by the user.
        extra: bytes needed there beyond the items' sizes.

    Attributes:
        failures: one line for each item that failed.

    Raises:
        InputError: a folder below `folder` is a link, through which items would be written elsewhere.
        OSError: there is not enough room.
    """

    def __init__(self, items: Sequence[Item], workers: int, folder: Path, extra: int = 0):
        self.failures: list[str] = []
        self._workers = workers
        self._begun_with = {item: _received(item) for item in items}
        have = sum(self._begun_with.values())
        size = sum(item.size for item in items)
        destinations = [item.destination for item in items]
        partial = [file.parent / ".cache" / file.name for file in destinations]
        refuse_linked_folders(folder, [*destinations, *partial])
        check_disk(folder, size - have + extra)
        self._in_a_row = 0
        self._count = have
        self._running: set[Item] = set()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, disable=not items)

    def __enter__(self) -> "Transfer":
        self._hub_state = are_progress_bars_disabled(), hub_logging.get_verbosity()
        disable_progress_bars()
        hub_logging.set_verbosity_error()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if kind is None or issubclass(kind, Exception):
            for thread in self._threads:
                thread.join(LEAVE_S)
        self._bar.close()
        silent, verbosity = self._hub_state
        if not silent:
            enable_progress_bars()
        hub_logging.set_verbosity(verbosity)

    def fetch(self, items: Sequence[Item]) -> bool:
        """Download these; return whether all succeeded.

        Raises:
            PermissionError: access is denied, to the repository or to the disk.
            OSError: too many failures in a row.
        """
        todo: queue.SimpleQueue = queue.SimpleQueue()
        done: queue.SimpleQueue = queue.SimpleQueue()
        for item in items:
            todo.put(item)
        # Daemons, so that Ctrl-C does not wait for gigabytes.
        count = min(self._workers, len(items))
        self._threads = [threading.Thread(target=self._work, args=(todo, done), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        failures = len(self.failures)
        for _ in items:
            self._settle(*self._next(done))
        return len(self.failures) == failures

    def _work(self, todo: queue.SimpleQueue, done: queue.SimpleQueue) -> None:
        while not self._stop.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            self._running.add(item)
            error = self._attempt(item)
            if isinstance(error, PermissionError):
                self._stop.set()
            self._running.discard(item)
            done.put((item, error))

    def _attempt(self, item: Item) -> Exception | None:
        for wait_s in (*RETRY_WAITS_S, None):
            try:
                item.fetch()
                return None
            except OSError as error:
                hopeless = wait_s is None or isinstance(error, PermissionError) or _status(error.__cause__) == 404
                if hopeless or self._stop.wait(max(wait_s, _asked_wait_s(error))):
                    return error
            except Exception as error:  # listed or raised in the caller's thread
                return error
        raise AssertionError("the last attempt returns")

    def _next(self, done: queue.SimpleQueue) -> tuple[Item, Exception | None]:
        while True:
            try:
                return done.get(timeout=POLL_S)
            except queue.Empty:
                gained = sum(max(_received(item) - self._begun_with[item], 0) for item in tuple(self._running))
                self._bar.update(self._count + gained - self._bar.n)

    def _settle(self, item: Item, error: Exception | None) -> None:
        if error is None:
            self._in_a_row = 0
            self._count += item.size - self._begun_with[item]
            self._bar.update(max(self._count - self._bar.n, 0))
            return
        if not isinstance(error, (OSError, InputError)) or isinstance(error, PermissionError):
            raise error
        self.failures.append(f"{item.name}: {one_line(error)}")
        self._in_a_row += 1
        if self._in_a_row == MAX_FAILURES:
            found = f"could not be fetched, the last is {self.failures[-1]}"
            raise OSError(f"{self._in_a_row} files in a row: {found}; wanted a network and a disk that work") from error

    def check(self) -> None:
        """Raise OSError if an item failed."""
        if self.failures:
            where = f"{len(self.failures)} of {counted(len(self._begun_with), 'file')}"
            raise OSError(f"{where}: could not be fetched, the first is {self.failures[0]}; wanted all: run again to complete")


def missing(items: Sequence[Item]) -> list[Item]:
    """Return the items whose file does not exist.

    Raises:
        InputError: a file exists with a size other than that of the listing.
    """
    for item in items:
        if item.destination.is_file() and item.destination.stat().st_size != item.size:
            found = item.destination.stat().st_size
            raise InputError(item.destination, f"has {found} bytes", f"{item.size} as listed: move it away and run again")
    return [item for item in items if not item.destination.is_file()]


def hub_item(repo: str, entry: RepoFile, destination: Path, repo_type: str) -> Item:
    """Return the item that downloads a listed file of a Hugging Face repository to `destination`."""
    return Item(entry.path, entry.size, destination, lambda: fetch_file(repo, entry.path, destination, repo_type))


def fetch_file(repo: str, file: str, destination: Path, repo_type: str) -> Path:
    """Download one file like `model.weights.hub.download`; denied access says where to request it and how to log in."""
    try:
        return download(repo, file, destination, repo_type=repo_type)
    except PermissionError as error:
        if error.errno is not None:  # of the disk
            raise
        raise _no_access(repo, repo_type, error.__cause__) from error


def list_files(repo: str, folder: str = "", repo_type: str = "dataset", recursive: bool = False) -> list[RepoFile | RepoFolder]:
    """List a folder of a Hugging Face repository.

    Args:
        repo: `owner/name`.
        folder: path inside the repository; empty for its root.
        repo_type: `model` or `dataset`.
        recursive: list subfolders, too.

    Raises:
        FileNotFoundError: there is no such repository or folder.
        PermissionError: access is denied.
        OSError: the hub is unreachable, or its answer is not a listing.
    """
    endpoint = hub_endpoint()
    where, address = f"{repo}/{folder}".rstrip("/"), without_secrets(endpoint)
    keep_secrets_out_of_log()
    try:
        api = HfApi(endpoint=endpoint)
        entries = list(api.list_repo_tree(repo, folder or None, recursive=recursive, repo_type=repo_type))
    except (HTTPError, OfflineModeIsEnabled) as error:
        status = _status(error)
        if status in (401, 403):
            raise _no_access(repo, repo_type, error) from error
        if status == 404:
            raise FileNotFoundError(f"{where}: is not on {address} (HTTP 404); wanted a folder of its listing") from error
        if status is not None:
            raise OSError(f"{where}: is answered by {address} with HTTP {status}; wanted a listing: try again later") from error
        raise ConnectionError(f"{where}: is unreachable ({one_line(error)}); wanted a listing from the hub") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # an unexpected answer may make the package raise anything
        raise OSError(
            f"{where}: is requested from {address}, which does not answer like a hub; wanted a hub: check HF_ENDPOINT and proxies"
        ) from error
    for entry in entries:
        if not isinstance(entry.path, str) or not is_inside(entry.path, folder):
            raise OSError(f"{where}: is listed with {shown(entry.path)}; wanted paths in that folder")
        if isinstance(entry, RepoFile) and (type(entry.size) is not int or entry.size < 0):
            raise OSError(f"{where}: is listed with {entry.path} of size {shown(entry.size)}; wanted bytes")
    return entries


def is_inside(path: str, folder: str = "") -> bool:
    """Return whether a path with slashes stays in `folder`: relative, and without `.`, `..`, backslashes or drive letters."""
    parts = path.split("/")
    return path.startswith(f"{folder}/" if folder else "") and not any(
        part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts
    )


def check_disk(folder: Path, need: int) -> None:
    """Raise OSError unless `need` bytes are free on the disk of `folder`, which may not exist yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise OSError(f"{folder}: is on a disk with {bytes_text(free)} free; wanted {bytes_text(need)}: make room and run again")


def _received(item: Item) -> int:
    """Return how many bytes of an item are on disk, in its file or in the partial file of `model.weights.hub` in `.cache/`."""
    cache = item.destination.parent / ".cache"
    for path in (item.destination, *cache.glob(f"{glob.escape(name_in_cache(item.destination))}.*.incomplete")):
        try:
            return min(path.stat().st_size, item.size)
        except FileNotFoundError:  # missing, or just renamed
            continue
    return 0


def _asked_wait_s(error: OSError) -> float:
    """Return the wait in seconds that a server requests with HTTP 429; else 0."""
    if _status(error.__cause__) != 429:
        return 0.0
    headers = error.__cause__.response.headers
    asked = re.search(r"\d+", headers.get("Retry-After", "")) or re.search(r"(?<=;t=)\d+", headers.get("RateLimit", ""))
    return float(asked[0]) + 1 if asked else 60.0


def _status(error: BaseException | None) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _no_access(repo: str, repo_type: str, cause: BaseException | None) -> PermissionError:
    return PermissionError(
        f"{repo}: denies access (HTTP {_status(cause)}); wanted an account with access: request it at {PAGES[repo_type]}{repo}, "
        "then log in with `hf auth login` or set HF_TOKEN"
    )
