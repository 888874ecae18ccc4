"""Face detectors: each finds faces in a picture and frames them as the network was trained.

A detector is anything with `find(image) -> list[Crop]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


class DetectorError(Exception):
    """A detector cannot be used; the message is one line."""


@dataclass(frozen=True)
class Crop:
    """A square around a face, in pixels of the picture; it may reach beyond the picture.

    Attributes:
        x, y: the left upper corner.
        size: the side.
        score: the detector's confidence, on its own scale.
    """

    x: int
    y: int
    size: int
    score: float


class Detector(Protocol):
    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        """Faces in an (H, W, 3) uint8 RGB picture, largest first."""
        ...


@dataclass(frozen=True)
class _Framing:
    """From a detector's box to the training crop: how much larger, and how much lower.

    The training crop holds the face from the hair to below the chin (`train.faces`). The figures
    are medians over 300 such faces; a test holds them.
    """

    margin: float  # crop side / box width
    lower: float  # crop centre below the box's, in crop sides

    def crop(self, box: Sequence[float], score: float) -> Crop:
        x, y, width, height = map(float, box)
        size = max(1, round(width * self.margin))
        left = x + width / 2 - size / 2
        top = y + height / 2 + self.lower * size - size / 2
        return Crop(round(left), round(top), size, score)


class HaarDetector:
    """OpenCV's frontal-face cascade (Viola and Jones, 2001). Its file is in OpenCV's wheel.

    Of the wheel's cascades, `alt2` without histogram equalisation found most faces with the
    fewest false ones (figures in benchmarks/NOTES.md).
    """

    FRAMING = _Framing(margin=1.46, lower=0.02)
    WINDOW = 24  # pixels; the smallest face searched, after enlargement
    WORKING_SIDE = 960  # pixels; a smaller picture is enlarged to it, or small faces are missed
    MAX_ENLARGEMENT = 4.0

    def __init__(self) -> None:
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise DetectorError(f"{path}: OpenCV's face cascade is missing; reinstall OpenCV")

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        # Never made smaller: the faces worth restoring are the small ones (12 megapixels: 3 s).
        scale = self.WORKING_SIDE / max(image.shape[:2])
        scale = float(np.clip(scale, 1, self.MAX_ENLARGEMENT))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        size = [round(side * scale) for side in (grey.shape[1], grey.shape[0])]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey,
            scaleFactor=1.1,
            minNeighbors=4,
            minSize=(self.WINDOW, self.WINDOW),
            outputRejectLevels=True,
        )
        found = [
            self.FRAMING.crop(np.divide(box, scale).tolist(), float(weight))
            for box, weight in zip(boxes, np.ravel(weights), strict=True)
        ]
        return sorted(found, key=lambda crop: -crop.size)


class YuNetDetector:
    """OpenCV's YuNet (Wu et al., 2023), by the path of its ONNX model."""

    FRAMING = _Framing(margin=1.75, lower=-0.02)
    SCORE = 0.7

    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise DetectorError(f"{model}: no such file; --yunet takes YuNet's ONNX model")
        try:
            self._model = cv2.FaceDetectorYN.create(str(model), "", (320, 320), self.SCORE)
            self._model.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise DetectorError(f"{model}: not a YuNet model that OpenCV reads") from error

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        self._model.setInputSize((image.shape[1], image.shape[0]))
        _, faces = self._model.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows = [] if faces is None else faces
        found = [self.FRAMING.crop(row[:4].tolist(), float(row[14])) for row in rows]
        return sorted(found, key=lambda crop: -crop.size)
