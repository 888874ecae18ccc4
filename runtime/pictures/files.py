"""Picture files: read upright as RGB or grey with what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.pictures.header import Header, ImageError, check_size
from runtime.pictures.kinds import format_of
from runtime.pictures.picture import Opened, Picture
from runtime.pictures.readers import bmp, gif, heif, jpeg, jpeg2000, png, pnm, tiff, webp

MAX_PIXELS = 2**28  # of a picture read
READERS: dict[str, Callable[[str, bytes], Opened]] = {
    "png": png.opened,
    "jpeg": jpeg.opened,
    "webp": webp.opened,
    "tiff": tiff.opened,
    "gif": gif.opened,
    "avif": heif.opened_avif,
    "heic": heif.opened_heic,
    "bmp": bmp.opened,
    "pnm": pnm.opened,
    "jpeg2000": jpeg2000.opened,
}


def read_picture(path: Path) -> Picture:
    """Read a picture file, upright.

    Raises:
        ImageError: unreadable, empty, not a picture, damaged, animated, of several pages, too
            large, or of a layout that is not read (docs/reference/formats.md).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    return decode_picture(str(path), data)


def decode_picture(name: str, data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode the bytes of a picture file; see `read_picture`.

    Args:
        name: for errors.
        max_pixels: that the picture may have; more are refused before they are decoded.
    """
    opened = _opened(name, data)
    check_size(name, opened.header.width, opened.header.height, max_pixels)
    return opened.decode()


def read_header(name: str, data: bytes) -> Header:
    """The header of a picture file; nothing is decoded.

    Args:
        name: for errors.
        data: the whole file.

    Raises:
        ImageError: see `read_picture`, except that damage to the pixels is not seen.
    """
    return _opened(name, data).header


def _opened(name: str, data: bytes) -> Opened:
    return READERS[format_of(name, data)](name, data)
