"""PBM, PGM, PPM, PAM and PFM files, written as Netpbm's manual pages describe them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats.pictures.sample import SIZES, Sample, Wanted, content, packed, quantised

WHITES = (1, 3, 15, 100, 255, 256, 1023, 4095, 65535)
COMMENTS = {"plain": "{}\n{} {}\n{}\n", "comments": "{}\n# a 9 9 9\n{} # b\n\t{}\n# c\n {} "}
TUPLES = {"BLACKANDWHITE": 1, "GRAYSCALE": 1, "RGB": 3, "GRAYSCALE_ALPHA": 2, "RGB_ALPHA": 4}


def samples() -> Iterator[Sample]:
    yield from _bitmaps()
    yield from _maps()
    yield from _pam()
    yield from _refused()


def _levels(channels: int, white: int, size: str) -> NDArray[np.uint32]:
    return np.round(content(channels, size) * white).astype(np.uint32)


def _bytes(levels: NDArray[np.uint32], white: int) -> bytes:
    return levels.astype(">u2" if white > 255 else np.uint8).tobytes()


def _bitmaps() -> Iterator[Sample]:
    for size, (width, height) in SIZES.items():
        ink = quantised(content(1, size), 1)[:, :, 0]  # 1 is black
        axes = {"colours": "grey", "depth": "1", "size": size}
        wanted = Wanted(1.0 - ink[:, :, None])
        head = f"P4\n# of ink\n{width} {height}\n".encode()
        yield Sample("PBM", "binary", head + packed(ink, 1), wanted, axes)
        words = "\n".join(" ".join(map(str, row)) for row in ink.tolist())
        data = f"P1\n{width} {height}\n{words}\n".encode()
        yield Sample("PBM", "text", data, wanted, axes)
        tight = f"P1 {width} {height}\n{words.replace(' ', '')}\n".encode()
        yield Sample("PBM", "text without spaces", tight, wanted, axes)


def _maps() -> Iterator[Sample]:
    for name, colours, channels, text, binary in (
        ("PGM", "grey", 1, "P2", "P5"),
        ("PPM", "RGB", 3, "P3", "P6"),
    ):
        for white in WHITES:
            for size in SIZES if white in (255, 1023) else ("37×23",):
                width, height = SIZES[size]
                levels = _levels(channels, white, size)
                wanted = Wanted(levels / white, 16 if white > 255 else 8, 0.51)
                axes = {"colours": colours, "depth": f"white is {white}", "size": size}
                for layout, form in COMMENTS.items():
                    head = form.format(binary, width, height, white).encode()
                    data = head + _bytes(levels, white)
                    yield Sample(name, f"binary, {layout}", data, wanted, axes)
                    head = form.format(text, width, height, white).encode()
                    data = head + " ".join(map(str, levels.ravel().tolist())).encode() + b"\n"
                    yield Sample(name, f"text, {layout}", data, wanted, axes)


def _pam() -> Iterator[Sample]:
    for kind, channels in TUPLES.items():
        for white in (1,) if kind == "BLACKANDWHITE" else (1, 255, 1023, 65535):
            levels = _levels(channels, white, "37×23")
            head = (
                f"P7\n# made\nWIDTH 37\nHEIGHT 23\nDEPTH {channels}\nMAXVAL {white}\n"
                f"TUPLTYPE {kind}\nENDHDR\n"
            )
            data = head.encode() + _bytes(levels, white)
            wanted = Wanted(levels / white, 16 if white > 255 else 8, 0.51)
            axes = {
                "colours": "RGB" if "RGB" in kind else "grey",
                "depth": f"white is {white}",
                "alpha": "straight" if "ALPHA" in kind else "",
            }
            yield Sample("PAM", kind, data, wanted, axes)


def _refused() -> Iterator[Sample]:
    values = content(3).astype("<f4")
    data = b"PF\n37 23\n-1.0\n" + values[::-1].tobytes()
    yield Sample("PFM", "colour", data, "floating", {"depth": "32 float"})
    data = b"Pf\n37 23\n1.0\n" + values[::-1, :, :1].astype(">f4").tobytes()
    yield Sample("PFM", "grey", data, "floating", {"colours": "grey", "depth": "32 float"})
    whole = b"P6\n37 23\n255\n" + _bytes(_levels(3, 255, "37×23"), 255)
    yield Sample("PPM", "cut off", whole[:1000], "damaged", {"depth": "white is 255"})
    forged = whole.replace(b"37 23", b"40000 40000")
    yield Sample("PPM", "forged size", forged, "larger than", {"size": "40000×40000"})
    for white in (0, 65536, 2**40):
        data = whole.replace(b"255\n", b"%d\n" % white, 1)
        yield Sample("PPM", "no such white", data, "damaged", {"depth": f"white is {white}"})
    text = b"P3\n2 1\n255\n1 2 3 4 5 999\n"
    yield Sample("PPM", "text, above white", text, "damaged", {"size": "2×1"})
