"""Crafted packs as bytes: lists, scenes, entries and ends of their directories that are wrong."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.benchmark.attack_cases import EITHER
from tests.benchmark.attack_zip import DEFLATED, ENCRYPTED, End, Entry, repeated, zip_64_field, zip_of

CAMERAS, LIST = "scene_0/opencv_cameras.json", "pack_data_path.json"
Members = dict[str, bytes]
# Names, functions that make the pack of its right members, and right statuses of what reads it.
Built = Iterator[tuple[str, Callable[[Members], bytes], tuple[int, ...]]]


def crafted_packs() -> Built:
    yield from (*_lists(), *_scenes(), *_entries(), *_bombs(), *_ends())


def _all(files: Members, **changes: object) -> list[Entry]:
    """Return entries of files, with other fields of the first scene's JSON."""
    entries = (Entry(name.encode(), content) for name, content in files.items())
    return [entry._replace(**changes) if entry.name == CAMERAS.encode() else entry for entry in entries]


def _lists() -> Built:
    yield "untouched", lambda files: zip_of(_all(files)), (0,)
    for name, text in {
        "../x": '["../x"]', "absolute": '["/etc/passwd"]', "..": '["scene_0/../../x"]', "NUL": '["a\\u0000b"]',
        "surrogate": '["\\ud800"]', "itself": '["pack_data_path.json"]', "5000 letters": json.dumps(["x" * 5000]),
        "300 letters": json.dumps(["x" * 300]), "nothing": "[]", "object": "{}", "numbers": "[1]", "deep": "[" * 100_000,
        "a folder": '["scene_0"]', "no text": "\udcff", "an image": '["scene_0/images/00000.png"]', "empty": "",
        "a pack in it": '["inner.zip/scene_0/opencv_cameras.json"]', "backslashes": '["..\\\\x"]',
    }.items():  # fmt: skip
        yield f"list: {name}", partial(_listed, text.encode(errors="surrogateescape")), (2,)
    for name, folder in {"../x": b"../x", "absolute": b"/x", "NUL": b"a\0b"}.items():
        names = folder + b"/opencv_cameras.json"
        yield f"without list: {name}", lambda files, names=names: zip_of([Entry(names, files[CAMERAS])]), (2,)
    long = {"300 letters": b"x" * 300, "65000 letters": b"x" * 65000}
    for name, folder in {"bytes": b"\xff", "backslash": b"..\\x", "line break": b"a\nb", **long}.items():
        yield f"without list: {name}", partial(_renamed, folder), EITHER


def _listed(content: bytes, files: Members) -> bytes:
    return zip_of(_all({**files, "inner.zip": zip_of(_all(files)), LIST: content}))


def _renamed(folder: bytes, files: Members) -> bytes:
    inside = {name: content for name, content in files.items() if name.startswith("scene_0/")}
    return zip_of([Entry(folder + name.encode()[7:], content) for name, content in inside.items()])


def _scenes() -> Built:
    outside = ("../scene_1/images/00000.png", "/etc/passwd", "..\\x")
    for path in (*outside, "a\0b", "\ud800", "x" * 5000, "x" * 300, "", "images", "opencv_cameras.json"):
        yield f"image path {path[:20]!r}, {len(path)} letters", partial(_scene, 0, "file_path", path), (2,)
    for name in ("../x", "a/b", "..", "", "\ud800", "a\nb"):
        yield f"scene name {name!r}", partial(_named, name), (2,)
    for name in ("x" * 300, "pack_data_path.json", "a.zip", "-x", "CON", "\u202ex"):
        yield f"scene name {name[:20]!r}", partial(_named, name), EITHER


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
        ("stored beyond the file", {"stored": 1 << 30}, (2,)), ("size 1 GB", {"size": 1 << 30}, (2,)),
        ("size 4 GB", {"size": large - 1}, (2,)), ("size 0", {"size": 0}, (2,)), ("nothing stored", {"stored": 0}, (2,)),
        ("start beyond the file", {"at": large - 1}, (2,)), ("overlap", {"at": 0}, (2,)), ("start in the middle", {"at": 7}, (2,)),
        ("other name in its header", {"local_name": b"x"}, (2,)),
        ("Zip64 missing", {"size": large}, (2,)), ("Zip64 short", {"size": large, "extra": struct.pack("<2HI", 1, 4, 9)}, (2,)),
        ("Zip64 size absurd", {"size": large, "extra": zip_64_field(2**64 - 1)}, (2,)),
        ("Zip64 all absurd", {"size": large, "stored": large, "at": large, "extra": zip_64_field(*[2**64 - 1] * 3)}, (2,)),
        ("Zip64 start absurd", {"at": large, "extra": zip_64_field(2**63)}, (2,)),
        ("Zip64 longer than it is", {"extra": struct.pack("<2H", 1, 65535)}, EITHER),
        ("deflated", {"method": DEFLATED}, (0,)), ("stated to be deflated", {"method": DEFLATED, "stored": 99}, (2,)),
    ):  # fmt: skip
        yield name, lambda files, changes=changes: zip_of(_all(files, **changes)), right
    yield "every member twice", lambda files: zip_of([*_all(files), *_all(files)]), EITHER
    yield "300000 members", lambda files: zip_of([*(Entry(b"%d" % i, b"") for i in range(300_000)), *_all(files)]), (0,)
    letters = [Entry(b"s" * (i % 99) + b"/opencv_cameras.json", b"[]") for i in range(60_000)]
    yield "60000 scenes of a letter", lambda files: zip_of(letters), (2,)


def _bombs() -> Built:
    """Yield packs with members of 250 MB in a few hundred kilobytes."""
    for name, piece in (("spaces", b" "), ("brackets", b"["), ("lists", b"[],"), ("zeros", b"\0"), ("views", b"{},")):
        for place in (CAMERAS, LIST):
            yield f"bomb of {name}, {Path(place).name}", partial(_bomb, place, piece), (2,)
    yield "bomb, image", partial(_bomb, "scene_0/images/00001.png", b"\0"), (2,)


def _bomb(name: str, piece: bytes, files: Members) -> bytes:
    content, crc, size = repeated(piece, 250 << 20)
    entries = [entry for entry in _all(files) if entry.name != name.encode()]
    bomb = Entry(name.encode(), content, DEFLATED, crc=crc, stored=len(content), size=size)
    return zip_of([*entries, bomb] if name == LIST else [bomb, *entries])


def _ends() -> Built:
    absurd = 0xFFFFFFFE
    for name, end in {
        "directory of 4 GB": End(size=absurd), "directory far away": End(start=absurd), "no directory": End(size=0, start=0),
        "Zip64 directory of 2^63": End(size_64=2**63), "Zip64 directory at 2^64 - 1": End(start_64=2**64 - 1),
        "Zip64 end far away": End(end_64=2**64 - 1), "Zip64 end at 0": End(end_64=0),
        "Zip64 both absurd": End(size_64=2**64 - 9, start_64=9),
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
