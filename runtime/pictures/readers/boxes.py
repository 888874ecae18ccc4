"""Boxes of ISO files: JP2 (ISO/IEC 15444-1, I.4), AVIF and HEIC (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The kinds and contents of boxes that follow one another; ends where they are damaged."""
    view, at = memoryview(data), 0
    while at + 8 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        start = at + 8
        if length == 1 and at + 16 <= len(view):
            (length,) = struct.unpack_from(">Q", view, start)
            start += 8
        end = len(view) if length == 0 else at + length
        if end < start:
            return
        yield kind, view[start:end]
        at = end


def first(data: bytes | memoryview, *path: bytes) -> memoryview | None:
    """The content of the first box of a path of kinds, or None."""
    for kind, content in boxes(data):
        if kind == path[0]:
            return content if len(path) == 1 else first(content, *path[1:])
    return None
