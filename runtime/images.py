"""Pictures in and out: any that OpenCV reads, upright, RGB, and kept as they were elsewhere.

A grey picture stays grey, a 16-bit one 16-bit, an alpha channel is carried along.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime import PIXEL_LIMIT

READABLE = frozenset((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"))
WRITABLE = READABLE - {".pgm"}
DEEP = frozenset((".png", ".tif", ".tiff", ".ppm"))  # take 16 bits a channel
WITH_ALPHA = frozenset((".png", ".webp", ".tif", ".tiff"))
JPEG_QUALITY = 95
JPEG_START = b"\xff\xd8\xff"

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
    pixels = _decode(path, data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if data[:3].tobytes() == JPEG_START:
        return Picture(pixels)  # has no alpha: spare it the second decoding
    raw = _decode(path, data, cv2.IMREAD_UNCHANGED)
    with_alpha = raw.ndim == 3 and raw.shape[2] == 4 and raw.shape[:2] == pixels.shape[:2]
    alpha = raw[:, :, 3] if with_alpha and raw.dtype == pixels.dtype else None
    return Picture(pixels, alpha)


def _decode(path: Path, data: NDArray[np.uint8], flags: int) -> Pixels:
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise ImageError(
                f"{path}: larger than {PIXEL_LIMIT / 1e6:.0f} megapixels; shrink it, or set "
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
    """
    pixels, alpha = picture.pixels, picture.alpha
    if picture.peak > 255 and suffix not in DEEP:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        alpha = None if alpha is None else ((alpha.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.shape[2] == 3:
        pixels = pixels[:, :, ::-1]
    if alpha is not None and suffix in WITH_ALPHA:
        colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
        pixels = np.dstack((colour, alpha))
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    if not done:
        raise ImageError(f"a picture of {pixels.shape} cannot be written as {suffix}")
    return data.tobytes()
