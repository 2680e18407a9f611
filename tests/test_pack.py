"""Packs: members of zip files, read as files in a folder; compared with Python's zipfile."""

import os
import re
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from config.errors import InputError
from data import pack as pack_module
from data.pack import Pack, open_pack, split_path
from data.stored_file import file_size, file_state, is_there, open_file, read_file, refuse_in_pack

# Names that are the ends and beginnings of others, letters of more than one byte, and one that looks like a record.
NAMES = ("b.png", "a/b.png", "x/a/b.png", "a/b.png.txt", "größe/übung.png", "a/PK\x05\x06", "x/empty")


def write_zip(path: Path, method: int = zipfile.ZIP_STORED, comment: bytes = b"", names=NAMES) -> dict[str, bytes]:
    """Write members of random bytes, some long and some empty; return them."""
    rng = np.random.default_rng(0)
    members = {
        name: rng.integers(0, 4, 0 if "empty" in name else 50 + 700 * i, dtype=np.uint8).tobytes() for i, name in enumerate(names)
    }
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = comment
    return members


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"PK\x05\x06" + bytes(40), bytes(60_000)])
def test_members_are_those_of_the_zip_file(tmp_path, method, comment):
    path = tmp_path / "a.zip"
    members = write_zip(path, method, comment)
    pack = Pack(str(path))
    assert list(pack.names()) == list(members)
    assert {name: pack.read(name) for name in members} == members
    assert pack.comment == comment
    assert pack.read_last("x/empty") == b""
    assert pack.read_last("b.png") is None
    assert "png" not in pack
    assert "a" not in pack


def test_offsets_and_sizes_of_64_bits(tmp_path, monkeypatch):
    path = tmp_path / "large.zip"
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 300)  # zipfile writes 64-bit fields from this size and offset on
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    members = write_zip(path)
    assert b"PK\x06\x06" in path.read_bytes()
    pack = Pack(str(path))
    assert {name: pack.read(name) for name in pack.names()} == members
    assert pack.read_last(NAMES[-1]) == members[NAMES[-1]]


@pytest.mark.parametrize("comment", [4053, 4054, 4060, 4074, 4075, 65535])
def test_sizes_of_64_bits_before_a_comment_of_any_length(tmp_path, monkeypatch, comment):
    path = tmp_path / "large.zip"
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 300)
    members = write_zip(path, comment=bytes(comment))
    assert b"PK\x06\x07" in path.read_bytes()
    pack = Pack(str(path))
    assert {name: pack.read(name) for name in pack.names()} == members


@pytest.mark.parametrize("length", [4, 9, 19, 20])
def test_damaged_end_of_64_bits(tmp_path, length):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x06\x07".ljust(length, b"x") + b"PK\x05\x06" + bytes(18))
    with pytest.raises(InputError, match=r"a\.zip: has a (damaged directory|directory of 0 bytes at 0, not before its end at)"):
        Pack(str(path))


def test_missing_64_bit_field_is_damage(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, names=("b.png",))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02")
    content[at + 42 : at + 46] = b"\xff" * 4  # an offset that 32 bits do not hold, and no field that holds it
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape("a.zip/b.png: has a damaged entry in the directory; wanted a whole pack")):
        Pack(str(path)).read("b.png")


def test_empty_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    pack = Pack(str(tmp_path / "empty.zip"))
    assert list(pack.names()) == []
    assert "a" not in pack
    assert pack.read_last("a") is None


def test_every_changed_byte_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "a.zip"
    members = write_zip(path, names=NAMES[:3])
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0x41
        path.write_bytes(changed)
        found = contents_or_message(path, members)
        assert found == members or str(path) in found
        refused += found != members
    assert refused > sum(map(len, members.values()))  # all bytes of the members, and most of the others


def contents_or_message(path: Path, names) -> dict[str, bytes] | str:
    try:
        pack = Pack(str(path))
        return {name: pack.read(name) for name in names}
    except (InputError, FileNotFoundError) as error:
        return str(error)


def test_every_shorter_file_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, names=NAMES[:2])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.zip"):
            Pack(str(path)).read("b.png")


def test_encrypted_and_unknown_compression(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, zipfile.ZIP_BZIP2, names=("b.png",))
    with pytest.raises(
        InputError, match=re.escape("a.zip/b.png: is compressed by method 12; wanted an uncompressed file (zip -0)")
    ):
        Pack(str(path)).read("b.png")
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape("a.zip/b.png: is encrypted; wanted a file that is not")):
        Pack(str(path)).read("b.png")


def test_compressed_member_is_unpacked_to_its_stated_size_at_most(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(1 << 22))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(InputError, match="bomb: is damaged: its checksum is another"):
        Pack(str(path)).read("bomb")


