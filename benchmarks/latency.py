"""Latency of engines beside the PyTorch reference, measured in turns in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.engine_io import Io, Signature, wrap
from runtime.console import Progress, UserError
from runtime.engine import LQ_SIZE, Engine
from train.network import DIC

REFERENCE = "PyTorch eager"
WARM_UPS = 2
# Idle worker threads of one runtime spin for a while and take the cores from the next: in bare
# turns PyTorch looked half as fast as alone (benchmarks/NOTES.md). So each turn lets them fall
# asleep, and wakes its own by a run that is not timed.
SETTLE = 0.05  # seconds

Faces = NDArray[np.uint8]
Restore = Callable[[Faces], Faces]


@dataclass(frozen=True)
class Latency:
    """One contender at one batch size.

    Attributes:
        name: of the contender.
        batch: faces a run.
        milliseconds: of every timed run.
    """

    name: str
    batch: int
    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))


def measure_latency(
    contenders: dict[str, Restore], batches: Sequence[int], rounds: int, seed: int = 0
) -> list[Latency]:
    """Time every contender once a round, in turns, on fresh random pictures.

    In turns, so that what slows the machine for a while slows all of them. The results of each
    round are compared: a contender that is fast and wrong is no contender.

    Raises:
        UserError: a contender's faces differ from the first's by more than one grey level.
    """
    rng = np.random.default_rng(seed)
    results: list[Latency] = []
    total = len(batches) * (rounds + WARM_UPS)
    with Progress(total=total, desc="latency", unit="round") as bar:
        for batch in batches:
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for turn in range(rounds + WARM_UPS):
                image = rng.integers(0, 256, (batch, LQ_SIZE, LQ_SIZE, 3), dtype=np.uint8)
                faces: dict[str, Faces] = {}
                for name, restore in contenders.items():
                    time.sleep(SETTLE)
                    restore(image)
                    started = time.perf_counter()
                    faces[name] = restore(image)
                    if turn >= WARM_UPS:
                        times[name].append(1000 * (time.perf_counter() - started))
                _compare(faces)
                bar.update()
            results += [Latency(name, batch, tuple(taken)) for name, taken in times.items()]
    return results


def _compare(faces: dict[str, Faces]) -> None:
    first, *others = faces
    for name in others:
        off = int(np.abs(faces[name].astype(int) - faces[first]).max())
        if off > 1:
            raise UserError(f"{name} differs from {first} by {off} grey levels on the same input")


def reference(
    network: DIC, landmarks: bool = True, device: str = "cpu", steps: int | None = None
) -> Callable[[Faces], dict[str, NDArray[Any]]]:
    """The PyTorch network as an engine: pictures in, the same outputs as an `--io image` engine.

    Args:
        steps: how many to take; the network's own number without it.
    """
    signature = Signature(Io.IMAGE, steps or network.config.steps, landmarks)
    module = wrap(network, signature).to(device)

    def run(image: Faces) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            given = module(torch.from_numpy(image).to(device))
        return dict(zip(signature.outputs, (t.cpu().numpy() for t in given), strict=True))

    return run


def as_engine(engine: Engine) -> Callable[[Faces], dict[str, NDArray[Any]]]:
    return lambda image: engine.run({"image": image})
