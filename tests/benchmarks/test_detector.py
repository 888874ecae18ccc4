"""`python -m benchmarks.detector`: which detections count, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, one_line_error
from numpy.typing import NDArray

from benchmarks.detector import Portrait, measure, measure_mosaic, table
from runtime.faces.crop import Crop
from runtime.faces.detect import YuNetDetector

Faces = tuple[NDArray[np.uint8], NDArray[np.float32]]


class AlwaysWrong(YuNetDetector):
    """Returns a square in the corner of every picture."""

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        return [Crop(0, 0, 8)]


def test_detections_are_counted(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.detector.MOSAIC", 4)
    portraits = [Portrait.around(faces[0][i], faces[1][i]) for i in range(5)]
    detector = YuNetDetector()
    upright = measure(detector, [p.of(40) for p in portraits])
    assert upright.recall > 0.9
    assert upright.milliseconds > 0
    lying = measure(detector, [p.of(60).rotated(90) for p in portraits], 90)
    assert lying.recall > 0.7
    assert lying.off is not None
    assert lying.off < 20, f"rotation error {lying.off:.0f}°"
    mosaic = measure_mosaic(detector, portraits, 24)
    assert mosaic.recall > 0.9
    assert mosaic.false < 3
    wrong = measure(AlwaysWrong(), [p.of(40) for p in portraits])
    assert (wrong.recall, wrong.false) == (0, 5)


def test_dark_and_turned_faces_are_told_apart(faces: Faces) -> None:
    portraits = [Portrait.around(faces[0][i] // (1 + i), faces[1][i]) for i in range(3)]
    assert portraits[0].luma > portraits[1].luma > portraits[2].luma
    profile = faces[1][0].copy()
    profile[27:36, 0] = profile[:27, 0].max()  # the nose at the outline's edge
    assert Portrait.around(faces[0][0], profile).turn == pytest.approx(1, abs=0.1)
    assert all(p.turn < 0.5 for p in portraits)


def test_the_command(here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.detector.MOSAIC", 4)
    monkeypatch.setattr("benchmarks.detector.EMPTY", ("coffee",))
    monkeypatch.setattr("benchmarks.detector.EMPTY_SCALES", (0.35,))
    done = here("benchmarks.detector", "--count", 3, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert table(json.loads((tmp_path / "found.json").read_text())) in done.stdout
    assert "| most turned fifth, 16 px |" in done.stdout
    assert "| rotated by 180° |" in done.stdout
    assert "| 16 faces of 40 px |" in done.stdout
    assert "| 2 pictures without a face |" in done.stdout
    assert "neither a folder" in one_line_error(here("benchmarks.detector", "--faces", "none"), 2)


@pytest.mark.parametrize("width", [10, 80])
def test_portraits_are_scaled_with_their_faces(faces: Faces, width: int) -> None:
    portrait = Portrait.around(faces[0][0], faces[1][0])
    scaled = portrait.of(width)
    assert scaled.side == pytest.approx(1.75 * width)
    share = portrait.centre / portrait.image.shape[1]
    np.testing.assert_allclose(scaled.centre / scaled.image.shape[1], share, atol=0.01)
