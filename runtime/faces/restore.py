"""Restoring faces: aligned crops, and the faces of photographs."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from dic.contract import normalise, to_levels
from dic.landmarks import decode
from dic.sizes import LQ_SIZE
from runtime.engines.batching import Batcher, overlapped
from runtime.engines.contract import SHIPPED, Engine
from runtime.engines.load import load_engine
from runtime.faces.blend import agree, belief, enlarged, face_mask, paste
from runtime.faces.crop import Crop, cut, refine
from runtime.faces.detect import Detector, YuNetDetector
from runtime.faces.options import BATCH, MAX_FACE, Interpolation
from runtime.pictures.files import Picture
from runtime.pictures.inputs import as_picture, as_rgb, described
from runtime.pictures.resample import shrink

Bytes = NDArray[np.uint8]

MAX_ENLARGEMENT = 8  # of a photograph; a face of 16 pixels then has all of its 128
LARGEST_RESULT = 64_000_000  # pixels to which a photograph is enlarged unasked
WORKERS = 4  # pictures under way at once


@dataclass(frozen=True)
class Face:
    """A restored face.

    Attributes:
        image: (128, 128, 3) uint8 RGB.
        landmarks: (K, 2) float32, (x, y) pixels of `image`; None where the engine gives none.
        scores: (K,) float32, heatmap peaks, about 1 where a landmark is sure; None likewise.
        crop: the square of the picture that was restored.
        steps: `image` after every step, where the engine gives them (`--io tensor --all-steps`).
    """

    image: Bytes
    landmarks: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    crop: Crop
    steps: tuple[Bytes, ...] = ()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the square in pixels of the picture, before it is turned."""
        return self.crop.x, self.crop.y, self.crop.size, self.crop.size

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(2, 3), pixels of `image` to pixels of the picture."""
        return self.crop.matrix(self.image.shape[0])

    @property
    def points(self) -> NDArray[np.float64] | None:
        """(K, 2), the landmarks in pixels of the picture."""
        if self.landmarks is None:
            return None
        return self.crop.to_picture(self.landmarks, self.image.shape[0])

    def mask(self) -> NDArray[np.float32]:
        """(128, 128) in 0..1, how much of `image` is pasted where."""
        return face_mask(self.image.shape[0], self.landmarks, self.scores)


@dataclass(frozen=True)
class RestoredPhoto:
    """A photograph with its faces restored.

    Attributes:
        picture: enlarged by `scale`, of the type of the photograph given.
        scale: by how much; 1 where no face needed more.
        faces: the restored faces.
        left: found, but larger than `max_face` and left as they were.
    """

    picture: Picture
    scale: int
    faces: list[Face]
    left: list[Crop]

    @property
    def image(self) -> Bytes:
        """The picture as (H, W, 3) uint8 RGB."""
        return self.picture.rgb()


class Restorer:
    """Restores faces with an engine. Several threads may use one; what they ask shares batches.

    Args:
        engine: a file of one, or one that is loaded (and then closed by whoever loaded it);
            the shipped one without it.
        device: for a file, as of `load_engine`.
        detector: finds faces in photographs; a file is a model for YuNet; the installed one
            without it.
        batch: most faces an engine run.
        refine: how often a face is cut out anew by the landmarks found in it.

    Raises:
        EngineError: as of `load_engine`.
        DetectorError: `detector` is a file, and not a YuNet model.
        ValueError: `batch` is less than 1, `refine` less than 0, or `detector` no detector.
    """

    def __init__(
        self,
        engine: Engine | str | Path = SHIPPED,
        *,
        device: str = "auto",
        detector: Detector | str | Path | None = None,
        batch: int = BATCH,
        refine: int = 1,
    ) -> None:
        if operator.index(batch) < 1 or operator.index(refine) < 0:
            raise ValueError(f"batch is at least 1 and refine at least 0, not {batch} and {refine}")
        self._owned = isinstance(engine, str | Path)
        self.engine = load_engine(engine, device) if isinstance(engine, str | Path) else engine
        self.face_size = LQ_SIZE * self.engine.metadata.scale
        self.refine = refine
        if isinstance(detector, str | Path):
            detector = YuNetDetector(Path(detector))
        elif detector is not None and not hasattr(detector, "find"):
            raise ValueError(f"a detector has a method find, {type(detector).__name__} has none")
        self._detector = detector
        largest = self.engine.max_batch
        batch = batch if largest is None else min(batch, largest)
        self._run = Batcher(self._run_batch, batch, self.engine.lanes)

    @property
    def detector(self) -> Detector:
        if self._detector is None:
            self._detector = YuNetDetector()
        return self._detector

    def close(self) -> None:
        if self._owned:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @overload
    def __call__(self, images: Bytes | Path | str) -> list[Face]: ...
    @overload
    def __call__(self, images: Sequence[Any]) -> list[list[Face]]: ...
    @overload
    def __call__(self, images: Iterator[Any]) -> Iterator[list[Face]]: ...

    def __call__(self, images: Any) -> Any:
        """Find and restore the faces of one picture, of several, or of an iterator's.

        Args:
            images: a picture is an array (H, W, 3) uint8 RGB or (H, W) grey, a file, or a
                picture of Pillow's; several are a list, a tuple, an array (N, H, W, 3), or an
                iterator, of which only a few are taken ahead.

        Returns:
            a list of faces, largest first; of several pictures a list of lists; of an iterator an
            iterator of lists. Faces of several pictures share batches.

        Raises:
            ValueError: what is given is no picture.
            ImageError: a file cannot be read.
        """
        if isinstance(images, Iterator):
            return overlapped(self._faces, images, WORKERS)
        several = isinstance(images, list | tuple) or (
            isinstance(images, np.ndarray) and images.ndim == 4
        )
        if several:
            return list(overlapped(self._faces, images, WORKERS))
        return self._faces(images)

    def _faces(self, image: Any) -> list[Face]:
        pixels = as_rgb(image)
        return self.restore_in(pixels, self.detector.find(pixels))

    def restore(self, crops: Iterable[Any]) -> list[Face]:
        """Restore aligned faces.

        Args:
            crops: square pictures of any size, of the kinds that a call takes, framed like the
                training data; each is shrunk to the network's 16×16.

        Raises:
            ValueError: a crop is no picture, or not square.
        """
        if isinstance(crops, str | Path) or (isinstance(crops, np.ndarray) and crops.ndim < 4):
            raise ValueError("restore takes a list of crops; a picture alone goes as [picture]")
        pictures = [as_rgb(crop) for crop in crops]
        for picture in pictures:
            if picture.shape[0] != picture.shape[1]:
                raise ValueError(f"a crop is square, not {described(picture)}")
        return self._restore(pictures, [Crop(0, 0, picture.shape[0]) for picture in pictures])

    def restore_in(self, image: Bytes, crops: Sequence[Crop], *, exact: bool = False) -> list[Face]:
        """Restore the faces in some squares of a picture.

        Args:
            image: (H, W, 3) uint8 RGB.
            crops: where the faces are.
            exact: leave the squares as they are; otherwise a face is cut out anew where its
                landmarks show that it lies, leans or fills its square otherwise.
        """
        faces = self._restore([cut(image, crop) for crop in crops], crops)
        for _ in range(0 if exact else self.refine):
            wanted = {
                i: refine(face.crop, face.landmarks, face.scores, self.face_size)
                for i, face in enumerate(faces)
                if face.landmarks is not None and face.scores is not None
            }
            changed = {i: crop for i, crop in wanted.items() if crop != faces[i].crop}
            pieces = [cut(image, crop) for crop in changed.values()]
            for i, face in zip(changed, self._restore(pieces, list(changed.values())), strict=True):
                faces[i] = face
        return faces

    def _restore(self, pieces: Sequence[Bytes], crops: Sequence[Crop]) -> list[Face]:
        """Faces of square pieces (S, S, 3), each cut from its crop."""
        faces = self._run([shrink(piece, self.face_size) for piece in pieces])
        return [replace(face, crop=crop) for face, crop in zip(faces, crops, strict=True)]

    def _run_batch(self, lq: Sequence[Bytes]) -> list[Face]:
        """One engine run of pictures (16, 16, 3)."""
        images = np.stack(lq)
        if self.engine.metadata.io == "image":
            given = self.engine.run({"image": images})
            steps, points = [given["face"]], given.get("landmarks")
            scores = given.get("scores")
        else:
            given = self.engine.run({"lq": normalise(images)})
            names = [tensor.name for tensor in self.engine.outputs]
            steps = [to_levels(given[name]) for name in names if name.startswith("sr")]
            maps = [given[name] for name in names if name.startswith("heatmap")]
            points, scores = decode(maps[-1]) if maps else (None, None)
        return [
            Face(
                steps[-1][i],
                None if points is None else points[i],
                None if scores is None else scores[i],
                Crop(0, 0, LQ_SIZE),
                tuple(step[i] for step in steps) if len(steps) > 1 else (),
            )
            for i in range(len(images))
        ]

    def restore_photo(
        self,
        photo: Any,
        crops: Sequence[Crop] | None = None,
        *,
        max_face: int = MAX_FACE,
        enlarge: int | None = None,
        background: Interpolation | str = Interpolation.CUBIC,
        max_side: int | None = None,
    ) -> RestoredPhoto:
        """Restore the faces of a photograph, and blend them back.

        Args:
            photo: with any number of faces; a `Picture` (with alpha, 16 bits, a colour profile),
                or of the kinds that a call takes.
            crops: where they are; without it they are looked for.
            max_face: crops wider than this many pixels are left alone: the network sees 16×16
                pixels of a face, and a sharp large face has nothing to gain.
            enlarge: by how much to enlarge the photograph, 1 to 8; None takes what its smallest
                restored face needs to keep its detail, at most 8 and 64 megapixels.
            background: how what lies around the faces is enlarged: "nearest", "linear", "cubic"
                or "lanczos".
            max_side: pixels that a side of the result may have, unless `enlarge` is given.

        Raises:
            ValueError: `enlarge` or `background` is none of these, or what is given no picture.
            ImageError: a file cannot be read.
        """
        if enlarge is not None and not 1 <= operator.index(enlarge) <= MAX_ENLARGEMENT:
            raise ValueError(f"enlarge is 1 to {MAX_ENLARGEMENT}, not {enlarge}")
        background = Interpolation(background)
        photo = as_picture(photo)
        image = photo.rgb()
        found = self.detector.find(image) if crops is None else crops
        small = [crop for crop in found if crop.size <= max_face]
        faces = self.restore_in(image, small, exact=crops is not None)
        left = [crop for crop in found if crop.size > max_face]
        # Where its landmarks show a face to be larger than the detector thought.
        left += [face.crop for face in faces if face.crop.size > max_face]
        faces = [face for face in faces if face.crop.size <= max_face]
        if enlarge is None:
            sizes = [face.crop.size for face in faces]
            enlarge = enlargement(self.face_size, sizes, image.shape[:2], LARGEST_RESULT)
            if max_side is not None:
                enlarge = max(1, min(enlarge, max_side // max(image.shape[:2])))
        picture = enlarged(photo, enlarge, background)
        self.blend(picture, image, faces, enlarge)
        return RestoredPhoto(picture, enlarge, faces, left)

    def blend(
        self,
        picture: Picture,
        image: Bytes,
        faces: Sequence[Face],
        scale: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Blend faces into an enlarged picture, in place.

        Args:
            picture: the photograph, already enlarged by `scale`.
            image: the photograph as it was, (H, W, 3) uint8 RGB.
            weights: how much of each face, in 0..1; all of it without them.
        """
        given = list(zip(faces, weights or [1.0] * len(faces), strict=True))
        # The larger of two that overlap is nearer, and covers the other.
        for face, weight in sorted(given, key=lambda pair: pair[0].crop.size):
            piece = cut(image, face.crop)
            mask = face.mask() * belief(face.image, piece) * np.float32(weight)
            paste(picture, agree(face.image, piece), face.crop, scale, mask)


def enlargement(face_size: int, sizes: Sequence[float], shape: Sequence[int], largest: int) -> int:
    """By how much to enlarge a picture so that its faces keep their detail.

    Args:
        face_size: side of a restored face, pixels.
        sizes: sides of the faces in the picture.
        shape: its two sides.
        largest: pixels that the result may have.
    """
    need = max((math.ceil(face_size / size) for size in sizes), default=1)
    room = math.isqrt(largest // max(1, shape[0] * shape[1]))
    return max(1, min(need, MAX_ENLARGEMENT, room))
