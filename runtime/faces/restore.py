"""Restoring the faces of aligned crops and of photographs."""

from __future__ import annotations

import logging
import math
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dic.engine_file import EngineError
from dic.landmarks import decode
from dic.pixels import normalise, to_levels
from dic.sizes import LQ_SIZE
from runtime.engines.arrays import DeviceArray, Stacked
from runtime.engines.batching import Batcher, overlapped
from runtime.engines.contract import SHIPPED, Engine
from runtime.engines.gpu import to_host
from runtime.engines.load import load_engine
from runtime.faces.crop import Crop, refine, snapped
from runtime.faces.detect import Detector, YuNetDetector
from runtime.faces.face import Face
from runtime.faces.frames import HostFrame, PhotoFrame
from runtime.faces.gpu import GpuFrames, covered, open_frames
from runtime.faces.noise import grain
from runtime.faces.options import BATCH, MAX_FACE, Interpolation
from runtime.pictures.inputs import as_picture, as_rgb, described
from runtime.pictures.picture import Picture
from runtime.pictures.resample import shrink

log = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
Result = TypeVar("Result")

MAX_ENLARGEMENT = 8  # of a photograph; shows a restored face of 16 pixels at its full 128
LARGEST_RESULT = 64_000_000  # pixels; the automatic enlargement does not exceed it
WORKERS = 4  # pictures processed at once


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
        self._opening = threading.Lock()
        self._opened: list[GpuFrames | None] = []  # once it is known
        largest = self.engine.max_batch
        batch = batch if largest is None else min(batch, largest)
        self._run = Batcher(self._run_batch, batch, self.engine.lanes)
        self._run_on_gpu = Batcher(self._run_batch_on_gpu, batch, self.engine.lanes)

    @property
    def _frames(self) -> GpuFrames | None:
        """Where photographs are processed on the engine's GPU, if they can be."""
        with self._opening:  # one for all threads
            if not self._opened:
                self._opened.append(open_frames(self.engine, self.face_size))
            return self._opened[0]

    @property
    def detector(self) -> Detector:
        """The detector; YuNet is loaded on first use."""
        if self._detector is None:
            self._detector = YuNetDetector()
        return self._detector

    def close(self) -> None:
        """Free what this restorer holds on a GPU, and close the engine if it loaded it."""
        while self._opened:
            frames = self._opened.pop()
            if frames is not None:
                frames.close()
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
        faces = self._run([shrink(picture, self.face_size) for picture in pictures])
        return [
            replace(face, crop=Crop(0, 0, picture.shape[0]))
            for face, picture in zip(faces, pictures, strict=True)
        ]

    def restore_in(self, image: Bytes, crops: Sequence[Crop], *, exact: bool = False) -> list[Face]:
        """Restore the faces in given crops of a picture, which are cut out in host memory.

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
        return self.restore_framed(HostFrame(Picture(image), self.face_size), crops, exact=exact)

    def restore_framed(
        self, frame: PhotoFrame, crops: Sequence[Crop], *, exact: bool = False
    ) -> list[Face]:
        """Restore the faces in given crops of a photograph's frame; see `restore_in`."""
        crops = crops if exact else [snapped(crop) for crop in crops]
        faces = self._restore(frame, crops)
        for _ in range(0 if exact else self.refine):
            wanted = {
                i: snapped(refine(face.crop, face.landmarks, face.scores, self.face_size))
                for i, face in enumerate(faces)
                if face.landmarks is not None and face.scores is not None
            }
            changed = {i: crop for i, crop in wanted.items() if crop != faces[i].crop}
            again = self._restore(frame, list(changed.values()))
            for i, face in zip(changed, again, strict=True):
                faces[i] = face
        return faces

    def _restore(self, frame: PhotoFrame, crops: Sequence[Crop]) -> list[Face]:
        lq = frame.shrunk(crops)
        on_gpu = [image for image in lq if isinstance(image, DeviceArray)]
        in_host = [image for image in lq if not isinstance(image, DeviceArray)]
        faces = self._run_on_gpu(on_gpu) if on_gpu else self._run(in_host)
        return [replace(face, crop=crop) for face, crop in zip(faces, crops, strict=True)]

    def in_frame(
        self,
        photo: Picture,
        crops: Sequence[Crop],
        background: Interpolation,
        work: Callable[[PhotoFrame], Result],
    ) -> Result:
        """Process a photograph in the engine's GPU memory if possible, else in host memory.

        Args:
            crops: of the faces to restore.
            background: how the picture around the faces is enlarged.
            work: is called with the photograph's frame; if the GPU fails, which is logged, then
                once more with a frame in host memory.

        Returns:
            what `work` returns.
        """
        if self._frames is not None and covered(photo, crops, background):
            try:
                with self._frames.open(photo) as frame:
                    return work(frame)
            except EngineError as error:
                # As text: a record that somebody keeps would keep the GPU's memory allocated.
                log.warning("%s; the picture is processed in host memory", str(error))
        return work(HostFrame(photo, self.face_size))

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

    def _run_batch_on_gpu(self, lq: Sequence[DeviceArray]) -> list[Face]:
        """Run an engine with pictures as inputs once on (16, 16, 3) uint8 RGB pictures.

        The faces stay on the GPU. Landmarks decide where faces are cropped again and blended,
        which is the CPU's work.
        """
        outputs = self.engine.run({"image": Stacked(tuple(lq))})
        points, scores = (
            to_host(outputs[name]) if name in outputs else None for name in ("landmarks", "scores")
        )
        return [
            Face(
                outputs["face"].row(i),
                None if points is None else points[i],
                None if scores is None else scores[i],
                Crop(0, 0, LQ_SIZE),
            )
            for i in range(len(lq))
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
        photo = replace(photo, grain=grain(image, small))
        del image  # of grey or 16-bit pictures a copy

        def work(frame: PhotoFrame) -> RestoredPhoto:
            faces = self.restore_framed(frame, small, exact=crops is not None)
            left = [crop for crop in detected if crop.size > max_face]
            # Refinement by the landmarks may have enlarged a crop beyond the limit.
            left += [face.crop for face in faces if face.crop.size > max_face]
            faces = [face for face in faces if face.crop.size <= max_face]
            sizes = [face.crop.size for face in faces]
            scale = enlarge or self._enlargement(
                sizes, photo.pixels.shape[:2], max_side, min(largest, LARGEST_RESULT)
            )
            return RestoredPhoto(frame.blended(faces, scale, background), scale, faces, left)

        return self.in_frame(photo, small, background, work)

    def _enlargement(
        self, sizes: Sequence[int], shape: Sequence[int], max_side: int | None, largest: int
    ) -> int:
        """See `enlargement`; `max_side` limits the result's sides."""
        scale = enlargement(self.face_size, sizes, shape, largest)
        return scale if max_side is None else max(1, min(scale, max_side // max(shape)))


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
