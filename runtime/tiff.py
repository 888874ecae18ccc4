"""The directories of a TIFF file, and of EXIF data, which are a small one.

TIFF 6.0, section 2: a header tells the byte order and where the first directory is; a directory
is a count, as many entries of 12 bytes (tag, type, count, value), and where the next one is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

STARTS = (b"II*\x00", b"MM\x00*")
ORIENTATION = 0x0112
# Width, height: of a directory's picture (TIFF), and of the picture it tells about (EXIF 2.3).
SIZES = ((0x0100, 0x0101), (0xA002, 0xA003))
EXIF_DIRECTORY = 0x8769  # where EXIF's own tags are
SHORT, LONG = 3, 4  # types, of 2 and 4 bytes
# NewSubfileType: bit 0 a reduced version of another page, bit 2 its mask.
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 0x00FE, 0b101
MOST_TAGS, MOST_PAGES = 500, 1000  # of a page, and counted; a crafted file has no end of them


class _Tiff:
    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], self.order)

    def put(self, at: int, number: int, size: int) -> None:
        self.data[at : at + size] = number.to_bytes(size, self.order)

    def directory(self, start: int) -> tuple[dict[int, int], int]:
        """Where the entry of each tag is, and where the next directory's place is told."""
        end = start + 2 + 12 * min(self.number(start, 2), MOST_TAGS)
        return {self.number(at, 2): at for at in range(start + 2, end, 12)}, end


def pages(data: bytes) -> int:
    """The pages of a TIFF file, without thumbnails and masks; 1 of one that is damaged."""
    tiff = _Tiff(data)
    found, seen, start = 0, set[int](), tiff.number(4, 4)
    while 0 < start < len(data) - 2 and start not in seen and len(seen) < MOST_PAGES:
        seen.add(start)
        entries, following = tiff.directory(start)
        kind = tiff.number(entries[NEW_SUBFILE_TYPE] + 8, 4) if NEW_SUBFILE_TYPE in entries else 0
        found += not kind & REDUCED_OR_MASK
        start = tiff.number(following, 4)
    return max(1, found)


def renewed(exif: bytes, width: int, height: int) -> bytes:
    """EXIF data for a picture that has been turned upright, restored and enlarged.

    They say so: orientation 1, its size, and no thumbnail, which would show it as it was.

    Returns:
        nothing where they are damaged.
    """
    exif = exif.removeprefix(b"Exif\x00\x00")  # as JPEGs mark them, and some WebPs
    tiff = _Tiff(exif)
    entries, following = tiff.directory(tiff.number(4, 4))
    if exif[:4] not in STARTS or following + 4 > len(exif):
        return b""
    tiff.put(following, 0, 4)
    for tags in (entries, *_below(tiff, entries)):
        if ORIENTATION in tags:
            tiff.put(tags[ORIENTATION] + 8, 1, 2)
        for pair in SIZES:
            for tag, side in zip(pair, (width, height), strict=True):
                size = {SHORT: 2, LONG: 4}.get(tiff.number(tags[tag] + 2, 2)) if tag in tags else 0
                if size and side < 1 << 8 * size:
                    tiff.put(tags[tag] + 8, side, size)
    return bytes(tiff.data)


def _below(tiff: _Tiff, entries: dict[int, int]) -> Iterator[dict[int, int]]:
    """The directory of EXIF's own tags, where there is a whole one."""
    if EXIF_DIRECTORY in entries:
        below, end = tiff.directory(tiff.number(entries[EXIF_DIRECTORY] + 8, 4))
        if end <= len(tiff.data):
            yield below
