"""Files that libvips (through pyvips) decodes: it keeps 16 bits, alpha and metadata, and turns by
the orientation that a file states.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyvips

from runtime.pictures.header import DAMAGED, Header, ImageError
from runtime.pictures.picture import Opened, Picture, fitting, split

BLOBS = ("icc-profile", "exif", "xmp")  # libvips' fields, without "-data"
XMP_ORIENTATION = b"tiff:Orientation"
TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange width and height
SCREEN = 72 / 25.4  # pixels a millimetre of a picture that states no resolution
# libvips' resolutions for files that state none, and what they may be off: those of PNGs are SCREEN
# in whole pixels a metre.
UNSTATED = ((1.0, 1e-6), (SCREEN, 1e-3))
# GLib writes a line to standard error about each size that its numbers do not hold. It goes the way
# of libvips' own lines, to the logger of pyvips, and all end there: our errors say what they say.
GLIB, ALL_LEVELS = b"GLib-GObject", 0xFF
pyvips.glib_lib.g_log_set_handler(GLIB, ALL_LEVELS, pyvips._log_handler_cb, pyvips.ffi.NULL)
logging.getLogger("pyvips").setLevel(logging.CRITICAL + 1)
ANIMATED = "is animated; make a video or single pictures of it first"


def _as_it_is(image: pyvips.Image) -> pyvips.Image:
    return image


@dataclass(frozen=True)
class Loader:
    """How libvips reads a file.

    Attributes:
        kind: the name of its loader.
        options: of the loader.
        convert: makes grey or RGB of the image, alpha last, by operations that compute nothing yet.
        finish: changes the picture that was read.
        pages: it may have several.
        resolution: it says in which unit its resolution is.
        scratch: see `Header`.
        fail_on: which of the decoder's complaints are errors: "truncated" (only that the file ends
            too early), "error", or "warning" (all).
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    convert: Callable[[pyvips.Image], pyvips.Image] = _as_it_is
    finish: Callable[[Picture], Picture] = lambda picture: picture
    pages: bool = False
    resolution: bool = True
    scratch: int = 0
    fail_on: str = "truncated"

    def load(self, data: bytes, access: str = "sequential") -> pyvips.Image:
        """An image whose pixels are not decoded yet.

        Args:
            access: "sequential" reads lines once, from above; "random" copies the picture first.

        Raises:
            pyvips.Error: it is damaged.
        """
        load = getattr(pyvips.Image, f"{self.kind}load_buffer")
        return load(data, access=access, fail_on=self.fail_on, **self.options)


@contextmanager
def damage(name: str) -> Iterator[None]:
    """Errors of libvips as ImageError: a damaged file."""
    try:
        yield
    except pyvips.Error as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    except UnicodeDecodeError as error:
        # libvips quotes bytes of the file, and pyvips reads its text as UTF-8 before it clears it.
        pyvips.vips_lib.vips_error_clear()
        raise ImageError(f"{name}: {DAMAGED}") from error


def opened(name: str, data: bytes, loader: Loader) -> Opened:
    """Open a file.

    Raises:
        ImageError: it is damaged or animated, has other samples than of 8 or 16 bits, or more than
            4 channels.
    """
    with damage(name):
        image = loader.load(data)
        pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
        if pages > 1 and not loader.pages:
            raise ImageError(f"{name}: {ANIMATED}")
        converted = loader.convert(image)
    if converted.format not in ("uchar", "ushort"):
        raise ImageError(f"{name}: {converted.format} pixels; 8 or 16 bits a channel are supported")
    if converted.bands > 4:
        raise ImageError(f"{name}: {converted.bands} channels; at most 4 are supported")
    bands = max(image.bands, converted.bands)
    depth = 1 if converted.format == image.format == "uchar" else 2
    header = Header(image.width, image.height, bands, depth, turned(image), loader.scratch)

    def decode() -> Picture:
        with damage(name):
            return loader.finish(_decoded(data, loader, image))

    return Opened(header, decode)


def turned(image: pyvips.Image) -> bool:
    """Whether a file states an orientation other than upright."""
    return bool(image.get_typeof("orientation")) and 2 <= image.get("orientation") <= 8


def unturned(xmp: bytes) -> bytes:
    """The XMP packet of a picture that was turned: none if it would be turned once more."""
    return b"" if XMP_ORIENTATION in xmp else xmp


def _decoded(data: bytes, loader: Loader, image: pyvips.Image) -> Picture:
    """Decode all pixels.

    Raises:
        pyvips.Error: the file is damaged.
    """
    blobs = {
        field: bytes(image.get(f"{field}-data"))
        for field in BLOBS
        if image.get_typeof(f"{field}-data")
    }
    resolution = (image.xres, image.yres)
    if turned(image):
        if image.get("orientation") in TRANSPOSED:
            resolution = resolution[::-1]
        image = loader.load(data, "random").autorot()
        blobs["xmp"] = unturned(blobs.get("xmp", b""))
    image = loader.convert(image)
    # `numpy` drops axes of length 1: the channels of grey pictures, and more of 1×1 pixels.
    pixels = image.numpy().reshape(image.height, image.width, image.bands)
    unstated = min(resolution) <= 0 or any(
        max(abs(n - value) for n in resolution) < off for value, off in UNSTATED
    )
    return fitting(
        Picture(
            *split(pixels),
            blobs.get("icc-profile", b""),
            blobs.get("exif", b""),
            blobs.get("xmp", b""),
            None if unstated or not loader.resolution else resolution,
        )
    )


def without_inks(image: pyvips.Image, alpha: bool = False) -> pyvips.Image:
    """CMYK as sRGB: by its profile, else as if inks were ideal (Pillow does so too).

    Args:
        alpha: a fifth band is alpha.
    """
    veil = image.extract_band(4) if alpha else None
    inks = image.extract_band(0, n=4)
    peak, deep = (255, 8) if image.format == "uchar" else (65535, 16)
    if image.get_typeof("icc-profile-data"):
        inks = inks.copy(interpretation="cmyk")
        colours = inks.icc_transform("srgb", embedded=True, depth=deep)
    else:
        paper = inks.linear(-1, peak)
        made = paper.extract_band(0, n=3) * paper.extract_band(3) / peak
        space = "srgb" if deep == 8 else "rgb16"
        colours = made.rint().cast(image.format).copy(interpretation=space)
    return colours if veil is None else colours.bandjoin(veil)


def of_lab(image: pyvips.Image, depth: int) -> pyvips.Image:
    """CIE L*a*b* of D50 in floating-point numbers as sRGB of 8 or 16 bits."""
    lab = image.cast("float").copy(interpretation="lab")
    return lab.icc_export(output_profile="srgb", pcs="lab", depth=depth, intent="relative")
