"""The summary of a command's outcomes: one line on standard error, and optionally JSON.

The JSON format is in docs/reference/json.md.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, Self

from dic.console import UserError, print_error
from dic.files import write_json
from dic.outputs import check_outputs
from runtime.jobs.paths import STREAM, Job, Outcome

STATUSES = ("restored", "copied", "skipped", "failed")


class EngineInUse(Protocol):
    """What is told of the engine that restored."""

    @property
    def path(self) -> Path: ...

    @property
    def device(self) -> str: ...

    @property
    def backend(self) -> str: ...


class Summary:
    """Collects outcomes from any thread. As a context manager, prints and writes them on exit.

    Args:
        jobs: all jobs of the command.
        output: the command's output argument.
        path: the JSON file to write; None writes no JSON.
        read: files that the command reads beside the jobs' sources.

    Attributes:
        jobs: all jobs of the command.
        engine: set by the command once it is loaded.
        written: False if the JSON could not be written on exit.

    Raises:
        UserError: `path` cannot be written, or is an input or output of a job.
    """

    def __init__(
        self, jobs: Sequence[Job], output: str, path: Path | None, read: Sequence[Path] = ()
    ) -> None:
        self.jobs, self._output, self._path = jobs, output, path
        self._outcomes: dict[str, Outcome] = {}  # by target
        self._began = time.monotonic()
        self.engine: EngineInUse | None = None
        self.written = True
        if path is not None:
            _check(path, jobs, read)

    def add(self, outcome: Outcome) -> Outcome:
        """Record the outcome of a job, and return it."""
        self._outcomes[outcome.target] = outcome
        return outcome

    @property
    def left(self) -> list[Job]:
        """The jobs without an outcome."""
        return [job for job in self.jobs if str(job.target) not in self._outcomes]

    def count(self, status: str) -> int:
        """Number of files with a status."""
        return self._counts()[status]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._began
        self._print(seconds)
        try:
            self.write(seconds)
        except UserError as error:  # do not replace an exception that ended the command
            print_error(error)
            self.written = False

    def _counts(self) -> Counter[str]:
        counts = Counter(outcome.status for outcome in self._outcomes.values())
        counts["left"] = len(self.jobs) - counts.total()
        return counts

    def _faces(self) -> int:
        return sum(outcome.faces for outcome in self._outcomes.values())

    def _print(self, seconds: float) -> None:
        counts, faces = self._counts(), self._faces()
        what = f"{faces} face{'' if faces == 1 else 's'}"
        parts = [f"{counts['restored']} restored ({what}, {faces / max(seconds, 1e-9):.1f} per s)"]
        for status, words in (
            ("copied", "copied without a face to restore"),
            ("skipped", "already finished"),
            ("failed", "failed"),
            ("left", "not processed"),
        ):
            parts += [f"{counts[status]} {words}"] if counts[status] else []
        if counts["restored"] or len(self.jobs) > 1:
            where = "" if self._output == "-" else f"; output in {self._output}"
            print(", ".join(parts) + where, file=sys.stderr)

    def write(self, seconds: float = 0.0) -> None:
        """Write the JSON file, if one was requested.

        Args:
            seconds: duration of the command.

        Raises:
            UserError: the file cannot be written.
        """
        if self._path is None:
            return
        ran, counts, engine = {}, self._counts(), self.engine
        if engine is not None:
            ran = {"engine": str(engine.path), "device": engine.device, "backend": engine.backend}
        targets = [str(job.target) for job in self.jobs]
        content = {
            **ran,
            "seconds": round(seconds, 3),
            "faces": self._faces(),
            **{status: counts[status] for status in (*STATUSES, "left")},
            "files": [asdict(self._outcomes[t]) for t in targets if t in self._outcomes],
        }
        write_json(self._path, content)


def _check(path: Path, jobs: Sequence[Job], read: Sequence[Path]) -> None:
    """Check before any work that the JSON can be written to `path`; raises UserError."""
    sources = [job.source for job in jobs]
    written = [output for job in jobs for output in job.outputs]
    used = [path for path in (*sources, *written, *read) if path != STREAM]
    try:
        check_outputs([path], used)
    except UserError as error:
        raise UserError(f"--summary {error}") from error
