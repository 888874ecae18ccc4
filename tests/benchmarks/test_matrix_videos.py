"""A part of the matrix of videos; all of it is `python -m benchmarks.matrix videos`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("imageio_ffmpeg")

from benchmarks.formats.cell import Result
from benchmarks.formats.videos.cells import cells, named
from benchmarks.formats.videos.scene import LAYOUTS, TURNS, picture, samples, seen, stored

PART = {
    ("codecs", "mkv, libx265", "gray"),
    ("times", "mkv, libx264", "uneven"),
    ("edit lists", "mp4, libx264", "middle cut out, with sound"),
    ("rotation", "mov, libx264", "transposed"),
    ("shape", "mp4, libvpx-vp9", "pixels of 4:3"),
    ("colour", "mov, prores_ks", "curve arib-std-b67"),
    ("streams", "mp4, libx264", "a cover"),
}


def test_a_part_of_the_matrix_is_right_or_refused(tiny_engine: Path) -> None:
    chosen = [one for one in named() if tuple(one[0].values()) in PART]
    assert len(chosen) == len(PART)
    found = list(cells(chosen, tiny_engine))
    wrong = [str(cell) for cell in found if cell.result is Result.WRONG]
    assert not wrong, wrong
    assert [cell.axes["subject"] for cell in found if cell.result is Result.REFUSED] == ["colour"]


def test_each_cell_of_the_matrix_has_a_name_of_its_own() -> None:
    names = [tuple(axes.values()) for axes, _ in named()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("turn", TURNS)
def test_the_scene_is_read_as_it_was_made(turn: str) -> None:
    upright = np.ascontiguousarray(TURNS[turn](stored(21, turn)))
    assert np.array_equal(upright, picture(21, *upright.shape[:2]))
    assert seen(upright)[0] == 21


def test_samples_are_those_of_the_specification() -> None:
    """H.273: limited range has black at 16 and white at 235; colours without one, 128."""
    for level, luma in ((0, 16), (255, 235)):
        grey = np.full((8, 8, 3), level, np.uint8)
        planes = samples(grey, "yuv420p", "bt709", False)
        assert set(planes[:64]) == {luma}
        assert set(planes[64:]) == {128}
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert samples(red, "yuv444p", "bt709", False)[::64] == bytes((63, 102, 240))  # BT.709, table
    assert {layout.bits for layout in LAYOUTS.values()} == {8, 10, 12, 16}
