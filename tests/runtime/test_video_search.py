"""Detecting the faces of a video's frames: which are searched at all rotations."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime.engines.batching import overlapped
from runtime.faces.crop import Crop
from runtime.faces.detect import YuNetDetector
from runtime.video.reader import Frame
from runtime.video.search import FrameSearch


class Counting(YuNetDetector):
    """Counts the searches at all rotations."""

    rotated = 0

    def _find_rotated(self, image: NDArray[np.uint8]) -> list[Crop]:
        self.rotated += 1
        return super()._find_rotated(image)


def frames(image: NDArray[np.uint8], count: int) -> list[Frame]:
    return [Frame(number, image, number, Fraction(1, 12)) for number in range(count)]


def astronaut(turn: int) -> NDArray[np.uint8]:
    import skimage.data

    grey = (120, 120, 120)
    portrait = Image.fromarray(skimage.data.astronaut()).crop((96, 0, 352, 256)).resize((40, 40))
    image = Image.new("RGB", (160, 120), grey)
    image.paste(portrait.rotate(-turn, fillcolor=grey), (30, 20))
    return np.asarray(image)


@pytest.mark.parametrize(("turn", "searches"), [(None, 2), (0, 0), (90, 12)])
def test_rotated_faces_are_looked_for_twice_a_second_and_while_there_are_any(
    turn: int | None, searches: int
) -> None:
    """One second of 12 frames: without a face, with an upright one, with one lying."""
    image = np.full((120, 120, 3), 90, np.uint8) if turn is None else astronaut(turn)
    detector = Counting()
    search = FrameSearch(detector, 12.0)
    found = list(overlapped(search.find, frames(image, 12), 2))
    assert [len(crops) for crops in found] == [int(turn is not None)] * 12
    assert detector.rotated == searches


def test_a_detector_that_knows_no_upright_search_sees_every_frame() -> None:
    class Other:
        seen = 0

        def find(self, image: NDArray[np.uint8]) -> list[Crop]:
            self.seen += 1
            return []

    other = Other()
    search = FrameSearch(other, 24.0)
    assert [search.find(frame) for frame in frames(astronaut(0), 5)] == [[]] * 5
    assert other.seen == 5


def test_an_error_in_the_first_frame_reaches_those_that_wait_for_it() -> None:
    class Failing:
        def find(self, image: NDArray[np.uint8]) -> list[Crop]:
            raise MemoryError("none left")

    search = FrameSearch(Failing(), 24.0)
    for frame in frames(astronaut(0), 2):
        with pytest.raises(MemoryError, match="none left"):
            search.find(frame)
