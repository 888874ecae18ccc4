"""WebP and GIF files, encoded and decoded for comparison by Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.formats.pictures.jpeg import pixels, saved, seen
from benchmarks.formats.pictures.sample import (
    ORIENTATIONS,
    SIZES,
    Sample,
    Wanted,
    exif,
    srgb,
    upright,
)


def samples() -> Iterator[Sample]:
    yield from _webp()
    yield from _gif()


def _webp() -> Iterator[Sample]:
    for alpha, channels in (("", 3), ("straight", 4)):
        mode = "RGB" if channels == 3 else "RGBA"
        for size in SIZES:
            exact = saved(pixels(channels, size), "WEBP", lossless=True, exact=True)
            axes = {"alpha": alpha, "size": size}
            yield Sample("WebP", "lossless", exact, Wanted(pixels(channels, size) / 255), axes)
            lossy = saved(pixels(channels, size), "WEBP", quality=90)
            wanted = Wanted(seen(lossy, mode), within=2.1, seen=True)
            yield Sample("WebP", "lossy", lossy, wanted, axes)
        for orientation in ORIENTATIONS:
            described: dict[str, Any] = {"exif": exif(orientation), "icc_profile": srgb()}
            data = saved(pixels(channels), "WEBP", lossless=True, exact=True, **described)
            right = upright(pixels(channels) / 255, orientation)
            axes = {"alpha": alpha, "orientation": str(orientation), "profile": "ICC"}
            yield Sample("WebP", "lossless", data, Wanted(right, profile=srgb()), axes)
    frames = _frames()
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "lossless": True}
    data = saved(np.asarray(frames[0]), "WEBP", **options)
    yield Sample("WebP", "animated", data, "is animated")
    whole = saved(pixels(3), "WEBP", lossless=True)
    yield Sample("WebP", "cut off", whole[: len(whole) // 2], "damaged")


def _frames() -> list[Any]:
    from PIL import Image

    return [Image.fromarray(np.roll(pixels(3), 5 * n, 1)) for n in range(2)]


def _gif() -> Iterator[Sample]:
    from PIL import Image

    for size in SIZES:
        colour = Image.fromarray(pixels(3, size)).quantize(32)
        for layout, options in (("plain", {"interlace": 0}), ("interlaced", {"interlace": 1})):
            data = _of(colour, **options)
            axes = {"colours": "palette", "size": size}
            yield Sample("GIF", layout, data, Wanted(seen(data, "RGB")), axes)
    colour = Image.fromarray(pixels(3)).quantize(32)
    axes = {"colours": "palette", "alpha": "one colour"}
    data = _of(colour, transparency=3)
    yield Sample("GIF", "plain", data, Wanted(seen(data, "RGBA"), seen=True), axes)
    grey = Image.fromarray(pixels(1))
    data = _of(grey)
    yield Sample("GIF", "grey palette", data, Wanted(seen(data, "RGB")), {"colours": "palette"})
    # The screen is larger than the only picture on it, which lies 3 pixels right and 2 down.
    data = _of(colour)
    at = data.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 37, 23))
    placed = data[: at + 1] + struct.pack("<HH", 3, 2) + data[at + 5 :]
    placed = placed[:6] + struct.pack("<HH", 45, 30) + placed[10:]
    right = np.zeros((30, 45, 4))
    right[2:25, 3:40] = np.dstack((seen(data, "RGB"), np.ones((23, 37))))
    axes = {"colours": "palette", "size": "45×30"}
    yield Sample("GIF", "smaller than its screen", placed, Wanted(right, seen=True), axes)
    still = _of(colour, save_all=True, append_images=[], duration=100)
    yield Sample("GIF", "one frame with a duration", still, Wanted(seen(still, "RGB")))
    frames = _frames()
    moving = saved(np.asarray(frames[0]), "GIF", save_all=True, append_images=frames[1:])
    yield Sample("GIF", "animated", moving, "is animated", {"colours": "palette"})
    yield Sample("GIF", "cut off", data[: len(data) // 2], "damaged", {"colours": "palette"})


def _of(image: Any, **options: Any) -> bytes:
    import io

    file = io.BytesIO()
    image.save(file, "GIF", **options)
    return file.getvalue()
