"""Data augmentation (position, size, rotation, light, colour) and degradation of the inputs.

At run time, faces are cropped by a detector and not as in the data set, and pictures have camera
noise and JPEG artefacts. Augmentation (`varied`) changes input and target alike; degradation
(`degraded`) changes the input only.
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
from train.data.pictures import Face, Picture

if TYPE_CHECKING:
    from train.recipe import Augment, Degrade

MAX_DEGRADED_SIZE = 96  # pixels; degraded faces are resized to between LQ_SIZE and this
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as in Pillow and OpenCV


def varied(picture: Picture, ranges: Augment, rng: np.random.Generator) -> Face:
    """Crop a face from a picture with random position, size, rotation, light and colour.

    Where the crop exceeds the picture, the picture's edge pixels are repeated.

    Returns:
        the face (128, 128, 3) uint8 RGB and its landmarks (K, 2) float32, pixels of the face.
    """
    left, top, right, bottom = picture.box
    side = (right - left) * math.exp(rng.uniform(-1, 1) * math.log1p(ranges.scale))
    # The box's edges are pixel edges, but integers are pixel centres: half a pixel less.
    centre = np.array([left + right, top + bottom]) / 2 - 0.5
    centre += rng.uniform(-ranges.shift, ranges.shift, 2) * (right - left)
    angle = math.radians(rng.uniform(-ranges.turn, ranges.turn))
    image, points = _rotated_crop(picture, centre, side, angle)
    return _recoloured(image, ranges, rng), points


def _rotated_crop(
    picture: Picture, centre: NDArray[np.float64], side: float, angle: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crop a rotated square and resize it to 128×128, with antialiasing.

    The picture is first reduced with Pillow's bicubic, which antialiases, and then rotated at its
    new scale, where no further antialiasing is needed.

    Args:
        centre: (x, y) of the square, pixels of the picture.
        side: of the square, pixels of the picture.
        angle: in radians.
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
    # Pixels of the crop → pixels of the picture → pixels of the reduced picture.
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


def _recoloured(
    image: NDArray[np.uint8], ranges: Augment, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Apply random gains per channel, a random gamma and, sometimes, conversion to grey."""
    gains = np.exp(rng.normal(0, 1, 3) * ranges.colour + rng.normal() * ranges.exposure)
    gamma = math.exp(rng.normal() * ranges.exposure / 2)
    grey = rng.random() < ranges.grey
    if ranges.colour or ranges.exposure:
        levels = np.arange(256) / 255
        tables = 255 * (levels[:, None] ** gamma * gains)  # (256, 3)
        table = tables.round().clip(0, 255).astype(np.uint8)
        image = np.stack([table[image[..., c], c] for c in range(3)], axis=-1)
    if grey:
        luma = (image @ np.array(GREY)).round().astype(np.uint8)
        image = np.repeat(luma[..., None], 3, axis=2)
    return image


def degraded(
    face: NDArray[np.uint8], limits: Degrade, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Degrade a face with probability `limits.share`: blur, resize, add noise, compress as JPEG.

    Args:
        face: (128, 128, 3) uint8 RGB.

    Returns:
        the face itself, or the degraded face (S, S, 3) uint8, S from LQ_SIZE to MAX_DEGRADED_SIZE.
    """
    if rng.random() < limits.share:
        sigma, noise = rng.uniform(0, limits.blur), rng.uniform(0, limits.noise)
        size = round(math.exp(rng.uniform(math.log(LQ_SIZE), math.log(MAX_DEGRADED_SIZE))))
        compressed, quality = rng.random() < 0.5, int(rng.integers(limits.jpeg, 101))
        if sigma > 0.1:
            face = np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)
        face = np.array(Image.fromarray(face).resize((size, size), Image.Resampling.BICUBIC))
        levels = face + rng.normal(0, 1, face.shape) * noise
        face = levels.round().clip(0, 255).astype(np.uint8)
        if compressed:
            file = io.BytesIO()
            Image.fromarray(face).save(file, "jpeg", quality=quality)
            face = np.array(Image.open(file))
    return face
