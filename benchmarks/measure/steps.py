"""Quality and latency by number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contenders.builds import built
from benchmarks.contenders.gather import REFERENCE, Contender, engine_contender
from benchmarks.measure.accuracy import Accuracy
from benchmarks.measure.latency import measure_latency
from dic.engine_file import Metadata
from export.choices import Choices, Precision, Target
from export.graph.interface import Io, Signature
from train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Setting:
    """The network unrolled for a number of steps.

    Attributes:
        steps: the number.
        milliseconds: of every timed run of one face.
        psnr: see `Accuracy`, as ssim and nme.
        ssim: against the ground truth.
        nme: None without landmarks.
    """

    steps: int
    milliseconds: list[float]
    psnr: float
    ssim: float
    nme: float | None


def measure_dial(
    checkpoint: Checkpoint,
    metadata: Metadata,
    device: str,
    rows: Sequence[Accuracy],
    rounds: int,
    seconds: float,
) -> list[Setting]:
    """Export the network for each number of steps, and time one face in interleaved rounds.

    Args:
        metadata: an engine's; target, precision and landmarks of the exports are the same.
        device: as for `load_engine`.
        rows: the reference's accuracy after each step (`measure_accuracy`). It stands for the
            engine's: the gate bounds the difference.
        rounds: as for `measure_latency`.
        seconds: as for `measure_latency`.

    Returns:
        one setting per number of steps, in ascending order.

    Raises:
        UserError: an export disagrees with PyTorch.
        EngineError: an export cannot be loaded.
    """
    choices = Choices(Target(metadata.target), Precision(metadata.precision))
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        contenders: list[Contender] = []
        for steps in range(1, checkpoint.network.config.steps + 1):
            signature = Signature(Io.IMAGE, steps, metadata.landmarks > 0)
            path = built(checkpoint, signature, choices, folder / f"{steps}.onnx")
            contenders.append(engine_contender(path, device, opened))
        times, _ = measure_latency(contenders, [1], rounds, seconds, same=False)
    quality = {row.step: row for row in rows if row.name.startswith(REFERENCE)}
    found = []
    for time in times:
        row = quality[int(Path(time.name).stem)]
        found.append(Setting(row.step, time.milliseconds, row.psnr, row.ssim, row.nme))
    return found
