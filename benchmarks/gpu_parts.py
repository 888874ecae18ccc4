"""What the stages of `benchmarks.gpu_check` do in their own processes (`--part NAME …`).

A part prints its result in a line that starts with "answer: ", for the summary.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dic.console import UserError

RUNS = 10_000  # of the endurance stage
PHOTO = (1080, 1920)  # height and width of the photographs
PHOTOS = 20  # timed, of each kind
SIDES = (16, 24, 33, 48, 64, 130)  # of their faces, in pixels


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


def part_photographs(path: str) -> None:
    """Restore photographs in GPU memory and in host memory by one engine; compare and time them.

    Raises:
        UserError: they are not processed in GPU memory, or differ by more than 2 levels.
    """
    import cv2
    import numpy as np

    from runtime.engines.load import load_engine
    from runtime.faces.crop import Crop
    from runtime.faces.frames import HostFrame
    from runtime.faces.options import Interpolation
    from runtime.faces.restore import Restorer
    from runtime.pictures.picture import LOSSY, Picture

    noise = np.random.default_rng(0).integers(0, 256, (*PHOTO, 3), np.uint8)
    pixels = cv2.GaussianBlur(noise, (0, 0), 5)
    kinds = (pixels, pixels[:, :, :1].copy(), pixels.astype(np.uint16) * 257)
    # They overlap, reach over the edge, and every second one is turned.
    crops = [Crop(n * s - 8, s - 9, s, angle=n % 2 * 25.0) for n, s in enumerate(SIDES)]
    worst, taken = 0, {"GPU": 0.0, "host": 0.0}
    with load_engine(path, "cuda") as engine, Restorer(engine) as restorer:

        def on_gpu(photo: Picture) -> Picture:
            done = restorer.restore_photo(photo, crops, max_face=max(SIDES), enlarge=2)
            if isinstance(done.faces[0].pixels, np.ndarray):
                raise UserError(f"{path}: not processed in GPU memory; see the log (make kernels)")
            return done.picture

        def in_host(photo: Picture) -> Picture:
            frame = HostFrame(photo, restorer.face_size)
            faces = restorer.restore_framed(frame, crops, exact=True)
            return frame.blended(faces, 2, Interpolation.CUBIC)

        for kind in kinds:
            photo = Picture(kind, quantisation=LOSSY)
            one, other = on_gpu(photo).pixels.astype(int), in_host(photo).pixels
            worst = max(worst, -(-int(np.abs(one - other).max()) * 255 // photo.peak))
            for name, work in (("GPU", on_gpu), ("host", in_host)):
                began = time.perf_counter()
                for _ in range(PHOTOS):
                    work(photo)
                taken[name] += 1e3 * (time.perf_counter() - began) / (PHOTOS * len(kinds))
    times = ", ".join(f"{ms:.1f} ms in {name} memory" for name, ms in taken.items())
    what = f"{PHOTO[1]}×{PHOTO[0]} enlarged 2×, {len(SIDES)} faces"
    print(f"answer: photographs differ by up to {worst} levels; {what}: {times}")
    if worst > 2:
        raise UserError(f"{path}: photographs in GPU and host memory differ by {worst} levels")


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
    "photographs": part_photographs,
    "report": part_report,
}
