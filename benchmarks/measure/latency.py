"""Latency of all contenders, measured in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.contenders.gather import Contender, Faces
from benchmarks.measure import statistics
from benchmarks.measure.statistics import Interval
from dic.console import UserError
from dic.engine_file import EngineError
from dic.progress import Progress
from dic.sizes import LQ_SIZE

WARM_UPS = 2
FEWEST = 3  # rounds, even if --seconds is over
# Idle worker threads of a runtime spin for a while and slow the next contender down: measured right
# after another one, PyTorch looked half as fast as alone (benchmarks/NOTES.md). On a CPU each timed
# run therefore follows a pause, in which other threads go to sleep, and an untimed run, which wakes
# the contender's own; runs longer than LONG do not need it. A GPU's clocks drop while it idles, so
# there untimed runs take the place of the pause.
SETTLE = 0.05  # seconds
LONG = 1.0  # seconds
# Largest allowed difference from the reference, grey levels, by precision. It only has to detect
# faulty engines, whose differences are far larger.
LARGEST_DIFFERENCE = {"fp32": 1, "fp16": 8, "bf16": 24, "int8": 128, "unknown": 128}


@dataclass(frozen=True)
class Latency:
    """One contender at one batch size.

    Attributes:
        name: the contender's.
        batch: faces per run.
        milliseconds: of every timed run, in the order of the rounds, from pictures in host memory
            to faces in host memory.
        speed: in each round, the reference's time divided by this one.
        gpu_milliseconds: of as many runs, between two CUDA events around the network in the stream
            that runs it, without copies; empty where it is not measured (`Contender.gpu_time`).
    """

    name: str
    batch: int
    milliseconds: list[float]
    speed: list[float]
    gpu_milliseconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def interval(self) -> Interval | None:
        """The median's 95 % confidence interval, milliseconds."""
        return statistics.interval(self.milliseconds)

    @property
    def faces_a_second(self) -> float:
        """Throughput at the median time."""
        return 1000 * self.batch / self.median


@dataclass
class _Rounds:
    """The measurement of all contenders at one batch size.

    Attributes:
        able: the contenders that have not failed.
        same: compare the faces with the first contender's.
        times: milliseconds of the timed runs, by name.
        slow: names of contenders that need no untimed run; complete after the warm-up.
        left_out: contenders that failed, and why.
    """

    able: list[Contender]
    batch: int
    same: bool
    times: dict[str, list[float]] = field(default_factory=dict)
    gpu_times: dict[str, list[float]] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)

    def round(self, image: Faces, number: int) -> None:
        """Run every contender once, starting with another one each round; warm-ups are not kept.

        Raises:
            UserError: an engine's faces differ from the reference's.
        """
        faces: dict[str, Faces] = {}
        start = number % len(self.able)
        for one in self.able[start:] + self.able[:start]:
            try:
                self._prepare(one, image)
                started = time.perf_counter()
                given = one.run(image)
                taken = time.perf_counter() - started
                there = [one.gpu_time(image)] if one.gpu_time else []
            except (EngineError, RuntimeError, MemoryError) as error:
                self._leave_out(one, " ".join(str(error).split())[:200] or type(error).__name__)
                continue
            faces[one.name] = given["face"]
            if number < WARM_UPS:
                self.slow |= {one.name} if taken > LONG else set()
            else:
                self.times.setdefault(one.name, []).append(1000 * taken)
                self.gpu_times.setdefault(one.name, []).extend(there)
        if self.same and self.able and self.able[0].name in faces:
            self._compare(faces)

    def _prepare(self, one: Contender, image: Faces) -> None:
        """Bring the processor into the same state before every timed run; see `SETTLE`."""
        if one.device == "cpu":
            time.sleep(SETTLE)
            if one.name not in self.slow:
                one.run(image)
            return
        until = time.perf_counter() + SETTLE
        while time.perf_counter() < until:
            one.run(image)

    def _compare(self, faces: dict[str, Faces]) -> None:
        first = self.able[0].name
        for one in [one for one in self.able if one.name in faces]:
            off = int(np.abs(faces[one.name].astype(int) - faces[first]).max())
            if off > LARGEST_DIFFERENCE[one.precision]:
                why = f"differs from {first} by {off} grey levels on the same input"
                if not one.peer:
                    raise UserError(f"{one.name} {why}")
                self._leave_out(one, why)

    def _leave_out(self, one: Contender, why: str) -> None:
        self.left_out.append(f"{one.name}, batch {self.batch}: {why}")
        self.able = [other for other in self.able if other is not one]
        self.times.pop(one.name, None)


def measure_latency(
    contenders: Sequence[Contender],
    batches: Sequence[int],
    rounds: int,
    seconds: float = 0.0,
    seed: int = 0,
    same: bool = True,
) -> tuple[list[Latency], list[str]]:
    """Time every contender once per round, on new random pictures in every round.

    Interleaving makes a temporary slowdown of the machine affect all contenders alike. The faces of
    each round are compared: a wrong engine is an error, and a wrong peer is left out.

    Args:
        contenders: the first is the reference. A batch size at which it fails is left out.
        batches: batch sizes.
        rounds: maximum number of timed rounds.
        seconds: time per batch size, warm-ups excluded, after which no round begins except for the
            first `FEWEST`; 0 for no limit.
        seed: of the random pictures.
        same: whether all contenders should give the same faces.

    Returns:
        the latencies, and a line for each contender and batch that was left out, with the reason.

    Raises:
        UserError: an engine's faces differ from the reference's by more than its
                precision allows (`LARGEST_DIFFERENCE`).
    """
    rng = np.random.default_rng(seed)
    found: list[Latency] = []
    left_out: list[str] = []
    with Progress(total=len(batches) * (rounds + WARM_UPS), desc="latency", unit="round") as bar:
        for batch in batches:
            able = [one for one in contenders if batch <= (one.max_batch or batch)]
            measured = _Rounds(able, batch, same)
            left_out += [
                f"{one.name}, batch {batch}: its largest batch is {one.max_batch}"
                for one in contenders
                if one not in able
            ]
            began = time.monotonic()
            for number in range(rounds + WARM_UPS):
                if number == WARM_UPS:
                    began = time.monotonic()
                late = bool(seconds) and time.monotonic() - began > seconds
                if contenders[0] not in measured.able or (late and number >= WARM_UPS + FEWEST):
                    bar.update(rounds + WARM_UPS - number)
                    break
                image = rng.integers(0, 256, (batch, LQ_SIZE, LQ_SIZE, 3), dtype=np.uint8)
                measured.round(image, number)
                bar.update()
            left_out += measured.left_out
            base = measured.times.get(contenders[0].name)
            for one in measured.able if base else ():
                taken = measured.times[one.name]
                speed = statistics.ratios(base or [], taken)
                gpu = measured.gpu_times[one.name]
                found.append(Latency(one.name, batch, taken, speed, gpu))
    return found, left_out
