"""Restoring faces: aligned crops in batches, and the faces in a photograph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.detect import Crop, Detector
from runtime.engine import LQ_SIZE, Engine, EngineError
from runtime.images import Picture
from runtime.resample import resize, shrink

Bytes = NDArray[np.uint8]

MAX_ENLARGEMENT = 8  # of a photograph; a face of 16 pixels then has all of its 128
LARGEST_RESULT = 64_000_000  # pixels to which a photograph is enlarged unasked
AGREE_UP_TO = 64  # pixels of a crop's side
AGREE_ROUNDS = 2
FEATHER = (0.66, 0.98)  # where a pasted face begins to fade and where it is gone, in half sides


@dataclass(frozen=True)
class Restored:
    """A restored face.

    Attributes:
        image: (128, 128, 3) uint8 RGB.
        landmarks: (K, 2) float32, (x, y) pixels of `image`; None where the engine gives none.
        scores: (K,) float32, heatmap peaks, about 1 where a landmark is sure; None likewise.
    """

    image: Bytes
    landmarks: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None


@dataclass(frozen=True)
class RestoredPhoto:
    """A photograph with its faces restored.

    Attributes:
        picture: enlarged by `scale`, of the type of the photograph given.
        scale: by how much; 1 where no face needed more.
        crops: where the restored faces are, in pixels of the photograph given.
        faces: the restored faces, in the same order.
        left: found, but larger than `max_face` and left as they were.
    """

    picture: Picture
    scale: int
    crops: list[Crop]
    faces: list[Restored]
    left: list[Crop]


class FaceRestorer:
    """Restores faces with an engine.

    Args:
        engine: with `--io image`.
        batch: faces an engine run.

    Raises:
        EngineError: the engine takes tensors, not pictures.
    """

    def __init__(self, engine: Engine, batch: int = 8) -> None:
        if engine.metadata.io != "image":
            raise EngineError(
                f"{engine.path}: takes normalised tensors; export one with --io image"
            )
        self.engine, self.batch = engine, batch
        self.face_size = LQ_SIZE * engine.metadata.scale

    def restore(self, crops: Sequence[Bytes]) -> list[Restored]:
        """Restore aligned faces.

        Args:
            crops: square pictures (S, S, 3) uint8 RGB of any size, framed like the training
                data; each is shrunk to the network's 16×16.

        Raises:
            ValueError: a crop is not square, not RGB or not uint8.
        """
        for crop in crops:
            if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3:
                raise ValueError(f"a crop is uint8 [size, size, 3] RGB, not {_described(crop)}")
            if crop.shape[0] != crop.shape[1] or not crop.size:
                raise ValueError(f"a crop is square, not {_described(crop)}")
        restored: list[Restored] = []
        for start in range(0, len(crops), self.batch):
            lq = [shrink(crop, self.face_size) for crop in crops[start : start + self.batch]]
            given = self.engine.run({"image": np.stack(lq)})
            points, scores = given.get("landmarks"), given.get("scores")
            for i, face in enumerate(given["face"]):
                restored.append(
                    Restored(
                        face,
                        None if points is None else points[i],
                        None if scores is None else scores[i],
                    )
                )
        return restored

    def restore_photo(
        self, photo: Picture, detector: Detector, max_face: int, enlarge: int | None = None
    ) -> RestoredPhoto:
        """Find the faces of a photograph, restore them, and blend them back.

        Args:
            photo: with any number of faces.
            detector: finds and frames them.
            max_face: crops wider than this many pixels are left alone: the network sees 16×16
                pixels of a face, and a sharp large face has nothing to gain.
            enlarge: by how much to enlarge the photograph; None takes what its smallest
                restored face needs to keep its detail, at most 8 and 64 megapixels.
        """
        image = photo.rgb()
        found = detector.find(image)
        crops = [crop for crop in found if crop.size <= max_face]
        pieces = [cut(image, crop) for crop in crops]
        faces = self.restore(pieces)
        if enlarge is None:
            need = max((-(-self.face_size // crop.size) for crop in crops), default=1)
            room = math.isqrt(LARGEST_RESULT // max(1, image.shape[0] * image.shape[1]))
            enlarge = max(1, min(need, MAX_ENLARGEMENT, room))
        picture = _enlarged(photo, enlarge)
        for crop, piece, face in zip(crops, pieces, faces, strict=True):
            paste(picture, agree(face.image, piece), crop, enlarge)
        left = [crop for crop in found if crop.size > max_face]
        return RestoredPhoto(picture, enlarge, crops, faces, left)


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def centre_square(image: Bytes) -> Bytes:
    """The largest centred square of a picture (H, W, 3)."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def cut(image: Bytes, crop: Crop) -> Bytes:
    """A crop's pixels (size, size, 3); what lies beyond the picture repeats its edge."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(crop.y, crop.y + crop.size), 0, height - 1)
    columns = np.clip(np.arange(crop.x, crop.x + crop.size), 0, width - 1)
    return image[rows[:, None], columns]


def _enlarged(photo: Picture, scale: int) -> Picture:
    """The photograph, enlarged bicubically; a copy where `scale` is 1."""

    def enlarge(channels: NDArray[Any]) -> NDArray[Any]:
        if scale == 1:
            return channels.copy()
        size = (channels.shape[1] * scale, channels.shape[0] * scale)
        done = cv2.resize(channels, size, interpolation=cv2.INTER_CUBIC)
        return cast(NDArray[Any], done.reshape(size[1], size[0], *channels.shape[2:]))

    alpha = None if photo.alpha is None else enlarge(photo.alpha)
    return Picture(enlarge(photo.pixels), alpha)


def agree(face: Bytes, crop: Bytes) -> Bytes:
    """Make a restored face agree with the photograph (back-projection, Irani and Peleg, 1991).

    Shrunk to the photograph's resolution, the restored face should show what the photograph
    shows there. What it lacks is enlarged and added, so that no seam or tint shows where it is
    pasted, and detail between the network's 16 pixels and the photograph's is not lost (of a crop
    of more than 64 pixels, what 64 show).

    Args:
        face: (128, 128, 3) uint8 RGB, restored from `crop`.
        crop: (S, S, 3) uint8 RGB.
    """
    side = min(crop.shape[0], AGREE_UP_TO)
    seen = resize(crop, (side, side)).astype(np.float32)
    full = (face.shape[1], face.shape[0])
    for _ in range(AGREE_ROUNDS):
        lacking = seen - resize(face, (side, side))
        smooth = cv2.resize(lacking, full, interpolation=cv2.INTER_CUBIC)
        face = np.clip(np.round(face + smooth), 0, 255).astype(np.uint8)
    return face


def paste(picture: Picture, face: Bytes, crop: Crop, scale: int) -> None:
    """Blend a face into an enlarged picture, in place, with a soft rounded edge.

    Pixels outside the crop are not touched.

    Args:
        picture: the photograph, already enlarged by `scale`.
        face: (S, S, 3) uint8 RGB.
        crop: in pixels of the photograph before it was enlarged.
    """
    size = crop.size * scale
    way = cv2.INTER_AREA if size < face.shape[0] else cv2.INTER_CUBIC
    fitted: NDArray[Any] = cv2.resize(face, (size, size), interpolation=way).astype(np.float32)
    if picture.pixels.shape[2] == 1:
        fitted = cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY)[:, :, None]
    fitted *= picture.peak / 255
    height, width = picture.pixels.shape[:2]
    left, top = crop.x * scale, crop.y * scale
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    inside = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    weight = _feather(size)[inside][:, :, None]
    under = picture.pixels[rows, columns].astype(np.float32)
    blend = under + weight * (fitted[inside] - under)
    picture.pixels[rows, columns] = np.clip(np.round(blend), 0, picture.peak)


def _feather(size: int) -> NDArray[np.float32]:
    """Weights (size, size): 1 in the middle, 0 at the edge, along a rounded square."""
    side = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    distance = (side[:, None] ** 4 + side[None, :] ** 4) ** 0.25
    inner, outer = FEATHER
    t = np.clip((outer - distance) / (outer - inner), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
