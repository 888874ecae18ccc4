"""What the stages of `benchmarks.gpu_check` do in their own processes (`--part NAME …`).

A part prints its result in a line that starts with "answer: ", for the summary.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dic.console import UserError

RUNS = 10_000  # of the endurance stage


def part_machine() -> None:
    """Print the machine's description and the GPU's name."""
    import torch

    from benchmarks.measure import machine as here

    print(json.dumps(asdict(here.machine("benchmarks.gpu_check")), indent=1))
    if not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU; install a build with CUDA and the NVIDIA driver")
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    print(f"answer: {name}, compute capability {capability[0]}.{capability[1]}")


def part_random(path: str) -> None:
    """Write a checkpoint of the full-size network with random weights."""
    import torch

    from train.checkpoint import save_checkpoint
    from train.model.network import DIC, NetworkConfig

    torch.manual_seed(0)
    save_checkpoint(Path(path), DIC(NetworkConfig()), {"recipe": "none: random weights"})


def part_export(checkpoint: str, path: str) -> None:
    """Export a checkpoint to `NAME-PRECISION.onnx`."""
    from benchmarks.contenders.builds import built
    from export.choices import Choices, Precision
    from export.graph.interface import Io, Signature
    from train.checkpoint import load_checkpoint

    found = load_checkpoint(Path(checkpoint))
    trained = "random" not in str(found.provenance.get("recipe"))
    # With random weights heatmaps have no clear peaks, so only faces are compared.
    signature = Signature(Io.IMAGE, found.network.config.steps, trained)
    precision = Precision(Path(path).stem.rpartition("-")[2])
    built(found, signature, Choices(precision=precision), Path(path))


def part_load(path: str) -> None:
    """Load an engine on the GPU; that verifies it."""
    import logging

    from runtime.engines.load import load_engine

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with load_engine(path, "cuda") as engine:
        print(f"answer: {engine.backend} on {engine.device}, agrees with PyTorch")


def part_endure(path: str) -> None:
    """Run batches of changing size from four threads; check the results and the memory.

    Raises:
        UserError: a result differs from the first, a run fails, or memory grows by over 20 MB.
    """
    import numpy as np
    import torch

    from benchmarks.measure.machine import resident
    from runtime.engines.load import load_engine

    def memory() -> tuple[float, float]:
        free, total = torch.cuda.mem_get_info()
        return resident(), (total - free) / 1e6

    with load_engine(path, "cuda") as engine:
        given = engine.inputs[0].name
        batches = [b for b in (1, 2, 8, 32) if b <= (engine.max_batch or b)]
        rng = np.random.default_rng(0)
        images = {b: rng.integers(0, 256, (b, 16, 16, 3), np.uint8) for b in batches}
        wanted = {b: engine.run({given: image})["face"] for b, image in images.items()}
        wrong: list[str] = []

        def work(seed: int, runs: int) -> None:
            order = np.random.default_rng(seed).choice(batches, runs)
            try:
                for n, b in enumerate(order):
                    face = engine.run({given: images[b]})["face"]
                    if n % 50 == 0 and np.abs(face.astype(int) - wanted[b]).max() > 1:
                        wrong.append(f"run {n} of thread {seed}: faces differ from the first run")
            except Exception as error:
                wrong.append(f"thread {seed}: {error}")

        def all_threads(runs: int) -> None:
            threads = [threading.Thread(target=work, args=(n, runs // 4)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        all_threads(RUNS // 10)
        before = memory()
        all_threads(RUNS)
        after = memory()
    grown = [b - a for a, b in zip(before, after, strict=True)]
    growth = f"host {grown[0]:+.1f} MB, GPU {grown[1]:+.1f} MB over {RUNS} runs"
    print(f"answer: {growth}; {wrong or 'all results equal'}")
    if wrong or max(grown) > 20:
        raise UserError(f"{path}: {growth}; {'; '.join(wrong) or 'memory leak'}")


def part_report(path: str) -> None:
    """Write a report; a stage of its own because its libraries may be missing on the machine."""
    from benchmarks.report import results
    from benchmarks.report.pages import write_report

    found = Path(path)
    write_report(results.read(found), None, found.with_suffix(""))


PARTS: dict[str, Callable[..., None]] = {
    "machine": part_machine,
    "random": part_random,
    "export": part_export,
    "load": part_load,
    "endure": part_endure,
    "report": part_report,
}
