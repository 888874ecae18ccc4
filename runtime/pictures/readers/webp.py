"""WebP: decoded by libvips."""

from __future__ import annotations

from dataclasses import replace

from runtime.pictures.picture import LOSSY, Opened
from runtime.pictures.readers import vips


def opened(name: str, data: bytes) -> Opened:
    """Open a WebP file; raises ImageError if it is animated or damaged."""
    coarse = LOSSY if b"VP8 " in data[12:64] else 0.0
    finish = lambda picture: replace(picture, quantisation=coarse)  # noqa: E731
    return vips.opened(name, data, vips.Loader("webp", finish=finish))
