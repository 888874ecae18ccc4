"""The types of picture that the library accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.pictures.files import Picture, read_picture, upright
from runtime.pictures.tiff import ORIENTATION

Bytes = NDArray[np.uint8]


def as_rgb(image: Any) -> Bytes:
    """Convert a picture of any supported type to (H, W, 3) uint8 RGB; see `as_picture`."""
    return as_picture(image).rgb()


def as_picture(image: Any) -> Picture:
    """Convert a picture of any supported type to a `Picture`.

    Args:
        image: a path, a `Picture`, a Pillow image, or an array (H, W), (H, W, 1) or (H, W, 3) of
            uint8 or uint16.

    Raises:
        ValueError: the object is not a picture; the message describes it.
        ImageError: a file cannot be read.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | Path):
        return read_picture(Path(image))
    orientation = 1
    if hasattr(image, "convert") and hasattr(image, "getexif"):  # a Pillow image of any mode
        orientation = image.getexif().get(ORIENTATION, 1)
        image = image if image.mode.startswith("I;16") else image.convert("RGB")
    try:
        pixels = np.asarray(image)
    except Exception as error:  # an object's __array__ may raise any type
        raise ValueError(f"expected a picture, got {type(image).__name__}") from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    known = pixels.dtype in (np.uint8, np.uint16) and pixels.ndim == 3
    if not known or pixels.shape[2] not in (1, 3):
        raise ValueError(
            "a picture must be uint8 or uint16 [height, width, 3] RGB or [height, width] grey, got "
            f"{described(pixels)}"
        )
    if not pixels.size:
        raise ValueError(f"a picture must not be empty, got {described(pixels)}")
    return Picture(upright(pixels, orientation))


def described(array: NDArray[Any]) -> str:
    """Dtype and shape of an array, for messages."""
    return f"{array.dtype} {list(array.shape)}"
