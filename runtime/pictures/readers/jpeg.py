"""JPEG: decoded by libvips; what it does not tell is read from the markers (ITU-T T.81, B)."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace

import numpy as np
import pyvips

from runtime.pictures.header import DAMAGED, ImageError
from runtime.pictures.picture import LOSSY, Opened, Picture
from runtime.pictures.readers import vips

# Start-of-frame markers (table B.1), without DHT, JPG and DAC, which lie among them.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
HIERARCHICAL = frozenset((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF))
JPEG_LS, ADOBE_SEGMENT, SCAN = 0xF7, 0xEE, 0xDA
ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without content


@dataclass(frozen=True)
class Frame:
    """What the markers say.

    Attributes:
        kind: the marker of the frame.
        bits: of a sample.
        components: of a pixel.
        adobe: it has Adobe's marker, whose inks are inverted.
    """

    kind: int
    bits: int
    components: int
    adobe: bool


def opened(name: str, data: bytes) -> Opened:
    """Open a JPEG file.

    Raises:
        ImageError: it is damaged, lossless with more than 8 bits, hierarchical, or of 12 bits.
    """
    frame = _frame(name, data)
    if frame.kind == JPEG_LS:
        raise ImageError(f"{name}: JPEG-LS pictures cannot be read; convert it to PNG first")
    if frame.kind in HIERARCHICAL:
        raise ImageError(f"{name}: hierarchical JPEGs cannot be read; convert it to PNG first")
    if frame.bits != 8:
        what = "lossless JPEG" if frame.kind in LOSSLESS else "JPEG"
        raise ImageError(
            f"{name}: is a {what} of {frame.bits} bits, and 8 can be read; convert it to PNG first"
        )

    def convert(image: pyvips.Image) -> pyvips.Image:
        if frame.components != 4:
            return image
        # libvips takes all inks for Adobe's, which are inverted.
        return vips.without_inks(image if frame.adobe else image.invert())

    def finish(picture: Picture) -> Picture:
        coarse = 0.0 if frame.kind in LOSSLESS else _quantisation(data)
        return replace(picture, quantisation=coarse)

    return vips.opened(name, data, vips.Loader("jpeg", convert=convert, finish=finish))


def _frame(name: str, data: bytes) -> Frame:
    at, adobe = 2, False
    frame: Frame | None = None
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # decoders pass over what is no marker
            at = data.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker in ALONE or marker in (0x00, 0xFF):
            at += 1 if marker == 0xFF else 2
            continue
        if marker in FRAMES or marker == JPEG_LS:
            if at + 10 > len(data):
                break
            bits, components = data[at + 4], data[at + 9]
            frame = Frame(marker, bits, components, adobe)
        elif marker == ADOBE_SEGMENT and data[at + 4 : at + 9] == b"Adobe":
            adobe = True
        elif marker == SCAN:
            break
        at += 2 + length
    if frame is None:
        raise ImageError(f"{name}: {DAMAGED}")
    return replace(frame, adobe=adobe)


def _quantisation(data: bytes) -> float:
    """See `Picture.quantisation`."""
    # Not `Image.open`, whose guard against large pictures is not ours.
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        with JpegImageFile(io.BytesIO(data)) as image:
            tables = image.quantization
    except Exception:  # Pillow refuses some markers that libvips passes over
        return LOSSY
    return float(np.mean(tables[0])) if 0 in tables else LOSSY
