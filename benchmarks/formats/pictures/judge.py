"""What becomes of a picture file: right, refused by name, or wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.formats.cell import Cell, Result
from benchmarks.formats.pictures import bmp, heif, jpeg, jpeg2000, pnm, png, tiff, web
from benchmarks.formats.pictures.sample import ODD, Sample, Values, Wanted
from runtime.pictures.files import Picture, decode_picture
from runtime.pictures.header import ImageError, read_header

FORMATS: tuple[Callable[[], Iterator[Sample]], ...] = (
    png.samples,
    jpeg.samples,
    tiff.samples,
    web.samples,
    bmp.samples,
    pnm.samples,
    jpeg2000.samples,
    heif.samples,
)
NAME = "picture"
DEFAULTS = {"colours": "RGB", "depth": "8", "alpha": "", "orientation": "1", "profile": "",
            "size": ODD}  # fmt: skip


def samples() -> Iterator[Sample]:
    """Every picture file of the matrix."""
    for made in FORMATS:
        yield from made()


def cells() -> Iterator[Cell]:
    """Every picture file of the matrix, judged."""
    for sample in samples():
        yield judged(sample)


def judged(sample: Sample) -> Cell:
    """One file, read as `runtime.infer` does: its header, then its pixels."""
    axes = {"format": sample.format, "layout": sample.layout, **DEFAULTS, **sample.axes}
    try:
        header = read_header(NAME, sample.data)
        picture = decode_picture(NAME, sample.data)
    except ImageError as error:
        return _refusal(axes, sample.wanted, str(error))
    except Exception as error:
        return Cell(axes, Result.WRONG, f"{type(error).__name__}: {error}")
    if isinstance(sample.wanted, str):
        return Cell(axes, Result.WRONG, f"read, and not refused as {sample.wanted!r}")
    wrong = difference(picture, sample.wanted)
    channels = picture.pixels.shape[2] + (picture.alpha is not None)
    most = picture.pixels.shape[0] * picture.pixels.shape[1] * channels * picture.pixels.itemsize
    if not wrong and header.pixels * header.channels * header.depth < most:
        wrong = f"its header tells less than it has: {header}"
    return Cell(axes, Result.WRONG if wrong else Result.RIGHT, wrong)


def _refusal(axes: dict[str, str], wanted: Wanted | str, message: str) -> Cell:
    reason = message.removeprefix(f"{NAME}: ")
    if isinstance(wanted, Wanted):
        return Cell(axes, Result.WRONG, f"refused: {reason}")
    named = re.search(wanted, reason) and "\n" not in message and message.startswith(NAME)
    return Cell(axes, Result.REFUSED if named else Result.WRONG, reason)


def values(picture: Picture) -> Values:
    """(H, W, channels) in 0..1, alpha among them."""
    channels = [picture.pixels]
    if picture.alpha is not None:
        channels.append(picture.alpha[:, :, None])
    return np.concatenate(channels, 2) / picture.peak


def difference(picture: Picture, wanted: Wanted) -> str:
    """How a picture differs from what it should be; "" if it does not."""
    given = values(picture)
    if given.shape != wanted.values.shape:
        return f"shape {given.shape}, not {wanted.values.shape}"
    if 8 * picture.pixels.itemsize != wanted.depth:
        return f"{8 * picture.pixels.itemsize} bits, not {wanted.depth}"
    off = np.abs(given - wanted.values) * 255
    if wanted.seen and picture.alpha is not None:
        off[:, :, :-1] *= wanted.values[:, :, -1:]
    if off.max() > wanted.within:
        return f"pixels differ by up to {off.max():.3g} levels of 8 bits, {off.mean():.3g} in mean"
    if wanted.profile is not None and picture.profile != wanted.profile:
        return f"a profile of {len(picture.profile)} bytes, not of {len(wanted.profile)}"
    stated = None if picture.resolution is None else tuple(25.4 * n for n in picture.resolution)
    if (stated is None) != (wanted.resolution is None):
        return f"resolution {stated}, not {wanted.resolution}"
    if stated and wanted.resolution and not np.allclose(stated, wanted.resolution, rtol=0.005):
        return f"resolution {stated}, not {wanted.resolution}"
    return ""
