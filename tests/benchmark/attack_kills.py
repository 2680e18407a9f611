"""Attacks from outside: kills, signals, and a second run in the same folder."""

import csv
import json
import random
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmark.attack_inputs import COLMAP, TRAIN, convert, export, infer, results, train
from tests.benchmark.attack_programs import Arena, Pause, Run
from tests.benchmark.attack_stored import MERGE, TO_COLMAP, chunks, pack, to_colmap
from tests.benchmark.attack_verdict import Outcome, first_problem, judge, own_lines, temporaries

RESULT = "outputs/run/model.safetensors"
INFERENCE = infer("--save_images", "--save_state")
SIGNALS = {"SIGINT": signal.SIGINT, "SIGHUP": signal.SIGHUP, "SIGTERM": signal.SIGTERM}


def kills_of_training(arena: Arena) -> Iterator[Outcome]:
    """Kill runs at random moments, every second one while a snapshot is being written; run again to the end."""
    straight, dice = arena.place("train"), random.Random(1)
    truth = arena.run(train(straight), straight).status, (straight / RESULT).read_bytes()
    for i in range(arena.many(20)):
        folder, writing, step = arena.place("train"), bool(i % 2), dice.randrange(1, TRAIN["steps"] - 1)
        run, place = arena.start(train(folder), folder), folder / "outputs/run/snapshot"
        run.wait_until(lambda place=place, step=step: (place / f"step_{step:08d}.pt").exists())
        if writing:
            run.wait_until(lambda place=place: next(place.glob(".*.tmp*"), None))
        else:
            time.sleep(dice.uniform(0, 0.08))
        run.send(signal.SIGKILL)
        run.finish()
        yield Outcome(f"kill {i} {'while writing' if writing else f'about step {step}'}", _resumed(arena, folder, truth[1]))


def _resumed(arena: Arena, folder: Path, truth: bytes) -> str:
    newest = max((folder / "outputs/run/snapshot").glob("step_*.pt"), default=None)
    again = arena.run(train(folder), folder)
    origin = "from scratch" if newest is None else f"resumed from {newest.relative_to(folder)}"
    left = temporaries(folder)
    return first_problem(
        judge(again.status, again.stderr, [0]),
        "" if origin in again.stdout else f"not {origin}: {again.stdout.splitlines()[:1]}"[:200],
        ""
        if (folder / RESULT).is_file() and (folder / RESULT).read_bytes() == truth
        else "other weights than an uninterrupted run",
        f"{len(left)} temporaries left: {left[0]}" if left else "",
    )


def kills_of_inference(arena: Arena) -> Iterator[Outcome]:
    """Kill inference.py at random moments; run again."""
    yield from _kills(arena, "inference", "place", "output", INFERENCE, 12)


def kills_of_converters(arena: Arena) -> Iterator[Outcome]:
    """Kill converters, exports and the writer of packs at random moments; run again."""
    yield from _kills(arena, "converter", "capture", "out", convert("--workers", 2), 8)
    yield from _kills(arena, "export", "place", "out", export("--count", 2), 6)
    yield from _kills(arena, "packing", "place", "out", pack(), 8)
    yield from _kills(arena, "packs of chunks", "chunks", "out", chunks("--packs"), 6)
    yield from _kills(arena, "chunks", "chunks", "out", chunks(), 6)
    yield from _kills(arena, "export to COLMAP", "place", "out", to_colmap(), 8)


def _kills(arena: Arena, name: str, base: str, output: str, words: list, count: int) -> Iterator[Outcome]:
    """Kill a program once it has written some of its files, every second time while it writes one; then run it again."""
    straight, dice = arena.place(base), random.Random(2)
    arena.run(words, straight)
    truth = results(straight / output)
    for i in range(arena.many(count)):
        folder, files, writing = arena.place(base), dice.randrange(len(truth)), bool(i % 2)
        run, place = arena.start(words, folder), folder / output
        run.wait_until(lambda place=place, files=files: len(_finished(place)) >= files)
        if writing:
            run.wait_until(lambda place=place: temporaries(place))
        else:
            time.sleep(dice.uniform(0, 0.05))
        run.send(signal.SIGKILL)
        run.finish()
        broken = arena.call(print_broken, place).stdout.split()
        again = arena.run(words, folder)
        left, found = temporaries(folder), results(place)
        missing, other = sorted(truth.keys() - found), [key for key in truth if key in found and found[key] != truth[key]]
        problem = first_problem(
            f"half-written: {broken[0]}" if broken else "",
            judge(again.status, again.stderr, [0]),
            f"{len(left)} temporaries left: {left[0]}" if left else "",
            f"missing after the rerun: {missing[0]}" if missing else "",
            f"other content after the rerun: {other[0]}" if other else "",
        )
        yield Outcome(f"{name}, kill {i} {'while writing' if writing else 'between'}, after {files} files", problem)


def _finished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp" not in path.name and path.is_file()]


