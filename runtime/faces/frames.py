"""A photograph or video frame while its faces are restored: cut, shrink, and blend.

The steps are the same in host memory (`HostFrame`) and in GPU memory (`runtime.faces.gpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.engines.arrays import DeviceArray
from runtime.faces.blend import back_project, consistency, enlarged, paste
from runtime.faces.crop import Crop, cut
from runtime.faces.face import Face
from runtime.faces.options import Interpolation
from runtime.pictures.picture import Picture
from runtime.pictures.resample import shrink

Bytes = NDArray[np.uint8]


class PhotoFrame(Protocol):
    """A photograph in work. One thread uses it.

    Raises:
        EngineError: the GPU failed, or cannot process this photograph.
    """

    def shrunk(self, crops: Sequence[Crop]) -> Sequence[Bytes | DeviceArray]:
        """The network's input for each crop: (16, 16, 3) uint8 RGB.

        Those of an earlier call may no longer be read.
        """
        ...

    def blended(
        self,
        faces: Sequence[Face],
        scale: int,
        background: Interpolation,
        weights: Sequence[float] | None = None,
    ) -> Picture:
        """The photograph enlarged, with faces blended into it.

        Args:
            faces: restored from crops of this photograph.
            scale: the enlargement factor.
            background: how the picture around the faces is enlarged.
            weights: opacity of each face in 0..1; None is 1 for all.
        """
        ...


class HostFrame:
    """A `PhotoFrame` in host memory.

    Args:
        face_size: side of a restored face in pixels.
    """

    def __init__(self, photo: Picture, face_size: int) -> None:
        self._photo, self._face_size = photo, face_size

    @cached_property
    def _image(self) -> Bytes:
        """(H, W, 3) uint8 RGB."""
        return self._photo.rgb()

    def shrunk(self, crops: Sequence[Crop]) -> list[Bytes]:
        return [shrink(cut(self._image, crop), self._face_size) for crop in crops]

    def blended(
        self,
        faces: Sequence[Face],
        scale: int,
        background: Interpolation,
        weights: Sequence[float] | None = None,
    ) -> Picture:
        picture = enlarged(self._photo, scale, background)
        for face, weight in in_order(faces, weights):
            piece = cut(self._image, face.crop)
            mask = face.mask() * consistency(face.image, piece) * np.float32(weight)
            projected = back_project(face.image, piece, picture.quantisation, picture.grain)
            paste(picture, projected, face.crop, scale, mask)
        return picture


def in_order(faces: Sequence[Face], weights: Sequence[float] | None) -> list[tuple[Face, float]]:
    """Faces and their opacity, in the order of blending.

    Larger faces come last: of two that overlap, the larger is nearer to the camera.
    """
    pairs = list(zip(faces, weights or [1.0] * len(faces), strict=True))
    return sorted(pairs, key=lambda pair: pair[0].crop.size)
