"""Photographs in the memory of their engine's GPU: copied there once, and the result back once.

Between the two copies only landmarks and records of a few hundred bytes a face cross the bus. The
kernels are those of `runtime.cuda`, in the order of `HostFrame`.
"""

from __future__ import annotations

import logging
import queue
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.engine_file import EngineError
from dic.sizes import LQ_SIZE
from runtime.cuda import layout
from runtime.cuda.kernels import Frame, Kernels, load_kernels, report, resizable
from runtime.cuda.workspace import Workspace
from runtime.engines.arrays import DeviceArray
from runtime.engines.contract import Engine
from runtime.engines.gpu import Gpu
from runtime.faces.blend import projection
from runtime.faces.crop import Crop
from runtime.faces.face import Face
from runtime.faces.frames import in_order
from runtime.faces.options import Interpolation
from runtime.faces.records import (
    SETTINGS,
    as_bytes,
    comparison_sides,
    crop_records,
    mask_records,
    paste_records,
    projection_sides,
    resize_records,
    shrink_sizes,
)
from runtime.pictures.picture import Picture

log = logging.getLogger(__name__)

FRAMES = 4  # photographs in GPU memory at once; their faces share batches
KEPT = 1 << 28  # bytes; a workspace that has grown beyond is freed after its photograph
MOST_PIXELS = 2**31  # of a frame, as the kernels count them
LQ_BYTES = LQ_SIZE * LQ_SIZE * 3

Sizes = list[tuple[int, int]]  # old and new side of each picture


def open_frames(engine: Engine, face_size: int) -> GpuFrames | None:
    """The frames of an engine's GPU.

    Args:
        face_size: side of a restored face in pixels.

    Returns:
        None if the engine runs elsewhere, has other inputs than pictures, or the kernels cannot be
        loaded there, which is logged once: photographs are then processed in host memory.
    """
    gpu: Gpu | None = getattr(engine, "gpu", None)
    if gpu is None or engine.metadata.io != "image":
        return None
    with gpu.current():
        kernels = load_kernels()
    return None if kernels is None else GpuFrames(gpu, kernels, face_size)


class GpuFrames:
    """Workspaces for photographs on a GPU, for up to `FRAMES` threads at a time.

    Args:
        kernels: loaded on that GPU.
        face_size: side of a restored face in pixels.
    """

    def __init__(self, gpu: Gpu, kernels: Kernels, face_size: int) -> None:
        self._gpu, self._face_size = gpu, face_size
        # The only reference: their module must be freed with the GPU's context current.
        self._kernels = [kernels]
        # Workspaces that are free; None is a place for one that is not made yet.
        self._idle: queue.LifoQueue[Workspace | None] = queue.LifoQueue()
        for _ in range(FRAMES):
            self._idle.put(None)
        self._release = weakref.finalize(self, _release, gpu, self._idle, self._kernels)

    @contextmanager
    def open(self, photo: Picture) -> Iterator[GpuFrame]:
        """A photograph's frame, whose faces may be read on the GPU until the block ends.

        Raises:
            EngineError: the GPU failed, for example by running out of memory.
        """
        try:
            with self._gpu.current():
                work = self._idle.get()
                try:
                    if work is None:
                        work = Workspace(self._gpu)
                    yield GpuFrame(work, self._kernels, photo, self._face_size)
                    work.synchronise()
                    if work.nbytes > KEPT:
                        work.free()
                        work = None
                except BaseException as error:  # what is queued in its stream is unknown
                    if work is not None:
                        work.free()
                    work = None
                    # Only then, as pending work may read the faces that local variables hold: one
                    # that the traceback keeps would keep the stream, which is destroyed with its
                    # last reference and needs the context to be current.
                    traceback.clear_frames(error.__traceback__)
                    raise
                finally:
                    self._idle.put(work)
        except self._gpu.failures as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"cuda:{self._gpu.index}: failed ({reason})") from error

    def close(self) -> None:
        """Free the GPU memory. No thread may have a frame open."""
        self._release()


