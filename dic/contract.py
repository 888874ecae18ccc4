"""What stages agree on about pictures: how they become the network's numbers, and back.

Layouts: pictures are (N, H, W, 3) uint8 RGB at the edges, (N, 3, H, W) float32 inside, RGB / 255 -
RGB_MEAN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB_MEAN = (0.509, 0.424, 0.378)  # of CelebA, R G B in 0..1; subtracted, never divided by

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def normalise(images: Bytes) -> Floats:
    """(N, H, W, 3) uint8 RGB → (N, 3, H, W) float32 as the network takes it."""
    scaled = images.astype(np.float32) / 255 - np.array(RGB_MEAN, np.float32)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def to_levels(faces: NDArray[np.floating[Any]]) -> Bytes:
    """(N, 3, H, W) normalised → (N, H, W, 3) uint8 RGB, rounded and clipped."""
    levels = (np.moveaxis(faces, -3, -1) + np.array(RGB_MEAN, np.float32)) * 255
    return levels.round().clip(0, 255).astype(np.uint8)
