"""A restored face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.engines.arrays import DeviceArray
from runtime.faces.blend import face_mask
from runtime.faces.crop import Crop

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, repr=False)
class Face:
    """A restored face.

    Attributes:
        pixels: (128, 128, 3) uint8 RGB, where the face was restored: a NumPy array, or a
            `DeviceArray` in GPU memory if its photograph was processed there.
        landmarks: (K, 2) float32, (x, y) pixels of `pixels`; None if the engine has no landmarks.
        scores: (K,) float32 heatmap peaks, about 1 for a certain landmark; None without landmarks.
        crop: the restored square of the picture.
        steps: `image` after each step, if the engine was exported with `--io tensor --all-steps`;
            otherwise empty.
    """

    pixels: Bytes | DeviceArray
    landmarks: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    crop: Crop
    steps: tuple[Bytes, ...] = ()

    def __repr__(self) -> str:
        count = 0 if self.landmarks is None else len(self.landmarks)
        return f"<Face at {self.box}, {count} landmarks>"

    @cached_property
    def image(self) -> Bytes:
        """(128, 128, 3) uint8 RGB in host memory; copied from the GPU when it is first read.

        Raises:
            EngineError: the GPU failed.
        """
        if not isinstance(self.pixels, DeviceArray):
            return self.pixels
        from runtime.engines.gpu import to_host

        return to_host(self.pixels)

    @property
    def side(self) -> int:
        """Width and height of the face in pixels, 128."""
        return self.pixels.shape[0]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the crop in pixels of the picture, before rotation."""
        return self.crop.x, self.crop.y, self.crop.size, self.crop.size

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(2, 3) affine matrix from pixels of `image` to pixels of the picture."""
        return self.crop.matrix(self.side)

    @property
    def points(self) -> NDArray[np.float64] | None:
        """(K, 2) landmarks in pixels of the picture; None if the engine has no landmarks."""
        if self.landmarks is None:
            return None
        return self.crop.to_picture(self.landmarks, self.side)

    def mask(self) -> NDArray[np.float32]:
        """(128, 128) float32 blending mask of `image`, in 0..1; see `face_mask`."""
        return face_mask(self.side, self.landmarks, self.scores)