def _release(gpu: Gpu, idle: queue.LifoQueue[Workspace | None], kernels: list[Kernels]) -> None:
    """Free workspaces and kernels. Only logs what fails, as an earlier error matters more."""
    try:
        with gpu.current():
            while not idle.empty():
                work = idle.get_nowait()
                if work is not None:
                    work.free()
            kernels.clear()
    except Exception as error:
        log.info("cuda:%d: not freed: %s", gpu.index, error)


def covered(
    photo: Picture, crops: Sequence[Crop], background: Interpolation, scale: int = 1
) -> bool:
    """Whether the kernels can process a photograph. Logs once why not."""
    height, width = photo.pixels.shape[:2]
    why = ""
    if photo.alpha is not None:
        why = "it has transparent pixels"
    elif background is not Interpolation.CUBIC:
        why = f"{background} enlargement"
    elif not all(resizable(crop.size, LQ_SIZE) for crop in crops):
        why = "a face is too large"
    elif height * width * scale**2 >= MOST_PIXELS:
        why = "it has too many pixels"
    if why:
        report(f"{why} (and others like it)")
    return not why


class GpuFrame:
    """A `PhotoFrame` in GPU memory. The photograph is copied there when it is first needed.

    Args:
        work: for this photograph alone, with the GPU's context current.
        kernels: those of `GpuFrames`, in the list that holds their only reference.
        face_size: side of a restored face in pixels.
    """

    def __init__(
        self, work: Workspace, kernels: list[Kernels], photo: Picture, face_size: int
    ) -> None:
        self._work, self._held, self._photo, self._side = work, kernels, photo, face_size
        self._uploaded: Frame | None = None

    @property
    def _kernels(self) -> Kernels:
        return self._held[0]

    def shrunk(self, crops: Sequence[Crop]) -> list[DeviceArray]:
        """See `PhotoFrame.shrunk`; the arrays are written in this frame's stream."""
        if not crops:
            return []
        work, frame = self._work, self._frame()
        steps = shrink_sizes(crops, self._side)
        cuts, size = crop_records(crops, frame.height, frame.width)
        jobs = [resize_records(sizes) for sizes in steps]
        cuts_at, *jobs_at = self._records(cuts, *(records for records, _ in jobs))
        pictures = self._cut(crops, cuts_at, size)
        for n, (sizes, (_, size)) in enumerate(zip(steps, jobs, strict=True)):
            smaller = work.memory(f"shrunk {n}", size)
            self._kernels.resize(pictures, smaller, jobs_at[n], sizes, work.stream)
            pictures = smaller
        shape, dtype = (LQ_SIZE, LQ_SIZE, 3), np.dtype(np.uint8)
        return [
            DeviceArray(at, shape, dtype, work.gpu.index, work, work.handle)
            for at in range(pictures, pictures + len(crops) * LQ_BYTES, LQ_BYTES)
        ]

    def blended(
        self,
        faces: Sequence[Face],
        scale: int,
        background: Interpolation,
        weights: Sequence[float] | None = None,
    ) -> Picture:
        """See `PhotoFrame.blended`.

        Raises:
            EngineError: the GPU failed; or the kernels do not cover these faces, whose crops may
                have grown since the frame was opened, or this scale.
        """
        photo = self._photo
        if not covered(photo, [face.crop for face in faces], background, scale):
            raise EngineError("the CUDA kernels do not cover it")
        if not faces and scale == 1:
            return replace(photo, pixels=photo.pixels.copy())
        target = self._enlarged(scale)
        if faces:
            self._blend(target, in_order(faces, weights), scale)
        shape = (target.height, target.width, target.channels)
        pixels = self._work.download(target.pixels, shape, photo.pixels.dtype)
        return replace(photo, pixels=pixels)

    def _frame(self) -> Frame:
        """The photograph on the GPU."""
        if self._uploaded is None:
            pixels = self._photo.pixels
            height, width, channels = pixels.shape
            address = self._work.upload("photo", pixels)
            self._uploaded = Frame(address, width, height, channels, pixels.dtype.itemsize)
        return self._uploaded

    def _enlarged(self, scale: int) -> Frame:
        """An enlarged copy of the photograph."""
        work, source = self._work, self._frame()
        size = source.stride * source.height * scale**2
        sides = (source.width * scale, source.height * scale)
        target = Frame(work.memory("result", size), *sides, source.channels, source.depth)
        if scale == 1:
            work.gpu.cuda.memcpy_dtod_async(target.pixels, source.pixels, size, work.stream)
        else:
            self._kernels.enlarge(source, target, work.stream)
        return target

    def _records(self, *arrays: NDArray[Any]) -> list[int]:
        """Copy records to the GPU at once, and return their addresses."""
        packed, places = as_bytes(*arrays)
        start = self._work.upload("records", packed)
        return [start + place for place in places]

    def _cut(self, crops: Sequence[Crop], records: int, size: int) -> int:
        """Cut crops out of the photograph: the address of `size` bytes, one after the other."""
        pieces, largest = self._work.memory("pieces", size), max(crop.size for crop in crops)
        self._kernels.cut(self._frame(), records, len(crops), largest, pieces, self._work.stream)
        return pieces

    def _blend(self, target: Frame, pairs: Sequence[tuple[Face, float]], scale: int) -> None:
        """Blend faces into the enlarged photograph, in the given order."""
        frame, work, kernels, side = self._frame(), self._work, self._kernels, self._side
        faces, weights = zip(*pairs, strict=True)
        crops, count = [face.crop for face in faces], len(faces)
        pastes, largest = paste_records(crops, scale, target.height, target.width)
        if not largest:
            return  # all crops lie outside the picture
        old, full = [crop.size for crop in crops], [side] * count
        seen, compared = comparison_sides(crops), projection_sides(crops)
        resizing: dict[str, Sizes] = {
            "photo seen": list(zip(old, seen, strict=True)),
            "face seen": list(zip(full, seen, strict=True)),
            "photo compared": list(zip(old, compared, strict=True)),
            "face compared": list(zip(full, compared, strict=True)),
        }
        jobs = {name: resize_records(sizes) for name, sizes in resizing.items()}
        cuts, size = crop_records(crops, frame.height, frame.width)
        marks, scores = [face.landmarks for face in faces], [face.scores for face in faces]
        mask_jobs, spans = mask_records(crops, marks, scores, weights, side)
        cuts_at, masks_at, spans_at, pastes_at, *jobs_at = self._records(
            cuts, mask_jobs, spans, pastes, *(records for records, _ in jobs.values())
        )
        at = dict(zip(jobs, jobs_at, strict=True))

        # Not a variable for the stream: a function that uses it would keep it (see `open`).
        def resized(name: str, source: int) -> int:
            smaller = work.memory(name, jobs[name][1])
            kernels.resize(source, smaller, at[name], resizing[name], work.stream)
            return smaller

        stack, pieces = self._stacked(faces), self._cut(crops, cuts_at, size)
        # The mask compares the faces as the engine gave them: before they are projected.
        masks = work.memory("masks", count * side * side * 4)
        photos, restored = resized("photo seen", pieces), resized("face seen", stack)
        kernels.mask(
            masks, photos, restored, spans_at, masks_at, count, side, SETTINGS, work.stream
        )
        targets = resized("photo compared", pieces)
        rounds, lanczos = projection(self._photo.quantisation, self._photo.grain)
        for _ in range(rounds):
            reduced, job = resized("face compared", stack), at["face compared"]
            kernels.project(stack, targets, reduced, job, count, side, lanczos, work.stream)
        peaks = work.memory("peaks", count * layout.PEAKS.itemsize)
        kernels.peaks(stack, masks, peaks, count, side, work.stream)
        kernels.paste(target, stack, masks, peaks, pastes_at, count, largest, side, work.stream)

    def _stacked(self, faces: Sequence[Face]) -> int:
        """Copies of the faces, one after the other, which projection may change."""
        work, size = self._work, 3 * self._side**2
        stack = work.memory("faces", len(faces) * size)
        for at, face in zip(range(stack, stack + len(faces) * size, size), faces, strict=True):
            assert isinstance(face.pixels, DeviceArray)
            work.gpu.cuda.memcpy_dtod_async(at, face.pixels.pointer, size, work.stream)
        return stack
