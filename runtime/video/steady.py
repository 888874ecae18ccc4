"""Landmarks that stand still on a face that does: each is averaged over the frames around.

A landmark is read from the highest cells of a heatmap, of 4 pixels each in a restored face. Noise
of one grey level in the video moves it from cell to cell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.faces.face import Face
from runtime.video.tracks import smoothing

Tell = Callable[[float, list[Face]], object]


class Steady:
    """Tells each frame's faces in order, once the frames that follow are known.

    Args:
        rate: frames per second.
        tell: is called for each frame with its time in seconds and its faces.
    """

    def __init__(self, rate: float, tell: Tell) -> None:
        self._tell, self._weights = tell, smoothing(rate)
        self._reach = len(self._weights) // 2
        self._frames: deque[tuple[float, dict[int, Face]]] = deque()  # faces by their track
        self._next = 0  # index in it of the frame to be told

    def add(self, seconds: float, tracks: Iterable[int], faces: Iterable[Face]) -> None:
        """Take the next frame's time, and its faces with the number of each one's track."""
        self._frames.append((seconds, dict(zip(tracks, faces, strict=True))))
        if len(self._frames) > self._next + self._reach:
            self._tell_next()

    def close(self) -> None:
        """Tell the frames that are left."""
        while self._next < len(self._frames):
            self._tell_next()

    def _tell_next(self) -> None:
        seconds, faces = self._frames[self._next]
        self._tell(seconds, [self._averaged(track, face) for track, face in faces.items()])
        self._next += 1
        if self._next > self._reach:
            self._frames.popleft()
            self._next -= 1

    def _averaged(self, track: int, face: Face) -> Face:
        """A face of the next frame, its landmarks averaged in pixels of the picture."""
        if face.landmarks is None:
            return face
        total, share = np.zeros(face.landmarks.shape), 0.0
        first = self._next - self._reach
        for index in range(max(0, first), min(len(self._frames), self._next + self._reach + 1)):
            other = self._frames[index][1].get(track)
            if other is not None and other.points is not None:
                total += self._weights[index - first] * other.points
                share += self._weights[index - first]
        return replace(face, landmarks=_in_face(face, total / share))


def _in_face(face: Face, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """(K, 2) pixels of the picture → pixels of the restored face."""
    turned = np.linalg.inv(face.matrix[:, :2])
    return ((points - face.matrix[:, 2]) @ turned.T).astype(np.float32)
