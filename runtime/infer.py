"""`python -m runtime.infer`: restore faces in picture files."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.console import Parser, Progress, UserError, run, write_whole
from runtime.engine import SHIPPED, EngineError, load_engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.detect import Detector
    from runtime.restore import FaceRestorer

MAX_FACE = 64  # pixels
DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2


@dataclass(frozen=True)
class Job:
    source: Path
    target: Path


class NoFaceError(Exception):
    """A photograph in which there is nothing to restore."""


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s"
    )
    if not options.faces and (options.enlarge or options.yunet or options.max_face != MAX_FACE):
        parser.error("--max-face, --enlarge and --yunet go with --faces")
    if options.max_face < 16:
        parser.error("--max-face must be at least 16 pixels")
    if options.enlarge is not None and not 1 <= options.enlarge <= 8:
        parser.error("--enlarge must be 1 to 8")

    # OpenCV takes a while to import; --help and usage errors need none of it.
    import cv2

    from runtime.detect import DetectorError, HaarDetector, YuNetDetector
    from runtime.images import ImageError
    from runtime.restore import FaceRestorer

    # What OpenCV would print about a damaged file is in our own error.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    jobs = plan(options.input, options.output, keep_format=options.faces)
    with load_engine(options.engine, options.device) as engine:
        restorer = FaceRestorer(engine)
        detector: Detector | None = None
        if options.faces:
            try:
                detector = YuNetDetector(options.yunet) if options.yunet else HaarDetector()
            except DetectorError as error:
                raise UserError(error) from error
        print(f"{engine.path} on {engine.device} ({engine.backend})", file=sys.stderr)
        failed = 0
        with Progress(jobs, desc="restoring", unit="file", disable=len(jobs) < 2) as bar:
            for job in bar:
                try:
                    if detector is None:
                        done = _restore_crop(restorer, job)
                    else:
                        done = _restore_photo(restorer, detector, job, options)
                    if done:
                        bar.say(done)
                except (ImageError, NoFaceError, UserError) as error:
                    failed += 1
                    bar.say(f"error: {error}")
                except (MemoryError, cv2.error):
                    failed += 1
                    bar.say(f"error: {job.source}: too large for this machine's memory")
    if failed == len(jobs):
        return NOTHING_DONE
    return SOME_FAILED if failed else DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m runtime.infer",
        description="Restore faces: aligned face crops, or with --faces those in photographs.",
    )
    parser.add_argument("input", nargs="+", type=Path, metavar="INPUT", help="picture or folder")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="a picture file for one input, else a folder",
    )
    parser.add_argument(
        "--engine",
        type=Path,
        default=SHIPPED,
        metavar="FILE",
        help="an ONNX file from export.onnx (default: the shipped one, trained on synthetic faces)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--faces", action="store_true", help="inputs are photographs: find, restore, blend back"
    )
    parser.add_argument(
        "--max-face",
        type=int,
        default=MAX_FACE,
        metavar="PIXELS",
        help="with --faces, leave faces alone whose crop is wider: the network sees 16×16 pixels "
        "of a face, a sharp large one has nothing to gain (default: %(default)s)",
    )
    parser.add_argument(
        "--enlarge",
        type=int,
        metavar="N",
        help="with --faces, enlarge the photograph N times (default: what the faces need)",
    )
    parser.add_argument(
        "--yunet",
        type=Path,
        metavar="MODEL",
        help="with --faces, find them with YuNet's ONNX model",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more")
    return parser


def plan(inputs: list[Path], output: Path, keep_format: bool) -> list[Job]:
    """Which picture goes where. Crops become PNG; photographs keep their format.

    Raises:
        UserError: no pictures, two of one name, an output over an input or of unknown format.
    """
    from runtime.images import READABLE, WRITABLE

    sources: list[Path] = []
    for path in inputs:
        if path.is_dir():
            pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in READABLE)
            if not pictures:
                raise UserError(f"{path}: no pictures in this folder")
            sources += pictures
        else:
            sources.append(path)
    if len(sources) == 1 and output.suffix and not output.is_dir():
        if output.suffix.lower() not in WRITABLE:
            known = " ".join(sorted(WRITABLE))
            raise UserError(f"{output}: pictures are written as one of {known}")
        jobs = [Job(sources[0], output)]
    else:
        if output.is_file():
            raise UserError(f"{output}: is a file; several pictures need a folder")
        jobs = [Job(path, output / _target_name(path, keep_format)) for path in sources]
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target in taken:
            raise UserError(
                f"{taken[job.target]} and {job.source} would both become {job.target}; "
                "rename one, or restore them apart"
            )
        taken[job.target] = job.source
    resolved = {job.target.resolve() for job in jobs}
    for source in sources:
        if source.resolve() in resolved:
            raise UserError(f"{source}: would be overwritten; choose another output")
    return jobs


def _target_name(source: Path, keep_format: bool) -> str:
    from runtime.images import WRITABLE

    kept = keep_format and source.suffix.lower() in WRITABLE
    return source.name if kept else f"{source.stem}.png"


def _restore_crop(restorer: FaceRestorer, job: Job) -> str:
    """Restore one file; returns what is worth telling, or nothing."""
    import cv2

    from runtime.images import Picture, encode_picture, read_picture
    from runtime.restore import centre_square

    picture = read_picture(job.source)
    image = picture.rgb()
    face: NDArray[Any] = restorer.restore([centre_square(image)])[0].image
    if picture.pixels.shape[2] == 1:  # grey stays grey
        face = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[:, :, None]
    write_whole(job.target, encode_picture(Picture(face), job.target.suffix.lower()))
    height, width = image.shape[:2]
    return (
        "" if width == height else f"{job.source}: not square ({width}×{height}), took its centre"
    )


def _restore_photo(
    restorer: FaceRestorer, detector: Detector, job: Job, options: argparse.Namespace
) -> str:
    """Restore the faces of one file; returns what is worth telling."""
    from runtime.images import encode_picture, read_picture

    photo = read_picture(job.source)
    done = restorer.restore_photo(photo, detector, options.max_face, options.enlarge)
    if not done.faces:
        if done.left:
            sizes = ", ".join(str(crop.size) for crop in done.left)
            raise NoFaceError(
                f"{job.source}: its faces ({sizes} px) are larger than --max-face "
                f"{options.max_face}, sharper than 16×16 can hold; nothing to restore"
            )
        raise NoFaceError(f"{job.source}: no face found; for an aligned crop leave out --faces")
    write_whole(job.target, encode_picture(done.picture, job.target.suffix.lower()))
    left = f", {len(done.left)} larger left as they were" if done.left else ""
    sizes = ", ".join(f"{crop.size} px" for crop in done.crops)
    return f"{job.target}: {len(done.faces)} restored ({sizes}){left}; enlarged {done.scale}×"


def cli() -> NoReturn:
    run(main, "cpu", EngineError)


if __name__ == "__main__":
    cli()
