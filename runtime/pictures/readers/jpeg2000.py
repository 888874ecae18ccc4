"""JPEG 2000: the codestream is decoded by OpenCV, and the boxes around it say what its samples are
(ISO/IEC 15444-1, A.5.1 and I.5.3), which OpenCV passes over.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.pictures.header import DAMAGED, Header, ImageError
from runtime.pictures.picture import Opened, Picture, Pixels, fitting, split, to_full_scale
from runtime.pictures.readers.boxes import boxes, first

SCRATCH = 6  # bytes of a sample that OpenJPEG takes
CODESTREAM = b"\xff\x4f\xff\x51"
SRGB, GREY, SYCC = 16, 17, 18  # EnumCS
COLOUR, OPACITY, PREMULTIPLIED = 0, 1, 2  # types of channels


@dataclass(frozen=True)
class Boxes:
    """What the boxes say.

    Attributes:
        space: the enumerated colour space, or None.
        profile: the ICC profile of the colours.
        palette: (colours, channels).
        channels: of each colour (1, 2, 3; 0 for all of a picture), the channel that has it.
        alpha: the channel that is alpha.
        premultiplied: it is multiplied into the colours.
        resolution: pixels a millimetre, horizontal and vertical.
    """

    space: int | None = None
    profile: bytes = b""
    palette: NDArray[np.uint8] | None = None
    channels: dict[int, int] = field(default_factory=dict)
    alpha: int | None = None
    premultiplied: bool = False
    resolution: tuple[float, float] | None = None


def opened(name: str, data: bytes) -> Opened:
    """Open a JP2 file or a codestream.

    Raises:
        ImageError: it is damaged, or has samples, channels or colours that are not read.
    """
    try:
        stream = _codestream(data)
        width, height, bits, channels = _size(name, stream)
        told = _boxes(data, channels) if stream is not data else Boxes()
    except (struct.error, ValueError, IndexError) as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    if told.premultiplied:
        raise ImageError(
            f"{name}: premultiplied alpha in JPEG 2000 cannot be read; convert it first"
        )
    if told.space not in (None, SRGB, GREY, SYCC):
        raise ImageError(
            f"{name}: its colour space ({told.space}) is not read; convert it to sRGB first"
        )
    seen = channels
    if told.palette is not None:
        seen = told.palette.shape[1]
    elif channels > 4 or (channels == 2 and (told.alpha is None and not told.channels)):
        raise ImageError(
            f"{name}: {channels} channels in JPEG 2000 cannot be read; convert it first"
        )
    elif channels == 2 and bits > 8:
        raise ImageError(
            f"{name}: grey with another channel and {bits} bits in JPEG 2000 cannot be read; "
            "convert it first"
        )

    def decode() -> Picture:
        with _quiet():
            samples = _decoded(name, stream, channels)
        if samples.shape != (height, width, channels):
            raise ImageError(f"{name}: {DAMAGED}")
        return _picture(samples, bits, told)

    depth = 1 if bits <= 8 else 2
    return Opened(Header(width, height, seen, depth, scratch=SCRATCH * channels), decode)


def _codestream(data: bytes) -> bytes:
    if data.startswith(CODESTREAM):
        return data
    stream = first(data, b"jp2c")
    if stream is None or stream[:4] != CODESTREAM:
        raise ValueError("no codestream")
    return bytes(stream)


def _size(name: str, stream: bytes) -> tuple[int, int, int, int]:
    """Width, height, bits of a sample, and channels, by the marker SIZ.

    Raises:
        ImageError: its channels are signed, differ, or have fewer samples than pixels or 8 bits.
        struct.error, ValueError: it is damaged.
    """
    right, below, left, above = struct.unpack_from(">4I", stream, 8)
    (channels,) = struct.unpack_from(">H", stream, 40)
    listed = {struct.unpack_from(">3B", stream, 42 + 3 * n) for n in range(channels)}
    if right <= left or below <= above or not listed:
        raise ValueError("no pixels")
    what = ""
    if any(depth & 128 for depth, _, _ in listed):
        what = "signed samples"
    elif any((across, down) != (1, 1) for _, across, down in listed):
        what = "channels of fewer samples than others"
    elif len(listed) > 1:
        what = "channels of different bits"
    bits = max(depth & 127 for depth, _, _ in listed) + 1
    if not what and not 8 <= bits <= 16:
        what = f"samples of {bits} bit{'s' if bits > 1 else ''}"
    if what:
        raise ImageError(f"{name}: {what} in JPEG 2000 cannot be read; convert it to PNG first")
    return right - left, below - above, bits, channels


def _boxes(data: bytes, channels: int) -> Boxes:
    """What the header of a JP2 file says of a codestream of so many channels.

    Raises:
        struct.error, ValueError, IndexError: it is damaged.
    """
    told, columns = Boxes(), b""
    for kind, content in boxes(first(data, b"jp2h") or b""):
        if kind == b"colr" and told.space is None and not told.profile:  # the first one counts
            if content[0] == 1:
                told = replace(told, space=struct.unpack_from(">I", content, 3)[0])
            elif content[0] == 2:
                told = replace(told, profile=bytes(content[3:]))
        elif kind == b"pclr":
            told = replace(told, palette=_palette(content))
        elif kind == b"cmap":
            columns = bytes(content)
        elif kind == b"cdef":
            told = _defined(told, content)
        elif kind == b"res ":
            told = replace(told, resolution=_resolution(first(content, b"resc")))
    if told.palette is not None:
        if channels != 1:
            raise ValueError("a palette for several channels")
        palette = _mapped(told.palette, columns)
        told, channels = replace(told, palette=palette), palette.shape[1]
    named = [*told.channels.values(), *([] if told.alpha is None else [told.alpha])]
    if max(named, default=0) >= channels or (told.alpha is not None and channels < 2):
        raise ValueError("channels are defined that there are not")
    return told


def _palette(content: memoryview) -> NDArray[np.uint8]:
    entries, columns = struct.unpack_from(">HB", content)
    if any(depth & 127 != 7 for depth in content[3 : 3 + columns]) or columns not in (1, 3, 4):
        raise ValueError("a palette of other samples")
    table = np.frombuffer(content, np.uint8, entries * columns, 3 + columns)
    return table.reshape(entries, columns)


def _mapped(palette: NDArray[np.uint8], columns: bytes) -> NDArray[np.uint8]:
    """The columns of a palette by the channels that they are (I.5.3.5)."""
    listed = list(struct.iter_unpack(">HBB", columns))
    if any((of, through) != (0, 1) for of, through, _ in listed) or len(listed) not in (0, 1, 3, 4):
        raise ValueError("channels that are not the palette's")
    return palette[:, [column for *_, column in listed]] if listed else palette


def _defined(told: Boxes, content: memoryview) -> Boxes:
    """With the channel definitions (I.5.3.6)."""
    (count,) = struct.unpack_from(">H", content)
    for n in range(count):
        channel, kind, colour = struct.unpack_from(">3H", content, 2 + 6 * n)
        if kind == COLOUR:
            told = replace(told, channels={**told.channels, colour: channel})
        elif kind in (OPACITY, PREMULTIPLIED):
            told = replace(told, alpha=channel, premultiplied=kind == PREMULTIPLIED)
    return told


def _resolution(content: memoryview | None) -> tuple[float, float] | None:
    """Pixels a millimetre of fractions and exponents of pixels a metre (I.5.3.7)."""
    if content is None:
        return None
    down, by, across, over, power, of = struct.unpack_from(">4H2b", content)
    if not by or not over or max(map(abs, (power, of))) > 9:
        return None
    return across / over * 10.0**of / 1000, down / by * 10.0**power / 1000


def _decoded(name: str, stream: bytes, channels: int) -> Pixels:
    """(H, W, channels) as stored."""
    if channels == 2:
        return _by_pillow(name, stream)
    try:
        pixels = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    if pixels is None:
        raise ImageError(f"{name}: {DAMAGED}")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]] if pixels.shape[2] >= 3 else pixels


def _by_pillow(name: str, stream: bytes) -> Pixels:
    """Two channels of 8 bits, which OpenCV does not read."""
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

    try:
        with Jpeg2KImageFile(io.BytesIO(stream)) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow's depends on where the file is damaged
        raise ImageError(f"{name}: {DAMAGED}") from error


def _picture(samples: Pixels, bits: int, told: Boxes) -> Picture:
    if told.palette is not None:
        table = told.palette
        samples = table[np.minimum(samples[:, :, 0], len(table) - 1)]
        bits = 8
    count = samples.shape[2]
    alpha = told.alpha
    if alpha is None and not told.channels and count in (2, 4):
        alpha = count - 1
    others = [n for n in range(count) if n != alpha]
    colours = [told.channels.get(n, told.channels.get(0, others[0])) for n in (1, 2, 3)]
    if len(others) < 3:
        colours = colours[:1]
    elif not told.channels:
        colours = others[:3]
    whole = samples[:, :, [*colours, *([] if alpha is None else [alpha])]]
    pixels, veil = split(to_full_scale(whole, 2**bits - 1))
    if told.space == SYCC and pixels.shape[2] == 3:
        pixels = _rgb(pixels)
    return fitting(Picture(pixels, veil, told.profile, resolution=told.resolution))


def _rgb(ycc: Pixels) -> Pixels:
    """sYCC (IEC 61966-2-1, annex F) of full range as sRGB."""
    return cv2.cvtColor(np.ascontiguousarray(ycc[:, :, [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)


_lock, _silencing = threading.Lock(), 0
_level = 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without OpenCV's own lines about what it cannot decode: ours names the file."""
    global _silencing, _level
    with _lock:
        if not _silencing:
            _level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        _silencing += 1
    try:
        yield
    finally:
        with _lock:
            _silencing -= 1
            if not _silencing:
                cv2.utils.logging.setLogLevel(_level)
