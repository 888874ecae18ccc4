"""Crops: the square, possibly rotated regions of a picture that contain a face.

Points are (x, y) in pixels; (0, 0) is the centre of the upper left pixel, as in OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dic.landmarks import CROPS, face_square
from dic.sizes import LQ_SIZE

Bytes = NDArray[np.uint8]
Points = NDArray[np.floating[Any]]

# Landmarks of the two eyes by landmark count, the eye on the picture's left first.
EYES: dict[int, tuple[Sequence[int], Sequence[int]]] = {
    68: (range(36, 42), range(42, 48)),
    194: (range(134, 153), range(114, 133)),
    5: ((0,), (1,)),
}
# Degrees; faces tilted by less are not rotated, because training faces are tilted as much.
UPRIGHT = 12.0
# Limits on how far the landmarks of a restored 16×16 face may change its crop.
MOST_SHIFT = 0.25  # sides
MOST_SCALE = 1.4
MOST_TURN = 45.0  # degrees
SURE = 0.3  # least mean heatmap peak of landmarks to rely on; certain landmarks reach about 1
SNAPPED = range(14, 19)  # pixels; sizes that become 16
LEAST_CHANGE = 0.1  # sides; a smaller change is not worth another engine run


@dataclass(frozen=True)
class Crop:
    """A square around a face, in pixels of the picture; it may extend beyond the picture.

    Attributes:
        x, y: the upper left corner before rotation.
        size: the side.
        score: the detector's confidence, on the detector's scale.
        angle: clockwise rotation about the centre, in degrees.

    Raises:
        ValueError: `size` is less than 1, or `angle` is NaN or infinite.
    """

    x: int
    y: int
    size: int
    score: float = 1.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or not math.isfinite(self.angle):
            raise ValueError(
                f"a crop has a size of at least 1 pixel and a finite angle, not {self.size} and "
                f"{self.angle}"
            )

    @staticmethod
    def around(centre: Points, size: float, score: float = 1.0, angle: float = 0.0) -> Crop:
        """The crop with a centre (x, y) and a side, both rounded to whole pixels."""
        side = max(1, round(float(size)))
        left, top = (float(middle) + 0.5 - side / 2 for middle in centre)
        return Crop(round(left), round(top), side, score, angle)

    @property
    def centre(self) -> NDArray[np.float64]:
        """(x, y) of the centre."""
        return np.array([self.x, self.y]) + (self.size - 1) / 2

    def matrix(self, side: int) -> NDArray[np.float64]:
        """(2, 3) affine matrix from pixels of the crop, resized to `side`, to picture pixels."""
        scale = self.size / side
        rotation = _rotation(self.angle) * scale
        middle = np.full(2, (side - 1) / 2)
        return np.column_stack((rotation, self.centre - rotation @ middle))

    def to_picture(self, points: Points, side: int) -> NDArray[np.float64]:
        """Map (K, 2) pixels of the crop, resized to `side`, to pixels of the picture."""
        matrix = self.matrix(side)
        return points @ matrix[:, :2].T + matrix[:, 2]

    def reach(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bounding box of the rotated crop's pixel centres: least and greatest (x, y)."""
        corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (self.size - 1)
        rotated = self.to_picture(corners, self.size)
        return rotated.min(0), rotated.max(0)

    def overlap(self, other: Crop) -> float:
        """Intersection over union of two crops, ignoring rotation."""
        shared = self._shared(other)
        return shared / (self.size**2 + other.size**2 - shared)

    def covered(self, other: Crop) -> float:
        """Share of the smaller crop's area that lies within the larger, ignoring rotation."""
        return self._shared(other) / min(self.size, other.size) ** 2

    def _shared(self, other: Crop) -> int:
        """Area of the intersection in pixels, ignoring rotation."""
        wide, high = (
            min(a + self.size, b + other.size) - max(a, b)
            for a, b in ((self.x, other.x), (self.y, other.y))
        )
        return max(wide, 0) * max(high, 0)


