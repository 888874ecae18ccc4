"""Pictures in and out: any that OpenCV reads, upright, RGB, and kept as they were elsewhere.

A grey picture stays grey, a 16-bit one 16-bit, an alpha channel is carried along.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

READABLE = frozenset((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"))
COLOURS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
WRITABLE = READABLE - {".pgm"}
DEEP = frozenset((".png", ".tif", ".tiff", ".ppm"))  # take 16 bits a channel
WITH_ALPHA = frozenset((".png", ".webp", ".tif", ".tiff"))
JPEG_QUALITY = 95
JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\x00", b"MM\x00*")

Pixels = NDArray[Any]


class ImageError(Exception):
    """A picture cannot be read or written; the message is one line."""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        pixels: (H, W, 3) RGB or (H, W, 1) grey; uint8 or uint16.
        alpha: (H, W) of the same type, or None.
    """

    pixels: Pixels
    alpha: Pixels | None = None

    @property
    def peak(self) -> int:
        """The value of white."""
        return int(np.iinfo(self.pixels.dtype).max)

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, as networks and detectors see it."""
        pixels = self.pixels
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def read_picture(path: Path) -> Picture:
    """Read a picture file, turned upright by its EXIF orientation.

    Raises:
        ImageError: unreadable, empty, no picture, damaged, too large, or of floats.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    if not data.size:
        raise ImageError(f"{path}: the file is empty")
    # This mode turns by EXIF and keeps depth and grey, but drops alpha.
    upright = _decode(path, data, COLOURS)
    if data[:3].tobytes() == JPEG_START:
        return Picture(upright)  # has no alpha: spare it the second decoding
    raw = _decode(path, data, cv2.IMREAD_UNCHANGED)
    if raw.shape[2] != 4:
        return Picture(upright)
    if data[:4].tobytes() in TIFF_STARTS and raw.dtype == np.uint8:
        raw = _unmultiplied(raw)
    # The mode that keeps alpha ignores EXIF: find out how the other one turned the picture.
    lying = _decode(path, data, COLOURS | cv2.IMREAD_IGNORE_ORIENTATION)
    pairs = zip(_turns(lying), _turns(raw), strict=True)
    turned = next((alike for seen, alike in pairs if np.array_equal(seen, upright)), raw)
    return Picture(np.ascontiguousarray(turned[:, :, 2::-1]), np.ascontiguousarray(turned[:, :, 3]))


def _unmultiplied(image: Pixels) -> Pixels:
    """Undo what OpenCV does to transparent 8-bit TIFFs: colours scaled by alpha, and rounded."""
    alpha = image[:, :, 3:].astype(np.float32)
    colours = np.round(image[:, :, :3] * (255 / np.maximum(alpha, 1)))
    return np.dstack((np.minimum(colours, 255).astype(np.uint8), image[:, :, 3]))


def _turns(image: Pixels) -> Iterator[Pixels]:
    """The eight ways in which EXIF can turn a picture, as it is first."""
    for flat in (image, image[:, ::-1]):
        for quarter in range(4):
            yield np.rot90(flat, quarter)


def _decode(path: Path, data: NDArray[np.uint8], flags: int) -> Pixels:
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            limit = os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]
            raise ImageError(
                f"{path}: larger than {limit} pixels; shrink it, or set "
                "OPENCV_IO_MAX_IMAGE_PIXELS to more"
            ) from error
        raise ImageError(f"{path}: cannot be decoded") from error
    if image is None:
        raise ImageError(f"{path}: not a picture, or a damaged one")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: {image.dtype} pixels; 8 or 16 bits a channel are supported")
    if image.ndim == 2:
        return cast(Pixels, image[:, :, None])
    if image.shape[2] == 3:
        return cast(Pixels, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return cast(Pixels, image)


def encode_picture(picture: Picture, suffix: str) -> bytes:
    """A picture as the bytes of a file; what the format cannot hold (alpha, 16 bits) is left out.

    Args:
        suffix: of the file, one of WRITABLE.

    Raises:
        ImageError: the format cannot hold so large a picture.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if picture.peak > 255 and suffix not in DEEP:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        alpha = None if alpha is None else ((alpha.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if suffix == ".ppm":
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    if pixels.shape[2] == 3:
        pixels = pixels[:, :, ::-1]
    if alpha is not None and suffix in WITH_ALPHA:
        colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
        pixels = np.dstack((colour, alpha))
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise ImageError(
            f"{width}×{height} pixels are too many for {suffix}; choose another format"
        )
    return data.tobytes()
