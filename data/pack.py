"""Packs: zip files whose members are read as if the zip were a folder.

A path through a pack, such as `objects_00000.zip/chair/images/00000.webp`, stands for a member. Only what is asked for is read: of
a pack its directory, once, and of a member its bytes. Python's zipfile writes packs; for reading it takes 13 ms and 2 MB per 4000
members to build its table, as long as decoding a sample of 16 small images, and most samples are in another pack than the one
before. Here names are looked up in the directory as it is on disk.

Source: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3 (Zip64).
"""

import os
import re
import stat
import struct
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from config.errors import InputError, missing_file

SUFFIX = ".zip"
# Not by `str.lower`, which makes some letters two.
_IN_PACK = re.compile(re.escape(SUFFIX + os.sep), re.IGNORECASE | re.ASCII)
# A directory has about 80 bytes per member.
MOST_DIRECTORY_BYTES = 1 << 30
# Less than its directory, since files are decoded: JSON and images take several times their bytes.
MOST_MEMBER_BYTES = 1 << 28
# Of the packs that are kept open: bytes of their directories, and their number, since systems limit open files to 1024.
KEPT_BYTES, KEPT_PACKS = 1 << 27, 256

_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
# Signature, and the fields that are read, at their places in the fixed parts of the records.
_ENTRY, _LOCAL, _END, _END_64, _LOCATOR_64 = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY_SIZE, _LOCAL_SIZE, _END_SIZE, _END_64_SIZE, _LOCATOR_64_SIZE = 46, 30, 22, 56, 20
_ENTRY_FIELDS = struct.Struct("<4s4x2H4x3I3H8xI")
# Bytes from the end that mostly hold the end of the directory; a pack's comment may make it longer.
_USUAL_TAIL, _LONGEST_COMMENT = 1 << 12, 0xFFFF
_IN_ZIP64, _ZIP64 = 0xFFFFFFFF, 1
# Members of a scene are beside each other in packs: the directory is first searched this far from the scene's first member.
_NEAR = 1 << 16
# Extra fields before a member's bytes are read with them if they are no longer.
_SLACK = 64


class Member(NamedTuple):
    """Entry of a pack's directory: bytes in the pack and after decompression, checksum, method, flags, start of its header."""

    stored: int
    size: int
    crc: int
    method: int
    flags: int
    at: int


def split_path(path: str | os.PathLike) -> tuple[str, str] | None:
    """Split a path through a pack into the pack and the name of the member; None for any other path."""
    text = os.fspath(path)
    for match in _IN_PACK.finditer(text):
        pack, name = text[: match.end() - 1], text[match.end() :]
        if os.path.isfile(pack):
            return pack, name.replace(os.sep, "/")
    return None


def is_pack(path: str | os.PathLike) -> bool:
    """Return whether a path names a pack, by its suffix."""
    return os.fspath(path).lower().endswith(SUFFIX)


