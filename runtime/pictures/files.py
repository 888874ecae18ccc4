"""Pictures in and out: any that OpenCV reads, upright, RGB, and kept as they were elsewhere.

A grey picture stays grey, a 16-bit one 16-bit; an alpha channel, a colour profile and EXIF data
are carried along.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.pictures import png, tiff

COLOURS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
DEEP = frozenset((".png", ".tif", ".tiff", ".ppm"))  # take 16 bits a channel
WITH_ALPHA = frozenset((".png", ".webp", ".tif", ".tiff"))
# Colours as fine as the brightness: with less, what lies around the faces would change.
JPEG_OPTIONS = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]
DAMAGED = "not a picture, or a damaged one"
JPEG_START = b"\xff\xd8\xff"
# What OpenCV writes them into.
WITH_PROFILE = frozenset((".png", ".jpg", ".jpeg", ".webp"))
# Which profile describes pictures of so many channels; a CMYK one does not describe what is read.
COLOUR_SPACES = {3: b"RGB ", 1: b"GRAY"}

Pixels = NDArray[Any]


class ImageError(Exception):
    """A picture cannot be read or written; the message is one line."""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        pixels: (H, W, 3) RGB or (H, W, 1) grey; uint8 or uint16.
        alpha: (H, W) of the same type, or None.
        profile: the ICC profile of its colours; none is sRGB.
        exif: EXIF data as they were read; written, they say that it is upright.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    profile: bytes = b""
    exif: bytes = b""

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
        ImageError: unreadable, empty, no picture, damaged, animated, too large, or of floats.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    return decode_picture(str(path), data)


def decode_picture(name: str, data: NDArray[np.uint8]) -> Picture:
    """A picture of the bytes of a file; see `read_picture`.

    Args:
        name: for errors.
    """
    if not data.size:
        raise ImageError(f"{name}: the file is empty")
    head = data[:64].tobytes()
    is_tiff, is_png = head.startswith(tiff.STARTS), head.startswith(png.START)
    notable = png.examine(data.data) if is_png else png.Png()
    if notable.damaged:
        raise ImageError(f"{name}: {DAMAGED}")
    if notable.animated or _is_animated(head, data):
        raise ImageError(f"{name}: is animated; make a video or single pictures of it first")
    if is_tiff and (pages := tiff.pages(data.data)) > 1:
        raise ImageError(f"{name}: has {pages} pages; make single pictures of them first")
    if notable.misfit:
        data = np.delete(data, notable.misfit)
    # This mode turns by EXIF and keeps depth and grey, but drops alpha.
    upright, profile, exif = _decode(name, data, COLOURS)
    if profile[16:20] != COLOUR_SPACES[upright.shape[2]]:
        profile = b""
    picture = Picture(upright, None, profile, exif)
    if head.startswith(JPEG_START) or (is_png and not notable.alpha):
        return picture  # spared the second decoding
    if is_tiff and tiff.is_separated(data.data):
        return picture
    raw, *_ = _decode(name, data, cv2.IMREAD_UNCHANGED)
    if raw.shape[2] != 4:
        return picture
    if is_tiff and raw.dtype == np.uint8:
        raw = _unmultiplied(raw)
    # The mode that keeps alpha ignores EXIF: find out how the other one turned the picture.
    lying, *_ = _decode(name, data, COLOURS | cv2.IMREAD_IGNORE_ORIENTATION)
    pairs = zip(_turns(lying), _turns(raw), strict=True)
    turned = next((alike for seen, alike in pairs if np.array_equal(seen, upright)), raw)
    return replace(
        picture,
        pixels=np.ascontiguousarray(turned[:, :, 2::-1]),
        alpha=np.ascontiguousarray(turned[:, :, 3]),
    )


def _is_animated(head: bytes, data: NDArray[np.uint8]) -> bool:
    """Whether it is a GIF or WebP of several frames, of which OpenCV reads the first."""
    if head.startswith(b"GIF8"):
        decoded, animation = cv2.imdecodeanimation(data)
        return bool(decoded and len(animation.frames) > 1)
    return head[8:12] == b"WEBP" and b"ANIM" in head


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels (H, W, C) turned as EXIF's orientation, 1 to 8, asks for."""
    turned = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)


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


def _decode(name: str, data: NDArray[np.uint8], flags: int) -> tuple[Pixels, bytes, bytes]:
    """Pixels (H, W, C), with three channels as RGB, with four as BGRA; ICC profile; EXIF."""
    try:
        image, kinds, entries = cv2.imdecodeWithMetadata(data, flags=flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            limit = os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]
            raise ImageError(
                f"{name}: larger than {limit} pixels; shrink it, or set "
                "OPENCV_IO_MAX_IMAGE_PIXELS to more"
            ) from error
        raise ImageError(f"{name}: cannot be decoded") from error
    if image is None:
        raise ImageError(f"{name}: {DAMAGED}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name}: {image.dtype} pixels; 8 or 16 bits a channel are supported")
    found = {
        int(kind): np.asarray(entry).tobytes() for kind, entry in zip(kinds, entries, strict=True)
    }
    profile = found.get(cv2.IMAGE_METADATA_ICCP, b"")
    exif = found.get(cv2.IMAGE_METADATA_EXIF, b"")
    if image.ndim == 2:
        image = image[:, :, None]
    elif image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image, profile, exif


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
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if alpha is not None and suffix in WITH_ALPHA:
        colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
        pixels = np.dstack((colour, alpha))
    options = JPEG_OPTIONS if suffix in (".jpg", ".jpeg") else []
    grey = pixels.shape[2] == 1 and suffix != ".webp"  # which holds RGB only
    describes = picture.profile[16:20] == COLOUR_SPACES[1 if grey else 3]
    profile = picture.profile if describes else b""
    exif = tiff.renewed(picture.exif, pixels.shape[1], pixels.shape[0])
    carried = {cv2.IMAGE_METADATA_ICCP: profile, cv2.IMAGE_METADATA_EXIF: exif}
    kinds = [kind for kind, entry in carried.items() if entry and suffix in WITH_PROFILE]
    entries = [np.frombuffer(carried[kind], np.uint8) for kind in kinds]
    try:
        done, data = cv2.imencodeWithMetadata(
            suffix, np.ascontiguousarray(pixels), kinds, entries, options
        )
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise ImageError(
            f"{width}×{height} pixels are too many for {suffix}; choose another format"
        )
    return data.tobytes()
