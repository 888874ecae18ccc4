"""Facial landmarks: grouping into components, target heatmaps, and decoding of heatmaps.

The 68 points are numbered as in iBUG 300-W. Coordinates are (x, y) pixels of the 128×128 face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.sizes import HEATMAP_SIZE, HEATMAP_STRIDE

# Left eye, right eye, nose, mouth, outline (including the brows): Ma et al., Section 3.2.
COMPONENTS = 5

# The landmarks of each component, by landmark count. The ranges for Helen (194) omit single points
# (40, 57, 113, …) as both released implementations do, because their weights were trained so.
COMPONENT_GROUPS: dict[int, tuple[Sequence[int], ...]] = {
    68: (range(36, 42), range(42, 48), range(27, 36), range(48, 68), range(27)),
    194: (
        (*range(134, 153), *range(174, 193)),
        (*range(114, 133), *range(154, 173)),
        range(41, 57),
        range(58, 113),
        range(40),
    ),
    5: ((0,), (1,), (2,), (3,), (4,)),
}

# The crop of an upright face, from hair to chin, by landmark count: (side of the square, upward
# shift of its centre), both relative to the longer side of the landmarks' bounding box. Training
# faces and the faces detected by the runtime are cropped alike.
CROPS: dict[int, tuple[float, float]] = {68: (1.75, 0.15), 194: (1.75, 0.15), 5: (3.58, 0.19)}

# For each of the 68 points, the index of its counterpart in the mirrored face.
FLIP_68: tuple[int, ...] = (
    *reversed(range(17)),
    *reversed(range(17, 27)),
    *range(27, 31),
    *reversed(range(31, 36)),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)

# By landmark count. No mirrored numbering of Helen's 194 points has been published.
FLIPS: dict[int, tuple[int, ...]] = {68: FLIP_68, 5: (1, 0, 2, 4, 3)}


def face_square(points: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], float]:
    """Return the square around an upright face from hair to chin, as `CROPS` defines it.

    Args:
        points: (K, 2) landmarks; K is a key of CROPS.

    Returns:
        its centre (x, y) and its side, in the points' unit.
    """
    factor, shift = CROPS[len(points)]
    low, high = points.min(0), points.max(0)
    longer = float((high - low).max())
    return (low + high) / 2 - [0, shift * longer], factor * longer


def component_matrix(landmarks: int) -> NDArray[np.float32]:
    """Return the (5, K) float32 matrix of zeros and ones that sums K heatmaps per component.

    Args:
        landmarks: K, a key of COMPONENT_GROUPS.

    Raises:
        ValueError: no grouping is defined for this landmark count.
    """
    if landmarks not in COMPONENT_GROUPS:
        known = ", ".join(map(str, COMPONENT_GROUPS))
        raise ValueError(f"no facial components are defined for {landmarks} landmarks; use {known}")
    matrix = np.zeros((COMPONENTS, landmarks), np.float32)
    for row, members in enumerate(COMPONENT_GROUPS[landmarks]):
        matrix[row, list(members)] = 1
    return matrix


def heatmaps(points: NDArray[np.floating], sigma: float = 1.0) -> NDArray[np.float32]:
    """Compute target heatmaps: a Gaussian of height 1 around each landmark.

    Args:
        points: (..., K, 2), (x, y) pixels of the 128×128 face. A point outside the face
            contributes only the tail of its Gaussian.
        sigma: standard deviation in heatmap cells.

    Returns:
        (..., K, 32, 32) float32 in 0..1; rows are y.
    """
    cells = np.arange(HEATMAP_SIZE, dtype=np.float32)
    axes = np.exp(-((cells - points[..., None] / HEATMAP_STRIDE) ** 2) / (2 * sigma**2))
    return (axes[..., 1, :, None] * axes[..., 0, None, :]).astype(np.float32)


def decode(maps: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decode landmarks from heatmaps as the authors do (their `util_eval.py`).

    Engines with pictures in and out contain the same rule, from `export.graph.interface.decode`: a
    change belongs in both.

    On each axis, the result is 4 times the highest cell's index, plus one pixel if the
    second-highest cell has a larger index on this axis, else minus one. The second-highest cell
    usually differs from the highest on one axis only, so decoding a target heatmap has an error of
    at most 1 pixel on that axis and 3 on the other.

    Args:
        maps: (..., K, 32, 32); rows are y.

    Returns:
        points (..., K, 2) float32, (x, y) pixels of the 128×128 face, and the heights of the peaks
        (..., K) float32.
    """
    flat = maps.reshape(*maps.shape[:-2], -1).astype(np.float32)
    first = flat.argmax(-1)
    peaks = np.take_along_axis(flat, first[..., None], -1)[..., 0]
    np.put_along_axis(flat, first[..., None], -np.inf, -1)
    second = flat.argmax(-1)
    cell, other = (np.stack((i % HEATMAP_SIZE, i // HEATMAP_SIZE), -1) for i in (first, second))
    points = cell * HEATMAP_STRIDE + np.where(other > cell, 1, -1)
    return points.astype(np.float32), peaks
