"""Processing one picture of `runtime.infer`: read, restore, write."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from dic.console import UserError
from dic.engine_file import EngineError
from dic.files import write_together
from dic.memory import Memory, OverBudgetError, shown
from runtime.faces.crop import Crop
from runtime.faces.detect import search_bytes
from runtime.faces.options import PhotoOptions
from runtime.faces.restore import LARGEST_RESULT, MAX_ENLARGEMENT, RestoredPhoto, Restorer
from runtime.jobs.boxes import Boxes
from runtime.jobs.needs import aligned_need, photo_need
from runtime.jobs.outputs import Result, comparison, drawn, landmarks_json
from runtime.jobs.paths import STREAM, Job, Outcome
from runtime.pictures.encode import MAX_SIDES, encode_picture
from runtime.pictures.files import decode_picture, read_header
from runtime.pictures.header import ImageError
from runtime.pictures.picture import Picture

MOST_SIZES = 5  # of faces that a message lists
SHARP = 32  # pixels; a larger aligned face may lose detail, since the network uses 16×16 pixels


class PictureWork:
    """Processes picture jobs. Thread-safe.

    Args:
        restorer: the engine and the detector to use.
        options: how to restore photographs; None treats each picture as one aligned face.
        boxes: positions of the faces; None uses the restorer's detector.
        memory: that pictures in progress share; None for no limit.
    """

    def __init__(
        self,
        restorer: Restorer,
        options: PhotoOptions | None,
        boxes: Boxes | None,
        memory: Memory | None = None,
    ) -> None:
        self._restorer, self._options, self._boxes = restorer, options, boxes
        self._memory = memory or Memory(None)
        self._warned = threading.Event()

    def __call__(self, job: Job) -> Outcome:
        """Restore one picture; an error that concerns only this picture becomes its outcome.

        Raises:
            BrokenPipeError: the reader of standard output has closed it.
        """
        target = str(job.target)
        try:
            return self._restored(job)
        except (ImageError, UserError, EngineError) as error:
            message = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"{job.name}: {error.strerror or error}"
        except (MemoryError, cv2.error) as error:
            if not out_of_memory(error):
                raise
            message = (
                f"{job.name}: too large for this machine's memory; shrink it, or lower --enlarge"
            )
        return Outcome(job.name, target, "failed", 0, f"error: {message}")

    def _restored(self, job: Job) -> Outcome:
        """Read a picture's header, wait for the memory that the picture needs, and restore it.

        Raises:
            OverBudgetError: it needs more than there will ever be.
        """
        data, options = _read(job, self._memory.size), self._options
        header = read_header(job.name, data)
        if options is None:
            need = aligned_need(header, len(data))
        else:
            suffix, drawn = job.target.suffix.lower(), "drawing" in job.extras
            search = 0
            if self._boxes is None:
                search = search_bytes(self._restorer.detector, header.pixels)
            need = photo_need(header, len(data), suffix, options, search, drawn)
            need = need.within(self._memory.size)
        with self._memory.taken(need.bytes, job.name):
            picture = decode_picture(job.name, data)
            if options is None:
                return self._aligned(job, picture)
            return self._photo(job, picture, options, need.most)

    def _aligned(self, job: Job, picture: Picture) -> Outcome:
        height, width = picture.pixels.shape[:2]
        side = min(width, height)
        corner = ((width - side) // 2, (height - side) // 2)
        image = picture.rgb()
        crop = Crop(*corner, side)
        face = self._restorer.restore_in(image, [crop], exact=True)[0]
        shown: NDArray[Any] = face.image
        if picture.pixels.shape[2] == 1:  # keep greyscale pictures greyscale
            shown = cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY)[:, :, None]
        shown_as = replace(picture, pixels=shown, alpha=None)
        _write(job, Result(shown_as, image, [face], shown.shape[0] / side, corner))
        message = ""
        if width != height:
            message = (
                f"{job.name}: not square ({width}×{height}); cropped to the central square, as an "
                "aligned face; for photographs use --faces"
            )
        elif width > SHARP and not self._warned.is_set():
            self._warned.set()
            message = (
                f"{job.name}: {width} pixels wide, but an aligned face is reduced to 16×16 pixels; "
                "for photographs and sharp faces use --faces, which keeps detail (reported once)"
            )
        return Outcome(job.name, str(job.target), "restored", 1, message)

    def _photo(self, job: Job, photo: Picture, options: PhotoOptions, largest: int) -> Outcome:
        """Restore a photograph.

        Args:
            largest: pixels of the result that memory is there for.
        """
        crops = None if self._boxes is None else self._boxes.of(job.source, job.named)
        height, width = photo.pixels.shape[:2]
        for crop in crops or ():
            (x, y), half = crop.centre, crop.size / 2
            if not (-half < x < width + half and -half < y < height + half):
                raise UserError(
                    f"{job.name}: the face at {x:g}, {y:g} is outside the picture of "
                    f"{width}×{height} pixels; correct the --boxes file"
                )
        done = self._restorer.restore_photo(
            photo,
            crops,
            max_face=options.max_face,
            enlarge=options.enlarge,
            background=options.background,
            max_side=MAX_SIDES.get(job.target.suffix.lower()),
            largest=largest,
        )
        if not done.faces:
            return self._nothing(job, photo, done, options)
        _write(job, Result(done.picture, photo.rgb(), done.faces, done.scale))
        left = f", {_larger(done.left, options)} left as they are" if done.left else ""
        sizes = _sizes([face.crop for face in done.faces])
        message = f"{job.target}: {len(done.faces)} restored ({sizes}){left}"
        message += f"; enlarged {done.scale}×" if done.scale > 1 else "; not enlarged"
        need = max(-(-self._restorer.face_size // face.crop.size) for face in done.faces)
        need = min(need, MAX_ENLARGEMENT)
        if options.enlarge is None and done.scale < need:
            side = max(photo.pixels.shape[:2]) * need
            fits = side <= MAX_SIDES.get(job.target.suffix.lower(), side)
            override = f"--enlarge {need} overrides this" if fits else "PNG has no such limit"
            if largest < LARGEST_RESULT:
                override = "raise --memory for more"
            message += f", and not {need}×, to limit the result's size ({override})"
        if job.target == STREAM:
            message = ""
        return Outcome(job.name, str(job.target), "restored", len(done.faces), message)

    def _nothing(
        self, job: Job, photo: Picture, done: RestoredPhoto, options: PhotoOptions
    ) -> Outcome:
        """Handle a photograph without a face to restore.

        Raises:
            UserError: the photograph was named on the command line; others are copied.
        """
        reason = (
            f"{job.name}: no face detected; if it is a single face, cut out from hair to chin, "
            "leave out --faces"
        )
        if done.left:
            reason = (
                f"{job.name}: its faces ({_sizes(done.left)}) are larger than --max-face "
                f"{options.max_face}, and show more than restoring would add"
            )
        if job.named:
            raise UserError(reason)
        _write(job, Result(photo, photo.rgb(), [], 1))
        why = "no face detected"
        if done.left:
            why = _larger(done.left, options)
        return Outcome(job.name, str(job.target), "copied", 0, f"{job.target}: copied, {why}")


def _sizes(crops: Sequence[Crop]) -> str:
    """The sizes of faces; of many the smallest and the largest."""
    sizes = [crop.size for crop in crops]
    if len(sizes) > MOST_SIZES:
        return f"{min(sizes)} to {max(sizes)} px"
    return ", ".join(f"{size} px" for size in sizes)


def _larger(crops: Sequence[Crop], options: PhotoOptions) -> str:
    return f"{len(crops)} larger than --max-face {options.max_face} ({_sizes(crops)})"


def out_of_memory(error: MemoryError | cv2.error) -> bool:
    """Whether memory is what lacked; any other error of OpenCV is a bug of ours."""
    return isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem


def _read(job: Job, largest: int | None) -> bytes:
    """The encoded picture.

    Args:
        largest: bytes that it may have.

    Raises:
        ImageError, UserError: it cannot be read, or is larger.
    """
    if job.source == STREAM:
        if sys.stdin is None:
            raise UserError("standard input is closed; pass a file or a pipe")
        data = sys.stdin.buffer.read(-1 if largest is None else largest + 1)
        if largest is not None and len(data) > largest:
            raise OverBudgetError(
                f"{job.name}: has more than the {shown(largest)} of memory that are allowed"
            )
        return data
    try:
        size = job.source.stat().st_size
        if largest is not None and size > largest:
            raise OverBudgetError(
                f"{job.name}: has {shown(size)}, and {shown(largest)} of memory are allowed"
            )
        return job.source.read_bytes()
    except OSError as error:
        raise ImageError(f"{job.source}: {error.strerror or error}") from error


def _write(job: Job, result: Result) -> None:
    """Write all files of a job, or none.

    Raises:
        UserError: a file or standard output cannot be written.
        BrokenPipeError: the reader of standard output has closed it.
    """
    if job.target == STREAM:
        if sys.stdout is None:
            raise UserError("standard output is closed; write to a file")
        left = memoryview(encode_picture(result.picture, ".png"))
        try:
            while left:  # an unbuffered stream may write less than it is given
                left = left[sys.stdout.buffer.write(left) :]
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output: {error.strerror or error}") from error
        return
    suffix = job.target.suffix.lower()
    if not result.faces and suffix == job.source.suffix.lower():
        files: dict[Path, bytes] = {job.target: job.source.read_bytes()}
    else:
        files = {job.target: encode_picture(result.picture, suffix)}
    if "landmarks" in job.extras:
        files[job.extras["landmarks"]] = landmarks_json(str(job.source), result)
        files[job.extras["drawing"]] = encode_picture(Picture(drawn(result)), ".png")
    if "comparison" in job.extras and result.faces:
        files[job.extras["comparison"]] = encode_picture(Picture(comparison(result)), ".png")
    write_together(files)
