"""Image files for tests, from the standards of PNG and EXIF. Letters: h w pixels, c channels."""

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(h: int, w: int, bits: int, colour_type: int, rows: bytes, before: bytes = b"") -> bytes:
    """Return a PNG of filtered rows, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", w, h, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def deep_png(pixels: np.ndarray, colour_type: int, before: bytes = b"") -> bytes:
    """Return a PNG of (h, w, c) uint16 pixels with 16 bits per sample, which Pillow does not write in colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(*pixels.shape[:2], 16, colour_type, rows, before)


def turned(orientation: int) -> Image.Exif:
    """Return EXIF with an orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif
