"""BMP: pixels of 16 and 32 bits by their masks; the rest is decoded by Pillow."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.pictures.header import DAMAGED, Header, ImageError
from runtime.pictures.picture import Opened, Picture, Pixels, fitting, split, to_full_scale

PLAIN, RLE8, RLE4, FIELDS, JPEG_INSIDE, PNG_INSIDE, ALPHA_FIELDS = range(7)
# Bytes of the headers: of OS/2 and OS/2 2, of BITMAPINFOHEADER, and of those with masks.
OS2, OS2_2, VERSION_1, VERSION_5 = 12, 64, 40, 124
HEADERS = (OS2, OS2_2, VERSION_1, 52, 56, 108, VERSION_5)
EMBEDDED = b"DEBM"  # a profile, by bV5CSType
MASKS = {16: (0x7C00, 0x03E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}  # where none are stated
SCRATCH = 12  # bytes of a pixel: its number, and Pillow's four channels twice
PALETTES = (1, 4, 8)


@dataclass(frozen=True)
class Layout:
    """What the headers say.

    Attributes:
        start: where the pixels begin.
        downwards: the first row is the upper one.
        masks: of red, green, blue, and alpha if it has it; empty for those that Pillow decodes.
        resolution: pixels a millimetre, horizontal and vertical.
        profile: the ICC profile of its colours.
    """

    start: int
    width: int
    height: int
    downwards: bool
    bits: int
    masks: tuple[int, ...]
    resolution: tuple[float, float] | None
    profile: bytes


def opened(name: str, data: bytes) -> Opened:
    """Open a BMP file; raises ImageError if it is damaged or of a layout that is not read."""
    try:
        layout = _layout(name, data)
    except struct.error as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    if not layout.width * layout.height:
        raise ImageError(f"{name}: {DAMAGED}")

    def decode() -> Picture:
        try:
            pixels = _masked(data, layout) if layout.masks else _by_pillow(data)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's depends on where the file is damaged
            raise ImageError(f"{name}: {DAMAGED}") from error
        colours, alpha = split(pixels)
        if alpha is not None and not alpha.any():
            alpha = None  # written by programs that leave the mask's bits empty
        return fitting(Picture(colours, alpha, layout.profile, resolution=layout.resolution))

    channels = len(layout.masks) or 3
    depth = 2 if any(mask.bit_count() > 8 for mask in layout.masks) else 1
    return Opened(Header(layout.width, layout.height, channels, depth, scratch=SCRATCH), decode)


def _layout(name: str, data: bytes) -> Layout:
    """Raises ImageError if it is not read, and struct.error if the headers are cut off."""
    start, size = struct.unpack_from("<II", data, 10)
    if size not in HEADERS or start < 14 + size:
        raise ImageError(f"{name}: {DAMAGED}")
    packing, across, down = PLAIN, 0, 0
    if size == OS2:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
        across, down = struct.unpack_from("<ii", data, 38)
    if packing in (JPEG_INSIDE, PNG_INSIDE) and size != OS2_2:
        inside = "a JPEG" if packing == JPEG_INSIDE else "a PNG"
        raise ImageError(f"{name}: is a BMP with {inside} inside; convert it to PNG first")
    fields = packing in (FIELDS, ALPHA_FIELDS) and size != OS2_2
    masks: tuple[int, ...] = MASKS.get(bits, ()) if packing == PLAIN else ()
    if fields and bits in MASKS:
        count = 4 if size > 52 or packing == ALPHA_FIELDS else 3
        masks = struct.unpack_from(f"<{count}I", data, 14 + VERSION_1)
        masks = masks if all(masks[:3]) else MASKS[bits]
        masks = masks if all(masks) else masks[:3]
    pillow = (PLAIN, 24), *((PLAIN, n) for n in PALETTES), (RLE8, 8), (RLE4, 4)
    if not masks and (packing, bits) not in pillow:
        raise ImageError(
            f"{name}: {bits} bits a pixel with compression {packing} cannot be read; convert it to "
            "PNG first"
        )
    if any(mask.bit_count() > 16 for mask in masks):
        raise ImageError(f"{name}: fields of more than 16 bits cannot be read; convert it first")
    resolution = (across / 1000, down / 1000) if across > 0 and down > 0 else None
    profile = b""
    if size == VERSION_5 and data[70:74] == EMBEDDED:
        at, length = struct.unpack_from("<II", data, 126)
        profile = data[14 + at : 14 + at + length]
    layout = max(width, 0), abs(height), height < 0, bits, masks
    return Layout(start, *layout, resolution, profile)


def _masked(data: bytes, layout: Layout) -> Pixels:
    """(H, W, 3 or 4) of 8 bits, or of 16 if a field has more.

    Raises:
        ValueError: there are too few pixels.
    """
    size = layout.bits // 8
    row = -(-layout.width * size // 4) * 4
    raw = np.frombuffer(data, np.uint8, row * layout.height, layout.start)
    rows = raw.reshape(layout.height, row)[:, : layout.width * size]
    values: NDArray[np.uint32] = (
        np.ascontiguousarray(rows).view(np.dtype("<u2" if size == 2 else "<u4")).astype(np.uint32)
    )
    if not layout.downwards:
        values = values[::-1]
    deep = max(mask.bit_count() for mask in layout.masks) > 8
    channels = []
    for mask in layout.masks:
        shift = (mask & -mask).bit_length() - 1
        level = (values & np.uint32(mask)) >> np.uint32(shift)
        channels.append(to_full_scale(level, mask >> shift, 65535 if deep else 255))
    return np.stack(channels, 2)


def _by_pillow(data: bytes) -> Pixels:
    from PIL.BmpImagePlugin import BmpImageFile

    with BmpImageFile(io.BytesIO(data)) as image:
        mode = "L" if image.mode in ("1", "L") else "RGB"
        return np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)
