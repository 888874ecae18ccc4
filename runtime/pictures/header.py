"""What a picture file says of its pixels, before any is decoded."""

from __future__ import annotations

from dataclasses import dataclass

DAMAGED = "not a picture, or a damaged one"


class ImageError(Exception):
    """A picture cannot be read or written; the message is one line."""


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels.

    Attributes:
        width, height: as stored, before it is turned upright.
        channels: of a pixel, alpha among them.
        depth: bytes of a sample, 1 or 2.
        turned: it states an orientation, so that its pixels are copied.
        scratch: bytes of a pixel that its decoder takes beside the picture, as measured; of those
            that decode line by line none.
    """

    width: int
    height: int
    channels: int
    depth: int
    turned: bool = False
    scratch: int = 0

    @property
    def pixels(self) -> int:
        return self.width * self.height


def check_size(name: str, width: int, height: int, most: int) -> None:
    """Raise ImageError if a picture has more than so many pixels."""
    if width * height > most:
        raise ImageError(f"{name}: {width}×{height} is larger than {most} pixels; shrink it")
