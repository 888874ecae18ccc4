"""JPEG files, encoded by Pillow and imagecodecs; decoded for comparison by Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import (
    ORIENTATIONS,
    SIZES,
    Sample,
    Values,
    Wanted,
    content,
    exif,
    grey_profile,
    quantised,
    srgb,
    upright,
)

START, END = b"\xff\xd8", b"\xff\xd9"
ADOBE = b"\xff\xee\x00\x0eAdobe"
CLOSE = 2.1  # levels: decoders round colour conversion differently


def pixels(channels: int, size: str = "37×23") -> NDArray[np.uint8]:
    """(H, W, channels), or (H, W) if there is one."""
    made = quantised(content(channels, size), 8).astype(np.uint8)
    return made[:, :, 0] if channels == 1 else made


def saved(values: Values, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """A file by Pillow."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def seen(data: bytes, mode: str) -> Values:
    """A file's pixels in 0..1 by Pillow, as stored."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        found = np.asarray(image.convert(mode)) / 255
    return found.reshape(*found.shape[:2], -1)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def samples() -> Iterator[Sample]:
    yield from _coded()
    yield from _inks()
    yield from _turned()
    yield from _described()
    yield from _refused()


def _coded() -> Iterator[Sample]:
    import imagecodecs

    for layout, options in (
        ("baseline", {"subsampling": 0}),
        ("4:2:2", {"subsampling": 1}),
        ("4:2:0", {"subsampling": 2}),
        ("progressive", {"progressive": True}),
        ("restart markers", {"restart_marker_blocks": 2}),
        ("quality 20", {"quality": 20}),
    ):
        for colours, channels in (("grey", 1), ("RGB", 3)):
            for size in SIZES:
                data = saved(pixels(channels, size), "JPEG", **options)
                wanted = Wanted(seen(data, "L" if channels == 1 else "RGB"), within=CLOSE)
                yield Sample("JPEG", layout, data, wanted, {"colours": colours, "size": size})
    data = imagecodecs.jpeg8_encode(pixels(3), 95, colorspace="rgb", outcolorspace="rgb")
    assert ADOBE in data or b"R" in data
    wanted = Wanted(pixels(3) / 255, within=8)
    yield Sample("JPEG", "stored as RGB", data, wanted, {"colours": "RGB"})
    data = saved(pixels(3), "JPEG")
    more = data + bytes(100)
    yield Sample("JPEG", "bytes after its end", more, Wanted(seen(data, "RGB"), within=CLOSE))
    several = saved(pixels(3), "MPO", save_all=True)
    yield Sample("JPEG", "several in one (MPO)", several, Wanted(seen(data, "RGB"), within=CLOSE))


def _inks() -> Iterator[Sample]:
    import imagecodecs

    inks = pixels(4)
    ideal = (1 - inks[:, :, :3] / 255) * (1 - inks[:, :, 3:] / 255)
    axes = {"colours": "CMYK"}
    adobe = imagecodecs.jpeg8_encode(255 - inks, 98, colorspace="cmyk", outcolorspace="cmyk")
    assert ADOBE in adobe
    yield Sample("JPEG", "Adobe's inverted inks", adobe, Wanted(ideal, within=10), axes)
    ycck = imagecodecs.jpeg8_encode(255 - inks, 98, colorspace="cmyk", outcolorspace="ycck")
    yield Sample("JPEG", "YCCK", ycck, Wanted(ideal, within=10), axes)
    plain = imagecodecs.jpeg8_encode(inks, 98, colorspace="cmyk", outcolorspace="cmyk")
    at = plain.index(ADOBE)
    plain = plain[:at] + plain[at + 16 :]
    yield Sample("JPEG", "inks as they are", plain, Wanted(ideal, within=10), axes)
    yield from _profiled_inks(adobe)


def _profiled_inks(adobe: bytes) -> Iterator[Sample]:
    """Inks with the profile that libvips brings, converted for comparison by LittleCMS."""
    import pyvips
    from PIL import Image, ImageCms

    profile = bytes(
        pyvips.Image.black(1, 1).icc_export(output_profile="cmyk").get("icc-profile-data")
    )
    parts = [profile[at : at + 60_000] for at in range(0, len(profile), 60_000)]
    marked = b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes((n, len(parts))) + part)
        for n, part in enumerate(parts, 1)
    )
    data = START + marked + adobe[2:]
    with Image.open(io.BytesIO(data)) as image:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        seen_as = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    assert seen_as is not None
    wanted = Wanted(np.asarray(seen_as) / 255, within=4)
    axes = {"colours": "CMYK", "profile": "converted to sRGB"}
    yield Sample("JPEG", "Adobe's inverted inks", data, wanted, axes)


def _turned() -> Iterator[Sample]:
    for orientation in ORIENTATIONS:
        for order, byte_order in (("<", "little endian"), (">", "big endian")):
            for colours, channels in (("RGB", 3), ("grey", 1)):
                described = b"Exif\0\0" + exif(orientation, order)
                data = saved(pixels(channels), "JPEG", exif=described, subsampling=0)
                stored = seen(data, "L" if channels == 1 else "RGB")
                wanted = Wanted(upright(stored, orientation), within=CLOSE)
                axes = {"colours": colours, "orientation": str(orientation)}
                yield Sample("JPEG", f"EXIF, {byte_order}", data, wanted, axes)


def _described() -> Iterator[Sample]:
    for colours, channels, profile in (("RGB", 3, srgb()), ("grey", 1, grey_profile())):
        data = saved(pixels(channels), "JPEG", icc_profile=profile)
        right = seen(data, "L" if channels == 1 else "RGB")
        wanted = Wanted(right, within=CLOSE, profile=profile)
        yield Sample("JPEG", "baseline", data, wanted, {"colours": colours, "profile": "ICC"})
    large = srgb() + np.random.default_rng(0).bytes(150_000)
    large = struct.pack(">I", len(large)) + large[4:]
    data = saved(pixels(3), "JPEG", icc_profile=large)
    wanted = Wanted(seen(data, "RGB"), within=CLOSE, profile=large)
    yield Sample("JPEG", "a profile in three parts", data, wanted, {"profile": "ICC"})
    data = saved(pixels(3), "JPEG", dpi=(300, 150))
    wanted = Wanted(seen(data, "RGB"), within=CLOSE, resolution=(300, 150))
    yield Sample("JPEG", "resolution", data, wanted)


def _refused() -> Iterator[Sample]:
    import imagecodecs

    deep = quantised(content(3), 12).astype(np.uint16)
    data = imagecodecs.jpeg8_encode(deep, 95, bitspersample=12)
    yield Sample("JPEG", "12 bits", data, "12 bits", {"depth": "12"})
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        grey = quantised(content(1), bits)[:, :, 0].astype(dtype)
        data = imagecodecs.ljpeg_encode(grey, bitspersample=bits)
        axes = {"colours": "grey", "depth": str(bits)}
        yield Sample("JPEG", "lossless", data, "lossless", axes)
    data = imagecodecs.jpegls_encode(pixels(3))
    yield Sample("JPEG", "JPEG-LS", data, "JPEG-LS")
    whole = saved(pixels(3), "JPEG")
    yield Sample("JPEG", "cut off", whole[: len(whole) - 300], "damaged")
    at = whole.index(b"\xff\xc0") + 5
    forged = whole[:at] + struct.pack(">HH", 65_500, 65_500) + whole[at + 4 :]
    yield Sample("JPEG", "forged size", forged, "larger than", {"size": "65500×65500"})
