"""Antialiased bicubic resampling, bit-equal to Pillow's.

DIC was trained on faces that Pillow shrank, so the runtime must shrink as Pillow does, without
Pillow. OpenCV's INTER_CUBIC does not antialias, and INTER_AREA is another filter.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from dic.sizes import LQ_SIZE

SUPPORT = 2.0  # the bicubic kernel's reach, in output pixels when shrinking
BLOCK = 4096  # columns at once
PRECISION = 22  # bits of Pillow's fixed-point weights: 32 - 8 - 2


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as Pillow's `Image.resize(size, BICUBIC)` does, to the last bit.

    Args:
        image: (H, W, C) uint8.
        size: (width, height) of the result, each at least 1.

    Returns:
        (height, width, C) uint8. Columns first, as every version of Pillow does for squares. If
        the height shrinks much more than the width, Pillow 13 and later do rows first, and differ
        by rounding.
    """
    width, height = size
    if width != image.shape[1]:
        image = _along_columns(image.swapaxes(0, 1), width).swapaxes(0, 1)
    if height != image.shape[0]:
        image = _along_columns(image, height)
    return np.ascontiguousarray(image)


def shrink(crop: NDArray[np.uint8], face_size: int) -> NDArray[np.uint8]:
    """A face crop (H, W, 3) → the network's input (16, 16, 3).

    The training data's way: first to the size of the restored face, then to 16×16. A crop that
    is smaller than a restored face goes to 16×16 at once.
    """
    if min(crop.shape[:2]) > face_size:
        crop = resize(crop, (face_size, face_size))
    return resize(crop, (LQ_SIZE, LQ_SIZE))


def _along_columns(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resample the first axis. Sums of whole numbers below 2**53 are exact in float64."""
    weights = _weights(image.shape[0], size)
    flat = image.reshape(image.shape[0], -1)
    levels = np.empty((size, flat.shape[1]), np.uint8)
    for start in range(0, flat.shape[1], BLOCK):  # bounds the memory that floats take
        block = np.s_[:, start : start + BLOCK]
        sums = (weights @ flat[block].astype(np.float64)).astype(np.int64)
        levels[block] = np.clip((sums + (1 << (PRECISION - 1))) >> PRECISION, 0, 255)
    return levels.reshape(size, *image.shape[1:])


@functools.lru_cache(maxsize=16)
def _weights(old: int, new: int) -> NDArray[np.float64]:
    """(new, old) fixed-point weights as whole numbers, following Pillow's `precompute_coeffs`."""
    scale = old / new
    stretch = max(scale, 1.0)
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * scale
        first = max(int(centre - SUPPORT * stretch + 0.5), 0)
        last = min(int(centre + SUPPORT * stretch + 0.5), old)
        # Summed in order, as Pillow does: another order could differ in the last bit.
        taps = [_bicubic((i - centre + 0.5) / stretch) for i in range(first, last)]
        total = sum(taps)
        for i, tap in zip(range(first, last), taps, strict=True):
            fixed = tap / total * (1 << PRECISION)
            weights[row, i] = math.trunc(fixed + math.copysign(0.5, fixed))
    weights.setflags(write=False)
    return weights


def _bicubic(x: float) -> float:
    """Keys' kernel with a = -0.5."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0
