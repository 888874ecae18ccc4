"""Small ICC profiles, written by the specification (ICC.1:2022)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

D50 = (0.9642, 1.0, 0.8249)


def _tag(value: float | tuple[float, ...] | str) -> bytes:
    if isinstance(value, str):
        text = value.encode() + b"\0"
        return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    if isinstance(value, tuple):
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in value))
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def profile(space: bytes, tags: Mapping[bytes, float | tuple[float, ...]]) -> bytes:
    """A display profile of version 2.

    Args:
        space: of the samples, such as b"GRAY".
        tags: gammas and colours (X, Y, Z) by signature.
    """
    described = {b"desc": "made", b"cprt": "none", b"wtpt": D50, **tags}
    table, body = b"", b""
    start = 128 + 4 + 12 * len(described)
    for name, value in described.items():
        content = _tag(value) if name != b"cprt" else b"text" + bytes(4) + b"none\0"
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    white = struct.pack(">3i", *(round(v * 65536) for v in D50))
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x02400000, b"mntr", space, b"XYZ ",
                         struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    header = header.ljust(68, b"\0") + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(described)) + table + body
