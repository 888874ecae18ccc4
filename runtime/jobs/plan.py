"""Which files a call restores, and where each result goes."""

from __future__ import annotations

import filecmp
import glob
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dic.console import UserError

STREAM = Path("-")  # standard input or output
WRITABLE = frozenset((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"))
READABLE = WRITABLE | {".pgm", ".gif", ".avif", ".jp2"}
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"))
# Pictures and videos that a folder may well hold, and that are left out with a word.
UNREAD = frozenset((".heic", ".heif", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".wmv"))
PATTERN = "*?["

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One picture or video, and what becomes of it.

    Attributes:
        source: the file; STREAM for standard input.
        target: of the restored one; STREAM for standard output.
        extras: files that are written beside it, by what they are ("landmarks", …).
        named: on the command line, not found in a folder or by a pattern.
    """

    source: Path
    target: Path
    extras: dict[str, Path]
    named: bool

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in VIDEOS

    @property
    def outputs(self) -> list[Path]:
        return [self.target, *self.extras.values()]

    @property
    def name(self) -> str:
        return "standard input" if self.source == STREAM else str(self.source)


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        status: "restored", "copied" (nothing to restore in it), "skipped" (done before), "failed".
        faces: how many were restored; of a video, over all frames.
        message: for people; why, where it failed.
    """

    source: str
    target: str
    status: str
    faces: int = 0
    message: str = ""


@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Attributes:
        keep_format: pictures keep theirs where it can be written; otherwise they become PNG.
        suffix: of all pictures, such as ".jpg"; overrides `keep_format`.
        extras: endings of the files beside each, by what they are.
    """

    keep_format: bool
    suffix: str | None
    extras: dict[str, str]


def plan(inputs: Sequence[str], out: str, options: OutputOptions) -> list[Job]:
    """Which file goes where. A folder's files keep their places in it.

    Args:
        out: a file for one input, or a folder, as which it counts where it is one, has no suffix,
            or ends in a slash; "-" for standard output.

    Raises:
        UserError: no pictures, two that would become one file, an output over an input or of an
            unknown format.
    """
    if "" in (out, *inputs):
        raise UserError("an empty name; is a variable of the shell not set?")
    output = Path(out)
    found = list(_sources(inputs, output))
    one = len(found) == 1 and found[0].named
    if output == STREAM:
        if not one or options.extras or found[0].path.suffix.lower() in VIDEOS:
            raise UserError("standard output takes one picture, and nothing beside it")
        if options.suffix not in (None, ".png"):
            raise UserError("standard output is PNG; leave out --format")
        targets = [STREAM]
    elif one and output.suffix and not output.is_dir() and not out.endswith(os.sep):
        _check_format(found[0].path, output, options)
        targets = [output]
    else:
        if output.is_file():
            raise UserError(f"{output}: is a file; several pictures need a folder")
        named = output.suffix.lower() in WRITABLE | VIDEOS and not out.endswith(os.sep)
        if named and not output.is_dir():
            raise UserError(
                f"{output}: is named as a file; several need a folder ({output}{os.sep})"
            )
        targets = [output / _place(source, options) for source in found]
    jobs = [
        Job(source.path, target, _beside(source.path, target, options.extras), source.named)
        for source, target in zip(found, targets, strict=True)
    ]
    _check_apart(jobs)
    return jobs


@dataclass(frozen=True)
class _Source:
    path: Path
    place: Path  # in a folder of results
    named: bool


def _sources(inputs: Sequence[str], output: Path) -> Iterator[_Source]:
    seen: set[Path] = set()
    for given in inputs:
        path = Path(given)
        if given == "-":
            yield _Source(STREAM, Path("stdin"), True)
        elif path.is_dir():
            everything = list(_walk(path, output))
            found = [p for p in everything if _may_be_taken(p)]
            unread = [p for p in everything if p.suffix.lower() in UNREAD]
            if unread:
                more = f", nor {len(unread) - 1} more" if len(unread) > 1 else ""
                log.warning("%s: such files are not read%s; left out", unread[0], more)
            if not found:
                raise UserError(f"{path}: no pictures or videos in this folder")
            yield from (_Source(p, p.relative_to(path), False) for p in found if p not in seen)
            seen.update(found)
        elif any(sign in given for sign in PATTERN) and not _exists(path):
            matches = sorted(map(Path, glob.glob(given, recursive=True)))
            matches = [p for p in matches if _may_be_taken(p)]
            if not matches:
                raise UserError(f"{given}: no picture or video matches")
            yield from (_Source(p, Path(p.name), False) for p in matches if p not in seen)
            seen.update(matches)
        elif "://" in given:
            raise UserError(f"{given}: addresses are not read; download it first")
        elif path not in seen:
            seen.add(path)
            yield _Source(path, Path(path.name), True)


def _may_be_taken(path: Path) -> bool:
    """Whether a name that nobody gave is a picture's or video's, and not a pipe's or a device's."""
    if path.suffix.lower() not in READABLE | VIDEOS:
        return False
    try:
        kind = path.stat().st_mode
    except OSError:
        return True  # what is wrong with it is told when it is read
    if not stat.S_ISREG(kind):
        log.warning("%s: is a folder, pipe or device; left out", path)
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _walk(folder: Path, output: Path) -> Iterator[Path]:
    """Files below a folder in order; not below the output, and through each link only once."""
    results = os.path.realpath(output)
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_left_out, followlinks=True):
        here = os.path.realpath(root)
        if here in entered or (here == results and os.path.realpath(folder) != results):
            folders.clear()
            continue
        entered.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))


def _left_out(error: OSError) -> None:
    log.warning("%s: %s; left out", error.filename, error.strerror)


def _check_format(source: Path, output: Path, options: OutputOptions) -> None:
    suffix = output.suffix.lower()
    if source.suffix.lower() in VIDEOS:
        if suffix not in VIDEOS:
            raise UserError(f"{output}: videos are written as one of {_listed(VIDEOS)}")
    elif suffix not in WRITABLE:
        raise UserError(f"{output}: pictures are written as one of {_listed(WRITABLE)}")
    elif options.suffix is not None and options.suffix != suffix:
        raise UserError(
            f"{output}: is not named {options.suffix}; leave out --format, or rename it"
        )


def _listed(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))


def _place(source: _Source, options: OutputOptions) -> Path:
    suffix = source.path.suffix.lower()
    if suffix in VIDEOS or (options.suffix is None and options.keep_format and suffix in WRITABLE):
        return source.place
    return source.place.with_name(f"{source.place.stem}{options.suffix or '.png'}")


def _beside(source: Path, target: Path, extras: dict[str, str]) -> dict[str, Path]:
    if source.suffix.lower() in VIDEOS:  # has no pictures beside it
        extras = {kind: ending for kind, ending in extras.items() if kind == "landmarks"}
    # By the whole name: telephones write IMG_1.jpg and IMG_1.mp4 into one folder.
    return {kind: target.with_name(f"{target.name}{ending}") for kind, ending in extras.items()}


def _check_apart(jobs: list[Job]) -> None:
    """Raise UserError where a file would be written twice, or over an input."""
    taken: dict[Path, Job] = {}
    for job in jobs:
        for output in job.outputs:
            if output in taken:
                raise UserError(
                    f"{taken[output].name} and {job.name} would both become {output}; "
                    "rename one, or restore them apart"
                )
            taken[output] = job
    resolved = {os.path.realpath(output) for output in taken if output != STREAM}
    for job in jobs:
        if job.source != STREAM and os.path.realpath(job.source) in resolved:
            raise UserError(f"{job.source}: would be overwritten; choose another output")


def finished(job: Job) -> bool:
    """Whether all of a job's files are there. Files appear whole, so what is there is done."""
    if STREAM in (job.source, job.target) or not job.target.is_file():
        return False
    missing = [kind for kind, path in job.extras.items() if not path.is_file()]
    if missing == ["comparison"]:  # what was copied has none
        return filecmp.cmp(job.source, job.target, shallow=False)
    return not missing