def cut(image: NDArray[Any], crop: Crop) -> NDArray[Any]:
    """Extract a crop from a picture, rotated upright.

    Args:
        image: (H, W, C).
        crop: outside the picture, its edge pixels are repeated.

    Returns:
        (size, size, C); a view if the crop is unrotated and within the picture.
    """
    height, width = image.shape[:2]
    if crop.angle:
        (left, top, right, bottom), matrix = source_region(crop, height, width)
        return cv2.warpAffine(
            image[top:bottom, left:right],
            matrix,
            (crop.size, crop.size),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    if min(crop.x, crop.y) >= 0 and max(crop.x - width, crop.y - height) + crop.size <= 0:
        return image[crop.y : crop.y + crop.size, crop.x : crop.x + crop.size]
    rows = np.clip(np.arange(crop.y, crop.y + crop.size), 0, height - 1)
    columns = np.clip(np.arange(crop.x, crop.x + crop.size), 0, width - 1)
    return image[rows[:, None], columns]


def source_region(
    crop: Crop, height: int, width: int
) -> tuple[tuple[int, int, int, int], NDArray[np.float64]]:
    """The part of a picture that a rotated crop is interpolated from.

    Only the bounding box: OpenCV cannot warp images with sides over 32,767 pixels.

    Returns:
        its left, top, right and bottom in pixels; and the (2, 3) affine matrix from pixels of the
        crop to pixels of that part.
    """
    low, high = crop.reach()
    left, top = np.clip(np.floor(low).astype(int) - 2, 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(high).astype(int) + 3, [left + 1, top + 1], [width, height])
    matrix = crop.matrix(crop.size)
    matrix[:, 2] -= (left, top)
    return (int(left), int(top), int(right), int(bottom)), matrix


def from_points(points: Points, score: float = 1.0) -> Crop:
    """The crop of a face with known landmarks, framed like the training data (`dic.landmarks`).

    It is rotated so that the eyes are level, if the face is tilted by at least `UPRIGHT` degrees.

    Args:
        points: (K, 2) landmarks in pixels of the picture; K is 5, 68 or 194.
        score: the detector's confidence.

    Raises:
        ValueError: K is none of these.
    """
    if len(points) not in CROPS:
        supported = ", ".join(map(str, CROPS))
        raise ValueError(f"cannot frame a face by {len(points)} landmarks; use {supported}")
    angle = _tilt(points)
    centre, side = face_square(points @ _rotation(angle))  # rotates by -angle about the origin
    return Crop.around(_rotation(angle) @ centre, side, score, angle)


def refine(crop: Crop, landmarks: Points, scores: Points, side: int) -> Crop:
    """Correct a crop's position, size and angle by the landmarks of its restored face.

    Args:
        crop: the crop that was restored.
        landmarks: (K, 2) pixels of the restored face.
        scores: (K,) heatmap peaks.
        side: of the restored face in pixels.

    Returns:
        the corrected crop; the same crop if the change is negligible or implausibly large, or if
        the landmarks' mean score is below `SURE`.
    """
    if len(landmarks) not in CROPS or scores.mean() < SURE:
        return crop
    refined = from_points(crop.to_picture(landmarks, side), crop.score)
    shift = float(np.abs(refined.centre - crop.centre).max()) / crop.size
    scale = max(refined.size / crop.size, crop.size / refined.size)
    turn = abs(refined.angle - crop.angle)
    if shift > MOST_SHIFT or scale > MOST_SCALE or turn > MOST_TURN:
        return crop
    return refined if max(shift, (scale - 1) / 2) >= LEAST_CHANGE or turn >= UPRIGHT else crop


def snapped(crop: Crop) -> Crop:
    """A crop of nearly 16 pixels, on the picture's own pixels.

    Resampled from 15 or 18 pixels to the network's 16 it would lose detail; trained networks take
    faces that fill their square somewhat more or less.
    """
    if crop.angle or crop.size not in SNAPPED:
        return crop
    by = (crop.size - LQ_SIZE) // 2
    return replace(crop, x=crop.x + by, y=crop.y + by, size=LQ_SIZE)


def distinct(crops: Sequence[Crop], overlap: float = 0.5, covered: float = 0.8) -> list[Crop]:
    """Remove duplicate detections of one face.

    Args:
        crops: all detections.
        overlap: intersection over union with a crop of higher score above which one is removed.
        covered: share of the smaller crop within the larger above which one is removed.

    Returns:
        the remaining crops, largest first.
    """
    kept: list[Crop] = []
    for crop in sorted(crops, key=lambda crop: -crop.score):
        if all(crop.overlap(k) <= overlap and crop.covered(k) <= covered for k in kept):
            kept.append(crop)
    return sorted(kept, key=lambda crop: -crop.size)


def scaled(crop: Crop, scale: int) -> Crop:
    """The same crop in a picture that is `scale` times as large."""
    return replace(crop, x=crop.x * scale, y=crop.y * scale, size=crop.size * scale)


def _tilt(points: Points) -> float:
    """Clockwise tilt of the line between the eyes in degrees; 0 if it is below `UPRIGHT`."""
    left, right = (points[list(eye)].mean(0) for eye in EYES[len(points)])
    across, down = right - left
    angle = math.degrees(math.atan2(down, across))
    return angle if abs(angle) >= UPRIGHT else 0.0


def _rotation(angle: float) -> NDArray[np.float64]:
    """(2, 2) matrix that rotates (x, y) by degrees; clockwise on screen, since y points down."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[c, -s], [s, c]])