class Pack:
    """An open pack. Threads and forked processes may share it.

    Raises:
        OSError: it cannot be opened.
        InputError: it is not a zip file, or is damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self.file_size = os.fstat(self._file).st_size
        self._start, self.directory_size, self._tail, self.comment = self._find_directory()
        self._directory: bytes | None = None
        self._places: dict[bytes, int] = {}

    @property
    def directory(self) -> bytes:
        """The entries of all members, as they are in the file; read when it is first needed."""
        # Not a `cached_property`: until Python 3.12, threads would wait for each other's packs.
        if self._directory is None:
            directory = self._bytes(self.path, self._start, self.directory_size)
            if len(directory) < self.directory_size or directory[:4] not in (_ENTRY, b""):
                raise InputError(self.path, "has a damaged directory", "a whole pack")
            self._directory = directory
        return self._directory

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> Member | None:
        """Return a member, or None if there is none of this name."""
        wanted = os.fsencode(name)
        scene = wanted.partition(b"/")[0]
        near = self._places.get(scene)
        at = -1 if near is None else self._search(wanted, near, near + _NEAR)
        if at < 0:
            at = self._search(wanted, 0, len(self.directory))
        if at < 0:
            return None
        if near is None:
            self._places[scene] = at
        return self._member(name, self.directory, at)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member.

        Raises:
            FileNotFoundError: there is no such member.
            InputError: it is damaged, encrypted, or larger than `MOST_MEMBER_BYTES`.
        """
        return self._content(name, self._found(name))

    def size(self, name: str) -> int:
        """Return the bytes of a member, uncompressed; raise FileNotFoundError if there is none."""
        return self._found(name).size

    def read_last(self, name: str) -> bytes | None:
        """Return the bytes of the last member if it has this name, else None; the directory is not read for it."""
        at = self._tail.rfind(_ENTRY)
        if at < 0 or self._tail[at + _ENTRY_SIZE :][: len(os.fsencode(name))] != os.fsencode(name):
            return None
        lengths = struct.unpack_from("<3H", self._tail, at + 28)
        if lengths[0] != len(os.fsencode(name)) or at + _ENTRY_SIZE + sum(lengths) != len(self._tail):
            return None
        return self._content(name, self._member(name, self._tail, at))

    def _found(self, name: str) -> Member:
        member = self.find(name)
        if member is None:
            # In its words, which cut what is long: names in packs may have 65535 letters.
            raise FileNotFoundError(str(InputError(f"{self.path}/{name}", "is not in the pack", "a file in it")))
        return member

    def _content(self, name: str, member: Member) -> bytes:
        where = f"{self.path}/{name}"
        self._check(where, member)
        head = _LOCAL_SIZE + len(os.fsencode(name)) + _SLACK
        content = self._bytes(where, member.at, head + member.stored)
        if content[:4] != _LOCAL or len(content) < _LOCAL_SIZE:
            raise InputError(where, "has no header in the pack", "a whole pack")
        start = _LOCAL_SIZE + sum(struct.unpack_from("<2H", content, 26))
        if content[_LOCAL_SIZE : _LOCAL_SIZE + len(os.fsencode(name))] != os.fsencode(name):
            raise InputError(where, "has the header of another file in the pack", "a whole pack")
        if len(content) < start + member.stored:
            content += self._bytes(where, member.at + len(content), start + member.stored - len(content))
        content = content[start : start + member.stored]
        if member.method == _DEFLATED:
            content = _inflated(where, content, member.size)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise InputError(where, "is damaged: its checksum is another", "a whole pack")
        return content

    def names(self) -> Iterator[str]:
        """Yield the names of all members, in the order of the directory."""
        at = 0
        while at < len(self.directory):
            name_bytes, extra, comment = self._lengths(at)
            yield os.fsdecode(self.directory[at + _ENTRY_SIZE : at + _ENTRY_SIZE + name_bytes])
            at += _ENTRY_SIZE + name_bytes + extra + comment

    def _lengths(self, at: int) -> tuple[int, int, int]:
        if self.directory[at : at + 4] != _ENTRY or at + _ENTRY_SIZE > len(self.directory):
            raise InputError(self.path, "has a damaged directory", "a whole pack")
        return struct.unpack_from("<3H", self.directory, at + 28)

    def _search(self, name: bytes, start: int, end: int) -> int:
        """Return where the entry with a name begins in a part of the directory; -1 if it is not there."""
        at = self.directory.find(name, start + _ENTRY_SIZE, end)
        while at >= 0:
            entry = at - _ENTRY_SIZE
            # Not the end of a longer name, nor a part of one.
            if self.directory[entry : entry + 4] == _ENTRY and struct.unpack_from("<H", self.directory, entry + 28)[0] == len(name):
                return entry
            at = self.directory.find(name, at + 1, end)
        return -1

    def _member(self, name: str, directory: bytes, at: int) -> Member:
        _, flags, method, crc, stored, size, name_bytes, extra, _, offset = _ENTRY_FIELDS.unpack_from(directory, at)
        if _IN_ZIP64 in (size, stored, offset):
            start = at + _ENTRY_SIZE + name_bytes
            values = _with_zip64([size, stored, offset], directory[start : start + extra])
            if values is None:
                raise InputError(f"{self.path}/{name}", "has a damaged entry in the directory", "a whole pack")
            size, stored, offset = values
        return Member(stored, size, crc, method, flags, offset)

    def _check(self, where: str, member: Member) -> None:
        if member.flags & _ENCRYPTED:
            raise InputError(where, "is encrypted", "a file that is not")
        if member.method not in (_STORED, _DEFLATED):
            raise InputError(where, f"is compressed by method {member.method}", "an uncompressed file (zip -0)")
        if max(member.size, member.stored) > MOST_MEMBER_BYTES:
            raise InputError(where, f"has {max(member.size, member.stored)} bytes", f"{MOST_MEMBER_BYTES} at most")
        if member.at + member.stored > self._start:
            raise InputError(where, "reaches beyond the end of the pack's files", "a whole pack")

    def _find_directory(self) -> tuple[int, int, bytes, bytes]:
        """Return where the directory begins, its size, the end of it as far as it was read, and the pack's comment."""
        tail, end = b"", -1
        for count in (_USUAL_TAIL, _LOCATOR_64_SIZE + _END_SIZE + _LONGEST_COMMENT):
            tail_at = max(0, self.file_size - count)
            tail = self._bytes(self.path, tail_at, count)
            end = tail.rfind(_END)
            while end >= 0 and not _is_end(tail, end):
                end = tail.rfind(_END, 0, end)
            if end >= _LOCATOR_64_SIZE:
                break
        if end < 0:
            raise InputError(self.path, "is not a zip file, or is cut short", "a zip file with scenes")
        size, start = struct.unpack_from("<2I", tail, end + 12)
        comment, limit = tail[end + _END_SIZE :], tail_at + end
        if end >= _LOCATOR_64_SIZE and tail[end - _LOCATOR_64_SIZE :][:4] == _LOCATOR_64:
            limit = struct.unpack_from("<Q", tail, end - _LOCATOR_64_SIZE + 8)[0]
            record = self._bytes(self.path, limit, _END_64_SIZE)
            if record[:4] != _END_64 or len(record) < _END_64_SIZE:
                raise InputError(self.path, "has a damaged directory", "a whole pack")
            size, start = struct.unpack_from("<2Q", record, 40)
        if start + size != limit:
            raise InputError(
                self.path, f"has a directory of {size} bytes at {start}, not before its end at {limit}", "a whole pack"
            )
        if size > MOST_DIRECTORY_BYTES:
            raise InputError(self.path, f"has a directory of {size} bytes", f"{MOST_DIRECTORY_BYTES} at most, in smaller packs")
        return start, size, tail[max(0, start - tail_at) : max(0, limit - tail_at)], comment

    def _bytes(self, where: str, at: int, count: int) -> bytes:
        """Return bytes of the file, fewer where it ends; a disk may give fewer at a time."""
        parts, count = [], max(0, min(count, self.file_size - at))
        try:
            while count > 0 and (part := os.pread(self._file, count, at)):
                parts.append(part)
                at, count = at + len(part), count - len(part)
        except OSError as error:
            error.filename = where
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_end(tail: bytes, at: int) -> bool:
    """Return whether a record of the end is at a place: with a comment as long as it says."""
    return len(tail) >= at + _END_SIZE and struct.unpack_from("<H", tail, at + 20)[0] == len(tail) - at - _END_SIZE


