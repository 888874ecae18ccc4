"""WebP: decoded by libvips."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from runtime.pictures.picture import LOSSY, Opened
from runtime.pictures.readers import vips


def opened(name: str, data: bytes) -> Opened:
    """Open a WebP file; raises ImageError if it is animated or damaged."""
    coarse = LOSSY if b"VP8 " in _chunks(data) else 0.0
    finish = lambda picture: replace(picture, quantisation=coarse)  # noqa: E731
    return vips.opened(name, data, vips.Loader("webp", finish=finish))


def _chunks(data: bytes) -> Iterator[bytes]:
    """The kinds of a file's chunks (RFC 9649, 2.3): "VP8 " are lossy pixels."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind
        at += 8 + length + length % 2
