"""AVIF, decoded by libvips, and HEIC, decoded by pillow-heif where it is installed. Both are items
of one container (ISO/IEC 23008-12), whose properties say what neither library tells.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyvips

from runtime.pictures.header import DAMAGED, Header, ImageError
from runtime.pictures.picture import LOSSY, Opened, Picture, Pixels, fitting, split, to_full_scale
from runtime.pictures.readers import vips
from runtime.pictures.readers.boxes import boxes, first
from runtime.pictures.readers.colour import described_by

SCRATCH = 18  # bytes of a pixel that libheif takes for AVIF, which it decodes as a whole
MONOCHROME = 0x10  # of av1C's third byte


@dataclass(frozen=True)
class Item:
    """What a file says of its picture.

    Attributes:
        grey: it has one channel beside alpha.
        premultiplied: alpha is multiplied into its colours.
        code: primaries and transfer characteristics of its colours (ITU-T H.273); None where not
            stated.
    """

    grey: bool
    premultiplied: bool
    code: tuple[int, int] | None


def opened_avif(name: str, data: bytes) -> Opened:
    """Open an AVIF file; raises ImageError if it is animated, of high dynamic range, or damaged."""
    item, profile = _item(name, data)

    def convert(image: pyvips.Image) -> pyvips.Image:
        bits = image.get("bits-per-sample")
        if item.grey and image.bands >= 3:
            grey = image.extract_band(0)
            image = grey.bandjoin(image.extract_band(3)) if image.bands == 4 else grey
        stored = (2**bits - 1) << (16 - bits)  # libvips shifts samples of 10 and 12 bits to 16
        deep = image.format == "ushort"
        if item.premultiplied and image.bands in (2, 4):
            image = image.unpremultiply(max_alpha=stored if deep else 255)
        if deep:
            image = image.linear(65535 / stored, 0)
        space = ("grey16" if item.grey else "rgb16") if deep else ("b-w" if item.grey else "srgb")
        return image.rint().cast("ushort" if deep else "uchar").copy(interpretation=space)

    def finish(picture: Picture) -> Picture:
        picture = replace(picture, quantisation=LOSSY, profile=picture.profile or profile)
        return fitting(replace(picture, xmp=vips.unturned(picture.xmp)))

    with vips.damage(name):
        primary = vips.Loader("heif").load(data).get("heif-primary")
    loader = vips.Loader("heif", {"page": primary}, convert, finish, pages=True, scratch=SCRATCH)
    return vips.opened(name, data, loader)


def opened_heic(name: str, data: bytes) -> Opened:
    """Open a HEIC file.

    Raises:
        ImageError: pillow-heif is not installed, or the file is a sequence, of high dynamic range,
            or damaged.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            f"{name}: HEIC pictures need the package pillow-heif (extra heic): pip install "
            "pillow-heif, or convert it to JPEG or PNG"
        ) from error
    item, profile = _item(name, data)
    try:
        file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        image = file[file.primary_index]
    except (ValueError, EOFError, SyntaxError, RuntimeError, IndexError) as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    info: dict[str, Any] = image.info
    bits = info["bit_depth"]

    def decode() -> Picture:
        try:
            samples = np.asarray(image)
        except (ValueError, EOFError, SyntaxError, RuntimeError) as error:
            raise ImageError(f"{name}: {DAMAGED}") from error
        return _of_heic(samples, bits, info, item, profile)

    channels = len(image.mode.partition(";")[0])
    return Opened(Header(*image.size, channels, 1 if bits == 8 else 2, True), decode)


