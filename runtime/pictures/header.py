"""Picture files' headers: format, size and layout, before any pixel is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyvips

# How the files of each format begin.
PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SIGNATURES = {
    PNG_START: "png",
    JPEG_START: "jpeg",
    b"GIF8": "gif",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff"),  # + is BigTIFF
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), "pnm"),
    b"BM": "bmp",
    **dict.fromkeys((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), "jpeg2000"),
    b"\xff\x0a": "jxl",
    b"\0\0\0\x0cJXL ": "jxl",
}
BY_OPENCV = ("pnm", "bmp", "jpeg2000")
# Brands of the ISO container (ISO 23008-12): of still AVIF and of animated.
AVIF, ANIMATED_AVIF = b"avif", b"avis"
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # ISO/IEC 23008-12, B.4
UNREAD = {"heic": "HEIC", "jxl": "JPEG XL"}
DAMAGED = "not a picture, or a damaged one"


class ImageError(Exception):
    """A picture cannot be read or written; the message is one line."""


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels.

    Attributes:
        width, height: as stored, before it is turned upright.
        channels: of a pixel, alpha among them.
        depth: bytes of a sample, 1 or 2.
        turned: it states an orientation, so that its pixels are copied.
    """

    width: int
    height: int
    channels: int
    depth: int
    turned: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(name: str, data: bytes) -> Header:
    """The header of a picture file.

    Args:
        name: for errors.
        data: the whole file.

    Raises:
        ImageError: it is empty, not a picture, of a kind that cannot be read, or damaged.
    """
    kind = format_of(name, data)
    if kind in BY_OPENCV:
        return Header(*stated_size(data, kind))
    try:
        image = opened(data, kind)
        depth = 1 if image.format == "uchar" else 2
        return Header(image.width, image.height, image.bands, depth, turned(image))
    except pyvips.Error as error:
        raise ImageError(f"{name}: {DAMAGED}") from error


def check_size(name: str, width: int, height: int, most: int) -> None:
    """Raise ImageError if a picture has more than so many pixels."""
    if width * height > most:
        raise ImageError(f"{name}: {width}×{height} is larger than {most} pixels; shrink it")


def opened(data: bytes, kind: str, access: str = "sequential") -> pyvips.Image:
    """A file that libvips reads, its pixels not decoded yet.

    Args:
        access: "sequential" reads lines once, from above, and "random" copies the picture first.

    Raises:
        pyvips.Error: it is damaged.
    """
    load = getattr(pyvips.Image, f"{kind}load_buffer")
    # A PNG has check sums, so any error is damage. Many JPEGs have harmless errors.
    return load(data, access=access, fail_on="error" if kind == "png" else "truncated")


def turned(image: pyvips.Image) -> bool:
    """Whether a file states an orientation other than upright."""
    return bool(image.get_typeof("orientation")) and 2 <= image.get("orientation") <= 8


def format_of(name: str, data: bytes) -> str:
    """The format of a file by its first bytes.

    Raises:
        ImageError: it is empty, not a picture, or of a kind that cannot be read.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    kind = _format(data)
    if kind is None:
        raise ImageError(f"{name}: {DAMAGED}")
    if kind == "video":
        raise ImageError(f"{name}: is a video, not a picture; from Python use restore_video")
    if kind in UNREAD:
        raise ImageError(
            f"{name}: {UNREAD[kind]} pictures cannot be read; convert it to JPEG or PNG first"
        )
    return kind


def _format(data: bytes) -> str | None:
    for start, kind in SIGNATURES.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        brands = data[8 : int.from_bytes(data[:4], "big")]
        if AVIF in brands or ANIMATED_AVIF in brands:
            return "heif"
        return "heic" if any(brand in brands for brand in HEIC) else "video"
    return None


def stated_size(data: bytes, kind: str) -> tuple[int, int, int, int]:
    """Width, height, channels and bytes a sample of a file that OpenCV reads; 0, 0 if damaged.

    Of JPEG 2000 and PNM, the most that they may have.
    """
    try:
        if kind == "bmp":
            width, height, _, bits = struct.unpack_from("<iihh", data, 18)
            return abs(width), abs(height), 4 if bits == 32 else 3, 1
        if kind == "jpeg2000":  # image and tile size: SIZ marker, length, capabilities, size
            at = data.index(b"\xff\x51")
            width, height = struct.unpack_from(">II", data, at + 6)
            channels, bits = struct.unpack_from(">HB", data, at + 38)
            return width, height, channels, 1 if bits & 127 < 8 else 2
    except (struct.error, ValueError):
        return 0, 0, 0, 1
    numbers = pnm_header(data)
    deep = data[1:2] not in b"14" and len(numbers) >= 3 and numbers[2] > 255
    width, height = numbers[:2] if len(numbers) >= 2 else (0, 0)
    return width, height, 3 if data[1:2] in b"36" else 1, 2 if deep else 1


def pnm_header(data: bytes) -> list[int]:
    """The numbers of a PNM header: width, height, and the value of white but in bitmaps."""
    numbers: list[int] = []
    for line in data[2:512].splitlines():
        numbers += [int(word) for word in line.partition(b"#")[0].split() if word.isdigit()]
        if len(numbers) >= 3:
            break
    return numbers
