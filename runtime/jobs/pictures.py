"""One picture of `runtime.infer`, from reading to writing."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from dic.console import UserError
from dic.engine_file import EngineError
from dic.files import write_together
from runtime.faces.crop import Crop
from runtime.faces.options import PhotoOptions
from runtime.faces.restore import MAX_ENLARGEMENT, RestoredPhoto, Restorer
from runtime.jobs.boxes import Boxes
from runtime.jobs.outputs import Result, comparison, drawn, landmarks_json
from runtime.jobs.plan import STREAM, Job, Outcome
from runtime.pictures.files import ImageError, Picture, decode_picture, encode_picture, read_picture

SHARP = 32  # pixels; an aligned face that is larger shows more than its restored one may


class PictureWork:
    """What a worker does with each job. Several threads may call it.

    Args:
        options: how photographs are restored; without it each picture is one aligned face.
        boxes: where faces are, instead of the restorer's detector.
    """

    def __init__(
        self,
        restorer: Restorer,
        options: PhotoOptions | None,
        boxes: Boxes | None,
    ) -> None:
        self._restorer, self._options, self._boxes = restorer, options, boxes
        self._told = threading.Event()

    def __call__(self, job: Job) -> Outcome:
        """Restore one picture; what is wrong with it is in the outcome."""
        target = str(job.target)
        try:
            return self._aligned(job) if self._options is None else self._photo(job, self._options)
        except (ImageError, UserError, EngineError) as error:
            message = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"{job.name}: {error.strerror or error}"
        except (MemoryError, cv2.error):
            message = f"{job.name}: too large for this machine's memory"
        return Outcome(job.name, target, "failed", 0, f"error: {message}")

    def _aligned(self, job: Job) -> Outcome:
        picture = _read(job)
        height, width = picture.pixels.shape[:2]
        side = min(width, height)
        corner = ((width - side) // 2, (height - side) // 2)
        image = picture.rgb()
        crop = Crop(*corner, side)
        face = self._restorer.restore_in(image, [crop], exact=True)[0]
        shown: NDArray[Any] = face.image
        if picture.pixels.shape[2] == 1:  # grey stays grey
            shown = cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY)[:, :, None]
        shown_as = replace(picture, pixels=shown, alpha=None)
        _write(job, Result(shown_as, image, [face], shown.shape[0] / side, corner))
        message = ""
        if width != height:
            message = f"{job.name}: not square ({width}×{height}), took its centre"
        elif width > SHARP and not self._told.is_set():
            self._told.set()
            message = (
                f"{job.name}: {width} pixels wide; of an aligned face 16×16 pixels are used. If it "
                "is a photograph, or sharp, --faces keeps its detail (said once)"
            )
        return Outcome(job.name, str(job.target), "restored", 1, message)

    def _photo(self, job: Job, options: PhotoOptions) -> Outcome:
        photo = _read(job)
        crops = None if self._boxes is None else self._boxes.of(job.source, job.named)
        height, width = photo.pixels.shape[:2]
        for crop in crops or ():
            (x, y), half = crop.centre, crop.size / 2
            if not (-half < x < width + half and -half < y < height + half):
                raise UserError(
                    f"{job.name}: {width}×{height} pixels; a face at {x:g}, {y:g} is none"
                )
        done = self._restorer.restore_photo(
            photo,
            crops,
            max_face=options.max_face,
            enlarge=options.enlarge,
            background=options.background,
        )
        if not done.faces:
            return self._nothing(job, photo, done, options)
        _write(job, Result(done.picture, photo.rgb(), done.faces, done.scale))
        left = f", {len(done.left)} larger left alone" if done.left else ""
        sizes = ", ".join(f"{face.crop.size} px" for face in done.faces)
        message = f"{job.target}: {len(done.faces)} restored ({sizes}){left}"
        if done.scale > 1:
            message += f"; enlarged {done.scale}×"
        need = max(-(-self._restorer.face_size // face.crop.size) for face in done.faces)
        if options.enlarge is None and done.scale < min(need, MAX_ENLARGEMENT):
            message += f", not {need}×, for its size (--enlarge {need} does)"
        if job.target == STREAM:
            message = ""
        return Outcome(job.name, str(job.target), "restored", len(done.faces), message)

    def _nothing(
        self, job: Job, photo: Picture, done: RestoredPhoto, options: PhotoOptions
    ) -> Outcome:
        """A photograph without a face to restore: in a folder it is copied, else an error."""
        reason = f"{job.name}: no face found; for an aligned crop leave out --faces"
        if done.left:
            sizes = ", ".join(str(crop.size) for crop in done.left)
            reason = (
                f"{job.name}: its faces ({sizes} px) are larger than --max-face "
                f"{options.max_face}, sharper than 16×16 can hold; nothing to restore"
            )
        if job.named:
            raise UserError(reason)
        _write(job, Result(photo, photo.rgb(), [], 1))
        why = f"{len(done.left)} larger left alone" if done.left else "no face found"
        return Outcome(job.name, str(job.target), "copied", 0, f"{job.target}: copied, {why}")


def _read(job: Job) -> Picture:
    if job.source != STREAM:
        return read_picture(job.source)
    if sys.stdin is None:
        raise UserError("standard input is closed")
    return decode_picture(job.name, sys.stdin.buffer.read())


def _write(job: Job, result: Result) -> None:
    """Write a job's files, all or none."""
    if job.target == STREAM:
        if sys.stdout is None:
            raise UserError("standard output is closed")
        left = memoryview(encode_picture(result.picture, ".png"))
        try:
            while left:  # an unbuffered stream takes as much as it likes at a time
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
