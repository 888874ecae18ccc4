"""Engines that a run builds for itself, of the checkpoint that it measures against."""

from __future__ import annotations

from pathlib import Path

from export.engine_io import Io, Signature
from export.faces import synthetic
from export.gate import SAMPLES, SEED, check, reference
from export.limits import Precision
from export.unroll import Choices, Target, build, stamp, write
from train.checkpoint import Checkpoint


def built(checkpoint: Checkpoint, signature: Signature, choices: Choices, path: Path) -> Path:
    """Write an engine as `export.unroll.export` does, but held against PyTorch on fewer faces
    (8 of 64): the run that it is for compares all that it computes anyway.

    Raises:
        GateError: it disagrees with PyTorch.
    """
    model = build(checkpoint.network, signature, choices)
    known = reference(checkpoint.network, synthetic(SEED, SAMPLES), signature.steps)
    agreement = check(model, known, signature, choices.precision, choices.tolerance)
    stamp(model, checkpoint, signature, choices, agreement, known, SAMPLES)
    write(model, path)
    return path


def plain_export(checkpoint: Checkpoint, landmarks: bool, path: Path) -> Path:
    """The network as it is, in fp32: what others' runtimes are measured on."""
    signature = Signature(Io.IMAGE, checkpoint.network.config.steps, landmarks)
    choices = Choices(target=Target.GPU, precision=Precision.FP32)
    return built(checkpoint, signature, choices, path)
