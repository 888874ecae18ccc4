"""What a PNG file says of itself before its pixels are decoded (PNG, third edition, section 5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

START = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">4s II5B")  # IHDR, width, height, depth, colours, and three methods
HEADER_AT = 12
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colours
MAY_HAVE_ALPHA = (3, 4, 6)  # kinds of colours: of a palette, and grey and RGB with alpha
GREY = (0, 4)
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
        misfit: where its ICC profile is, if that describes grey in a picture of colours, or colours
            in a grey one; it is of no use, and libpng says so.
    """

    damaged: bool = False
    animated: bool = False
    alpha: bool = False
    misfit: slice | None = None


def examine(data: memoryview) -> Png:
    """Find that out of a whole file."""
    if len(data) < HEADER_AT + HEADER.size:
        return Png(damaged=True)
    kind, width, height, depth, colours, *methods = HEADER.unpack_from(data, HEADER_AT)
    damaged = kind != b"IHDR" or depth not in DEPTHS.get(colours, ())
    damaged |= not (0 < width < 2**31 and 0 < height < 2**31)
    damaged |= methods not in ([0, 0, 0], [0, 0, 1])
    places: dict[bytes, slice] = {}  # up to the pixels, as decoders heed them
    for kind, place in _chunks(data):
        damaged |= kind in CHECKED and not _is_whole(data[place])
        if b"IDAT" not in places:
            places[kind] = place
    misfit = places.get(b"iCCP")
    if misfit and _space(data[misfit]) == (b"GRAY" if colours in GREY else b"RGB "):
        misfit = None
    alpha = colours in MAY_HAVE_ALPHA or b"tRNS" in places
    return Png(damaged, b"acTL" in places, alpha, misfit)


def _chunks(data: memoryview) -> Iterator[tuple[bytes, slice]]:
    """The kind and place of each chunk up to the last: length, kind, content, check sum."""
    at = len(START)
    while at + 12 <= len(data):
        kind, end = bytes(data[at + 4 : at + 8]), at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND" or end > len(data):
            return
        yield kind, slice(at, end)
        at = end


def _is_whole(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _space(chunk: memoryview) -> bytes:
    """The colour space of an ICC profile: a name, a zero, the method, and the packed profile."""
    _, _, packed = bytes(chunk[8:-4]).partition(b"\0")
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(packed[1:], 20)[16:20]
    return b""