def print_broken(folder: Path) -> None:
    """Print the finished files of a folder that cannot be read."""
    print(*(path.relative_to(folder) for path in _finished(folder) if not is_whole(path)))


def is_whole(path: Path) -> bool:
    """Return whether a file can be read to its end; files of unknown kinds count as whole."""
    import av
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    readers: dict[str, Callable[[Path], object]] = {
        ".png": lambda file: Image.open(file).load(),
        ".json": lambda file: json.loads(file.read_text()),
        ".html": lambda file: file.read_text().index("</html>"),
        ".csv": lambda file: len({len(row) for row in csv.reader(file.open())}) == 1 or 1 / 0,
        ".safetensors": load_file,
        ".pt": lambda file: torch.load(file, weights_only=True),
        ".zip": lambda file: zipfile.ZipFile(file).testzip() and 1 / 0,
        ".mp4": lambda file: list(av.open(str(file)).decode(video=0))[5],
    }
    try:
        readers.get(path.suffix, lambda _: None)(path)
    except Exception:
        return False
    return True


def signals(arena: Arena) -> Iterator[Outcome]:
    """Send SIGINT, SIGHUP and SIGTERM at start-up, at work and while something is written, once or twice."""
    for name, number in SIGNALS.items():
        yield from _signals_to_training(arena, name, number)
    inference = {"at start-up": "test_data_path.json", "reading photos": "scene_0/images", "comparison": ".comparison",
                 "video": ".video", "metrics": ".metrics."}  # fmt: skip
    converter = {"at start-up": "transforms.json", "photo": ".00003", "cameras": ".opencv_cameras", "list": "_data_path"}
    packing = {
        "at start-up": "test_data_path.json",
        "reading photos": "scene_1/images",
        "pack": ".made_00001",
        "list": ".made_data",
    }
    others = {"at start-up": "opencv_cameras.json", "picture": ".contact_sheet"}
    colmap = [COLMAP, "--input", "capture", "--output", "out"]
    for program, base, words, places in (
        ("inference", "place", INFERENCE, inference),
        ("converter", "capture", convert("--workers", 2), converter),
        ("colmap", "colmap", colmap, {"at start-up": "images.bin", "photo": ".00002"}),
        ("export", "place", export(), {"photo": ".00002", "list": "_data_path"}),
        ("packing", "place", pack(), packing),
        ("packs of chunks", "chunks", chunks("--packs"), {"chunk": "000001.torch", "pack": ".re10k_000001"}),
        ("export to COLMAP", "place", to_colmap(), {"photo": ".00002", "points": ".points3D", "model": ".images."}),
        ("check", "place", ["data_preprocess/check_scenes.py", "scenes/test_data_path.json"], others),
    ):
        for name, number in SIGNALS.items():
            for place, path in places.items():
                run = arena.start(words, arena.place(base), Pause(path))
                yield Outcome(f"{name} to {program}, {place}", _signalled_at_pause(run, [number], [128 + number]))
    run = arena.start(INFERENCE, arena.place("place"), Pause(".video"))
    yield Outcome("SIGINT twice to inference, video", _signalled_at_pause(run, [signal.SIGINT] * 2, [130]))


def _signals_to_training(arena: Arena, name: str, number: int) -> Iterator[Outcome]:
    stopped = [0] if number == signal.SIGTERM else [128 + number]
    for place, path in (("at start-up", "network.yaml"), ("reading photos", "scene_0/images")):
        folder = arena.place("train")
        run = arena.start(train(folder), folder, Pause(path))
        yield Outcome(f"{name} to training, {place}", _signalled_at_pause(run, [number], [*stopped, 128 + number]))
    endless = {"steps": 100_000, "save_every": 100_000}
    for times in (1, 2):
        folder = arena.place("train")
        run = arena.start(train(folder, **endless), folder, Pause("step_000"))
        log = folder / "outputs/run/log.jsonl"
        run.wait_until(lambda log=log: log.is_file() and log.stat().st_size)
        run.send(number)
        extra = [number] * (times - 1)
        paused, problem = _signalled(run, extra, stopped)
        last = json.loads(log.read_text().splitlines()[-1])["step"] if log.is_file() else 0
        kept = (folder / "outputs/run/snapshot").glob("step_*.pt")
        kept_last = any(int(path.stem[5:]) >= last for path in kept)
        problem = first_problem(problem, "" if paused and kept_last else "no snapshot of the last step")
        yield Outcome(
            f"{name} to training in a step, {'once' if times == 1 else 'again while the last snapshot is written'}", problem
        )
    for place, path in (("the last snapshot of a finished run", f"step_{TRAIN['steps']:08d}"), ("export", ".model")):
        folder = arena.place("train")
        run = arena.start(train(folder), folder, Pause(path))
        problem = _signalled_at_pause(run, [number], [0, *stopped])
        kept = folder / f"outputs/run/snapshot/step_{TRAIN['steps']:08d}.pt"
        yield Outcome(f"{name} to training, {place}", first_problem(problem, "" if kept.is_file() else "no last snapshot"))


