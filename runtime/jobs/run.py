"""From a request to its files: plan, load the engine, restore pictures and videos, sum up."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from dic.console import UserError
from dic.cores import cores
from dic.files import check_writable, remove_partial_files
from dic.memory import Memory
from runtime.engines.load import load_engine
from runtime.jobs.paths import STREAM, UNREAD_VIDEOS, Job, Outcome, finished, plan
from runtime.jobs.request import FaceSource, Request
from runtime.jobs.summary import Summary

if TYPE_CHECKING:
    from runtime.engines.contract import Engine
    from runtime.faces.detect import Detector
    from runtime.faces.options import PhotoOptions
    from runtime.faces.restore import Restorer
    from runtime.jobs.boxes import Boxes
    from runtime.jobs.pictures import PictureWork

DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
PHOTO_WORKERS = 4  # at most: each holds a photograph and its result
MANY = 8  # pictures per core; from that many on, throughput matters more than the first result


# Restores jobs, and adds their outcomes to the summary.
Execute = Callable[[Request, list[Job], Summary], None]


def run_request(request: Request, execute: Execute | None = None) -> int:
    """Restore what is asked for.

    Args:
        execute: restores the jobs; None does it in this process.

    Returns:
        the exit status: 0 done; 1 some files failed, each reported; 2 all failed.

    Raises:
        UserError: nothing can be done; no file is written.
        EngineError: see `load_engine`.
    """
    read = request.files_read
    jobs = plan(request.inputs, request.output, request.outputs, read)
    summary = Summary(jobs, request.output, request.summary, read)
    for job in jobs:
        if request.resume and finished(job):
            summary.add(Outcome(job.name, str(job.target), "skipped"))
    jobs = summary.left
    if request.resume:
        remove_partial_files(output for job in jobs for output in job.outputs)
    if not jobs:
        return nothing_left(summary)
    for job in jobs[:1]:
        if job.target != STREAM:
            check_writable(job.target)
    if any(job.is_video for job in jobs) and request.photos:
        _check_video_library()
    boxes, detector = face_source(request.faces) if request.faces else (None, None)
    if boxes:
        boxes.check([job.source for job in summary.jobs])
    if execute is not None:
        with summary:
            execute(request, jobs, summary)
    else:
        _here(request, jobs, summary, boxes, detector)
    return exit_status(summary)


def nothing_left(summary: Summary) -> int:
    """Report that an earlier call has done everything, and return the exit status."""
    print(f"nothing left to do; done before: {len(summary.jobs)}", file=sys.stderr)
    summary.write()
    return DONE


def exit_status(summary: Summary) -> int:
    """The exit status of a command whose summary is complete; see `run_request`."""
    failed = summary.count("failed")
    if failed == len(summary.jobs):
        return NOTHING_DONE
    return SOME_FAILED if failed or not summary.written else DONE


def _here(
    request: Request,
    jobs: list[Job],
    summary: Summary,
    boxes: Boxes | None,
    detector: Detector | None,
) -> None:
    """Restore jobs in this process."""
    # OpenCV takes a while to import, which --help and usage errors do without. First comes what
    # loads the engine: while two threads import, each waits for the other.
    first = ["runtime.engines.onnxruntime"] if request.engine.path.suffix == ".onnx" else []
    _import_meanwhile(*first, "runtime.jobs.pictures", "dic.progress")
    pictures = [job for job in jobs if not job.is_video]
    photos, asked = request.photos is not None, request.engine
    lanes = _lanes(len(pictures), photos, asked.threads)
    with load_engine(asked.path, asked.device, asked.threads, lanes) as engine:
        from runtime.faces.restore import Restorer
        from runtime.jobs.pictures import PictureWork

        print(f"{engine.path.name} on {engine.device} ({engine.backend})", file=sys.stderr)
        summary.engine = engine
        workers = _workers(photos, engine, asked.batch)
        memory = Memory.of(request.memory)
        with summary, Restorer(engine, detector=detector, batch=asked.batch) as restorer:
            work = PictureWork(restorer, request.photos, boxes, memory)
            _pictures(pictures, workers, work, summary)
            for job in jobs:
                if job.is_video:
                    done = summary.add(video(job, restorer, request.photos, boxes, memory.size))
                    print(_shown(done), file=sys.stderr)


def _check_video_library() -> None:
    if importlib.util.find_spec("av") is None:
        raise UserError("videos need PyAV; pip install 'dic-toolkit[video]'")


def face_source(source: FaceSource) -> tuple[Boxes | None, Detector | None]:
    """The boxes of a file, or a detector."""
    from runtime.faces.detect import DetectorError, YuNetDetector
    from runtime.jobs.boxes import Boxes

    if source.boxes:
        return Boxes(source.boxes), None
    try:
        return None, YuNetDetector(source.detector, source.smallest)
    except DetectorError as error:
        raise UserError(error) from error


def _import_meanwhile(*modules: str) -> None:
    """Begin to import what is needed later: while an engine is loaded, a core would be idle."""

    def work() -> None:
        for module in modules:
            with contextlib.suppress(Exception):  # the import that needs it raises it again
                importlib.import_module(module)

    threading.Thread(target=work).start()


def _lanes(pictures: int, photos: bool, threads: int | None) -> int:
    """Number of concurrent engine runs: one per thread if there are enough pictures."""
    most = min(threads or cores(), cores(), PHOTO_WORKERS if photos else cores())
    return most if pictures >= MANY * most else 1


def _workers(photos: bool, engine: Engine, batch: int) -> int:
    """How many pictures are processed at once."""
    if photos:
        return min(PHOTO_WORKERS, cores())
    # Aligned faces are small: as many wait as run. Of a CPU's lanes, each runs one face at a time.
    one_face = engine.device == "cpu" and engine.lanes > 1
    return 2 * engine.lanes * (1 if one_face else batch)


def _pictures(jobs: list[Job], workers: int, work: PictureWork, summary: Summary) -> None:
    """Restore pictures, several at a time: each worker takes one from reading to writing."""
    from runtime.engines.batching import overlapped

    with Lines(len(jobs)) as lines:
        # Recorded and shown by the worker: if the call is interrupted, the pictures in progress are
        # still finished, and have their lines.
        def run(job: Job) -> None:
            lines.show(summary.add(work(job)))

        for _ in overlapped(run, jobs, max(1, min(workers, len(jobs)))):
            pass


class Lines:
    """Shows how many files are done, and the messages of their outcomes. Thread-safe.

    Args:
        count: of all files; one alone has no progress bar.
    """

    def __init__(self, count: int) -> None:
        from dic.progress import Progress

        self._bar = Progress(total=count, unit="file", disable=count < 2)
        self._faces, self._started = 0, time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, outcome: Outcome) -> None:
        """Count a file, and print its message if it has one."""
        with self._lock:
            self._faces += outcome.faces
            rate = self._faces / max(time.monotonic() - self._started, 1e-9)
            self._bar.set_postfix_str(f"{rate:.1f} faces/s", refresh=False)
            if outcome.message:
                self._bar.say(" ".join(_shown(outcome).splitlines()))
            self._bar.update()


def _shown(outcome: Outcome) -> str:
    """An outcome's message; a failure's begins with `error: `."""
    known = outcome.status != "failed" or outcome.message.startswith("error: ")
    return outcome.message if known else f"error: {outcome.message}"


def video(
    job: Job,
    restorer: Restorer,
    photos: PhotoOptions | None,
    boxes: Boxes | None,
    memory: int | None = None,
) -> Outcome:
    """Restore one video; an error that concerns only this video becomes its outcome."""
    if job.source.suffix.lower() in UNREAD_VIDEOS:
        name = job.source.name
        message = (
            f"{job.source}: this format of videos is not supported; convert it first, such as by "
            f"ffmpeg -i {name} {job.source.stem}.mkv"
        )
        outcome = Outcome(job.name, str(job.target), "failed", message=message)
    elif photos is None or boxes is not None:
        hint = "--faces detects the faces in it" if boxes is None else "--boxes is for pictures"
        message = f"{job.source}: is a video; {hint}"
        outcome = Outcome(job.name, str(job.target), "failed", message=message)
    else:
        from runtime.jobs.videos import video_outcome

        outcome = video_outcome(job, restorer, photos, memory)
    return outcome
