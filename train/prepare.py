"""`python -m train.prepare`: pictures of faces become a data set to train on.

Each face is cut out, made 128×128 by Pillow's bicubic, checked, and written as PNG with its
landmarks as `.pts` beside it, or into tar shards. With `--margin` what lies around it is kept, in
the picture's own size, with the landmarks and the face's box as `.json` beside it. What is there
already is left alone, so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
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
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from PIL import Image

from dic.console import Parser, UserError, run
from dic.files import write_whole
from dic.landmarks import CROPS
from dic.progress import Progress
from dic.sizes import SR_SIZE
from train.data.annotations import encode_json, encode_pts
from train.data.crop import CropOptions, Detector, RejectedError, cut_face
from train.data.datasets import SETTINGS_FILE
from train.data.pictures import Picture

if TYPE_CHECKING:
    from train.data.datasets import Entry

REPORT = "report.json"
REJECTION = ("source", "name", "rejected", "detail")
WINDOW = 512  # faces that are in the works at a time
NAMED = 10  # rejected pictures named on the screen; the report has all
PREVIEW = 24  # faces on the preview


@dataclass(frozen=True)
class Job:
    """One picture, and the name its face gets (without a suffix)."""

    entry: Entry
    name: str


@dataclass(frozen=True)
class Prepared:
    """What became of one picture: PNG and landmarks (`.pts`, with a margin `.json`), or why not."""

    source: str
    name: str
    png: bytes = b""
    points: bytes = b""
    suffix: str = ".pts"  # of the landmarks' file
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
        "--smallest",
        type=int,
        default=SR_SIZE,
        metavar="PIXELS",
        help="reject smaller faces (%(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="keep this share of the face's side around it, and do not shrink: for recipes that "
        "vary place and size (default: %(default)s)",
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
    if not 0 <= options.margin <= 2:
        parser.error("--margin must be from 0 to 2")
    if options.detect and options.points != 68:
        parser.error("--detect finds 68 landmarks")
    return prepare(options)


def prepare(options: Any) -> int:
    """Do what the command line asks for; its exit status."""
    if any(options.out.resolve() == Path(source).resolve() for source in options.images):
        raise UserError(f"{options.out}: is the folder of the pictures; choose another --out")
    jobs = list_jobs(options.images, options.landmarks, options.out)
    if options.validation >= len(jobs):
        raise UserError(f"--validation {options.validation} leaves none of {len(jobs)} to train on")
    detector = Detector() if options.detect else None
    crop_options = CropOptions(options.points, options.crop, options.smallest, options.margin)
    _settle(options, jobs)
    keep = len(jobs) - options.validation
    done, there, rejected = Counter[str](), 0, list[Prepared]()
    with (
        _pool(0 if detector else options.workers, len(jobs)) as pool,
        Progress(total=len(jobs), desc="preparing", unit="face") as bar,
    ):

        def process(some: list[Job]) -> Iterator[Prepared]:
            for first in range(0, len(some), WINDOW):  # no more in memory than are being written
                given = [(job, crop_options, detector) for job in some[first : first + WINDOW]]
                for one in pool.map(_process, given, chunksize=8) if pool else map(_process, given):
                    bar.update()
                    yield one

        for part, some in (("train", jobs[:keep]), ("validation", jobs[keep:])):
            write = _write_shards if options.shards else _write_files
            for made in write(options.out / part, some, options.shards, process, bar):
                if made is not None and made.rejected:
                    rejected.append(made)
                else:
                    done[part] += 1
                    there += made is None
    _report(options.out, done, there, rejected)
    if done["validation"] < options.validation:
        short = f"only {done['validation']} of the last {options.validation} pictures became faces"
        print(f"warning: {short}: the validation set is that much smaller", file=sys.stderr)
    report = options.out / REPORT
    if not sum(done.values()):
        raise UserError(f"none of {len(jobs)} pictures became a face; {report} says why")
    preview = _preview(options.out, options.points)
    print(f"look at {preview}", file=sys.stderr)
    return 1 if rejected else 0


def list_jobs(sources: Iterable[str], landmarks: str, out: Path) -> list[Job]:
    """Every picture of the sources, each with a name of its own for its face.

    Raises:
        UserError: nothing there, two pictures of one name, or a name that leads out of the folder.
    """
    from train.data.datasets import find_faces

    jobs: dict[str, Job] = {}
    for source in sources:
        for entry in find_faces(source, landmarks):
            if Path(entry.picture.path).absolute().is_relative_to(out.absolute()):
                continue  # an earlier run's faces, where the output lies among the pictures
            name = PurePosixPath(entry.key)
            if name.is_absolute() or ".." in name.parts:
                raise UserError(f"{entry.name}: a name that leads elsewhere is not followed")
            if entry.key in jobs:
                raise UserError(
                    f"{entry.name} and {jobs[entry.key].entry.name} would both be {entry.key}; "
                    "prepare them into two folders"
                )
            jobs[entry.key] = Job(entry, entry.key)
    return list(jobs.values())


def _file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else "beside"


def _settle(options: Any, jobs: list[Job]) -> None:
    """Keep what this data set is made of, or see that it is what an earlier run kept.

    Raises:
        UserError: another run made `--out`, of other pictures or in another way; or it cannot be
            written.
    """
    names = "\n".join(job.name for job in jobs)
    wanted = {
        "pictures": f"{len(jobs)}, {hashlib.sha256(names.encode()).hexdigest()[:16]}",
        "landmarks": _file_hash(options.landmarks),
        **{n: getattr(options, n) for n in ("points", "crop", "smallest", "validation", "shards")},
        **({"margin": options.margin} if options.margin else {}),
    }
    path = options.out / SETTINGS_FILE
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged; choose another --out") from error
        for name in {**kept, **wanted}:
            if kept.get(name) != wanted.get(name):
                raise UserError(
                    f"{options.out}: was begun with {name} {kept.get(name)}, not "
                    f"{wanted.get(name)}; go on "
                    "as it began, or choose another --out"
                )
    else:
        write_whole(path, json.dumps(wanted, indent=1).encode())  # better now than after an hour


def _process(given: tuple[Job, CropOptions, Detector | None]) -> Prepared:
    job, crop_options, detector = given
    try:
        made = cut_face(job.entry, crop_options, detector)
    except RejectedError as why:
        return Prepared(job.entry.name, job.name, rejected=why.kind, detail=why.detail)
    except Exception as error:  # one strange picture must not stop a hundred thousand
        what = (str(error) or type(error).__name__).splitlines()[0]
        return Prepared(job.entry.name, job.name, rejected="cannot be cut out", detail=what)
    if isinstance(made, Picture):
        image, points, suffix = made.image, encode_json(made.landmarks, made.box), ".json"
    else:
        image, points, suffix = made[0], encode_pts(made[1]), ".pts"
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "png")
    return Prepared(job.entry.name, job.name, encoded.getvalue(), points, suffix)


Process = Callable[[list[Job]], Iterator[Prepared]]


def _write_files(
    folder: Path, jobs: list[Job], _: int, process: Process, bar: Progress
) -> Iterator[Prepared | None]:
    """Write faces as files; None for one that was there already."""
    wanted = []
    for job in jobs:
        # The landmarks are written last: where they are, the picture is.
        if any((folder / f"{job.name}{suffix}").exists() for suffix in (".pts", ".json")):
            bar.update()
            yield None
        else:
            wanted.append(job)
    for made in process(wanted):
        if not made.rejected:
            write_whole(folder / f"{made.name}.png", made.png)
            write_whole(folder / f"{made.name}{made.suffix}", made.points)
        yield made


def _write_shards(
    folder: Path, jobs: list[Job], size: int, process: Process, bar: Progress
) -> Iterator[Prepared | None]:
    """Write faces as tar shards, each whole or not at all; None for those that were there.

    Beside each lies what was rejected for it, written first: where that is and no shard, nothing
    was left of it.
    """
    for number, start in enumerate(range(0, len(jobs), size)):
        some = jobs[start : start + size]
        shard, beside = folder / f"{number:05}.tar", folder / f"{number:05}.rejected.json"
        if beside.exists() and (shard.exists() or len(_rejections(beside)) == len(some)):
            found = _rejections(beside)
            bar.update(len(some))
            yield from found
            yield from [None] * (len(some) - len(found))
            continue
        made = list(process(some))
        rejected = [one for one in made if one.rejected]
        kept = [{n: getattr(one, n) for n in REJECTION} for one in rejected]
        write_whole(beside, json.dumps(kept, indent=1).encode())
        if len(rejected) < len(made):
            write_whole(shard, _tar(one for one in made if not one.rejected))
        yield from made


def _rejections(path: Path) -> list[Prepared]:
    return [Prepared(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def _tar(made: Iterable[Prepared]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for one in made:
            # WebDataset takes what follows the first dot for the suffix.
            key = one.name.replace(".", "_")
            for suffix, data in ((".png", one.png), (one.suffix, one.points)):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _pool(workers: int, jobs: int) -> Any:
    if workers < 2 or jobs < 20:
        return nullcontext()
    return ProcessPoolExecutor(workers, get_context("spawn"))


def _report(out: Path, done: Counter[str], there: int, rejected: list[Prepared]) -> None:
    """Say how many and why not, and write it all to `report.json`."""
    reasons = Counter(one.rejected for one in rejected)
    content = {
        "faces": dict(done),
        "already there": there,
        "rejected": dict(reasons.most_common()),
        "rejected_pictures": {one.source: f"{one.rejected}: {one.detail}" for one in rejected},
    }
    write_whole(out / REPORT, json.dumps(content, indent=1, ensure_ascii=False).encode())
    counted = ", ".join(f"{number} {kind}" for kind, number in done.items()) or "none"
    print(f"faces in {out}: {counted} ({there} were there already)", file=sys.stderr)
    for one in rejected[:NAMED]:
        print(f"rejected {one.source}: {one.rejected} ({one.detail})", file=sys.stderr)
    if rejected:
        counted = ", ".join(f"{number} {kind}" for kind, number in reasons.most_common())
        print(f"rejected: {counted}; all are named in {out / REPORT}", file=sys.stderr)


def _preview(out: Path, points: int) -> Path:
    """Some of the faces with their landmarks, read back as training will read them."""
    from train.data.datasets import BadFaceError, open_faces
    from train.reports.preview import sheet

    try:
        faces = open_faces(str(out / "train"), "", points)
    except UserError as error:
        raise UserError(f"none of the pictures to train on became a face ({error})") from error
    step = max(1, len(faces) // PREVIEW)
    chosen = []
    for i in range(0, len(faces), step):
        with suppress(BadFaceError):  # spoilt since; training will skip it with a word
            chosen.append(faces[i])
    encoded = io.BytesIO()
    Image.fromarray(sheet(chosen[:PREVIEW])).save(encoded, "png")
    path = out / "preview.png"
    write_whole(path, encoded.getbuffer())
    return path


def cli() -> NoReturn:
    run(main, "train")


if __name__ == "__main__":
    cli()
