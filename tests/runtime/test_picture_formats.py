"""Pictures of every layout, held against Pillow, tifffile or the specification."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from runtime.pictures.encode import encode_picture
from runtime.pictures.files import decode_picture
from runtime.pictures.header import ImageError
from runtime.pictures.picture import Picture


def smooth(channels: int, seed: int = 0) -> np.ndarray:
    """(40, 60, channels) uint8 with all levels, without edges that lossy formats would blur."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, channels)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4).reshape(40, 60, channels)
    low, high = blurred.min((0, 1)), blurred.max((0, 1))
    return np.round((blurred - low) / (high - low) * 255).astype(np.uint8)


COLOUR, ALPHA = smooth(3), smooth(1, 1)[:, :, 0]
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def levels(picture: Picture) -> np.ndarray:
    """The pixels in 0..1, alpha among them."""
    channels = [picture.pixels]
    if picture.alpha is not None:
        channels.append(picture.alpha[:, :, None])
    return np.concatenate(channels, 2) / picture.peak


def off(picture: Picture, wanted: np.ndarray) -> float:
    """The largest difference to pixels in 0..1, in levels of 8 bits."""
    given = levels(picture)
    wanted = wanted[:, :, None] if wanted.ndim == 2 else wanted
    assert given.shape == wanted.shape
    return float(np.abs(given - wanted).max() * 255)


TIFFS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = {
    "samples in planes": (
        {"photometric": "rgb", "planarconfig": "separate"},
        lambda pixels: np.ascontiguousarray(pixels.transpose(2, 0, 1)),
    ),
    "big endian": ({"photometric": "rgb", "byteorder": ">"}, lambda pixels: pixels),
    "BigTIFF": ({"photometric": "rgb", "bigtiff": True}, lambda pixels: pixels),
    "packed": (
        {"photometric": "rgb", "compression": "zlib", "predictor": True},
        lambda pixels: pixels,
    ),
    "tiles": ({"photometric": "rgb", "tile": (16, 16)}, lambda pixels: pixels),
}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("layout", TIFFS)
def test_tiff_layouts_are_as_written(layout: str, depth: int) -> None:
    options, arrange = TIFFS[layout]
    pixels = COLOUR if depth == 8 else COLOUR.astype(np.uint16) * 257
    picture = decode_picture("a.tif", tiff(arrange(pixels), **options))
    assert picture.pixels.dtype == pixels.dtype
    assert off(picture, COLOUR / 255) == 0


