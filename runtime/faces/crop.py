"""Where a face is in a picture: the square that is cut out, restored, and put back.

Points are (x, y) pixels; (0, 0) is the centre of the left upper pixel, as in OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dic.landmarks import CROPS

Bytes = NDArray[np.uint8]
Points = NDArray[np.floating[Any]]

# Which landmarks are the eyes, the one on the picture's left first.
EYES: dict[int, tuple[Sequence[int], Sequence[int]]] = {
    68: (range(36, 42), range(42, 48)),
    194: (range(134, 153), range(114, 133)),
    5: ((0,), (1,)),
}
UPRIGHT = 12.0  # degrees; a face that leans less was trained on as it is, and stays unturned
# What landmarks found in a 16×16 face may change about its square, and how sure they must be.
MOST_SHIFT = 0.25  # sides
MOST_SCALE = 1.4
MOST_TURN = 45.0  # degrees
SURE = 0.3  # mean heatmap peak; about 1 where a landmark is sure
NOTABLE = 0.1  # sides; a smaller change is not worth another run


@dataclass(frozen=True)
class Crop:
    """A square around a face, in pixels of the picture; it may reach beyond the picture.

    Attributes:
        x, y: the left upper corner, before it is turned.
        size: the side.
        score: the detector's confidence, on its own scale.
        angle: by how many degrees it is turned clockwise about its centre.

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
        side = max(1, round(float(size)))
        left, top = (float(middle) + 0.5 - side / 2 for middle in centre)
        return Crop(round(left), round(top), side, score, angle)

    @property
    def centre(self) -> NDArray[np.float64]:
        return np.array([self.x, self.y]) + (self.size - 1) / 2

    def matrix(self, side: int) -> NDArray[np.float64]:
        """(2, 3): pixels of the square, drawn `side` pixels wide, to pixels of the picture."""
        scale = self.size / side
        turn = _turn(self.angle) * scale
        middle = np.full(2, (side - 1) / 2)
        return np.column_stack((turn, self.centre - turn @ middle))

    def to_picture(self, points: Points, side: int) -> NDArray[np.float64]:
        """(K, 2) pixels of the square, drawn `side` pixels wide, as pixels of the picture."""
        matrix = self.matrix(side)
        return points @ matrix[:, :2].T + matrix[:, 2]

    def reach(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the greatest (x, y) of the turned square's pixels."""
        corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (self.size - 1)
        found = self.to_picture(corners, self.size)
        return found.min(0), found.max(0)

    def overlap(self, other: Crop) -> float:
        """Intersection over union of the two squares, unturned."""
        shared = self._shared(other)
        return shared / (self.size**2 + other.size**2 - shared)

    def covered(self, other: Crop) -> float:
        """The share of the smaller of two squares, unturned, that lies within the larger."""
        return self._shared(other) / min(self.size, other.size) ** 2

    def _shared(self, other: Crop) -> int:
        wide, high = (
            min(a + self.size, b + other.size) - max(a, b)
            for a, b in ((self.x, other.x), (self.y, other.y))
        )
        return max(wide, 0) * max(high, 0)


def cut(image: NDArray[Any], crop: Crop) -> NDArray[Any]:
    """A crop's pixels (size, size, C), upright; beyond the picture, its edge is repeated.

    A view into the picture where it can be one.
    """
    height, width = image.shape[:2]
    if crop.angle:
        # Only what it reaches: OpenCV warps no pictures of over 32,767 pixels.
        low, high = crop.reach()
        left, top = np.clip(np.floor(low).astype(int) - 2, 0, [width - 1, height - 1])
        right, bottom = np.clip(np.ceil(high).astype(int) + 3, [left + 1, top + 1], [width, height])
        matrix = crop.matrix(crop.size)
        matrix[:, 2] -= (left, top)
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


def from_points(points: Points, score: float = 1.0) -> Crop:
    """The square around a face of which 5, 68 or 194 landmarks (K, 2) are known.

    Turned so that the eyes come to lie level, where the face leans notably.

    Raises:
        ValueError: no rule for so many landmarks.
    """
    if len(points) not in CROPS:
        known = ", ".join(map(str, CROPS))
        raise ValueError(f"no square is known around {len(points)} landmarks ({known} are)")
    angle = _lean(points)
    back = points @ _turn(angle)  # turned by -angle about the origin
    low, high = back.min(0), back.max(0)
    factor, higher = CROPS[len(points)]
    longer = float((high - low).max())
    centre = _turn(angle) @ ((low + high) / 2 - [0, higher * longer])
    return Crop.around(centre, factor * longer, score, angle)


def refine(crop: Crop, landmarks: Points, scores: Points, side: int) -> Crop:
    """The square that the landmarks found in it ask for: another place, size or angle.

    Args:
        landmarks: (K, 2) pixels of the restored face, `side` pixels wide.
        scores: (K,) heatmap peaks.

    Returns:
        the crop as it was where the landmarks agree with it, or cannot be trusted.
    """
    if len(landmarks) not in CROPS or scores.mean() < SURE:
        return crop
    found = from_points(crop.to_picture(landmarks, side), crop.score)
    shift = float(np.abs(found.centre - crop.centre).max()) / crop.size
    scale = max(found.size / crop.size, crop.size / found.size)
    turn = abs(found.angle - crop.angle)
    if shift > MOST_SHIFT or scale > MOST_SCALE or turn > MOST_TURN:
        return crop
    return found if max(shift, (scale - 1) / 2) >= NOTABLE or turn >= UPRIGHT else crop


def distinct(crops: Sequence[Crop], overlap: float = 0.5, covered: float = 0.8) -> list[Crop]:
    """Without those that a surer crop overlaps or holds: one face found twice. Largest first."""
    kept: list[Crop] = []
    for crop in sorted(crops, key=lambda crop: -crop.score):
        if all(crop.overlap(k) <= overlap and crop.covered(k) <= covered for k in kept):
            kept.append(crop)
    return sorted(kept, key=lambda crop: -crop.size)


def scaled(crop: Crop, scale: int) -> Crop:
    """The same square in a picture that is `scale` times as large."""
    return replace(crop, x=crop.x * scale, y=crop.y * scale, size=crop.size * scale)


def _lean(points: Points) -> float:
    """By how many degrees a face is turned clockwise; 0 where it is upright or nearly so."""
    left, right = (points[list(eye)].mean(0) for eye in EYES[len(points)])
    across, down = right - left
    angle = math.degrees(math.atan2(down, across))
    return angle if abs(angle) >= UPRIGHT else 0.0


def _turn(angle: float) -> NDArray[np.float64]:
    """(2, 2): turns (x, y) clockwise as seen, since y points down."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[c, -s], [s, c]])