def _with_zip64(values: list[int], extra: bytes) -> list[int] | None:
    """Return size, stored size and offset, from the Zip64 field where 32 bits do not hold them; None where it lacks them."""
    at, large = 0, b""
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64:
            large = extra[at + 4 : at + 4 + length]
        at += 4 + length
    if len(large) < 8 * values.count(_IN_ZIP64):
        return None
    numbers = iter(struct.unpack_from(f"<{values.count(_IN_ZIP64)}Q", large))
    return [next(numbers) if value == _IN_ZIP64 else value for value in values]


def _inflated(where: str, content: bytes, size: int) -> bytes:
    """Return the decompressed bytes, never more than stated."""
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return decoder.decompress(content, size + 1)
    except zlib.error as error:
        raise InputError(where, f"cannot be decompressed ({error})", "a whole pack") from None


class _OpenPacks:
    """Packs that were used last, open, by path, modification time and size: a pack that is replaced is opened again."""

    def __init__(self) -> None:
        self._packs: OrderedDict[tuple[str, int, int], Pack] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, path: str) -> Pack:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise InputError(path, "is not a regular file", "a pack of scenes")
        key = path, state.st_mtime_ns, state.st_size
        with self._lock:
            if key in self._packs:
                self._packs.move_to_end(key)
                return self._packs[key]
        pack = Pack(path)  # another thread may do the same: either will serve
        with self._lock:
            if key not in self._packs:
                self._packs[key] = pack
                self._bytes += pack.directory_size
            while len(self._packs) > 1 and (self._bytes > KEPT_BYTES or len(self._packs) > KEPT_PACKS):
                self._bytes -= self._packs.popitem(last=False)[1].directory_size
        return pack


_open_packs = _OpenPacks()


def open_pack(path: str | os.PathLike) -> Pack:
    """Return a pack that is open already, or open it.

    Raises:
        FileNotFoundError, InputError: as `Pack`; or it is not a regular file.
    """
    try:
        return _open_packs.get(os.path.abspath(path))
    except FileNotFoundError:
        raise missing_file(path, "a pack of scenes") from None
