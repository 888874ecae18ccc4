"""Start-up time, from the start of a process to its first face, and peak memory.

Each contender runs in a process of its own, `python -m benchmarks.measure.footprint engine FILE
DEVICE` or `… pytorch CHECKPOINT DEVICE`. It prints "first" after its first face, and its peak
memory in megabytes after a batch of eight.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import statistics
from dic.console import UserError
from dic.progress import Progress
from dic.sizes import LQ_SIZE

BATCH = 8
FIRST = "first"


@dataclass(frozen=True)
class Footprint:
    """Measurements of a contender's process, one of each kind per start.

    Attributes:
        name: the contender's.
        first_face: seconds from starting `python` to the first face.
        host_megabytes: peak resident memory, up to a batch of eight.
        gpu_megabytes: GPU memory after that batch, CUDA context included; empty on the CPU.
    """

    name: str
    first_face: list[float]
    host_megabytes: list[float]
    gpu_megabytes: list[float]

    @property
    def median(self) -> float:
        """The median of `first_face`, seconds."""
        return statistics.median(self.first_face)


def measure_footprints(sources: dict[str, tuple[str, Path, str]], rounds: int) -> list[Footprint]:
    """Start every contender once per round.

    Args:
        sources: name → ("engine" or "pytorch", its file, its device as for `load_engine`).
        rounds: number of starts.

    Raises:
        UserError: a process fails.
    """
    found = {name: Footprint(name, [], [], []) for name in sources}
    with Progress(total=rounds * len(sources), desc="starts", unit="start") as bar:
        for _ in range(rounds):
            for name, (kind, path, device) in sources.items():
                _start(found[name], [kind, str(path.resolve()), device])
                bar.update()
    return list(found.values())


def _start(into: Footprint, what: Sequence[str]) -> None:
    """Start a process once and append its measurements.

    Args:
        what: kind, file and device.
    """
    command = [sys.executable, "-m", "benchmarks.measure.footprint", *what]
    before = _used_on_gpu(what[-1])
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,  # a pipe could fill up and block the process
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        seconds = time.perf_counter() - began
        peak = process.stdout.readline().strip()
        after = _used_on_gpu(what[-1])
        process.stdin.close()  # the process waits for this before it ends
        if said != FIRST or not peak:
            process.wait()
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            raise UserError(f"{into.name}: did not start: {lines[-1] if lines else 'no message'}")
    into.first_face.append(seconds)
    into.host_megabytes.append(float(peak))
    if before is not None and after is not None:
        into.gpu_megabytes.append((after - before) / 1e6)


def _used_on_gpu(device: str) -> int | None:
    """Bytes of GPU memory in use by all processes; None without a GPU."""
    import torch

    if device in ("cpu", "openvino") or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(None if device == "auto" else device)
    return total - free


def _child(kind: str, path: str, device: str) -> None:
    """The measured process."""
    import numpy as np

    rng = np.random.default_rng()
    if kind == "engine":
        from runtime.engines.load import load_engine

        engine = load_engine(path, device)
        given = engine.inputs[0]
        most = min(BATCH, engine.max_batch or BATCH)

        def restore(batch: int) -> None:
            shape = [batch, *(size or 1 for size in given.shape[1:])]
            pixels = rng.integers(0, 256, shape)
            scaled = pixels if given.dtype == "uint8" else pixels / 255 - 0.5
            engine.run({given.name: scaled.astype(given.dtype)})
    else:
        from benchmarks.contenders.gather import pytorch
        from train.checkpoint import load_checkpoint

        contender = pytorch(load_checkpoint(Path(path)).network, device=device)
        most = BATCH

        def restore(batch: int) -> None:
            contender.run(rng.integers(0, 256, (batch, LQ_SIZE, LQ_SIZE, 3), np.uint8))

    restore(1)
    print(FIRST, flush=True)
    restore(most)
    print(_peak(), flush=True)
    sys.stdin.read()


def _peak() -> float:
    """Peak resident memory of this process, megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kilobytes * 1024 / 1e6)


if __name__ == "__main__":
    _child(*sys.argv[1:])
