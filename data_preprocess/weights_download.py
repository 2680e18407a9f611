"""Download of published checkpoints into weight/: those named, or all ten.

    python data_preprocess/weights_download.py --list
    python data_preprocess/weights_download.py obj_res256 scene_res536x960

weight/checkpoints.yaml lists them. inference.py downloads a missing checkpoint by itself; this script does so in advance.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from huggingface_hub.hf_api import RepoFile

from config import did_you_mean
from config.errors import InputError
from config.flags import flag, read_command_line, settings
from config.messages import counted, one_line
from data_preprocess.command import MOST_WORKERS, bytes_text, run_script
from data_preprocess.hub.transfers import Transfer, hub_item, list_files, missing
from model.weights.table import WEIGHT_DIR, KnownWeights, published_weights


@dataclass(frozen=True)
class WeightsDownload:
    """Flags: which checkpoints to download, and how."""

    names: tuple[str, ...] | None = flag(
        None, "names, such as obj_res256", group="checkpoints", positional=True, metavar="NAME", unset="all"
    )
    list: bool = flag(False, "print names, sizes and descriptions; download nothing")
    output: Path = flag(WEIGHT_DIR, "folder for the files", group="download")
    workers: int = flag(2, "transfers at a time", least=1, most=MOST_WORKERS)


def chosen_rows(names: Sequence[str]) -> list[KnownWeights]:
    """Return the rows of the table with these names, with or without the file's suffix; all rows if no name is given.

    Raises:
        InputError: a name is not in the table.
    """
    rows = {Path(file).stem: row for file, row in published_weights().items()}
    for name in names:
        if name.removesuffix(".pt") not in rows:
            raise InputError(name, "is not a published checkpoint", f"one of the table; {did_you_mean(name, list(rows))}")
    return [rows[name] for name in dict.fromkeys(name.removesuffix(".pt") for name in names)] or list(rows.values())


def listed(rows: Iterable[KnownWeights]) -> dict[tuple[str, str], RepoFile]:
    """Return the hub's listings of these rows' repositories, by repository and file."""
    repos = dict.fromkeys(row.repo for row in rows)
    return {(repo, entry.path): entry for repo in repos for entry in list_files(repo, repo_type="model")}


def print_table(rows: Sequence[KnownWeights], folder: Path) -> None:
    """Print names, sizes and what they are; if the hub is unavailable, only the sizes of files on disk."""
    try:
        sizes = {key: entry.size for key, entry in listed(rows).items() if isinstance(entry, RepoFile)}
    except OSError as error:
        sizes = {}
        print(f"sizes of files not on disk are unknown: {one_line(error)}", file=sys.stderr)
    lines = [("name", "size", "trained at", "kind", "input views", "config", "in " + str(folder))]
    for row in rows:
        path = folder / row.file
        size = path.stat().st_size if path.is_file() else sizes.get((row.repo, row.file))
        lines.append((
            Path(row.file).stem, "?" if size is None else bytes_text(size), "{}x{}".format(*row.resolution), row.kind,
            str(row.num_input_views), Path(row.config).stem, "yes" if path.is_file() else "no",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def work(argv: Sequence[str] | None) -> None:
    """Download, or list, the chosen checkpoints."""
    given = read_command_line("weights_download.py", __doc__.split("\n")[0], (WeightsDownload,), argv)
    chosen = settings(WeightsDownload, given)
    rows = chosen_rows(chosen.names or ())
    if chosen.list:
        print_table(rows, chosen.output)
        return
    entries = listed(rows)
    for row in rows:
        if not isinstance(entries.get((row.repo, row.file)), RepoFile):
            raise FileNotFoundError(f"{row.file}: is not in {row.repo}; wanted it there, as weight/checkpoints.yaml says")
    items = missing([hub_item(row.repo, entries[row.repo, row.file], chosen.output / row.file, "model") for row in rows])
    with Transfer(items, chosen.workers, chosen.output) as transfer:
        transfer.fetch(items)
    transfer.check()
    size = bytes_text(sum(item.size for item in items))
    print(f"{chosen.output}: {counted(len(rows), 'checkpoint')} complete; fetched {counted(len(items), 'file')}, {size}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("weights_download.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
