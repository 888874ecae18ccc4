"""Planning: the files that a command restores, and the path of each result."""

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
from dic.outputs import refuse_inputs, repeated

STREAM = Path("-")  # standard input or output
WRITABLE = frozenset((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"))
READABLE = WRITABLE | {
    *(".jfif", ".pgm", ".pbm", ".pnm", ".pam", ".gif", ".avif", ".jp2", ".j2k"),
    *(".heic", ".heif", ".hif"),  # by a library that not all machines have; the error names it
}
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"))
# Formats that are not supported. In a folder their files fail, so that none is left out unnoticed;
# but `.ts` is also a programming language's, and the last ones accompany pictures that are read.
UNREAD_VIDEOS = frozenset(
    (".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".wmv")
)
MEDIA = READABLE | VIDEOS | UNREAD_VIDEOS - {".ts"} | {".jxl"}
SKIPPED = frozenset((".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw"))
PATTERN = "*?["

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One picture or video to restore.

    Attributes:
        source: the input file; STREAM for standard input.
        target: the output file; STREAM for standard output.
        extras: extra output files by kind: "landmarks", "drawing", "comparison".
        named: the input was named on the command line, as opposed to listed from a folder or
            matched by a pattern.
    """

    source: Path
    target: Path
    extras: dict[str, Path]
    named: bool

    @property
    def is_video(self) -> bool:
        return is_video(self.source)

    @property
    def outputs(self) -> list[Path]:
        """All files that the job writes."""
        return [self.target, *self.extras.values()]

    @property
    def name(self) -> str:
        """The input's name for messages."""
        return "standard input" if self.source == STREAM else str(self.source)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one job.

    Attributes:
        source: the input's name.
        target: the output's path.
        status: "restored", "copied" (no face to restore), "skipped" (finished by an earlier call)
            or "failed".
        faces: number of restored faces; for a video, summed over all frames.
        message: human-readable; the reason if it failed.
    """

    source: str
    target: str
    status: str
    faces: int = 0
    message: str = ""


@dataclass(frozen=True)
class OutputOptions:
    """Output formats and extra outputs.

    Attributes:
        keep_format: write pictures in their own format where possible, otherwise as PNG; if
            false, always as PNG.
        suffix: format of all pictures, such as ".jpg"; overrides `keep_format`.
        extras: suffixes of the extra outputs by kind, such as {"landmarks": ".landmarks.json"}.
    """

    keep_format: bool
    suffix: str | None
    extras: dict[str, str]


def plan(
    inputs: Sequence[str], out: str, options: OutputOptions, read: Sequence[Path] = ()
) -> list[Job]:
    """List the jobs of a command. A folder's files keep their relative paths in the output.

    Args:
        inputs: files, folders, patterns, or "-" for standard input.
        out: a file for a single input, or a folder; "-" for standard output. A path is a folder
            if it exists as one, has no suffix, or ends in a slash.
        options: output formats and extra outputs.
        read: other files that the command reads, such as the engine; no output may replace them.

    Raises:
        UserError: there are no pictures, two inputs have the same output, an output would
            overwrite an input, or a format is unknown.
    """
    if "" in (out, *inputs):
        raise UserError("a path is empty; check for an unset shell variable")
    output = Path(out)
    return jobs_of(list(listed(inputs, output)), output, out.endswith(os.sep), options, read)


def jobs_of(
    sources: Sequence[Source],
    output: Path,
    is_folder: bool,
    options: OutputOptions,
    read: Sequence[Path] = (),
) -> list[Job]:
    """The jobs of what has been listed.

    Args:
        output: see `plan`.
        is_folder: it is a folder, whatever its suffix.

    Raises:
        UserError: see `plan`.
    """
    one = len(sources) == 1 and sources[0].named
    if output == STREAM:
        if not one or options.extras or is_video(sources[0].path):
            raise UserError(
                "standard output takes one picture without extra outputs; write to a file or folder"
            )
        if options.suffix not in (None, ".png"):
            raise UserError("standard output is always PNG; leave out --format")
        targets = [STREAM]
    elif one and output.suffix and not output.is_dir() and not is_folder:
        _check_format(sources[0].path, output, options)
        targets = [output]
    else:
        if output.is_file():
            raise UserError(f"{output}: is a file; give a folder for several pictures")
        named = output.suffix.lower() in WRITABLE | VIDEOS and not is_folder
        if named and not output.is_dir():
            raise UserError(
                f"{output}: has a file's suffix; for several pictures give a folder "
                f"({output}{os.sep})"
            )
        targets = [output / _relative_target(source, options) for source in sources]
    jobs = [
        Job(source.path, target, _extras(source.path, target, options.extras), source.named)
        for source, target in zip(sources, targets, strict=True)
    ]
    _check_collisions(jobs, read)
    return jobs


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        path: the file.
        relative: its path in the output folder, before the suffix is changed.
        named: see `Job`.
    """

    path: Path
    relative: Path
    named: bool


def listed(inputs: Sequence[str], output: Path) -> Iterator[Source]:
    """The files that the inputs of a command stand for; see `plan`."""
    seen: set[Path] = set()
    for argument in inputs:
        path = Path(argument)
        if argument == "-":
            yield Source(STREAM, Path("stdin"), True)
        elif path.is_dir():
            unreadable: list[Path] = []
            files = list(_walk(path, output, unreadable))
            media = [p for p in files if _is_media(p)] + unreadable  # which fail as files do
            skipped = [p for p in files if p.suffix.lower() in SKIPPED]
            if skipped:
                more = f" (and {len(skipped) - 1} similar files)" if len(skipped) > 1 else ""
                log.warning("%s%s: format not supported; skipped", skipped[0], more)
            if not media:
                raise UserError(f"{path}: no pictures or videos in this folder; give another")
            yield from (Source(p, p.relative_to(path), False) for p in media if p not in seen)
            seen.update(media)
        elif any(sign in argument for sign in PATTERN) and not _exists(path):
            matches = sorted(map(Path, glob.glob(argument, recursive=True)))
            matches = [p for p in matches if _is_media(p)]
            if not matches:
                raise UserError(f"{argument}: no picture or video matches; check the pattern")
            yield from (Source(p, Path(p.name), False) for p in matches if p not in seen)
            seen.update(matches)
        elif "://" in argument:
            raise UserError(
                f"{argument}: URLs are not supported without --ray; download the file first"
            )
        elif path not in seen:
            seen.add(path)
            yield Source(path, Path(path.name), True)


def is_video(path: Path) -> bool:
    """Whether a path has the suffix of a video, supported or not."""
    return path.suffix.lower() in VIDEOS | UNREAD_VIDEOS


def _is_media(path: Path) -> bool:
    """Whether a listed path is a regular file with the suffix of a picture or video."""
    if path.suffix.lower() not in MEDIA:
        return False
    try:
        kind = path.stat().st_mode
    except OSError:
        return True  # reading it will report the error
    if not stat.S_ISREG(kind):
        log.warning("%s: is a folder, pipe or device; skipped", path)
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _walk(folder: Path, output: Path, unreadable: list[Path]) -> Iterator[Path]:
    """Files below a folder, sorted, without hidden ones.

    Follows links, but enters each real folder once; does not enter the output folder.

    Args:
        unreadable: receives the folders that cannot be listed.
    """

    def note(error: OSError) -> None:
        unreadable.append(Path(error.filename))

    results = os.path.realpath(output)
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=note, followlinks=True):
        here = os.path.realpath(root)
        if here in entered or (here == results and os.path.realpath(folder) != results):
            folders.clear()
            continue
        entered.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))


