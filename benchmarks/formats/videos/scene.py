"""The scene of the matrix's videos: known colours at known places, a number, and a face.

Samples are computed from it by the formulas of ITU-T H.273, not by a library that converts colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Turn = Callable[[NDArray[np.generic]], NDArray[np.generic]]

LONG, SHORT = 96, 64  # sides of a stored picture in pixels
FACE = 44  # side of the picture of a face in the middle
GREY, DARK, LIGHT = 110, 24, 228
CORNERS = ((200, 40, 40), (40, 180, 60), (50, 60, 200), (220, 200, 40))  # from the upper left
BITS = 5  # of a frame's number
EDGE = 3  # pixels at a patch's border that coding may mix with its neighbour

# KR and KB of H.273, table 4.
MATRICES = {"bt470bg": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020nc": (0.2627, 0.0593)}

# How a stored picture is shown.
TURNS: dict[str, Turn] = {
    "upright": lambda p: p,
    "a quarter right": lambda p: np.rot90(p, -1),
    "half a turn": lambda p: np.rot90(p, 2),
    "a quarter left": lambda p: np.rot90(p),
    "mirrored": lambda p: p[:, ::-1],
    "upside down, mirrored": lambda p: p[::-1],
    "transposed": lambda p: p.swapaxes(0, 1),
    "transposed, half a turn": lambda p: np.rot90(p, 2).swapaxes(0, 1),
}
INVERSE = {"a quarter right": "a quarter left", "a quarter left": "a quarter right"}


@dataclass(frozen=True)
class Layout:
    """A pixel format of FFmpeg's.

    Attributes:
        across, down: samples of luma for one of chroma; 0 without chroma.
        bits: of a sample.
        full: its range cannot be limited.
        alpha: it has a plane of transparency.
        rgb: its planes are green, blue and red.
    """

    across: int = 2
    down: int = 2
    bits: int = 8
    full: bool = False
    alpha: bool = False
    rgb: bool = False


LAYOUTS = {
    "yuv420p": Layout(),
    "yuvj420p": Layout(full=True),
    "yuv422p": Layout(2, 1),
    "yuvj422p": Layout(2, 1, full=True),
    "yuv444p": Layout(1, 1),
    "yuv420p10le": Layout(bits=10),
    "yuv422p10le": Layout(2, 1, bits=10),
    "yuv444p10le": Layout(1, 1, bits=10),
    "yuv420p12le": Layout(bits=12),
    "yuv444p16le": Layout(1, 1, bits=16),
    "gray": Layout(0, 0),
    "gray10le": Layout(0, 0, bits=10),
    "yuva420p": Layout(alpha=True),
    "yuva444p10le": Layout(1, 1, bits=10, alpha=True),
    "gbrp": Layout(1, 1, full=True, rgb=True),
    "gbrp10le": Layout(1, 1, bits=10, full=True, rgb=True),
}


@cache
def _face() -> Bytes:
    import skimage.data

    head = skimage.data.astronaut()[0:220, 110:330]
    return np.asarray(cv2.resize(head, (FACE, FACE), interpolation=cv2.INTER_AREA), np.uint8)


def patches(height: int, width: int) -> NDArray[np.uint8]:
    """(H, W) map of an upright picture: 1 to 4 in its corners, 5 to 8 at its number, else 0."""
    where = np.zeros((height, width), np.uint8)
    tall, wide, row = height // 4, width // 4, height // 8
    for label, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], 1):
        where[
            (slice(0, tall), slice(height - tall, height))[y],
            (slice(0, wide), slice(width - wide, width))[x],
        ] = label
    for bit in range(BITS):
        at = width // 2 - 4 * BITS + 8 * bit
        where[:row, at : at + 8] = where[-row:, at : at + 8] = 1 + len(CORNERS) + bit
    return where


def picture(number: int, height: int = SHORT, width: int = LONG) -> Bytes:
    """(H, W, 3) upright frame of a number."""
    where = patches(height, width)
    shown = np.full((height, width, 3), GREY, np.uint8)
    top, left = (height - FACE) // 2, (width - FACE) // 2
    shown[top : top + FACE, left : left + FACE] = _face()
    for label, colour in enumerate(CORNERS, 1):
        shown[where == label] = colour
    for bit in range(BITS):
        shown[where == 1 + len(CORNERS) + bit] = LIGHT if number >> bit & 1 else DARK
    return shown


def stored(number: int, turn: str) -> Bytes:
    """A frame as it is stored so that it is upright once it is turned."""
    quarter = TURNS[turn](np.empty((SHORT, LONG))).shape == (LONG, SHORT)
    upright = picture(number, *((LONG, SHORT) if quarter else (SHORT, LONG)))
    return np.ascontiguousarray(TURNS[INVERSE.get(turn, turn)](upright), np.uint8)


def samples(rgb: Bytes, pixels: str, matrix: str, full: bool) -> bytes:
    """The planes of a picture in a pixel format, by H.273, equations 38 to 68.

    Args:
        rgb: (H, W, 3).
        pixels: a key of LAYOUTS.
        matrix: a key of MATRICES.
        full: samples use the whole range.
    """
    layout, (kr, kb) = LAYOUTS[pixels], MATRICES[matrix]
    red, green, blue = np.moveaxis(rgb / 255.0, 2, 0)
    top, step = 2**layout.bits - 1, 2 ** (layout.bits - 8)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    if layout.rgb:
        planes = [top * plane for plane in (green, blue, red)]
    else:
        full = full or layout.full
        planes = [top * luma if full else (219 * luma + 16) * step]
        if layout.across:
            for colour, k in ((blue, kb), (red, kr)):
                part = (colour - luma) / (2 - 2 * k)
                plane = top * part + 128 * step if full else (224 * part + 128) * step
                high, wide = plane.shape[0] // layout.down, plane.shape[1] // layout.across
                planes.append(plane.reshape(high, layout.down, wide, layout.across).mean((1, 3)))
    if layout.alpha:
        planes.append(np.full_like(luma, top))
    dtype = np.uint8 if layout.bits == 8 else np.dtype("<u2")
    return b"".join(np.clip(np.rint(plane), 0, top).astype(dtype).tobytes() for plane in planes)


def seen(frame: Bytes) -> tuple[int, NDArray[np.float64]]:
    """The number in a decoded frame, and the mean colours of its corners, (4, 3).

    Raises:
        ValueError: the number cannot be read.
    """
    where = patches(*frame.shape[:2])
    inner = cv2.erode(where, np.ones((EDGE, EDGE), np.uint8), borderType=cv2.BORDER_REPLICATE)
    means = [frame[(where == n) & (inner == n)].mean(0) for n in range(1, 1 + len(CORNERS) + BITS)]
    number = 0
    for bit, colour in enumerate(means[len(CORNERS) :]):
        level = float(colour.mean())
        if 90 < level < 160:
            raise ValueError(f"bit {bit} of its number is {level:.0f}")
        number |= (level > 125) << bit
    return number, np.array(means[: len(CORNERS)])
