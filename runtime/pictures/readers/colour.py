"""Colours that a file states by numbers and not by an ICC profile: a profile that says the same."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from runtime.pictures.header import ImageError

Point = tuple[float, float]
D65: Point = (0.3127, 0.3290)
# Chromaticities of red, green, blue and white by colour primaries (ITU-T H.273, table 2).
SRGB_POINTS: tuple[Point, ...] = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
PRIMARIES: dict[int, tuple[Point, ...]] = {
    1: SRGB_POINTS,
    2: SRGB_POINTS,  # not stated
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
HIGH_RANGE = {16: "PQ", 18: "HLG"}
# Gammas by transfer characteristics (table 3). Pictures that state a camera's curve (1, 6, 14, 15)
# or none (2) are shown as sRGB (13) by browsers.
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
SRGB_CURVE = (1, 2, 6, 13, 14, 15)
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
STEPS = 1024  # of the sRGB curve in a profile


def described_by(name: str, code: tuple[int, int], channels: int) -> bytes:
    """The ICC profile of colour primaries and transfer characteristics; b"" for sRGB.

    Args:
        name: for errors.
        channels: 1 or 3.

    Raises:
        ImageError: they are of high dynamic range, which no ICC profile of ours holds.
    """
    primaries, transfer = code
    if transfer in HIGH_RANGE:
        raise ImageError(
            f"{name}: is of high dynamic range ({HIGH_RANGE[transfer]}); convert it to sRGB first"
        )
    gamma = None if transfer in SRGB_CURVE else GAMMAS.get(transfer)
    points = PRIMARIES.get(primaries, SRGB_POINTS)
    if gamma is None and (points == SRGB_POINTS or channels == 1 or primaries in (5, 6, 7)):
        return b""  # those of television with fewer lines are shown as sRGB too
    return profile(points, gamma, channels)


def profile(points: tuple[Point, ...], gamma: float | None, channels: int) -> bytes:
    """An ICC profile of version 2 (ICC.1:2001-04, 6.3.1.2 and 6.3.2.2).

    Args:
        points: chromaticities of red, green, blue and white.
        gamma: of the curve; None for that of sRGB.
        channels: 1 for a profile of grey.
    """
    tags: dict[bytes, bytes] = {b"desc": _described("stated by the file"), b"wtpt": _xyz(D50)}
    tags[b"cprt"] = b"text" + bytes(4) + b"No copyright\0"
    curve = _curve(gamma)
    if channels == 1:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip("rgb", adapted(points).T, strict=True):
            tags[f"{letter}XYZ".encode()] = _xyz(column)
            tags[f"{letter}TRC".encode()] = curve
    return _file(b"GRAY" if channels == 1 else b"RGB ", tags)


def spans(points: tuple[Point, ...]) -> bool:
    """Whether red, green, blue and white are colours, and not on one line."""
    if any(not 0 < x < 1 or not 0 < y < 1 for x, y in points):
        return False
    return abs(float(np.linalg.det([[x, y, 1] for x, y in points[:3]]))) > 1e-2


def adapted(points: tuple[Point, ...]) -> NDArray[np.float64]:
    """The matrix from linear RGB to XYZ of D50, adapted by Bradford's method."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
    white = columns[:, 3]
    matrix = columns[:, :3] * np.linalg.solve(columns[:, :3], white)
    scale = (BRADFORD @ np.array(D50)) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ (scale[:, None] * (BRADFORD @ matrix))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    level = np.linspace(0, 1, STEPS)
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    values = np.rint(light * 65535).astype(">u2").tobytes()
    return b"curv" + bytes(4) + struct.pack(">I", STEPS) + values


def _xyz(value: tuple[float, ...] | NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(v) * 65536) for v in value))


def _described(text: str) -> bytes:
    words = text.encode() + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(words)) + words + bytes(78)


def _file(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table, body = b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4xI4s4s4s6H4s", start + len(body), 0x02100000, b"mntr", space, b"XYZ ",
        2000, 1, 1, 0, 0, 0, b"acsp",
    )  # fmt: skip
    header = header.ljust(68, b"\0") + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
