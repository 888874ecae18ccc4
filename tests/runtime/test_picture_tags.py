"""What files state beside their pixels in unusual ways, and damage within them."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_picture_formats import ALPHA, COLOUR, TURNED, off, pillow, srgb, tiff

from runtime.pictures.files import decode_picture
from runtime.pictures.header import ImageError

GREY = COLOUR[:, :, 0]


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def with_chunk(kind: bytes, content: bytes, before: bytes = b"IDAT") -> bytes:
    data = pillow(Image.fromarray(COLOUR), "PNG")
    at = data.index(before) - 4
    return data[:at] + chunk(kind, content) + data[at:]


def test_exif_and_xmp_after_a_pngs_pixels_count() -> None:
    """Which the specification lets them do (5.6)."""
    turned = with_chunk(b"eXIf", TURNED.tobytes().removeprefix(b"Exif\0\0"), b"IEND")
    assert off(decode_picture("a", turned), np.rot90(COLOUR, -1) / 255) == 0
    packet = b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>"
    assert decode_picture("a", with_chunk(b"iTXt", packet, b"IEND")).xmp == b"<x:xmpmeta/>"


def test_a_pngs_pixels_of_no_size_state_no_resolution() -> None:
    for unit, resolution in ((0, None), (1, (11.811, 5.905))):
        data = with_chunk(b"pHYs", struct.pack(">IIB", 11811, 5905, unit))
        assert decode_picture("a", data).resolution == pytest.approx(resolution)


def test_a_png_of_narrow_range_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^a: has samples of narrow range \(cICP\)"):
        decode_picture("a", with_chunk(b"cICP", bytes((1, 13, 0, 0))))


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("profiled", [False, True])
def test_lossy_webp_is_told_by_its_chunks(alpha: bool, profiled: bool) -> None:
    image = Image.fromarray(np.dstack((COLOUR, ALPHA)) if alpha else COLOUR)
    for lossless in (False, True):
        data = pillow(image, "WEBP", lossless=lossless, icc_profile=srgb() if profiled else b"")
        assert (decode_picture("a", data).quantisation > 0) == (not lossless)


PACKED = [(kind, tile) for kind in ("zlib", "lzw", "jpeg") for tile in (None, (32, 32))]


@pytest.mark.parametrize(("kind", "tile"), PACKED)
@pytest.mark.parametrize("harm", ["cut off", "a part is lost"])
def test_damaged_tiffs_are_not_read_as_black(
    kind: str, tile: tuple[int, int] | None, harm: str
) -> None:
    layout = {"rowsperstrip": 8} if tile is None else {"tile": tile}
    data = tiff(COLOUR, photometric="rgb", compression=kind, **layout)
    assert decode_picture("a", data).pixels.shape == COLOUR.shape
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        at, size = page.dataoffsets[-1], page.databytecounts[-1]  # type: ignore[union-attr]
    harmed = data[: at + size // 2] if harm == "cut off" else bytearray(data)
    if harm != "cut off":
        harmed[at : at + size] = bytes(size)  # type: ignore[index]
    with pytest.raises(ImageError, match=r"^a: not a picture, or a damaged one$"):
        decode_picture("a", bytes(harmed))


def test_a_tiff_of_which_libtiff_warns_is_read() -> None:
    """Its software is stated as numbers. (Of tiles, libvips does not tell warnings from damage.)"""
    data = tiff(COLOUR, photometric="rgb", compression="zlib", software="abc")
    tag = struct.pack("<HH", 305, 2)
    assert data.count(tag) == 1
    assert (
        off(decode_picture("a", data.replace(tag, struct.pack("<HH", 305, 3))), COLOUR / 255) == 0
    )


def test_a_turned_tiffs_resolution_is_turned() -> None:
    data = pillow(Image.fromarray(COLOUR), "TIFF", tiffinfo={274: 6}, resolution_unit=2,
                  x_resolution=300, y_resolution=150)  # fmt: skip
    assert decode_picture("a", data).resolution == pytest.approx((150 / 25.4, 300 / 25.4))


def test_directories_of_a_tiff_that_overlap_are_damage() -> None:
    """Half a megabyte would hold 300 times 40,000 entries, and take seconds."""
    entries, pages = 40_000, 300
    data = bytearray(b"II*\0\x08\0\0\0" + bytes(16 * pages + 12 * entries))
    for page in range(pages):
        at = 8 + 16 * page
        struct.pack_into("<H", data, at, entries)
        struct.pack_into("<I", data, at + 2 + 12 * entries, at + 16 if page < pages - 1 else 0)
    with pytest.raises(ImageError, match="damaged"):
        decode_picture("a", bytes(data))


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2(samples: np.ndarray, *more: bytes) -> bytes:
    """A JP2 file with more boxes in its header."""
    stream = cv2.imencode(".jp2", samples)[1].tobytes()
    stream = stream[stream.index(b"\xff\x4f\xff\x51") :]
    header = boxed(b"colr", b"\1\0\0" + struct.pack(">I", 16)) + b"".join(more)
    start = boxed(b"jP  ", b"\r\n\x87\n") + boxed(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + boxed(b"jp2h", header) + boxed(b"jp2c", stream)


def test_the_columns_of_a_palette_are_those_that_are_mapped() -> None:
    samples = cv2.resize(GREY, (96, 64))
    stored = decode_picture("a", jp2(samples)).pixels[:, :, 0]  # lossy
    table = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    palette = boxed(b"pclr", struct.pack(">HB3B", 256, 3, 7, 7, 7) + table.tobytes())
    columns = boxed(b"cmap", b"".join(struct.pack(">HBB", 0, 1, n) for n in (2, 0, 1)))
    picture = decode_picture("a", jp2(samples, palette, columns))
    assert off(picture, table[:, [2, 0, 1]][stored] / 255) == 0


@pytest.mark.parametrize("defined", [(7, 1, 0), (9, 0, 1)])
def test_channels_that_there_are_not_are_damage(defined: tuple[int, int, int]) -> None:
    data = jp2(cv2.resize(COLOUR, (96, 64)), boxed(b"cdef", struct.pack(">4H", 1, *defined)))
    with pytest.raises(ImageError, match=r"^a: not a picture, or a damaged one$"):
        decode_picture("a", data)
    grey = jp2(cv2.resize(GREY, (96, 64)), boxed(b"cdef", struct.pack(">4H", 1, 0, 1, 0)))
    with pytest.raises(ImageError, match="damaged"):
        decode_picture("a", grey)


@pytest.mark.parametrize("kind", [b"CMYK", b"HSV"])
def test_a_pam_of_other_channels_is_refused_by_name(kind: bytes) -> None:
    head = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH %d\nMAXVAL 255\nTUPLTYPE %s\nENDHDR\n" % (len(kind), kind)
    with pytest.raises(ImageError, match=f"^a: PAM of the type {kind.decode()} cannot be read"):
        decode_picture("a", head + bytes(len(kind)))


def test_netpbm_files_in_unusual_words() -> None:
    with_comment = decode_picture("a", b"P5 2 1 255# a comment is white space\n\x01\x02")
    assert with_comment.pixels.ravel().tolist() == [1, 2]
    for text in (b"1_0 2", b"+1 2", b"0000000255 1", b"-1 2", b"1\0 2"):
        with pytest.raises(ImageError, match="damaged"):
            decode_picture("a", b"P2 2 1 255\n" + text)


def test_a_bmps_own_profile_is_kept() -> None:
    pixels, profile = COLOUR[::-1, :, ::-1].tobytes(), srgb()
    height, width = COLOUR.shape[:2]
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    head = head.ljust(56, b"\0") + b"DEBM" + bytes(48)
    head += struct.pack("<4I", 4, 124 + len(pixels), len(profile), 0)
    start = struct.pack("<2sIHHI", b"BM", 138 + len(pixels) + len(profile), 0, 0, 138)
    picture = decode_picture("a", start + head + pixels + profile)
    assert picture.profile == profile
    assert off(picture, COLOUR / 255) == 0


def test_what_os2_calls_a_compression_is_not_taken_for_a_jpeg() -> None:
    head = struct.pack("<IiiHHIIiiII", 64, 4, 4, 1, 24, 4, 0, 0, 0, 0, 0).ljust(64, b"\0")
    data = struct.pack("<2sIHHI", b"BM", 100, 0, 0, 78) + head + bytes(50)
    with pytest.raises(ImageError, match=r"^a: 24 bits a pixel with compression 4 cannot be read"):
        decode_picture("a", data)
