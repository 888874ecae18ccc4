"""Facial landmarks: their components, their heatmaps, and the way back from heatmaps.

Numbering of the 68 points: iBUG 300-W. Coordinates are (x, y) pixels of the 128×128 face.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dic.sizes import HEATMAP_SIZE, HEATMAP_STRIDE

COMPONENTS = 5  # left eye, right eye, nose, mouth, outline (brows with it): Ma et al., Section 3.2

# Which landmarks make up each component, by landmark count. The Helen ranges leave out single
# points (40, 57, 113, …) just as both released implementations do: weights were trained that way.
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

# By landmark count: the side of a face's square, from hair to chin, over the longer side of the
# upright face's landmarks, and how much higher its centre lies, in the same unit. Faces to train on
# are cut by it, and what the runtime finds.
CROPS: dict[int, tuple[float, float]] = {68: (1.75, 0.15), 194: (1.75, 0.15), 5: (3.58, 0.19)}

# Where each of the 68 points comes to lie when the face is mirrored.
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

# By landmark count. The 194 points of Helen have no published numbering of their mirror images.
FLIPS: dict[int, tuple[int, ...]] = {68: FLIP_68, 5: (1, 0, 2, 4, 3)}


def component_matrix(landmarks: int) -> NDArray[np.float32]:
    """The (5, K) matrix of zeros and ones that sums K heatmaps into five components.

    Raises:
        ValueError: no grouping is known for this landmark count.
    """
    if landmarks not in COMPONENT_GROUPS:
        known = ", ".join(map(str, COMPONENT_GROUPS))
        raise ValueError(f"no facial components are known for {landmarks} landmarks ({known} are)")
    matrix = np.zeros((COMPONENTS, landmarks), np.float32)
    for row, members in enumerate(COMPONENT_GROUPS[landmarks]):
        matrix[row, list(members)] = 1
    return matrix


def heatmaps(points: NDArray[np.floating], sigma: float = 1.0) -> NDArray[np.float32]:
    """Target heatmaps: a Gaussian of height 1 and width `sigma` cells around each landmark.

    Args:
        points: (..., K, 2), (x, y) pixels of the 128×128 face; points outside leave only a tail.
        sigma: in heatmap cells.

    Returns:
        (..., K, 32, 32) in 0..1, rows are y.
    """
    cells = np.arange(HEATMAP_SIZE, dtype=np.float32)
    near = np.exp(-((cells - points[..., None] / HEATMAP_STRIDE) ** 2) / (2 * sigma**2))
    return (near[..., 1, :, None] * near[..., 0, None, :]).astype(np.float32)


def decode(maps: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Landmarks from heatmaps, as the authors decode them (their `util_eval.py`).

    The peak's cell times 4, plus one pixel towards the second-highest cell, minus one otherwise,
    on each axis. The second-highest cell mostly lies beside the peak on one axis only, so a
    target heatmap comes back within 1 pixel of its landmark on that axis, 3 on the other.

    Args:
        maps: (..., K, 32, 32).

    Returns:
        points (..., K, 2), (x, y) pixels of the 128×128 face, and peak heights (..., K).
    """
    flat = maps.reshape(*maps.shape[:-2], -1).astype(np.float32)
    first = flat.argmax(-1)
    peaks = np.take_along_axis(flat, first[..., None], -1)[..., 0]
    np.put_along_axis(flat, first[..., None], -np.inf, -1)
    second = flat.argmax(-1)
    cell, other = (np.stack((i % HEATMAP_SIZE, i // HEATMAP_SIZE), -1) for i in (first, second))
    points = cell * HEATMAP_STRIDE + np.where(other > cell, 1, -1)
    return points.astype(np.float32), peaks
