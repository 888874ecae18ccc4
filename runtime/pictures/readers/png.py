"""PNG: decoded by libvips; colours that it passes over are read from the chunks (third edition)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace

from runtime.pictures.header import ImageError
from runtime.pictures.picture import Opened, Picture
from runtime.pictures.readers import vips
from runtime.pictures.readers.colour import SRGB_POINTS, Point, described_by, profile, spans

START = b"\x89PNG\r\n\x1a\n"
GAMMAS = (0.3, 5.0)  # others are no gammas of pictures
NEAR = 0.02  # differences of gammas and chromaticities that stand for the same
SRGB_GAMMA = 2.2  # by which gAMA states sRGB


def opened(name: str, data: bytes) -> Opened:
    """Open a PNG file; raises ImageError if it is animated, of high dynamic range, or damaged."""
    chunks = dict(_before_pixels(data))
    if b"acTL" in chunks:  # 11.3.6.1
        raise ImageError(f"{name}: {vips.ANIMATED}")
    code = chunks.get(b"cICP", b"")[:2]
    coded = {n: described_by(name, (code[0], code[1]), n) for n in (1, 3)} if len(code) == 2 else {}

    def finish(picture: Picture) -> Picture:
        """By the first of cICP, iCCP, sRGB, and gAMA with cHRM (13.15)."""
        channels = picture.pixels.shape[2]
        if coded:
            return replace(picture, profile=coded[channels])
        if picture.profile or b"sRGB" in chunks:
            return picture
        return replace(picture, profile=_by_gamma(chunks, channels))

    return vips.opened(name, data, vips.Loader("png", finish=finish))


def _before_pixels(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks before the pixels: kind and content."""
    at = len(START)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return
        yield kind, data[at + 8 : at + 8 + length]
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
