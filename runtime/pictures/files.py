"""Picture files: read upright as RGB or grey with what belongs to them, and written again.

libvips (through pyvips) reads and writes all formats that its wheel holds: PNG, JPEG, WebP, TIFF,
GIF, AVIF. It keeps 16 bits, alpha, ICC profile, EXIF, XMP and resolution, and turns by the
orientation that a file states. BMP, PNM and JPEG 2000, which its wheel lacks, are OpenCV's.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from runtime.pictures.header import (
    ANIMATED_AVIF,
    BY_OPENCV,
    DAMAGED,
    PNG_START,
    ImageError,
    check_size,
    format_of,
    opened,
    pnm_header,
    stated_size,
    turned,
)

DEEP = frozenset((".png", ".tif", ".tiff", ".ppm"))  # take 16 bits a channel
WITH_ALPHA = frozenset((".png", ".webp", ".tif", ".tiff"))
# Pixels that a side may have: the headers of JPEG and WebP hold no more.
MAX_SIDES = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
MAX_PIXELS = 2**28  # of a picture read
# Which profile describes pictures of so many channels.
COLOUR_SPACES = {1: b"GRAY", 3: b"RGB "}
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
BLOBS = ("icc-profile", "exif", "xmp")  # libvips' fields, without "-data"
XMP_ORIENTATION = b"tiff:Orientation"
SCREEN = 72 / 25.4  # pixels a millimetre of a picture that states no resolution
# libvips' resolutions for files that state none: 1, SCREEN, and in PNG SCREEN in whole pixels a metre.
UNSTATED = ((1.0, 1e-6), (SCREEN, 1e-3))  # with what they may be off
LOSSY = 12.0  # quantisation of formats that do not state it
REDUCED_OR_MASK = 0b101  # bits of TIFF's NewSubfileType: a smaller version, or another page's mask
NEW_SUBFILE_TYPE = 254

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        pixels: (H, W, 3) RGB or (H, W, 1) grey; uint8 or uint16.
        alpha: (H, W) of the same type, 0 is transparent; not premultiplied. None where opaque.
        profile: the ICC profile of the colours; none is sRGB.
        exif: EXIF data as read; when written, their orientation and size are the picture's, and
            they have no thumbnail.
        xmp: an XMP packet.
        resolution: pixels a millimetre, horizontal and vertical; None where not stated.
        quantisation: how coarsely its lossy compression rounded brightness: the mean step of a
            JPEG's table in grey levels (12 at quality 90, 58 at 50); 0 if lossless.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    resolution: tuple[float, float] | None = None
    quantisation: float = 0.0

    @property
    def peak(self) -> int:
        """The value of white."""
        return int(np.iinfo(self.pixels.dtype).max)

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, as networks and detectors see it."""
        pixels = _to_8_bits(self.pixels)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def read_picture(path: Path) -> Picture:
    """Read a picture file, upright.

    Raises:
        ImageError: unreadable, empty, not a picture, damaged, animated, of several pages, too
            large, or neither 8 nor 16 bits a channel.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    return decode_picture(str(path), data)


def decode_picture(name: str, data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode the bytes of a picture file; see `read_picture`.

    Args:
        name: for errors.
        max_pixels: that the picture may have; more are refused before they are decoded.
    """
    kind = format_of(name, data)
    if kind in BY_OPENCV:
        return _opencv(name, data, kind, max_pixels)
    try:
        return _vips(name, data, kind, max_pixels)
    except pyvips.Error as error:
        raise ImageError(f"{name}: {DAMAGED}") from error


def _vips(name: str, data: bytes, kind: str, max_pixels: int) -> Picture:
    """Decode with libvips.

    Raises:
        ImageError: the picture is of a kind that is not supported.
        pyvips.Error: it is damaged.
    """
    if (kind == "png" and _is_apng(data)) or (kind == "heif" and data[8:12] == ANIMATED_AVIF):
        raise ImageError(f"{name}: is animated; make a video or single pictures of it first")
    image = opened(data, kind)
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if pages > 1 and kind != "tiff":
        raise ImageError(f"{name}: is animated; make a video or single pictures of it first")
    if pages > 1 and (pages := _pages(name, data)) > 1:
        raise ImageError(f"{name}: has {pages} pages; make single pictures of them first")
    check_size(name, image.width, image.height, max_pixels)
    blobs = {
        field: bytes(image.get(f"{field}-data"))
        for field in BLOBS
        if image.get_typeof(f"{field}-data")
    }
    resolution = (image.xres, image.yres)
    if turned(image):
        image = opened(data, kind, "random").autorot()
        if XMP_ORIENTATION in blobs.get("xmp", b""):
            del blobs["xmp"]  # it would be turned once more
    if image.interpretation == "cmyk":
        image = _without_inks(image)
    elif image.interpretation in ("lab", "labs"):
        image = image.colourspace("srgb")
    if image.format not in ("uchar", "ushort"):
        raise ImageError(f"{name}: {image.format} pixels; 8 or 16 bits a channel are supported")
    # `numpy` drops axes of length 1: the channels of grey pictures, and more of 1×1 pixels.
    pixels = image.numpy().reshape(image.height, image.width, image.bands)
    colours, alpha = _split(name, pixels)
    if kind == "gif" and alpha is not None and alpha.all():
        alpha = None  # libvips gives every GIF an alpha channel
    profile = blobs.get("icc-profile", b"")
    if profile[16:20] != COLOUR_SPACES[colours.shape[2]]:
        profile = b""
    exif, xmp = blobs.get("exif", b""), blobs.get("xmp", b"")
    unstated = any(max(abs(n - value) for n in resolution) < off for value, off in UNSTATED)
    stated = None if unstated else resolution
    return Picture(colours, alpha, profile, exif, xmp, stated, _quantisation(data, kind))


