"""The image format that all stages share: conversion to the network's input, and back.

Images are (N, H, W, 3) uint8 RGB at the interfaces; inside they are (N, 3, H, W) float32,
normalised as RGB / 255 - RGB_MEAN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB_MEAN = (0.509, 0.424, 0.378)  # of CelebA, R G B in 0..1; there is no division by a deviation

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def normalise(images: Bytes) -> Floats:
    """Convert (N, H, W, 3) uint8 RGB to (N, 3, H, W) float32, RGB / 255 - RGB_MEAN."""
    scaled = images.astype(np.float32) / 255 - np.array(RGB_MEAN, np.float32)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def to_levels(faces: NDArray[np.floating[Any]]) -> Bytes:
    """Convert normalised (N, 3, H, W) to (N, H, W, 3) uint8 RGB, rounded and clipped to 0..255."""
    levels = (np.moveaxis(faces, -3, -1) + np.array(RGB_MEAN, np.float32)) * 255
    return levels.round().clip(0, 255).astype(np.uint8)
