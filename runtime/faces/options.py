"""How photographs and videos are restored: plain data, without the import of OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_FACE = 64  # pixels of a crop's side; a larger face of a photograph is left as it is
BATCH = 8  # faces


class Interpolation(StrEnum):
    """How the picture around the faces is enlarged."""

    NEAREST = "nearest"
    LINEAR = "linear"
    CUBIC = "cubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True)
class PhotoOptions:
    """How photographs and videos are restored.

    Attributes:
        max_face: crops wider than this many pixels are left alone: the network sees 16×16 pixels
            of a face, and a sharp large face has nothing to gain.
        enlarge: by how much to enlarge the picture, 1 to 8; None takes what its smallest restored
            face needs to keep its detail, within limits on the result's size.
        background: how the picture around the faces is enlarged.
    """

    max_face: int = MAX_FACE
    enlarge: int | None = None
    background: Interpolation = Interpolation.CUBIC
