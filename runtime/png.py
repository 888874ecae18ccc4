"""What a PNG file says of itself before its pixels are decoded (PNG, third edition, section 5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

START = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">4s II5B")  # IHDR, width, height, depth, colours, and three methods
HEADER_AT = 12
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colours
MAY_HAVE_ALPHA = (3, 4, 6)  # kinds of colours: of a palette, and grey and RGB with alpha
CHECKED = (b"IHDR", b"IDAT")


@dataclass(frozen=True)
class Png:
    """What is notable in a file.

    Attributes:
        damaged: its header means nothing, or its header or pixels have changed since they were
            written. Other damage is for the decoder to find; libpng prints lines of its own about
            these two, the commonest.
        animated: it holds more than one picture.
        alpha: its pixels may be transparent.
    """

    damaged: bool = False
    animated: bool = False
    alpha: bool = False


def examine(data: memoryview) -> Png:
    """Find that out of a whole file."""
    if len(data) < HEADER_AT + HEADER.size:
        return Png(damaged=True)
    kind, width, height, depth, colours, *methods = HEADER.unpack_from(data, HEADER_AT)
    damaged = kind != b"IHDR" or depth not in DEPTHS.get(colours, ())
    damaged |= not (0 < width < 2**31 and 0 < height < 2**31)
    damaged |= methods not in ([0, 0, 0], [0, 0, 1])
    kinds: set[bytes] = set()  # before the pixels, as decoders heed them
    for kind, whole in _chunks(data):
        damaged |= not whole
        if b"IDAT" not in kinds:
            kinds.add(kind)
    return Png(damaged, b"acTL" in kinds, colours in MAY_HAVE_ALPHA or b"tRNS" in kinds)


def _chunks(data: memoryview) -> Iterator[tuple[bytes, bool]]:
    """The kind of each chunk up to the last, and whether it is as it was written."""
    at = len(START)
    while at + 12 <= len(data):
        kind, end = bytes(data[at + 4 : at + 8]), at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND" or end + 4 > len(data):
            return
        told = int.from_bytes(data[end : end + 4], "big")
        yield kind, kind not in CHECKED or zlib.crc32(data[at + 4 : end]) == told
        at = end + 4