def test_too_large_members_and_directories_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    members = write_zip(path)
    monkeypatch.setattr(pack_module, "MOST_MEMBER_BYTES", 600)
    pack = Pack(str(path))
    assert pack.read("b.png") == members["b.png"]
    with pytest.raises(InputError, match=re.escape("a.zip/a/b.png: has 750 bytes; wanted 600 at most")):
        pack.read("a/b.png")
    monkeypatch.setattr(pack_module, "MOST_DIRECTORY_BYTES", 99)
    with pytest.raises(InputError, match=re.escape("wanted 99 at most, in smaller packs")):
        Pack(str(path))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("x/a.zip/s/1.png", ("x/a.zip", "s/1.png")),
        ("x/A.ZIP/s/1.png", None),
        ("x/a.zip", None),
        ("x/folder.zip/a.zip/1.png", ("x/folder.zip/a.zip", "1.png")),
        ("x/folder.zip/1.png", None),
        ("x/b.zip.old/1.png", None),
        ("x/İ/a.ZİP.zip/ß.png", ("x/İ/a.ZİP.zip", "ß.png")),  # of two letters each where they are made small
    ],
)
def test_paths_through_packs(tmp_path, monkeypatch, path, wanted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x" / "folder.zip").mkdir(parents=True)
    write_zip(tmp_path / "x" / "a.zip")
    write_zip(tmp_path / "x" / "folder.zip" / "a.zip")
    (tmp_path / "x" / "İ").mkdir()
    write_zip(tmp_path / "x" / "İ" / "a.ZİP.zip")
    assert split_path(path) == wanted
    assert split_path(Path(path)) == wanted


def test_files_in_packs_and_on_disk(tmp_path):
    members = write_zip(tmp_path / "a.zip")
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "b.png").write_bytes(b"on disk")
    inside, on_disk = tmp_path / "a.zip" / "x" / "a" / "b.png", tmp_path / "folder.zip" / "b.png"
    for path, content in ((inside, members["x/a/b.png"]), (on_disk, b"on disk")):
        assert read_file(path) == content
        with open_file(path) as file:
            assert file.read() == content
        assert file_size(path) == len(content)
        assert is_there(path)
        assert not is_there(path.with_name("c.png"))
        with pytest.raises(FileNotFoundError, match=r"c\.png: is not (in the pack|there); wanted a"):
            read_file(path.with_name("c.png"))
    assert file_state(inside) == file_state(tmp_path / "a.zip")
    refuse_in_pack(on_disk)
    with pytest.raises(InputError, match=r"b\.png: would be written into a pack; wanted a scene in a folder: unzip a\.zip first"):
        refuse_in_pack(inside)


def test_message_about_a_long_name_is_short(tmp_path):
    write_zip(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match=r"a\.zip/x+…x+: is not in the pack; wanted a file in it") as error:
        Pack(str(tmp_path / "a.zip")).read("x" * 60_000)
    assert len(str(error.value)) < 320


def test_missing_pack(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("none.zip: is not there; wanted a pack of scenes")):
        open_pack(tmp_path / "none.zip")
    os.mkfifo(tmp_path / "fifo.zip")
    with pytest.raises(InputError, match=re.escape("fifo.zip: is not a regular file; wanted a pack of scenes")):
        open_pack(tmp_path / "fifo.zip")


def test_pack_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path)
    before = open_pack(path)
    assert open_pack(path) is before
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("b.png", b"new")
    (tmp_path / "new.zip").replace(path)
    assert read_file(path / "b.png") == b"new"
    assert before.read("b.png") != b"new"  # who has it open reads on


def test_only_some_packs_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "_open_packs", pack_module._OpenPacks())
    monkeypatch.setattr(pack_module, "KEPT_PACKS", 3)
    paths = [tmp_path / f"{i}.zip" for i in range(20)]
    contents = [write_zip(path)["b.png"] for path in paths]

    def opened() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(tmp_path)) for fd in os.listdir("/proc/self/fd"))

    for path, content in zip(paths * 2, contents * 2, strict=True):
        assert read_file(path / "b.png") == content
        assert opened() <= 3
    monkeypatch.setattr(pack_module, "KEPT_BYTES", 1)
    read_file(paths[0] / "b.png")
    assert opened() == 1


def test_pack_in_use_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "_open_packs", pack_module._OpenPacks())
    monkeypatch.setattr(pack_module, "KEPT_PACKS", 2)
    for name in ("a.zip", "b.zip", "c.zip"):
        write_zip(tmp_path / name)
    used = open_pack(tmp_path / "a.zip")
    for name in ("b.zip", "a.zip", "c.zip"):  # the third closes the one that was used before the others
        open_pack(tmp_path / name)
    assert open_pack(tmp_path / "a.zip") is used


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (42, 0, "has the header of another file in the pack; wanted a whole pack"),  # where its own begins
        (42, 100_000, "reaches beyond the end of the pack's files; wanted a whole pack"),
        (20, 1 << 31, f"has {1 << 31} bytes; wanted {pack_module.MOST_MEMBER_BYTES} at most"),  # stored
        (24, 749, "is damaged: its checksum is another; wanted a whole pack"),
    ],
)
def test_entry_that_contradicts_the_file(tmp_path, at, value, message):
    path = tmp_path / "a.zip"
    write_zip(path)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"a/b.png", 0, content.rfind(b"x/a/b.png")) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    struct.pack_into("<I", content, entry + at, value)
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"a.zip/a/b.png: {message}")):
        Pack(str(path)).read("a/b.png")


def test_threads_share_a_pack(tmp_path):
    path = tmp_path / "a.zip"
    members = write_zip(path, names=[f"{i % 7}/images/{i:03d}.png" for i in range(200)])
    names, wrong = list(members), []

    def read(seed: int) -> None:
        chosen = [names[i] for i in np.random.default_rng(seed).integers(len(names), size=300)]
        wrong.extend(name for name in chosen if read_file(path / name) != members[name])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    write_zip(path)
    pack = Pack(str(path))

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match=re.escape(f"Input/output error: '{path}")):
        pack.read("b.png")


def test_disk_that_gives_a_few_bytes_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    members = write_zip(path)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, at: pread(file, min(count, 100), at))
    pack = Pack(str(path))
    assert {name: pack.read(name) for name in members} == members


def test_long_extra_field_before_the_bytes(tmp_path):
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("b.png")
    info.extra = struct.pack("<2H", 0x9999, 500) + bytes(500)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"content")
    assert Pack(str(path)).read("b.png") == b"content"
