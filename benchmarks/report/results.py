"""What a run has measured, as data: the one form that tables, plots, reports and comparisons read.

A results file is JSON of `Results`; its fields are explained at the classes. `version` changes
when a field changes its meaning or goes; files of another version are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.measure.accuracy import Accuracy
from benchmarks.measure.dial import Setting
from benchmarks.measure.footprint import Footprint
from benchmarks.measure.latency import Latency
from benchmarks.measure.machine import Machine
from benchmarks.measure.operators import Operator
from benchmarks.measure.roofline import Limits
from dic.console import UserError
from dic.files import write_whole

VERSION = 2


@dataclass(frozen=True)
class Named:
    """A contender, without what runs it; see `benchmarks.contenders.contenders.Contender`."""

    name: str
    backend: str
    device: str
    precision: str
    peer: bool


@dataclass(frozen=True)
class Results:
    """A run.

    Attributes:
        version: of this form.
        machine: what it ran on, and the command.
        reference: the checkpoint's name, SHA-256 and what its training said of itself.
        contenders: the reference first.
        landmarks: whether any engine gives them. Where none does, the last landmark pass is not
            counted in `limits`; PyTorch eager computes it all the same.
        missing: what could not be measured, or was left out, and why; a line each.
        latency: a row for each contender and batch.
        footprints: start and memory.
        limits: of the machine; None where not measured.
        operators: by engine.
        accuracy: a row for each contender, and for the reference's steps.
        faces: what accuracy was measured on.
        dial: quality and time by steps.
        published: figures of others, not measured here; name → (PSNR, SSIM).
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
        return next(one for one in self.contenders if one.name == name)


_FORM = TypeAdapter(Results)


def dumps(results: Results) -> bytes:
    return _FORM.dump_json(results, indent=1) + b"\n"


def write(results: Results, path: Path) -> None:
    """Write a results file, whole or not at all."""
    write_whole(path, dumps(results))


def read(path: Path) -> Results:
    """A results file.

    Raises:
        UserError: unreadable, no results file, or of another version.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    try:
        version = TypeAdapter(dict[str, Any]).validate_json(text).get("version")
        if version != VERSION:
            raise UserError(
                f"{path}: results of version {version}; this one reads {VERSION}: measure anew"
            )
        return _FORM.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a results file: {where}: {first['msg']}") from error
