"""PNG files, written by the specification (PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import (
    ORIENTATIONS,
    SIZES,
    Sample,
    Values,
    Wanted,
    content,
    exif,
    grey_profile,
    packed,
    quantised,
    srgb,
    upright,
)

START = b"\x89PNG\r\n\x1a\n"
COLOURS = {"grey": (0, 1), "RGB": (2, 3), "grey and alpha": (4, 2), "RGB and alpha": (6, 4)}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 4: (8, 16), 6: (8, 16)}
# First column and row, and steps, of the seven passes (8.1).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2))  # fmt: skip


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checked)


def png(
    samples: NDArray[np.uint32],
    bits: int,
    colour: int,
    before: Iterable[tuple[bytes, bytes]] = (),
    interlaced: bool = False,
) -> bytes:
    """A file.

    Args:
        samples: (H, W, channels).
        before: chunks between the header and the pixels.
    """
    height, width = samples.shape[:2]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for x, y, across, down in passes:
        part = samples[y::down, x::across]
        if part.size:
            lines = packed(part.reshape(len(part), -1), bits)
            length = len(lines) // len(part)
            rows += b"".join(
                b"\0" + lines[at : at + length] for at in range(0, len(lines), length)
            )
    header = struct.pack(">II5B", width, height, bits, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return START + b"".join(chunk(*one) for one in chunks)


def samples() -> Iterator[Sample]:
    yield from _layouts()
    yield from _palettes()
    yield from _transparent_colours()
    yield from _turned()
    yield from _profiles()
    yield from _refused()


def _layouts() -> Iterator[Sample]:
    for colours, (colour, channels) in COLOURS.items():
        for bits in DEPTHS[colour]:
            for size in SIZES:
                stored = quantised(content(channels, size), bits)
                wanted = Wanted(stored / (2**bits - 1), max(8, bits))
                axes = {"colours": colours, "depth": str(bits), "size": size}
                yield Sample("PNG", "plain", png(stored, bits, colour), wanted, axes)
                laced = png(stored, bits, colour, interlaced=True)
                yield Sample("PNG", "interlaced", laced, wanted, axes)


def palette(bits: int) -> NDArray[np.uint32]:
    """(colours, 3) of 8 bits."""
    return np.random.default_rng(bits).integers(0, 256, (2**bits, 3)).astype(np.uint32)


def _palettes() -> Iterator[Sample]:
    for bits in (1, 2, 4, 8):
        table = palette(bits)
        stored = quantised(content(1), bits)
        colours = table[stored[:, :, 0]] / 255
        start = [(b"PLTE", table.astype(np.uint8).tobytes())]
        axes = {"colours": "palette", "depth": str(bits)}
        yield Sample("PNG", "plain", png(stored, bits, 3, start), Wanted(colours), axes)
        veil = np.linspace(0, 255, 2 ** (bits - 1) + 1).astype(np.uint8)  # the rest is opaque
        alphas = np.append(veil, np.full(2**bits, 255))[stored[:, :, 0]] / 255
        data = png(stored, bits, 3, [*start, (b"tRNS", veil.tobytes())], bits == 4)
        wanted = Wanted(np.dstack((colours, alphas)))
        yield Sample("PNG", "tRNS", data, wanted, axes | {"alpha": "of the palette"})


def _transparent_colours() -> Iterator[Sample]:
    for name, colour, channels in (("grey", 0, 1), ("RGB", 2, 3)):
        for bits in DEPTHS[colour]:
            stored = quantised(content(channels), bits)
            clear = stored[5, 7]
            through = (stored == clear).all(2)
            values = np.dstack((stored / (2**bits - 1), ~through))
            start = [(b"tRNS", struct.pack(f">{channels}H", *clear))]
            axes = {"colours": name, "depth": str(bits), "alpha": "one colour"}
            data = png(stored, bits, colour, start)
            yield Sample("PNG", "tRNS", data, Wanted(values, max(8, bits)), axes)


def _turned() -> Iterator[Sample]:
    for orientation in ORIENTATIONS:
        for colours, bits, order in (("RGB", 8, "<"), ("grey and alpha", 16, ">")):
            colour, channels = COLOURS[colours]
            stored = quantised(content(channels), bits)
            data = png(stored, bits, colour, [(b"eXIf", exif(orientation, order))])
            values: Values = upright(stored / (2**bits - 1), orientation)
            axes = {"colours": colours, "depth": str(bits), "orientation": str(orientation)}
            yield Sample("PNG", f"eXIf {order}", data, Wanted(values, bits), axes)


def _profiles() -> Iterator[Sample]:
    for colours, made in (("RGB", srgb()), ("grey", grey_profile())):
        colour, channels = COLOURS[colours]
        for bits in (8, 16):
            stored = quantised(content(channels), bits)
            entry = b"made\0\0" + zlib.compress(made)
            data = png(stored, bits, colour, [(b"iCCP", entry)])
            wanted = Wanted(stored / (2**bits - 1), bits, profile=made)
            axes = {"colours": colours, "depth": str(bits), "profile": "ICC"}
            yield Sample("PNG", "iCCP", data, wanted, axes)
    stored = quantised(content(3), 8)
    dense = [(b"pHYs", struct.pack(">IIB", 11811, 5906, 1))]  # 300 and 150 an inch
    wanted = Wanted(stored / 255, resolution=(300, 150))
    yield Sample("PNG", "pHYs", png(stored, 8, 2, dense), wanted, {"colours": "RGB", "depth": "8"})
    for layout, chunks in (
        ("sRGB", [(b"sRGB", b"\0")]),
        ("gAMA of sRGB", [(b"gAMA", struct.pack(">I", 45455))]),
        ("cICP of sRGB", [(b"cICP", bytes((1, 13, 0, 1)))]),
    ):
        data = png(stored, 8, 2, chunks)
        axes = {"colours": "RGB", "depth": "8", "profile": "sRGB"}
        yield Sample("PNG", layout, data, Wanted(stored / 255), axes)


def _refused() -> Iterator[Sample]:
    stored = quantised(content(3), 8)
    axes = {"colours": "RGB", "depth": "8"}
    control = [(b"acTL", struct.pack(">II", 2, 0))]
    yield Sample("PNG", "animated", png(stored, 8, 2, control), "is animated", axes)
    whole = png(stored, 8, 2)
    yield Sample("PNG", "cut off", whole[: len(whole) // 2], "damaged", axes)
    header = chunk(b"IHDR", struct.pack(">II5B", 40_000, 40_000, 8, 2, 0, 0, 0))
    forged = START + header + whole[33:]
    yield Sample("PNG", "forged size", forged, "is larger than", axes | {"size": "40000×40000"})
