"""All files of the matrix through the real command: `python -m runtime.infer --faces FOLDER`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.formats.cell import Cell, Result
from dic.console import UserError

TOO_LARGE = "of memory, and"
SUFFIX = ".gif"  # the format is told by the content; results have another suffix


@dataclass(frozen=True)
class Outcome:
    """What the command says of a file.

    Attributes:
        failed: as opposed to written.
        message: its line.
    """

    failed: bool
    message: str

    def contradicts(self, cell: Cell) -> str:
        """How it differs from what a cell says; "" if it does not."""
        if self.failed != (cell.result is Result.REFUSED):
            return f"the command says: {self.message}"
        refused = (cell.detail, TOO_LARGE)  # by memory before the limit of pixels
        if self.failed and not any(reason in self.message for reason in refused):
            return f"the command gives another reason: {self.message}"
        return ""


def outcomes(files: Sequence[bytes], options: Sequence[str] = ()) -> list[Outcome]:
    """What the command says of each file, when it restores all of a folder.

    Args:
        options: more options of the command.

    Raises:
        UserError: it ends in another exit status than 1, which says that some files failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, results = Path(folder) / "in", Path(folder) / "out"
        inputs.mkdir()
        names = [f"{number:05}{SUFFIX}" for number in range(len(files))]
        for name, data in zip(names, files, strict=True):
            (inputs / name).write_bytes(data)
        told = Path(folder) / "summary.json"
        command = [sys.executable, "-m", "runtime.infer", "--faces", str(inputs)]
        done = subprocess.run(
            [*command, "-o", str(results), "--summary", str(told), *options],
            capture_output=True,
            text=True,
        )
        if done.returncode != 1:
            raise UserError(
                f"matrix: the command ended with exit status {done.returncode}: "
                f"{done.stderr.strip().splitlines()[-1:]}"
            )
        found = {Path(one["source"]).name: one for one in json.loads(told.read_bytes())["files"]}
        for name in names:
            failed = found[name]["status"] == "failed"
            if failed == (results / name).with_suffix(".png").is_file():
                raise UserError(f"matrix: {name}: its status and its result contradict each other")
        ordered = (found[name] for name in names)
        return [Outcome(one["status"] == "failed", one["message"]) for one in ordered]
