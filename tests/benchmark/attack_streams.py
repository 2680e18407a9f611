"""Streams of photos and of frames of videos: damaged, missing, special and absurd ones, and scenes that never come."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import Case, attack, nothing, written
from tests.benchmark.attack_inputs import PLACE
from tests.benchmark.attack_programs import Arena
from tests.benchmark.attack_verdict import Outcome

SCENE = "scenes/scene_0"
JSON, PHOTO = f"{SCENE}/opencv_cameras.json", f"{SCENE}/images/00003.png"
STREAM = ("inference.py", *PLACE, "--image_size", 20, 28, "--video_frames", 2, "--stream", 2)


def streams(arena: Arena) -> Iterator[Outcome]:
    """What `inference.py --stream` reads and waits for."""
    arena.prepare(make_video, arena.scratch / "inputs" / "place" / SCENE)
    read = [*STREAM, "--data_path", JSON]
    for wait in ((), ("--wait", 0.3)):
        name = "waiting" if wait else "reading"
        cases = [Case(f"{name}, {kind}", "place", [*read, *wait], change) for kind, change in _photos()]
        cases += [Case(f"{name}, frame {number!r:.9}", "place", [*read, *wait], partial(_frame, number)) for number in NUMBERS]
        cases += [Case(f"{name}, {kind} video", "place", [*read, *wait], change) for kind, change in _videos()]
        yield from attack(arena, [*cases, Case(f"{name}, right", "place", [*read, *wait], partial(_frame, "000003"), (0,))])
    never = [
        Case(f"never, {path}", "place", [*STREAM, "--data_path", path, "--wait", 0.3], change)
        for path, change in (
            ("none.json", nothing),
            ("scenes", nothing),
            (JSON, partial(written, JSON, "[")),
            (JSON, partial(written, JSON, "[]")),
            (JSON, partial(_special, JSON, os.mkfifo)),
            (JSON, partial(_special, JSON, os.mkdir)),
            ("tiny.safetensors", nothing),
            ("scenes.zip", nothing),  # two scenes
        )
    ]
    flags = (("--stream", 0), ("--stream", 10**30), ("--passes", 0), ("--wait", "nan"), ("--wait", 1e400), ("--save_images",))
    never += [Case(f"flags, {' '.join(map(str, words))}", "place", [*read, *words], nothing) for words in flags]
    yield from attack(arena, never)


NUMBERS = ("9", "9" * 200, "-1", "\u0663", "..", "3.png")


def make_video(folder: Path) -> None:
    from tests.support.videos import write_frames

    write_frames(folder / "clip.mp4", 9, size=(40, 56))


def _photos() -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "a photo cut short", lambda folder: (folder / PHOTO).write_bytes((folder / PHOTO).read_bytes()[:60])
    yield "an empty photo", partial(written, PHOTO, "")
    yield "a photo of text", partial(written, PHOTO, "no photo")
    yield "a FIFO", partial(_special, PHOTO, os.mkfifo)
    yield "a folder", partial(_special, PHOTO, os.mkdir)
    yield "a link to /dev/zero", partial(_special, PHOTO, lambda path: path.symlink_to("/dev/zero"))
    yield "a link to itself", partial(_special, PHOTO, lambda path: path.symlink_to(path))
    yield "no photos", lambda folder: shutil.rmtree((folder / PHOTO).parent)


def _special(name: str, make: Callable[[Path], object], folder: Path) -> None:
    (folder / name).unlink()
    make(folder / name)


def _frame(number: str, folder: Path) -> None:
    """Make a view of the scene a frame of its video."""
    views = json.loads((folder / JSON).read_text())
    views[3]["file_path"] = f"clip.mp4/{number}"
    (folder / JSON).write_text(json.dumps(views))


def _videos() -> Iterator[tuple[str, Callable[[Path], object]]]:
    clip = f"{SCENE}/clip.mp4"
    for kind, change in (
        ("a cut", lambda folder: (folder / clip).write_bytes((folder / clip).read_bytes()[:900])),
        ("an empty", partial(written, clip, "")),
        ("a text as a", partial(written, clip, "no video")),
    ):
        yield kind, lambda folder, change=change: (_frame("3", folder), change(folder))
