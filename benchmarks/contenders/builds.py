"""Engines that a benchmark run exports from its reference checkpoint."""

from __future__ import annotations

from pathlib import Path

from export.choices import Choices, Precision, Target
from export.exporter import Checked, build, stamp, write
from export.gate.agreement import reference
from export.gate.check import SAMPLES, SEED, check
from export.gate.pictures import synthetic
from export.graph.interface import Io, Signature
from train.checkpoint import Checkpoint


def built(checkpoint: Checkpoint, signature: Signature, choices: Choices, path: Path) -> Path:
    """Export an engine like `export.onnx`, but checked on fewer faces.

    The benchmark compares all of the engine's results with PyTorch anyway.

    Returns:
        `path`.

    Raises:
        GateError: the graph disagrees with PyTorch.
    """
    model = build(checkpoint.network, signature, choices)
    pictures = synthetic(SEED, SAMPLES).with_extremes()
    known = reference(checkpoint.network, pictures, signature.steps)
    checked = Checked(*check(model, known, signature, choices.precision, choices.tolerance), known)
    stamp(model, checkpoint, signature, choices, checked, known)
    write(model, path)
    return path


def plain_export(checkpoint: Checkpoint, landmarks: bool, path: Path) -> Path:
    """Export the network as it is, in fp32, for the peers that run ONNX files.

    Returns:
        `path`.
    """
    signature = Signature(Io.IMAGE, checkpoint.network.config.steps, landmarks)
    choices = Choices(target=Target.GPU, precision=Precision.FP32)
    return built(checkpoint, signature, choices, path)
