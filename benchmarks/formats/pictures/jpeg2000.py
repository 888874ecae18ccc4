"""JPEG 2000: codestreams by OpenJPEG (imagecodecs, Pillow), in JP2 boxes by ISO/IEC 15444-1, I."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import (
    SIZES,
    Sample,
    Values,
    Wanted,
    content,
    grey_profile,
    quantised,
    srgb,
)

SRGB, GREY, SYCC, CMYK, LAB = 16, 17, 18, 12, 14  # EnumCS
DEPTHS = (1, 2, 4, 7, 8, 9, 10, 12, 14, 15, 16)


def codestream(samples: NDArray[np.uint32], bits: int) -> bytes:
    """Lossless."""
    import imagecodecs

    given = samples.astype(np.uint16 if bits > 8 else np.uint8)
    given = given[:, :, 0] if given.shape[2] == 1 else given
    return imagecodecs.jpeg2k_encode(
        np.ascontiguousarray(given), 0, codecformat="j2k", bitspersample=bits, reversible=True,
        mct=samples.shape[2] == 3,
    )  # fmt: skip


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", len(content) + 8, kind) + content


def jp2(
    stream: bytes,
    space: int | bytes,
    definitions: tuple[tuple[int, int, int], ...] = (),
    palette: NDArray[np.uint32] | None = None,
    more: bytes = b"",
) -> bytes:
    """A file.

    Args:
        space: an enumerated colour space, or an ICC profile.
        definitions: channel, type (0 colour, 1 opacity, 2 premultiplied opacity), and colour.
        palette: (colours, 3) of 8 bits.
        more: boxes in the header.
    """
    at = stream.index(b"\xff\x51")
    width, height = struct.unpack_from(">II", stream, at + 6)
    channels, bits = struct.unpack_from(">HB", stream, at + 38)
    header = box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, bits, 7, 0, 0))
    if isinstance(space, int):
        header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, space))
    else:
        header += box(b"colr", b"\2\0\0", space)
    if palette is not None:
        table = palette.astype(np.uint8).tobytes()
        header += box(b"pclr", struct.pack(">HB3B", len(palette), 3, 7, 7, 7), table)
        header += box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, n) for n in range(3)))
    if definitions:
        listed = b"".join(struct.pack(">3H", *one) for one in definitions)
        header += box(b"cdef", struct.pack(">H", len(definitions)), listed)
    return (
        box(b"jP  ", b"\r\n\x87\n")
        + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", header, more)
        + box(b"jp2c", stream)
    )


def samples() -> Iterator[Sample]:
    yield from _plain()
    yield from _alpha()
    yield from _described()
    yield from _others()


def _plain() -> Iterator[Sample]:
    for colours, channels, space in (("grey", 1, GREY), ("RGB", 3, SRGB)):
        for bits in DEPTHS:
            for size in SIZES if bits in (8, 16) else ("37×23",):
                stored = quantised(content(channels, size), bits)
                stream = codestream(stored, bits)
                wanted: Wanted | str = Wanted(stored / (2**bits - 1), 8 if bits <= 8 else 16)
                if bits < 8:
                    wanted = f"{bits} bit"
                axes = {"colours": colours, "depth": str(bits), "size": size}
                yield Sample("JPEG 2000", "JP2", jp2(stream, space), wanted, axes)
                yield Sample("JPEG 2000", "codestream", stream, wanted, axes)


def _alpha() -> Iterator[Sample]:
    for colours, channels, space in (("grey", 1, GREY), ("RGB", 3, SRGB)):
        for bits in (8, 12, 16):
            stored = quantised(content(channels + 1), bits)
            stream = codestream(stored, bits)
            colour = tuple((n, 0, n + 1) for n in range(channels))
            right: Values = stored / (2**bits - 1)
            for alpha, kind in (("straight", 1), ("premultiplied", 2)):
                data = jp2(stream, space, (*colour, (channels, kind, 0)))
                axes = {"colours": colours, "depth": str(bits), "alpha": alpha}
                wanted: Wanted | str = Wanted(right, 8 if bits == 8 else 16)
                yield Sample("JPEG 2000", "JP2", data, wanted if kind == 1 else "premult", axes)
            data = jp2(stream, space, (*colour, (channels, 65535, 65535)))
            wanted = Wanted(right[:, :, :-1], 8 if bits == 8 else 16)
            axes = {"colours": colours, "depth": str(bits), "alpha": "unspecified"}
            yield Sample("JPEG 2000", "JP2", data, wanted, axes)


def _described() -> Iterator[Sample]:
    for colours, channels, profile in (("RGB", 3, srgb()), ("grey", 1, grey_profile())):
        stored = quantised(content(channels), 8)
        data = jp2(codestream(stored, 8), profile)
        wanted = Wanted(stored / 255, profile=profile)
        axes = {"colours": colours, "profile": "ICC"}
        yield Sample("JPEG 2000", "JP2", data, wanted, axes)
    stored = quantised(content(3), 8)
    a_metre = struct.pack(">HHHHBB", 11811, 1, 11811, 1, 0, 0)
    data = jp2(codestream(stored, 8), SRGB, more=box(b"res ", box(b"resc", a_metre)))
    yield Sample("JPEG 2000", "resolution", data, Wanted(stored / 255, resolution=(300, 300)))


def _others() -> Iterator[Sample]:
    from PIL import Image

    table = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint32)
    stored = quantised(content(1), 8)
    data = jp2(codestream(stored, 8), SRGB, palette=table)
    axes = {"colours": "palette"}
    yield Sample("JPEG 2000", "JP2", data, Wanted(table[stored[:, :, 0]] / 255), axes)
    pixels = quantised(content(3), 8)
    swapped = ((0, 0, 3), (1, 0, 2), (2, 0, 1))
    data = jp2(codestream(pixels[:, :, ::-1], 8), SRGB, swapped)
    yield Sample("JPEG 2000", "blue first", data, Wanted(pixels / 255))
    ycc = np.asarray(Image.fromarray(pixels.astype(np.uint8)).convert("YCbCr"))
    data = jp2(codestream(ycc.astype(np.uint32), 8), SYCC)
    right = np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB")) / 255
    yield Sample("JPEG 2000", "JP2", data, Wanted(right, within=2.1), {"colours": "sYCC"})
    four = quantised(content(4), 8)
    for name, space, channels in (("CMYK", CMYK, 4), ("L*a*b*", LAB, 3)):
        data = jp2(codestream(four[:, :, :channels], 8), space)
        yield Sample("JPEG 2000", "JP2", data, "colour", {"colours": name})
    two = quantised(content(2), 8)
    yield Sample("JPEG 2000", "codestream", codestream(two, 8), "2 channels",
                 {"colours": "2 channels"})  # fmt: skip
    five = quantised(content(5), 8)
    yield Sample("JPEG 2000", "codestream", codestream(five, 8), "5 channels",
                 {"colours": "5 channels"})  # fmt: skip
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG2000", signed=True)
    yield Sample("JPEG 2000", "JP2", file.getvalue(), "signed", {"depth": "8 signed"})
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG2000", tile_size=(16, 16))
    yield Sample("JPEG 2000", "tiles", file.getvalue(), Wanted(pixels / 255))
    whole = jp2(codestream(pixels, 8), SRGB)
    yield Sample("JPEG 2000", "cut off", whole[: len(whole) // 2], "damaged")
    at = whole.index(b"\xff\x51") + 6
    forged = whole[:at] + struct.pack(">II", 40_000, 40_000) + whole[at + 8 :]
    yield Sample("JPEG 2000", "forged size", forged, "larger than", {"size": "40000×40000"})
    offset = _offset(codestream(pixels, 8))
    yield Sample("JPEG 2000", "forged offset", offset, "damaged")


def _offset(stream: bytes) -> bytes:
    """A codestream whose image begins right of its end."""
    at = stream.index(b"\xff\x51") + 14
    return stream[:at] + struct.pack(">II", 40, 0) + stream[at + 8 :]