@pytest.mark.parametrize("depth", [8, 16])
def test_white_may_be_zero(depth: int) -> None:
    grey = COLOUR[:, :, 0] if depth == 8 else COLOUR[:, :, 0].astype(np.uint16) * 257
    picture = decode_picture("a.tif", tiff(grey, photometric="miniswhite"))
    assert off(picture, 1 - COLOUR[:, :, 0] / 255) < 1e-9


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_of_tiffs_is_not_premultiplied_when_read(kind: str, depth: int) -> None:
    seen = np.maximum(ALPHA, 64) / 255  # below, 8 bits of premultiplied colour hold little
    colours = COLOUR / 255 * (seen[:, :, None] if kind == "assocalpha" else 1)
    peak, dtype = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    stored = np.round(np.dstack((colours, seen)) * peak).astype(dtype)
    picture = decode_picture("a.tif", tiff(stored, photometric="rgb", extrasamples=[kind]))
    assert off(picture, np.dstack((COLOUR / 255, seen))) <= (3 if depth == 8 else 0.1)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_of_one_colour_is_turned_with_its_alpha(
    mode: str, depth: int, orientation: int
) -> None:
    """By the orientation stated, not by what pixels look like."""
    peak, dtype = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    flat = np.full((40, 60, 3 if mode.startswith("RGB") else 1), peak // 3, dtype)
    alpha = np.round(ALPHA / 255 * peak).astype(dtype) if mode.endswith("A") else None
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode_picture(Picture(flat, alpha), ".png")
    at = data.index(b"IDAT") - 4
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    picture = decode_picture("a.png", data[:at] + chunk + data[at:])
    upright = ImageOps.exif_transpose(_with_exif(Image.fromarray(ALPHA), orientation))
    assert picture.pixels.shape[:2] == (upright.height, upright.width)
    if alpha is None:
        assert picture.alpha is None
    else:
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha // (peak // 255), np.asarray(upright))


def _with_exif(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return image


PALETTE = Image.fromarray(COLOUR).quantize(16)
STILLS: dict[str, tuple[bytes, Image.Image]] = {
    "1 bit": (pillow(Image.fromarray(COLOUR).convert("1"), "PNG"), Image.new("L", (0, 0))),
    "a palette": (pillow(PALETTE, "PNG"), Image.new("RGB", (0, 0))),
    "a palette with alpha": (pillow(PALETTE, "PNG", transparency=3), Image.new("RGBA", (0, 0))),
    "a transparent colour": (
        pillow(PALETTE.convert("RGB"), "PNG", transparency=PALETTE.convert("RGB").getpixel((0, 0))),
        Image.new("RGBA", (0, 0)),
    ),
    "a GIF": (pillow(PALETTE, "GIF"), Image.new("RGB", (0, 0))),
    "a transparent GIF": (pillow(PALETTE, "GIF", transparency=3), Image.new("RGBA", (0, 0))),
    "inks in a TIFF": (
        pillow(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
        Image.new("RGB", (0, 0)),
    ),
    "inks in a JPEG": (
        pillow(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95),
        Image.new("RGB", (0, 0)),
    ),
}


@pytest.mark.parametrize("what", STILLS)
def test_colours_are_as_pillow_has_them(what: str) -> None:
    data, empty = STILLS[what]
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert(empty.mode)) / 255
    picture = decode_picture("a", data)
    seen = wanted[:, :, 3:] > 0 if empty.mode == "RGBA" else True
    assert np.abs((levels(picture) - wanted.reshape(levels(picture).shape)) * seen).max() <= 2 / 255


def test_ten_bits_are_scaled_to_white() -> None:
    deep = COLOUR[:, :, ::-1].astype(np.uint16) * 4 + 3
    options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100]
    data = cv2.imencode(".avif", deep, options)[1].tobytes()
    assert off(decode_picture("a.avif", data), COLOUR / 255) < 8


@pytest.mark.parametrize("start", [b"P5\n60 40\n1023\n", b"P5 60 40 # grey\n 1023\n"])
def test_a_grey_map_states_its_white(start: bytes) -> None:
    grey = COLOUR[:, :, 0].astype(">u2")
    data = start + (grey * 4).astype(">u2").tobytes()
    assert off(decode_picture("a.pgm", data), grey * 4 / 1023) < 0.01


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_it_states(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    full = {"AVIF": "4:4:4", "JPEG": 0}.get(kind)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": full}
    data = pillow(Image.fromarray(COLOUR), kind, exif=exif, **options)
    wanted = ImageOps.exif_transpose(_with_exif(Image.fromarray(COLOUR), orientation))
    assert off(decode_picture("a", data), np.asarray(wanted) / 255) < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF"])
@pytest.mark.parametrize("profile", [False, True])
def test_animations_are_refused_by_name(kind: str, profile: bool) -> None:
    frames = [Image.fromarray(np.roll(COLOUR, 20 * k, 1)) for k in (1, 2)]
    options = {"icc_profile": srgb()} if profile else {}
    data = pillow(Image.fromarray(COLOUR), kind, save_all=True, append_images=frames, **options)
    with pytest.raises(ImageError, match=r"^a: is animated"):
        decode_picture("a", data)


@functools.cache  # a profile states the second at which it was made
def srgb() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint32])
def test_other_samples_are_refused_by_name(dtype: type) -> None:
    with pytest.raises(ImageError, match="8 or 16 bits"):
        decode_picture("a.tif", tiff(COLOUR.astype(dtype), photometric="rgb"))


