"""What became of the files of a call: told in a line, and written as JSON.

The JSON has `engine`, `device` and `backend` (none where nothing was to be done), `seconds`,
`faces`, how many files were `restored`, `copied`, `skipped`, `failed` and `left` (not done when the
call was interrupted), and `files`, a list in the order of the call of

    source, target   the file and its result
    status           "restored", "copied" (it has no face to restore), "skipped" (done before), or
                     "failed"
    faces            how many were restored; of a video, over all frames
    message          for people; why, where it failed
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from dic.console import UserError, print_error
from dic.files import check_writable, write_whole
from runtime.engines.contract import Engine
from runtime.jobs.plan import Job, Outcome

STATUSES = ("restored", "copied", "skipped", "failed")


class Summary:
    """Collects outcomes, from any thread. As a context it tells and writes them at its end.

    Args:
        jobs: all of the call.
        output: as it was given.
        path: of the JSON; none is written without it.

    Raises:
        UserError: nothing can be written to `path`, or it is a file of a job.
    """

    def __init__(self, jobs: Sequence[Job], output: str, path: Path | None) -> None:
        self._jobs, self._output, self._path = jobs, output, path
        self._outcomes: dict[str, Outcome] = {}  # by target
        self._began = time.monotonic()
        self.engine: Engine | None = None
        self.written = True
        if path is not None:
            _check(path, jobs)

    def add(self, outcome: Outcome) -> Outcome:
        self._outcomes[outcome.target] = outcome
        return outcome

    @property
    def left(self) -> list[Job]:
        """The jobs without an outcome."""
        return [job for job in self._jobs if str(job.target) not in self._outcomes]

    def count(self, status: str) -> int:
        return self._counts()[status]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._began
        self._tell(seconds)
        try:
            self.write(seconds)
        except UserError as error:  # the pictures are done, or something else ended the work
            print_error(error)
            self.written = False

    def _counts(self) -> Counter[str]:
        counts = Counter(outcome.status for outcome in self._outcomes.values())
        counts["left"] = len(self._jobs) - counts.total()
        return counts

    def _faces(self) -> int:
        return sum(outcome.faces for outcome in self._outcomes.values())

    def _tell(self, seconds: float) -> None:
        counts, faces = self._counts(), self._faces()
        what = f"{faces} face{'' if faces == 1 else 's'}"
        told = [
            f"{counts['restored']} restored ({what}, {faces / max(seconds, 1e-9):.1f} a second)"
        ]
        for status, words in (
            ("copied", "without a face to restore, copied"),
            ("skipped", "done before"),
            ("failed", "failed"),
            ("left", "left"),
        ):
            told += [f"{counts[status]} {words}"] if counts[status] else []
        if counts["restored"] or len(self._jobs) > 1:
            where = "" if self._output == "-" else f"; in {self._output}"
            print(", ".join(told) + where, file=sys.stderr)

    def write(self, seconds: float = 0.0) -> None:
        """Write the JSON, where it was asked for.

        Raises:
            UserError: it cannot be written.
        """
        if self._path is None:
            return
        ran, counts, engine = {}, self._counts(), self.engine
        if engine is not None:
            ran = {"engine": str(engine.path), "device": engine.device, "backend": engine.backend}
        targets = [str(job.target) for job in self._jobs]
        content = {
            **ran,
            "seconds": round(seconds, 3),
            "faces": self._faces(),
            **{status: counts[status] for status in (*STATUSES, "left")},
            "files": [asdict(self._outcomes[t]) for t in targets if t in self._outcomes],
        }
        write_whole(self._path, (json.dumps(content, indent=1) + "\n").encode())


def _check(path: Path, jobs: Sequence[Job]) -> None:
    used = {p.absolute() for job in jobs for p in (job.source, *job.outputs)}
    real = {os.path.realpath(p) for p in used}
    if path.absolute() in used or os.path.realpath(path) in real:
        raise UserError(f"--summary {path}: is one of the files to restore, or of the results")
    if path.is_dir():
        raise UserError(f"--summary {path}: is a folder; a file is to be written there")
    check_writable(path)
