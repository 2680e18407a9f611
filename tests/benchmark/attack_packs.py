"""Crafted packs, and packs that change while they are read."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import EITHER, Case, attack, nothing
from tests.benchmark.attack_disks import make_special
from tests.benchmark.attack_inputs import CHECK, infer, train
from tests.benchmark.attack_programs import Arena, Pause
from tests.benchmark.attack_stored import ADJUST, SCENES, make_pack, members, pack, to_colmap
from tests.benchmark.attack_verdict import Outcome, first_problem, judge, temporaries
from tests.benchmark.attack_zip import DEFLATED, ENCRYPTED, End, Entry, repeated, zip_64_field, zip_of

CAMERAS, LIST = "scene_0/opencv_cameras.json", "pack_data_path.json"
HOLE = 1 << 30
Members = dict[str, bytes]


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
        yield from attack(
            arena, (Case(f"{name}, {kind}", base, words, change, right) for kind, change, right in _crafted()), outputs=True
        )
    yield from attack(arena, [Case("adjustment", "place", [ADJUST, f"{SCENES}/{CAMERAS}", "--invert"], nothing)], outputs=True)
    yield from _changed(arena)


def _crafted() -> Iterator[tuple[str, Callable[[Path], object], tuple[int, ...]]]:
    """Yield names, changes of a folder with a pack, and right statuses."""
    for name, build, right in (*_lists(), *_scenes(), *_entries(), *_ends()):
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


def _all(files: Members, **changes: object) -> list[Entry]:
    """Return entries of files, with other fields of the first scene's JSON."""
    return [Entry(name.encode(), content, **(changes if name == CAMERAS else {})) for name, content in files.items()]  # type: ignore[arg-type]


Built = Iterator[tuple[str, Callable[[Members], bytes], tuple[int, ...]]]


def _lists() -> Built:
    yield "untouched", lambda files: zip_of(_all(files)), (0,)
    for name, text in {
        "../x": '["../x"]', "absolute": '["/etc/passwd"]', "..": '["scene_0/../../x"]', "NUL": '["a\\u0000b"]',
            "surrogate": '["\\ud800"]',
        "itself": '["pack_data_path.json"]', "5000 letters": json.dumps(["x" * 5000]), "300 letters": json.dumps(["x" * 300]),
        "nothing": "[]", "object": "{}", "numbers": "[1]", "deep": "[" * 100_000, "a folder": '["scene_0"]', "no text": "\udcff",
        "a pack in it": '["inner.zip/scene_0/opencv_cameras.json"]', "an image": '["scene_0/images/00000.png"]', "empty": "",
        "backslashes": '["..\\\\x"]',
    }.items():  # fmt: skip
        content = text.encode(errors="surrogateescape")
        yield (
            f"list: {name}",
            lambda files, content=content: zip_of(_all({**files, "inner.zip": zip_of(_all(files)), LIST: content})),
            (2,),
        )
    for name, folder in {"../x": b"../x", "absolute": b"/x", "NUL": b"a\0b"}.items():
        names = folder + b"/opencv_cameras.json"
        yield f"without list: {name}", lambda files, names=names: zip_of([Entry(names, files[CAMERAS])]), (2,)
    for name, folder in {
        "bytes": b"\xff",
        "300 letters": b"x" * 300,
        "65000 letters": b"x" * 65000,
        "backslash": b"..\\x",
        "line break": b"a\nb",
    }.items():
        yield f"without list: {name}", partial(_renamed, folder), EITHER


def _renamed(folder: bytes, files: Members) -> bytes:
    inside = {name: content for name, content in files.items() if name.startswith("scene_0/")}
    return zip_of([Entry(folder + name.encode()[7:], content) for name, content in inside.items()])


def _scenes() -> Built:
    for path in (
        "../scene_1/images/00000.png",
        "/etc/passwd",
        "a\0b",
        "x" * 5000,
        "",
        "images",
        "opencv_cameras.json",
        "\ud800",
        "..\\x",
    ):
        yield f"image path {path!r:.20}", partial(_scene, 0, "file_path", path), (2,)
    for name in ("../x", "a/b", "..", "", "\ud800", "a\nb"):
        yield f"scene name {name!r}", partial(_named, name), (2,)
    for name in ("x" * 300, "pack_data_path.json", "a.zip", "-x", "CON", "\u202ex"):
        yield f"scene name {name!r:.20}", partial(_named, name), EITHER


def _scene(view: int, key: str, value: object, files: Members) -> bytes:
    content = json.loads(files[CAMERAS])
    content[view][key] = value
    return zip_of(_all({**files, CAMERAS: json.dumps(content).encode()}))


def _named(name: str, files: Members) -> bytes:
    content = {"scene_name": name, "frames": json.loads(files[CAMERAS])}
    return zip_of(_all({**files, CAMERAS: json.dumps(content).encode()}))


