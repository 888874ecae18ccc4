"""Latency of engines beside the PyTorch reference, measured in turns in one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import statistics
from benchmarks.contenders import Contender, Faces, Outputs
from benchmarks.statistics import Interval
from runtime.console import Progress, UserError
from runtime.engine import LQ_SIZE, EngineError

WARM_UPS = 2
FEWEST = 3  # rounds, however long they take
# Idle worker threads of one runtime spin for a while and take the cores from the next: in bare
# turns PyTorch looked half as fast as alone (benchmarks/NOTES.md). So each turn lets them fall
# asleep, and wakes its own by a run that is not timed. What takes longer than LONG does not mind.
SETTLE = 0.05  # seconds
LONG = 1.0  # seconds
# Half precisions and integers are not compared to the grey level; a mistake is off by many.
APART = {"fp32": 1, "fp16": 8, "bf16": 24, "int8": 128}


@dataclass(frozen=True)
class Latency:
    """One contender at one batch size.

    Attributes:
        name: of the contender.
        batch: faces a run.
        milliseconds: of every timed run, in the order of the rounds; on a GPU with the copies.
        device_milliseconds: on a GPU the same runs between two CUDA events; empty elsewhere.
        speed: of each round, how many times as fast as the reference.
    """

    name: str
    batch: int
    milliseconds: list[float]
    device_milliseconds: list[float]
    speed: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def interval(self) -> Interval | None:
        return statistics.interval(self.milliseconds)

    @property
    def faces_a_second(self) -> float:
        return 1000 * self.batch / self.median


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
    round are compared: a contender that is fast and wrong is no contender.

    Args:
        contenders: the first is the reference.
        rounds: how often, at most.
        seconds: for a batch size; when they are used up no further round begins, but for the
            first three. 0 is no limit.
        same: all should give the same faces.

    Returns:
        the latencies, and what was left out and why.

    Raises:
        UserError: a contender's faces differ from the first's by more than its precision explains.
    """
    rng = np.random.default_rng(seed)
    found: list[Latency] = []
    left_out: list[str] = []
    with Progress(total=len(batches) * (rounds + WARM_UPS), desc="latency", unit="round") as bar:
        for batch in batches:
            able = []
            for one in contenders:
                if one.max_batch is not None and batch > one.max_batch:
                    left_out.append(f"{one.name}: takes batches of up to {one.max_batch}")
                else:
                    able.append(one)
            times: dict[str, list[float]] = {one.name: [] for one in able}
            on_device: dict[str, list[float]] = {one.name: [] for one in able}
            slow: set[str] = set()
            began = time.monotonic()
            for turn in range(rounds + WARM_UPS):
                used = time.monotonic() - began
                if seconds and turn >= WARM_UPS + FEWEST and used > seconds:
                    bar.update(rounds + WARM_UPS - turn)
                    break
                if turn == 1 and len(slow) == len(able):
                    bar.update()
                    continue  # one round has warmed up what takes so long
                image = rng.integers(0, 256, (batch, LQ_SIZE, LQ_SIZE, 3), dtype=np.uint8)
                faces: dict[str, Faces] = {}
                for one in list(able):
                    try:
                        if one.name not in slow:
                            time.sleep(SETTLE)
                            one.run(image)
                        given, wall, device = timed(one, image)
                    except (EngineError, RuntimeError, MemoryError) as error:
                        if one is contenders[0]:
                            raise UserError(f"{one.name}, batch {batch}: {_line(error)}") from error
                        left_out.append(f"{one.name}, batch {batch}: {_line(error)}")
                        able.remove(one)
                        del times[one.name], on_device[one.name]
                        continue
                    faces[one.name] = given["face"]
                    slow |= {one.name} if wall > 1000 * LONG else set()
                    if turn >= WARM_UPS:
                        times[one.name].append(wall)
                        on_device[one.name] += [] if device is None else [device]
                if same:
                    compare(faces, able)
                bar.update()
            base = times[contenders[0].name]
            for name, taken in times.items():
                speed = statistics.ratios(base, taken)
                found.append(Latency(name, batch, taken, on_device[name], speed))
    return found, left_out


def timed(one: Contender, image: Faces) -> tuple[Outputs, float, float | None]:
    """Outputs of a run, its milliseconds, and on a GPU those between two CUDA events.

    Runs end when their results are in the computer's memory, so both times hold all of the work;
    that of the events begins when the GPU has nothing else to do.
    """
    if one.device == "cpu":
        started = time.perf_counter()
        given = one.run(image)
        return given, 1000 * (time.perf_counter() - started), None
    import torch

    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(one.device)
    started = time.perf_counter()
    first.record()
    given = one.run(image)
    last.record()
    wall = 1000 * (time.perf_counter() - started)
    torch.cuda.synchronize(one.device)
    return given, wall, first.elapsed_time(last)


def compare(faces: dict[str, Faces], contenders: Sequence[Contender]) -> None:
    """Raise UserError where faces differ from the first's by more than a precision explains."""
    first = next(iter(faces))
    for one in contenders:
        off = int(np.abs(faces[one.name].astype(int) - faces[first]).max())
        if off > APART[one.precision]:
            raise UserError(
                f"{one.name} differs from {first} by {off} grey levels on the same input"
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
