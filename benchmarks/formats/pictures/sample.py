"""A picture file of the matrix, and the values that it must have."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
SIZES = {"1×1": (1, 1), "1×29": (1, 29), "29×1": (29, 1), "37×23": (37, 23)}  # width, height
ODD = "37×23"
ORIENTATIONS = range(1, 9)


@dataclass(frozen=True)
class Wanted:
    """The picture that a file holds.

    Attributes:
        values: (H, W, 1 to 4) in 0..1, upright, grey or RGB and alpha; not premultiplied.
        depth: bits of the samples that the reader gives, 8 or 16.
        within: how far off values may be, in levels of 8 bits.
        profile: the ICC profile; b"" for none, None for any.
        resolution: pixels an inch, horizontal and vertical; None where not stated.
        seen: compare colours only where they are not transparent.
        stands_for: chromaticities of red, green, blue and white, and the gamma, that the profile
            must stand for; None for those of sRGB.
    """

    values: Values
    depth: int = 8
    within: float = 0.002
    profile: bytes | None = b""
    resolution: tuple[float, float] | None = None
    seen: bool = False
    stands_for: tuple[tuple[tuple[float, float], ...] | None, float | None] | None = None


@dataclass(frozen=True)
class Sample:
    """A picture file.

    Attributes:
        format: such as "PNG".
        layout: what is special to it.
        data: the file.
        wanted: the picture that it holds, or a pattern of the reason why it is refused.
        axes: its place on the other axes.
    """

    format: str
    layout: str
    data: bytes
    wanted: Wanted | str
    axes: dict[str, str] = field(default_factory=dict)


def content(channels: int, size: str = ODD) -> Values:
    """(H, W, channels) in 0..1: slopes and waves, with both ends, different in each channel."""
    width, height = map(int, size.split("×"))
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [
        np.sin(5 * x + 3 * y + 1.7 * n) * np.cos(4 * y - 2 * x * (n + 1)) for n in range(channels)
    ]
    made = np.stack(waves, 2)
    low, high = made.min((0, 1)), made.max((0, 1))
    return np.where(high > low, (made - low) / np.maximum(high - low, 1e-9), 0.4)


def quantised(values: Values, bits: int) -> NDArray[np.uint32]:
    """Values of 0..1 as integers of so many bits."""
    return np.round(values * (2**bits - 1)).astype(np.uint32)


def upright(values: Values, orientation: int) -> Values:
    """Stored pixels as they are seen (EXIF 2.32, tag 0x0112: where row 0 and column 0 are)."""
    turned = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.swapaxes(0, 1),
        6: np.rot90(values, -1),
        7: values.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(values),
    }
    return turned[orientation]


def packed(samples: NDArray[np.uint32], bits: int, order: str = ">") -> bytes:
    """Rows of samples of 1 to 16 bits, the first in the high bits, each row in whole bytes.

    Args:
        samples: (H, samples of a row).
        order: of the bytes of 16 bits.
    """
    if bits in (8, 16):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    single = (samples[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(single.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def exif(orientation: int, order: str = "<") -> bytes:
    """EXIF data (a TIFF without pixels) that state a maker and an orientation."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"DIC\0")
    entries += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return start + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


@functools.cache  # it states the second at which it was made
def srgb() -> bytes:
    """An ICC profile of three channels."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey_profile() -> bytes:
    """An ICC profile of one channel, gamma 2.2 (ICC.1:2022, 8.3.4.1: what it must hold)."""
    from benchmarks.formats.pictures.icc import profile

    return profile(b"GRAY", {b"kTRC": 2.2})
