"""Training faces varied: place, size and turn, light and colour, and inputs as they are in life.

The network meets faces that a detector framed, not the data set's own framing, and pictures that a
camera took and JPEG packed. The target is always the undamaged face; only what the network sees of
it is damaged (`degraded`).
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dic.sizes import LQ_SIZE, SR_SIZE
from train.data.datasets import Face, Picture

if TYPE_CHECKING:
    from train.recipe import Augment, Degrade

LARGEST_SEEN = 96  # pixels a face is wide in a degraded photograph; the smallest is LQ_SIZE
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, Pillow's and OpenCV's grey


def varied(picture: Picture, how: Augment, rng: np.random.Generator) -> Face:
    """One face (128, 128, 3) uint8 of a picture, and its landmarks (K, 2), at random as `how` says.

    What the varied square takes in beyond the picture is its edge, repeated.
    """
    left, top, right, bottom = picture.box
    side = (right - left) * math.exp(rng.uniform(-1, 1) * math.log1p(how.scale))
    # Where whole numbers are pixel centres, the box's middle is half a pixel before its middle.
    centre = np.array([left + right, top + bottom]) / 2 - 0.5
    centre += rng.uniform(-how.shift, how.shift, 2) * (right - left)
    angle = math.radians(rng.uniform(-how.turn, how.turn))
    image, points = _square(picture, centre, side, angle)
    return _lit(image, how, rng), points


def _square(
    picture: Picture, centre: NDArray[np.float64], side: float, angle: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A turned square of a picture, antialiased, 128×128.

    Shrunk first by Pillow's bicubic, which antialiases, then turned at that scale, which cannot
    alias.
    """
    image, scale = picture.image, np.ones(2)
    height, width = image.shape[:2]
    factor = SR_SIZE / side
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        scale = np.array(size) / (width, height)
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    # Pixels of the square → pixels of the picture → pixels of the shrunk picture.
    back = turn * (side / SR_SIZE)
    origin = centre - back @ np.full(2, (SR_SIZE - 1) / 2)
    matrix = np.column_stack((scale[:, None] * back, (origin + 0.5) * scale - 0.5))
    face = cv2.warpAffine(
        image,
        matrix,
        (SR_SIZE, SR_SIZE),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    points = (picture.landmarks - origin) @ np.linalg.inv(back).T
    return np.asarray(face, np.uint8), points.astype(np.float32)


def _lit(image: NDArray[np.uint8], how: Augment, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same face in another light."""
    gains = np.exp(rng.normal(0, 1, 3) * how.colour + rng.normal() * how.exposure)
    gamma = math.exp(rng.normal() * how.exposure / 2)
    grey = rng.random() < how.grey
    if how.colour or how.exposure:
        levels = np.arange(256) / 255
        tables = 255 * (levels[:, None] ** gamma * gains)  # (256, 3)
        table = tables.round().clip(0, 255).astype(np.uint8)
        image = np.stack([table[image[..., c], c] for c in range(3)], axis=-1)
    if grey:
        luma = (image @ np.array(GREY)).round().astype(np.uint8)
        image = np.repeat(luma[..., None], 3, axis=2)
    return image


def degraded(face: NDArray[np.uint8], how: Degrade, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A face (128, 128, 3) as it is, or damaged as `how` says and then of another size."""
    if rng.random() < how.share:
        sigma, noise = rng.uniform(0, how.blur), rng.uniform(0, how.noise)
        size = round(math.exp(rng.uniform(math.log(LQ_SIZE), math.log(LARGEST_SEEN))))
        packed, quality = rng.random() < 0.5, int(rng.integers(how.jpeg, 101))
        if sigma > 0.1:
            face = np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)
        face = np.array(Image.fromarray(face).resize((size, size), Image.Resampling.BICUBIC))
        levels = face + rng.normal(0, 1, face.shape) * noise
        face = levels.round().clip(0, 255).astype(np.uint8)
        if packed:
            file = io.BytesIO()
            Image.fromarray(face).save(file, "jpeg", quality=quality)
            face = np.array(Image.open(file))
    return face
