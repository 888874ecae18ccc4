"""`python -m runtime.infer`: restore faces in picture and video files."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dic.console import Parser, UserError, run
from dic.engine_file import EngineError
from dic.files import check_writable, remove_partial_files
from runtime.engines.contract import SHIPPED, cores
from runtime.engines.load import load_engine
from runtime.jobs.plan import STREAM, WRITABLE, Job, Outcome, OutputOptions, finished, plan
from runtime.jobs.summary import Summary

if TYPE_CHECKING:
    from runtime.faces.detect import Detector
    from runtime.faces.restore import PhotoOptions, Restorer
    from runtime.jobs.boxes import Boxes
    from runtime.jobs.pictures import PictureWork

MAX_FACE = 64  # pixels
BATCH = 8
DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
PHOTO_WORKERS = 4  # at most: each holds a photograph and its result
MANY = 8  # pictures a core, from which on faces a second count, and not the time of one
EXTRAS = {
    "landmarks": {"landmarks": ".landmarks.json", "drawing": ".landmarks.png"},
    "compare": {"comparison": ".compare.png"},
}
# Options that mean nothing for aligned faces, with their defaults.
OF_PHOTOS = {
    "max_face": MAX_FACE,
    "smallest_face": None,
    "enlarge": None,
    "upscale_background": "cubic",
    "detector": None,
}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s"
    )
    photos = options.faces or options.boxes is not None
    jobs = plan(options.input, options.output, _output_options(options, photos))
    summary = Summary(jobs, options.output, options.summary)
    for job in jobs:
        if options.resume and finished(job):
            summary.add(Outcome(job.name, str(job.target), "skipped"))
    every, jobs = len(jobs), summary.left
    for output in [output for job in jobs if options.resume for output in job.outputs]:
        remove_partial_files(output)
    if not jobs:
        print(f"nothing left to do: {every} files are done", file=sys.stderr)
        summary.write()
        return DONE
    for job in jobs[:1]:
        if job.target != STREAM:
            check_writable(job.target)
    if any(job.is_video for job in jobs) and photos and importlib.util.find_spec("av") is None:
        raise UserError("videos need PyAV; pip install 'dic-toolkit[video]'")
    boxes, detector = _places(options) if photos else (None, None)
    # OpenCV takes a while to import, which --help and usage errors do without. First comes what
    # loads the engine: while two threads import, each waits for the other.
    first = ["runtime.engines.onnxruntime"] if options.engine.suffix == ".onnx" else []
    _import_beside(*first, "runtime.jobs.pictures", "dic.progress")
    pictures = [job for job in jobs if not job.is_video]
    lanes = _lanes(len(pictures), photos, options.threads)
    with load_engine(options.engine, options.device, options.threads, lanes) as engine:
        from runtime.faces.restore import Restorer
        from runtime.jobs.pictures import PictureWork

        print(f"{engine.path} on {engine.device} ({engine.backend})", file=sys.stderr)
        summary.engine = engine
        restorer = Restorer(engine, detector=detector, batch=options.batch)
        workers = _workers(photos, engine.lanes, options.batch)
        work = PictureWork(restorer, _photo_options(options) if photos else None, boxes)
        with summary:
            _pictures(pictures, workers, work, summary)
            for job in jobs:
                if job.is_video:
                    summary.add(_video(job, restorer, options))
    failed = summary.count("failed")
    if failed == every:
        return NOTHING_DONE
    return SOME_FAILED if failed or not summary.written else DONE


def _places(options: argparse.Namespace) -> tuple[Boxes | None, Detector | None]:
    """Where photographs' faces are: as a file says, or as a detector finds them."""
    from runtime.faces.detect import DetectorError, YuNetDetector
    from runtime.jobs.boxes import Boxes

    if options.boxes:
        return Boxes(options.boxes), None
    try:
        return None, YuNetDetector(options.detector, options.smallest_face)
    except DetectorError as error:
        raise UserError(error) from error


def _import_beside(*modules: str) -> None:
    """Begin to import what is needed later: while an engine is loaded, a core would be idle."""

    def work() -> None:
        for module in modules:
            with contextlib.suppress(Exception):  # whoever needs it says what is wrong
                importlib.import_module(module)

    threading.Thread(target=work).start()


def _output_options(options: argparse.Namespace, photos: bool) -> OutputOptions:
    extras: dict[str, str] = {}
    for option, endings in EXTRAS.items():
        extras |= endings if getattr(options, option) else {}
    return OutputOptions(photos, options.format and f".{options.format}", extras)


def _lanes(pictures: int, photos: bool, threads: int | None) -> int:
    """How many runs share a CPU: one for each thread where there is enough to do for all."""
    most = min(threads or cores(), cores(), PHOTO_WORKERS if photos else cores())
    return most if pictures >= MANY * most else 1


def _workers(photos: bool, lanes: int, batch: int) -> int:
    """How many pictures are under way at once."""
    if photos:
        return min(PHOTO_WORKERS, cores())
    # Aligned faces are small: as many wait as run.
    return 2 * (lanes if lanes > 1 else batch)


