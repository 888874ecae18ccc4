"""Processing one video of `runtime.infer`."""

from __future__ import annotations

import shutil
from typing import Any

import av
import cv2

from dic.console import UserError
from dic.engine_file import EngineError
from dic.files import partial_file, write_whole
from runtime.faces.face import Face
from runtime.faces.options import PhotoOptions
from runtime.faces.restore import Restorer
from runtime.jobs.outputs import face_entry, video_json
from runtime.jobs.paths import Job, Outcome
from runtime.jobs.pictures import out_of_memory
from runtime.video.reader import VideoError
from runtime.video.restore import NoFaceError, restore_video


def video_outcome(
    job: Job, restorer: Restorer, options: PhotoOptions, memory: int | None = None
) -> Outcome:
    """Restore one video; an error that concerns only this video becomes its outcome."""
    try:
        return _restored(job, restorer, options, memory)
    except (VideoError, UserError, EngineError) as error:
        message = str(error)
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"{job.source} -> {job.target}: {reason}"
    except (MemoryError, cv2.error) as error:
        if not out_of_memory(error):
            raise
        message = f"{job.source}: too large for this machine's memory; lower --enlarge"
    return Outcome(job.name, str(job.target), "failed", message=message)


def _restored(job: Job, restorer: Restorer, options: PhotoOptions, memory: int | None) -> Outcome:
    documents: list[tuple[float, list[dict[str, Any]]]] = []

    def record(seconds: float, faces: list[Face]) -> None:
        if "landmarks" in job.extras:
            documents.append((seconds, [face_entry(face) for face in faces]))

    try:
        done = restore_video(job.source, job.target, restorer, options, record, memory)
    except NoFaceError as error:
        return _nothing(job, error)
    if "landmarks" in job.extras:
        text = video_json(str(job.source), done.size, done.scale, documents)
        write_whole(job.extras["landmarks"], text)
    count = f"{done.people} face{'' if done.people == 1 else 's'}"
    message = f"{job.target}: {count} over {done.frames} frames"
    message += f"; enlarged {done.scale}×" if done.scale > 1 else ""
    message = "; ".join((message, *done.remarks))
    return Outcome(job.name, str(job.target), "restored", done.faces, message)


def _nothing(job: Job, reason: NoFaceError) -> Outcome:
    """Handle a video without a face to restore.

    Raises:
        UserError: the video was named on the command line; others are copied.
    """
    if job.named:
        raise UserError(f"{job.name}: {reason}; there is nothing to restore")
    with partial_file(job.target) as partial:
        shutil.copyfile(job.source, partial)
    if "landmarks" in job.extras:
        write_whole(job.extras["landmarks"], video_json(str(job.source), reason.size, 1, []))
    return Outcome(job.name, str(job.target), "copied", 0, f"{job.target}: copied, {reason}")
