"""The results of a run as data, which tables, plots, reports and comparisons read.

A results file is `Results` as JSON; the classes document the fields. `version` changes when a field
is removed or changes its meaning, and files of another version are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.measure.accuracy import Accuracy
from benchmarks.measure.footprint import Footprint
from benchmarks.measure.latency import Latency
from benchmarks.measure.machine import Machine
from benchmarks.measure.operators import Operator
from benchmarks.measure.roofline import Limits
from benchmarks.measure.steps import Setting
from dic.console import UserError
from dic.files import write_whole

VERSION = 2


@dataclass(frozen=True)
class Named:
    """A contender's description; see `benchmarks.contenders.gather.Contender`."""

    name: str
    backend: str
    device: str
    precision: str
    peer: bool


@dataclass(frozen=True)
class Results:
    """The results of a run; parts that were not measured are empty.

    Attributes:
        version: of the file format.
        machine: the machine and the command.
        reference: the checkpoint's name, SHA-256, number of parameters and training metadata.
        contenders: the reference first.
        landmarks: whether any engine outputs landmarks. If none does, `limits` does not count the
            last landmark pass, although PyTorch eager computes it.
        missing: what was left out or could not be measured, with the reason; one line each.
        latency: a row per contender and batch size.
        footprints: start-up time and memory, a row per contender.
        limits: the machine's; None if not measured.
        operators: time by operator, by engine.
        accuracy: a row per contender and per step of the reference.
        faces: a description of the faces that accuracy was measured on.
        dial: quality and latency by number of steps.
        published: figures from publications, not measured; name → (PSNR in dB, SSIM).
    """

    version: int
    machine: Machine
    reference: dict[str, Any]
    contenders: list[Named]
    landmarks: bool = True
    missing: list[str] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    limits: Limits | None = None
    operators: dict[str, list[Operator]] = field(default_factory=dict)
    accuracy: list[Accuracy] = field(default_factory=list)
    faces: str = ""
    dial: list[Setting] = field(default_factory=list)
    published: dict[str, tuple[float, float]] = field(default_factory=dict)

    def contender(self, name: str) -> Named:
        """The description of a contender."""
        return next(one for one in self.contenders if one.name == name)


_FORM = TypeAdapter(Results)


def dumps(results: Results) -> bytes:
    """Results as JSON, UTF-8."""
    return _FORM.dump_json(results, indent=1) + b"\n"


def write(results: Results, path: Path) -> None:
    """Write a results file, all of it or nothing.

    Raises:
        UserError: the file cannot be written.
    """
    write_whole(path, dumps(results))


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        UserError: the file is unreadable, not a results file, or of another version.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    try:
        version = TypeAdapter(dict[str, Any]).validate_json(text).get("version")
        if version != VERSION:
            raise UserError(
                f"{path}: results of version {version}, only {VERSION} can be read; measure again"
            )
        return _FORM.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a results file: {where}: {first['msg']}") from error