def test_what_is_not_read_is_named() -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'  # libvips would draw it
    for data, name in ((svg, "SVG"), (b"\xff\x0a123", "JPEG XL")):
        with pytest.raises(ImageError, match=f"^a: {name} pictures cannot be read"):
            decode_picture("a", data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_pictures_of_one_pixel_or_line(kind: str, mode: str, size: tuple[int, int]) -> None:
    if "A" in mode and kind in ("JPEG", "BMP", "PPM"):
        return  # without alpha
    image = Image.new("RGBA", size, (200, 200, 200, 255)).convert(mode)
    picture = decode_picture("one", pillow(image, kind))
    assert picture.pixels.shape[:2] == size[::-1]
    assert np.abs(levels(picture)[..., 0] * 255 - 200).max() < 2


# PNG damage: one line of ours, and none of libpng's.


def with_header(*fields: int) -> bytes:
    """A PNG whose header says something else, with the right check sum."""
    header = b"IHDR" + struct.pack(">II5B", *fields)
    return WHOLE[:12] + header + struct.pack(">I", zlib.crc32(header)) + WHOLE[33:]


WHOLE = pillow(Image.linear_gradient("L").convert("RGB"), "PNG")
DAMAGED = {
    "no width": with_header(0, 256, 8, 2, 0, 0, 0),
    "no height": with_header(256, 0, 8, 2, 0, 0, 0),
    "no such size": with_header(2**31 + 5, 256, 8, 2, 0, 0, 0),
    "no such depth": with_header(256, 256, 3, 2, 0, 0, 0),
    "no such colours": with_header(256, 256, 8, 5, 0, 0, 0),
    "no such packing": with_header(256, 256, 8, 2, 1, 0, 0),
    "no such filter": with_header(256, 256, 8, 2, 0, 9, 0),
    "no such interlace": with_header(256, 256, 8, 2, 0, 0, 7),
    "a changed byte": WHOLE[:100] + bytes([WHOLE[100] ^ 1]) + WHOLE[101:],
    "a changed depth": WHOLE[:24] + bytes([WHOLE[24] ^ 24]) + WHOLE[25:],
    "cut off": WHOLE[: len(WHOLE) // 2],
    "its first bytes": WHOLE[:8],
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_one_line(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=r"^a\.png: not a picture, or a damaged one$"):
        decode_picture("a.png", DAMAGED[what])
    assert capfd.readouterr().err == "", "a library prints lines of its own"


def test_a_forged_size_takes_no_memory() -> None:
    with pytest.raises(ImageError, match="is larger than 268435456 pixels"):
        decode_picture("a.png", with_header(30_000, 30_000, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("kind", ["bmp", "ppm", "jp2"])
def test_a_limit_of_pixels_is_kept_in_every_format(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, {"jp2": "JPEG2000"}.get(kind, kind))
    assert decode_picture("a", file.getvalue(), 60 * 40).pixels.shape == (40, 60, 3)
    with pytest.raises(ImageError, match="60×40 is larger than 2399 pixels"):
        decode_picture("a", file.getvalue(), 60 * 40 - 1)


def test_a_profile_of_other_colours_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    grey = bytes(16) + b"GRAY" + bytes(200)
    misfit = pillow(Image.fromarray(COLOUR), "PNG", icc_profile=grey)
    assert decode_picture("a.png", misfit).profile == b""
    fitting = pillow(Image.fromarray(COLOUR), "PNG", icc_profile=srgb())
    assert decode_picture("a.png", fitting).profile == srgb()
    assert capfd.readouterr().err == "", "a library prints lines of its own"


@given(st.binary(max_size=100))
@settings(max_examples=200)
def test_any_bytes_are_a_picture_or_our_error(content: bytes) -> None:
    for start in (WHOLE[:33], b"\xff\xd8\xff\xe0", b"II*\0", b"RIFF\0\0\0\0WEBP", b"P5 ", b"BM"):
        with suppress(ImageError):
            assert isinstance(decode_picture("a", start + content), Picture)


# What belongs to a picture beside its pixels.


def photograph_exif() -> bytes:
    """As a camera writes it: turned, with its size, a place, and a thumbnail (made by hand, since
    Pillow writes none).
    """
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.Orientation] = 6
    own = exif.get_ifd(ExifTags.IFD.Exif)
    own[ExifTags.Base.ExifImageWidth] = 640
    own[ExifTags.Base.ExposureTime] = TiffImagePlugin.IFDRational(1, 100)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    order = "<" if data[:2] == b"II" else ">"
    (count,) = struct.unpack_from(f"{order}H", data, 8)
    entries = struct.pack(f"{order}HHHII", 2, 0x0201, 4, 1, len(data) + 30)
    entries += struct.pack(f"{order}HHII", 0x0202, 4, 1, 9)
    following = 10 + 12 * count
    data = data[:following] + struct.pack(f"{order}I", len(data)) + data[following + 4 :]
    return b"Exif\0\0" + data + entries + bytes(4) + b"\xff\xd8picture"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exif_describes_the_result(suffix: str) -> None:
    source = photograph_exif()
    before = Image.Exif()
    before.load(source)
    assert before.get_ifd(ExifTags.IFD.IFD1), "the test has a thumbnail"
    written = encode_picture(Picture(COLOUR, exif=source), suffix)
    with Image.open(io.BytesIO(written)) as image:
        exif = image.getexif()
        own = exif.get_ifd(ExifTags.IFD.Exif)
        assert exif[ExifTags.Base.Orientation] == 1
        assert exif[ExifTags.Base.Make] == "Camera"
        assert (own[ExifTags.Base.ExifImageWidth], own[ExifTags.Base.ExifImageHeight]) == (60, 40)
        assert own[ExifTags.Base.ExposureTime] == 0.01
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert b"\xff\xd8picture" not in written, "the thumbnail shows the picture as it was"


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"II*\0garbage", b"MM\0*\xff\xff\xff\xff"])
def test_damaged_exif_is_left_out(exif: bytes) -> None:
    written = encode_picture(Picture(COLOUR, exif=exif), ".jpg")
    with Image.open(io.BytesIO(written)) as image:
        assert image.size == (60, 40)
        assert b"garbage" not in written


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_profile_and_packet_are_carried(suffix: str) -> None:
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>Grandma</x:xmpmeta>"
    written = encode_picture(Picture(COLOUR, profile=srgb(), xmp=packet), suffix)
    again = decode_picture("a", written)
    assert again.profile == srgb()
    assert packet in again.xmp
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["icc_profile"] == srgb()


def test_how_coarsely_a_picture_was_compressed_is_known() -> None:
    """The IJG's luminance table has a mean of 57.6 at quality 50, of 11.5 at 90."""
    image = Image.fromarray(COLOUR)
    for quality, mean in ((50, 57.625), (90, 11.5)):
        data = pillow(image, "JPEG", quality=quality)
        assert decode_picture("a", data).quantisation == pytest.approx(mean, abs=0.4)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        assert decode_picture("a", pillow(image, kind, **options)).quantisation == 0
    for kind in ("WEBP", "AVIF"):
        assert decode_picture("a", pillow(image, kind, quality=60)).quantisation > 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_no_metadata_are_invented(suffix: str) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, {"jpg": "jpeg"}.get(suffix[1:], suffix[1:]))
    written = encode_picture(decode_picture("a", file.getvalue()), suffix)
    with Image.open(io.BytesIO(written)) as image:
        assert not dict(image.getexif())
        assert "icc_profile" not in image.info


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".ppm"])
def test_hidden_colours_stay_hidden_without_alpha(suffix: str) -> None:
    """As Pillow lays them over white."""
    hidden = np.dstack((COLOUR, ALPHA))
    written = encode_picture(Picture(COLOUR, ALPHA), suffix)
    white = Image.new("RGBA", (60, 40), "white")
    wanted = np.asarray(Image.alpha_composite(white, Image.fromarray(hidden)).convert("RGB"))
    assert off(decode_picture("a", written), wanted / 255) <= (16 if suffix == ".jpg" else 1.01)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_resolution_is_carried(suffix: str) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(
        file, suffix[1:].replace("jpg", "jpeg").replace("tif", "tiff"), dpi=(300, 300)
    )
    picture = decode_picture("a", file.getvalue())
    with Image.open(io.BytesIO(encode_picture(picture, suffix))) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=1)


def test_a_packet_that_states_an_orientation_is_not_carried_when_turned() -> None:
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/' tiff:Orientation='6'/>"
    for exif, kept in ((TURNED.tobytes(), False), (b"", True)):
        data = pillow(Image.fromarray(COLOUR), "JPEG", exif=exif, xmp=packet)
        assert (packet in decode_picture("a", data).xmp) == kept
