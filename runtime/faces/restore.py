"""Restoring the faces of aligned crops and of photographs."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from dic.landmarks import decode
from dic.pixels import normalise, to_levels
from dic.sizes import LQ_SIZE
from runtime.engines.batching import Batcher, overlapped
from runtime.engines.contract import SHIPPED, Engine
from runtime.engines.load import load_engine
from runtime.faces.blend import back_project, consistency, enlarged, face_mask, paste
from runtime.faces.crop import Crop, cut, refine, snapped
from runtime.faces.detect import Detector, YuNetDetector
from runtime.faces.options import BATCH, MAX_FACE, Interpolation
from runtime.pictures.files import Picture
from runtime.pictures.inputs import as_picture, as_rgb, described
from runtime.pictures.resample import shrink

Bytes = NDArray[np.uint8]

MAX_ENLARGEMENT = 8  # of a photograph; shows a restored face of 16 pixels at its full 128
LARGEST_RESULT = 64_000_000  # pixels; the automatic enlargement does not exceed it
WORKERS = 4  # pictures processed at once


@dataclass(frozen=True)
class Face:
    """A restored face.

    Attributes:
        image: (128, 128, 3) uint8 RGB.
        landmarks: (K, 2) float32, (x, y) pixels of `image`; None if the engine has no landmarks.
        scores: (K,) float32 heatmap peaks, about 1 for a certain landmark; None without landmarks.
        crop: the restored square of the picture.
        steps: `image` after each step, if the engine was exported with `--io tensor --all-steps`;
            otherwise empty.
    """

    image: Bytes
    landmarks: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    crop: Crop
    steps: tuple[Bytes, ...] = ()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the crop in pixels of the picture, before rotation."""
        return self.crop.x, self.crop.y, self.crop.size, self.crop.size

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(2, 3) affine matrix from pixels of `image` to pixels of the picture."""
        return self.crop.matrix(self.image.shape[0])

    @property
    def points(self) -> NDArray[np.float64] | None:
        """(K, 2) landmarks in pixels of the picture; None if the engine has no landmarks."""
        if self.landmarks is None:
            return None
        return self.crop.to_picture(self.landmarks, self.image.shape[0])

    def mask(self) -> NDArray[np.float32]:
        """(128, 128) float32 blending mask of `image`, in 0..1; see `face_mask`."""
        return face_mask(self.image.shape[0], self.landmarks, self.scores)


@dataclass(frozen=True)
class RestoredPhoto:
    """A photograph with its faces restored.

    Attributes:
        picture: the result, with the alpha channel, bit depth and metadata of the photograph.
        scale: enlargement factor; 1 if no face needs more.
        faces: the restored faces.
        left: crops of detected faces that are larger than `max_face` and were not restored.
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
    """Restores faces with an engine. Thread-safe; faces from several threads share batches.

    Args:
        engine: the path of an engine, or a loaded engine, which `close` leaves open; by default
            the shipped engine.
        device: where to load an engine given by its path; see `load_engine`.
        detector: detects faces in photographs; a path is a model for `YuNetDetector`; None uses
            the installed model.
        batch: most faces per engine run.
        refine: how many times a face is cropped and restored again by its own landmarks.

    Raises:
        EngineError: the engine cannot be loaded; see `load_engine`.
        DetectorError: `detector` is a path, and not one of a YuNet model.
        ValueError: `batch` is less than 1, `refine` is less than 0, or `detector` is no detector.
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
            raise ValueError(
                "batch must be at least 1 and refine at least 0, got "
                f"batch={batch} and refine={refine}"
            )
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
        """The detector; YuNet is loaded on first use."""
        if self._detector is None:
            self._detector = YuNetDetector()
        return self._detector

    def close(self) -> None:
        """Close the engine, if this restorer loaded it."""
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
        """Detect and restore the faces of one or more pictures.

        Args:
            images: one picture, as a path, a Pillow image, or an array (H, W, 3) RGB or (H, W)
                grey, uint8 or uint16; or several, as a list, a tuple, an array (N, H, W, 3), or an
                iterator, which is read only a few pictures ahead.

        Returns:
            for one picture, its faces, largest first; for several, a list of such lists; for an
            iterator, an iterator of such lists. Faces of several pictures share batches.

        Raises:
            ValueError: an object is not a picture.
            ImageError: a file cannot be read.
            DetectorError: the detector's model cannot be loaded.
            EngineError: the engine failed.
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
            crops: square pictures (S, S, 3) of any size S and of the types that `__call__`
                accepts, framed like the training data; each is reduced to 16×16 pixels.

        Returns:
            one face per crop, in order; each face's own crop covers the whole picture.

        Raises:
            ValueError: a crop is not a picture, or not square.
            ImageError: a file cannot be read.
            EngineError: the engine failed.
        """
        if isinstance(crops, str | Path) or (isinstance(crops, np.ndarray) and crops.ndim < 4):
            raise ValueError("restore takes a list of crops; pass a single picture as [picture]")
        pictures = [as_rgb(crop) for crop in crops]
        for picture in pictures:
            if picture.shape[0] != picture.shape[1]:
                raise ValueError(f"a crop must be square, got {described(picture)}")
        return self._restore(pictures, [Crop(0, 0, picture.shape[0]) for picture in pictures])

    def restore_in(self, image: Bytes, crops: Sequence[Crop], *, exact: bool = False) -> list[Face]:
        """Restore the faces in given crops of a picture.

        Args:
            image: (H, W, 3) uint8 RGB.
            crops: one per face.
            exact: use the crops unchanged; otherwise a face is cropped and restored again if its
                landmarks show that its position, tilt or size differs from the crop.

        Returns:
            one face per crop, in order.

        Raises:
            EngineError: the engine failed.
        """
        crops = crops if exact else [snapped(crop) for crop in crops]
        faces = self._restore([cut(image, crop) for crop in crops], crops)
        for _ in range(0 if exact else self.refine):
            wanted = {
                i: snapped(refine(face.crop, face.landmarks, face.scores, self.face_size))
                for i, face in enumerate(faces)
                if face.landmarks is not None and face.scores is not None
            }
            changed = {i: crop for i, crop in wanted.items() if crop != faces[i].crop}
            pieces = [cut(image, crop) for crop in changed.values()]
            for i, face in zip(changed, self._restore(pieces, list(changed.values())), strict=True):
                faces[i] = face
        return faces

    def _restore(self, pieces: Sequence[Bytes], crops: Sequence[Crop]) -> list[Face]:
        """Restore square pieces (S, S, 3) of a picture, each extracted from its crop."""
        faces = self._run([shrink(piece, self.face_size) for piece in pieces])
        return [replace(face, crop=crop) for face, crop in zip(faces, crops, strict=True)]

    def _run_batch(self, lq: Sequence[Bytes]) -> list[Face]:
        """Run the engine once on (16, 16, 3) uint8 RGB pictures."""
        images = np.stack(lq)
        if self.engine.metadata.io == "image":
            outputs = self.engine.run({"image": images})
            steps, points = [outputs["face"]], outputs.get("landmarks")
            scores = outputs.get("scores")
        else:
            outputs = self.engine.run({"lq": normalise(images)})
            names = [tensor.name for tensor in self.engine.outputs]
            steps = [to_levels(outputs[name]) for name in names if name.startswith("sr")]
            maps = [outputs[name] for name in names if name.startswith("heatmap")]
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
        largest: int = LARGEST_RESULT,
    ) -> RestoredPhoto:
        """Restore the faces of a photograph and blend them into it.

        Args:
            photo: a `Picture` (which keeps alpha, 16 bits and a colour profile), or any type that
                `__call__` accepts as one picture.
            crops: positions of the faces; None detects them.
            max_face, enlarge, background: see `PhotoOptions`; `background` is "nearest",
                "linear", "cubic" or "lanczos". The automatic enlargement is limited to 8 times and
                a result of 64 megapixels.
            max_side: limits the automatic enlargement to results of so many pixels a side.
            largest: limits it to results of so many pixels.

        Raises:
            ValueError: `enlarge` or `background` is invalid, or `photo` is not a picture.
            ImageError: a file cannot be read.
            DetectorError: the detector's model cannot be loaded.
            EngineError: the engine failed.
        """
        if enlarge is not None and not 1 <= operator.index(enlarge) <= MAX_ENLARGEMENT:
            raise ValueError(f"enlarge must be 1 to {MAX_ENLARGEMENT}, got {enlarge}")
        background = Interpolation(background)
        photo = as_picture(photo)
        image = photo.rgb()
        detected = self.detector.find(image) if crops is None else crops
        small = [crop for crop in detected if crop.size <= max_face]
        faces = self.restore_in(image, small, exact=crops is not None)
        left = [crop for crop in detected if crop.size > max_face]
        # Refinement by the landmarks may have enlarged a crop beyond the limit.
        left += [face.crop for face in faces if face.crop.size > max_face]
        faces = [face for face in faces if face.crop.size <= max_face]
        if enlarge is None:
            sizes = [face.crop.size for face in faces]
            enlarge = enlargement(
                self.face_size, sizes, image.shape[:2], min(largest, LARGEST_RESULT)
            )
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
        """Blend restored faces into an enlarged picture, in place.

        Args:
            picture: the photograph, already enlarged `scale` times.
            image: the photograph before enlargement, (H, W, 3) uint8 RGB.
            faces: with crops in pixels of `image`.
            scale: the enlargement factor.
            weights: opacity of each face in 0..1; None is 1 for all.
        """
        pairs = list(zip(faces, weights or [1.0] * len(faces), strict=True))
        # Blend larger faces last: of two that overlap, the larger is nearer to the camera.
        for face, weight in sorted(pairs, key=lambda pair: pair[0].crop.size):
            piece = cut(image, face.crop)
            mask = face.mask() * consistency(face.image, piece) * np.float32(weight)
            projected = back_project(face.image, piece, picture.quantisation)
            paste(picture, projected, face.crop, scale, mask)


def enlargement(face_size: int, sizes: Sequence[float], shape: Sequence[int], largest: int) -> int:
    """The enlargement factor that shows all restored faces in full detail.

    Args:
        face_size: side of a restored face in pixels.
        sizes: sides of the faces' crops in pixels.
        shape: the two sides of the picture in pixels.
        largest: most pixels of the result.

    Returns:
        at least 1 and at most 8, limited by `largest`.
    """
    need = max((math.ceil(face_size / size) for size in sizes), default=1)
    room = math.isqrt(largest // max(1, shape[0] * shape[1]))
    return max(1, min(need, MAX_ENLARGEMENT, room))
