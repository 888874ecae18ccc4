"""`python -m train.prepare`: prepare a training data set from pictures of faces.

Each face is cropped, resized to 128×128 with Pillow's bicubic, checked, and written as PNG with a
`.pts` file of its landmarks, or to tar shards. With `--margin`, the face is not resized but written
with its surroundings, and a `.json` file contains the landmarks and the face's box. Existing output
is kept, so an interrupted run can be continued.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from PIL import Image

from dic.console import Parser, UserError, run
from dic.cores import cores
from dic.documents import parse_json
from dic.files import remove_partial_files, write_whole
from dic.landmarks import CROPS
from dic.memory import Memory, add_memory_option
from dic.outputs import refuse_inputs
from dic.progress import Progress
from dic.sizes import SR_SIZE
from train.data.annotations import encode_json, encode_pts
from train.data.crop import CropOptions, Detector, RejectedError, cut_face
from train.data.datasets import SETTINGS_FILE
from train.data.pictures import Picture
from train.data.writing import Job, Prepared, shard_names, write_files, write_shards

REPORT = "report.json"
PREVIEW = "preview.png"
WINDOW = 512  # faces in memory at a time
MAX_WORKERS = 256
MAX_PRINTED = 10  # rejected pictures that are printed; the report lists all
PREVIEW_FACES = 24  # on the preview image


def main(arguments: list[str]) -> int:
    """Parse the command line and prepare the data set. Over 60 lines: a table of options."""
    parser = Parser(
        prog="python -m train.prepare",
        description="Crop, resize and check faces for training. Continues an interrupted run.",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="folders of pictures, or tar shards"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the data set"
    )
    parser.add_argument(
        "--landmarks",
        default="",
        metavar="FILE",
        help="file with the landmarks of all pictures (default: files beside the pictures)",
    )
    parser.add_argument(
        "--detect",
        action="store_true",
        help="detect missing landmarks with the face-alignment package",
    )
    parser.add_argument(
        "--crop",
        choices=("landmarks", "box", "none"),
        default="landmarks",
        help="crop by the landmarks, by the boxes in the landmark file, or not at all, for "
        "pictures that are aligned faces like CelebA-HQ's (default: %(default)s)",
    )
    parser.add_argument(
        "--points",
        type=int,
        choices=sorted(CROPS),
        default=68,
        help="landmarks per face (default: %(default)s)",
    )
    parser.add_argument(
        "--smallest",
        type=int,
        default=SR_SIZE,
        metavar="PIXELS",
        help="reject faces with a smaller side (default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="keep a margin of this fraction of the face's side on each side, and do not resize; "
        "for recipes with augmentation (default: %(default)s)",
    )
    parser.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="use the last N pictures for validation (default: %(default)s)",
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=0,
        metavar="N",
        help="write tar shards of N pictures each (default: single files)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        metavar="N",
        help="number of processes (default: the number of CPU cores)",
    )
    add_memory_option(parser.add_argument, "larger pictures are rejected")
    options = parser.parse_args(arguments)
    _check_options(parser, options)
    return prepare(options)


def _check_options(parser: Parser, options: Any) -> None:
    if min(options.smallest, options.workers) < 1 or min(options.validation, options.shards) < 0:
        parser.error(
            "--smallest and --workers must be at least 1, --validation and --shards at least 0"
        )
    if options.workers > MAX_WORKERS:
        parser.error(f"--workers must be at most {MAX_WORKERS}")
    if not 0 <= options.margin <= 2:
        parser.error("--margin must be from 0 to 2")
    if options.detect and options.points != 68:
        parser.error("--detect needs --points 68, the number of landmarks that it detects")


def prepare(options: Any) -> int:
    """Prepare a data set as the command line's options say, and return the exit status.

    Raises:
        UserError: the options do not fit the pictures or an earlier run, or no face was accepted.
    """
    if any(options.out.resolve() == Path(source).resolve() for source in options.images):
        raise UserError(f"{options.out}: is the folder of the pictures; choose another --out")
    jobs = list_jobs(options.images, options.landmarks, options.out)
    if options.validation >= len(jobs):
        raise UserError(
            f"--validation {options.validation} leaves none of {len(jobs)} pictures for training; "
            "lower it"
        )
    detector = Detector() if options.detect else None
    # By default by what the machine has, not by what is free or shared: that must not decide which
    # pictures are rejected.
    memory = Memory.of(options.memory, 1 if options.memory is None else options.workers)
    crop_options = CropOptions(
        options.points,
        options.crop,
        options.smallest,
        options.margin,
        memory.size,
    )
    split = len(jobs) - options.validation
    parts = (("train", jobs[:split]), ("validation", jobs[split:]))
    outputs = _check_outputs(options, parts)
    _check_settings(options, jobs)
    remove_partial_files(outputs)  # of a run that was killed
    accepted, existing, rejected = Counter[str](), 0, list[Prepared]()
    with (
        _pool(0 if detector else options.workers, len(jobs)) as pool,
        Progress(total=len(jobs), desc="preparing", unit="face") as bar,
    ):

        def process(batch: list[Job]) -> Iterator[Prepared]:
            for first in range(0, len(batch), WINDOW):  # limits the results held in memory
                tasks = [(job, crop_options, detector) for job in batch[first : first + WINDOW]]
                results = pool.map(_process, tasks, chunksize=8) if pool else map(_process, tasks)
                for result in results:
                    bar.update()
                    yield result

        for part, batch in parts:
            write = write_shards if options.shards else write_files
            for result in write(options.out / part, batch, options.shards, process, bar):
                if result is not None and result.rejected:
                    rejected.append(result)
                else:
                    accepted[part] += 1
                    existing += result is None
    _report(options.out, accepted, existing, rejected)
    if accepted["validation"] < options.validation:
        counts = f"{accepted['validation']} faces instead of {options.validation}"
        print(
            f"warning: the validation set has {counts}, because pictures were rejected",
            file=sys.stderr,
        )
    if not sum(accepted.values()):
        raise UserError(
            f"all {len(jobs)} pictures were rejected; see the reasons in {options.out / REPORT}"
        )
    preview = _preview(options.out, options.points)
    print(f"check the faces in {preview}", file=sys.stderr)
    return 1 if rejected else 0


def list_jobs(sources: Iterable[str], landmarks: str, out: Path) -> list[Job]:
    """List the pictures of all sources, with unique output names.

    Pictures below `out` are ignored.

    Raises:
        UserError: no pictures, duplicate names, or a name that would lead out of the folder.
    """
    from train.data.datasets import find_faces

    jobs: dict[str, Job] = {}
    for source in sources:
        for entry in find_faces(source, landmarks):
            if Path(entry.picture.path).absolute().is_relative_to(out.absolute()):
                continue  # faces from an earlier run, if --out is below a source folder
            name = PurePosixPath(entry.key)
            if name.is_absolute() or ".." in name.parts:
                raise UserError(f"{entry.name}: unsafe name, outside the folder; rename it")
            if entry.key in jobs:
                raise UserError(
                    f"{entry.name} and {jobs[entry.key].entry.name} have the same output name "
                    f"{entry.key}; prepare them into separate folders"
                )
            jobs[entry.key] = Job(entry, entry.key)
    return list(jobs.values())


def _check_outputs(options: Any, parts: Iterable[tuple[str, list[Job]]]) -> list[Path]:
    """All files that may be written.

    Raises:
        UserError: one of them is a picture, shard or landmark file that is read.
    """
    outputs = [options.out / name for name in (SETTINGS_FILE, REPORT, PREVIEW)]
    read = {Path(options.landmarks)} if options.landmarks else set()
    for part, jobs in parts:
        folder = options.out / part
        if options.shards:
            numbers = range(-(-len(jobs) // options.shards))
            outputs += [folder / name for n in numbers for name in shard_names(n)]
        else:
            outputs += [
                folder / f"{job.name}{s}" for job in jobs for s in (".png", ".pts", ".json")
            ]
        read |= {Path(job.entry.picture.path) for job in jobs}
    refuse_inputs(outputs, read)
    return outputs


def _file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else "beside"


def _check_settings(options: Any, jobs: list[Job]) -> None:
    """Store the settings of this data set, or compare them with those of an earlier run.

    Raises:
        UserError: the earlier run had other pictures or options, or `--out` is not writable.
    """
    names = "\n".join(job.name for job in jobs)
    current = {
        "pictures": f"{len(jobs)}, {hashlib.sha256(names.encode()).hexdigest()[:16]}",
        "landmarks": _file_hash(options.landmarks),
        **{n: getattr(options, n) for n in ("points", "crop", "smallest", "validation", "shards")},
        **({"margin": options.margin} if options.margin else {}),
    }
    path = options.out / SETTINGS_FILE
    if path.exists():
        try:
            stored = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged; choose another --out") from error
        for name in {**stored, **current}:
            if stored.get(name) != current.get(name):
                raise UserError(
                    f"{options.out}: was started with {name} {stored.get(name)}, not "
                    f"{current.get(name)}; use the same pictures and options, or choose another "
                    "--out"
                )
    else:
        write_whole(path, json.dumps(current, indent=1).encode())


def _process(task: tuple[Job, CropOptions, Detector | None]) -> Prepared:
    """Crop and encode one face; runs in a worker process."""
    job, crop_options, detector = task
    try:
        face = cut_face(job.entry, crop_options, detector)
    except RejectedError as why:
        return Prepared(job.entry.name, job.name, rejected=why.kind, detail=why.detail)
    except Exception as error:  # an unexpected error rejects one picture, and not the whole run
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return Prepared(job.entry.name, job.name, rejected="cannot be cut out", detail=reason)
    if isinstance(face, Picture):
        image, points, suffix = face.image, encode_json(face.landmarks, face.box), ".json"
    else:
        image, points, suffix = face[0], encode_pts(face[1]), ".pts"
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "png")
    return Prepared(job.entry.name, job.name, encoded.getvalue(), points, suffix)


def _pool(workers: int, jobs: int) -> Any:
    """Return a pool of processes, or a context of None if a pool is not worth its start-up time."""
    if workers < 2 or jobs < 20:
        return nullcontext()
    return ProcessPoolExecutor(workers, get_context("spawn"))


def _report(out: Path, accepted: Counter[str], existing: int, rejected: list[Prepared]) -> None:
    """Print the numbers of accepted and rejected faces, and write `report.json`."""
    reasons = Counter(one.rejected for one in rejected)
    content = {
        "faces": dict(accepted),
        "already there": existing,
        "rejected": dict(reasons.most_common()),
        "rejected_pictures": {one.source: f"{one.rejected}: {one.detail}" for one in rejected},
    }
    write_whole(out / REPORT, json.dumps(content, indent=1, ensure_ascii=False).encode())
    counts = ", ".join(f"{number} {part}" for part, number in accepted.items()) or "none"
    print(f"faces in {out}: {counts} ({existing} from an earlier run)", file=sys.stderr)
    for one in rejected[:MAX_PRINTED]:
        print(f"rejected {one.source}: {one.rejected} ({one.detail})", file=sys.stderr)
    if rejected:
        counts = ", ".join(f"{number} {kind}" for kind, number in reasons.most_common())
        print(f"rejected: {counts}; all are listed in {out / REPORT}", file=sys.stderr)


def _preview(out: Path, points: int) -> Path:
    """Write an image of some faces with their landmarks, read as training reads them.

    Returns:
        its path.

    Raises:
        UserError: there are no training faces.
    """
    from train.data.datasets import BadFaceError, open_faces
    from train.reports.preview import sheet

    try:
        faces = open_faces(str(out / "train"), "", points)
    except UserError as error:
        raise UserError(f"all training pictures were rejected ({error})") from error
    step = max(1, len(faces) // PREVIEW_FACES)
    chosen = []
    for i in range(0, len(faces), step):
        with suppress(BadFaceError):  # damaged after an earlier run; training skips it
            chosen.append(faces[i])
    encoded = io.BytesIO()
    Image.fromarray(sheet(chosen[:PREVIEW_FACES])).save(encoded, "png")
    path = out / PREVIEW
    write_whole(path, encoded.getbuffer())
    return path


def cli() -> NoReturn:
    run(main, "train")


if __name__ == "__main__":
    cli()
