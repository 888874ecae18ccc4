"""Face detectors: each finds faces in a picture and frames them as the network was trained.

A detector is anything with `find(image) -> list[Crop]`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import Crop, distinct, from_points

SMALLEST = 12  # pixels; the width of a face that is looked for, from ear to ear


class DetectorError(Exception):
    """A detector cannot be used; the message is one line."""


class Detector(Protocol):
    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        """Faces in an (H, W, 3) uint8 RGB picture, largest first. Several threads may ask."""
        ...


@dataclass(frozen=True)
class _Framing:
    """From a detector's box to the training crop: how much larger, and how much lower.

    The training crop holds the face from the hair to below the chin, as drawn faces do. The figures
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


class _PerThread(threading.local):
    """OpenCV's detectors keep what they work on in themselves: each thread needs its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.detector = make()


class HaarDetector:
    """OpenCV's frontal-face cascade (Viola and Jones, 2001). Its file is in OpenCV's wheel.

    Args:
        smallest: pixels, the width of faces that are looked for; without it 12, and more in
            pictures so large that this would take long (over 2.7 megapixels).

    Of the wheel's cascades, `alt2` without histogram equalisation found most faces with the
    fewest false ones (figures in benchmarks/NOTES.md).
    """

    FRAMING = _Framing(margin=1.46, lower=0.02)
    # Pixels, after enlargement, of a face that is found; the cascade's own window is 24, which
    # misses most faces of its size. Smaller pictures are enlarged more, or faces are missed.
    WINDOW = 40
    WORKING_SIDE = 960
    # How many windows must agree, of a face and of a tiny one, which textures resemble more.
    VOTES = (6, 8)
    TINY = 20  # pixels
    MAX_ENLARGEMENT = 4.0
    # Pixels, after enlargement, that are searched unasked: some seconds.
    MOST_SEARCHED = 24_000_000

    def __init__(self, smallest: int | None = None) -> None:
        self._smallest = smallest
        self._thread = _PerThread(self._cascade)

    def _enlargement(self, height: int, width: int) -> float:
        """By how much a picture is enlarged before it is searched. Never made smaller: the faces
        worth restoring are the small ones.
        """
        scale = max(
            self.WORKING_SIDE / max(height, width), self.WINDOW / (self._smallest or SMALLEST)
        )
        if self._smallest is None:
            scale = min(scale, (self.MOST_SEARCHED / (height * width)) ** 0.5)
        return float(np.clip(scale, 1, self.MAX_ENLARGEMENT))

    def _cascade(self) -> cv2.CascadeClassifier:
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"  # type: ignore[attr-defined]
        cascade = cv2.CascadeClassifier(str(path))
        if cascade.empty():
            raise DetectorError(f"{path}: OpenCV's face cascade is missing; reinstall OpenCV")
        return cascade

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        scale = self._enlargement(*image.shape[:2])
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        size = [round(side * scale) for side in (grey.shape[1], grey.shape[0])]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
        boxes, votes = self._thread.detector.detectMultiScale2(
            grey, scaleFactor=1.1, minNeighbors=min(self.VOTES) - 1, minSize=(24, 24)
        )
        few, many = self.VOTES
        found = [
            self.FRAMING.crop(np.divide(box, scale).tolist(), float(count))
            for box, count in zip(boxes, votes, strict=True)
            if count >= (many if box[2] < self.TINY * scale else few)
            and box[2] >= (self._smallest or 0) * scale
        ]
        return distinct(found)


class YuNetDetector:
    """OpenCV's YuNet (Wu et al., 2023), by the path of its ONNX model.

    It finds five points of each face, by which the face is turned upright.
    """

    SCORE = 0.7

    def __init__(self, model: Path) -> None:
        self._path = model
        if not model.is_file():
            raise DetectorError(f"{model}: no such file; --yunet takes YuNet's ONNX model")
        self._thread = _PerThread(self._model)

    def _model(self) -> cv2.FaceDetectorYN:
        try:
            model = cv2.FaceDetectorYN.create(str(self._path), "", (320, 320), self.SCORE)
            model.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise DetectorError(f"{self._path}: not a YuNet model that OpenCV reads") from error
        return model

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        model = self._thread.detector
        model.setInputSize((image.shape[1], image.shape[0]))
        _, faces = model.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows: Any = [] if faces is None else faces
        # A row: box, five points (the eye on the picture's left first), score.
        return distinct([from_points(row[4:14].reshape(5, 2), float(row[14])) for row in rows])