def _signalled_at_pause(run: Run, numbers: list[int], statuses: list[int]) -> str:
    paused, problem = _signalled(run, numbers, statuses)
    return problem if paused else f"never came to the place: {run.last_words()}"


def _signalled(run: Run, numbers: list[int], statuses: list[int]) -> tuple[bool, str]:
    """Send signals to a program while it pauses and let it go on; return whether it paused, and what is wrong with its end."""
    paused = run.wait_for_pause()
    for number in numbers:
        run.send(number)
        time.sleep(0.15)
    run.go_on()
    status, error = run.finish(), run.stderr
    # Of SIGTERM and SIGHUP nobody waits for a line: they come from a scheduler, or a terminal that is gone.
    told = "stopped at step" in run.stdout or ": finished" in run.stdout
    silent = told or 128 + signal.SIGINT not in statuses
    left = temporaries(run.folder)
    return paused, first_problem(
        judge(status, error, statuses, lines=[0, 1] if silent else [1]),
        f"{len(own_lines(error))} lines" if status == 0 and len(own_lines(error)) > 1 else "",
        f"{len(left)} temporaries left: {left[0]}" if left else "",
    )


def two_runs(arena: Arena) -> Iterator[Outcome]:
    """Start the same command while a first one is at work in the folder."""
    straight = arena.place("train")
    arena.run(train(straight), straight)
    # The second opening of a snapshot is that of its finished temporary file.
    places = {"log": Pause(".log"), "first snapshot": Pause("step_00000001", 2), "a snapshot": Pause("step_00000009", 2),
              "export": Pause(".model", 2)}  # fmt: skip
    for place, pause in places.items():
        folder = arena.place("train")
        yield from _second(arena, f"training, {place}", train(folder), folder, pause, {RESULT: (straight / RESULT).read_bytes()})
    straight = arena.place("place")
    arena.run(INFERENCE, straight)
    truth = {f"output/{name}": content for name, content in results(straight / "output").items()}
    for place, path in {
        "reading photos": "scene_0/images",
        "comparison": ".comparison",
        "video": ".video",
        "metrics": ".metrics",
    }.items():
        yield from _second(arena, f"inference, {place}", INFERENCE, arena.place("place"), Pause(path), truth)
    for name, base, words, paths in (
        ("packing", "place", pack(), (".made_00000", ".made_00001", ".made_data")),
        ("packs of chunks", "chunks", chunks("--packs"), (".re10k_000000", ".re10k_data")),
        ("export to COLMAP", "place", to_colmap(), (".00002", ".images.")),
    ):
        straight = arena.place(base)
        arena.run(words, straight)
        truth = results(straight / "out")
        for path in paths:
            yield from _both(arena, f"{name}, {path}", [words, words], arena.place(base), Pause(path), truth)
        if words[0] != TO_COLMAP:  # shards, and the merge of their lists
            parts = [[*words, "--shard", f"{i}/2"] for i in range(2)]
            yield from _both(arena, f"{name}, shards", parts, arena.place(base), Pause(paths[0]), truth)


def _both(arena: Arena, name: str, words: list[list], folder: Path, pause: Pause, truth: dict[str, bytes]) -> Iterator[Outcome]:
    """Run a program from start to end while a first one pauses; both end well, and what they have written is whole."""
    first = arena.start(words[0], folder, pause)
    reached = first.wait_for_pause()
    second = arena.run(words[1], folder)
    first.go_on()
    first.finish()
    yield Outcome(f"second {name}", judge(second.status, second.stderr, [0]) if reached else "never came to the place")
    if words[0] != words[1]:
        lists = [key for key in truth if key.endswith("_data_path.json")]
        arena.run([MERGE, f"out/{lists[0]}"], folder)
    found, left = results(folder / "out"), temporaries(folder)
    wrong = [key for key, content in truth.items() if found.get(key) != content]
    problem = first_problem(
        judge(first.status, first.stderr, [0]),
        f"other content: {wrong[0]}" if wrong else "",
        f"{len(left)} temporaries left: {left[0]}" if left else "",
    )
    yield Outcome(f"first {name}", problem)


def _second(arena: Arena, name: str, words: list, folder: Path, pause: Pause, truth: dict[str, bytes]) -> Iterator[Outcome]:
    first = arena.start(words, folder, pause)
    reached = first.wait_for_pause()
    second = arena.run(words, folder)
    first.go_on()
    first.finish()
    yield Outcome(f"second {name}", judge(second.status, second.stderr) if reached else "never came to the place")
    found = results(folder)
    wrong = [key for key, content in truth.items() if found.get(key) != content]
    problem = first_problem(judge(first.status, first.stderr, [0]), f"other content: {wrong[0]}" if wrong else "")
    yield Outcome(f"first {name}", problem)
