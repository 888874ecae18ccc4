"""Landmark groups and decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dic.landmarks import FLIP_68, component_matrix, decode, heatmaps
from export.graph.interface import decode as decode_in_graph


@given(st.floats(2, 123.9), st.floats(2, 123.9))
def test_decoding_a_target_heatmap_returns_the_landmark(x: float, y: float) -> None:
    points = np.array([[[x, y]]])
    decoded, peaks = decode(heatmaps(points))
    smaller, larger = np.sort(np.abs(decoded - points).ravel())
    assert smaller <= 1.0 + 1e-4
    assert larger <= 3.0 + 1e-4
    assert 0.75 < peaks[0, 0] <= 1


def test_heatmap_by_hand() -> None:
    maps = heatmaps(np.array([[8.0, 20.0]]))
    assert maps.shape == (1, 32, 32)
    assert maps[0, 5, 2] == 1  # row 20 / 4, column 8 / 4
    assert maps[0, 5, 3] == pytest.approx(np.exp(-0.5))
    assert maps[0, 7, 2] == pytest.approx(np.exp(-2))


def test_decode_by_hand() -> None:
    maps = np.zeros((1, 1, 32, 32), np.float32)
    maps[0, 0, 10, 6], maps[0, 0, 11, 6] = 0.9, 0.8
    points, peaks = decode(maps)
    assert points[0, 0].tolist() == [6 * 4 - 1, 10 * 4 + 1]  # same column: minus one
    assert peaks[0, 0] == pytest.approx(0.9)


def test_decoding_in_the_graph_equals_decoding_in_numpy() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 68, 32, 32)).astype(np.float32)
    expected = decode(maps)
    actual = decode_in_graph(torch.from_numpy(maps))
    for a, b in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_components_do_not_overlap() -> None:
    for landmarks, members in ((68, 68), (194, 38 + 38 + 16 + 55 + 40), (5, 5)):
        matrix = component_matrix(landmarks)
        assert matrix.sum() == members
        assert matrix.sum(0).max() == 1


def test_mirroring_twice_is_the_identity() -> None:
    flip = np.array(FLIP_68)
    assert (flip[flip] == np.arange(68)).all()
    assert flip[36] == 45
    assert flip[48] == 54
    assert flip[8] == 8
