"""Batches whose files are in object stores, wholly or in part.

The driver lists what there is; a worker copies one object to a temporary file, restores that as it
restores any other, and copies the results to where they belong.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dic.console import UserError
from dic.files import check_writable, write_json, write_whole
from runtime.cluster import stores
from runtime.cluster.stores import ObjectPath, is_url, place
from runtime.jobs.paths import Job, Outcome, Source, jobs_of, listed
from runtime.jobs.request import Request
from runtime.jobs.run import Execute, exit_status, face_source, nothing_left
from runtime.jobs.summary import Summary


def is_stored(request: Request) -> bool:
    """Whether an input or the output is in an object store."""
    return any(map(is_url, (*request.inputs, request.output)))


def restore_stored(request: Request, execute: Execute) -> int:
    """Restore what is asked for; `run_request` where files are in object stores.

    Raises:
        UserError: nothing can be done; nothing is written.
        EngineError: no worker can load the engine.
    """
    output = place(request.output)
    jobs = jobs_of(
        _sources(request, output),
        output,
        request.output.endswith("/"),
        request.outputs,
        request.files_read,
    )
    summary = Summary(jobs, request.output, request.summary, request.files_read)
    if isinstance(output, ObjectPath):
        stores.check_writable(output)
    else:
        check_writable(jobs[0].target)
    if request.faces and (boxes := face_source(request.faces)[0]):
        boxes.check([job.source for job in jobs])
    if request.resume:
        _skip_finished(summary, output)
    if not summary.left:
        return nothing_left(summary)
    with summary:
        execute(request, summary.left, summary)
    return exit_status(summary)


def _sources(request: Request, output: Path) -> list[Source]:
    """All inputs, those in files first."""
    local = [text for text in request.inputs if not is_url(text)]
    found = list(listed(local, output))
    for url in dict.fromkeys(text for text in request.inputs if is_url(text)):
        found += stores.sources(url, output)
    return found


def _skip_finished(summary: Summary, output: Path) -> None:
    """Record as skipped the jobs all of whose results are there, by one listing of the store.

    A photograph without a face has no comparison, and is copied again where one is asked for.
    """
    there = stores.present(output) if isinstance(output, ObjectPath) else None
    for job in summary.jobs:
        found = (path.is_file() if there is None else path in there for path in job.outputs)
        if all(found):
            summary.add(Outcome(job.name, str(job.target), "skipped"))


def restore_copy(job: Job, restore: Callable[[Job], Outcome]) -> Outcome:
    """Restore a job of which something is in a store.

    Args:
        restore: restores a job whose files are all local.

    Returns:
        its outcome; an error of the store is the outcome of this job.
    """
    with tempfile.TemporaryDirectory(prefix="dic-") as folder:
        near = _copy(job, Path(folder))
        try:
            if isinstance(job.source, ObjectPath):
                stores.fetch(job.source, near.source)
            outcome = restore(near)
            if outcome.status != "failed":
                _deliver(near, job)
        except (UserError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            outcome = Outcome("", "", "failed", 0, f"error: {job.name}: {reason}")
            if isinstance(error, UserError):  # names what it is about
                outcome = replace(outcome, message=f"error: {error}")
    message = outcome.message.replace(str(near.source), job.name)
    message = message.replace(str(near.target), str(job.target))
    return replace(outcome, source=job.name, target=str(job.target), message=message)


def _copy(job: Job, folder: Path) -> Job:
    """The same job with files in a folder; the source keeps its path, by which --boxes knows it."""
    source = job.source
    if isinstance(source, ObjectPath):
        source = folder.joinpath("in", *source.parts[1:])
    extras = {kind: folder / "out" / path.name for kind, path in job.extras.items()}
    return replace(job, source=source, target=folder / "out" / job.target.name, extras=extras)


def _deliver(near: Job, job: Job) -> None:
    """Copy results to their places, the restored picture last: it says that all are there."""
    if (landmarks := near.extras.get("landmarks")) is not None:
        document = {**json.loads(landmarks.read_bytes()), "image": job.name}
        write_json(landmarks, document)
    for file, target in reversed(list(zip(near.outputs, job.outputs, strict=True))):
        if not file.exists():  # a copied picture has no comparison
            continue
        if isinstance(target, ObjectPath):
            stores.put(file, target)
        else:
            write_whole(target, file.read_bytes())
