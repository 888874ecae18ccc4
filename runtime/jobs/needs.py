"""How much memory a picture takes, by its header: upper bounds of the copies that its path makes.

Held against the measured peaks by `python -m benchmarks.memory` (docs/results.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.faces.options import PhotoOptions
from runtime.faces.restore import LARGEST_RESULT, MAX_ENLARGEMENT
from runtime.pictures.header import Header
from runtime.pictures.resample import BLOCK

FIXED = 16 * 2**20  # bytes: arenas, tables, small pictures
DRAWN = 1024**2  # pixels; smaller results are enlarged before landmarks are drawn


@dataclass(frozen=True)
class Need:
    """The memory of one picture.

    Attributes:
        fixed: bytes before it is enlarged.
        each: bytes of a pixel of the result.
        least, most: pixels that the result has at least, and at most.
    """

    fixed: int
    each: int
    least: int
    most: int

    @property
    def bytes(self) -> int:
        return self.fixed + self.each * self.most

    def within(self, budget: int | None) -> Need:
        """The same with a result that is enlarged less, as far as a budget makes that necessary."""
        if budget is None or self.bytes <= budget:
            return self
        room = max(self.least, (budget - self.fixed) // self.each)
        return Need(self.fixed, self.each, self.least, min(self.most, room))


def photo_need(
    header: Header,
    size: int,
    suffix: str,
    options: PhotoOptions,
    search: int = 0,
    drawn: bool = False,
) -> Need:
    """What a photograph needs that is restored and written.

    Args:
        size: bytes of the file.
        suffix: of the result.
        search: bytes that the detector takes, see `search_bytes`.
        drawn: landmarks are drawn on a copy of the result.
    """
    pixels, alpha = header.pixels, header.channels in (2, 4)
    sample = header.channels * header.depth
    seen = 0 if (header.channels, header.depth) in ((3, 1), (4, 1)) else 3  # as 8-bit RGB
    deep = 5 * header.channels if header.depth == 2 else 0
    scale = options.enlarge or MAX_ENLARGEMENT
    decoding = (
        header.scratch
        + sample * (1 + header.turned + alpha)
        + max(seen + deep, 12 if alpha and scale > 1 else 0)
    )
    most = pixels * scale**2
    if options.enlarge is None:
        most = min(most, max(pixels, LARGEST_RESULT))
    encoding = sample * (1 + alpha) + (36 if suffix == ".webp" else 6 if suffix != ".png" else 0)
    each = sample + encoding + (20 if alpha and scale > 1 else 0) + (9 if drawn else 0)
    region = 48 * min(most, (options.max_face * scale) ** 2)
    return Need(
        FIXED + size + pixels * decoding + search + region + 9 * DRAWN * drawn,
        each,
        pixels if options.enlarge is None else most,
        most,
    )


def aligned_need(header: Header, size: int) -> Need:
    """What an aligned face needs; its result is small. See `photo_need`."""
    sample = header.channels * header.depth
    deep = 5 * header.channels if header.depth == 2 else 0
    decoding = sample * (1 + header.turned + (header.channels in (2, 4))) + deep + 9
    decoding += header.scratch
    shrinking = 16 * BLOCK * max(header.width, header.height)
    return Need(FIXED + size + header.pixels * decoding + shrinking, 0, 0, 0)
