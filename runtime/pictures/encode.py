"""Picture files written: PNG, JPEG, WebP and TIFF by libvips, BMP and PPM by OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyvips

from runtime.pictures.header import ImageError
from runtime.pictures.picture import COLOUR_SPACES, Picture, Pixels, to_8_bits
from runtime.pictures.readers.vips import BLOBS, SCREEN

DEEP = frozenset((".png", ".tif", ".tiff", ".ppm"))  # take 16 bits a channel
WITH_ALPHA = frozenset((".png", ".webp", ".tif", ".tiff"))
# Pixels that a side may have: the headers of JPEG and WebP hold no more.
MAX_SIDES = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
# JPEG without chroma subsampling, which would change pixels around the faces. These PNG options
# are faster than libpng's defaults, and give smaller files for photographs.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"compression": 3, "filter": "sub"},
    ".jpg": {"Q": 95, "subsample_mode": "off"},
    ".jpeg": {"Q": 95, "subsample_mode": "off"},
    ".webp": {"lossless": True, "exact": True},
    ".tif": {"compression": "deflate", "predictor": "horizontal"},
    ".tiff": {"compression": "deflate", "predictor": "horizontal"},
}


def encode_picture(picture: Picture, suffix: str) -> bytes:
    """Encode a picture. What the format cannot hold is left out; alpha is laid over white.

    Args:
        suffix: of the file: ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp" or ".ppm".

    Raises:
        ImageError: the format cannot hold so large a picture.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is not None:
        has_alpha = suffix in WITH_ALPHA
        pixels = np.dstack((pixels, alpha)) if has_alpha else _on_white(pixels, alpha)
    if suffix not in DEEP:
        pixels = to_8_bits(pixels)
    if suffix in (".bmp", ".ppm"):
        colours = cv2.cvtColor(
            np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels, cv2.COLOR_RGB2BGR
        )
        return cv2.imencode(suffix, colours)[1].tobytes()
    image = _described(pyvips.Image.new_from_array(np.ascontiguousarray(pixels)), picture)
    # libvips makes EXIF data for files without, unless `keep` leaves them out. Only JPEG needs them
    # to state a resolution.
    exif = picture.exif or (picture.resolution and suffix in (".jpg", ".jpeg"))
    keep = "icc|xmp|exif" if exif else "icc|xmp"
    try:
        return image.write_to_buffer(suffix, keep=keep, **SAVE_OPTIONS[suffix])
    except pyvips.Error as error:
        raise ImageError(
            f"{image.width}×{image.height} pixels are too many for {suffix}; choose another format"
        ) from error


def _on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Pixels over white, so that hidden colours stay hidden in formats without alpha."""
    peak = int(np.iinfo(pixels.dtype).max)
    opacity = alpha[:, :, None].astype(np.float32) / peak
    return np.round(pixels * opacity + peak * (1 - opacity)).astype(pixels.dtype)


def _described(image: pyvips.Image, picture: Picture) -> pyvips.Image:
    """Attach a picture's metadata to its pixels."""
    grey, deep = picture.pixels.shape[2] == 1, image.format == "ushort"
    spaces = {(True, False): "b-w", (True, True): "grey16", (False, True): "rgb16"}
    across, down = picture.resolution or (SCREEN, SCREEN)
    image = image.copy(interpretation=spaces.get((grey, deep), "srgb"), xres=across, yres=down)
    fits = picture.profile[16:20] == COLOUR_SPACES[1 if grey else 3]
    exif = _without_thumbnail(picture.exif)
    blobs = (picture.profile if fits else b"", exif, picture.xmp)
    for field, blob in zip(BLOBS, blobs, strict=True):
        if blob:
            image.set_type(pyvips.GValue.blob_type, f"{field}-data", blob)
    if exif:
        image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    return image


def _without_thumbnail(exif: bytes) -> bytes:
    """EXIF data without the thumbnail, which would show the picture as it was; b"" if damaged."""
    if not exif:
        return b""
    from PIL import Image

    tags = Image.Exif()
    try:
        tags.load(exif)
        return tags.tobytes()  # writes the directories of the picture, not the thumbnail's
    except Exception:  # Pillow raises what the damage leads to
        return b""
