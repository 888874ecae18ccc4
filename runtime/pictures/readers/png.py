"""PNG: decoded by libvips; colours that it passes over are read from the chunks (third edition)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from runtime.pictures.header import ImageError
from runtime.pictures.picture import Opened, Picture
from runtime.pictures.readers import vips
from runtime.pictures.readers.colour import SRGB_POINTS, Point, described_by, profile, spans

START = b"\x89PNG\r\n\x1a\n"
GAMMAS = (0.3, 5.0)  # others are no gammas of pictures
NEAR = 0.02  # differences of gammas and chromaticities that stand for the same
SRGB_GAMMA = 2.2  # by which gAMA states sRGB
DESCRIBING = (b"eXIf", b"iTXt")  # EXIF data and XMP may follow the pixels (5.6)
METRE = b"\1"  # pHYs' unit; without one it states the shape of pixels only (11.3.4.3)


def opened(name: str, data: bytes) -> Opened:
    """Open a PNG file; raises ImageError if it is animated, of high dynamic range, or damaged."""
    listed = list(_chunks(data))
    pixels = next((n for n, chunk in enumerate(listed) if chunk.kind == b"IDAT"), len(listed))
    chunks = {chunk.kind: data[chunk.start + 8 : chunk.end - 4] for chunk in listed[:pixels]}
    if b"acTL" in chunks:  # 11.3.6.1
        raise ImageError(f"{name}: {vips.ANIMATED}")
    code = chunks.get(b"cICP", b"")
    if len(code) == 4 and not code[3]:  # 11.3.2.6
        raise ImageError(f"{name}: has samples of narrow range (cICP); convert it to sRGB first")
    coded = {n: described_by(name, (code[0], code[1]), n) for n in (1, 3)} if len(code) == 4 else {}
    late = [chunk for chunk in listed[pixels:] if chunk.kind in DESCRIBING]
    if late:  # libvips looks for them before the pixels only
        rest = [chunk for chunk in listed[pixels:] if chunk.kind not in DESCRIBING]
        ordered = (*listed[:pixels], *late, *rest)
        data = START + b"".join(data[chunk.start : chunk.end] for chunk in ordered)

    def finish(picture: Picture) -> Picture:
        """By the first of cICP, iCCP, sRGB, and gAMA with cHRM (13.15)."""
        if chunks.get(b"pHYs", METRE)[-1:] != METRE:
            picture = replace(picture, resolution=None)
        channels = picture.pixels.shape[2]
        if coded:
            return replace(picture, profile=coded[channels])
        if picture.profile or b"sRGB" in chunks:
            return picture
        return replace(picture, profile=_by_gamma(chunks, channels))

    # A PNG has check sums, so any error is damage.
    return vips.opened(name, data, vips.Loader("png", finish=finish, fail_on="error"))


class _Chunk(NamedTuple):
    kind: bytes
    start: int  # of its length
    end: int  # after its check sum


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at = len(START)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield _Chunk(kind, at, at + 12 + length)
        at += 12 + length


def _by_gamma(chunks: Mapping[bytes, bytes], channels: int) -> bytes:
    """The ICC profile of gAMA and cHRM (11.3.2); b"" for sRGB."""
    gamma, points = None, SRGB_POINTS
    if len(stated := chunks.get(b"gAMA", b"")) == 4 and any(stated):
        exponent = 100_000 / struct.unpack(">I", stated)[0]
        if GAMMAS[0] <= exponent <= GAMMAS[1]:
            gamma = exponent
    if len(stated := chunks.get(b"cHRM", b"")) == 32:
        white, *colours = ((x / 100_000, y / 100_000) for x, y in struct.iter_unpack(">II", stated))
        given: tuple[Point, ...] = (*colours, white)
        if spans(given) and not _near(given, SRGB_POINTS):
            points = given
    as_srgb = gamma is None or abs(gamma - SRGB_GAMMA) < NEAR
    if as_srgb and (points == SRGB_POINTS or channels == 1):
        return b""
    return profile(points, gamma, channels)


def _near(points: tuple[Point, ...], others: tuple[Point, ...]) -> bool:
    pairs = zip(points, others, strict=True)
    return all(abs(a - b) < NEAR for one, other in pairs for a, b in zip(one, other, strict=True))
