"""What becomes of a picture file: right, refused by name, or wrong."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from benchmarks.formats.cell import Cell, Result
from benchmarks.formats.pictures import (
    bmp,
    command,
    heif,
    jpeg,
    jpeg2000,
    others,
    outputs,
    png,
    pnm,
    tiff,
    web,
)
from benchmarks.formats.pictures.icc import stands_for
from benchmarks.formats.pictures.sample import ODD, Sample, Values, Wanted
from runtime.pictures.files import decode_picture, read_header
from runtime.pictures.header import ImageError
from runtime.pictures.picture import Picture

FORMATS: tuple[Callable[[], Iterator[Sample]], ...] = (
    png.samples,
    jpeg.samples,
    tiff.samples,
    web.samples,
    bmp.samples,
    pnm.samples,
    jpeg2000.samples,
    heif.samples,
    others.samples,
)
NAME = "picture"
DEFAULTS = {"colours": "RGB", "depth": "8", "alpha": "", "orientation": "1", "profile": "",
            "size": ODD}  # fmt: skip


def samples() -> Iterator[Sample]:
    """Every picture file of the matrix."""
    for made in FORMATS:
        yield from made()


def cells() -> Iterator[Cell]:
    """Every picture file of the matrix, judged, also by the command, and what is written of it."""
    made = list(samples())
    told = command.outcomes([sample.data for sample in made])
    for sample, outcome in zip(made, told, strict=True):
        cell = judged(sample, outputs.SUFFIXES)
        contradiction = "" if cell.result is Result.WRONG else outcome.contradicts(cell)
        yield replace(cell, result=Result.WRONG, detail=contradiction) if contradiction else cell


def judged(sample: Sample, suffixes: tuple[str, ...] = ()) -> Cell:
    """One file, read as `runtime.infer` does: its header, then its pixels.

    Args:
        suffixes: of the formats in which the picture is written, and read by other decoders.
    """
    axes = {"format": sample.format, "layout": sample.layout}
    if isinstance(sample.wanted, Wanted) or sample.axes:
        axes |= {**DEFAULTS, **sample.axes}
    with _standard_error() as printed:
        result, detail = _judged(sample, suffixes)
    if lines := printed():
        return Cell(axes, Result.WRONG, f"a library prints {lines.splitlines()[0][:100]!r}")
    return Cell(axes, result, detail)


def _judged(sample: Sample, suffixes: tuple[str, ...]) -> tuple[Result, str]:
    try:
        header = read_header(NAME, sample.data)
        picture = decode_picture(NAME, sample.data)
    except ImageError as error:
        return _refusal(sample.wanted, str(error))
    except Exception as error:
        return Result.WRONG, f"{type(error).__name__}: {error}"
    if isinstance(sample.wanted, str):
        return Result.WRONG, f"read, and not refused as {sample.wanted!r}"
    if wrong := difference(picture, sample.wanted):
        return Result.WRONG, wrong
    channels = picture.pixels.shape[2] + (picture.alpha is not None)
    most = picture.pixels.shape[0] * picture.pixels.shape[1] * channels * picture.pixels.itemsize
    if header.pixels * header.channels * header.depth < most:
        return Result.WRONG, f"its header tells less than it has: {header}"
    for suffix in suffixes:
        if wrong := outputs.difference(picture, suffix):
            return Result.WRONG, f"written as {suffix}: {wrong}"
    return Result.RIGHT, ""


def _refusal(wanted: Wanted | str, message: str) -> tuple[Result, str]:
    reason = message.removeprefix(f"{NAME}: ")
    if isinstance(wanted, Wanted):
        return Result.WRONG, f"refused: {reason}"
    named = re.search(wanted, reason) and "\n" not in message and message.startswith(NAME)
    return Result.REFUSED if named else Result.WRONG, reason


@contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """Catch what libraries print to standard error; gives what tells it."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)

        def printed() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            text = ""
            yield lambda: text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            text = printed()


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
    if wanted.stands_for and (off_by := stands_for(picture.profile, *wanted.stands_for)) > 1.5:
        return f"the profile stands for colours that are off by {off_by:.3g} levels of 8 bits"
    stated = None if picture.resolution is None else tuple(25.4 * n for n in picture.resolution)
    if (stated is None) != (wanted.resolution is None):
        return f"resolution {stated}, not {wanted.resolution}"
    if stated and wanted.resolution and not np.allclose(stated, wanted.resolution, rtol=0.005):
        return f"resolution {stated}, not {wanted.resolution}"
    return ""
