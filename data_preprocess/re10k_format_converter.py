"""Converter of RealEstate10K, ACID and DL3DV as pixelSplat, MVSplat and DepthSplat store them to the unified format.

    python data_preprocess/re10k_format_converter.py --input re10k/test --output re10k_test
    python data_preprocess/re10k_format_converter.py --input re10k/test --output re10k_test --keys evaluation_index_re10k.json

The input is a folder of chunks (000000.torch, …) with or without their index.json, or chunks. Scenes are named after their keys, so
that index files of these projects fit them. Images are written as they are stored, named after their timestamps, and poses are as
given: use --scene_inference and --scene_pose_normalize, which normalise them. --packs writes zip files, which all programs read,
instead of millions of small files. Safe to re-run; an interrupted conversion continues, finished scenes and packs are skipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from config.startup import start

    start()

import os
from collections.abc import Sequence
from dataclasses import dataclass

from config.errors import InputError
from config.flags import flag, read_command_line, refuse_without_effect, settings
from config.messages import counted, shown_key
from config.threads import cores
from data.files import check_output_folder
from data_preprocess.capture.conversion import ConversionSettings
from data_preprocess.command import check_list_name, run_script, say_left_out
from data_preprocess.re10k.conversion import ChunkResult, FolderConversion, convert_chunks
from data_preprocess.re10k.packs import PackConversion
from data_preprocess.re10k.selection import find_chunks, index_of, read_keys, select_chunks
from data_preprocess.shards import ALL, Shard, read_shard


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Flags: what to convert, and where it goes."""

    input: tuple[Path, ...] = flag(..., "folders of chunks, or chunks", group="chunks", metavar="PATH")
    keys: tuple[str, ...] | None = flag(
        None,
        "keys of the scenes to convert, or one FILE: a key per line, a JSON list of keys, or an index file of inputs and targets",
        metavar="KEY",
        unset="all",
    )
    output: Path = flag(..., "folder for the scenes")
    packs: bool = flag(False, "write a pack for each chunk, NAME_CHUNK.zip, instead of a folder for each scene")
    name: str = flag("re10k", "NAME in NAME_data_path.json and in the names of packs")
    data_path_json: Path | None = flag(None, "list to write", unset="OUTPUT/NAME_data_path.json")


def report(results: Sequence[ChunkResult], expected: Sequence[str], where: str, shard: Shard) -> list[str]:
    """Print what is left out; return the problems, a line for each chunk, and one for all scenes.

    Args:
        results: of all chunks that were read.
        expected: keys that they should hold.
        where: what says so: --keys or index.json.
        shard: which of the chunks they are.
    """
    problems = [result.problem for result in results if result.problem is not None]
    unusable = [f"{shown_key(key)} ({reason})" for result in results for key, reason in result.unusable.items()]
    say_left_out("--input", "scenes that cannot be used", unusable, len(unusable) + sum(result.scenes for result in results))
    repeated = [name for result in results for name in result.repeated]
    say_left_out("--input", "scenes that have the key of another", repeated)
    held = {key for result in results for key in result.held}
    missing = [key for key in expected if key not in held]
    of_shard = "" if shard == ALL else " of this shard"
    say_left_out(where, f"keys that were found in no chunk{of_shard}", missing, of=len(expected))
    if numbered := sum(result.numbered for result in results):
        print(f"{counted(numbered, 'scene')} without increasing timestamps: their images are numbered")
    if unusable:
        found = f"has {counted(len(unusable), 'scene')} that cannot be used, listed above"
        problems.append(str(InputError("--input", found, "keys, cameras and images as pixelSplat's scripts write them")))
    if missing and where == "--keys" and shard == ALL:  # another shard may hold those that no index has
        found = f"has {counted(len(missing), 'key')} that no chunk holds, listed above"
        problems.append(str(InputError("--keys", found, "keys of scenes in --input")))
    return problems


def convert(chunks: Sequence[Path], flags: Chunks, keys: Sequence[str] | None, written: ConversionSettings) -> list[ChunkResult]:
    """Convert chunks, or a shard's part of them, to folders or packs; return their results, in their order."""
    workers, part = written.workers or cores(), read_shard(written.shard).part(chunks)
    if not flags.packs:
        return convert_chunks(part, FolderConversion(flags.output, keys, written.long_lrm), workers)
    conversion = PackConversion(flags.output, keys, flags.name)
    conversion.check_names(chunks)
    results = {chunk: conversion.finished(chunk) for chunk in part}
    left = [chunk for chunk, result in results.items() if result is None]
    results |= dict(zip(left, convert_chunks(left, conversion, workers), strict=True))
    return [result for result in results.values() if result is not None]


def work(argv: Sequence[str] | None) -> list[str]:
    """Convert the chunks; return the problems."""
    given = read_command_line("re10k_format_converter.py", __doc__, (Chunks, ConversionSettings), argv)
    flags, conversion = settings(Chunks, given), settings(ConversionSettings, given)
    shard = read_shard(conversion.shard)
    if flags.packs:
        refuse_without_effect(given, "with --packs", ["long_lrm"])
    elif flags.data_path_json is not None:
        refuse_without_effect(given, "with --data_path_json and without --packs", ["name"])
    check_list_name(flags.name)
    data_path_json = flags.data_path_json or flags.output / f"{flags.name}_data_path.json"
    keys = None if flags.keys is None else read_keys(flags.keys)
    problems: list[str] = []
    chunks = find_chunks(flags.input)
    index = index_of(chunks, flags.input, problems)
    chosen = select_chunks(chunks, index, keys)
    check_output_folder(flags.output)
    shard.begin(data_path_json)
    results = convert(chosen, flags, keys, conversion)
    others = {os.path.abspath(chunk) for chunk in set(chosen).difference(shard.part(chosen))}
    expected = [key for key in keys or index if key not in index or os.path.abspath(index[key]) not in others]
    problems += report(results, expected, "index.json" if keys is None else "--keys", shard)
    listed = shard.write_list(data_path_json, [path for result in results for path in result.written])
    if listed is not None:
        scenes, views = sum(result.scenes for result in results), sum(result.views for result in results)
        found = f"{counted(scenes, 'scene')} with {counted(views, 'view')} from {counted(len(results), 'chunk')}"
        print(f"{found} in {listed}")
    elif not problems:
        problems.append(str(InputError("--input", "holds no scene", "at least one")))
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_script("re10k_format_converter.py", work, argv)


if __name__ == "__main__":
    sys.exit(main())