def _pictures(jobs: list[Job], workers: int, work: PictureWork, summary: Summary) -> None:
    """Restore pictures, several at a time: each worker takes one from reading to writing."""
    from dic.progress import Progress
    from runtime.engines.batching import overlapped

    faces, started = 0, time.monotonic()
    # Noted by the worker: what is under way when the call is interrupted is still finished.
    results = overlapped(lambda job: summary.add(work(job)), jobs, max(1, min(workers, len(jobs))))
    with Progress(results, total=len(jobs), unit="file", disable=len(jobs) < 2) as bar:
        for outcome in bar:
            faces += outcome.faces
            rate = faces / max(time.monotonic() - started, 1e-9)
            bar.set_postfix_str(f"{rate:.1f} faces/s", refresh=False)
            if outcome.message:
                bar.say(" ".join(outcome.message.splitlines()))


def _video(job: Job, restorer: Restorer, options: argparse.Namespace) -> Outcome:
    unfit = ""
    if not options.faces:
        unfit = "--boxes is for pictures" if options.boxes else "--faces finds the faces in it"
    if unfit:
        outcome = Outcome(
            job.name, str(job.target), "failed", message=f"{job.source}: is a video; {unfit}"
        )
    else:
        from runtime.jobs.videos import video_outcome

        outcome = video_outcome(job, restorer, _photo_options(options))
    failed = "error: " if outcome.status == "failed" else ""
    print(f"{failed}{outcome.message}", file=sys.stderr)
    return outcome


def _photo_options(options: argparse.Namespace) -> PhotoOptions:
    from runtime.faces.blend import Interpolation
    from runtime.faces.restore import PhotoOptions

    background = Interpolation(options.upscale_background)
    return PhotoOptions(options.max_face, options.enlarge, background)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options and what is wrong with them: a table, and long as one."""
    parser = Parser(
        prog="python -m runtime.infer",
        description="Restore faces: aligned face crops, or with --faces those in photographs "
        "and videos.",
    )
    add = parser.add_argument
    add(
        "input",
        nargs="+",
        metavar="INPUT",
        help="a picture, video, folder (with those below it), pattern such as 'a/*.jpg', or - for "
        "standard input",
    )
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a file for one input, else a folder; - is standard output",
    )
    add(
        "--engine",
        type=Path,
        default=SHIPPED,
        metavar="FILE",
        help="an ONNX file from export.onnx, or a plan from export.tensorrt (default: the shipped "
        "one, trained on synthetic faces)",
    )
    add(
        "--device",
        default="auto",
        help="cuda, cuda:N, openvino, cpu, or auto, the fastest that works (default)",
    )
    add("--threads", type=int, metavar="N", help="CPU threads to use (default: all cores)")
    add(
        "--batch",
        type=int,
        default=BATCH,
        metavar="N",
        help="most faces a run (default: %(default)s)",
    )
    add("--format", choices=sorted(s[1:] for s in WRITABLE), help="of all pictures written")
    add("--landmarks", action="store_true", help="write landmarks beside, as JSON and drawn")
    add("--compare", action="store_true", help="write input, bicubic, steps and result beside")
    add("--resume", action="store_true", help="leave out what has been written already")
    add("--summary", type=Path, metavar="FILE", help="write what became of each file as JSON")
    add("-v", "--verbose", action="store_true", help="tell more")
    photos = parser.add_argument_group("photographs and videos")
    add = photos.add_argument
    add("--faces", action="store_true", help="find the faces, restore them, and blend them back")
    add(
        "--max-face",
        type=int,
        default=MAX_FACE,
        metavar="PIXELS",
        help="leave faces alone whose crop is wider: the network sees 16×16 pixels of a face, a "
        "sharp large one has nothing to gain (default: %(default)s)",
    )
    add(
        "--smallest-face",
        type=int,
        metavar="PIXELS",
        help="width, ear to ear, from which faces are looked for (default: 12, and more in "
        "photographs over 2 megapixels, where that takes long: 30 in one of 12)",
    )
    add(
        "--enlarge",
        type=int,
        metavar="N",
        help="enlarge N times (default: what the faces need, up to 8)",
    )
    add(
        "--upscale-background",
        choices=("nearest", "linear", "cubic", "lanczos"),
        default="cubic",
        help="how the rest is enlarged (default: %(default)s)",
    )
    add(
        "--detector",
        type=Path,
        metavar="FILE",
        help="YuNet's ONNX model to find faces with (default: the one that comes along)",
    )
    add(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="take the faces' places from a CSV or JSON file (README)",
    )
    options = parser.parse_args(arguments)
    if not options.faces and options.boxes is None:
        for name, default in OF_PHOTOS.items():
            if getattr(options, name) != default:
                parser.error(f"--{name.replace('_', '-')} goes with --faces")
    for name, low, high in (
        ("max_face", 16, 4096),
        ("smallest_face", 6, 1000),
        ("enlarge", 1, 8),
        ("batch", 1, 1024),
        ("threads", 1, 1024),
    ):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name.replace('_', '-')} must be {low} to {high}")
    if options.boxes is not None and (options.detector or options.smallest_face):
        parser.error("--boxes says where the faces are; leave out --detector and --smallest-face")
    return options


def cli() -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up first
    # What OpenCV would print about a damaged file is in our own error.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # NumPy's own threads spin beside the engine's, for longer than what a picture multiplies takes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    run(_main_and_leave, "cpu", EngineError)


def _main_and_leave(arguments: list[str]) -> int:
    """`main`, and out of the process at once: all is written, and to take the libraries down piece
    by piece would take another 35 ms. What waits for the interpreter's end (profilers) is not told.
    """
    status = main(arguments)
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    cli()
