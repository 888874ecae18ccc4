"""Latency of engines beside the PyTorch reference, measured in turns in one run."""

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
FEWEST = 3  # rounds, however long they take
# Idle worker threads of one runtime spin for a while and take the cores from the next: in bare
# turns PyTorch looked half as fast as alone (benchmarks/NOTES.md). So each turn on a CPU lets them
# fall asleep, and wakes its own by a run that is not timed; what takes longer than LONG wakes them
# itself. A GPU's clocks fall while it idles: there, untimed runs fill as long a time instead.
SETTLE = 0.05  # seconds
LONG = 1.0  # seconds
# Half precisions and integers are not compared to the grey level; a mistake is off by many.
APART = {"fp32": 1, "fp16": 8, "bf16": 24, "int8": 128, "unknown": 128}


@dataclass(frozen=True)
class Latency:
    """One contender at one batch size.

    Attributes:
        name: of the contender.
        batch: faces a run.
        milliseconds: of every timed run, in the order of the rounds, from pictures in the
            computer's memory to faces there.
        speed: of each round, how many times as fast as the reference.
        gpu_milliseconds: on a GPU, of as many runs from pictures there to results there, between
            two CUDA events; empty elsewhere.
    """

    name: str
    batch: int
    milliseconds: list[float]
    speed: list[float]
    gpu_milliseconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def interval(self) -> Interval | None:
        return statistics.interval(self.milliseconds)

    @property
    def faces_a_second(self) -> float:
        return 1000 * self.batch / self.median


@dataclass
class _Turns:
    """The contenders at one batch size, while they are measured."""

    able: list[Contender]
    batch: int
    same: bool
    times: dict[str, list[float]] = field(default_factory=dict)
    gpu_times: dict[str, list[float]] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)  # once all of them have warmed up
    left_out: list[str] = field(default_factory=list)

    def round(self, image: Faces, number: int) -> None:
        """Everybody once, each round another first; kept once they have warmed up.

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
                there = between_events(one, image)
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
            if off > APART[one.precision]:
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
    """Time every contender once a round, in turns, on fresh random pictures.

    In turns, so that what slows the machine for a while slows all of them. The results of each
    round are compared: an engine that is fast and wrong is none, and a peer is left out.

    Args:
        contenders: the first is the reference. Where it fails, a batch size is left out.
        rounds: how often, at most.
        seconds: for a batch size, warm-ups not counted; when they are used up no further round
            begins, but for the first three. 0 is no limit.
        same: all should give the same faces.

    Returns:
        the latencies, and what was left out and why.

    Raises:
        UserError: an engine's faces differ from the first's by more than its precision explains.
    """
    rng = np.random.default_rng(seed)
    found: list[Latency] = []
    left_out: list[str] = []
    with Progress(total=len(batches) * (rounds + WARM_UPS), desc="latency", unit="round") as bar:
        for batch in batches:
            able = [one for one in contenders if batch <= (one.max_batch or batch)]
            turns = _Turns(able, batch, same)
            left_out += [
                f"{one.name}, batch {batch}: takes {one.max_batch} at most"
                for one in contenders
                if one not in able
            ]
            began = time.monotonic()
            for number in range(rounds + WARM_UPS):
                if number == WARM_UPS:
                    began = time.monotonic()
                late = bool(seconds) and time.monotonic() - began > seconds
                if contenders[0] not in turns.able or (late and number >= WARM_UPS + FEWEST):
                    bar.update(rounds + WARM_UPS - number)
                    break
                image = rng.integers(0, 256, (batch, LQ_SIZE, LQ_SIZE, 3), dtype=np.uint8)
                turns.round(image, number)
                bar.update()
            left_out += turns.left_out
            base = turns.times.get(contenders[0].name)
            for one in turns.able if base else ():
                taken = turns.times[one.name]
                speed = statistics.ratios(base or [], taken)
                gpu = turns.gpu_times[one.name]
                found.append(Latency(one.name, batch, taken, speed, gpu))
    return found, left_out


def between_events(one: Contender, image: Faces) -> list[float]:
    """Milliseconds of a run on a GPU that copies nothing to it or from it; none on a CPU.

    PyTorch queues its work on the current stream, where the events are. Engines have streams of
    their own and return when those have finished: the second event then follows at once.
    """
    if one.run_there is None:
        return []
    import torch

    with torch.cuda.device(one.device):
        given = torch.from_numpy(image).to(one.device)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        one.run_there(given)
        last.record()
        last.synchronize()
        return [float(first.elapsed_time(last))]
