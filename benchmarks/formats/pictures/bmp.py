"""BMP files, written as Microsoft documents them (BITMAPINFOHEADER, BITMAPV4HEADER)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import SIZES, Sample, Wanted, content, packed, quantised

PLAIN, RLE8, RLE4, FIELDS = range(4)
Samples = NDArray[np.uint32]
MASKS_565, MASKS_555 = (0xF800, 0x07E0, 0x1F), (0x7C00, 0x03E0, 0x1F)
MASKS_888 = (0xFF0000, 0xFF00, 0xFF)


def bmp(
    rows: list[bytes],
    width: int,
    bits: int,
    *,
    compression: int = PLAIN,
    palette: Samples | None = None,
    masks: tuple[int, ...] = (),
    header: int = 40,
    downwards: bool = False,
) -> bytes:
    """A file.

    Args:
        rows: from above.
        palette: (colours, 3) RGB.
        masks: of red, green, blue and alpha.
        header: bytes of the header: 12, 40, 52, 56, 108 or 124.
        downwards: store the rows from above, which a negative height states.
    """
    height = len(rows)
    stored = rows if downwards else rows[::-1]
    data = b"".join(stored if compression in (RLE8, RLE4) else map(_padded, stored))
    table = b""
    if palette is not None:
        ending = b"" if header == 12 else b"\0"
        table = b"".join(bytes((b, g, r)) + ending for r, g, b in palette.tolist())
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        signed = -height if downwards else height
        info = struct.pack("<IiiHHIIiiII", header, width, signed, 1, bits, compression, len(data),
                           0, 0, 0 if palette is None else len(palette), 0)  # fmt: skip
        fields = struct.pack(f"<{len(masks)}I", *masks)
        info = (info + fields).ljust(header, b"\0")  # after a header of 40 bytes too
    start = 14 + len(info) + len(table)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + table + data


def _padded(row: bytes) -> bytes:
    return row + bytes(-len(row) % 4)


def samples() -> Iterator[Sample]:
    yield from _palettes()
    yield from _true_colour()
    yield from _fields()
    yield from _run_lengths()
    yield from _refused()


def _table(bits: int) -> Samples:
    return np.random.default_rng(bits).integers(0, 256, (2**bits, 3)).astype(np.uint32)


def _palettes() -> Iterator[Sample]:
    for bits in (1, 4, 8):
        for size in SIZES:
            stored = quantised(content(1, size), bits)[:, :, 0]
            rows = [packed(row[None], bits) for row in stored]
            table = _table(bits)
            wanted = Wanted(table[stored] / 255)
            axes = {"colours": "palette", "depth": str(bits), "size": size}
            for layout, options in (("plain", {}), ("downwards", {"downwards": True}),
                                    ("OS/2", {"header": 12})):  # fmt: skip
                data = bmp(rows, stored.shape[1], bits, palette=table, **options)  # type: ignore[arg-type]
                yield Sample("BMP", layout, data, wanted, axes)


def _true_colour() -> Iterator[Sample]:
    for size in SIZES:
        stored = quantised(content(3, size), 8)
        rows = [row[:, ::-1].astype(np.uint8).tobytes() for row in stored]
        wanted = Wanted(stored / 255)
        for layout, options in (("plain", {}), ("downwards", {"downwards": True}),
                                ("OS/2", {"header": 12}), ("version 4", {"header": 108}),
                                ("version 5", {"header": 124})):  # fmt: skip
            data = bmp(rows, stored.shape[1], 24, **options)  # type: ignore[arg-type]
            yield Sample("BMP", layout, data, wanted, {"depth": "24", "size": size})
        # Of 32 bits without masks the fourth byte is unused, whatever it holds.
        for fourth in (0, 77, 255):
            four = np.dstack((stored[:, :, ::-1], np.full(stored.shape[:2], fourth)))
            rows32 = [row.astype(np.uint8).tobytes() for row in four]
            data = bmp(rows32, stored.shape[1], 32)
            axes = {"depth": "32", "size": size}
            yield Sample("BMP", f"fourth byte {fourth}", data, wanted, axes)


def _fields() -> Iterator[Sample]:
    for masks, bits, header in (
        (MASKS_565, 16, 40),
        (MASKS_555, 16, 40),
        (MASKS_565, 16, 56),
        (MASKS_888, 32, 40),
        ((0xFF, 0xFF00, 0xFF0000), 32, 40),
        ((0xFF000000, 0xFF0000, 0xFF00), 32, 40),
        ((*MASKS_888, 0xFF000000), 32, 56),
        ((*MASKS_888, 0xFF000000), 32, 108),
        ((*MASKS_888, 0xFF000000), 32, 124),
        ((0xFF, 0xFF00, 0xFF0000, 0xFF000000), 32, 108),
        ((0x7C00, 0x03E0, 0x1F, 0x8000), 16, 56),
        ((0x0F00, 0xF0, 0x0F, 0xF000), 16, 108),
        ((0x3FF00000, 0xFFC00, 0x3FF), 32, 40),
    ):
        values = content(len(masks))
        whole = np.zeros(values.shape[:2], np.uint32)
        right = np.zeros_like(values)
        for n, mask in enumerate(masks):
            width = mask.bit_count()
            level = quantised(values[:, :, n], width)
            shift = (mask & -mask).bit_length() - 1
            whole |= level << np.uint32(shift)
            right[:, :, n] = level / (2**width - 1)
        rows = [row.astype(f"<u{bits // 8}").tobytes() for row in whole]
        data = bmp(rows, whole.shape[1], bits, compression=FIELDS, masks=masks, header=header)
        axes = {"depth": str(bits), "alpha": "straight" if len(masks) == 4 else ""}
        name = f"fields {' '.join(f'{mask:x}' for mask in masks)}, header of {header}"
        yield Sample("BMP", name, data, Wanted(right, within=0.51), axes)
    stored = quantised(content(3), 5)
    whole = (stored << np.array([10, 5, 0], np.uint32)).sum(2)
    rows = [row.astype("<u2").tobytes() for row in whole]
    wanted = Wanted(stored / 31, within=0.51)
    yield Sample("BMP", "plain", bmp(rows, 37, 16), wanted, {"depth": "16"})


def _run_lengths() -> Iterator[Sample]:
    for bits, compression in ((8, RLE8), (4, RLE4)):
        stored = quantised(content(1), bits)[:, :, 0] // 3 * 3  # with runs
        rows = [_runs(row.tolist(), bits) + b"\0\0" for row in stored]
        rows[0] = rows[0][:-2] + b"\0\1"  # the file's last row ends the picture
        table = _table(bits)
        data = bmp(rows, 37, bits, compression=compression, palette=table)
        axes = {"colours": "palette", "depth": str(bits)}
        yield Sample("BMP", "run lengths", data, Wanted(table[stored] / 255), axes)


def _runs(row: list[int], bits: int) -> bytes:
    """A row as encoded runs, and as an absolute run where three or more differ."""
    made, at = b"", 0
    if len(row) > 6:  # begin with pixels as they are
        made += bytes((0, 5))
        five = row[:5]
        if bits == 8:
            made += bytes(five) + b"\0"
        else:
            made += bytes((five[0] << 4 | five[1], five[2] << 4 | five[3], five[4] << 4, 0))
        at = 5
    while at < len(row):
        end = at
        while end < len(row) and row[end] == row[at] and end - at < 255:
            end += 1
        level = row[at] if bits == 8 else row[at] << 4 | row[at]
        made += bytes((end - at, level))
        at = end
    return made


def _refused() -> Iterator[Sample]:
    stored = quantised(content(3), 8)
    rows = [row[:, ::-1].astype(np.uint8).tobytes() for row in stored]
    whole = bmp(rows, 37, 24)
    yield Sample("BMP", "cut off", whole[: len(whole) // 2], "damaged", {"depth": "24"})
    forged = whole[:18] + struct.pack("<ii", 40_000, 40_000) + whole[26:]
    axes = {"depth": "24", "size": "40000×40000"}
    yield Sample("BMP", "forged size", forged, "larger than", axes)
    for compression, name in ((4, "JPEG"), (5, "PNG")):
        data = bmp(rows, 37, 24, compression=compression)
        yield Sample("BMP", f"{name} inside", data, name, {"depth": "24"})
