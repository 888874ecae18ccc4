"""Detecting the faces of a video's frames."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import Future

from runtime.faces.crop import Crop
from runtime.faces.detect import Detector, YuNetDetector
from runtime.video.reader import Frame

PER_SECOND = 2  # searches at all rotations in a part without upright faces


class FrameSearch:
    """Detects faces frame by frame, in any number of threads; the result does not depend on them.

    A search at all rotations, which detectors add where no upright face is found, takes far longer
    than one for upright faces. It is done for the first frame of each half second; the others of
    the half second are searched so as well only if it found rotated faces.

    Args:
        detector: one of another kind than `YuNetDetector` searches every frame as a picture.
        rate: frames per second.
    """

    def __init__(self, detector: Detector, rate: float) -> None:
        self._detector = detector
        self._find_upright = detector.find
        # A class derived from it with another `find` is another kind.
        if isinstance(detector, YuNetDetector) and type(detector).find is YuNetDetector.find:
            self._find_upright = detector.find_upright
        self._interval = max(1, round(rate / PER_SECOND))
        self._rotated: dict[int, Future[bool]] = defaultdict(Future)  # by interval
        self._lock = threading.Lock()

    def find(self, frame: Frame) -> list[Crop]:
        """The faces of a frame. Frames must be begun in their order."""
        interval, position = divmod(frame.number, self._interval)
        with self._lock:
            rotated = self._rotated[interval]
        if position:
            find = self._detector.find if rotated.result() else self._find_upright
            return find(frame.pixels)
        try:
            crops = self._detector.find(frame.pixels)
        except BaseException as error:
            rotated.set_exception(error)  # others wait for it
            raise
        rotated.set_result(any(crop.angle for crop in crops))
        return crops
