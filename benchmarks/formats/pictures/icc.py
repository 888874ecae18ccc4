"""Small ICC profiles, written by the specification (ICC.1:2022)."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

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


def stands_for(
    made: bytes, points: tuple[tuple[float, float], ...] | None, gamma: float | None
) -> float:
    """How far off a profile is, in levels of 8 bits, where LittleCMS converts by it to sRGB, from
    the profile that is written here of the same numbers.

    Args:
        made: a profile of RGB.
        points: chromaticities of red, green, blue and white; None for those of sRGB.
        gamma: None for the curve of sRGB.
    """
    import numpy as np
    from PIL import Image, ImageCms

    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(1, -1, 3)
    level = grid / 255
    sent = level**gamma if gamma else np.where(
        level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4
    )  # fmt: skip
    srgb = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
    light = sent @ _to_xyz(points or srgb).T @ np.linalg.inv(_to_xyz(srgb)).T
    kept = ((light > -1e-3) & (light < 1.001)).all(2)[0]  # that sRGB holds
    light = np.clip(light, 0, 1)
    wanted = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    if not made:
        return float(np.abs(grid[0, kept] - wanted[0, kept]).max())
    found = ImageCms.profileToProfile(
        Image.fromarray(grid.astype(np.uint8)),
        ImageCms.ImageCmsProfile(io.BytesIO(made)),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert found is not None
    return float(np.abs(np.asarray(found)[0, kept] - wanted[0, kept]).max())


def _to_xyz(points: tuple[tuple[float, float], ...]) -> Any:
    """From linear RGB to XYZ, with the white that the points have (all here have D65's)."""
    import numpy as np

    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
