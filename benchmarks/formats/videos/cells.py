"""The matrix of video files: containers, codecs, times, rotations, colours and streams.

Each video is encoded by the FFmpeg program from samples that are computed, restored by the command,
and its result is judged by what the program shows of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.formats.cell import Cell, Result
from benchmarks.formats.videos import cases, edits, streams
from benchmarks.formats.videos.clips import make
from benchmarks.formats.videos.judge import judged, restored
from export.exporter import export
from export.graph.interface import Io, Signature
from train.checkpoint import load_checkpoint, save_checkpoint
from train.model.network import DIC, NetworkConfig

# Faces are restored by an untrained network: what is judged is around them.
TINY = NetworkConfig(
    channels=4, groups=2, projection=2, fusion_blocks=1, hourglass_channels=8, hourglass_depth=2,
    steps=2,
)  # fmt: skip


def named() -> Iterator[cases.Named]:
    """All videos of the matrix."""
    parts = (cases.containers, cases.times, cases.trimmed, cases.turns, cases.colours)
    for part in (*parts, streams.streams):
        yield from part()


def tiny_engine(folder: Path) -> Path:
    """An engine of an untrained network, which takes milliseconds a face."""
    torch.manual_seed(0)
    checkpoint, engine = folder / "tiny.pth", folder / "tiny.onnx"
    save_checkpoint(checkpoint, DIC(TINY), {"recipe": "matrix"})
    export(load_checkpoint(checkpoint), Signature(Io.IMAGE, TINY.steps, True), engine)
    return engine


def cells(
    chosen: Sequence[cases.Named] | None = None, engine: Path | None = None
) -> Iterator[Cell]:
    """Every video file of the matrix, made, restored and judged.

    Args:
        chosen: instead of all.
        engine: to restore with; None makes one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edits.write_inputs(folder)
        engine = engine or tiny_engine(folder)
        for axes, clip in named() if chosen is None else chosen:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                here = Path(place)
                source = here / f"in.{clip.container}"
                target = here / "out" / f"out.{clip.target or clip.container}"
                target.parent.mkdir()
                try:
                    make(clip, source, folder)
                    result, detail = judged(clip, source, target, restored(source, target, engine))
                except RuntimeError as error:  # of the program; whatever it cannot read is wrong
                    result, detail = Result.WRONG, str(error).splitlines()[-1]
            yield Cell(axes, result, detail)
