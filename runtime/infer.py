"""`python -m runtime.infer`: restore faces in picture and video files."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, run
from dic.engine_file import EngineError
from dic.memory import add_memory_option
from runtime.engines.contract import SHIPPED
from runtime.faces.options import BATCH, MAX_FACE, Interpolation, PhotoOptions
from runtime.jobs.paths import WRITABLE, OutputOptions
from runtime.jobs.request import EngineOptions, FaceSource, Request
from runtime.jobs.run import run_request

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
RANGES = {
    "max_face": (16, 4096),
    "smallest_face": (6, 1000),
    "enlarge": (1, 8),
    "batch": (1, 1024),
    "threads": (1, 1024),
}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s"
    )
    if options.ray is None:
        return run_request(_request(options))
    from runtime.cluster.batch import restore_on_ray

    return restore_on_ray(_request(options), options.ray)


def _request(options: argparse.Namespace) -> Request:
    photos = options.faces or options.boxes is not None
    extras: dict[str, str] = {}
    for option, endings in EXTRAS.items():
        extras |= endings if getattr(options, option) else {}
    background = Interpolation(options.upscale_background)
    source = FaceSource(options.boxes, options.detector, options.smallest_face)
    return Request(
        inputs=options.input,
        output=options.output,
        engine=EngineOptions(options.engine, options.device, options.threads, options.batch),
        photos=PhotoOptions(options.max_face, options.enlarge, background) if photos else None,
        faces=source if photos else None,
        outputs=OutputOptions(photos, options.format and f".{options.format}", extras),
        resume=options.resume,
        summary=options.summary,
        memory=options.memory,
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.faces and options.boxes is None:
        for name, default in OF_PHOTOS.items():
            if getattr(options, name) != default:
                parser.error(f"{_flag(name)} needs --faces")
    for name, (low, high) in RANGES.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            parser.error(f"{_flag(name)} must be {low} to {high}")
    if options.boxes is not None and (options.detector or options.smallest_face):
        parser.error("--boxes lists the faces; leave out --detector and --smallest-face")
    return options


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> Parser:
    """The command's options. Long, because it is a table."""
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
        "one)",
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
        help="most faces per engine run (default: %(default)s)",
    )
    add("--format", choices=sorted(s[1:] for s in WRITABLE), help="format of all written pictures")
    add("--landmarks", action="store_true", help="also write landmarks, as JSON and as a picture")
    add(
        "--compare",
        action="store_true",
        help="also write a picture that compares input, bicubic, steps and result",
    )
    add_memory_option(add, "fewer pictures are processed at once, and too large ones refused")
    add("--resume", action="store_true", help="skip files whose results are already there")
    add("--summary", type=Path, metavar="FILE", help="write the outcome of each file as JSON")
    add(
        "--ray",
        metavar="ADDRESS",
        help="restore on all machines of the Ray cluster whose head is at HOST:PORT; all must see "
        "the files under the same paths, or they are in an object store (s3://…). `local` uses "
        "processes of this machine",
    )
    add("-v", "--verbose", action="store_true", help="log more")
    photos = parser.add_argument_group("photographs and videos")
    add = photos.add_argument
    add("--faces", action="store_true", help="detect the faces, restore them, and blend them back")
    add(
        "--max-face",
        type=int,
        default=MAX_FACE,
        metavar="PIXELS",
        help="leave faces alone whose crop is wider: the network sees 16×16 pixels of a face, and "
        "a sharp large one has nothing to gain (default: %(default)s)",
    )
    add(
        "--smallest-face",
        type=int,
        metavar="PIXELS",
        help="width, ear to ear, from which faces are detected (default: 12, and more in "
        "photographs over 2 megapixels, where it takes long: 30 in one of 12)",
    )
    add(
        "--enlarge",
        type=int,
        metavar="N",
        help="enlarge N times (default: what the faces need, up to 8)",
    )
    add(
        "--upscale-background",
        choices=[str(way) for way in Interpolation],
        default="cubic",
        help="how the rest is enlarged (default: %(default)s)",
    )
    add(
        "--detector",
        type=Path,
        metavar="FILE",
        help="YuNet's ONNX model, the face detector (default: the installed one)",
    )
    add(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="read where the faces are from a CSV or JSON file instead of detecting them",
    )
    return parser


def cli() -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up first
    # What OpenCV would print about a damaged file is in our own error.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # NumPy's own threads spin beside the engine's, for longer than what a picture multiplies takes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    run(main, "cpu", EngineError)


if __name__ == "__main__":
    cli()
