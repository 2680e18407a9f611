"""Miniature Hugging Face hub on localhost for tests of downloads: metadata, redirects, ranges, lists and faults.

    with HubServer({"owner/repo": {"a.pt": b"…"}, "datasets/owner/name": {"x/y.csv": b"…"}}) as hub:
        point_at(monkeypatch, hub)

It answers the requests of huggingface_hub 2.4 for downloads and listings. As on the hub, large files (all but `SMALL`) have
their sha256 as ETag and are redirected to another host, with the headers that invite hf-xet; small ones have git's sha1
and are served directly; and lists come in pages. Below /github it is GitHub's API (a repository's tree), below /raw its files.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import huggingface_hub
import pytest

SMALL = (".json", ".csv", ".txt", ".md", ".yaml")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = re.compile(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(tree|revision)/([^/]+)(?:/(.+))?)?")
CDN = re.compile(r"/cdn/((?:datasets/)?[^/]+/[^/]+)/(.+)")
GITHUB = re.compile(r"/github/repos/([^/]+/[^/]+)/git/trees/main")
RAW = re.compile(r"/raw/([^/]+/[^/]+)/main/(.+)")


@dataclass(frozen=True)
class Request:
    """Request of a client: `range` and `token` are its Range and Authorization headers, or None."""

    method: str
    path: str
    range: str | None
    token: str | None


class HubServer:
    """Serve repositories from memory while the `with` block runs.

    Args:
        repos: file contents by path, by repository; datasets carry the prefix `datasets/`, as in the hub's addresses.

    Attributes:
        url: value for HF_ENDPOINT.
        requests: all requests in order.
        bytes_served: file contents sent so far, in bytes, by path in the repository.
        ranges: whether Range headers are honoured; False for a server that always sends whole files.
        page: entries of a folder listed at a time.
    """

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]]):
        self.repos = {repo: dict(files) for repo, files in repos.items()}
        self.requests: list[Request] = []
        self.bytes_served: Counter[str] = Counter()
        self.ranges = True
        self.page = 1000
        self._cuts: dict[str, tuple[int, bool]] = {}
        self._failures: dict[str, tuple[int, str | None]] = {}
        self._tokens: dict[str, str | None] = {}
        self._private: set[str] = set()
        self._bodies: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://localhost:{self._server.server_port}/cdn"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def cut(self, file: str, after: int, stay_down: bool = False) -> None:
        """Cut the next transfer of `file` after that many bytes; with `stay_down`, all later ones immediately."""
        self._cuts[file] = (after, stay_down)

    def mend(self, file: str) -> None:
        """Undo `cut`."""
        self._cuts.pop(file, None)

    def fail(self, file: str, status: int, code: str | None = None) -> None:
        """Answer requests for `file`, or for the list of a folder of that name, with an HTTP status and the hub's X-Error-Code."""
        self._failures[file] = (status, code)

    def heal(self, file: str) -> None:
        """Undo `fail` and `corrupt`."""
        self._failures.pop(file, None)
        self._bodies.pop(file, None)

    def gate(self, repo: str, token: str | None = None, lists: bool = False) -> None:
        """Serve files of `repo` only to `token`: 401 without a token, 403 with another one, as on the hub.

        Anyone may list its files, as on the hub, unless `lists` gates the lists too.
        """
        self._tokens[repo] = token
        if lists:
            self._private.add(repo)

    def corrupt(self, file: str, body: bytes) -> None:
        """Serve `body` instead of `file`, under the hash of the true content."""
        self._bodies[file] = body

    def count(self, method: str, part: str = "") -> int:
        """Return the number of requests so far of that method with `part` in their path."""
        return sum(request.method == method and part in request.path for request in self.requests)

    def _cut_at(self, file: str) -> int | None:
        after, stay_down = self._cuts.pop(file, (None, False))
        if stay_down:
            self._cuts[file] = (0, True)
        return after


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        self.hub.requests.append(Request(self.command, path, self.headers["Range"], self.headers["Authorization"]))
        if match := CDN.fullmatch(path):
            self._send_file(match[2], self.hub.repos[match[1]][match[2]], {})
        elif match := RESOLVE.fullmatch(path):
            self._resolve(*match.groups())
        elif match := API.fullmatch(path):
            kind, repo, what, revision, folder = match.groups()
            self._list(repo if kind == "models" else f"datasets/{repo}", what, revision, folder or "", query)
        elif match := GITHUB.fullmatch(path):
            self._list_github(match[1])
        elif match := RAW.fullmatch(path):
            if match[2] in self.hub._failures or match[2] not in self.hub.repos.get(match[1], {}):
                self._refuse(*self.hub._failures.get(match[2], (404, None)))
            else:
                self._send_file(match[2], self.hub.repos[match[1]][match[2]], {})
        else:
            self._refuse(404, None)

    def _admit(self, repo: str, revision: str | None, path: str, listing: bool) -> bool:
        token = self.headers["Authorization"]
        guarded = self.hub._private if listing else self.hub._tokens
        if path in self.hub._failures:
            self._refuse(*self.hub._failures[path])
        elif repo not in self.hub.repos:
            self._refuse(404 if token else 401, "RepoNotFound")
        elif repo in guarded and token != f"Bearer {self.hub._tokens[repo]}":
            self._refuse(403 if token else 401, "GatedRepo")
        elif revision not in (None, "main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif not any(file.startswith(path) if listing else file == path for file in self.hub.repos[repo]):
            self._refuse(404, "EntryNotFound")
        else:
            return True
        return False

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        if not self._admit(repo, revision, file, listing=False):
            return
        content = self.hub.repos[repo][file]
        if file.endswith(SMALL):
            self._send_file(file, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(content)}"'})
            return
        sha256 = hashlib.sha256(content).hexdigest()
        self._send(
            302,
            {
                "Location": f"{self.hub.cdn}/{repo}/{quote(file)}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(content)),
                "X-Xet-Hash": sha256,
                "Link": f'<{self.hub.url}/xet>; rel="xet-auth"',
            },
        )

    def _list(self, repo: str, what: str | None, revision: str | None, folder: str, query: dict[str, list[str]]) -> None:
        if not self._admit(repo, revision, folder, listing=True):
            return
        files = self.hub.repos[repo]
        if what != "tree":
            name = repo.removeprefix("datasets/")
            self._send_json({"id": name, "sha": COMMIT, "tags": [], "siblings": [{"rfilename": path} for path in files]})
            return
        start = f"{folder}/" if folder else ""
        recursive = query.get("recursive", ["false"])[0]
        entries: dict[str, dict] = {}
        for path, content in files.items():
            if path.startswith(start):
                child, deeper, _ = path.removeprefix(start).partition("/")
                if deeper and recursive == "false":
                    entries[child] = {"type": "directory", "path": start + child, "oid": git_sha1(child.encode()), "size": 0}
                else:
                    entries[path] = _tree_entry(path, content)
        first = int(query.get("cursor", ["0"])[0])
        last = first + self.hub.page
        more = f"{self.hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={last}"
        self._send_json(list(entries.values())[first:last], {"Link": f'<{more}>; rel="next"'} if last < len(entries) else {})

    def _list_github(self, repo: str) -> None:
        if "git/trees" in self.hub._failures:
            self._refuse(*self.hub._failures["git/trees"])
        elif "git/trees" in self.hub._bodies:
            self._send(200, {"Content-Type": "application/json"}, self.hub._bodies["git/trees"])
        else:
            files = self.hub.repos[repo].items()
            tree = [{"path": path, "type": "blob", "size": len(content), "sha": git_sha1(content)} for path, content in files]
            folders = sorted({path.rpartition("/")[0] for path, _ in files})
            tree += [{"path": path, "type": "tree", "sha": git_sha1(path.encode())} for path in folders]
            self._send_json({"sha": COMMIT, "tree": tree, "truncated": False})

    def _send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def _send_file(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        content = self.hub._bodies.get(file, content)
        total, start = len(content), 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if self.hub.ranges else None
        if wanted:
            start = int(wanted[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
        body = content[start:]
        cut = self.hub._cut_at(file) if self.command == "GET" else None
        sent = body if cut is None else body[:cut]
        if self.command == "GET":
            self.hub.bytes_served[file] += len(sent)
        self._send(206 if wanted else 200, {**headers, "Accept-Ranges": "bytes"}, sent, len(body))

    def _refuse(self, status: int, code: str | None) -> None:
        headers = {"X-Error-Message": "refused by the stand-in"}
        self._send(status, {**headers, "X-Error-Code": code} if code else headers, b'{"error": "refused"}')

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"", length: int | None = None) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)


def git_sha1(content: bytes) -> str:
    """Return git's hash of a file with that content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree_entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if path.endswith(SMALL):
        return entry
    return {**entry, "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


def point_at(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    """Make this process use only `hub`, with no token, no wait between retries and 1000-byte steps."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    constants = huggingface_hub.constants
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": "/nonexistent/token",
        "HF_HUB_DISABLE_TELEMETRY": True,
        "DOWNLOAD_CHUNK_SIZE": 1000,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    huggingface_hub.close_session()