def _entries() -> Built:
    """Yield packs whose first scene has a wrong entry in the directory."""
    large = 0xFFFFFFFF
    for name, changes, right in (
        ("encrypted", {"flags": ENCRYPTED}, (2,)), ("method 12", {"method": 12}, (2,)), ("other checksum", {"crc": 1}, (2,)),
        ("stored beyond the file", {"stored": 1 << 30}, (2,)), ("size 1 GB", {"size": HOLE}, (2,)), ("size 4 GB",
            {"size": large - 1}, (2,)),
        ("size 0", {"size": 0}, (2,)), ("nothing stored", {"stored": 0}, (2,)), ("start beyond the file", {"at": large - 1}, (2,)),
        ("overlap", {"at": 0}, (2,)), ("start in the middle", {"at": 7}, (2,)), ("other name in its header", {"local_name": b"x"},
            (2,)),
        ("Zip64 missing", {"size": large}, (2,)), ("Zip64 short", {"size": large, "extra": struct.pack("<2HI", 1, 4, 9)}, (2,)),
        ("Zip64 size absurd", {"size": large, "extra": zip_64_field(2**64 - 1)}, (2,)),
        ("Zip64 all absurd", {"size": large, "stored": large, "at": large, "extra": zip_64_field(*[2**64 - 1] * 3)}, (2,)),
        ("Zip64 start absurd", {"at": large, "extra": zip_64_field(2**63)}, (2,)),
        ("Zip64 longer than it is", {"extra": struct.pack("<2H", 1, 65535)}, EITHER),
        ("deflated", {"method": DEFLATED}, (0,)), ("stated to be deflated", {"method": DEFLATED, "stored": 99}, (2,)),
    ):  # fmt: skip
        yield name, lambda files, changes=changes: zip_of(_all(files, **changes)), right
    for name, piece in (("spaces", b" "), ("brackets", b"["), ("lists", b"[],"), ("zeros", b"\0"), ("views", b"{},")):
        for place in (CAMERAS, LIST):
            yield f"bomb of {name}, {Path(place).name}", partial(_bomb, place, piece), (2,)
    yield "bomb, image", partial(_bomb, "scene_0/images/00001.png", b"\0"), (2,)
    yield "every member twice", lambda files: zip_of([*_all(files), *_all(files)]), EITHER
    yield "300000 members", lambda files: zip_of([*(Entry(b"%d" % i, b"") for i in range(300_000)), *_all(files)]), (0,)
    yield (
        "60000 scenes of a letter",
        lambda files: zip_of([Entry(b"s" * (i % 99) + b"/opencv_cameras.json", b"[]") for i in range(60_000)]),
        (2,),
    )


def _bomb(name: str, piece: bytes, files: Members) -> bytes:
    content, crc, size = repeated(piece, 250 << 20)
    entries = [entry for entry in _all(files) if entry.name != name.encode()]
    bomb = Entry(name.encode(), content, DEFLATED, crc=crc, stored=len(content), size=size)
    return zip_of([*entries, bomb] if name == LIST else [bomb, *entries])


def _ends() -> Built:
    absurd = 0xFFFFFFFE
    for name, end in {
        "directory of 4 GB": End(size=absurd), "directory far away": End(start=absurd), "directory of nothing": End(size=0,
            start=0),
        "Zip64 directory of 2^63": End(size_64=2**63), "Zip64 directory at 2^64 - 1": End(start_64=2**64 - 1),
        "Zip64 end far away": End(end_64=2**64 - 1), "Zip64 end at 0": End(end_64=0), "Zip64 both absurd": End(size_64=2**64 - 9,
            start_64=9),
    }.items():  # fmt: skip
        yield name, lambda files, end=end: zip_of(_all(files), end), (2,)
    yield "count of 0", lambda files: zip_of(_all(files), End(count=0)), EITHER
    yield "comment of 65535 bytes", lambda files: zip_of(_all(files), End(comment=b"PK\5\6" * 16383 + b"abc")), EITHER
    yield "no bytes", lambda files: b"", (2,)
    yield "text", lambda files: b"hello", (2,)
    yield "no member", lambda files: zip_of([]), (2,)
    for at in range(4, 20, 3):
        yield f"locator {at} bytes before the end", lambda files, at=at: b"PK\6\7" + bytes(at - 4) + zip_of([]), (2,)
    yield "half", lambda files: zip_of(_all(files))[: sum(map(len, files.values())) // 2], (2,)
    yield "a byte less", lambda files: zip_of(_all(files))[:-1], (2,)
    yield "70000 bytes more", lambda files: zip_of(_all(files)) + bytes(70000), (2,)
    yield "a byte before", lambda files: b"x" + zip_of(_all(files)), (2,)


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
    for name, base, words, pause in places:
        for kind, change in {
            "cut short": _halve,
            "emptied": _empty,
            "deleted": _delete,
            "replaced": _replace,
            "replaced by others": _others,
        }.items():
            folder = arena.place(base)
            run = arena.start(words, folder, pause)
            reached = run.wait_for_pause()
            change(folder)
            run.go_on()
            run.finish()
            right = (0,) if kind == "replaced" else EITHER
            left = temporaries(folder)
            kept = name != "training" or any((folder / "outputs/run/snapshot").glob("step_*.pt"))
            yield Outcome(
                f"{name}, {kind} meanwhile",
                first_problem(
                    "" if reached else f"never came to the place: {run.last_words()}",
                    judge(run.status, run.stderr, right, lines=range(1, 4), memory=run.memory),
                    f"{len(left)} temporaries left: {left[0]}" if left else "",
                    "" if kept else "no snapshot",
                ),
            )


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