def _quantisation(data: bytes, kind: str) -> float:
    """See `Picture.quantisation`; lossy WebP and AVIF count as JPEGs of quality 90."""
    if kind == "jpeg":
        # Not `Image.open`, whose guard against large pictures is not ours.
        from PIL.JpegImagePlugin import JpegImageFile

        try:
            with JpegImageFile(io.BytesIO(data)) as image:
                tables = image.quantization
        except Exception:  # Pillow refuses some markers that libvips passes over
            return LOSSY
        return float(np.mean(tables[0])) if 0 in tables else LOSSY
    lossy = kind == "heif" or (kind == "webp" and b"VP8 " in data[12:64])
    return LOSSY if lossy else 0.0


def _split(name: str, pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Channels (H, W, 1 to 4) → grey or RGB, and alpha.

    Raises:
        ImageError: there are more channels.
    """
    channels = pixels.shape[2]
    if channels > 4:
        raise ImageError(f"{name}: {channels} channels; at most 4 are supported")
    if channels in (1, 3):
        return pixels, None
    colours, alpha = pixels[:, :, :-1], pixels[:, :, -1]
    return np.ascontiguousarray(colours), np.ascontiguousarray(alpha)


def _without_inks(image: pyvips.Image) -> pyvips.Image:
    """A CMYK picture as sRGB: by its profile, else as if inks were ideal (Pillow does so too)."""
    if image.get_typeof("icc-profile-data"):
        return image.icc_transform("srgb", embedded=True)
    peak = 255 if image.format == "uchar" else 65535
    paper = image.linear(-1, peak)
    colours = paper.extract_band(0, n=3) * paper.extract_band(3) / peak
    return colours.rint().cast(image.format).copy(interpretation="srgb")


def _is_apng(data: bytes) -> bool:
    """Whether a PNG's animation chunk comes before its pixels (PNG, third edition, 11.3.6.1)."""
    return any(kind == b"acTL" for kind in _chunks_before_pixels(data))


def _chunks_before_pixels(data: bytes) -> Iterator[bytes]:
    at = len(PNG_START)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return
        yield kind
        at += 12 + length


def _pages(name: str, data: bytes) -> int:
    """The pages of a TIFF, thumbnails and masks not counted; ImageError if it is damaged."""
    from PIL.TiffImagePlugin import TiffImageFile

    pages = 0
    try:
        with TiffImageFile(io.BytesIO(data)) as image:
            for index in range(image.n_frames):
                image.seek(index)
                pages += not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_OR_MASK
    except Exception as error:  # Pillow's depends on where the directories are damaged
        raise ImageError(f"{name}: {DAMAGED}") from error
    return pages


def _opencv(name: str, data: bytes, kind: str, max_pixels: int) -> Picture:
    width, height, _, _ = stated_size(data, kind)
    check_size(name, width, height, max_pixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{name}: cannot be decoded") from error
    if pixels is None:
        raise ImageError(f"{name}: {DAMAGED}")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name}: {pixels.dtype} pixels; 8 or 16 bits a channel are supported")
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] >= 3:
        pixels = np.ascontiguousarray(pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]])
    if kind == "pnm":
        pixels = _full_scale(pixels, data)
    return Picture(*_split(name, pixels))


def _full_scale(pixels: Pixels, data: bytes) -> Pixels:
    """Scale the samples of a PNM file from the maximum that its header states to white."""
    numbers = pnm_header(data)
    peak = int(np.iinfo(pixels.dtype).max)
    stated = numbers[2] if data[1:2] in b"2356" and len(numbers) >= 3 else peak
    if stated in (0, peak):
        return pixels
    scaled = (pixels.astype(np.uint32) * peak + stated // 2) // stated
    return np.minimum(scaled, peak).astype(pixels.dtype)


def _to_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    # x = 257 high + rest, and x / 257 is rounded by rest / 257: all in at most 16 bits.
    high = (pixels >> 8).astype(np.uint8)
    rest = (pixels & 255).astype(np.int16) - high
    return high + (rest > 128) - (rest < -128)


def encode_picture(picture: Picture, suffix: str) -> bytes:
    """Encode a picture. What the format cannot hold is left out; alpha is laid over white.

    Args:
        suffix: of the file: ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp" or ".ppm".

    Raises:
        ImageError: the format cannot hold so large a picture.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if suffix not in DEEP:
        pixels, alpha = _to_8_bits(pixels), None if alpha is None else _to_8_bits(alpha)
    if alpha is not None:
        has_alpha = suffix in WITH_ALPHA
        pixels = np.dstack((pixels, alpha)) if has_alpha else _on_white(pixels, alpha)
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