def _of_heic(
    samples: Pixels, bits: int, info: dict[str, Any], item: Item, profile: bytes
) -> Picture:
    samples = samples.reshape(*samples.shape[:2], -1)
    if item.grey and samples.shape[2] >= 3:
        samples = samples[:, :, [0, 3] if samples.shape[2] == 4 else [0]]
    pixels, alpha = split(to_full_scale(samples, 2**bits - 1))
    if item.premultiplied and alpha is not None:
        pixels = _straight(pixels, alpha)
    return fitting(
        Picture(
            pixels,
            alpha,
            bytes(info.get("icc_profile") or profile),
            bytes(info.get("exif") or b""),
            vips.unturned(bytes(info.get("xmp") or b"")),
            quantisation=LOSSY,
        )
    )


def _straight(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Colours into which alpha is multiplied, without it."""
    peak = int(np.iinfo(pixels.dtype).max)
    opacity = np.maximum(alpha, 1)[:, :, None].astype(np.float32) / peak
    return np.minimum(np.rint(pixels / opacity), peak).astype(pixels.dtype)


def _item(name: str, data: bytes) -> tuple[Item, bytes]:
    """What a file says of its primary item, and the ICC profile of colours that it states by code.

    Raises:
        ImageError: it is a sequence, of high dynamic range, or damaged.
    """
    if first(data, b"moov") is not None:
        raise ImageError(f"{name}: {vips.ANIMATED}")
    try:
        item = _primary(data)
    except (struct.error, IndexError) as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    if item.code is None:
        return item, b""
    return item, described_by(name, item.code, 1 if item.grey else 3)


def _primary(data: bytes) -> Item:
    """Raises struct.error or IndexError if the boxes are damaged."""
    meta = (first(data, b"meta") or memoryview(b""))[4:]
    stated = first(meta, b"pitm")
    if stated is None:
        return Item(False, False, None)
    (primary,) = struct.unpack_from(">I" if stated[0] else ">H", stated, 4)
    references = _references(first(meta, b"iref"))
    premultiplied = any(kind == b"prem" and start == primary for kind, start, _ in references)
    tiles = [to[0] for kind, start, to in references if kind == b"dimg" and start == primary and to]
    properties = _properties(meta, primary)
    coded = _properties(meta, tiles[0]) if tiles else properties
    grey, code = False, None
    for kind, content in [*coded, *properties]:
        if kind == b"pixi":
            grey = content[4] == 1
        elif kind == b"av1C":
            grey = bool(content[2] & MONOCHROME)
        elif kind == b"colr" and bytes(content[:4]) == b"nclx":
            code = struct.unpack_from(">HH", content, 4)
    return Item(grey, premultiplied, code)


def _references(content: memoryview | None) -> list[tuple[bytes, int, tuple[int, ...]]]:
    """Kind, start and ends of each reference between items (ISO/IEC 14496-12, 8.11.12)."""
    if content is None:
        return []
    letter, size = ("I", 4) if content[0] else ("H", 2)
    found = []
    for kind, reference in boxes(content[4:]):
        start, count = struct.unpack_from(f">{letter}H", reference)
        ends = struct.unpack_from(f">{count}{letter}", reference, size + 2)
        found.append((kind, start, ends))
    return found


def _properties(meta: memoryview, item: int) -> list[tuple[bytes, memoryview]]:
    """The properties of an item (ISO/IEC 23008-12, 9.3)."""
    held = list(boxes(first(meta, b"iprp", b"ipco") or b""))
    uses = first(meta, b"iprp", b"ipma")
    if uses is None:
        return []
    wide_item, wide_index = uses[0] > 0, bool(uses[3] & 1)
    (entries,) = struct.unpack_from(">I", uses, 4)
    at = 8
    for _ in range(entries):
        (number,) = struct.unpack_from(">I" if wide_item else ">H", uses, at)
        at += 4 if wide_item else 2
        count = uses[at]
        listed = struct.unpack_from(f">{count}{'H' if wide_index else 'B'}", uses, at + 1)
        at += 1 + count * (2 if wide_index else 1)
        if number == item:
            indices = [index & (0x7FFF if wide_index else 0x7F) for index in listed]
            return [held[index - 1] for index in indices if 1 <= index <= len(held)]
    return []
