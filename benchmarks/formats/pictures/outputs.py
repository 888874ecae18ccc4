"""What is written of a picture, read by decoders that did not write it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import Values
from runtime.pictures.encode import encode_picture
from runtime.pictures.picture import Picture

SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".bmp", ".ppm")
WITH_ALPHA, DEEP = (".png", ".webp", ".tif"), (".png", ".tif", ".ppm")
WITH_PROFILE = (".png", ".jpg", ".webp", ".tif")
WITH_RESOLUTION = (".png", ".jpg", ".tif")
# Levels of 8 bits: JPEG of quality 95 (its chroma is not subsampled), and the rounding of deep
# samples to 8 bits.
JPEG, ROUNDED, EXACT = 25.0, 0.51, 0.004


def difference(picture: Picture, suffix: str) -> str:
    """How a picture that was written differs from what it should be; "" if it does not."""
    data = encode_picture(picture, suffix)
    pixels, described = _read(data, suffix)
    # Decoders drop axes of length 1.
    found = pixels.reshape(*picture.pixels.shape[:2], -1) / np.iinfo(pixels.dtype).max
    wanted = _wanted(picture, suffix)
    if found.shape != wanted.shape:
        return f"shape {found.shape}, not {wanted.shape}"
    off = np.abs(found - wanted) * 255
    lossless = picture.pixels.dtype == np.uint8 or suffix in DEEP
    limit = JPEG if suffix == ".jpg" else EXACT if lossless else ROUNDED
    if off.max() > limit:
        return f"pixels differ by up to {off.max():.3g} levels of 8 bits"
    kept = b"" if suffix == ".webp" and picture.pixels.shape[2] == 1 else picture.profile
    if suffix in WITH_PROFILE and (described.get("icc_profile") or b"") != kept:
        return "another profile"
    stated = described.get("dpi")
    if picture.resolution and suffix in WITH_RESOLUTION:
        inch = [25.4 * n for n in picture.resolution]
        if stated is None or not np.allclose(
            [float(n) for n in stated], inch, rtol=0.02, atol=0.51
        ):
            return f"resolution {stated}, not {inch}"
    return ""


def _wanted(picture: Picture, suffix: str) -> Values:
    """(H, W, channels) in 0..1; without alpha it is laid over white."""
    pixels = picture.pixels / picture.peak
    if suffix in (".bmp", ".ppm") and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, 2)
    if picture.alpha is None:
        wanted = pixels
    else:
        alpha = picture.alpha[:, :, None] / picture.peak
        if suffix not in WITH_ALPHA:
            eight = picture.pixels.dtype == np.uint8 or suffix != ".ppm"
            levels = 255 if eight else 65535
            shown = np.round((pixels * alpha + 1 - alpha) * levels) / levels
            return np.repeat(shown, 3, 2) if shown.shape[2] == 1 and suffix == ".ppm" else shown
        wanted = np.dstack((pixels, alpha))
    if suffix == ".webp" and wanted.shape[2] < 3:  # which has no grey
        grey = np.repeat(wanted[:, :, :1], 3, 2)
        wanted = np.dstack((grey, wanted[:, :, 1:]))
    return wanted


def _read(data: bytes, suffix: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """The pixels, and what the file says of itself, as Pillow names it."""
    import cv2
    import tifffile
    from PIL import Image

    if suffix == ".tif":
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tags = file.pages[0].tags  # type: ignore[union-attr]
            scale = {2: 1.0, 3: 2.54}.get(tags.valueof(296), 0.0)
            dpi = [scale * (tags.valueof(tag) or (0, 1))[0] / (tags.valueof(tag) or (0, 1))[1]
                   for tag in (282, 283)]  # fmt: skip
            return file.asarray(), {"dpi": dpi, "icc_profile": tags.valueof(34675) or b""}
    with Image.open(io.BytesIO(data)) as image:
        described: dict[str, Any] = {str(key): value for key, value in image.info.items()}
        if {282, 283} <= set(exif := image.getexif()):  # Pillow takes one for both
            described["dpi"] = exif[282], exif[283]
        found: NDArray[Any] = np.asarray(image)
    if suffix in (".png", ".ppm"):  # Pillow has no RGB of 16 bits
        found = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        if found.ndim == 3 and found.shape[2] >= 3:
            found = found[:, :, [2, 1, 0, *range(3, found.shape[2])]]
        if suffix == ".png" and data[25] == 4:  # grey with alpha, of which OpenCV makes RGBA
            found = found[:, :, [0, 3]]
    return found, described
