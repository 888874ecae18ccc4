"""Worker processes that read mutated files, and their supervision.

A crash of a C library or an endless loop ends or blocks a worker, not the run.
"""

from __future__ import annotations

import math
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.kinds import Kind, Sample, kinds

LIMIT_S = 10.0
LIMIT_BYTES = 2**30  # a worker's memory may grow by this while it reads small files
START_S = 300.0  # imports, on a busy machine
SPAWN = get_context("spawn")
ENDS = ("! took ", "! the process ended")  # findings that end a worker: `_worker`, `received`


@dataclass
class Found:
    """The result of one kind.

    Attributes:
        kind: of files.
        inputs: read.
        read: of them without an error.
        refused: of them with an error that names the fault, by its class.
        findings: anything else; one line each, which begins with the number of the input.
    """

    kind: str
    inputs: int = 0
    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def sample(kind: Kind, samples: list[Sample], name: str, seed: int, number: int) -> Sample:
    """The input of a number: the same in every process and on every machine."""
    rng = random.Random(f"{seed} {name} {number}")
    return kind.mutate(rng.choice(samples), rng)


@dataclass(frozen=True)
class Work:
    """What a worker reads: the inputs of a kind by their numbers."""

    kind: str
    engine: Path
    checkpoint: Path
    seed: int

    def made(self) -> tuple[Kind, list[Sample]]:
        kind = kinds(self.engine, self.checkpoint)[self.kind]
        return kind, kind.samples()


def _worker(work: Work, numbers: Iterable[int], answers: Connection) -> None:
    """Read inputs one after the other; answers each with `read`, an error's class or a finding."""
    kind, samples = work.made()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, sys.stdout.fileno())
    os.dup2(silent, sys.stderr.fileno())
    with tempfile.TemporaryDirectory() as folder:
        for name, data in samples:  # imports what reading takes; all must be readable
            if (answer := answered(kind, Path(folder), name, data)) != "read":
                answers.send(f"! the sample {name} is not read: {answer}")
                return
        answers.send("ready")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            name, data = sample(kind, samples, work.kind, work.seed, number)
            answers.send("made")
            answer = answered(kind, Path(folder), name, data)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if grown * 1024 > LIMIT_BYTES:
                answers.send(f"! took {grown / 1e6:.1f} GB of memory")
                return  # the peak stays; the next worker goes on
            answers.send(answer)


def answered(kind: Kind, folder: Path, name: str, data: bytes) -> str:
    """`read`, the class of an error that names the fault, or a finding after `! `."""
    path = folder / name
    path.write_bytes(data)
    try:
        kind.read(path)
    except kind.errors as error:
        if "\n" in str(error).strip() or not str(error):
            return f"! {type(error).__name__} of several lines or none: {str(error)[:200]!r}"
        return type(error).__name__
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:120]
        return f"! {type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
    return "read"


def fuzz(
    work: Work,
    inputs: int,
    workers: int,
    tell: Callable[[], Any],
    kept: Path,
    limit: float = math.inf,
) -> Found:
    """Read the inputs 0 to `inputs` − 1.

    Args:
        workers: processes.
        tell: called after each input.
        kept: the folder where the inputs of findings are kept.
        limit: in seconds; fewer inputs are read if they take longer.
    """
    end = time.monotonic() + limit
    found, lock = Found(work.kind), threading.Lock()

    def note(number: int, answer: str) -> None:
        with lock:
            found.inputs += 1
            tell()
            if answer == "read":
                found.read += 1
            elif not answer.startswith("!"):
                found.refused[answer] = found.refused.get(answer, 0) + 1
            else:
                found.findings.append(f"{number}: {answer.removeprefix('! ')}")
                _keep(work, number, kept)

    shares = [range(first, inputs, workers) for first in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda share: _supervise(work, share, note, end), shares))
    found.findings.sort(key=lambda line: int(line.partition(":")[0]))
    return found


def _supervise(work: Work, numbers: range, note: Callable[[int, str], None], end: float) -> None:
    """Let workers read inputs; after one that crashed, hung or grew, the next goes on."""
    while numbers and time.monotonic() < end:
        receiver, sender = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_worker, args=(work, numbers, sender), daemon=True)
        process.start()
        sender.close()
        try:
            if (ready := received(receiver, process, START_S)) != "ready":
                raise RuntimeError(f"{work.kind}: {ready}")
            while numbers and time.monotonic() < end:
                answer = received(receiver, process, START_S)
                if answer == "made":
                    answer = received(receiver, process, LIMIT_S)
                note(numbers[0], answer)
                numbers = numbers[1:]
                if answer.startswith(ENDS):
                    break
        finally:
            process.kill()
            process.join()
            receiver.close()


def received(receiver: Connection, process: Any, seconds: float) -> str:
    """A worker's next answer; a finding if it ends, or takes longer and is killed."""
    if not receiver.poll(seconds):
        process.kill()
        process.join()
        return f"! took longer than {seconds:.0f} s"
    try:
        return str(receiver.recv())
    except EOFError:
        process.join()
        code = process.exitcode
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"! the process ended ({name})"


def _keep(work: Work, number: int, folder: Path) -> None:
    kind, samples = work.made()
    name, data = sample(kind, samples, work.kind, work.seed, number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{work.kind}-{work.seed}-{number}{''.join(Path(name).suffixes)}").write_bytes(data)
