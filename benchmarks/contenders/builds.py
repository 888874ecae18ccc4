"""Engines that a run builds for itself, of the checkpoint that it measures against."""

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
    """Write an engine as `export.onnx` does, but held against PyTorch on fewer faces.

    The run that it is for compares all that it computes anyway.

    Raises:
        GateError: it disagrees with PyTorch.
    """
    model = build(checkpoint.network, signature, choices)
    pictures = synthetic(SEED, SAMPLES).with_extremes()
    known = reference(checkpoint.network, pictures, signature.steps)
    found = check(model, known, signature, choices.precision, choices.tolerance)
    stamp(model, checkpoint, signature, choices, Checked(*found, known), known)
    write(model, path)
    return path


def plain_export(checkpoint: Checkpoint, landmarks: bool, path: Path) -> Path:
    """The network as it is, in fp32: what others' runtimes are measured on."""
    signature = Signature(Io.IMAGE, checkpoint.network.config.steps, landmarks)
    choices = Choices(target=Target.GPU, precision=Precision.FP32)
    return built(checkpoint, signature, choices, path)
