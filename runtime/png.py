"""What a PNG file says of itself before its pixels are decoded (PNG, third edition, section 5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

START = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">II5B")  # width, height, depth, colours, and three methods
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colours
WITH_ALPHA = (3, 4, 6)  # kinds of colours: of a palette, and grey and RGB with alpha
NEEDED = 0x20  # clear in the first letter of chunks without which there is no picture


def examine(data: bytes) -> frozenset[str]:
    """What is notable in a file: "damaged", "animated", "alpha" (may have transparent pixels).

    libpng finds damage too, but prints lines of its own about it. A file that ends too soon is
    for the decoder to judge.
    """
    found: set[str] = set()
    header = b""
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"acTL":
            found.add("animated")
        elif kind == b"tRNS":
            found.add("alpha")
        elif kind == b"":
            found.add("damaged")
    if len(header) != HEADER.size:
        return frozenset(("damaged",))
    width, height, depth, colours, packing, filtering, interlace = HEADER.unpack(header)
    if depth not in DEPTHS.get(colours, ()) or packing or filtering or interlace > 1:
        found.add("damaged")
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        found.add("damaged")
    if colours in WITH_ALPHA:
        found.add("alpha")
    return frozenset(found)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each whole chunk; without a kind where a needed one does not check."""
    at, view = len(START), memoryview(data)
    while at + 12 <= len(data):
        length = int.from_bytes(view[at : at + 4], "big")
        kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
        if end + 4 > len(data):
            return
        check = int.from_bytes(view[end : end + 4], "big")
        if not kind[0] & NEEDED and zlib.crc32(view[at + 4 : end]) != check:
            kind = b""
        yield kind, bytes(view[at + 8 : end]) if kind == b"IHDR" else b""
        at = end + 4
