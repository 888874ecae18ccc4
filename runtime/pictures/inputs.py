"""The kinds of pictures that the library takes, each as a `Picture`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.pictures.files import read_picture
from runtime.pictures.picture import Picture, fitting, split

if TYPE_CHECKING:
    from PIL.Image import Image


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """A picture of any kind that the library takes, as (H, W, 3) uint8 RGB; see `as_picture`."""
    return as_picture(image).rgb()


def as_picture(image: Any) -> Picture:
    """A picture of any kind that the library takes.

    Args:
        image: a file; an array (H, W, 3) RGB, (H, W, 4) RGB and alpha, or (H, W) grey, of uint8
            or uint16 in any byte order; a picture of Pillow's in any mode but F; or a `Picture`.

    Raises:
        ValueError: it is none of these; the message says what it is.
        ImageError: a file cannot be read.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | Path):
        return read_picture(Path(image))
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        return _of_pillow(image)
    try:
        pixels = np.asarray(image)
    except Exception as error:  # foreign objects raise what they like
        raise ValueError(
            f"a picture must be an array or a file, got {type(image).__name__}"
        ) from error
    return _of_array(pixels)


def _of_array(pixels: NDArray[Any]) -> Picture:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    native = pixels.dtype.newbyteorder("=")
    known = native in (np.uint8, np.uint16) and pixels.ndim == 3
    if not known or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            "a picture must be uint8 or uint16 [height, width, 3] RGB or 4 with alpha, got "
            f"{described(pixels)}"
        )
    if not pixels.size:
        raise ValueError(f"a picture must have pixels, got {described(pixels)}")
    return Picture(*split(pixels.astype(native, copy=False)))


def _of_pillow(image: Image) -> Picture:
    """Pillow's pictures, turned upright by the orientation that their EXIF data state."""
    from PIL import ImageOps

    image.load()  # applies the orientation of a TIFF, and removes the tag
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("a picture of Pillow's mode F has no known range; convert it to L or RGB")
    profile = image.info.get("icc_profile") or b""
    if image.mode.startswith("I"):  # up to 16 bits of grey, in up to 32
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("a picture of Pillow's mode I has levels of 0 to 65535")
        pixels = levels.astype(np.uint16)
    else:
        grey = image.mode in ("1", "L", "LA", "La")
        if image.has_transparency_data:
            mode = "LA" if grey and image.mode != "1" else "RGBA"
        else:
            mode = "L" if grey else "RGB"
        if image.mode == "CMYK" and profile:
            image = _of_inks(image, profile)
        pixels = np.asarray(image.convert(mode))
    height, width = pixels.shape[:2]
    return fitting(Picture(*split(pixels.reshape(height, width, -1)), profile))


def _of_inks(image: Image, profile: bytes) -> Image:
    """CMYK as sRGB by its profile; as it is where that is damaged."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image
    except (OSError, ImageCms.PyCMSError):
        return image


def described(array: NDArray[Any]) -> str:
    """An array's type and shape, for errors."""
    return f"{array.dtype} {list(array.shape)}"
