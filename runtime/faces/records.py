"""What the CUDA kernels need to know of each face: records made from crops and landmarks.

Made on the CPU, a few hundred bytes a face; the caller uploads them in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dic.sizes import LQ_SIZE
from runtime.cuda import layout
from runtime.cuda.kernels import MaskSettings
from runtime.faces.blend import (
    COMPARISON_BLUR,
    COMPARISON_SIDE,
    DIFFERENCE,
    FADE,
    FEATHER,
    PROJECTION_SIDE,
    outline,
)
from runtime.faces.crop import Crop, scaled, source_region

Records = NDArray[np.void]
SETTINGS = MaskSettings(
    difference=DIFFERENCE,
    feather=FEATHER,
    outline=FADE,
    blur=tuple(cv2.getGaussianKernel(layout.BLUR_TAPS, COMPARISON_BLUR, cv2.CV_32F)[:, 0].tolist()),
)


def crop_records(crops: Sequence[Crop], height: int, width: int) -> tuple[Records, int]:
    """Records for `Kernels.cut`.

    Args:
        crops: in pixels of the frame.
        height, width: of the frame.

    Returns:
        (N,) `layout.CROP`; and the bytes that the pieces take, one after the other.
    """
    records = np.zeros(len(crops), layout.CROP)
    place = 0
    for record, crop in zip(records, crops, strict=True):
        record["piece"], record["size"] = place, crop.size
        record["x"], record["y"] = crop.x, crop.y
        if crop.angle:
            (left, top, right, bottom), matrix = source_region(crop, height, width)
            record["turned"], record["matrix"] = 1, matrix.ravel()
            record["left"], record["top"] = left, top
            record["width"], record["height"] = right - left, bottom - top
        place += 3 * crop.size**2
    return records, place


def resize_records(
    sizes: Sequence[tuple[int, int]], sources: Sequence[int] | None = None
) -> tuple[Records, int]:
    """Records for `Kernels.resize`.

    Args:
        sizes: old and new side of each picture.
        sources: where each picture begins, in bytes; None is one after the other.

    Returns:
        (N,) `layout.RESIZE`; and the bytes that the results take, one after the other.
    """
    records = np.zeros(len(sizes), layout.RESIZE)
    source = target = 0
    for i, (old, new) in enumerate(sizes):
        records[i] = (source if sources is None else sources[i], target, old, new)
        source += 3 * old**2
        target += 3 * new**2
    return records, target


def shrink_sizes(crops: Sequence[Crop], face_size: int) -> list[list[tuple[int, int]]]:
    """The steps in which crops shrink to the network's input; see `runtime.pictures.shrink`.

    Returns:
        old and new sides of each crop, for one or two runs of `Kernels.resize`; of two, the first
        copies the crops that are not larger than a restored face.
    """
    middle = [min(crop.size, face_size) for crop in crops]
    last = [(side, LQ_SIZE) for side in middle]
    if all(crop.size <= face_size for crop in crops):
        return [last]
    return [[(crop.size, side) for crop, side in zip(crops, middle, strict=True)], last]


def projection_sides(crops: Sequence[Crop]) -> list[int]:
    """Side at which each face is compared with its crop in back-projection, in pixels."""
    return [min(crop.size, PROJECTION_SIDE) for crop in crops]


def comparison_sides(crops: Sequence[Crop]) -> list[int]:
    """Side at which each face is compared with its crop for the mask, in pixels."""
    return [min(crop.size, COMPARISON_SIDE) for crop in crops]


def mask_records(
    crops: Sequence[Crop],
    landmarks: Sequence[NDArray[np.float32] | None],
    scores: Sequence[NDArray[np.float32] | None],
    weights: Sequence[float],
    side: int,
) -> tuple[Records, NDArray[np.int16]]:
    """Records for `Kernels.mask`.

    Args:
        crops, landmarks, scores: of each face; see `runtime.faces.blend.outline`.
        weights: opacity of each face in 0..1.
        side: of a restored face in pixels.

    Returns:
        (N,) `layout.MASK`; and (N, side, 2) int16, the outline's first and last pixel in each row,
        first beyond last where it has none.
    """
    records = np.zeros(len(crops), layout.MASK)
    spans = np.zeros((len(crops), side, 2), np.int16)
    place = 0
    for i, size in enumerate(comparison_sides(crops)):
        outside = outline(side, landmarks[i], scores[i])
        records[i] = (place, size, outside is not None, weights[i], 0)
        if outside is not None:
            spans[i] = _spans(outside == 0)
        place += 3 * size**2
    return records, spans


def _spans(inside: NDArray[np.bool_]) -> NDArray[np.int16]:
    """First and last true value of each row, which lie together: a drawn hull is convex."""
    side = inside.shape[1]
    first, last = inside.argmax(1), side - 1 - inside[:, ::-1].argmax(1)
    empty = ~inside.any(1)
    first[empty], last[empty] = side, -1
    return np.stack((first, last), 1).astype(np.int16)


def paste_records(
    crops: Sequence[Crop], scale: int, height: int, width: int
) -> tuple[Records, int]:
    """Records for `Kernels.paste`.

    Args:
        crops: in the order of blending, smallest first; pixels of the frame before enlargement.
        scale: the enlargement factor.
        height, width: of the enlarged frame.

    Returns:
        (N,) `layout.PASTE`; and the pixels of the largest region, 0 if no crop meets the picture.
    """
    records = np.zeros(len(crops), layout.PASTE)
    largest = 0
    for record, crop in zip(records, (scaled(crop, scale) for crop in crops), strict=True):
        low, high = crop.reach()
        left, top = np.floor(low.clip(0)).astype(int)
        right, bottom = np.ceil(high.clip(max=[width - 1, height - 1])).astype(int) + 1
        record["x"], record["y"], record["size"] = crop.x, crop.y, crop.size
        record["left"], record["top"] = left, top
        record["right"], record["bottom"] = right, bottom
        if crop.angle:
            matrix = crop.matrix(crop.size)
            matrix[:, 2] -= (left, top)
            record["turned"], record["inverse"] = 1, _inverse(matrix).ravel()
        largest = max(largest, max(right - left, 0) * max(bottom - top, 0))
    return records, int(largest)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert a (2, 3) affine matrix, rounding as OpenCV's warpAffine does."""
    (a, b, c), (d, e, f) = matrix.tolist()
    determinant = a * e - b * d
    by = 1.0 / determinant
    a, b, d, e = e * by, b * -by, d * -by, a * by
    return np.array([[a, b, -a * c - b * f], [d, e, -d * c - e * f]])


def as_bytes(*arrays: NDArray[Any]) -> tuple[NDArray[np.uint8], list[int]]:
    """Lay arrays one after the other, for one upload.

    Returns:
        (N,) uint8; and where each array begins, a multiple of 16 bytes.
    """
    places, end = [], 0
    for array in arrays:
        places.append(end)
        end += -(-array.nbytes // 16) * 16
    packed = np.zeros(end, np.uint8)
    for array, place in zip(arrays, places, strict=True):
        packed[place : place + array.nbytes] = (
            np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        )
    return packed, places
