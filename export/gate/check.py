"""The gate's check of a graph: every block, then the whole graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import torch

from export.choices import Precision
from export.gate.agreement import (
    LAST_HEATMAP,
    LAST_SR,
    Agreement,
    Reference,
    compare,
    output_errors,
    run,
)
from export.gate.blocks import GateError, check_blocks, check_outputs
from export.gate.emulate import emulated, is_low
from export.gate.limits import LIMITS, Limits, drift_limits
from export.gate.run import Outputs
from export.graph.interface import Io, Signature
from train.model.network import Steps

SEED = 2020  # of the synthetic faces
# Number of synthetic faces (benchmarks/NOTES.md). In float32 the comparison of blocks on a single
# picture decides; the limits of lower precisions are on means, which need more faces.
FACES = {Precision.FP32: 2, Precision.FP16: 16, Precision.BF16: 16, Precision.INT8: 16}
DEVICE_FACTOR = 10  # rounded pictures may differ this many times as much on another device
SAMPLES = 4  # faces embedded in an engine at most, besides the pictures that are not faces


def check(
    model: onnx.ModelProto,
    known: Reference,
    signature: Signature,
    precision: Precision,
    tolerance: float = 1.0,
    embedded: Reference | None = None,
) -> tuple[Agreement, Limits]:
    """Compare an ONNX model, run by ONNX Runtime on the CPU, with PyTorch.

    Half precisions are emulated (`export.gate.emulate`).

    Args:
        known: PyTorch's results; the blocks are compared on its first picture.
        tolerance: factor on all limits.
        embedded: the samples to store in the engine; None for the first of `known`.

    Returns:
        the measured differences, and the limits by which the runtime verifies the engine.

    Raises:
        GateError: a limit is exceeded, or an output has another shape; names the first block or
            output that is wrong.
    """
    runnable = emulated(model) if is_low(model) else model
    try:
        check_blocks(
            runnable, known.network, known.pictures.image[:1], signature, precision, tolerance
        )
        given = run(runnable, known.pictures, signature)
        _check_rounding(given, signature, tolerance)
        agreement = compare(given, known, precision)
        limits = LIMITS[precision]
        if precision is Precision.FP32:
            first = (output_errors(n, v[:1], known.only(0)) for n, v in given.items())
            limits = drift_limits(max(max(errors) for errors in first))
        excess = agreement.excess(limits.times(tolerance))
        if not excess:  # the runtime compares the samples alone, so they must pass alone
            if embedded is None:
                kept = known.pictures.kept(SAMPLES)
                outputs = {name: value[kept] for name, value in given.items()}
                embedded = known.first(SAMPLES)
            else:
                outputs = run(runnable, embedded.pictures, signature)
            excess = compare(outputs, embedded, precision).excess(limits.times(tolerance))
        if excess:
            raise GateError(f"every block agrees, but not the whole graph: {excess}")
    except GateError as error:
        raise GateError(
            f"the exported graph differs from PyTorch: {error}; nothing was written "
            "(--tolerance N allows N times as much)"
        ) from error
    if precision is Precision.FP32:
        # The runtime can compare only rounded pictures. If a network's output is far outside the
        # range of grey levels, rounding errors may turn a pixel from black to white.
        limits = replace(limits, error=max(limits.error, DEVICE_FACTOR * agreement.levels / 255))
    return agreement, limits.times(tolerance)


def _check_rounding(given: Outputs, signature: Signature, tolerance: float) -> None:
    """Check that faces and landmarks follow from the last blocks' results, on every picture.

    Raises:
        GateError: an output does not.
    """
    if signature.io is not Io.IMAGE:
        return  # the outputs are the last blocks' results themselves
    sr = torch.from_numpy(given[LAST_SR]).double()
    maps = torch.from_numpy(given.get(LAST_HEATMAP, np.zeros((len(sr), 1, 1, 1)))).double()
    check_outputs(signature.outputs, given, Steps([sr], [maps]), tolerance)
