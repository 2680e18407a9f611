"""Download of the two example objects of the published LaCT release into data_example/.

    python data_preprocess/gso_example_download.py

Assumes the GitHub repository a1600012888/LaCT, branch main, folder `lact_nvs/data_example`: `gso_character` and `gso_toy`,
scanned toys (Google Scanned Objects) in 64 renders each with their `opencv_cameras.json`, and `gso_sample_data_path.json`, which
lists these two. The files and their git hashes are listed by GitHub's API (60 requests per hour without an account; this takes
one) and downloaded from raw.githubusercontent.com. For mirrors, LACT_GITHUB_API and LACT_GITHUB_RAW replace the two addresses.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import quote

from huggingface_hub.utils import get_session

from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import counted, one_line, shown
from config.secrets import without_secrets
from data.files import check_output
from data.scene_format import CAMERAS, read_json, read_scene
from data_preprocess.command import MOST_WORKERS, bytes_text, run_script
from data_preprocess.hub.transfers import Item, Transfer, is_inside, missing
from model.weights.hub import download_url

REPO, BRANCH, FOLDER = "a1600012888/LaCT", "main", "lact_nvs/data_example"
OBJECTS = ("gso_character", "gso_toy")
LIST = "gso_sample_data_path.json"
SCENE_FILE = re.compile(rf"(?:{'|'.join(OBJECTS)})/(?:[\w-]+/)?[\w-]+\.(?:png|jpg|json)")
ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 20


@dataclass(frozen=True)
class ExampleDownload:
    """Flags: where and how to download."""

    output: Path = flag(ROOT / "data_example", "folder for the files", group="download")
    workers: int = flag(8, "transfers at a time", least=1, most=MOST_WORKERS)


def list_example() -> dict[str, tuple[int, str]]:
    """Return the example's files: size in bytes and git's hash, by path below `data_example`.

    Raises:
        FileNotFoundError: the files are no longer there.
        OSError: GitHub is unreachable, or its answer is not a listing.
    """
    api = (os.environ.get("LACT_GITHUB_API") or "https://api.github.com").rstrip("/")
    url = f"{api}/repos/{REPO}/git/trees/{BRANCH}?recursive=1"
    address = without_secrets(url)
    try:
        answer = get_session().get(url, timeout=TIMEOUT_S, follow_redirects=True)
    except MemoryError:
        raise
    except Exception as error:  # such as an invalid address
        raise ConnectionError(
            f"{address}: is unreachable ({one_line(error)}); wanted the list of files: try again later"
        ) from error
    if answer.status_code in (403, 429):
        raise OSError(
            f"{address}: answers HTTP {answer.status_code}, GitHub's limit of requests per hour; wanted a list: try again later"
        )
    if answer.status_code != 200:
        raise OSError(f"{address}: answers HTTP {answer.status_code}; wanted the list of files: try again later")
    try:
        content = answer.json()
    except MemoryError:
        raise
    except Exception:  # the parser may raise anything
        content = None
    tree = content.get("tree") if isinstance(content, dict) else None
    if not isinstance(tree, list) or not all(isinstance(entry, dict) for entry in tree):
        raise OSError(f"{address}: answers with something else; wanted GitHub's list of files: check proxies")
    blobs = [entry for entry in tree if entry.get("type") == "blob" and is_wanted(entry.get("path"))]
    files = {entry["path"].removeprefix(f"{FOLDER}/"): (entry.get("size"), entry.get("sha")) for entry in blobs}
    for path, (size, sha) in files.items():
        if type(size) is not int or size < 0 or not isinstance(sha, str) or not re.fullmatch("[0-9a-f]{40}", sha):
            raise OSError(
                f"{address}: lists {path} with size {shown(size)} and hash {shown(sha)}; wanted bytes and 40 hexadecimal digits"
            )
    for name in (LIST, *(f"{name}/{CAMERAS}" for name in OBJECTS)):
        if name not in files:
            raise FileNotFoundError(f"{address}: lists no {FOLDER}/{name}; wanted this file: the release has changed")
    return files


def is_wanted(path: object) -> bool:
    """Return whether a path of the repository belongs to the example."""
    if not isinstance(path, str) or not is_inside(path, FOLDER):
        return False
    name = path.removeprefix(f"{FOLDER}/")
    return name == LIST or SCENE_FILE.fullmatch(name) is not None


def example_item(path: str, size: int, sha: str, destination: Path) -> Item:
    """Return the item that downloads one file of the example."""
    raw = (os.environ.get("LACT_GITHUB_RAW") or "https://raw.githubusercontent.com").rstrip("/")
    url = f"{raw}/{REPO}/{BRANCH}/{quote(f'{FOLDER}/{path}')}"
    return Item(path, size, destination, partial(download_url, url, destination, size, sha))


def check_list(path: Path, output: Path) -> list[str]:
    """Check the list of scenes, and the scenes; return a summary of each.

    Raises:
        InputError: the list names scenes other than those downloaded, or one of them is broken.
        FileNotFoundError: a scene names an image that is missing.
    """
    content = read_json(path)
    known = {f"{name}/{CAMERAS}" for name in OBJECTS}
    entries = [str(PurePosixPath(entry)) for entry in content if isinstance(entry, str)] if isinstance(content, list) else []
    if not entries or not isinstance(content, list) or len(entries) != len(content) or not known.issuperset(entries):
        raise InputError(path, f"holds {shown(content, 120)}", f"a list of {' and '.join(sorted(known))}")
    summaries = []
    for entry in entries:
        scene = read_scene(output / entry)
        for i, view in enumerate(scene.views):
            if not view.file_path.is_file():
                raise FileNotFoundError(
                    f"{scene.json_path}, view {i}: is {view.file_path}, which is missing; wanted it among the files"
                )
        summaries.append(f"{scene.name} ({counted(len(scene.views), 'view')})")
    return summaries


def work(argv: Sequence[str] | None) -> None:
    """Download the example."""
    given = read_command_line("gso_example_download.py", __doc__.split("\n")[0], (ExampleDownload,), argv)
    chosen = settings(ExampleDownload, given)
    check_output(chosen.output / LIST)
    files = list_example()
    final, unchecked = chosen.output / LIST, chosen.output / ".cache" / LIST
    places = {path: chosen.output / path for path in files} | {LIST: final if final.is_file() else unchecked}
    items = missing([example_item(path, *files[path], place) for path, place in places.items()])
    with Transfer(items, chosen.workers, chosen.output) as transfer:
        transfer.fetch(items)
    transfer.check()
    summaries = check_list(places[LIST], chosen.output)
    # Under its own name only now: once the list exists, so does everything it names.
    places[LIST].replace(final)
    size = bytes_text(sum(item.size for item in items))
    print(f"{final}: {', '.join(summaries)}; fetched {counted(len(items), 'file')}, {size}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("gso_example_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
