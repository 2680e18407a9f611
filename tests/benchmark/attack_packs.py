"""Crafted packs, and packs that change while they are read."""

import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_archives import CAMERAS, Members, crafted_packs
from tests.benchmark.attack_cases import EITHER, Case, attack, nothing
from tests.benchmark.attack_disks import make_special
from tests.benchmark.attack_inputs import CHECK, infer, train
from tests.benchmark.attack_programs import Arena, Pause
from tests.benchmark.attack_stored import ADJUST, SCENES, make_pack, members, pack, to_colmap
from tests.benchmark.attack_verdict import Outcome, first_problem, judge, temporaries
from tests.benchmark.attack_zip import End, Entry, zip_of

HOLE = 1 << 30


def packs(arena: Arena) -> Iterator[Outcome]:
    """Packs with wrong names, numbers and contents, read by each program that reads packs; some cut short or replaced meanwhile."""
    folder = arena.place("train")
    programs = {
        "inference": ("place", infer(data=SCENES)),
        "check": ("place", [CHECK, SCENES]),
        "export": ("place", to_colmap(data=SCENES)),
        "packing": ("place", pack(data=SCENES)),
        "training": ("train", train(folder, data_path=SCENES, steps=4)),
    }
    for name, (base, words) in programs.items():
        cases = (Case(f"{name}, {kind}", base, words, change, right) for kind, change, right in _crafted())
        yield from attack(arena, cases, outputs=True)
    yield from attack(arena, [Case("adjustment", "place", [ADJUST, f"{SCENES}/{CAMERAS}", "--invert"], nothing)], outputs=True)
    yield from _changed(arena)


def _crafted() -> Iterator[tuple[str, Callable[[Path], object], tuple[int, ...]]]:
    """Yield names, changes of a folder with a pack, and right statuses."""
    for name, build, right in crafted_packs():
        yield name, partial(_build, build), right
    for kind in ("FIFO", "socket"):
        yield f"a {kind}", partial(_put, kind), (2,)
    for kind in ("/dev/zero", SCENES, "scenes"):
        yield f"a link to {kind}", partial(_link, kind), (2,)
    yield "1 GB of directory in a hole", partial(_hole, b""), (2,)
    yield "1 GB of scene in a hole", partial(_hole, CAMERAS.encode()), (2,)


def _build(build: Callable[[Members], bytes], folder: Path) -> None:
    (folder / SCENES).write_bytes(build(members(folder / "scenes")))


def _put(kind: str, folder: Path) -> None:
    (folder / SCENES).unlink()
    listener = make_special(folder / SCENES, kind)
    if listener:
        listener.close()


def _link(target: str, folder: Path) -> None:
    (folder / SCENES).unlink()
    (folder / SCENES).symlink_to(target)


def _hole(name: bytes, folder: Path) -> None:
    """Make a pack of zeros: all of its directory, or the bytes of its first scene."""
    with (folder / SCENES).open("wb") as file:
        if not name:
            file.truncate(HOLE)
            file.seek(HOLE)
            file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, HOLE, 0, 0))
            return
        whole = zip_of([Entry(name, b"", stored=HOLE, size=HOLE, crc=0)], End(start=HOLE + 30 + len(name)))
        file.write(whole[: 30 + len(name)])
        file.seek(HOLE, os.SEEK_CUR)
        file.write(whole[30 + len(name) :])


def _changed(arena: Arena) -> Iterator[Outcome]:
    """Change a pack while a program reads it: one line, or the result of the new one; what was written before stays."""
    folder = arena.place("train")
    training = train(folder, data_path=SCENES)
    places = (
        ("inference", "place", infer(data=SCENES), Pause(".comparison")),
        ("check", "place", [CHECK, SCENES], Pause(".contact_sheet")),
        ("export", "place", to_colmap(data=SCENES), Pause(".00001")),
        ("packing", "place", pack(data=SCENES), Pause(".made_00000")),
        ("training", "train", training, Pause("step_00000004")),
    )
    changes = {"cut short": _halve, "emptied": _empty, "deleted": _delete, "replaced": _replace, "replaced by others": _others}
    for name, base, words, pause in places:
        for kind, change in changes.items():
            run = arena.start(words, arena.place(base), pause)
            reached = run.wait_for_pause()
            change(run.folder)
            run.go_on()
            run.finish()
            right = (0,) if kind == "replaced" else EITHER
            left = temporaries(run.folder)
            kept = name != "training" or any((run.folder / "outputs/run/snapshot").glob("step_*.pt"))
            problem = first_problem(
                "" if reached else f"never came to the place: {run.last_words()}",
                judge(run.status, run.stderr, right, lines=range(1, 4), memory=run.memory),  # a line for each of its scenes
                f"{len(left)} temporaries left: {left[0]}" if left else "",
                "" if kept else "no snapshot",
            )
            yield Outcome(f"{name}, {kind} meanwhile", problem)


def _halve(folder: Path) -> None:
    os.truncate(folder / SCENES, (folder / SCENES).stat().st_size // 2)


def _empty(folder: Path) -> None:
    os.truncate(folder / SCENES, 0)


def _delete(folder: Path) -> None:
    (folder / SCENES).unlink()


def _replace(folder: Path) -> None:
    make_pack(folder / "scenes", folder / "new.zip")
    (folder / "new.zip").replace(folder / SCENES)


def _others(folder: Path) -> None:
    (folder / "new.zip").write_bytes(zip_of([Entry(b"other/opencv_cameras.json", b"[]")]))
    (folder / "new.zip").replace(folder / SCENES)
