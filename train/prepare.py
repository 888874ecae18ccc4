"""`python -m train.prepare`: pictures of faces become a data set to train on.

Each face is cut out, made 128×128 by Pillow's bicubic, checked, and written as PNG with its
landmarks as `.pts` beside it, or into tar shards. What is there already is left alone, so a run
that was interrupted goes on where it was.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.annotations import Annotation, AnnotationError, pts
from train.console import Parser, Progress, UserError, run, write_whole
from train.sizes import SR_SIZE

if TYPE_CHECKING:
    from train.datasets import Entry, Face

# By landmark count: the side of a face's square, from hair to chin, over the longer side of the
# landmarks' bounding box, and how much higher its centre lies, in the same unit. Those of the
# synthetic faces, which the runtime's detector is fitted to as well.
CROPS: dict[int, tuple[float, float]] = {68: (1.75, 0.15), 194: (1.75, 0.15), 5: (3.65, 0.17)}
NAMED = 10  # rejected pictures named on the screen; the report has all
PREVIEW = 24  # faces on the preview
MOST_OUTSIDE = 0.1  # share of the landmarks: the corner of a jaw may be cut off, half a face not


@dataclass(frozen=True)
class Wishes:
    """What every face has to meet.

    Attributes:
        points: landmarks a face.
        crop: cut by its "landmarks", by its "box", or "none" for pictures that are faces already.
        smallest: side of the cut-out in pixels under which it is rejected.
    """

    points: int = 68
    crop: str = "landmarks"
    smallest: int = SR_SIZE


@dataclass(frozen=True)
class Job:
    """One picture, and the name its face gets (without a suffix)."""

    entry: Entry
    name: str


@dataclass(frozen=True)
class Prepared:
    """What became of one picture: PNG and `.pts`, or why not."""

    source: str
    name: str
    png: bytes = b""
    points: bytes = b""
    rejected: str = ""  # a kind to be counted
    detail: str = ""


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m train.prepare",
        description="Cut, shrink and check faces for training. Goes on where it was interrupted.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders, or tar shards")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--landmarks", default="", metavar="FILE", help="of all pictures")
    parser.add_argument(
        "--detect",
        action="store_true",
        help="find landmarks that are missing with face-alignment, if it is installed",
    )
    parser.add_argument(
        "--crop",
        choices=("landmarks", "box", "none"),
        default="landmarks",
        help="cut by the landmarks, by the boxes in the landmark file, or not at all: for "
        "pictures that are aligned faces, as CelebA-HQ's (default: %(default)s)",
    )
    parser.add_argument("--points", type=int, choices=sorted(CROPS), default=68)
    parser.add_argument(
        "--smallest", type=int, default=SR_SIZE, metavar="PIXELS", help="reject smaller faces"
    )
    parser.add_argument(
        "--validation", type=int, default=0, metavar="N", help="keep the last N pictures apart"
    )
    parser.add_argument(
        "--shards", type=int, default=0, metavar="N", help="write tar shards of N pictures each"
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    options = parser.parse_args(arguments)
    if min(options.smallest, options.workers) < 1 or min(options.validation, options.shards) < 0:
        parser.error("--smallest and --workers must be at least 1, other numbers not negative")
    return prepare(options)


def prepare(options: Any) -> int:
    """Do what the command line asks for; its exit status."""
    jobs = list_jobs(options.images, options.landmarks)
    if options.validation >= len(jobs):
        raise UserError(f"--validation {options.validation} leaves none of {len(jobs)} to train on")
    detector = Detector() if options.detect else None
    wishes = Wishes(options.points, options.crop, options.smallest)
    write_whole(options.out / "report.json", b"{}")  # better now than after an hour
    keep = len(jobs) - options.validation
    done, rejected = Counter[str](), list[Prepared]()
    with (
        _pool(0 if detector else options.workers, len(jobs)) as pool,
        Progress(total=len(jobs), desc="preparing", unit="face") as bar,
    ):

        def process(some: list[Job]) -> Iterator[Prepared]:
            given = ((job, wishes, detector) for job in some)
            found = pool.map(_process, given, chunksize=8) if pool else map(_process, given)
            for one in found:
                bar.update()
                if one.rejected:
                    rejected.append(one)
                yield one

        for part, some in (("train", jobs[:keep]), ("validation", jobs[keep:])):
            write = _write_shards if options.shards else _write_files
            for made in write(options.out / part, some, options.shards, process, bar):
                done["already there" if made is None else part] += 1
    _report(options.out, done, rejected)
    if not sum(done.values()):
        raise UserError(
            f"none of {len(jobs)} pictures became a face; {options.out}/report.json says why"
        )
    preview = _preview(options.out / "train", options.points)
    print(f"look at {preview}", file=sys.stderr)
    return 1 if rejected else 0


def list_jobs(sources: Iterable[str], landmarks: str) -> list[Job]:
    """Every picture of the sources, each with a name of its own for its face.

    Raises:
        UserError: nothing there, or two pictures of the same name in two sources.
    """
    from train.datasets import find_faces

    jobs: dict[str, Job] = {}
    for source in sources:
        for entry in find_faces(source, landmarks):
            inside = PurePath(entry.name)
            if Path(source).is_dir() and inside.is_relative_to(source):
                inside = inside.relative_to(source)
            name = inside.with_suffix("").as_posix().replace(":", "/").lstrip("/")
            if name in jobs:
                raise UserError(
                    f"{entry.name} and {jobs[name].entry.name} would both be {name}; prepare them "
                    "into two folders"
                )
            jobs[name] = Job(entry, name)
    return list(jobs.values())


class Detector:
    """68 landmarks by the `face-alignment` package (Bulat & Tzimiropoulos, ICCV 2017).

    Raises:
        UserError: it is not installed.
    """

    def __init__(self) -> None:
        try:
            import face_alignment
        except ModuleNotFoundError as error:
            raise UserError("--detect needs face-alignment: pip install face-alignment") from error
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = face_alignment.LandmarksType.TWO_D
        self._aligner = face_alignment.FaceAlignment(kind, device=device)

    def __call__(self, image: NDArray[np.uint8]) -> Annotation | None:
        """The landmarks of the largest face in an RGB picture."""
        found = self._aligner.get_landmarks_from_image(image)
        if not found:
            return None
        return Annotation(max((np.asarray(f, np.float32) for f in found), key=_extent))


def _extent(points: NDArray[np.float32]) -> float:
    return float(np.ptp(points, axis=0).max())


def crop_box(points: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """The square around a face, from hair to chin, of (K, 2): left, top, right, bottom."""
    factor, higher = CROPS[len(points)]
    low, high = points.min(0), points.max(0)
    longer = float((high - low).max())
    x, y = (low + high) / 2 - [0, higher * longer]
    left, top = round(x - factor * longer / 2), round(y - factor * longer / 2)
    side = max(1, round(factor * longer))
    return left, top, left + side, top + side


class RejectedError(Exception):
    """A picture that gives no face to train on: a kind to count, and what was found."""

    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, (str(detail) or kind).splitlines()[0]


def _process(given: tuple[Job, Wishes, Detector | None]) -> Prepared:
    job, wishes, detector = given
    try:
        face, points = _face(job.entry, wishes, detector)
    except RejectedError as why:
        return Prepared(job.entry.name, job.name, rejected=why.kind, detail=why.detail)
    encoded = io.BytesIO()
    Image.fromarray(face).save(encoded, "png")
    return Prepared(job.entry.name, job.name, encoded.getvalue(), pts(points))


def _face(entry: Entry, wishes: Wishes, detector: Detector | None) -> Face:
    """Read, check and cut one face; RejectedError where it is none."""
    from train.datasets import cut, read_picture

    try:
        image = read_picture(entry.picture.read())
    except Exception as error:  # damaged pictures raise what they like
        raise RejectedError("unreadable", error) from error
    height, width = image.shape[:2]
    annotation = _annotation(entry, image, detector)
    points = annotation.landmarks
    if len(points) != wishes.points:
        raise RejectedError(f"not {wishes.points} landmarks", f"{len(points)} landmarks")
    if wishes.crop == "box":
        if annotation.box is None:
            raise RejectedError("no box")
        box = annotation.box
    elif wishes.crop == "none":
        if height != width:
            raise RejectedError("not square", f"{width}×{height} pixels")
        box = (0, 0, width, height)
    else:
        box = crop_box(points)
    side = min(box[2] - box[0], box[3] - box[1])
    if side < wishes.smallest:
        raise RejectedError(f"smaller than {wishes.smallest} pixels", f"{side:.0f} pixels")
    if _share_outside(points, width, height) > MOST_OUTSIDE:
        raise RejectedError("face outside the picture")
    face, inside = cut(image, points, box)
    if _share_outside(inside, SR_SIZE, SR_SIZE) > MOST_OUTSIDE:
        raise RejectedError("landmarks outside the cut-out")
    return face, inside


def _annotation(entry: Entry, image: NDArray[np.uint8], detector: Detector | None) -> Annotation:
    from train.datasets import annotation_of

    if entry.annotation is not None:
        try:
            return annotation_of(entry)
        except AnnotationError as error:
            raise RejectedError("damaged landmarks", error) from error
    if detector is None:
        raise RejectedError("no landmarks")
    found = detector(image)
    if found is None:
        raise RejectedError("no face found")
    return found


def _share_outside(points: NDArray[np.float32], width: int, height: int) -> float:
    outside = (points < -0.5) | (points > [width - 0.5, height - 0.5])
    return float(outside.any(axis=1).mean())


Process = Callable[[list[Job]], Iterator[Prepared]]


def _write_files(
    folder: Path, jobs: list[Job], _: int, process: Process, bar: Progress
) -> Iterator[Prepared | None]:
    """Write faces as files; None for one that was there already."""
    wanted = []
    for job in jobs:
        # The landmarks are written last: where they are, the picture is.
        if (folder / f"{job.name}.pts").exists():
            bar.update()
            yield None
        else:
            wanted.append(job)
    for made in process(wanted):
        if not made.rejected:
            write_whole(folder / f"{made.name}.png", made.png)
            write_whole(folder / f"{made.name}.pts", made.points)
            yield made


def _write_shards(
    folder: Path, jobs: list[Job], size: int, process: Process, bar: Progress
) -> Iterator[Prepared | None]:
    """Write faces as tar shards, each whole or not at all; None for those that were there."""
    for number, start in enumerate(range(0, len(jobs), size)):
        some = jobs[start : start + size]
        shard = folder / f"{number:05}.tar"
        if shard.exists():
            bar.update(len(some))
            yield from [None] * len(some)
            continue
        made = [one for one in process(some) if not one.rejected]
        if made:
            write_whole(shard, _tar(made))
        yield from made


def _tar(made: Iterable[Prepared]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for one in made:
            # WebDataset takes what follows the first dot for the suffix.
            key = one.name.replace(".", "_")
            for suffix, data in ((".png", one.png), (".pts", one.points)):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _pool(workers: int, jobs: int) -> Any:
    if workers < 2 or jobs < 20:
        return nullcontext()
    return ProcessPoolExecutor(workers, get_context("spawn"))


def _report(out: Path, done: Counter[str], rejected: list[Prepared]) -> None:
    """Say how many and why not, and write it all to `report.json`."""
    reasons = Counter(one.rejected for one in rejected)
    content = {
        "faces": dict(done),
        "rejected": dict(reasons.most_common()),
        "rejected_pictures": {one.source: f"{one.rejected}: {one.detail}" for one in rejected},
    }
    write_whole(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    counted = ", ".join(f"{number} {kind}" for kind, number in done.items()) or "none"
    print(f"faces in {out}: {counted}", file=sys.stderr)
    for one in rejected[:NAMED]:
        print(f"rejected {one.source}: {one.rejected} ({one.detail})", file=sys.stderr)
    if rejected:
        counted = ", ".join(f"{number} {kind}" for kind, number in reasons.most_common())
        print(f"rejected: {counted}; all are named in {out / 'report.json'}", file=sys.stderr)


def _preview(folder: Path, points: int) -> Path:
    """Some of the faces with their landmarks, read back as training will read them."""
    from train.datasets import BadFaceError, open_faces
    from train.picture import sheet

    faces = open_faces(str(folder), "", points)
    step = max(1, len(faces) // PREVIEW)
    chosen = []
    for i in range(0, len(faces), step):
        with suppress(BadFaceError):  # spoilt since; training will skip it with a word
            chosen.append(faces[i])
    encoded = io.BytesIO()
    Image.fromarray(sheet(chosen[:PREVIEW])).save(encoded, "png")
    path = folder.parent / "preview.png"
    write_whole(path, encoded.getbuffer())
    return path


def cli() -> NoReturn:
    run(main, "train")


if __name__ == "__main__":
    cli()
