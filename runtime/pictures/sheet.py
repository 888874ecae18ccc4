"""Sheets of captioned tiles, for people to compare pictures on."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

TILE = 256  # pixels
GAP = 8
CAPTION = 28


def tile(image: Bytes, side: int = TILE, interpolation: int = cv2.INTER_CUBIC) -> Bytes:
    """A square picture (S, S, 3) as (side, side, 3); a larger one is averaged."""
    way = cv2.INTER_AREA if image.shape[0] > side else interpolation
    return np.asarray(cv2.resize(image, (side, side), interpolation=way), np.uint8)


def captioned(text: str, *tiles: Bytes) -> Bytes:
    """Tiles of one width below one another, under a caption."""
    strip = np.full((CAPTION, tiles[0].shape[1], 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, text, (4, CAPTION - 9), font, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate((strip, joined(tiles, axis=0)))


def joined(parts: Sequence[Bytes], axis: int) -> Bytes:
    """Parts beside one another (axis 1) or below one another (axis 0), with white between."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis=axis)
