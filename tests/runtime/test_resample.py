"""Bicubic resizing, bit by bit as Pillow does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.pictures.resample import resize, shrink
from train.data.pairs import shrink as training_shrink


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_squares_are_resized_as_pillow_does(old: int, new: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (old, old, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((new, new), Image.BICUBIC))
    np.testing.assert_array_equal(resize(image, (new, new)), expected)


@pytest.mark.parametrize(("size", "new"), [((40, 90), (16, 90)), ((90, 40), (90, 7))])
def test_one_axis_alone(size: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(new, Image.BICUBIC))
    np.testing.assert_array_equal(resize(image, new), expected)


def test_crops_shrink_as_in_training(faces: tuple[np.ndarray, np.ndarray]) -> None:
    for image in faces[0][:8]:
        np.testing.assert_array_equal(shrink(image, 128), training_shrink(image))
    large = np.random.default_rng(2).integers(0, 256, (611, 611, 3), dtype=np.uint8)
    middle = np.asarray(Image.fromarray(large).resize((128, 128), Image.BICUBIC))
    np.testing.assert_array_equal(shrink(large, 128), training_shrink(middle))
