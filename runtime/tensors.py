"""What an engine with `--io tensor` leaves to its caller: normalising, rounding, decoding.

Engines with `--io image` do the same inside their graph (`export.engine_io`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import HEATMAP_SIZE

RGB_MEAN = (0.509, 0.424, 0.378)  # subtracted from what goes in, of RGB / 255
HEATMAP_STRIDE = 4  # a heatmap's cell is 4 pixels of the face

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def normalise(images: Bytes) -> Floats:
    """(N, H, W, 3) uint8 RGB → (N, 3, H, W) float32 as the network takes it."""
    scaled = images.astype(np.float32) / 255 - np.array(RGB_MEAN, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def to_levels(faces: NDArray[np.floating[Any]]) -> Bytes:
    """(N, 3, H, W) normalised → (N, H, W, 3) uint8 RGB."""
    levels = (faces.transpose(0, 2, 3, 1) + np.array(RGB_MEAN, np.float32)) * 255
    return levels.round().clip(0, 255).astype(np.uint8)


def decode(heatmaps: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Landmarks from heatmaps (N, K, 32, 32), as the authors decode them.

    The peak's cell times 4, plus one pixel towards the second-highest cell, minus one otherwise,
    on each axis.

    Returns:
        points (N, K, 2), (x, y) pixels of the 128×128 face, and peak heights (N, K).
    """
    flat = heatmaps.reshape(*heatmaps.shape[:2], -1).astype(np.float32)
    first = flat.argmax(-1)
    peaks = np.take_along_axis(flat, first[..., None], -1)
    np.put_along_axis(flat, first[..., None], -np.inf, -1)
    second = flat.argmax(-1)
    cell, other = (np.stack((i % HEATMAP_SIZE, i // HEATMAP_SIZE), -1) for i in (first, second))
    points = cell * HEATMAP_STRIDE + np.where(other > cell, 1, -1)
    return points.astype(np.float32), peaks[..., 0]
