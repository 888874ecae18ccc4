"""AVIF and HEIC files: pictures coded by libaom and x265, in boxes written by ISO/IEC 23008-12."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.jpeg2000 import box

AV1, HEVC = b"av01", b"hvc1"
BRANDS = {AV1: b"avif", HEVC: b"heic"}
AUXILIARY_ALPHA = {
    AV1: b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0",
    HEVC: b"urn:mpeg:hevc:2015:auxid:1\0",
}


@dataclass(frozen=True)
class Coded:
    """One coded picture.

    Attributes:
        kind: `AV1` or `HEVC`.
        data: what the file holds of it.
        properties: av1C or hvcC, and colr if it has one that says how colours are coded.
    """

    kind: bytes
    data: bytes
    properties: tuple[bytes, ...]
    width: int
    height: int
    bits: int
    channels: int


@dataclass
class Item:
    """An item of a file.

    Attributes:
        properties: each with whether it is essential.
        refers: kinds of references and items.
    """

    kind: bytes
    data: bytes
    properties: list[tuple[bytes, bool]]
    refers: list[tuple[bytes, tuple[int, ...]]] = field(default_factory=list)


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _found(data: bytes, *path: bytes) -> bytes:
    """The content of the first box of a path."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == path[0]:
            inside = data[at + (12 if kind == b"meta" else 8) : at + length]
            return inside if len(path) == 1 else _found(inside, *path[1:])
        at += length
    raise KeyError(path)


def coded(samples: NDArray[np.uint32], bits: int, kind: bytes) -> Coded:
    """(H, W, 1 or 3) coded by itself, AV1 without loss.

    libaom: RGB as it is (matrix 0). x265: YCbCr of full range, 4:4:4, nearly without loss.
    """
    channels = samples.shape[2]
    if kind == AV1:
        import imagecodecs

        given = samples.astype(np.uint16 if bits > 8 else np.uint8)
        data = imagecodecs.avif_encode(
            given[:, :, 0] if channels == 1 else given, 100, bitspersample=bits,
            pixelformat="400" if channels == 1 else "444", speed=10,
            **({"matrix": 0, "primaries": 1, "transfer": 13} if channels == 3 else {}),
        )  # fmt: skip
        names = (b"av1C", b"colr")
    else:
        data = _by_x265(samples, bits)
        names = (b"hvcC", b"colr", b"clap")  # it codes even sizes, and crops
    properties = _found(data, b"meta", b"iprp", b"ipco")
    kept = tuple(box(name, _found(properties, name)) for name in names if name in properties)
    width, height = struct.unpack(">4xII", _found(properties, b"ispe"))
    return Coded(kind, _found(data, b"mdat"), kept, width, height, bits, channels)


def _by_x265(samples: NDArray[np.uint32], bits: int) -> bytes:
    import pillow_heif

    height, width, channels = samples.shape
    mode = {(1, 8): "L", (3, 8): "RGB", (1, 10): "L;16", (3, 10): "RGB;16", (1, 12): "L;16",
            (3, 12): "RGB;16"}[channels, bits]  # fmt: skip
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    stored = samples << (16 - bits) if bits > 8 else samples
    raw = stored.astype(np.uint16 if bits > 8 else np.uint8).tobytes()
    file = io.BytesIO()
    image = pillow_heif.from_bytes(mode, (width, height), raw)
    image.save(file, quality=-1, chroma=444, matrix_coefficients=0 if channels == 3 else 6)
    return file.getvalue()


def item(picture: Coded, *properties: tuple[bytes, bool]) -> Item:
    """A coded picture as an item, with more properties in the order in which they act."""
    bits = bytes((picture.channels, *(picture.bits,) * picture.channels))
    own = [
        (full_box(b"ispe", struct.pack(">II", picture.width, picture.height)), False),
        (full_box(b"pixi", bits), False),
        *((one, one[4:8] in (b"av1C", b"hvcC", b"clap")) for one in picture.properties),
    ]
    return Item(picture.kind, picture.data, [*own, *properties])


def turn(quarters: int) -> tuple[bytes, bool]:
    """So many turns by 90°, against the clock."""
    return box(b"irot", bytes((quarters,))), True


def mirror(axis: int) -> tuple[bytes, bool]:
    """0: top and bottom are exchanged; 1: left and right are."""
    return box(b"imir", bytes((axis,))), True


def crop(width: int, height: int, across: tuple[int, int], down: tuple[int, int]) -> tuple[bytes, bool]:
    """A clean aperture; its centre's offsets from the picture's are fractions."""
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, *across, *down)), True


def colour(*code: int, profile: bytes = b"") -> tuple[bytes, bool]:
    """How colours are coded: primaries, transfer, matrix, full range; or an ICC profile."""
    if profile:
        return box(b"colr", b"prof", profile), False
    return box(b"colr", b"nclx", struct.pack(">HHHB", *code[:3], code[3] << 7)), False


def alpha(picture: Coded) -> Item:
    """An alpha plane of item 1."""
    made = item(picture, (full_box(b"auxC", AUXILIARY_ALPHA[picture.kind]), True))
    made.refers.append((b"auxl", (1,)))
    return made


def exif_item(content: bytes) -> Item:
    return Item(b"Exif", struct.pack(">I", 0) + content, [], [(b"cdsc", (1,))])


def grid(rows: int, columns: int, width: int, height: int, tiles: list[Coded]) -> list[Item]:
    """A picture of tiles as item 1, and its tiles."""
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    bits = bytes((tiles[0].channels, *(tiles[0].bits,) * tiles[0].channels))
    colours = [(one, False) for one in tiles[0].properties if one[4:8] == b"colr"]
    own = [(full_box(b"ispe", struct.pack(">II", width, height)), False),
           (full_box(b"pixi", bits), False), *colours]  # fmt: skip
    whole = Item(b"grid", layout, own, [(b"dimg", tuple(range(2, len(tiles) + 2)))])
    return [whole, *map(item, tiles)]


def written(brand: bytes, items: list[Item], primary: int = 1) -> bytes:
    """A file of items with the identifiers 1, 2 and so on; `primary` is the picture."""
    properties: list[bytes] = []
    for one in items:
        properties += [content for content, _ in one.properties if content not in properties]
    uses = b""
    for number, one in enumerate(items, 1):
        listed = bytes(
            properties.index(content) + 1 | essential << 7 for content, essential in one.properties
        )
        uses += struct.pack(">HB", number, len(listed)) + listed
    described = [
        full_box(b"infe", struct.pack(">HH4s", number, 0, one.kind), b"\0", version=2,
                 flags=number > 1 and one.kind in (AV1, HEVC))
        for number, one in enumerate(items, 1)
    ]  # fmt: skip
    references = [
        box(kind, struct.pack(f">HH{len(to)}H", number, len(to), *to))
        for number, one in enumerate(items, 1)
        for kind, to in one.refers
    ]
    start = box(b"ftyp", brand, bytes(4), brand, b"mif1", b"miaf")

    def meta(at: int) -> bytes:
        places, begin = b"", at
        for number, one in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, begin, len(one.data))
            begin += len(one.data)
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(12), b"\0"),
            full_box(b"pitm", struct.pack(">H", primary)),
            full_box(b"iloc", struct.pack(">HH", 0x4400, len(items)), places),
            full_box(b"iinf", struct.pack(">H", len(described)), *described),
            *([full_box(b"iref", *references)] if references else []),
            box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", struct.pack(">I", len(items)), uses)),
        )  # fmt: skip

    head = start + meta(len(start) + len(meta(0)) + 8)
    return head + box(b"mdat", *(one.data for one in items))