def _check_format(source: Path, output: Path, options: OutputOptions) -> None:
    suffix = output.suffix.lower()
    if source.suffix.lower() in UNREAD_VIDEOS:
        return  # it fails, for a reason that is told then
    if is_video(source):
        if suffix not in VIDEOS:
            raise UserError(f"{output}: videos can be written as one of {_listed(VIDEOS)}")
    elif suffix not in WRITABLE:
        raise UserError(f"{output}: pictures can be written as one of {_listed(WRITABLE)}")
    elif options.suffix is not None and options.suffix != suffix:
        raise UserError(
            f"{output}: suffix differs from --format {options.suffix[1:]}; leave out --format, or "
            "change the suffix"
        )


def _listed(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))


def _relative_target(source: Source, options: OutputOptions) -> Path:
    """A source's output path, relative to the output folder."""
    suffix = source.path.suffix.lower()
    if is_video(source.path) or (
        options.suffix is None and options.keep_format and suffix in WRITABLE
    ):
        return source.relative
    return source.relative.with_name(f"{source.relative.stem}{options.suffix or '.png'}")


def _extras(source: Path, target: Path, extras: dict[str, str]) -> dict[str, Path]:
    """Paths of a job's extra outputs by kind."""
    if is_video(source):  # drawings and comparisons exist only for pictures
        extras = {kind: ending for kind, ending in extras.items() if kind == "landmarks"}
    # Append to the full name: phones store IMG_1.jpg and IMG_1.mp4 in one folder.
    return {kind: target.with_name(f"{target.name}{ending}") for kind, ending in extras.items()}


def _check_collisions(jobs: list[Job], read: Sequence[Path]) -> None:
    """Check that no file is written twice and no input is overwritten.

    Raises:
        UserError: names the files.
    """
    writers: dict[Path, Job] = {}
    for job in jobs:
        for output in job.outputs:
            if output in writers:
                raise UserError(_both(writers[output], job, output))
            writers[output] = job
    outputs = [output for output in writers if output != STREAM]
    refuse_inputs(outputs, (*(job.source for job in jobs if job.source != STREAM), *read))
    if (same := repeated(outputs)) is not None:
        raise UserError(_both(writers[same[0]], writers[same[1]], same[1]))


def _both(one: Job, other: Job, output: Path) -> str:
    return (
        f"{one.name} and {other.name} would both be written to {output}; rename one, or restore "
        "them separately"
    )


def finished(job: Job) -> bool:
    """Whether all output files of a job exist, which are complete because writes are atomic."""
    if STREAM in (job.source, job.target) or not job.target.is_file():
        return False
    missing = [kind for kind, path in job.extras.items() if not path.is_file()]
    if missing == ["comparison"]:  # a copied picture has no comparison
        return filecmp.cmp(job.source, job.target, shallow=False)
    return not missing
