"""A picture as all of the runtime has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.pictures.header import Header

BLOCK = 2**18  # samples that are scaled at once
LOSSY = 12.0  # quantisation of formats that do not state it
# Which profile describes pictures of so many channels.
COLOUR_SPACES = {1: b"GRAY", 3: b"RGB "}

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        pixels: (H, W, 3) RGB or (H, W, 1) grey; uint8 or uint16.
        alpha: (H, W) of the same type, 0 is transparent; not premultiplied. None where opaque.
        profile: the ICC profile of the colours; none is sRGB.
        exif: EXIF data as read; when written, their orientation and size are the picture's, and
            they have no thumbnail.
        xmp: an XMP packet.
        resolution: pixels a millimetre, horizontal and vertical; None where not stated.
        quantisation: how coarsely its lossy compression rounded brightness: the mean step of a
            JPEG's table in grey levels (12 at quality 90, 58 at 50); 0 if lossless.
        grain: standard deviation of the noise around its faces in grey levels; 0 before it is
            measured (`runtime.faces.noise`).
    """

    pixels: Pixels
    alpha: Pixels | None = None
    profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    resolution: tuple[float, float] | None = None
    quantisation: float = 0.0
    grain: float = 0.0

    @property
    def peak(self) -> int:
        """The value of white."""
        return int(np.iinfo(self.pixels.dtype).max)

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, as networks and detectors see it."""
        pixels = to_8_bits(self.pixels)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


@dataclass(frozen=True)
class Opened:
    """A picture file whose layout is known, and can be read.

    Attributes:
        header: what it says of its pixels.
        decode: reads them, upright; raises ImageError if they are damaged.
    """

    header: Header
    decode: Callable[[], Picture]


def fitting(picture: Picture) -> Picture:
    """A picture without a profile of other colours than it has."""
    if picture.profile[16:20] == COLOUR_SPACES[picture.pixels.shape[2]]:
        return picture
    return replace(picture, profile=b"")


def split(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """(H, W, 1 to 4) → grey or RGB, and alpha."""
    if pixels.shape[2] in (1, 3):
        return np.ascontiguousarray(pixels), None
    return np.ascontiguousarray(pixels[:, :, :-1]), np.ascontiguousarray(pixels[:, :, -1])


def to_full_scale(samples: Pixels, white: int, peak: int | None = None) -> Pixels:
    """Samples of 0 to `white` as 0 to `peak`, rounded.

    Args:
        white: at most 65535.
        peak: 255 for uint8 or 65535 for uint16; None for what holds all levels.
    """
    peak = peak or (255 if white <= 255 else 65535)
    dtype = np.uint8 if peak == 255 else np.uint16
    if white == peak:
        return samples.astype(dtype, copy=False)
    scaled = np.empty(samples.shape, dtype)
    rows = max(1, BLOCK * len(samples) // max(1, samples.size))
    for at in range(0, len(samples), rows):
        part = samples[at : at + rows].astype(np.uint32) * np.uint32(peak) + np.uint32(white // 2)
        scaled[at : at + rows] = np.minimum(part // np.uint32(white), peak)
    return scaled


def to_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """uint8 or uint16 as uint8, rounded."""
    if pixels.dtype == np.uint8:
        return pixels
    # x = 257 high + rest, and x / 257 is rounded by rest / 257: all in at most 16 bits.
    high = (pixels >> 8).astype(np.uint8)
    rest = (pixels & 255).astype(np.int16) - high
    return high + (rest > 128) - (rest < -128)
