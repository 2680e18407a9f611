"""Download of the two example objects of the published LaCT release into data_example/.

    python data_preprocess/gso_example_download.py

What is relied on: the GitHub repository a1600012888/LaCT, branch main, folder `lact_nvs/data_example`: `gso_character` and
`gso_toy`, scanned toys (Google Scanned Objects) in 64 renders each with their `opencv_cameras.json`, and
`gso_sample_data_path.json`, which lists these two. The files and their git hashes are listed by GitHub's API (60 requests an
hour without an account; this is one) and fetched from raw.githubusercontent.com. LACT_GITHUB_API and LACT_GITHUB_RAW replace
the two addresses, for mirrors.
"""

import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from huggingface_hub.utils import get_session

from config.command_line import Parser
from config.errors import InputError
from data.scene_format import CAMERAS, read_json, read_scene
from data_preprocess.command import at_least, one_line, run_script
from data_preprocess.hub.transfers import Item, Transfer, bytes_text, is_inside, missing
from model.weights.hub import download_url

REPO, BRANCH, FOLDER = "a1600012888/LaCT", "main", "lact_nvs/data_example"
OBJECTS = ("gso_character", "gso_toy")
LIST = "gso_sample_data_path.json"
SCENE_FILE = re.compile(rf"(?:{'|'.join(OBJECTS)})/(?:[\w-]+/)?[\w-]+\.(?:png|jpg|json)")
ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 20


def list_example() -> dict[str, tuple[int, str]]:
    """Return the example's files: size in bytes and git's hash, by path below `data_example`.

    Raises:
        FileNotFoundError: the files are not there any more.
        OSError: GitHub is out of reach, or its answer is no listing.
    """
    api = (os.environ.get("LACT_GITHUB_API") or "https://api.github.com").rstrip("/")
    url = f"{api}/repos/{REPO}/git/trees/{BRANCH}?recursive=1"
    try:
        answer = get_session().get(url, timeout=TIMEOUT_S, follow_redirects=True)
    except MemoryError:
        raise
    except Exception as error:  # among them an address that is none
        raise ConnectionError(f"{url}: is out of reach ({one_line(error)}); wanted the list of files: try again later") from error
    if answer.status_code in (403, 429):
        raise OSError(
            f"{url}: answers HTTP {answer.status_code}, GitHub's limit of requests an hour; wanted a list: try again later"
        )
    if answer.status_code != 200:
        raise OSError(f"{url}: answers HTTP {answer.status_code}; wanted the list of files: try again later")
    try:
        content = answer.json()
    except MemoryError:
        raise
    except Exception:  # whatever the text breaks in the parser
        content = None
    tree = content.get("tree") if isinstance(content, dict) else None
    if not isinstance(tree, list) or not all(isinstance(entry, dict) for entry in tree):
        raise OSError(f"{url}: answers something else; wanted GitHub's list of files: check proxies")
    blobs = [entry for entry in tree if entry.get("type") == "blob" and is_wanted(entry.get("path"))]
    files = {entry["path"].removeprefix(f"{FOLDER}/"): (entry.get("size"), entry.get("sha")) for entry in blobs}
    for path, (size, sha) in files.items():
        if type(size) is not int or size < 0 or not isinstance(sha, str) or not re.fullmatch("[0-9a-f]{40}", sha):
            raise OSError(f"{url}: lists {path} with size {size!r} and hash {sha!r}; wanted bytes and 40 hexadecimal digits")
    for name in (LIST, *(f"{name}/{CAMERAS}" for name in OBJECTS)):
        if name not in files:
            raise FileNotFoundError(f"{url}: lists no {FOLDER}/{name}; wanted it: the release has changed")
    return files


def is_wanted(path: object) -> bool:
    """Return whether a path of the repository belongs to the example."""
    if not isinstance(path, str) or not is_inside(path, FOLDER):
        return False
    name = path.removeprefix(f"{FOLDER}/")
    return name == LIST or SCENE_FILE.fullmatch(name) is not None


def example_item(path: str, size: int, sha: str, destination: Path) -> Item:
    """Return the item that fetches one file of the example."""
    raw = (os.environ.get("LACT_GITHUB_RAW") or "https://raw.githubusercontent.com").rstrip("/")
    url = f"{raw}/{REPO}/{BRANCH}/{quote(f'{FOLDER}/{path}')}"
    return Item(path, size, destination, partial(download_url, url, destination, size, sha))


def check_list(path: Path, output: Path) -> list[str]:
    """Check the list of scenes, and the scenes; return a word on each.

    Raises:
        InputError: it names other scenes than those that were fetched, or one of them is broken.
        FileNotFoundError: a scene names an image that is not there.
    """
    content = read_json(path)
    known = {f"{name}/{CAMERAS}" for name in OBJECTS}
    entries = [str(PurePosixPath(entry)) for entry in content if isinstance(entry, str)] if isinstance(content, list) else []
    if not entries or not isinstance(content, list) or len(entries) != len(content) or not known.issuperset(entries):
        raise InputError(path, f"holds {content!r:.120}", f"a list of {' and '.join(sorted(known))}")
    words = []
    for entry in entries:
        scene = read_scene(output / entry)
        for i, view in enumerate(scene.views):
            if not view.file_path.is_file():
                raise FileNotFoundError(
                    f"{scene.json_path}, view {i}: is {view.file_path}, which is not there; wanted it among the files"
                )
        words.append(f"{scene.name} ({len(scene.views)} views)")
    return words


def work(argv: Sequence[str] | None) -> None:
    """Download the example."""
    parser = Parser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=ROOT / "data_example", help="folder (default: data_example/)")
    parser.add_argument("--workers", type=int, default=8, help="transfers at a time (default: 8)")
    args = parser.parse_args(argv)
    at_least("--workers", args.workers, 1)
    files = list_example()
    final, unchecked = args.output / LIST, args.output / ".cache" / LIST
    places = {path: args.output / path for path in files} | {LIST: final if final.is_file() else unchecked}
    items = missing([example_item(path, *files[path], place) for path, place in places.items()])
    with Transfer(items, args.workers, args.output) as transfer:
        transfer.fetch(items)
    transfer.check()
    words = check_list(places[LIST], args.output)
    # Under its own name only now: who finds the list finds all that it names.
    places[LIST].replace(final)
    print(f"{final}: {', '.join(words)}; fetched {len(items)} files, {bytes_text(sum(item.size for item in items))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    return run_script("gso_example_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
