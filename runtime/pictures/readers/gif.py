"""GIF: decoded by libvips."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from runtime.pictures.picture import Opened, Picture
from runtime.pictures.readers import vips

TABLE, TABLE_SIZE = 0x80, 0x07  # bits of the flags: a colour table follows, and its size
EXTENSION, FRAME = 0x21, 0x2C


def opened(name: str, data: bytes) -> Opened:
    """Open a GIF file; raises ImageError if it is animated or damaged."""

    def finish(picture: Picture) -> Picture:
        alpha = picture.alpha
        if alpha is not None and alpha.all():
            alpha = None  # libvips gives every GIF an alpha channel
        return replace(picture, alpha=_uncovered(data, picture.pixels.shape[:2], alpha))

    opened = vips.opened(name, data, vips.Loader("gif", finish=finish))
    return replace(opened, header=replace(opened.header, channels=4))


def _uncovered(data: bytes, shape: tuple[int, ...], alpha: np.ndarray | None) -> np.ndarray | None:
    """Alpha that is 0 outside the frame: what no frame covers is transparent, as in browsers."""
    place = _frame(data)
    if place is None:
        return alpha
    left, top, width, height = place
    if (left, top, height, width) == (0, 0, *shape):
        return alpha
    seen = np.zeros(shape, np.uint8)
    inside = (slice(top, top + height), slice(left, left + width))
    seen[inside] = 255 if alpha is None else alpha[inside]
    return seen


def _frame(data: bytes) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of the first frame (GIF89a, 20)."""
    try:
        flags = data[10]
        at = 13 + (3 << (flags & TABLE_SIZE) + 1 if flags & TABLE else 0)
        while data[at] == EXTENSION:
            at += 2
            while data[at]:
                at += data[at] + 1
            at += 1
        return struct.unpack_from("<4H", data, at + 1) if data[at] == FRAME else None
    except (IndexError, struct.error):
        return None
