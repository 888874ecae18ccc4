"""The grain of a photograph around its faces, which projection must not put back sharply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import Crop

NORMAL = 0.6745  # median of the magnitude of a standard normal variable
# What a clean face itself has in the finest diagonal detail, in grey levels times its side in
# pixels: fitted to 40 generated and two real portraits of 16 to 64 pixels (benchmarks/NOTES.md).
OF_FACE = 130.0


def grain(image: NDArray[np.uint8], crops: Sequence[Crop]) -> float:
    """Standard deviation of the noise around faces, in grey levels; 0 without faces.

    By the median of the finest diagonal Haar coefficients (Donoho and Johnstone, Biometrika, 1994),
    which counts edges little, less what faces of this size have themselves.

    Args:
        image: (H, W, 3) uint8 RGB.
        crops: of the faces; each is looked at with half of its side around it.

    Returns:
        the median of the faces.
    """
    found = [
        max(_diagonal(_around(image, crop)) ** 2 - (OF_FACE / crop.size) ** 2, 0.0)
        for crop in crops
    ]
    return float(np.sqrt(np.median(found))) if found else 0.0


def _around(image: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    half = crop.size // 2
    left, top = max(0, crop.x - half), max(0, crop.y - half)
    right, bottom = min(width, crop.x + 3 * half), min(height, crop.y + 3 * half)
    return image[top:bottom, left:right]


def _diagonal(image: NDArray[np.uint8]) -> float:
    """Noise by the finest diagonal coefficients of all channels; 0 of less than 2×2 pixels."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    if not height or not width:
        return 0.0
    levels = image[:height, :width].astype(np.float32)
    across = levels[:, ::2] - levels[:, 1::2]
    return float(np.median(np.abs(across[::2] - across[1::2])) / 2 / NORMAL)
