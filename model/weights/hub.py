"""Weight downloads: resumed after a cut, verified, and given their final name only when complete.

huggingface_hub finds the file, sends the token and transfers the bytes. Its own `hf_hub_download` discards a partial file
when the call fails, and checks the size alone; here the partial file is kept in `.cache/` next to the destination, named
by the hash of the complete file, and the hash is checked too. Plain HTTP throughout: hf-xet is not needed.
"""

import errno
import glob
import hashlib
import logging
import os
import queue
import re
import shutil
import threading
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  (httpx's, a dependency of huggingface_hub)
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session

from config import did_you_mean
from config.errors import missing_file
from config.messages import with_type
from config.paths import find_path
from config.secrets import without_secrets
from data.files import DISK_ERRORS, check_output, shortened
from model.weights.checksum import sha256_of
from model.weights.table import LPIPS_FILES, WEIGHT_DIR, known_weights

# A compressed response has no length and no ranges in bytes of the file.
UNCOMPRESSED = {"Accept-Encoding": "identity"}
# Bytes of a file's name in `.cache/`, where more is appended to it.
_LONGEST_NAME = 200

_lpips_failures: dict[str, str] = {}


def download(
    repo: str,
    file: str,
    destination: str | os.PathLike,
    repo_type: str = "model",
    revision: str | None = None,
) -> Path:
    """Download one file of a Hugging Face repository, unless it is there already.

    Args:
        repo: `owner/name`.
        file: path inside the repository.
        destination: the file to write. Its folder is created; a partial file is kept in that folder's `.cache/`.
        repo_type: `model` or `dataset`.
        revision: branch, tag or commit; None for the main branch.

    Returns:
        `destination`.

    Raises:
        InputError: a folder or device is in the place of the file.
        FileNotFoundError: the hub cannot be reached, or has no such file.
        PermissionError: the hub refuses access: the repository is gated or private.
        OSError: the transfer broke off (run again to continue), the disk is full, or size or hash are not the stated ones.

    The environment is read at every call: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
    """
    destination = Path(destination)
    if destination.is_file():
        return destination
    check_output(destination)
    keep_secrets_out_of_log()
    endpoint = hub_endpoint()
    url = hf_hub_url(repo, file, repo_type=repo_type, revision=revision, endpoint=endpoint)
    by_hand = _by_hand(url, destination)
    if _offline():
        raise _not_there(destination, "HF_HUB_OFFLINE forbids fetching it", by_hand)
    try:
        metadata = get_hf_file_metadata(url, endpoint=endpoint)
        if metadata.commit_hash is None or metadata.etag is None:
            why = f"{without_secrets(endpoint)} does not answer as a hub does"
            raise _not_there(destination, why, f"HF_ENDPOINT and proxies that lead to one, or {by_hand}")
        # Pinned to the commit, so that a push between two attempts cannot mix two files; the hub's own address, since the
        # signed one that it redirects to expires.
        pinned = hf_hub_url(repo, file, repo_type=repo_type, revision=metadata.commit_hash, endpoint=endpoint)
        _fetch(pinned, destination, metadata.size, metadata.etag, build_hf_headers(headers=UNCOMPRESSED))
    except (HTTPError, OfflineModeIsEnabled) as error:
        what = f"{repo_type} repository {repo}"
        raise _refusal(error, destination, what, f"{file} at {revision or 'main'}", by_hand) from error
    return destination


def download_url(url: str, destination: str | os.PathLike, size: int, sha256: str, patience_s: float = 4.0) -> Path:
    """Download one file of known content from a plain address, unless it is there already.

    Args:
        url: address that supports HEAD; ranges are used where it supports them.
        destination: the file to write.
        size: in bytes.
        sha256: 64 hexadecimal digits.
        patience_s: time limit for the first response, name look-up included.

    Returns:
        `destination`.

    Raises:
        FileNotFoundError: offline, or no response in time.
        OSError: as `download`.
    """
    destination = Path(destination)
    if destination.is_file():
        return destination
    check_output(destination)
    keep_secrets_out_of_log()
    by_hand = _by_hand(url, destination)
    if _offline():
        raise _not_there(destination, "HF_HUB_OFFLINE forbids fetching it", by_hand)
    failure = _first_answer(url, patience_s)
    if failure is not None:
        raise _not_there(destination, f"fetching it failed ({with_type(failure)})", by_hand)
    try:
        _fetch(url, destination, size, sha256, UNCOMPRESSED)
    except HTTPError as error:
        raise OSError(f"{destination}: is not there, and fetching it failed ({with_type(error)}); wanted {by_hand}") from error
    return destination


def resolve_weights(path: str | os.PathLike) -> Path:
    """Return the weight file that `path` names, downloading it where it is missing and its name is in the table.

    Args:
        path: a file, relative to the working folder or to the project's; or a file that the table knows and that is downloaded to
            this place. A bare name, and one in a folder weight/ that the working folder does not have, is looked up in the working
            folder, then in the project's weight/, and downloaded into that.

    Raises:
        FileNotFoundError: the file is missing and cannot be downloaded; the message lists the known names.
        OSError: the file is in the table and its download failed: see `download`.
    """
    path = Path(path)
    bare = path == Path(path.name) or (path == Path("weight", path.name) and not Path("weight").exists())
    for place in (path, WEIGHT_DIR / path.name) if bare else (path, find_path(path)):
        if place.is_file():
            return place
    known = known_weights()
    if path.name not in known:
        raise missing_file(path, f"a weight file, or a known name; {did_you_mean(path.name, list(known))}")
    row = known[path.name]
    if row.repo is None:
        raise missing_file(path, "the file that a clone of the project has in weight/")
    return download(row.repo, row.file, WEIGHT_DIR / path.name if bare else path)


def resolve_lpips(fetch: bool = True) -> tuple[Path, Path]:
    """Return the paths of the VGG-16 trunk and of the LPIPS heads in weight/, downloading missing ones if `fetch`.

    A failed download is not retried in this process: every later call fails at once with the same message.

    Raises:
        FileNotFoundError: a file is missing and could not be fetched; the message names the file to save and its place.
    """
    trunk, heads = (WEIGHT_DIR / file.name for file in LPIPS_FILES)
    for path, file in zip((trunk, heads), LPIPS_FILES, strict=True):
        if not path.is_file() and not fetch:
            raise _not_there(path, "with the bundled model nothing is downloaded", _by_hand(file.url, path))
        if not path.is_file() and file.name not in _lpips_failures:
            try:
                download_url(file.url, path, file.size, file.sha256)
            except OSError as error:
                _lpips_failures[file.name] = str(error)
        if not path.is_file():
            raise FileNotFoundError(_lpips_failures[file.name])
    return trunk, heads


def hub_endpoint() -> str:
    """Return the address of the hub: that of HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def keep_secrets_out_of_log() -> None:
    """Take passwords out of the warnings of huggingface_hub, which name the addresses of its requests."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_clean)  # one object: it is added once


def _clean(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


def name_in_cache(destination: Path) -> str:
    """Return what the names of a download's partial files begin with; the name of its file, or a short one with a hash."""
    name = destination.name
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{shortened(name, _LONGEST_NAME // 2)}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _by_hand(url: str, destination: Path) -> str:
    return f"the file by hand: get {without_secrets(url)} and save it as {destination}"


def _not_there(path: Path, why: str, wanted: str) -> FileNotFoundError:
    return FileNotFoundError(f"{path}: is not there, and {why}; wanted {wanted}")


def _offline() -> bool:
    return is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _first_answer(url: str, patience_s: float) -> Exception | None:
    """Return why `url` does not respond, or None. In a thread, since no timeout covers the look-up of the host's name."""
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            get_session().head(url, timeout=patience_s, follow_redirects=True).raise_for_status()
            outcome.put(None)
        except (HTTPError, OSError) as error:
            outcome.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return outcome.get(timeout=patience_s)
    except queue.Empty:
        return TimeoutError(f"no answer within {patience_s:g} s")


def _fetch(url: str, destination: Path, size: int | None, etag: str, headers: dict[str, str]) -> None:
    """Download `url` to `destination` through a partial file that outlives this process; one process at a time."""
    cache = destination.parent / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    content, name = re.sub("[^0-9A-Za-z]", "", etag)[:16], name_in_cache(destination)
    partial = cache / f"{name}.{content}.incomplete"
    check_output(partial)
    with WeakFileLock(cache / f"{name}.lock"):
        if destination.is_file():
            return
        for stale in set(cache.glob(f"{glob.escape(name)}.*.incomplete")) - {partial}:
            stale.unlink()
        _receive(url, partial, destination, size, headers)
        _verify(url, partial, destination, size, etag)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(destination)


def _receive(url: str, partial: Path, destination: Path, size: int | None, headers: dict[str, str]) -> None:
    """Append the rest of `url` to `partial`, resuming after a cut as long as every attempt makes progress."""
    have = partial.stat().st_size if partial.exists() else 0
    if size is not None and have > size:
        partial.unlink()
        have = 0
    free = shutil.disk_usage(partial.parent).free
    if size is not None and size - have > free:
        raise OSError(
            f"{destination}: needs {size - have} more bytes, and the disk has {free} free; "
            "wanted free space, then the same command again"
        )
    while True:
        try:
            with partial.open("ab") as file:
                name = destination.name
                http_get(url, file, resume_size=have, headers=headers, expected_size=size, displayed_filename=name)
            return
        except HfHubHTTPError:
            raise
        except (HTTPError, OSError) as error:
            before, have = have, partial.stat().st_size
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                full = error.errno == errno.ENOSPC
                why, wanted = ("the disk is full", "free space") if full else (error.strerror, DISK_ERRORS[error.errno])
                raise OSError(
                    f"{destination}: broke off at {have} of {size} bytes, since {why}; wanted {wanted}, then the same command again"
                ) from error
            if size is not None and have > size:
                return
            if have <= before:
                raise OSError(
                    f"{destination}: broke off at {have} of {size} bytes ({with_type(error)}); "
                    f"wanted the same command again, which continues from there, or {_by_hand(url, destination)}"
                ) from error


def _verify(url: str, partial: Path, destination: Path, size: int | None, etag: str) -> None:
    """Compare `partial` with the stated size and hash; delete it if they differ."""
    have = partial.stat().st_size
    if size is None or have == size:
        digest = _digest(partial, etag)
        if digest == etag:
            return
        found, wanted = f"hash {digest}", etag
    else:
        found, wanted = f"{have} bytes", f"{size}"
    partial.unlink()
    again = f"the same command again, or {_by_hand(url, destination)}"
    raise OSError(f"{destination}: arrived with {found} instead of {wanted}, and was deleted; wanted {again}")


def _digest(path: Path, etag: str) -> str:
    """Return a file's hash of the kind that `etag` is: sha256 (large files), git's sha1 (small ones), else `etag`."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        return sha256_of(path)
    if not re.fullmatch("[0-9a-f]{40}", etag):
        return etag
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _refusal(error: Exception, destination: Path, repo: str, file: str, by_hand: str) -> OSError:
    """Return the one-line error for what huggingface_hub raised."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{destination}: is in {repo}, which is gated (HTTP {status}); wanted its terms accepted on its page and HF_TOKEN set "
            f"to a token of that account, or {by_hand}"
        )
    if isinstance(error, (EntryNotFoundError, RevisionNotFoundError)):
        return FileNotFoundError(
            f"{destination}: cannot be fetched: {repo} has no {file} (HTTP {status}); wanted a name that it has"
        )
    if status in (401, 403):
        return PermissionError(
            f"{destination}: is in {repo}, which does not exist or denies access (HTTP {status}); "
            f"wanted HF_TOKEN set to a token with read access, or {by_hand}"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return FileNotFoundError(f"{destination}: cannot be fetched: there is no {repo} (HTTP {status}); wanted a name that exists")
    if status is not None:
        return OSError(f"{destination}: is in {repo}, which answers HTTP {status}; wanted a retry later, or {by_hand}")
    return _not_there(destination, f"the hub is unreachable ({with_type(error)})", by_hand)
