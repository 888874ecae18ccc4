"""The directories of a TIFF file, and of EXIF data, which are a small one.

TIFF 6.0, section 2: a header tells the byte order and where the first directory is; a directory
is a count, as many entries of 12 bytes (tag, type, count, value), and where the next one is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Buffer = bytes | bytearray | memoryview

STARTS = (b"II*\x00", b"MM\x00*")
HEADER_SIZE = 8
ORIENTATION = 0x0112
# Width and height: of a directory's picture (TIFF), and of the one it tells about (EXIF 2.3).
WIDTHS, HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
EXIF_DIRECTORY = 0x8769  # where EXIF's own tags are
THUMBNAIL, JPEG = (0x0201, 0x0202), b"\xff\xd8"  # where it begins and its size; how it begins
SHORT, LONG = 3, 4  # types of values, of 2 and 4 bytes
# NewSubfileType: bit 0 a reduced version of another page, bit 2 its mask.
PHOTOMETRIC, SEPARATED = 0x0106, 5  # what the channels are; inks, as CMYK
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 0x00FE, 0b101
MOST_TAGS, MOST_PAGES = 500, 1000  # of a page, and counted; a crafted file has no end of them


@dataclass(frozen=True)
class _Directory:
    """Where the entry of each tag is, and where is told where the next directory is."""

    entries: dict[int, int]
    end: int


class _Tiff:
    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], self.order)

    def directory(self, start: int) -> _Directory | None:
        """The directory there, unless it is none or reaches beyond the data."""
        count = self.number(start, 2)
        end = start + 2 + 12 * count
        if start < HEADER_SIZE or count > MOST_TAGS or end > len(self.data):
            return None
        return _Directory({self.number(at, 2): at for at in range(start + 2, end, 12)}, end)


def pages(data: Buffer) -> int:
    """The pages of a TIFF file, without thumbnails and masks; 1 of one that is damaged."""
    tiff = _Tiff(data)
    found, seen, start = 0, set[int](), tiff.number(4, 4)
    while start not in seen and len(seen) < MOST_PAGES and (page := tiff.directory(start)):
        seen.add(start)
        entry = page.entries.get(NEW_SUBFILE_TYPE)
        found += entry is None or not tiff.number(entry + 8, 4) & REDUCED_OR_MASK
        start = tiff.number(page.end, 4)
    return max(1, found)


def is_separated(data: Buffer) -> bool:
    """Whether the first page of a TIFF file is of inks (CMYK), which OpenCV gives as RGBA."""
    tiff = _Tiff(data)
    page = tiff.directory(tiff.number(4, 4))
    entry = page.entries.get(PHOTOMETRIC) if page else None
    return entry is not None and tiff.number(entry + 8, 2) == SEPARATED


def renewed(exif: bytes, width: int, height: int) -> bytes:
    """EXIF data for a picture that has been turned upright, restored and enlarged.

    They say so: orientation 1, its size, and no thumbnail, which would show it as it was.

    Returns:
        nothing where they are damaged.
    """
    data = bytearray(exif.removeprefix(b"Exif\x00\x00"))  # as JPEGs mark them, and some WebPs
    tiff = _Tiff(data)
    main = tiff.directory(tiff.number(4, 4))
    if not data.startswith(STARTS) or main is None:
        return b""
    values = {ORIENTATION: (SHORT, 1)}
    values |= dict.fromkeys(WIDTHS, (LONG, width)) | dict.fromkeys(HEIGHTS, (LONG, height))
    own = main.entries.get(EXIF_DIRECTORY)
    below = None if own is None else tiff.directory(tiff.number(own + 8, 4))
    for directory in (main, below) if below else (main,):
        for tag in values.keys() & directory.entries.keys():
            at, (kind, value) = directory.entries[tag], values[tag]
            size = 2 if kind == SHORT else 4
            data[at + 2 : at + 4] = kind.to_bytes(2, tiff.order)
            data[at + 4 : at + 8] = (1).to_bytes(4, tiff.order)
            data[at + 8 : at + 12] = value.to_bytes(size, tiff.order).ljust(4, b"\x00")
    if main.end + 4 <= len(data):
        thumbnail = tiff.directory(tiff.number(main.end, 4))
        if thumbnail and all(tag in thumbnail.entries for tag in THUMBNAIL):
            start, size = (tiff.number(thumbnail.entries[tag] + 8, 4) for tag in THUMBNAIL)
            if data[start : start + 2] == JPEG and start + size <= len(data):
                data[start : start + size] = bytes(size)
        data[main.end : main.end + 4] = bytes(4)
    return bytes(data)
