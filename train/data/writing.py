"""Writing of prepared faces, as files or as tar shards; existing output is kept."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dic.files import write_whole
from dic.progress import Progress
from train.data.datasets import Entry

REJECTION_FIELDS = ("source", "name", "rejected", "detail")  # stored beside a shard


@dataclass(frozen=True)
class Job:
    """One picture, and the output name of its face, without suffix."""

    entry: Entry
    name: str


@dataclass(frozen=True)
class Prepared:
    """The result of one picture: the encoded face, or the reason for its rejection.

    Attributes:
        source: the picture, for messages.
        name: output name without suffix.
        png, points: contents of the image file and of the landmark file.
        suffix: of the landmark file, ".pts" or, with a margin, ".json".
        rejected: kind of the rejection, by which the report counts; empty if accepted.
        detail: of the rejection.
    """

    source: str
    name: str
    png: bytes = b""
    points: bytes = b""
    suffix: str = ".pts"
    rejected: str = ""
    detail: str = ""


# Crops the faces of some jobs and yields their results in the same order.
Process = Callable[[list[Job]], Iterator[Prepared]]


def write_files(
    folder: Path, jobs: list[Job], _: int, process: Process, bar: Progress
) -> Iterator[Prepared | None]:
    """Write faces as files, with the signature of `write_shards`.

    Yields a result per job; None if the face existed already.

    Raises:
        UserError: a file cannot be written.
    """
    missing = []
    for job in jobs:
        # The landmarks are written last, so if they exist, the image does too.
        if any((folder / f"{job.name}{suffix}").exists() for suffix in (".pts", ".json")):
            bar.update()
            yield None
        else:
            missing.append(job)
    for result in process(missing):
        if not result.rejected:
            write_whole(folder / f"{result.name}.png", result.png)
            write_whole(folder / f"{result.name}{result.suffix}", result.points)
        yield result


def write_shards(
    folder: Path, jobs: list[Job], size: int, process: Process, bar: Progress
) -> Iterator[Prepared | None]:
    """Write faces as tar shards. Yields a result per job; None if the face existed already.

    The rejections of a shard are written before it to a file beside it. If that file lists all jobs
    of the shard, there is no shard to write.

    Args:
        folder: of the output.
        size: jobs per shard.
        process: crops the faces.
        bar: advanced for faces that existed already; `process` advances it for the others.

    Raises:
        UserError: a file cannot be written.
    """
    for number, start in enumerate(range(0, len(jobs), size)):
        batch = jobs[start : start + size]
        shard, stored = (folder / name for name in shard_names(number))
        if stored.exists() and (shard.exists() or len(_rejections(stored)) == len(batch)):
            rejections = _rejections(stored)
            bar.update(len(batch))
            yield from rejections
            yield from [None] * (len(batch) - len(rejections))
            continue
        results = list(process(batch))
        rejected = [result for result in results if result.rejected]
        content = [{n: getattr(result, n) for n in REJECTION_FIELDS} for result in rejected]
        write_whole(stored, json.dumps(content, indent=1).encode())
        if len(rejected) < len(results):
            write_whole(shard, _tar(result for result in results if not result.rejected))
        yield from results


def shard_names(number: int) -> tuple[str, str]:
    """The names of a shard, and of the file with its rejections."""
    return f"{number:05}.tar", f"{number:05}.rejected.json"


def _rejections(path: Path) -> list[Prepared]:
    return [Prepared(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def _tar(faces: Iterable[Prepared]) -> bytes:
    """Return the content of an uncompressed tar file with the faces."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for face in faces:
            # In WebDataset, the suffix begins at the first dot of the name.
            key = face.name.replace(".", "_")
            for suffix, data in ((".png", face.png), (face.suffix, face.points)):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return content.getvalue()
