"""Zip files byte by byte, so that any of their numbers can be wrong.

Source: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3 (Zip64).
"""

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

STORED, DEFLATED = 0, 8
ENCRYPTED, UTF_8 = 1, 1 << 11


class Entry(NamedTuple):
    """A member; what is None in the directory is as it is in the file."""

    name: bytes
    content: bytes
    method: int = STORED
    flags: int = UTF_8
    crc: int | None = None
    stored: int | None = None
    size: int | None = None
    at: int | None = None
    extra: bytes = b""
    local_name: bytes | None = None


class End(NamedTuple):
    """Numbers at the end; what is None is right. `size_64` and `start_64` are in a Zip64 end, if one of them is given."""

    size: int | None = None
    start: int | None = None
    count: int | None = None
    size_64: int | None = None
    start_64: int | None = None
    end_64: int | None = None
    comment: bytes = b""


RIGHT = End()


def zip_64_field(*numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def repeated(piece: bytes, count: int) -> tuple[bytes, int, int]:
    """Return a deflated text of one piece again and again, its checksum and its size."""
    block = piece * max(1, (1 << 20) // len(piece))
    packer, crc, parts, size = zlib.compressobj(9, wbits=-zlib.MAX_WBITS), 0, [], 0
    while size < count:
        parts.append(packer.compress(block))
        crc, size = zlib.crc32(block, crc), size + len(block)
    return b"".join([*parts, packer.flush()]), crc, size


def zip_of(entries: Sequence[Entry], end: End = RIGHT) -> bytes:
    """Return a zip file."""
    body, directory = bytearray(), bytearray()
    for entry in entries:
        at = len(body) if entry.at is None else entry.at
        content = deflated(entry.content) if entry.method == DEFLATED and entry.stored is None else entry.content
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        stored = len(content) if entry.stored is None else entry.stored
        size = len(entry.content) if entry.size is None else entry.size
        name = entry.name if entry.local_name is None else entry.local_name
        body += struct.pack("<4s5H3I2H", b"PK\3\4", 20, entry.flags, entry.method, 0, 0, crc, len(content), 0, len(name), 0)
        body += name + content
        fields = (20, 20, entry.flags, entry.method, 0, 0, crc, stored, size, len(entry.name), len(entry.extra), 0, 0, 0, 0, at)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + entry.name + entry.extra
    start, size = len(body) if end.start is None else end.start, len(directory) if end.size is None else end.size
    tail = b""
    if (end.size_64, end.start_64, end.end_64) != (None, None, None):
        place = len(body) + len(directory) if end.end_64 is None else end.end_64
        numbers = size if end.size_64 is None else end.size_64, start if end.start_64 is None else end.start_64
        tail = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(entries), len(entries), *numbers)
        tail += struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)
        size = start = 0xFFFFFFFF
    count = len(entries) & 0xFFFF if end.count is None else end.count
    tail += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, start, len(end.comment)) + end.comment
    return bytes(body + directory) + tail
