"""AVIF and HEIC files, their right values by ISO/IEC 23008-12: what was coded, turned and cropped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.formats.pictures import iso
from benchmarks.formats.pictures.iso import AV1, BRANDS, Coded, coded, item, written
from benchmarks.formats.pictures.jpeg import pixels, saved
from benchmarks.formats.pictures.sample import (
    SIZES,
    Sample,
    Values,
    Wanted,
    content,
    exif,
    quantised,
    srgb,
)

NAMES = {AV1: "AVIF", iso.HEVC: "HEIC"}
PQ, HLG = 16, 18  # transfer characteristics (ITU-T H.273)


def samples() -> Iterator[Sample]:
    for kind in NAMES:
        yield from _plain(kind)
        yield from _turned(kind)
        yield from _described(kind)
        yield from _composed(kind)
    yield from _animated()


def _of(kind: bytes, channels: int, bits: int = 8, size: str = "37×23") -> tuple[Values, Coded]:
    """Values in 0..1, and the same coded."""
    stored = quantised(content(channels, size), bits)
    return stored / (2**bits - 1), coded(stored, bits, kind)


def _deep(bits: int) -> int:
    return 8 if bits == 8 else 16


def _plain(kind: bytes) -> Iterator[Sample]:
    name, brand = NAMES[kind], BRANDS[kind]
    for bits in (8, 10, 12):
        for colours, channels in (("grey", 1), ("RGB", 3)):
            for size in SIZES if bits == 8 else ("37×23",):
                if kind == iso.HEVC and "1" in size.split("×"):
                    continue  # x265 codes no picture of one line
                values, picture = _of(kind, channels, bits, size)
                axes = {"colours": colours, "depth": str(bits), "size": size}
                data = written(brand, [item(picture)])
                yield Sample(name, "one item", data, Wanted(values, _deep(bits)), axes)
            values, picture = _of(kind, channels, bits)
            veil, plane = _of(kind, 1, bits)
            data = written(brand, [item(picture), iso.alpha(plane)])
            right = np.dstack((values, veil))
            axes = {"colours": colours, "depth": str(bits), "alpha": "straight"}
            yield Sample(name, "an alpha plane", data, Wanted(right, _deep(bits)), axes)
            veil = np.maximum(veil, 0.25)
            shown = quantised(values * veil, bits)
            plane = coded(quantised(veil, bits), bits, kind)
            whole = item(coded(shown, bits, kind))
            whole.refers.append((b"prem", (2,)))
            data = written(brand, [whole, iso.alpha(plane)])
            axes["alpha"] = "premultiplied"
            wanted = Wanted(np.dstack((values, veil)), _deep(bits), 4.1 if bits == 8 else 1.1)
            yield Sample(name, "an alpha plane", data, wanted, axes)


def _turned(kind: bytes) -> Iterator[Sample]:
    for channels, alpha in ((3, False), (1, True)):
        values, picture = _of(kind, channels)
        veil, plane = _of(kind, 1)
        stored = np.dstack((values, veil)) if alpha else values
        for quarters in range(4):
            for axis in (None, 0, 1):
                turns = [iso.turn(quarters)] if quarters else []
                turns += [iso.mirror(axis)] if axis is not None else []
                items = [item(picture, *turns)]
                if alpha:
                    other = iso.alpha(plane)
                    other.properties += turns
                    items.append(other)
                right = np.rot90(stored, quarters)
                if axis is not None:
                    right = np.flip(right, axis)
                data = written(BRANDS[kind], items)
                axes = {
                    "colours": "RGB" if channels == 3 else "grey",
                    "alpha": "straight" if alpha else "",
                    "orientation": f"irot {quarters}"
                    + ("" if axis is None else f", imir {axis}"),
                }
                yield Sample(NAMES[kind], "turned", data, Wanted(right), axes)
    values, picture = _of(kind, 3)
    for layout, turns, right in (
        ("irot and the same in EXIF", [iso.turn(3)], np.rot90(values, 3)),
        ("a turn in EXIF only", [], values),
    ):
        data = written(BRANDS[kind], [item(picture, *turns), iso.exif_item(exif(6))])
        axes = {"orientation": "EXIF 6"}
        yield Sample(NAMES[kind], layout, data, Wanted(right), axes)


def _described(kind: bytes) -> Iterator[Sample]:
    name, brand = NAMES[kind], BRANDS[kind]
    for colours, channels in (("RGB", 3), ("grey", 1)):
        values, picture = _of(kind, channels)
        data = written(brand, [item(picture, iso.colour(profile=srgb()))])
        wanted = Wanted(values, profile=srgb() if channels == 3 else b"")
        yield Sample(name, "one item", data, wanted, {"colours": colours, "profile": "ICC"})
    for transfer, known in ((PQ, "PQ"), (HLG, "HLG")):
        values, picture = _of(kind, 3, 10)
        bare = [one for one in picture.properties if one[4:8] != b"colr"]
        plain = Coded(**{**vars(picture), "properties": tuple(bare)})
        data = written(brand, [item(plain, iso.colour(9, transfer, 0, 1))])
        axes = {"depth": "10", "profile": known}
        yield Sample(name, "high dynamic range", data, known, axes)


def _composed(kind: bytes) -> Iterator[Sample]:
    name, brand = NAMES[kind], BRANDS[kind]
    values, picture = _of(kind, 3)
    if kind == AV1:  # every file of x265 here is cropped
        # Its centre is 1.5 and -2 pixels off the picture's: columns 10 to 29, rows 4 to 14.
        data = written(brand, [item(picture, iso.crop(20, 11, (3, 2), (-2, 1)))])
        yield Sample(name, "cropped (clap)", data, Wanted(values[4:15, 10:30]))
    stored = quantised(content(3, "128×128"), 8)
    corners = [(y, x) for y in (0, 64) for x in (0, 64)]
    tiles = [coded(stored[y : y + 64, x : x + 64], 8, kind) for y, x in corners]
    data = written(brand, iso.grid(2, 2, 121, 99, tiles))
    wanted = Wanted(stored[:99, :121] / 255)
    yield Sample(name, "four tiles (grid)", data, wanted, {"size": "121×99"})
    other = coded(quantised(1 - values, 8), 8, kind)
    for primary, right in ((1, values), (2, 1 - values)):
        pair = [item(picture), item(other)]
        made = _visible(written(brand, pair, primary))
        wanted = Wanted(right)
        yield Sample(name, f"two pictures, the primary is {primary}", made, wanted)
    whole = written(brand, [item(picture)])
    yield Sample(name, "cut off", whole[: len(whole) - 200], "damaged")
    forged = written(brand, [item(Coded(**{**vars(picture), "width": 40_000, "height": 40_000}))])
    axes = {"size": "40000×40000"}
    yield Sample(name, "forged size", forged, "larger than|damaged", axes)


def _visible(data: bytes) -> bytes:
    """A file whose second item is shown too."""
    at = data.index(b"infe", data.index(b"infe") + 4) + 4
    return data[: at + 3] + b"\0" + data[at + 4 :]


def _animated() -> Iterator[Sample]:
    from PIL import Image

    frames = [Image.fromarray(np.roll(pixels(3), 5 * n, 1)) for n in range(2)]
    data = saved(np.asarray(frames[0]), "AVIF", save_all=True, append_images=frames[1:])
    yield Sample("AVIF", "animated", data, "is animated")
    at = data.index(b"avis")
    yield Sample("AVIF", "animated, of a still's brand", data[:at] + b"avif" + data[at + 4 :],
                 "is animated")  # fmt: skip
