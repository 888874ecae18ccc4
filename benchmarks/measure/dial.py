"""Steps as a dial: what each further step gains in quality, and costs in time."""

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
    """The network unrolled for fewer steps, or all.

    Attributes:
        steps: how many.
        milliseconds: of every timed run, of one face.
        psnr: dB after so many steps.
        ssim: likewise.
        nme: likewise; None without landmarks.
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
    """Export the network for each number of steps, and time one face in turns.

    Args:
        metadata: of an engine whose target, precision and landmarks are taken.
        device: as a user names it.
        rows: the reference's accuracy after each step (`measure_accuracy`), which an engine's of a
            lower precision differs from by as little as its export's gate allows.
        rounds: as of `measure_latency`.
        seconds: likewise.

    Raises:
        UserError: an export fails its gate.
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
