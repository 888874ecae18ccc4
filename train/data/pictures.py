"""Pictures of faces: reading them, and cutting the 128×128 face out."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dic.memory import share_of_core, shown
from dic.sizes import SR_SIZE

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
MAX_BOX_RATIO = 4  # a box may be at most this many times as large as the picture

# A face (128, 128, 3) uint8 RGB and its landmarks (K, 2) float32, (x, y) pixels of the face.
Face = tuple[NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True)
class Picture:
    """A picture that contains one face, not yet cropped to it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        landmarks: (K, 2) float32, (x, y) pixels of the picture; integers are pixel centres.
        box: the face's square (left, top, right, bottom) in pixels; right and bottom exclusive.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    box: tuple[float, float, float, float]

    @staticmethod
    def of(face: Face) -> Picture:
        """Wrap a face that is already cropped to 128×128."""
        return Picture(*face, (0, 0, SR_SIZE, SR_SIZE))

    def face(self) -> Face:
        """Crop to the box and resize to 128×128; see `cut`."""
        return cut(self.image, self.landmarks, self.box)


def read_picture(data: bytes, memory: int | None = None) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB, rotated as its EXIF orientation says.

    Args:
        memory: bytes that decoding may take; more is refused by the header. None is a core's share
            of the machine's memory.

    Raises:
        ValueError: empty, not an image, or too large; damaged files may raise any of Pillow's
            exceptions.
    """
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError("not an image file" if data else "an empty file") from error
    with opened:
        # As stored (4 bytes a pixel, or 16 bits as float64), turned, and as RGB twice.
        each = 24 if opened.mode.startswith("I") else 16
        need = opened.width * opened.height * each
        allowed = share_of_core() if memory is None else memory
        if allowed is not None and need > allowed:
            raise ValueError(f"needs up to {shown(need)} of memory, {shown(allowed)} are allowed")
        upright = ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I"):  # 16 bits per pixel, which Pillow's convert would clip
            levels = np.asarray(upright).astype(np.float64) / 257
            return np.repeat(levels.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.array(upright.convert("RGB"))


def cut(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.float32],
    box: tuple[float, float, float, float],
) -> Face:
    """Crop a picture to a box and resize it to 128×128 with Pillow's bicubic, as the authors do.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (K, 2), (x, y) pixels of the picture.
        box: (left, top, right, bottom) in pixels, right and bottom exclusive. Where it exceeds the
            picture, the picture's edge pixels are repeated.

    Returns:
        the face (128, 128, 3) uint8 and its landmarks (K, 2) float32, pixels of the face.

    Raises:
        ValueError: the box is empty, or far larger than the picture.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = check_box(box, width, height)
    before, after = (max(0, -top), max(0, -left)), (max(0, bottom - height), max(0, right - width))
    if any(before + after):
        pad = ((before[0], after[0]), (before[1], after[1]), (0, 0))
        image = np.pad(image, pad, mode="edge")
    part = image[top + before[0] : bottom + before[0], left + before[1] : right + before[1]]
    # Integers are pixel centres, so the crop's left and top edges are at -0.5.
    scale = np.array([SR_SIZE / (right - left), SR_SIZE / (bottom - top)])
    points = (landmarks - [left, top] + 0.5) * scale - 0.5
    if part.shape[:2] != (SR_SIZE, SR_SIZE):
        crop = Image.fromarray(np.ascontiguousarray(part))
        part = np.array(crop.resize((SR_SIZE, SR_SIZE), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(part), points.astype(np.float32)


def check_box(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Round a box (left, top, right, bottom) to whole pixels.

    Args:
        width, height: of the picture, in pixels.

    Raises:
        ValueError: it is empty, or more than MAX_BOX_RATIO times as large as the picture.
    """
    left, top, right, bottom = map(round, box)
    if right <= left or bottom <= top:
        raise ValueError(f"an empty box ({left}, {top}, {right}, {bottom})")
    if max(right - left, bottom - top) > MAX_BOX_RATIO * max(height, width):
        raise ValueError(f"a box ({left}, {top}, {right}, {bottom}) far larger than the picture")
    return left, top, right, bottom
