"""TIFF files, written by the specification (TIFF 6.0), and compressed ones by Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import (
    ORIENTATIONS,
    SIZES,
    Sample,
    Values,
    Wanted,
    content,
    packed,
    quantised,
    srgb,
    upright,
)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, SEPARATED, YCBCR, LAB, ICC_LAB = (
    *range(7),
    *(8, 9),
)
PACKINGS = ("lzw", "packbits", "zlib", "lzma", "zstd", "lerc", "jpegxl", "jpeg2000", "webp", "png")
RAW, LINEAR_RAW = 32803, 34892
LEFT_OUT, PREMULTIPLIED, STRAIGHT = 0, 1, 2  # ExtraSamples: unspecified, associated, unassociated
SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
Tags = Mapping[int, tuple[int, bytes | tuple[int, ...]]]  # type and values


def tiff(
    samples: NDArray[Any],
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    planar: bool = False,
    extra: tuple[int, ...] = (),
    kind: int = 1,
    tags: Tags | None = None,
    pages: int = 1,
) -> bytes:
    """A file in strips of all rows, without compression.

    Args:
        samples: (H, W, channels).
        order: of its bytes.
        planar: one plane of each channel after the other.
        extra: ExtraSamples.
        kind: SampleFormat: 1 unsigned, 2 signed, 3 floating point.
        tags: more tags, or others.
        pages: how often it is there.
    """
    height, width, channels = samples.shape
    if kind == 1 and bits <= 16:
        rows = np.moveaxis(samples, 2, 0) if planar else samples.reshape(1, height, -1)
        strips = [packed(plane, bits, order) for plane in rows]
    else:
        assert not planar
        strips = [samples.astype(samples.dtype.newbyteorder(order)).tobytes()]
    data = b"".join(strips)
    starts = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    entries: dict[int, tuple[int, bytes | tuple[int, ...]]] = {
        256: (LONG, (width,)),
        257: (LONG, (height,)),
        258: (SHORT, (bits,) * channels),
        259: (SHORT, (1,)),
        262: (SHORT, (photometric,)),
        273: (LONG, tuple(starts)),
        277: (SHORT, (channels,)),
        278: (LONG, (height,)),
        279: (LONG, tuple(map(len, strips))),
        284: (SHORT, (2 if planar else 1,)),
        339: (SHORT, (kind,) * channels),
        **({338: (SHORT, extra)} if extra else {}),
        **(tags or {}),
    }
    body = b""
    at = 8 + len(data) + len(data) % 2
    for page in range(pages):
        made = _directory(entries, order, at + len(body), last=page == pages - 1)
        body += made
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return start + struct.pack(f"{order}I", at) + data + bytes(len(data) % 2) + body


def _directory(entries: Tags, order: str, at: int, last: bool) -> bytes:
    """A directory with the values that do not fit in it after it."""
    codes = {SHORT: "H", LONG: "I", RATIONAL: "I"}
    table, values = b"", b""
    end = at + 2 + 12 * len(entries) + 4
    for tag, (kind, value) in sorted(entries.items()):
        if isinstance(value, bytes):
            content, count = value, len(value)
        else:
            content = struct.pack(f"{order}{len(value)}{codes[kind]}", *value)
            count = len(value) // (2 if kind == RATIONAL else 1)
        if len(content) > 4:
            content += bytes(len(content) % 2)
            place = struct.pack(f"{order}I", end + len(values))
            values += content
        else:
            place = content.ljust(4, b"\0")
        table += struct.pack(f"{order}HHI", tag, kind, count) + place
    following = 0 if last else end + len(values)
    head = struct.pack(f"{order}H", len(entries))
    return head + table + struct.pack(f"{order}I", following) + values


def samples() -> Iterator[Sample]:
    yield from _plain()
    yield from _palettes()
    yield from _extra_samples()
    yield from _inks_and_lab()
    yield from _turned()
    yield from _described()
    yield from _compressed()
    yield from _refused()


def _plain() -> Iterator[Sample]:
    for colours, photometric, channels, depths in (
        ("grey", BLACK_IS_ZERO, 1, (1, 2, 4, 6, 8, 10, 12, 14, 16)),
        ("grey, white is 0", WHITE_IS_ZERO, 1, (1, 2, 4, 8, 12, 16)),
        ("RGB", RGB, 3, (2, 4, 8, 10, 12, 14, 16)),
    ):
        for bits in depths:
            for size in SIZES if bits in (1, 8, 16) else ("37×23",):
                for order in "<>":
                    stored = quantised(content(channels, size), bits)
                    values = stored / (2**bits - 1)
                    if photometric == WHITE_IS_ZERO:
                        values = 1 - values
                    axes = {"colours": colours, "depth": str(bits), "size": size}
                    wanted = Wanted(values, 8 if bits <= 8 else 16)
                    layout = {"<": "little endian", ">": "big endian"}[order]
                    data = tiff(stored, bits, photometric, order=order)
                    yield Sample("TIFF", layout, data, wanted, axes)
                    if channels == 3:
                        data = tiff(stored, bits, photometric, order=order, planar=True)
                        yield Sample("TIFF", f"planes, {layout}", data, wanted, axes)


def _palettes() -> Iterator[Sample]:
    for bits in (1, 2, 4, 8):
        table = np.random.default_rng(bits).integers(0, 65536, (3, 2**bits)).astype(np.uint32)
        table = table // 257 * 257  # as they are seen in 8 bits
        stored = quantised(content(1), bits)
        data = tiff(stored, bits, PALETTE, tags={320: (SHORT, tuple(table.ravel().tolist()))})
        wanted = Wanted(table.T[stored[:, :, 0]] / 65535)
        yield Sample("TIFF", "plain", data, wanted, {"colours": "palette", "depth": str(bits)})


def _extra_samples() -> Iterator[Sample]:
    names = {LEFT_OUT: "unspecified", PREMULTIPLIED: "premultiplied", STRAIGHT: "straight"}
    for colours, photometric, channels in (("grey", BLACK_IS_ZERO, 1), ("RGB", RGB, 3),
                                           ("grey, white is 0", WHITE_IS_ZERO, 1)):  # fmt: skip
        for bits in (8, 16):
            for kind, name in names.items():
                for planar in (False, True):
                    values = content(channels + 1)
                    alpha = values[:, :, -1:] = np.maximum(values[:, :, -1:], 0.25)
                    seen = 1 - values if photometric == WHITE_IS_ZERO else values
                    stored = values.copy()
                    if kind == PREMULTIPLIED:
                        shown = seen[:, :, :-1] * alpha
                        stored[:, :, :-1] = 1 - shown if photometric == WHITE_IS_ZERO else shown
                    whole = quantised(stored, bits)
                    data = tiff(whole, bits, photometric, extra=(kind,), planar=planar)
                    right = np.dstack((seen[:, :, :-1], alpha))
                    if kind == LEFT_OUT:
                        right = right[:, :, :-1]
                    axes = {"colours": colours, "depth": str(bits), "alpha": name}
                    # 8 bits of colour times 0.25 hold 6 bits of it.
                    wanted = Wanted(right, bits, 4.1 if bits == 8 else 0.02)
                    yield Sample("TIFF", "planes" if planar else "plain", data, wanted, axes)
    stored = quantised(content(4), 8)
    axes = {"colours": "RGB", "alpha": "not stated"}
    yield Sample("TIFF", "four samples", tiff(stored, 8, RGB), Wanted(stored / 255), axes)
    stored = quantised(content(5), 8)
    for extra, right in (
        ((STRAIGHT, LEFT_OUT), stored[:, :, :4] / 255),
        ((LEFT_OUT, STRAIGHT), stored[:, :, [0, 1, 2, 4]] / 255),
        ((LEFT_OUT, LEFT_OUT), stored[:, :, :3] / 255),
    ):
        data = tiff(stored, 8, RGB, extra=extra)
        axes = {"colours": "RGB", "alpha": " and ".join(names[kind] for kind in extra)}
        yield Sample("TIFF", "five samples", data, Wanted(right), axes)
    stored = quantised(content(3), 8)
    data = tiff(stored, 8, BLACK_IS_ZERO, extra=(STRAIGHT, LEFT_OUT))
    axes = {"colours": "grey", "alpha": "straight and unspecified"}
    yield Sample("TIFF", "three samples", data, Wanted(stored[:, :, :2] / 255), axes)


def _inks_and_lab() -> Iterator[Sample]:
    for bits in (8, 16):
        stored = quantised(content(4), bits)
        inks = stored / (2**bits - 1)
        values = (1 - inks[:, :, :3]) * (1 - inks[:, :, 3:])
        for planar in (False, True):
            data = tiff(stored, bits, SEPARATED, planar=planar)
            axes = {"colours": "CMYK", "depth": str(bits)}
            wanted = Wanted(values, bits, 1)
            yield Sample("TIFF", "planes" if planar else "plain", data, wanted, axes)
        veiled = quantised(content(5), bits)
        data = tiff(veiled, bits, SEPARATED, extra=(STRAIGHT,))
        inks = veiled / (2**bits - 1)
        values = np.dstack(((1 - inks[:, :, :3]) * (1 - inks[:, :, 3:4]), inks[:, :, 4]))
        axes = {"colours": "CMYK", "depth": str(bits), "alpha": "straight"}
        yield Sample("TIFF", "plain", data, Wanted(values, bits, 1), axes)
        yield from _lab(bits)
    stored = quantised(content(5), 8)
    data = tiff(stored, 8, SEPARATED, tags={332: (SHORT, (2,)), 334: (SHORT, (5,))})
    yield Sample("TIFF", "five inks", data, "inks", {"colours": "other inks"})


def _lab(bits: int) -> Iterator[Sample]:
    """CIE L*a*b* of D50 (TIFF 6.0, 23) and as ICC has it, with colours that sRGB holds."""
    from skimage.color import lab2rgb

    waves = content(3)
    lightness, a, b = 20 + 60 * waves[:, :, 0], 40 * waves[:, :, 1] - 20, 40 * waves[:, :, 2] - 20
    peak, unit = 2**bits - 1, 2 ** (bits - 8)
    light = np.round(lightness / 100 * peak)
    for layout, photometric in (("L*a*b*", LAB), ("L*a*b* as in ICC", ICC_LAB)):
        whole = np.round(np.stack((a, b), 2) * unit)
        offset = 128 * unit if photometric == ICC_LAB else 0
        stored = np.dstack((light, (whole + offset) % (peak + 1))).astype(np.uint32)
        exact = np.dstack((light / peak * 100, whole / unit))
        values = lab2rgb(exact, illuminant="D50")
        data = tiff(stored, bits, photometric)
        axes = {"colours": layout, "depth": str(bits)}
        yield Sample("TIFF", "plain", data, Wanted(values, bits, 2), axes)


def _turned() -> Iterator[Sample]:
    for orientation in ORIENTATIONS:
        for colours, photometric, channels, extra, bits in (
            ("RGB", RGB, 3, (), 8),
            ("grey", BLACK_IS_ZERO, 1, (), 1),
            ("RGB", RGB, 4, (STRAIGHT,), 16),
        ):
            stored = quantised(content(channels), bits)
            data = tiff(stored, bits, photometric, extra=extra,
                        tags={274: (SHORT, (orientation,))})  # fmt: skip
            right = upright(stored / (2**bits - 1), orientation)
            axes = {"colours": colours, "depth": str(bits), "orientation": str(orientation)}
            axes |= {"alpha": "straight"} if extra else {}
            yield Sample("TIFF", "plain", data, Wanted(right, max(8, bits)), axes)


def _described() -> Iterator[Sample]:
    stored = quantised(content(3), 8)
    axes = {"colours": "RGB", "depth": "8"}
    for layout, unit, stated, inch in (
        ("resolution by the inch", 2, (300, 150), (300, 150)),
        ("resolution by the centimetre", 3, (100, 50), (254, 127)),
        ("resolution without unit", 1, (300, 150), None),
    ):
        tags: Tags = {
            282: (RATIONAL, (stated[0], 1)),
            283: (RATIONAL, (stated[1], 1)),
            296: (SHORT, (unit,)),
        }
        wanted = Wanted(stored / 255, resolution=inch)
        yield Sample("TIFF", layout, tiff(stored, 8, RGB, tags=tags), wanted, axes)
    data = tiff(stored, 8, RGB, tags={34675: (UNDEFINED, srgb())})
    wanted = Wanted(stored / 255, profile=srgb())
    yield Sample("TIFF", "plain", data, wanted, axes | {"profile": "ICC"})


def _compressed() -> Iterator[Sample]:
    from PIL import Image

    def saved(values: Values, mode: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image = Image.fromarray(values.astype(np.uint8).squeeze())
        image.convert(mode, dither=Image.Dither.NONE).save(file, "TIFF", **options)
        return file.getvalue()

    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 4), ("LA", 2)):
        stored = quantised(content(channels), 8)
        for packing in ("packbits", "tiff_lzw", "tiff_adobe_deflate"):
            data = saved(stored, mode, compression=packing)
            axes = {"colours": mode, "alpha": "straight" if "A" in mode else ""}
            yield Sample("TIFF", packing, data, Wanted(stored / 255), axes)
    data = saved(quantised(content(3), 8), "RGB", compression="jpeg", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        wanted = Wanted(np.asarray(image.convert("RGB")) / 255, within=3)
    yield Sample("TIFF", "JPEG", data, wanted, {"colours": "RGB"})
    stored = quantised(content(1), 1)
    for packing in ("group3", "group4", "tiff_ccitt"):
        data = saved(stored * 255, "1", compression=packing)
        axes = {"colours": "grey", "depth": "1"}
        yield Sample("TIFF", packing, data, Wanted(stored / 1), axes)
    yield from _by_tifffile()


def _by_tifffile() -> Iterator[Sample]:
    import tifffile

    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        stored = quantised(content(3), bits).astype(dtype)
        for layout, options in (
            ("tiles", {"tile": (16, 16)}),
            ("tiles in planes", {"tile": (16, 16), "planarconfig": "separate"}),
            ("BigTIFF", {"bigtiff": True}),
            ("predictor", {"compression": "zlib", "predictor": True}),
            ("eight strips", {"rowsperstrip": 3}),
            *((f"compressed by {name}", {"compression": name}) for name in PACKINGS),
        ):
            if bits == 16 and options.get("compression") == "webp":
                continue
            file = io.BytesIO()
            given = np.moveaxis(stored, 2, 0) if "planes" in layout else stored
            tifffile.imwrite(file, given, photometric="rgb", **options)
            wanted = Wanted(stored / (2**bits - 1), bits)
            yield Sample("TIFF", layout, file.getvalue(), wanted, {"depth": str(bits)})


def _refused() -> Iterator[Sample]:
    stored = quantised(content(3), 8)
    for name, dtype, kind in (
        ("float", np.float16, 3),
        ("float", np.float32, 3),
        ("float", np.float64, 3),
        ("signed", np.int8, 2),
        ("signed", np.int16, 2),
        ("unsigned", np.uint32, 1),
    ):
        bits = 8 * np.dtype(dtype).itemsize
        data = tiff((stored // 4).astype(dtype), bits, RGB, kind=kind)
        axes = {"depth": f"{bits} {name}" if kind > 1 else str(bits)}
        yield Sample("TIFF", "plain", data, r"8 or 16 bits", axes)
    yield Sample("TIFF", "two pages", tiff(stored, 8, RGB, pages=2), "2 pages", {})
    grey = stored[:, :, :1]
    for layout, photometric in (("raw of a camera", RAW), ("linear raw", LINEAR_RAW)):
        made = stored if photometric == LINEAR_RAW else grey
        yield Sample("TIFF", layout, tiff(made, 8, photometric), "raw", {"colours": "raw"})
    data = tiff(quantised(content(1), 1), 1, MASK, tags={254: (LONG, (4,))})
    yield Sample("TIFF", "only a mask", data, "mask|no picture", {"colours": "mask", "depth": "1"})
    huge = {256: (LONG, (40_000,)), 257: (LONG, (40_000,))}
    forged = tiff(stored, 8, RGB, tags=huge)
    yield Sample("TIFF", "forged size", forged, "larger than", {"size": "40000×40000"})
    whole = tiff(stored, 8, RGB)
    yield Sample("TIFF", "cut off", whole[: len(whole) // 2], "damaged", {})
